"""The one door: query bytes in, reply bytes out, over one image.

Lives here: the order of things for a query — parse, find the node, choose, limit, assemble, truncate — and counters.
Does not live here: reading octets (`dns.wire`), names not simply there (`chase`), choosing (`choose`), packets that are
no plain query (`odd`), sockets.

UDP, TCP, `explain`, the self-check before publishing, tests and benchmarks all call `respond`. Straight down and back:
no await, lock, log or I/O, and nothing is raised for any packet. A name of the image is found by the question's octets
up to the first zero: such octets are a key only if they are a whole, well-formed name, so a hit needs no walk over
labels, nor does a name one label below a hit; everything else takes the careful way. A reply is a function of (packet,
client, image, now).
"""

from __future__ import annotations

from typing import Final

from dnsd import metrics, odd
from dnsd.chase import deepest, missing, present
from dnsd.choose import choose
from dnsd.context import DESK, Context
from dnsd.dns import types, wire
from dnsd.dns.guard import Guard
from dnsd.dns.wire import FormError, Heads, Opt
from dnsd.image.reading import Entry, Image, Node

_Ask = tuple[bytes, int, Opt, bytes, Image, int, Context]
"""Packet, end of the question, OPT, client, image, now, context: what the rest of the way needs."""


def respond(packet: bytes, client: bytes, image: Image, now: int, ctx: Context) -> bytes | None:
    """The reply to a packet; None where there is none to give; `DESK` (no octets) where the desk is to give it.

    `client` is the packed source address (4 or 16 octets, IPv4-mapped already unwrapped), `now` unix seconds.
    """
    # A query: QR 0, opcode 0, one question, no answer or authority, at most one additional.
    if len(packet) < 17 or packet[4:11] != b"\0\1\0\0\0\0\0" or packet[2] & 0xF8 or packet[11] > 1:
        return odd.reply(packet, client, image, now, ctx)
    end = packet.find(0, 12, 267) + 1  # a name has at most 255 octets; what goes on is never looked at
    name = packet[12:end].lower()
    node = above = image.nodes.get(name)
    if node is None and name in image.index:
        node = image.unfold(name)
    try:
        if node is None and (not name or name[0] > 63 or (above := image.nodes.get(name[name[0] + 1 :])) is None):
            starts = wire.question_labels(packet)
            if end == starts[-1] + 1:
                del starts[0]  # the whole name has just been looked for
            else:
                end = starts[-1] + 1
                name = packet[12:end].lower()
            above = deepest(name, starts, image)
        tail = end + 4
        if packet[11]:
            if packet[tail : tail + 3] != wire.OPT_START:
                return odd.reply_signed(packet, tail, client, ctx)
            opt = wire.parse_opt(packet, tail)
            ctx.count[metrics.EDNS] += 1
            if ctx.ecs_from is not None and opt[3] is not None and client not in ctx.ecs_from:
                ctx.count[metrics.ECS_IGNORED] += 1
                opt = (*opt[:3], None, opt[4])
        elif tail == len(packet):
            opt = wire.NO_OPT
        else:
            return odd.malformed(packet, client, ctx)
    except FormError:
        return odd.malformed(packet, client, ctx)
    ask = (packet, tail, opt, client, image, now, ctx)
    if opt[1]:
        return _finish(ask, wire.heads(aa=False), b"", rcode=types.BADVERS, kind=metrics.KIND_BADVERS)
    if node is None:
        return _slow(ask, name, None, above)
    entry = node.answers.get(packet[end:tail])
    if entry is None:
        return _slow(ask, name, node, node)
    if isinstance(entry, Entry):
        return _finish(ask, entry.heads, entry.data, kind=metrics.KIND_STATIC, node=node)
    number, rrs, scope, options = choose(image, image.plan(node.record), entry, client, opt[3], now, ctx.count)
    if not number:
        return _finish(ask, _FAILED, b"", options, scope, types.SERVFAIL, kind=metrics.KIND_SERVFAIL, node=node)
    return _finish(ask, _SERVICE[number], rrs, options, scope, kind=metrics.KIND_SERVICE, node=node)


_SERVICE: Final = [wire.heads(answers=number) for number in range(65)]
_FAILED: Final = wire.heads(types.SERVFAIL, aa=False)


