"""The circuit breaker by a virtual clock: when it opens, when it never does, how it comes back, whom it believes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.steer.breaker import (
    CALM_MS,
    HALF_OPEN_MS,
    HALF_OPEN_SHARE,
    OPEN_MS,
    WINDOW_S,
    Breaker,
    Mode,
    Window,
    added,
    open_ms,
    share,
    step_at,
    turned,
)

START = 1_700_000_000_000
CLOSED, OPEN, HALF = Mode
RAMP_MS = 10_000


class Feed:
    """A breaker that is fed second by second: `results(second, number)` says whether one outcome failed."""

    def __init__(self, start_ms: int = START) -> None:
        self.now_ms = self.start_ms = start_ms
        self.windows: dict[str, Window] = {}
        self.breaker = Breaker()
        self.opened_ms: list[int] = []

    def say(self, ok: int, failed: int, who: str = "a") -> None:
        self.windows[who] = added(self.windows.get(who, ()), ok, failed, self.now_ms)
        self.turn()

    def turn(self) -> Mode:
        before, self.breaker = self.breaker.mode, turned(self.breaker, self.windows, self.now_ms)
        if self.breaker.mode is OPEN and before is not OPEN:
            self.opened_ms.append(self.now_ms - self.start_ms)
        return self.breaker.mode

    def wait(self, ms: int) -> Mode:
        self.now_ms += ms
        return self.turn()

    def run(self, seconds: int, rate: int, fails: Callable[[int], bool], who: str = "a", stop: bool = True) -> None:
        """`rate` outcomes a second, in up to five reports; `fails` is given the number of each outcome."""
        ticks = min(rate, 5)
        for tick in range(seconds * ticks):
            bad = sum(map(fails, range(tick * rate // ticks, (tick + 1) * rate // ticks)))
            self.say(rate // ticks - bad, bad, who)
            if stop and self.opened_ms:
                return
            self.wait(1000 // ticks)


def rotating(percent: int, shift: int) -> Callable[[int], bool]:
    """Of each 100 outcomes `percent` fail, evenly, and the place moves by `shift` with each hundred."""
    return lambda number: (number % 100 + number // 100 * shift) * 37 % 100 < percent


@pytest.mark.parametrize("shift", [0, 1, 13, 50])
@pytest.mark.parametrize(("percent", "opens"), [(14, False), (15, False), (16, True), (20, True), (40, True)])
def test_constant_shares(percent: int, opens: bool, shift: int) -> None:
    feed = Feed()
    feed.run(150, 100, rotating(percent, shift))
    assert [round(ms / 1000) for ms in feed.opened_ms] == ([60] if opens else [])
    if opens:
        assert 59_000 <= feed.opened_ms[0] <= 61_000
        assert feed.breaker.percent == percent


@pytest.mark.parametrize("seed", range(20))
def test_a_share_of_15_percent_in_any_pattern_never_opens(seed: int) -> None:
    """Nine seconds of each sixty, wherever they lie, fail wholly: no window of a minute has more."""
    chance = random.Random(seed)
    bad = set(chance.sample(range(60), 9))
    feed = Feed()
    feed.run(60, 10, lambda _: False)
    feed.run(180, 10, lambda _: (feed.now_ms // 1000) % 60 in bad, stop=False)
    assert feed.opened_ms == []


@pytest.mark.parametrize(("percent", "at_s"), [(16, 57), (20, 46), (50, 19), (100, 10)])
def test_a_step_after_a_good_time(percent: int, at_s: int) -> None:
    feed = Feed()
    feed.run(120, 100, lambda _: False)
    feed.start_ms = feed.now_ms
    feed.run(120, 100, rotating(percent, 7))
    assert abs(feed.opened_ms[0] - at_s * 1000) <= 1000


def test_a_new_one_that_only_fails_opens_at_its_20th_outcome() -> None:
    feed = Feed()
    feed.run(60, 4, lambda _: True)
    assert feed.opened_ms == [4750]
    at_once = Feed()
    at_once.say(0, 20)
    assert at_once.opened_ms == [0]


def test_low_volume_is_no_reason() -> None:
    feed = Feed()
    for _ in range(600):  # 19 in any minute
        feed.run(1, 1, lambda _: True) if feed.now_ms // 1000 % 60 < 19 else feed.wait(1000)
    assert feed.opened_ms == []
    feed.say(0, 20)
    assert feed.wait(1000) is OPEN


def test_a_gap_begins_anew() -> None:
    """Sixteen percent for 50 s, a minute and more of nothing, then again: another minute."""
    feed = Feed()
    feed.run(50, 100, rotating(16, 1))
    feed.wait(WINDOW_S * 1000 + 1000)
    feed.start_ms = feed.now_ms
    feed.run(100, 100, rotating(16, 1))
    assert 59_000 <= feed.opened_ms[0] <= 61_000


def tripped() -> Feed:
    feed = Feed()
    feed.say(0, 20)
    assert feed.breaker.mode is OPEN
    return feed


def test_the_way_back() -> None:
    feed = tripped()
    feed.say(100, 0)  # what still comes is of answers given before
    assert feed.wait(OPEN_MS - 1) is OPEN
    assert feed.wait(1) is HALF
    assert share(feed.breaker, feed.now_ms, RAMP_MS) == HALF_OPEN_SHARE
    assert step_at(feed.breaker, feed.now_ms, RAMP_MS) == 0
    feed.wait(1000)
    feed.say(18, 1)
    assert feed.breaker.mode is HALF
    feed.say(1, 0)  # 1 of 20 are 5 %
    assert feed.breaker.mode is CLOSED
    assert share(feed.breaker, feed.now_ms, RAMP_MS) == 125
    assert step_at(feed.breaker, feed.now_ms, RAMP_MS) == feed.now_ms + RAMP_MS // 8
    feed.wait(RAMP_MS)
    assert share(feed.breaker, feed.now_ms, RAMP_MS) == 1000
    assert step_at(feed.breaker, feed.now_ms, RAMP_MS) == 0
    assert share(feed.breaker, feed.now_ms, 0) == 1000
    feed.run(30, 10, rotating(15, 1))  # the failures before it opened are not counted again
    assert feed.breaker.mode is CLOSED


@pytest.mark.parametrize(("ok", "failed", "mode"), [
    (0, 1, HALF), (0, 3, HALF), (0, 4, OPEN), (16, 4, OPEN), (84, 16, OPEN), (85, 15, CLOSED), (17, 3, CLOSED),
    (20, 0, CLOSED)])
def test_half_open_is_decided_by_what_came_since(ok: int, failed: int, mode: Mode) -> None:
    feed = tripped()
    feed.wait(OPEN_MS)
    feed.wait(1000)
    feed.say(ok, failed)
    assert feed.breaker.mode is mode


@pytest.mark.parametrize(("ok", "failed", "mode"), [
    (0, 0, CLOSED), (3, 0, CLOSED), (3, 1, OPEN), (7, 1, CLOSED)])
def test_half_open_with_few_outcomes_ends_after_a_minute(ok: int, failed: int, mode: Mode) -> None:
    feed = tripped()
    feed.wait(OPEN_MS)
    feed.wait(HALF_OPEN_MS - 2000)
    feed.say(ok, failed)
    assert feed.breaker.mode is HALF
    assert feed.wait(2000) is mode


@pytest.mark.parametrize("percent", [6, 10, 14])
def test_what_would_never_open_it_does_not_keep_it_open(percent: int) -> None:
    """One that is as good as before it tripped must come back, or it is left out for ever."""
    feed = tripped()
    feed.run(600, 10, rotating(percent, 3), stop=False)
    assert feed.breaker.mode is CLOSED


def test_open_longer_each_time() -> None:
    feed, waited = tripped(), []
    for _ in range(6):
        waited.append(open_ms(feed.breaker))
        assert feed.wait(open_ms(feed.breaker)) is HALF
        feed.wait(1000)
        feed.say(0, 20)
        assert feed.breaker.mode is OPEN
    assert waited == [OPEN_MS, 2 * OPEN_MS, 4 * OPEN_MS, 8 * OPEN_MS, 8 * OPEN_MS, 8 * OPEN_MS]
    feed.wait(open_ms(feed.breaker))
    feed.wait(1000)
    feed.say(20, 0)
    assert feed.breaker.mode is CLOSED
    feed.wait(CALM_MS)
    feed.say(20, 0)
    assert feed.breaker.trips == 0


@pytest.mark.parametrize(("says", "opens", "at_once"), [
    ({"a": (0, 1000)}, True, True),                                       # nobody else says anything
    ({"a": (0, 1000), "b": (4, 0)}, True, True),                          # nor enough to contradict
    ({"a": (0, 1000), "b": (5, 0)}, False, False),
    ({"a": (0, 1000), "b": (100, 0)}, False, False),
    ({"a": (0, 1000), "b": (100, 0), "c": (100, 0)}, False, False),
    ({"a": (0, 1000), "b": (80, 20)}, True, False),                       # the other sees it too
    ({"a": (0, 1000), "b": (40, 60)}, True, True),
    ({"a": (0, 100), "b": (0, 100), "c": (100, 0)}, True, False),
    ({"a": (0, 100), "b": (0, 100), "c": (10**6, 0)}, True, False),       # a flood of praise counts for half
    ({"a": (0, 100), "c": (10**6, 0)}, False, False),
    ({"a": (84, 16), "b": (84, 16), "c": (84, 16)}, True, False),
    ({"a": (85, 15), "b": (85, 15), "c": (85, 15)}, False, False),
    ({"a": (10, 10)}, True, False),
    ({"a": (9, 11)}, True, True),
    (dict.fromkeys("abcdefghij", (0, 2)), True, True),
    (dict.fromkeys("abcdefghi", (0, 2)), False, False),                   # 18 in all
])
def test_one_does_not_decide_what_others_contradict(
    says: dict[str, tuple[int, int]], opens: bool, at_once: bool,
) -> None:
    feed = Feed()
    for who, (ok, failed) in says.items():
        feed.windows[who] = added((), ok, failed, feed.now_ms)
    assert (feed.turn() is OPEN) is at_once
    feed.breaker = Breaker(first_ms=START - 60_000)
    assert (feed.wait(1000) is OPEN) is opens


def test_a_clock_that_is_set_back() -> None:
    feed = tripped()
    feed.now_ms -= 3_600_000
    assert feed.turn() is OPEN
    assert feed.wait(OPEN_MS) is HALF
    feed.wait(1000)
    feed.say(20, 0)
    feed.now_ms -= 3_600_000
    feed.turn()
    assert share(feed.breaker, feed.now_ms, RAMP_MS) == 125, "from here on"
    assert added(((feed.now_ms // 1000 + 100, 5, 5),), 1, 0, feed.now_ms) == ((feed.now_ms // 1000, 1, 0),)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(
    st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 30), st.integers(-2000, 40_000)), max_size=60))
def test_what_holds_for_any_reports(reports: list[tuple[str, int, int, int]]) -> None:
    """Opens only above 15 % of 20; open at least 30 s; a share is a share; windows are bounded."""
    feed = Feed()
    for who, ok, failed, gap in reports:
        feed.now_ms += gap
        before = feed.breaker
        feed.say(ok, failed, who)
        now = feed.now_ms // 1000
        recent = [one for window in feed.windows.values() for one in window if 0 <= now - one[0] <= 60]
        total, bad = sum(one[1] for one in recent), sum(one[2] for one in recent)
        if before.mode is CLOSED and feed.breaker.mode is OPEN:
            assert total >= 20
            assert bad
        if before.mode is OPEN and feed.breaker.mode is HALF and gap >= 0:
            assert feed.now_ms - before.since_ms >= OPEN_MS
        assert 0 < share(feed.breaker, feed.now_ms, RAMP_MS) <= 1000
        assert all(len(window) <= 61 for window in feed.windows.values())
        step_ms = step_at(feed.breaker, feed.now_ms, RAMP_MS)
        assert step_ms == 0 or step_ms > feed.now_ms
