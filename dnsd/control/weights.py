"""From what health leaves of a service to tier and weight in its record: what a tier hands on to the next one.

Lives here: trickle, a tier that recovers or has nobody left, weights too small for a part. Does not live here: who is
answered, and with what share (`control.standing`), the draw (`steer.draw`).

Pure. In a record a lower tier comes first, always, so a part of the answers for the next tier is made of its endpoints
in this tier, with that part of its weight:

    trickle     what the policy declares, so that those who stand by are warm
    ramp        where all of a tier recover, what is still missing to their whole weight
    hopeless    where nobody in a tier is up, yet the limits hold some: half

With several families the smallest of the weights that are right in one, so that no family hands on more than its part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

WHOLE: Final = 1000
HOPELESS: Final = 500
ENOUGH: Final = 10
"""Units of weight at least in a part of it: so coarse that a tenth of a part is lost, and no coarser."""

MOST: Final = 65_535
SCALES: Final = (1, 10, 100, 1000)


class Part(NamedTuple):
    """One that is answered: the share of its weight, of 1000; whether it is up; for which families it is answered."""

    id: str
    tier: int
    weight: int
    share: int = WHOLE
    sound: bool = True
    a: bool = True
    aaaa: bool = False


class Place(NamedTuple):
    """Where it stands in the record, and what there is to say of that."""

    tier: int
    weight: int
    note: str = ""


def placed(parts: Sequence[Part], trickle: int) -> dict[str, Place]:
    """Tier and weight of each; `trickle`: percent of the answers that the next tier gets."""
    tier, share, moved = _handed_on(parts, trickle)
    weights = {part.id: part.weight * part.share / WHOLE for part in parts}
    if moved:
        ratio = min(_ratios(parts, tier, moved, share), default=1.0)
        weights |= {part.id: weights[part.id] * ratio for part in moved}
    note = "trickle" if trickle * 10 == share else "stands in"
    ids = {part.id for part in moved}
    tiers = {part.id: tier if part.id in ids else part.tier for part in parts}
    scales = {number: _scale([(p, weights[p.id]) for p in parts if tiers[p.id] == number])
              for number in set(tiers.values())}
    return {part.id: Place(
        tiers[part.id], _whole(part, weights[part.id] * scales[tiers[part.id]]),
        f"{note}, {share / 10:g} % of the answers" if part.id in ids else "") for part in parts}


def _handed_on(parts: Sequence[Part], trickle: int) -> tuple[int, int, list[Part]]:
    """The first tier, how much of 1000 it hands on, and to whom."""
    able = [part for part in parts if part.weight]
    tier = min((part.tier for part in able), default=0)
    shares = [part.share for part in able if part.tier == tier and part.sound]
    share = max(trickle * 10, WHOLE - max(shares) if shares else HOPELESS)
    behind = [part for part in able if part.tier > tier and part.sound]
    after = min((part.tier for part in behind), default=0)
    return tier, share, [part for part in behind if part.tier == after and share]


def _ratios(parts: Sequence[Part], tier: int, moved: Sequence[Part], share: int) -> list[float]:
    """By what each family would multiply the weights of those that are moved."""
    found = []
    here = [part for part in parts if part.tier == tier]
    for first, after in (([p for p in here if p.a], [p for p in moved if p.a]),
                         ([p for p in here if p.aaaa], [p for p in moved if p.aaaa])):
        own, others = (sum(p.weight * p.share for p in some) for some in (first, after))
        if own and others:
            found.append(own * share / ((WHOLE - share) * others))
    return found


def _scale(weights: Sequence[tuple[Part, float]]) -> float:
    """What to multiply a tier's weights by, so that those that are parts of one are not coarse, and none too large."""
    parts = [weight for part, weight in weights if part.weight and weight != part.weight]
    if not parts:
        return 1
    wanted = next((scale for scale in SCALES if min(parts) * scale >= ENOUGH), SCALES[-1])
    return min(wanted, MOST / max(weight for _, weight in weights))


def _whole(part: Part, weight: float) -> int:
    """At least 1 unless it is declared as 0, which would mean never while another can be."""
    return max(min(part.weight, 1), int(weight))
