"""The one door: query bytes in, reply bytes out, over one image.

Lives here: the order of things for a query — parse, find the node, choose, assemble, truncate — and its counters.
Does not live here: reading octets (`dns.wire`), names not simply there (`chase`), choosing (`choose`), sockets.

UDP, TCP, `explain`, the self-check before publishing, tests and benchmarks all call `respond`. Straight down and back:
no await, lock, log or I/O, and nothing is raised for any packet. A name of the image is found by the question's octets
up to the first zero: such octets are a key only if they are a whole, well-formed name, so a hit needs no walk over
labels; everything else takes the careful way. A reply is a function of (packet, client, image, now).
"""

from __future__ import annotations

from collections.abc import MutableSequence

from dnsd import metrics
from dnsd.chase import Outcome, missing, present
from dnsd.choose import choose
from dnsd.dns import types, wire
from dnsd.dns.wire import FormError, Heads, Opt
from dnsd.image.reading import Entry, Image


class Context:
    """What a transport brings to the door: its counters, its size limit, how it calls itself. All state is in `count`.

    `limit` is the largest reply in octets (1232 over UDP, 65535 over TCP); `node` is the NSID's fixed part, to which
    the image's stamp is added.
    """

    __slots__ = ("count", "limit", "node", "tcp")

    def __init__(self, count: MutableSequence[int], *, tcp: bool = False, node: str = "dnsd") -> None:
        self.count = count
        self.tcp = tcp
        self.limit = 65535 if tcp else wire.UDP_SIZE
        self.node = node


_Ask = tuple[bytes, int, Opt, bytes, Image, int, Context]
"""Packet, end of the question, OPT, client, image, now, context: what the rest of the way needs."""


def respond(packet: bytes, client: bytes, image: Image, now: int, ctx: Context) -> bytes | None:
    """The reply to a packet, or None where there is none to give (too short, or itself a reply).

    `client` is the packed source address (4 or 16 octets, IPv4-mapped already unwrapped), `now` unix seconds.
    """
    # A query: QR 0, opcode 0, one question, no answer or authority, at most one additional.
    if len(packet) < 17 or packet[4:11] != b"\0\1\0\0\0\0\0" or packet[2] & 0xF8 or packet[11] > 1:
        return _odd(packet, ctx)
    end = packet.find(0, 12, 267) + 1  # a name has at most 255 octets; what goes on is never looked at
    name = packet[12:end].lower()
    node = image.nodes.get(name)
    if node is None and name in image.index:
        node = image.unfold(name)
    try:
        if node is None:
            starts = wire.question_labels(packet)
            if end == starts[-1] + 1:
                del starts[0]  # the whole name has just been looked for
            else:
                end = starts[-1] + 1
                name = packet[12:end].lower()
        tail = end + 4
        if packet[11]:
            opt = wire.parse_opt(packet, tail)
            ctx.count[metrics.EDNS] += 1
        elif tail == len(packet):
            opt = wire.NO_OPT
        else:
            return _malformed(packet, ctx)
    except FormError:
        return _malformed(packet, ctx)
    ask = (packet, tail, opt, client, image, now, ctx)
    if opt[1]:
        return _finish(ask, wire.heads(aa=False), b"", rcode=types.BADVERS, kind=metrics.KIND_BADVERS)
    if node is None:
        asked = name, packet[end:tail], tail, client, opt[4], now
        return _deliver(ask, missing(asked, starts, image, ctx.count))
    entry = node.answers.get(packet[end:tail])
    if entry is None:
        asked = name, packet[end:tail], tail, client, opt[4], now
        return _deliver(ask, present(asked, node, image, ctx.count))
    if isinstance(entry, Entry):
        return _finish(ask, entry.heads, entry.data, kind=metrics.KIND_STATIC)
    number, rrs, scope, options = choose(image, image.plan(node.record), entry, client, opt[4], now, ctx.count)
    if not number:
        return _finish(ask, wire.heads(types.SERVFAIL), b"", options, scope, types.SERVFAIL, kind=metrics.KIND_SERVFAIL)
    return _finish(ask, _SERVICE[number], rrs, options, scope, kind=metrics.KIND_SERVICE)


