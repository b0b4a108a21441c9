"""Values to good and bad by a virtual clock: bounds, how long, and what is usual."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer.rule import FROZEN_MS, LEARNS_MS, Bound, Series, breached, seen, unknown

NOW = 1_700_000_000_000
STEP = 5000
GAP = 3 * STEP


class Feed:
    """Values each five seconds."""

    def __init__(self, bound: Bound) -> None:
        self.bound, self.series, self.now_ms = bound, Series(), NOW

    def say(self, *values: float, step_ms: int = STEP) -> list[bool]:
        found = []
        for value in values:
            self.series = seen(self.series, value, self.now_ms, self.bound, gap_ms=GAP)
            found.append(self.series.bad)
            self.now_ms += step_ms
        return found


@pytest.mark.parametrize(("bound", "good", "bad"), [
    (Bound(above=10), 10, 10.1), (Bound(below=10), 10, 9.9), (Bound(above=0), -5, 5), (Bound(below=-1), 0, -2)])
def test_bounds_hold_after_fifteen_seconds_and_end_so(bound: Bound, good: float, bad: float) -> None:
    feed = Feed(bound)
    assert feed.say(good, good, bad, bad, bad, bad, bad) == [False] * 5 + [True, True]
    assert feed.say(good, good, good, good) == [True, True, True, False]
    assert feed.series.back_ms == feed.now_ms - STEP
    assert not any(feed.say(*[bad, bad, bad, good] * 10))  # never fifteen seconds in a row
    assert feed.say(bad, bad, bad, bad)[-1] is True
    assert all(feed.say(*[good, good, good, bad] * 10))
    assert feed.series.back_ms == 0


def test_at_once() -> None:
    feed = Feed(Bound(above=1, for_ms=0))
    assert feed.say(2, 0, 2) == [True, False, True]


def test_values_far_apart_are_no_row() -> None:
    feed = Feed(Bound(above=1))
    assert feed.say(2, 2, 2) == [False] * 3
    feed.now_ms += GAP
    assert feed.say(2, 2, 2, 2) == [False, False, False, True]
    forgotten = unknown(feed.series)
    assert (forgotten.bad, forgotten.baseline) == (False, feed.series.baseline)


@pytest.mark.parametrize("seed", range(20))
def test_thirty_percent_below_what_is_usual(seed: int) -> None:
    """Noise of a tenth never is; 35 % less is after 15 s, exactly; a spike upwards does not matter."""
    chance = random.Random(seed)
    feed = Feed(Bound(percent=30))
    noisy = [1000 * chance.uniform(0.9, 1.1) for _ in range(200)]
    noisy[50] = 3000
    assert not any(feed.say(*noisy))
    assert abs(feed.series.baseline - 1000) < 60
    before = feed.series.baseline
    assert feed.say(*[600 * chance.uniform(0.95, 1.05) for _ in range(4)]) == [False, False, False, True]
    assert all(feed.say(*[600.0] * 300))
    assert feed.series.baseline == before  # 25 minutes later it is still held against it
    assert feed.say(*[1000.0] * 4) == [True, True, True, False]


def test_it_learns_first() -> None:
    feed = Feed(Bound(percent=30, for_ms=0))
    assert not any(feed.say(*[1000.0, 10.0] * 6))  # a minute
    assert feed.now_ms - NOW == LEARNS_MS


def test_what_lasts_an_hour_is_usual_in_the_end() -> None:
    feed = Feed(Bound(percent=30))
    feed.say(*[1000.0] * 200)
    assert all(feed.say(*[500.0] * (FROZEN_MS // STEP))[4:])
    assert not all(feed.say(*[500.0] * 200))
    assert not feed.series.bad
    assert feed.series.baseline < 720


def test_a_slow_decline_is_no_fall() -> None:
    feed = Feed(Bound(percent=30))
    assert not any(feed.say(*[1000 * 0.999**number for number in range(2000)]))


def test_a_clock_that_is_set_back() -> None:
    feed = Feed(Bound(above=1))
    feed.say(2, 2, 2, 2)
    feed.say(0, 0, 0, 0)
    feed.now_ms -= 3_600_000
    assert feed.say(0, 2, 2) == [False] * 3
    assert NOW - 3_600_000 < feed.series.back_ms <= feed.now_ms
    assert feed.say(2, 2) == [False, True]
    assert feed.series.first_ms < feed.now_ms


@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.integers(-10_000, 100_000)), max_size=50),
       st.sampled_from([Bound(above=1), Bound(below=1), Bound(percent=30), Bound(percent=99, for_ms=0)]))
def test_bad_only_after_bad_values_in_a_row(values: list[tuple[float, int]], bound: Bound) -> None:
    series, now = Series(), NOW
    for value, gap in values:
        now += gap
        before, breach = series, breached(series, value, now, bound)
        series = seen(series, value, now, bound, gap_ms=GAP)
        if series.bad and not before.bad:
            assert breach
            assert not bound.for_ms or before.turning_ms
        assert min(0.0, *(one for one, _ in values)) <= series.baseline <= max(0.0, *(one for one, _ in values))
