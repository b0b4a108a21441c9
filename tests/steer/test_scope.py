"""The largest aligned block inside a run, against trying every length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer.scope import block_length


def tried(key: int, low: int, high: int, bits: int) -> int:
    """The first length whose block lies inside [low, high]."""
    for length in range(bits + 1):
        first = key >> (bits - length) << (bits - length)
        if low <= first and first | (1 << (bits - length)) - 1 <= high:
            return length
    raise AssertionError("the key is outside")


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_every_run_of_a_small_space(bits: int) -> None:
    space = range(1 << bits)
    for low in space:
        for high in space[low:]:
            for key in space[low : high + 1]:
                assert block_length(key, low, high, bits) == tried(key, low, high, bits)


@given(st.sampled_from([24, 64, 128]), st.data())
def test_any_run_of_a_large_space(bits: int, data: st.DataObject) -> None:
    top = (1 << bits) - 1
    low = data.draw(st.just(0) | st.integers(0, top))
    high = data.draw(st.just(top) | st.integers(low, top) | st.integers(low, min(low + 300, top)))
    key = data.draw(st.sampled_from([low, high]) | st.integers(low, high))
    assert block_length(key, low, high, bits) == tried(key, low, high, bits)


@pytest.mark.parametrize(("key", "low", "high", "length"), [
    (0x0A0004, 0x0A0000, 0x0A0005, 23),  # 10.0.4.0 in 10.0.0.0 - 10.0.5.255
    (0x0A0000, 0x0A0000, 0x0A0005, 22),
    (0x0A0005, 0x0A0005, 0x0A0005, 24),
    (0, 0, 0xFFFFFF, 0),
    (0xFFFFFF, 0x800000, 0xFFFFFF, 1),
])
def test_blocks_in_addresses(key: int, low: int, high: int, length: int) -> None:
    assert block_length(key, low, high, 24) == length