_SERVICE = [wire.heads(answers=number) for number in range(65)]


def _deliver(ask: _Ask, outcome: Outcome) -> bytes:
    heads, body, rcode, scope, options, kind = outcome
    return _finish(ask, heads, body, options, scope, rcode, kind=kind)


def _finish(ask: _Ask, heads: Heads, body: bytes, options: bytes = b"", scope: int = 0, rcode: int = 0, *,
            kind: int) -> bytes:
    """Head, question as it came (0x20 kept), body, OPT; question and OPT with TC where that is too long."""
    packet, tail, opt, _, _, _, ctx = ask
    count = ctx.count
    count[kind] += 1
    count[metrics.RCODE + rcode] += 1
    if opt is wire.NO_OPT:
        reply = packet[:2] + heads[packet[2] & 1] + packet[12:tail] + body
        if len(reply) <= wire.PLAIN_SIZE or (ctx.tcp and len(reply) <= ctx.limit):
            return reply
        return _truncated(ask, heads, rcode, b"")
    size, _, do, nsid, ecs = opt
    if do:
        count[metrics.DNSSEC_OK] += 1
    if ecs is not None:
        count[(metrics.ECS_V6 if ecs[0] else metrics.ECS_V4) if ecs[2] else metrics.ECS_OPT_OUT] += 1
    if options or nsid or rcode > 15:
        record = _rich_opt(ask, options, scope, rcode)
    elif ecs is None:
        record = wire.PLAIN_OPT[do]
    else:
        at, length = ecs[3], ecs[4]
        record = wire.ECS_HEAD[do][length] + packet[at : at + 7] + wire.OCTET[scope] + packet[at + 8 : at + length]
    reply = packet[:2] + heads[packet[2] & 1 | 2] + packet[12:tail] + body + record
    if len(reply) <= wire.PLAIN_SIZE or len(reply) <= (ctx.limit if ctx.tcp else min(size, ctx.limit)):
        return reply
    return _truncated(ask, heads, rcode, record)


def _truncated(ask: _Ask, heads: Heads, rcode: int, record: bytes) -> bytes:
    """Only what fits whole is sent, and of a cut answer no part: resolvers ask again over TCP (RFC 2181 §9)."""
    packet, tail, *_, ctx = ask
    ctx.count[metrics.TRUNCATED] += 1
    head = wire.heads(rcode, bool(heads[0][0] & 4), tc=True)[packet[2] & 1 | (2 if record else 0)]
    return packet[:2] + head + packet[12:tail] + record


def _rich_opt(ask: _Ask, options: bytes, scope: int, rcode: int) -> bytes:
    packet, _, (_, _, do, nsid, ecs), _, image, _, ctx = ask
    if ecs is not None:
        options += wire.ecs_echo(packet, ecs, scope)
    if nsid:
        ctx.count[metrics.NSID] += 1
        epoch, number, node_seq = image.stamp
        options += wire.option(types.OPTION_NSID, f"{ctx.node} {epoch:016x}.{number}.{node_seq}".encode())
    return wire.opt(do, options, rcode >> 4)


def _odd(packet: bytes, ctx: Context) -> bytes | None:
    """Not a plain query: no reply to a reply or a stump; another opcode is not implemented; the rest is malformed."""
    if len(packet) < 12 or packet[2] & 0x80:
        ctx.count[metrics.DROPPED] += 1
        return None
    opcode = packet[2] >> 3 & 15
    if opcode:
        ctx.count[metrics.KIND_NOTIMP] += 1
        ctx.count[metrics.RCODE + types.NOTIMP] += 1
        heads = wire.heads(types.NOTIMP, aa=False, opcode=opcode, questions=0)
        return packet[:2] + heads[packet[2] & 1]
    return _malformed(packet, ctx)


def _malformed(packet: bytes, ctx: Context) -> bytes:
    """FORMERR with the header alone: what cannot be read is not sent back (RFC 1035 §4.1.1, RFC 9619 §4)."""
    ctx.count[metrics.KIND_FORMERR] += 1
    ctx.count[metrics.RCODE + types.FORMERR] += 1
    return packet[:2] + wire.heads(types.FORMERR, aa=False, questions=0)[packet[2] & 1]
