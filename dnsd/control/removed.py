"""What the limits have removed, and how long ago: by the time that has passed, whatever wall clocks say.

Lives here: a node's own memory of removals, when verdicts came here, moving the times of both along. Does not live
here: the limits (`steer.limits`), deciding (`control.builder`), the file of it (`control.healthfile`).

A removal counts for a minute, and its time is unix ms by the clock of whoever decided it. That clock may be wrong, this
node's may be another, and both may jump; a minute that a clock has skipped would be room that there is not. So where
clocks differ, or one has jumped, the times move along: what was so old when this node met it is now older by what has
passed since, and by nothing else. What came before this process began was met when it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dnsd.control.clock import JUMP_MS, Clock, Steady
from dnsd.control.resolve import PAST, Removals
from dnsd.registry.models import Verdict
from dnsd.steer.limits import WINDOW_MS, Removal

SEVERAL: Final = 5
"""Verdicts of one service that are remembered."""


class Removed:
    """A node's own memory, by service. What is kept and given is unix ms by its clock as it is at that moment."""

    def __init__(self, clock: Clock) -> None:
        self._steady = Steady(clock)
        self._kept: dict[str, Removals] = {}  # as by the clock when this process began

    def of(self, service: str) -> Removals:
        """What the limits remember of a service."""
        kept = self._kept.get(service)
        return {} if kept is None else moved(kept, self._steady.jumped_ms())

    def keep(self, service: str, removals: Removals) -> bool:
        """Remember this; whether it is news."""
        found = moved({type_: some for type_, some in removals.items() if some}, -self._steady.jumped_ms())
        if found == self._kept.get(service, {}):
            return False
        self._kept[service] = found
        if not found:
            del self._kept[service]
        return True

    def drop(self, service: str) -> None:
        """Nothing of it is remembered any more."""
        self._kept.pop(service, None)

    def dump(self) -> dict[str, Removals]:
        """All of it."""
        return {service: self.of(service) for service in self._kept}

    def restore(self, found: Mapping[str, Removals], at_ms: int) -> None:
        """What a former process remembered at `at_ms` by its clock."""
        by_ms = self._steady.met(at_ms)
        self._kept = {service: moved(some, by_ms) for service, some in found.items()}


class Arrivals:
    """When verdicts came here, and so how far this node's clock is from the one that each was decided by.

    Several of a service are remembered: what this node decides holds here only when it has come back by the store's
    stream, and until then what held before does.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._met: dict[str, list[tuple[Verdict, float]]] = {}

    def wrote(self, verdict: Verdict, at_s: float) -> None:
        """This node has decided it, at that moment of the monotonic clock."""
        met = self._met.setdefault(verdict.service, [])
        met.append((verdict, at_s))
        del met[:-SEVERAL]

    def meet(self, verdict: Verdict) -> None:
        """It is what holds from now on, if it has not been met before."""
        self._since(verdict)

    def ahead_ms(self, verdict: Verdict) -> int:
        """How far this node's clock is ahead of the one it was decided by; 0 where they agree."""
        passed_ms = (self._clock.monotonic() - self._since(verdict)) * 1000
        ahead_ms = round(self._clock.unix_ms() - passed_ms - verdict.at_ms)
        return ahead_ms if abs(ahead_ms) > JUMP_MS else 0

    def forget(self, service: str) -> None:
        """There is no such service any more."""
        self._met.pop(service, None)

    def _since(self, verdict: Verdict) -> float:
        met = self._met.setdefault(verdict.service, [])
        for number in range(len(met) - 1, -1, -1):
            one, at_s = met[number]
            if one is verdict:
                return at_s
            if one == verdict:  # come back, as another object
                met[number] = verdict, at_s
                return at_s
        self.wrote(verdict, self._clock.monotonic())
        return met[-1][1]


def carried(found: Removals, decided: Removals, mine: Removals, *, ahead_ms: int, now_ms: int) -> Removals:
    """What a node remembers while it goes by what was `decided`, and `found` follows from that: the decided, by its own
    clock; what it leaves out by itself, because nothing is decided of it yet, since it does; and what it has left out
    before, for its minute: it may be alone again before that is over.
    """
    kept: dict[int, tuple[Removal, ...]] = {}
    for key in sorted({key & ~PAST for key in (*found, *mine)}):
        known = {one.id for one in (*decided.get(key, ()), *decided.get(key | PAST, ()))}
        was = {one.id: one.at_ms for one in (*mine.get(key | PAST, ()), *mine.get(key, ()))}
        for part in (key, key | PAST):
            kept[part] = tuple(
                Removal(id_, at_ms + ahead_ms if id_ in known else was.get(id_, now_ms))
                for id_, at_ms in found.get(part, ()))
        there = {one.id for one in (*kept[key], *kept[key | PAST])}
        kept[key | PAST] += tuple(Removal(id_, at_ms) for id_, at_ms in sorted(was.items())
                                  if id_ not in there and now_ms - at_ms < WINDOW_MS)
    return kept


def moved(removals: Removals, by_ms: int) -> Removals:
    """All times of these, moved along."""
    return removals if not by_ms else {
        type_: tuple(Removal(one.id, one.at_ms + by_ms) for one in some) for type_, some in removals.items()}
