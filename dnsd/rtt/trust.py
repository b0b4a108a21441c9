"""Which reporters are not believed: who contradicts the others, or what distance makes of their clients.

Lives here: that judgement over all cells, once in a while. Does not live here: one absurd sample (`rtt.intake`,
medians), what follows for cells (`rtt.cells` leaves out whom it does not trust).

Three tests, each with a bound that a hundred real cities stay well within as sites (docs/rtt.md). Of pairs of
reporters that share cells, one that contradicts most of its partners. Against distance, by ln of what was measured
over what the distance lets expect: a reporter whose middle is far off that of all reporters, or whose values have
little to do with distance at all. And one that sends much that is faster than light. A site with a bad access link is
off by some, and stays; who is left out is looked at again with the same bounds, a fifth tighter, so nobody comes and
goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt.cells import GONE, SLOTS, Cells
from dnsd.rtt.items import FAR
from dnsd.steer import distance

LOOKED_AT: Final = 300_000
"""Cells that are looked at, spread over all there are."""

PAIRS: Final = 20
CELLS: Final = 30
"""Cells that two reporters share, and that one has, for a judgement."""

SOFT: Final = 100.0
"""Tenths added to both sides of the ratio: the last mile of a near client is no lie."""

LEAST: Final = 3
"""Reporters from which on distance judges one by the others: of two nobody knows which."""

LOW: Final = 0.35
HIGH: Final = 0.8
WIDE: Final = 0.75
WIDER: Final = 2.5
"""How far a reporter's middle may be below and above that of all, and how wide its own values, or how many times as
wide as is usual; natural logarithms of ratios."""

AGAINST: Final = -0.25
SPREAD: Final = 0.3
"""How much what is said may go against distance (a correlation; of a hundred cities the least is -0.09), and from
which spread of distances on it is looked at."""

NEAR_KM: Final = 1000
NEAR: Final = 20
NEAR_MS: Final = 80.0
"""So many ms more than that of others the middle of at least twenty near clients may be: far ones may have a detour
over another continent, near ones have none, but that one place of them is known wrongly."""

FAST: Final = 0.15
FAST_LEAST: Final = 100
TIGHTER: Final = 0.8
MOST: Final = 1 / 3
"""Of all reporters so many may be left out for contradicting others."""


def judged(cells: Cells, now_s: int, fast: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Reporters that are not to be believed, and why. `fast`: of each how many samples came, how many were too fast."""
    step = max(1, len(cells) // LOOKED_AT)
    numbers = np.arange(0, len(cells), step)
    weight = cells.decayed(numbers, now_s)
    said = weight >= GONE
    who = np.where(said, cells["reporter"][numbers], 0)
    rtt = cells["rtt"][numbers].astype(np.float64)
    was = ~cells.trusted
    found = {cells.named(one): why for one, why in _strange(
        who, rtt, cells["km"][numbers], was, len(cells.reporters)).items()}
    for one in _contrary(who, rtt, cells["spread"][numbers], was):
        found.setdefault(cells.named(one), "it contradicts the others")
    for name, (came, too_fast) in fast.items():
        known = name in cells.reporters and not cells.trusted[cells.reporters.index(name)]
        if too_fast > FAST_LEAST and too_fast > FAST * (TIGHTER if known else 1) * came:
            found.setdefault(name, f"{100 * too_fast / came:.0f} % of its samples are faster than light")
    return found


def _strange(who: NDArray[np.int64], rtt: NDArray[np.float64], km: NDArray[np.uint16], was: NDArray[np.bool_],
             count: int) -> dict[int, str]:
    """Reporters that distance speaks against."""
    known = km != FAR
    expected = 10 * (distance.BASE_MS + distance.MS_PER_KM * km[known].astype(np.float64))
    away = np.repeat(np.log(expected + SOFT), SLOTS)
    ratio = np.log(rtt[known] + SOFT).ravel() - away
    of = who[known].ravel()
    beyond = ((rtt[known] - expected[:, None]) / 10).ravel()
    near = np.repeat(km[known] <= NEAR_KM, SLOTS)
    order = np.lexsort((ratio, of))
    of, ratio, beyond, near, away = of[order], ratio[order], beyond[order], near[order], away[order]
    ends = np.searchsorted(of, np.arange(count + 1))
    middles = {one: ratio[ends[one] : ends[one + 1]] for one in range(1, count) if ends[one + 1] - ends[one] >= CELLS}
    if len(middles) < LEAST:
        return {}
    seen = {one: _seen(some, away[ends[one] : ends[one + 1]], beyond[ends[one] : ends[one + 1]],
                       near[ends[one] : ends[one + 1]]) for one, some in middles.items()}
    usual = Seen(*(float(np.nanmedian(column)) if np.isfinite(column).any() else 0.0
                   for column in np.array(list(seen.values())).T))
    found = {one: why for one, this in seen.items() if (why := _why(this, usual, TIGHTER if was[one] else 1.0))}
    # where distance speaks against so many it is distance that is wrong: of these clients, or of these sites
    return found if len(found) <= max(1, int(len(seen) * MOST)) else {}


class Seen(NamedTuple):
    """What distance makes of one reporter: the middle of its ratios, how wide they are, how they go along with
    distance, how many ms more the middle of its near clients is (NaN: too few of them)."""

    middle: float
    wide: float
    along: float
    near_ms: float


def _seen(ratio: NDArray[np.float64], away: NDArray[np.float64], beyond: NDArray[np.float64],
          near: NDArray[np.bool_]) -> Seen:
    middle = float(np.median(ratio))
    near_ms = float(np.median(beyond[near])) if np.count_nonzero(near) >= NEAR else float("nan")
    return Seen(middle, 1.4826 * float(np.median(np.abs(ratio - middle))), _along(away, ratio + away), near_ms)


def _why(this: Seen, usual: Seen, scale: float) -> str:
    """What is strange about a reporter, beside what is usual; empty: nothing."""
    off, near_ms = this.middle - usual.middle, this.near_ms - max(usual.near_ms, 0.0)
    if off < -LOW * scale:
        return f"its clients are {100 * (1 - np.exp(off)):.0f} % nearer than those of others"
    if off > HIGH * scale:
        return f"its clients are {np.exp(off):.1f} times as far as those of others"
    if near_ms > NEAR_MS * scale:
        return f"its near clients are {near_ms:.0f} ms farther than those of others"
    if this.wide > max(WIDE, WIDER * usual.wide) * scale or this.along < min(usual.along, 0.0) + AGAINST * scale:
        return "what it measures has little to do with distance"
    return ""


def _along(expected: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    """How what was said goes along with what distance lets expect, -1 to 1; 1 where all are about as far."""
    if float(np.std(expected)) < SPREAD:
        return 1.0
    return float(np.corrcoef(expected, said)[0, 1]) if float(np.std(said)) > 0 else 0.0


def _contrary(who: NDArray[np.int64], rtt: NDArray[np.float64], spread: NDArray[np.uint16], was: NDArray[np.bool_],
              ) -> list[int]:
    """Reporters that contradict more than half of those they share cells with; the worst first, then without it."""
    pairs: dict[tuple[int, int], list[int]] = {}
    for one in range(SLOTS):
        for other in range(one + 1, SLOTS):
            both = (who[:, one] > 0) & (who[:, other] > 0)
            a, b = rtt[both, one], rtt[both, other]
            limit = np.maximum(np.maximum(3 * np.maximum(spread[both, one], spread[both, other]), 50),
                               np.minimum(a, b) * 0.25)
            low, high = np.minimum(who[both, one], who[both, other]), np.maximum(who[both, one], who[both, other])
            key, member = np.unique(low.astype(np.int64) << 16 | high, return_inverse=True)
            shared = np.bincount(member, minlength=len(key))
            against = np.bincount(member, np.abs(a - b) > limit, len(key))
            for pair, n, wrong in zip(key.tolist(), shared.tolist(), against.tolist(), strict=True):
                total = pairs.setdefault((pair >> 16, pair & 0xFFFF), [0, 0])
                total[0] += n
                total[1] += int(wrong)
    told = {pair: wrong / n for pair, (n, wrong) in pairs.items() if n >= PAIRS}
    found: list[int] = []
    most = max(1, int(len({one for pair in told for one in pair}) * MOST))
    while len(found) < most:
        partners: dict[int, list[bool]] = {}
        for (low_, high_), share in told.items():
            if low_ in found or high_ in found:
                continue
            for one in (low_, high_):
                partners.setdefault(one, []).append(share > 0.5 * (TIGHTER if was[one] else 1))
        bad = {one: sum(some) for one, some in partners.items() if len(some) >= 2 and sum(some) * 2 > len(some)}
        if not bad:
            break
        found.append(max(bad, key=lambda one: (bad[one] / len(partners[one]), bad[one], one)))
    return found
