"""Cells: medians join, outliers do not, shifts are followed, one reporter of three may lie, what is old fades."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.rtt import rows
from dnsd.rtt.cells import GONE, HALF_LIFE_S, Cells, agreed, blocks_of, columns_of, key_of
from dnsd.rtt.lookup import Lookup
from dnsd.rtt.table import BLOCKS_MOST
from tests.rtt.measuring import entry, feed


def estimate(cells: Cells, now_s: int, number: int = 0) -> float:
    return float(cells.estimate(np.array([number]), now_s).tenths[0]) / 10


@given(st.lists(st.lists(st.integers(0, 300), max_size=40), max_size=20))
def test_keys_keep_their_numbers(batches: list[list[int]]) -> None:
    lookup, known = Lookup(), dict[int, int]()
    for batch in batches:
        for key, number in zip(batch, lookup.add(np.array(batch, np.uint64)).tolist(), strict=True):
            assert known.setdefault(key, number) == number
    assert sorted(known.values()) == list(range(len(lookup)))
    everything = np.arange(302, dtype=np.uint64)
    assert lookup.find(everything).tolist() == [known.get(key, -1) for key in range(302)]
    assert lookup.keys.tolist() == sorted(known, key=known.__getitem__)


def test_many_keys() -> None:
    keys = np.random.default_rng(1).integers(0, 1 << 57, 200_000).astype(np.uint64)
    lookup = Lookup()
    for part in np.split(keys, 10):
        lookup.add(part)
    np.testing.assert_array_equal(lookup.keys[lookup.find(keys)], keys)


@given(st.integers(0, (1 << 24) - 1) | st.integers(0, (1 << 48) - 1).map(lambda n: n | 1 << 62), st.integers(0, 254))
def test_a_key_is_block_and_column(block: int, column: int) -> None:
    key = key_of(np.array([block], np.uint64), np.array([column]))
    assert (blocks_of(key).tolist(), columns_of(key).tolist()) == ([block], [column])


@pytest.mark.parametrize(("values", "weights", "value", "off"), [
    ([10, 20, 90], [1, 1, 1], 20, 10), ([90, 10, 20], [1, 9, 1], 20, 10), ([10, 90, 0], [1, 1, 0], 50, 40),
    ([10, 0, 0], [1, 0, 0], 10, 0), ([10, 90, 7], [3, 1, 0], 30, 40), ([5, 6, 7], [0, 0, 0], 0, 0)])
def test_what_reporters_agree_on(values: list[float], weights: list[float], value: float, off: float) -> None:
    found = agreed(np.array([values], float), np.array([weights], float))
    assert [part[0] for part in found] == [value, off]


def test_two_that_fade_apart_do_not_make_it_jump() -> None:
    cells = Cells()
    feed(cells, 0, [(1, 0, 20.0)], reporter="one", count=3)
    feed(cells, 1, [(1, 0, 30.0)], reporter="other", count=3)
    said = [estimate(cells, now_s) for now_s in range(1, 20_000, 500)]
    assert max(said) - min(said) < 0.1


def test_medians_join_by_weight() -> None:
    cells = Cells()
    feed(cells, 0, [(1, 0, 20.0)], count=10)
    feed(cells, 5, [(1, 0, 24.0)], count=10)
    assert estimate(cells, 5) == 22.0
    feed(cells, 10, [(1, 0, 22.0)], count=1000)
    assert estimate(cells, 10) == 22.0


def test_an_outlier_does_not_join_but_the_third_on_one_side_is_followed() -> None:
    cells = Cells()
    for at in range(10):
        feed(cells, at, [(1, 0, 20.0)])
    feed(cells, 10, [(1, 0, 90.0)])
    assert estimate(cells, 10) == 20.0
    feed(cells, 11, [(1, 0, 20.0)])  # the row is broken
    feed(cells, 12, [(1, 0, 90.0)])
    feed(cells, 13, [(1, 0, 2.0)])  # and the other side is another row
    feed(cells, 14, [(1, 0, 90.0)])
    assert estimate(cells, 14) == 20.0
    feed(cells, 15, [(1, 0, 90.0)])
    feed(cells, 16, [(1, 0, 93.0)])
    assert estimate(cells, 16) == 91.0  # the middle of the three


def test_a_wide_spread_takes_more_in() -> None:
    cells = Cells()
    rng = np.random.default_rng(3)
    for at in range(200):
        feed(cells, at, [(1, 0, 50 + rng.normal(0, 12))], spread=0)
    assert abs(estimate(cells, 200) - 50) < 12
    assert 60 < int(cells["spread"][0, 0]) < 300  # near one sigma, in tenths


def test_of_three_reporters_one_may_lie() -> None:
    cells = Cells()
    for at, (who, ms) in enumerate([("good", 20.0), ("bad", 3.0), ("fair", 21.0)] * 5):
        feed(cells, at, [(1, 0, ms)], reporter=who, count=9)
    assert estimate(cells, 20) == 20.0
    found = cells.estimate(np.array([0]), 20)
    assert (found.reporters.tolist(), found.error[0] < 2) == ([3], True)


def test_two_that_contradict_each_other_are_unsure() -> None:
    cells = Cells()
    feed(cells, 0, [(1, 0, 20.0)], reporter="one", count=9)
    feed(cells, 0, [(1, 0, 100.0)], reporter="other", count=9)
    found = cells.estimate(np.array([0]), 0)
    assert (found.tenths[0], found.error[0] >= 40) == (600, True)


def test_who_is_not_trusted_has_no_say_and_loses_its_place() -> None:
    cells = Cells()
    for who in "abc":
        feed(cells, 0, [(1, 0, 20.0)], reporter=who)
    feed(cells, 1, [(1, 0, 90.0)], reporter="d")  # the three that are there are all of weight
    assert (cells.crowded, estimate(cells, 1)) == (1, 20.0)
    cells.trusted[:] = [True, False, False, False, True]
    assert estimate(cells, 1) == 0.0
    feed(cells, 2, [(1, 0, 90.0)], reporter="d")
    assert estimate(cells, 2) == 90.0


def test_samples_fade() -> None:
    cells = Cells()
    feed(cells, 0, [(1, 0, 20.0)], count=8)
    found = cells.estimate(np.array([0]), int(HALF_LIFE_S))
    assert found.samples[0] == pytest.approx(4.0)
    assert cells.forget(int(3 * HALF_LIFE_S)).tolist() == []
    gone_s = int(HALF_LIFE_S * np.log2(8 / GONE)) + 60
    assert estimate(cells, gone_s) == 0.0
    assert cells.forget(gone_s).tolist() == [1]
    assert len(cells) == 0


def test_the_blocks_seen_longest_ago_go_first() -> None:
    cells = Cells(blocks_most=100)
    for block in range(200):
        feed(cells, block, [(block, 0, 20.0), (block, 1, 30.0)])
    gone = cells.forget(200)
    assert gone.tolist() == list(range(110))  # what is too many, and a twentieth more
    assert (len(cells), cells.evicted) == (180, 110)
    feed(cells, 201, [(5, 0, 20.0)])
    assert blocks_of(cells.keys).tolist()[-1] == 5


def test_one_reporter_opens_no_more_than_half_of_all_cells() -> None:
    cells = Cells(cells_most=100)
    for at in range(4):
        feed(cells, at, [(block, 0, 20.0) for block in range(40 * at, 40 * at + 40)], reporter="greedy")
    assert len(cells) <= 90
    feed(cells, 9, [(1000, 0, 20.0)], reporter="other")
    assert len(cells) == 81
    assert cells.crowded == 80


def test_a_site_that_is_gone_takes_its_cells_along() -> None:
    cells = Cells()
    feed(cells, 0, [(1, 0, 20.0), (1, 1, 30.0), (2, 1, 40.0)])
    assert cells.drop_site("s1").tolist() == [1, 2]
    assert (len(cells), cells.sites, cells.drop_site("none").tolist()) == (1, ["s0", None, "s2", "s3"], [])
    cells.resting.clear()  # nothing of it is kept any more
    feed(cells, 1, [(2, 0, 70.0)], sites=("new",))
    assert cells.sites == ["s0", "new", "s2", "s3"]
    assert estimate(cells, 1, 1) == 70.0


def test_an_entry_from_the_future_is_of_now() -> None:
    cells = Cells()
    cells.fold(entry(10_000, [(1, 0, 20.0)]), 5)
    assert int(cells["at"][0, 0]) == 5


words = st.tuples(st.integers(0, 30), st.integers(0, 3), st.floats(0.1, 5000), st.sampled_from("abcd"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(words, min_size=1, max_size=30), min_size=1, max_size=6))
def test_rows_say_what_cells_held(batches: list[list[tuple[int, int, float, str]]]) -> None:
    cells, now_s = Cells(), 10**6
    for number, batch in enumerate(batches):
        for block, site, ms, who in batch:
            cells.fold(entry(now_s + number, [(block, site, ms)], reporter=who), now_s + number)
    packed = rows.pack(cells, np.unique(blocks_of(cells.keys)))
    again = Cells()
    assert rows.unpack(again, packed, rows.names_from(rows.names_of(cells, now_s + 10)))[0] == 0
    assert len(again) == len(cells)
    here, there = np.arange(len(cells)), again.lookup.find(cells.keys)
    one, other = cells.estimate(here, now_s + 10), again.estimate(there, now_s + 10)
    np.testing.assert_allclose(one.tenths, other.tenths, rtol=0.01, atol=1)
    np.testing.assert_allclose(one.samples, other.samples, rtol=0.02, atol=0.05)
    assert rows.pack(again, np.unique(blocks_of(again.keys)))[0][0] == packed[0][0]


def test_damaged_rows_are_left_out_and_counted() -> None:
    cells = Cells()
    feed(cells, 0, [(1, 0, 20.0), (2, 1, 30.0), (3, 0, 30.0)])
    good = rows.pack(cells, np.array([1, 2, 3], np.uint64))
    names = rows.names_from(rows.names_of(cells, 0))
    bad = [(good[0][0], good[0][1][:-1]), (b"short", good[1][1]), (good[2][0], b"\xff" + good[2][1][1:]), (good[1])]
    again = Cells()
    assert rows.unpack(again, bad, names)[0] == 3
    assert blocks_of(again.keys).tolist() == [2]
    assert rows.pack(again, np.array([9], np.uint64)) == [((9).to_bytes(8, "big"), b"")]
    for octets in (b"", b"[]", b'{"sites":[1],"reporters":[""],"distrusted":[],"now_s":0}'):
        with pytest.raises(ValueError, match=r"names|JSON|Expecting"):
            rows.names_from(octets)


def test_the_bound_on_blocks_is_the_tables() -> None:
    assert Cells().blocks_most == BLOCKS_MOST
