"""How much health may take away, and when it is not believed at all: velocity, failed groups, panic.

Lives here: one decision over all of a service's endpoints of a family. Does not live here: states (`steer.health`),
what is answered where nothing is left (`control.standing`).

Health checks fail together for reasons that are no endpoint's: a prober cut off, a bad rule, a certificate. So

    velocity   within a minute health removes at most one endpoint, or the largest site, or 34 % of the weight,
               whichever is the most; who is beyond that stays answered until there is room
    groups     a tier at a site with less than half of its weight healthy counts as failed as a whole, where another
               tier or site is healthy: the few that are left there would not carry its load. Takes no more than
               velocity leaves room for
    panic      with less than a tenth of all weight healthy, health is ignored

What an operator forced up is healthy here. Weight 0 counts as 1. The order of the subjects does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

WINDOW_MS: Final = 60_000
WEIGHT_PERCENT: Final = 34
GROUP_PERCENT: Final = 50
PANIC_PERCENT: Final = 10


class Subject(NamedTuple):
    """One endpoint: where it counts, how much, and whether health says that it is down. `forced`: it stays, whatever
    becomes of its group."""

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


class Limited(NamedTuple):
    """What is removed now (the memory of the next call), who is answered though down or in a failed group; panic."""

    removed: tuple[Removal, ...]
    held: frozenset[str]
    panic: bool


def limited(subjects: Sequence[Subject], before: Sequence[Removal], now_ms: int) -> Limited:
    """Decide at `now_ms`. `before`: what the last call removed. A removal ends when health no longer asks for it."""
    total = sum(map(_weight, subjects))
    healthy = sum(_weight(s) for s in subjects if not s.down)
    if healthy * 100 < total * PANIC_PERCENT:
        return Limited((), frozenset(), True)
    asked = {s.id: s for s in subjects if s.down} | {s.id: s for s in _failed_groups(subjects)}
    # One in the future was made before the clock was set back: as good as now, or it would make room for others.
    kept = [one._replace(at_ms=min(one.at_ms, now_ms)) for one in before if one.id in asked]
    recent = [_weight(asked[one.id]) for one in kept if now_ms - one.at_ms < WINDOW_MS]
    taken, number = sum(recent), len(recent)
    most = max(_largest_site(subjects), total * WEIGHT_PERCENT // 100)
    removed = list(kept)
    known = {one.id for one in kept}
    # The down before those that only share their group; the more important first, so that what hurts most goes first.
    for subject in sorted(asked.values(), key=lambda s: (not s.down, s.tier, -_weight(s), s.id)):
        weight = _weight(subject)
        if subject.id not in known and (not number or taken + weight <= most):
            taken, number = taken + weight, number + 1
            removed.append(Removal(subject.id, now_ms))
            known.add(subject.id)
    return Limited(tuple(sorted(removed)), frozenset(asked.keys() - known), False)


def room_at(removed: Sequence[Removal], now_ms: int) -> int:
    """When the oldest removal of this window is over, and there is more room; 0 where there is none."""
    return min((one.at_ms + WINDOW_MS for one in removed if now_ms - one.at_ms < WINDOW_MS), default=0)


def _largest_site(subjects: Sequence[Subject]) -> int:
    sites: dict[str, int] = {}
    for subject in subjects:
        sites[subject.site] = sites.get(subject.site, 0) + _weight(subject)
    return max(sites.values(), default=0)


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


def _weight(subject: Subject) -> int:
    return max(1, subject.weight)
