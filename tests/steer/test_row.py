"""Levels of milliseconds."""

from __future__ import annotations

import pytest

from dnsd.steer.row import LEVEL_MS, ROW_UNKNOWN, level_of


@pytest.mark.parametrize("ms", [0, 0.5, 1.999, 2, 3, 4, 29.9, 30, 59.99, 60, 61, 249.9, 250, 100_000,
                                *(bound + step for bound in LEVEL_MS[1:] for step in (-0.001, 0, 0.001))])
def test_level_is_the_greatest_bound_not_above(ms: float) -> None:
    assert level_of(ms) == max(i for i, bound in enumerate(LEVEL_MS) if bound <= ms)


def test_levels_rise_from_zero_and_fit_a_record() -> None:
    assert list(LEVEL_MS) == sorted(set(LEVEL_MS))
    assert LEVEL_MS[0] == 0
    assert len(LEVEL_MS) <= 32
    assert ROW_UNKNOWN == 0