def _slow(ask: _Ask, name: bytes, node: Node | None, above: Node | None) -> bytes | None:
    """Whatever has no finished entry: the desk's, class CH, or what the tree of names says. `above`: the deepest node
    on the way to the name."""
    packet, tail, opt, client, image, now, ctx = ask
    key = packet[tail - 4 : tail]
    if ctx.desk is not None and ctx.desk.takes(name, key, client):
        ctx.count[metrics.DESK] += 1
        return DESK
    if key[2:] == _CHAOS and name in ctx.chaos and key[:2] in _TOLD:
        text = ctx.chaos[name] or ctx.identity(image.stamp)
        body = _CHAOS_HEAD + (len(text) + 1).to_bytes(2, "big") + bytes((len(text),)) + text
        return _finish(ask, _SERVICE[1], body, kind=metrics.KIND_CHAOS)
    asked = name, key, tail, client, opt[3], now
    heads, body, rcode, scope, options, kind = (
        missing(asked, above, image, ctx.count) if node is None else present(asked, node, image, ctx.count))
    return _finish(ask, heads, body, options, scope, rcode, kind=kind, node=above)


_CHAOS: Final = types.CH.to_bytes(2, "big")
_TOLD: Final = (types.TXT.to_bytes(2, "big"), types.ANY.to_bytes(2, "big"))
_CHAOS_HEAD: Final = b"\xc0\x0c\0\x10\0\3\0\0\0\0"


def _finish(ask: _Ask, heads: Heads, body: bytes, options: bytes = b"", scope: int = 0, rcode: int = 0, *,
            kind: int, node: Node | None = None) -> bytes | None:
    """Head, question as it came (0x20 kept), body, OPT; question and OPT with TC where that is too long."""
    packet, tail, opt, client, _, _, ctx = ask
    if ctx.strict:
        empty = kind == metrics.KIND_WILDCARD and heads[0][4:6] == b"\0\0"
        held_as = metrics.KIND_NODATA if empty else kind
        if ctx.shed and ctx.shed >= LEAST_USEFUL.get(held_as, 99):
            ctx.count[metrics.SHED] += 1
            return None
        guard, zone = ctx.guard, node.zone.number if node else 0
        if guard is not None and not ctx.tcp and guard.over(client, zone, GUARD_KINDS.get(held_as, 0)):
            held = _held(ask, guard)
            if held is not _PASSED:
                return held
    count = ctx.count
    count[kind] += 1
    count[metrics.RCODE + rcode] += 1
    if opt is wire.NO_OPT:
        reply = b"".join((packet[:2], heads[packet[2] & 1], packet[12:tail], body))
        if len(reply) <= wire.PLAIN_SIZE or (ctx.tcp and len(reply) <= ctx.limit):
            return reply
        return _truncated(ask, heads, rcode, b"")
    size, _, do, ecs, wishes = opt
    if do:
        count[metrics.DNSSEC_OK] += 1
    if ecs is not None:
        count[(metrics.ECS_V6 if ecs[0] else metrics.ECS_V4) if ecs[2] else metrics.ECS_OPT_OUT] += 1
    if options or wishes is not None or rcode > 15:
        record = _rich_opt(ask, options, scope, rcode, tail + len(body))
    elif ecs is None:
        record = wire.PLAIN_OPT[do]
    else:
        at, length = ecs[3], ecs[4]
        record = wire.OPT_HEAD[do][length] + packet[at : at + 7] + wire.OCTET[scope] + packet[at + 8 : at + length]
    reply = b"".join((packet[:2], heads[packet[2] & 1 | 2], packet[12:tail], body, record))
    if len(reply) <= wire.PLAIN_SIZE or len(reply) <= (ctx.limit if ctx.tcp else min(size, ctx.limit)):
        return reply
    return _truncated(ask, heads, rcode, record)


def _truncated(ask: _Ask, heads: Heads, rcode: int, record: bytes) -> bytes:
    """Only what fits whole is sent, and of a cut answer no part: resolvers ask again over TCP (RFC 2181 §9).

    Beside the longest names not even all options have room; they too are for TCP then.
    """
    packet, tail, opt, *_, ctx = ask
    if tail + len(record) > wire.PLAIN_SIZE:
        record = wire.PLAIN_OPT[opt[2]]
    ctx.count[metrics.TRUNCATED] += 1
    head = wire.heads(rcode, bool(heads[0][0] & 4), tc=True)[packet[2] & 1 | (2 if record else 0)]
    return packet[:2] + head + packet[12:tail] + record


