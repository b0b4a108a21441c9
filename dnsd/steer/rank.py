"""Ranking: row x record -> an order of groups of equal endpoints. Integer arithmetic, nothing else.

Lives here: filter (family, fence), score, band, groups; the judgement that `explain` prints is the one that answers.
Does not live here: who may be answered at all (control decides, compile writes the record), the draw inside a group
(`steer.draw`), TTL, fallback.

    tier        lowest first; inside a tier:
    band        sites within band_ms of the best candidate come first; only there do match, health and load count
    score       proximity points + match points + standing (health and load) in the band, beyond it proximity alone
    group       equal tier, band and score: equal, whatever the client's exact address

Beyond the band a better provider cannot outrank fewer milliseconds: no client crosses an ocean for a provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from dnsd.steer.spill import Spread

SCALE: Final = 1000
NEVER_FIRST: Final = 256
"""Added to the tier of weight 0: such an endpoint is answered only when no other can be."""


class Candidate(NamedTuple):
    """An endpoint as ranking sees it. `column` is its site's place in the row, None while the map lacks the site.

    A ghost has a place in the order of that family and is never answered (`steer.spill`).
    """

    column: int | None
    tier: int
    standing: int
    weight: int
    key: int
    a: bytes | None
    aaaa: bytes | None
    spread: Spread = Spread()
    ghost_a: bool = False
    ghost_aaaa: bool = False


class Rules(NamedTuple):
    """A policy's numbers: points by level, points by the low three match bits, band in ms, fence bit (0: none)."""

    proximity: Sequence[int]
    match: Sequence[int]
    band_ms: int
    fence: int


class Judged(NamedTuple):
    """One candidate with every part of its place; sorts into the order of answering, best first."""

    tier: int
    beyond: bool
    lost: int
    number: int
    ms: int
    level: int
    bits: int
    proximity: int
    match: int
    standing: int

    @property
    def score(self) -> int:
        """The points that decided: higher is better."""
        return -self.lost

    @property
    def group(self) -> tuple[int, bool, int]:
        """Candidates with an equal group are equal."""
        return self[:3]


def judge(
    levels: Sequence[int], bits: Sequence[int], level_ms: Sequence[int], rules: Rules,
    candidates: Iterable[tuple[int, Candidate]],
) -> list[Judged]:
    """The candidates (with their number in the record), judged and in order. Filtered before: family and fence.

    A candidate whose site the map does not have yet counts as farthest and matches nothing: it is answered only when
    nothing else can be, for the seconds until the map is derived anew.
    """
    far = len(level_ms) - 1
    seen = []
    for number, candidate in candidates:
        column = candidate.column
        level = far if column is None else levels[column]
        tier = candidate.tier if candidate.weight else candidate.tier + NEVER_FIRST
        seen.append((tier, level_ms[level], level, 0 if column is None else bits[column], number, candidate))
    best: dict[int, int] = {}
    for tier, ms, *_ in seen:
        best[tier] = min(ms, best.get(tier, ms))
    judged = []
    for tier, ms, level, match_bits, number, candidate in seen:
        beyond = ms > best[tier] + rules.band_ms
        proximity, match = rules.proximity[level], rules.match[match_bits & 7]
        score = proximity if beyond else proximity + match + candidate.standing
        judged.append(Judged(tier, beyond, -score, number, ms, level, match_bits, proximity, match, candidate.standing))
    return sorted(judged)


def fenced(
    bits: Sequence[int], fence: int, candidates: Sequence[tuple[int, Candidate]]
) -> list[tuple[int, Candidate]]:
    """Those whose site has the fence's bit in common with the client; all of them where there is no fence."""
    if not fence:
        return list(candidates)
    return [(i, c) for i, c in candidates if c.column is not None and bits[c.column] & fence]


def groups(judged: Sequence[Judged]) -> list[list[int]]:
    """The order as groups of equals (numbers in the record), best group first."""
    found: list[list[int]] = []
    last = None
    for one in judged:
        if one.group != last:
            found.append([])
            last = one.group
        found[-1].append(one.number)
    return found


def proximity_points(weight: int, half_ms: int, level_ms: Sequence[int]) -> list[int]:
    """Points per level: weight x 1000 x half/(half + ms), so `half_ms` extra milliseconds are worth half."""
    return [weight * (SCALE * half_ms // (half_ms + ms)) for ms in level_ms]


def match_points(weight: int) -> list[int]:
    """Points by match bits: any of provider, carrier, ASN in common is worth the whole weight."""
    return [weight * SCALE if bits else 0 for bits in range(8)]
