"""What users of an endpoint report of it, made into a circuit breaker: closed, open, half open.

Lives here: outcomes by second and reporter, when so many fail that the endpoint is left out, how it comes back. Does
not live here: who may report (`admin.reports`), how reports travel (`control.reports`), what may be left out
(`steer.limits`).

    opens      more than 15 % of at least 20 outcomes of the last 60 s failed, and they are known for 60 s; without that
               wait when also more than half of at least 20 of the last 10 s failed. So one that has worked so far opens
               10 s after it began to fail wholly, 57 s after a step to 16 %; a new one that fails wholly at the 20th
    half open  after 30 s, each time in a row twice as long up to 4 minutes: one twentieth of its weight
    closes     at most 15 % of at least 20 outcomes failed, or of fewer when 60 s are over: as much would not have
               opened it; back with a ramp

No reporter decides alone what others contradict: it counts for no more than all others together, and what opens must be
over the bound without the one that says so most, too, where the others have five outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from operator import itemgetter
from typing import Final, NamedTuple

from dnsd.steer import health
from dnsd.steer.health import Cell, Rules, State

SECOND: Final = 1000
WINDOW_S: Final = 60
BURST_S: Final = 10
LEAST: Final = 20
OTHERS_LEAST: Final = 5
OPENS_ABOVE: Final = 15
BURST_ABOVE: Final = 50
"""Percent of outcomes that failed."""

OPEN_MS: Final = 30_000
MOST_DOUBLINGS: Final = 3
HALF_OPEN_MS: Final = 60_000
HALF_OPEN_SHARE: Final = 50
"""Of 1000 of its weight."""

CALM_MS: Final = 600_000
"""Closed for so long, earlier openings are forgotten."""

Window = tuple[tuple[int, int, int], ...]
"""One reporter's outcomes of the last minute, oldest first: unix second, all, failed."""


_ALL: Final = itemgetter(1)
_FAILED: Final = itemgetter(2)


class Mode(IntEnum):
    """Closed: all is well. Half open: tried with a little."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class Breaker(NamedTuple):
    """`since_ms`: of the mode; `first_ms`: outcomes have been known since then without a gap of a minute (0: none);
    `trips`: openings that are not forgotten; `back_ms`: the last closing; `percent`: failed when it opened."""

    mode: Mode = Mode.CLOSED
    since_ms: int = 0
    first_ms: int = 0
    trips: int = 0
    back_ms: int = 0
    percent: int = 0


class Tally(NamedTuple):
    """Outcomes."""

    all: int
    failed: int

    def above(self, percent: int) -> bool:
        """Whether more than these failed."""
        return self.failed * 100 > percent * self.all


def added(window: Window, ok: int, failed: int, now_ms: int) -> Window:
    """A reporter's window after more outcomes; what is older than a minute, or lies ahead of a clock set back, is gone.
    """
    now = now_ms // SECOND
    kept = window
    if kept and not (kept[0][0] >= now - WINDOW_S and kept[-1][0] <= now):
        kept = tuple(one for one in window if 0 <= now - one[0] <= WINDOW_S)
    if kept and kept[-1][0] == now:
        _, all_before, failed_before = kept[-1]
        return (*kept[:-1], (now, all_before + ok + failed, failed_before + failed))
    return (*kept, (now, ok + failed, failed)) if ok or failed else kept


def turned(breaker: Breaker, windows: Mapping[str, Window], now_ms: int) -> Breaker:
    """The breaker now, with every reporter's window."""
    breaker = _clocked(breaker, now_ms)
    match breaker.mode:
        case Mode.OPEN:
            if now_ms - breaker.since_ms >= open_ms(breaker):
                return breaker._replace(mode=Mode.HALF_OPEN, since_ms=now_ms)
            return breaker
        case Mode.HALF_OPEN:
            return _tried(breaker, windows, now_ms)
    now, first = now_ms // SECOND, (breaker.first_ms or now_ms) // SECOND
    if not any(window and max(first, now - WINDOW_S) <= window[-1][0] for window in windows.values()):
        return breaker._replace(first_ms=0)
    breaker = breaker._replace(first_ms=breaker.first_ms or now_ms)
    if breaker.trips and now_ms - breaker.since_ms >= CALM_MS:
        breaker = breaker._replace(trips=0)
    if not any(map(failures, windows.values())):
        return breaker
    # Whole seconds only: of the present one the failures may have come first.
    known = now - first >= WINDOW_S
    tallies = _tallies(windows, max(first, now - WINDOW_S), now - known)
    if not _over(tallies, OPENS_ABOVE):
        return breaker
    if not known and not _over(_tallies(windows, max(first, now - BURST_S), now), BURST_ABOVE):
        return breaker
    return _opened(breaker, _bounded(tallies), now_ms)