def _rich_opt(ask: _Ask, options: bytes, scope: int, rcode: int, before: int) -> bytes:
    """The OPT with all that was asked for; `before`: the octets that stand before it, which padding counts in."""
    packet, _, (_, _, do, ecs, wishes), client, image, now, ctx = ask
    if ecs is not None:
        options += wire.ecs_echo(packet, ecs, scope)
    nsid, cookie, keepalive, padding = wishes or wire.NO_WISHES
    if nsid:
        ctx.count[metrics.NSID] += 1
        options += wire.option(types.OPTION_NSID, ctx.identity(image.stamp))
    if cookie and ctx.cookies is not None:
        ctx.count[metrics.COOKIES] += 1
        options += wire.COOKIE_24 + ctx.cookies.answer(cookie, client, now)[1]
    if keepalive and ctx.tcp and ctx.keepalive >= 0:
        options += wire.option(types.OPTION_KEEPALIVE, ctx.keepalive.to_bytes(2, "big"))
    room = ctx.limit - before - 15 - len(options)
    if padding and ctx.pad and room >= 0:
        options += wire.option(types.OPTION_PADDING, bytes(min(room, (room - ctx.limit) % wire.PAD_BLOCK)))
    return wire.opt(do, options, rcode >> 4)


_PASSED: Final = b"passed"
LEAST_USEFUL: Final = {
    metrics.KIND_FORMERR: 1, metrics.KIND_NOTIMP: 1, metrics.KIND_BADVERS: 1, metrics.KIND_REFUSED: 2,
    metrics.KIND_NXDOMAIN: 3}
GUARD_KINDS: Final = {
    metrics.KIND_NODATA: 1, metrics.KIND_NXDOMAIN: 2, metrics.KIND_REFERRAL: 3, metrics.KIND_SERVFAIL: 4,
    metrics.KIND_REFUSED: 4, metrics.KIND_FORMERR: 4, metrics.KIND_NOTIMP: 4, metrics.KIND_BADVERS: 4}
"""What of a prefix and zone shares a bucket: 0 answers, 1 NODATA, 2 NXDOMAIN, 3 referrals, 4 errors."""


def _held(ask: _Ask, guard: Guard) -> bytes | None:
    """What is sent instead of the answer to a client over its rate, None for nothing; `_PASSED` for the answer itself.

    One that has shown a valid cookie is who it says; one that could have is told to come with it; of the others every
    second is told to come by TCP. What is sent is never much longer than what came, and is sent for every second query,
    so that nobody can be flooded with it.
    """
    packet, tail, opt, client, _, now, ctx = ask
    cookie = opt[4][1] if opt[4] is not None and ctx.cookies is not None else b""
    data = b""
    if cookie and ctx.cookies is not None:
        valid, data = ctx.cookies.answer(cookie, client, now)
        if valid:
            ctx.count[metrics.LIMITED_EXCUSED] += 1
            return _PASSED
    if ctx.shed > 1 or not guard.slip():
        ctx.count[metrics.LIMITED_DROPPED] += 1
        return None
    if cookie:
        ctx.count[metrics.LIMITED_BADCOOKIE] += 1
        ctx.count[metrics.RCODE + types.BADCOOKIE] += 1
        record = wire.opt(opt[2], wire.option(types.OPTION_COOKIE, data), types.BADCOOKIE >> 4)
        return packet[:2] + _BADCOOKIE[packet[2] & 1 | 2] + packet[12:tail] + record
    ctx.count[metrics.LIMITED_TRUNCATED] += 1
    record = b"" if opt is wire.NO_OPT else wire.PLAIN_OPT[opt[2]]
    return packet[:2] + _SLIPPED[packet[2] & 1 | (2 if record else 0)] + packet[12:tail] + record


_BADCOOKIE: Final = wire.heads(types.BADCOOKIE, aa=False)
_SLIPPED: Final = wire.heads(aa=False, tc=True)
