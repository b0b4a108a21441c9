"""Spill-over: which clients a site keeps, and where the others go. A keyed hash and two shares, nothing else.

Lives here: the rule that decides for one client. Does not live here: the shares (`control.spill` has them solved), the
order of sites (`steer.rank`, `steer.draw`), scopes.

Every site has two shares, of 65535: `keep`, of the clients that are nearest to it, and `take`, of those that come by
from elsewhere. The first of a client's whole order, dead or not, is its native site. A hash of (service, split block,
site) says whether that keeps it; else it walks on in its order, past what is dead, and each site on the way takes it by
its own hash. Whom nobody has taken is drawn among all it has asked, by `take`, whatever the order. So

    natives of other sites never move when one dies, for nothing that decides over them has changed;
    those that must go are spread over several sites in their own order of preference, as much to each as it takes;
    a share that falls or rises by some moves just as many;
    all clients of a split block go the same way, so no scope is wider than the answer is good for.

Dead sites stay in a service's record as ghosts: in the order, never answered. Only the first tier that has somebody
alive is walked through: what stands by is no place to spill to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from dnsd.steer import draw

WHOLE: Final = 65_535
"""A share of all."""

GOLDEN: Final = 0x9E3779B97F4A7C15
LAST: Final = (1 << draw.LOG_BITS) - 1


class Spread(NamedTuple):
    """An endpoint's site (32 bits of its id's hash) and both of the site's shares."""

    site: int = 0
    keep: int = WHOLE
    take: int = 0


class Stand(NamedTuple):
    """One on a client's way: its number in the record, tier, whether it can be answered, and its site's shares."""

    number: int
    tier: int
    alive: bool
    spread: Spread


def hashed(draw_seed: int, site: int) -> int:
    """64 bits for a client and a site."""
    return draw.mix(draw_seed ^ (site * GOLDEN & draw.MASK))


def chance(value: int) -> int:
    """Of such a hash 0..65534, evenly: a share above it accepts, so all of 65535 does and 0 never."""
    return (value >> 48) * WHOLE >> 16


def price(value: int, take: int) -> int:
    """What it costs to go to a site that takes so much, by such a hash: lowest wins, as in `steer.draw.cost`."""
    return (draw.COST[value >> (64 - draw.LOG_BITS) ^ LAST] << 16) // take


def walk(draw_seed: int, way: Iterable[Stand], told: Callable[[Stand, str], None] | None = None) -> int:
    """The number of who answers a client; -1 where nobody on its way is alive. `way`: its order, native site first.

    `told` is called with each site that is asked and what it says: for `explain`.
    """
    native: int | None = None
    first: Stand | None = None
    left: Stand | None = None
    least = 0
    for stand in way:
        site, keep, take = stand.spread
        if native is None:
            native = site
        if not stand.alive:
            if told:
                told(stand, "not answerable")
            continue
        if first is None:
            first = stand
        elif stand.tier != first.tier:
            break
        value = hashed(draw_seed, site)
        here = chance(value)
        share = keep if site == native else take
        accepted = here < share
        if told:
            told(stand, f"{'kept' if site == native else 'taken'}: {here} < {share}" if accepted
                 else f"{'not kept' if site == native else 'not taken'}: {here} >= {share}")
        if accepted:
            return stand.number
        if site != native and take and (left is None or price(value, take) < least):
            left, least = stand, price(value, take)
    if left is not None:
        return left.number
    return -1 if first is None else first.number
