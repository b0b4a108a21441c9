"""Choosing for one client: a service's plan and who asks -> its records and the scope they are good for.

Lives here: which row decides (client subnet, else resolver), the block a draw is keyed by, the rungs below live.
Does not live here: ranking and draws themselves (`image.record`), finding rows (`image.table`), assembling replies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import MutableSequence
from typing import Final

from dnsd import metrics
from dnsd.dns import types, wire
from dnsd.dns.wire import Ecs
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.image.record import V6_BLOCK, Plan
from dnsd.model import Ladder
from dnsd.steer import draw
from dnsd.steer.row import ROW_UNKNOWN

Choice = tuple[int, bytes, int, bytes]
"""How many RRs, the finished RRs (none: nothing can be answered), scope, options that tell of a lower rung."""

STALE: Final = wire.error_option(types.EDE_STALE, "last good answer: no endpoint and no fallback is left")
EMPTY: Final = wire.error_option(types.EDE_OTHER, "service has no address to give")
PANIC: Final = wire.error_option(types.EDE_OTHER, "panic: too little is healthy, so health is ignored")


Standpoint = tuple[int, int, int, bool]
"""Where a query is seen from: the row, the scope that row is good for, the draw's block, whether ECS decided."""


Counts = MutableSequence[int] | defaultdict[int, int]
"""Where it is counted what happened, by slot of `metrics`."""


def choose(image: Image, plan: Plan, kind: int, client: bytes, ecs: Ecs | None, now: int, count: Counts) -> Choice:
    """The records of one type for this client: `kind` is 0 for A, 1 for AAAA, 2 for HTTPS, which hints at both.

    Plain records, nearly all, take the short way.
    """
    table = image.maps.get(plan.map_id)
    if table is None or not plan.plain[kind]:
        if kind > 1:
            return _https(image, plan, client, ecs, now, count)
        return _declared(image, plan, kind, client, ecs, now, count)
    if ecs is None or not ecs[2]:
        row, scope = table.find_resolver(client), 0
    elif ecs[0]:
        row, scope = table.find6(ecs[1], ecs[2])
    else:
        row, scope = table.find4(ecs[1])
    if not row:
        count[metrics.NO_PLACE] += 1
    group = plan.top(kind, row, table)
    chosen = group[0]
    if len(group) > 1:
        chosen = draw.first(plan.seed(_block(client, ecs), now), group, plan.keys, plan.weights)
    return 1, (plan.rrs_aaaa if kind else plan.rrs_a)[chosen], scope, b""


def _https(image: Image, plan: Plan, client: bytes, ecs: Ecs | None, now: int, count: Counts) -> Choice:
    """The HTTPS record with what A and AAAA give for the same question as its hints (RFC 9460 §7.3).

    It is one answer: what happened to both families is told and counted once, and one that is empty is none here as
    long as the other has an address.
    """
    happened: defaultdict[int, int] = defaultdict(int)
    a = aaaa = _NOTHING
    if plan.flags & layout.R_OWNS_A:
        a = choose(image, plan, 0, client, ecs, now, happened)
    if plan.flags & layout.R_OWNS_AAAA:
        aaaa = choose(image, plan, 1, client, ecs, now, happened)
    if not a[0] and not aaaa[0]:
        count[metrics.LADDER_EMPTY] += 1
        return 0, b"", 0, EMPTY
    for slot in happened:
        if slot != metrics.LADDER_EMPTY:
            count[slot] += 1
    told = dict.fromkeys(options for number, _, _, options in (a, aaaa) if number)
    return 1, plan.https(a[1], aaaa[1]), max(a[2], aaaa[2]), b"".join(told)


_NOTHING: Final[Choice] = (0, b"", 0, b"")


def _block(client: bytes, ecs: Ecs | None) -> int:
    """The block a draw is keyed by: the client's /24 or /56, or what the client subnet tells of it."""
    if ecs is not None and ecs[2]:
        return ecs[1] >> 72 | V6_BLOCK if ecs[0] else ecs[1]
    if len(client) == 4:
        return int.from_bytes(client[:3], "big")
    return int.from_bytes(client[:7], "big") | V6_BLOCK


def _declared(image: Image, plan: Plan, kind: int, client: bytes, ecs: Ecs | None, now: int, count: Counts) -> Choice:
    """The long way: rungs below live, fallbacks the policy declares, fences, several addresses, sticky draws."""
    if (plan.ladder_aaaa if kind else plan.ladder_a) != Ladder.LIVE:
        return _below(plan, kind, count)
    row, scope, block, from_ecs = standpoint(image, plan, client, ecs)
    if ((plan.flags & layout.R_NO_ECS_FALLBACK and not from_ecs)
            or (plan.flags & layout.R_UNKNOWN_FALLBACK and plan.uses_client and row == ROW_UNKNOWN)):
        number, rrs = plan.rung(kind)
        if number:
            count[metrics.DECLARED_FALLBACK] += 1
            return number, rrs, scope, b""
    groups = plan.groups(kind, row, image.maps.get(plan.map_id) if plan.uses_client else None)
    if not groups:
        count[metrics.DECLARED_FALLBACK] += 1
        number, rrs = plan.rung(kind)
        return number, rrs, scope, b""
    if not row and plan.uses_client:
        count[metrics.NO_PLACE] += 1
    number, rrs = plan.pick(kind, groups, block, now)
    if not number and plan.flags & layout.R_SPILL:  # all are ghosts
        count[metrics.DECLARED_FALLBACK] += 1
        number, rrs = plan.rung(kind)
        return number, rrs, scope, b""
    if not plan.flags & layout.R_PANIC:
        return number, rrs, scope, b""
    count[metrics.PANIC] += 1
    return number, rrs, scope, PANIC


def standpoint(image: Image, plan: Plan, client: bytes, ecs: Ecs | None) -> Standpoint:
    """The client subnet decides where there is one. Source length 0 asks not to be placed by it, so the resolver is
    (RFC 7871 §7.1.2), with scope 0, as it is when the client does not matter."""
    from_ecs = ecs is not None and ecs[2] > 0
    block = _block(client, ecs)
    row, scope = ROW_UNKNOWN, 0
    if plan.uses_client:
        table = image.maps.get(plan.map_id)
        if ecs is None or not from_ecs:
            row = table.find_resolver(client) if table is not None else ROW_UNKNOWN
        elif table is not None:
            row, scope = table.find6(ecs[1], ecs[2]) if ecs[0] else table.find4(ecs[1])
        else:
            # Until the map is there nothing is known of who else is alike: the answer is for who asked.
            scope = min(ecs[2], layout.ECS_MAX6 if ecs[0] else layout.ECS_MAX4)
    if not plan.split4:
        return row, scope, block, from_ecs
    # Sticky: clients of one split block share a draw, so no answer may be kept for more than that block.
    length, known = (plan.split6, layout.ECS_MAX6) if block & V6_BLOCK else (plan.split4, layout.ECS_MAX4)
    return row, max(scope, length) if from_ecs else 0, block >> (known - length) << (known - length), from_ecs


def _below(plan: Plan, kind: int, count: Counts) -> Choice:
    number, rrs = plan.rung(kind)
    if not number:
        count[metrics.LADDER_EMPTY] += 1
        return 0, b"", 0, EMPTY
    if (plan.ladder_aaaa if kind else plan.ladder_a) == Ladder.LAST_GOOD:
        count[metrics.LADDER_LAST_GOOD] += 1
        return number, rrs, 0, STALE
    count[metrics.LADDER_FALLBACK] += 1
    return number, rrs, 0, b""
