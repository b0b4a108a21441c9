"""How much health may take away, and when it is not believed at all: velocity, failed groups, panic.

Lives here: decisions over all of a service's endpoints of a family, and their memory. Does not live here: states
(`steer.health`), what is answered where nothing is left (`control.standing`).

Health checks fail together for reasons that are no endpoint's: a prober cut off, a bad rule, a certificate. So

    velocity   those that health removes within any minute are at most one endpoint, or the largest site, or 34 % of the
               weight, whichever is the most; who is beyond that stays answered until there is room
    groups     a tier at a site with less than half of its weight healthy counts as failed as a whole, where another
               tier or site is healthy: the few that are left there would not carry its load. Takes no more than
               velocity leaves room for
    panic      where no tier has a tenth of its weight healthy, health is ignored. Each tier is judged by its own
               weight, for a small one that stands by was declared to take over when a large one dies
    slow       who is slow is left out where others are quick, as far as the dead leave room, and comes back where they
               need that room: it answers, after all

What was removed counts for its minute also if it is back, so results that flap take no more than those that stay. It
may go again: it takes nothing new, and only waits behind others that are down and wait. And one may always go while
nobody else is out: instances that are restarted one after another are followed, however quickly.

What an operator forced up is healthy here. Weight 0 counts as 1. The order of the subjects does not matter. Deciding
again at the same moment, after what was decided, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

WINDOW_MS: Final = 60_000
WEIGHT_PERCENT: Final = 34
GROUP_PERCENT: Final = 50
PANIC_PERCENT: Final = 10
NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


class Subject(NamedTuple):
    """One endpoint: where it counts, how much, and whether health says that it is down (among those that answer:
    that it is slow). `forced`: it stays, whatever becomes of its group."""

    id: str
    site: str
    tier: int
    weight: int
    down: bool
    forced: bool = False


class Removal(NamedTuple):
    """An endpoint that health has taken away, and when."""

    id: str
    at_ms: int


class Memory(NamedTuple):
    """What is removed, and what was in this minute and is back."""

    removed: tuple[Removal, ...] = ()
    past: tuple[Removal, ...] = ()


class Limited(NamedTuple):
    """What is removed from now on, who is answered though down, slow or in a failed group; panic; when there is room
    again for who is held (unix ms, 0: nobody is)."""

    memory: Memory
    held: frozenset[str]
    panic: bool
    room_ms: int = 0

    @property
    def removed(self) -> tuple[Removal, ...]:
        """What is removed now."""
        return self.memory.removed


def limited(
    subjects: Sequence[Subject], before: Memory, now_ms: int, out: Mapping[str, int] = NOTHING,
) -> Limited:
    """Decide at `now_ms` after `before`. `out`: who was left out as slow, since when; it does not come back to be taken
    away. A removal ends when health no longer asks for it."""
    if not _believed(subjects):
        return Limited(_Taking(subjects, before, now_ms).memory(), frozenset(), panic=True)
    asked = {s.id: s for s in subjects if s.down} | {s.id: s for s in _failed_groups(subjects)}
    taking = _Taking(subjects, before, now_ms)
    taking.keep(asked, out)
    # The down before those that only share their group; the more important first, so that what hurts most goes first.
    held = taking.take(sorted(asked.values(), key=lambda s: (not s.down, *_order(s))))
    return Limited(taking.memory(), held, False, taking.room_ms if held else 0)


def lagging(
    subjects: Sequence[Subject], slow: frozenset[str], before: Memory, now_ms: int, first: Limited,
    out: Mapping[str, int] = NOTHING,
) -> Limited:
    """Decide over the `slow` of those that `first` leaves and that are not down, in the room that it leaves. `out`: who
    was removed before as down, since when."""
    removed = {one.id for one in first.removed}
    answers = [s._replace(down=s.id in slow) for s in subjects if not s.down and s.id not in removed]
    taking = _Taking(answers, before, now_ms)
    if first.panic or not _believed(answers):
        return Limited(taking.memory(), frozenset(), panic=True)
    taking.most = _most(subjects)
    asked = {s.id: s for s in answers if s.down and s.id not in first.held}
    weights = {s.id: _weight(s) for s in subjects}
    for one in (*first.memory.removed, *first.memory.past):
        taking.charge(one.id, weights[one.id], one.at_ms)
    taking.paid = frozenset(one.id for one in first.memory.past)
    taking.keep(asked, out, within=True)
    held = taking.take(sorted(asked.values(), key=_order), within=True)
    return Limited(taking.memory(), held, False, taking.room_ms if held else 0)


def gone(subjects: Sequence[Subject], before: Memory, now_ms: int) -> Memory:
    """All are down, and something else is answered: none of them comes back for being one of many."""
    since = {one.id: min(one.at_ms, now_ms) for one in before.removed}
    return Memory(tuple(sorted(Removal(s.id, since.get(s.id, now_ms)) for s in subjects)))


class _Taking:
    """The account of one decision: who is removed since when, who was, and what that comes to within a minute."""

    def __init__(self, subjects: Sequence[Subject], before: Memory, now_ms: int) -> None:
        self.now_ms, self.most = now_ms, _most(subjects)
        self.weights = {s.id: _weight(s) for s in subjects}
        # One in the future was made before the clock was set back: as good as now, or it would make room for others.
        self.was = {one.id: min(one.at_ms, now_ms) for one in before.removed if one.id in self.weights}
        past = {one.id: min(one.at_ms, now_ms) for one in before.past if one.id in self.weights} | self.was
        self.past = {id_: at_ms for id_, at_ms in past.items() if self._recent(at_ms)}
        self.removed: dict[str, int] = {}
        self.taken = 0
        self.since: dict[str, int] = {}  # who takes of this minute's room
        self.paid: frozenset[str] = frozenset()  # who was charged elsewhere

    @property
    def room_ms(self) -> int:
        """When there is more room."""
        return min(self.since.values(), default=self.now_ms) + WINDOW_MS

    def charge(self, id_: str, weight: int, at_ms: int) -> None:
        """Somebody who takes of the room, if that was within the minute."""
        if self._recent(at_ms):
            self.taken += weight
            self.since[id_] = at_ms

    def keep(self, asked: Mapping[str, Subject], out: Mapping[str, int], *, within: bool = False) -> None:
        """Who is out stays out while health asks for it; `within`: only as far as there is room for it."""
        staying = [(s, self.was.get(s.id, out.get(s.id))) for s in sorted(asked.values(), key=_order)]
        for subject, at_ms in staying:
            if at_ms is not None:
                self.past.pop(subject.id, None)
        for id_ in self.past.keys() - self.paid:
            self.charge(id_, self.weights[id_], self.past[id_])
        for subject, at_ms in staying:
            free = subject.id in self.paid
            if at_ms is not None and (free or not within or not self._recent(at_ms) or self._fits(subject)):
                self.removed[subject.id] = at_ms
                if not free:
                    self.charge(subject.id, _weight(subject), at_ms)

    def take(self, asked: Sequence[Subject], *, within: bool = False) -> frozenset[str]:
        """Remove those that there is room for, in this order; who is held. `within`: who goes again needs room too."""
        held: list[Subject] = []
        again: list[Subject] = []
        for subject in asked:
            if subject.id in self.removed:
                continue
            if subject.id in self.past or subject.id in self.paid:
                again.append(subject)
            elif self._fits(subject) or not (within or self.removed):
                self.removed[subject.id] = self.now_ms
                self.charge(subject.id, _weight(subject), self.now_ms)
            else:
                held.append(subject)
        if any(subject.down for subject in held) or (within and len(self.since) > 1 and self.taken > self.most):
            return frozenset(s.id for s in (*held, *again))
        for subject in again:
            out = sum(self.weights[id_] for id_, at_ms in self.removed.items() if self._recent(at_ms))
            if out and out + _weight(subject) > self.most:
                held.append(subject)
                continue
            self.removed[subject.id] = self.since[subject.id] = self.now_ms
            self.past.pop(subject.id, None)
        return frozenset(s.id for s in held)

    def memory(self) -> Memory:
        """What is to be remembered."""
        return Memory(
            tuple(sorted(Removal(*one) for one in self.removed.items())),
            tuple(sorted(Removal(*one) for one in self.past.items())))

    def _fits(self, subject: Subject) -> bool:
        return not self.since or self.taken + _weight(subject) <= self.most

    def _recent(self, at_ms: int) -> bool:
        return self.now_ms - at_ms < WINDOW_MS


def _believed(subjects: Sequence[Subject]) -> bool:
    """Whether some tier has enough that is healthy; where there is nobody, too."""
    totals: dict[int, int] = {}
    healthy: dict[int, int] = {}
    for subject in subjects:
        totals[subject.tier] = totals.get(subject.tier, 0) + _weight(subject)
        if not subject.down:
            healthy[subject.tier] = healthy.get(subject.tier, 0) + _weight(subject)
    return not totals or any(healthy.get(tier, 0) * 100 >= total * PANIC_PERCENT for tier, total in totals.items())


def _most(subjects: Sequence[Subject]) -> int:
    """What may go within a minute if it is more than one: the largest site, or so much of the weight."""
    sites: dict[str, int] = {}
    for subject in subjects:
        sites[subject.site] = sites.get(subject.site, 0) + _weight(subject)
    return max(max(sites.values(), default=0), sum(sites.values()) * WEIGHT_PERCENT // 100)


def _failed_groups(subjects: Sequence[Subject]) -> list[Subject]:
    """The healthy ones of groups that count as failed; none where no other group is sound."""
    groups: dict[tuple[int, str], list[Subject]] = {}
    for subject in subjects:
        groups.setdefault((subject.tier, subject.site), []).append(subject)
    failed = {key for key, group in groups.items()
              if sum(_weight(s) for s in group if not s.down) * 100 < sum(map(_weight, group)) * GROUP_PERCENT}
    if len(failed) == len(groups):
        return []
    return [s for key in failed for s in groups[key] if not (s.down or s.forced)]


def _order(subject: Subject) -> tuple[int, int, str]:
    return subject.tier, -_weight(subject), subject.id


def _weight(subject: Subject) -> int:
    return max(1, subject.weight)