def failures(window: Window) -> int:
    """All that failed in a window."""
    return sum(map(_FAILED, window))


def share(breaker: Breaker, now_ms: int, ramp_ms: int) -> int:
    """The part of its weight an endpoint gets, of 1000, unless it is open."""
    if breaker.mode is Mode.HALF_OPEN:
        return HALF_OPEN_SHARE
    return health.share(Cell(State.UP, back_ms=breaker.back_ms), now_ms, Rules(ramp_ms=ramp_ms))


def step_at(breaker: Breaker, now_ms: int, ramp_ms: int) -> int:
    """When its share grows next (unix ms) on the way back; 0: not."""
    if breaker.mode is not Mode.CLOSED:
        return 0
    return health.step_at(Cell(State.UP, back_ms=breaker.back_ms), now_ms, Rules(ramp_ms=ramp_ms))


def moved(breaker: Breaker, by_ms: int) -> Breaker:
    """The same by another clock."""
    return breaker._replace(
        since_ms=health.later(breaker.since_ms, by_ms), first_ms=health.later(breaker.first_ms, by_ms),
        back_ms=health.later(breaker.back_ms, by_ms))


def open_ms(breaker: Breaker) -> int:
    """How long it stays open this time."""
    return OPEN_MS << min(max(0, breaker.trips - 1), MOST_DOUBLINGS)


def _tried(breaker: Breaker, windows: Mapping[str, Window], now_ms: int) -> Breaker:
    """Half open: what came since says whether it closes."""
    tally = _bounded(_tallies(windows, breaker.since_ms // SECOND + 1, now_ms // SECOND))
    if tally.failed * 100 > OPENS_ABOVE * max(tally.all, LEAST):
        return _opened(breaker, tally, now_ms)
    late = now_ms - breaker.since_ms >= HALF_OPEN_MS
    if tally.all < LEAST and not late:
        return breaker
    if tally.above(OPENS_ABOVE):
        return _opened(breaker, tally, now_ms)
    return Breaker(Mode.CLOSED, now_ms, now_ms, breaker.trips, now_ms)


def _opened(breaker: Breaker, tally: Tally, now_ms: int) -> Breaker:
    return Breaker(Mode.OPEN, now_ms, 0, breaker.trips + 1, 0, tally.failed * 100 // max(tally.all, 1))


def _clocked(breaker: Breaker, now_ms: int) -> Breaker:
    """The same with no time ahead of the clock, which may have been set back."""
    if max(breaker.since_ms, breaker.first_ms, breaker.back_ms) <= now_ms:
        return breaker
    return breaker._replace(
        since_ms=min(breaker.since_ms, now_ms), first_ms=min(breaker.first_ms, now_ms),
        back_ms=min(breaker.back_ms, now_ms))


def _tallies(windows: Mapping[str, Window], first: int, last: int) -> list[Tally]:
    """Of every reporter that had outcomes in these seconds."""
    tallies = []
    for window in windows.values():
        within = window
        if within and not (first <= within[0][0] and within[-1][0] <= last):
            within = tuple(one for one in window if first <= one[0] <= last)
        if within:
            tallies.append(Tally(sum(map(_ALL, within)), sum(map(_FAILED, within))))
    return tallies


def _over(tallies: list[Tally], percent: int) -> bool:
    """Whether so many fail, and not in one reporter's eyes alone."""
    if sum(one.all for one in tallies) < LEAST or not _bounded(tallies).above(percent):
        return False
    worst = max(tallies, key=lambda one: (one.failed, -one.all))
    others = [one for one in tallies if one is not worst]
    return sum(one.all for one in others) < OTHERS_LEAST or _bounded(others).above(percent)


def _bounded(tallies: Iterable[Tally]) -> Tally:
    """All together; the one that says most counts for no more than all the others, if they say anything to speak of."""
    tallies = sorted(tallies)
    if not tallies:
        return Tally(0, 0)
    *others, largest = tallies
    rest = Tally(sum(one.all for one in others), sum(one.failed for one in others))
    if rest.all >= OTHERS_LEAST and largest.all > rest.all:
        largest = Tally(rest.all, largest.failed * rest.all // largest.all)
    return Tally(rest.all + largest.all, rest.failed + largest.failed)
