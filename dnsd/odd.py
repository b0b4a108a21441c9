"""Packets that are no plain query: other opcodes, signed ones, transfers, cookies alone, and what cannot be read.

Lives here: the least that each must be told. Does not live here: plain queries (`answer`), TSIG's checking (control).
"""

from __future__ import annotations

from typing import Final

from dnsd import metrics
from dnsd.chase import NO_SUCH_ZONE, NO_TRANSFER
from dnsd.context import DESK, Context
from dnsd.dns import types, wire
from dnsd.dns.wire import FormError
from dnsd.image import layout
from dnsd.image.reading import Image

_SOA: Final = types.SOA.to_bytes(2, "big")
_ABOUT_ZONES: Final = frozenset((types.NOTIFY, types.UPDATE))


def reply(packet: bytes, client: bytes, image: Image, now: int, ctx: Context) -> bytes | None:
    """The reply to a packet that is no plain query; None for a reply or a stump, which get none."""
    if len(packet) < 12 or packet[2] & 0x80:
        ctx.count[metrics.DROPPED] += 1
        return None
    if ctx.strict and _over(client, ctx):
        return None
    opcode = packet[2] >> 3 & 15
    if opcode:
        return _other_opcode(packet, opcode, image, ctx)
    questions, answers = packet[4:6], packet[6:8]
    try:
        if questions == b"\0\0" and packet[6:12] == b"\0\0\0\0\0\1":
            return _cookie_alone(packet, client, now, ctx)
        if questions == b"\0\1" and answers == b"\0\0":
            return _neighbourly(packet, client, image, ctx)
    except FormError:
        pass
    return _malformed(packet, ctx)


def malformed(packet: bytes, client: bytes, ctx: Context) -> bytes | None:
    """The reply to a query that cannot be read behind its header."""
    return None if ctx.strict and _over(client, ctx) else _malformed(packet, ctx)


def _over(client: bytes, ctx: Context) -> bool:
    """Whether the client has had enough of such replies. There is no other way to tell it: what it sent is no query, or
    nobody waits for the answer, as where a forged address makes a server of another kind talk to us."""
    guard = ctx.guard
    if guard is None or ctx.tcp or not guard.over(client, 0, 4):
        return False
    ctx.count[metrics.LIMITED_DROPPED] += 1
    return True


def _malformed(packet: bytes, ctx: Context) -> bytes | None:
    """FORMERR, with the question where it can be read, and EDNS where that was spoken (RFC 1035 §4.1.1, RFC 6891 §7).

    Two questions are none that can be sent back (RFC 9619 §4).
    """
    if ctx.shed:
        ctx.count[metrics.SHED] += 1
        return None
    tail = _question_end(packet)
    return _bare(packet, types.FORMERR, metrics.KIND_FORMERR, ctx, tail=tail, record=_opt_behind(packet, tail))


def reply_signed(packet: bytes, tail: int, client: bytes, ctx: Context) -> bytes | None:
    """The reply where the one additional record is no OPT at the root: a TSIG, or none that belongs there."""
    if ctx.strict and _over(client, ctx):
        return None
    try:
        _, tsig_at = wire.tail(packet, tail, 0, 1)
        return _signed(packet, tail, 0, tsig_at, ctx)
    except FormError:
        return _malformed(packet, ctx)


def _signed(packet: bytes, tail: int, opt_at: int, tsig_at: int, ctx: Context) -> bytes:
    """A query with a TSIG: the desk's, where there are keys; else no key is known here (RFC 8945 §5.2.1)."""
    if ctx.desk is not None and ctx.desk.signed:
        ctx.count[metrics.DESK] += 1
        return DESK
    record = (wire.asked_opt(packet, opt_at) if opt_at else b"") + wire.unknown_key(packet, tsig_at)
    return _bare(packet, types.NOTAUTH, metrics.KIND_REFUSED, ctx, tail=tail, record=record, extra=2 if opt_at else 1)


def _other_opcode(packet: bytes, opcode: int, image: Image, ctx: Context) -> bytes | None:
    """Nobody may change a zone from outside, and we are nobody's secondary; the other opcodes mean nothing here."""
    if ctx.shed:
        ctx.count[metrics.SHED] += 1
        return None
    tail = _question_end(packet)
    record = _opt_behind(packet, tail)
    if opcode not in _ABOUT_ZONES:
        return _bare(packet, types.NOTIMP, metrics.KIND_NOTIMP, ctx, opcode=opcode, record=record)
    if tail == 12 or packet[tail - 4 : tail - 2] != _SOA:  # RFC 2136 §3.1.1, RFC 1996 §3.7
        return _bare(packet, types.FORMERR, metrics.KIND_FORMERR, ctx, opcode=opcode, record=record)
    node = image.get(packet[12 : tail - 4].lower())
    rcode = types.REFUSED if node is not None and node.flags & layout.N_APEX else types.NOTAUTH  # RFC 2136 §3.1.2
    return _bare(packet, rcode, metrics.KIND_REFUSED, ctx, tail=tail, opcode=opcode, record=record)


def _cookie_alone(packet: bytes, client: bytes, now: int, ctx: Context) -> bytes | None:
    """No question but a cookie: whoever asks wants ours (RFC 7873 §5.4)."""
    _, version, do, _, wishes = wire.parse_opt(packet, 12)
    if version or wishes is None or not wishes[1] or ctx.cookies is None:
        raise FormError
    cookie = wishes[1]
    valid, data = ctx.cookies.answer(cookie, client, now)
    rcode = 0 if valid or len(cookie) == 8 else types.BADCOOKIE
    record = wire.opt(do, wire.option(types.OPTION_COOKIE, data), rcode >> 4)
    ctx.count[metrics.COOKIES] += 1
    return _bare(packet, rcode, metrics.KIND_COOKIE, ctx, record=record)


def _neighbourly(packet: bytes, client: bytes, image: Image, ctx: Context) -> bytes | None:
    """Signed queries, and IXFR with the SOA that a secondary has (RFC 1995 §3), which is told what AXFR is."""
    tail = _question_end(packet)
    if tail == 12:
        raise FormError
    authority, additional = packet[8] << 8 | packet[9], packet[10] << 8 | packet[11]
    opt_at, tsig_at = wire.tail(packet, tail, authority, additional)
    if tsig_at:
        return _signed(packet, tail, opt_at, tsig_at, ctx)
    if not authority or packet[tail - 4 : tail - 2] != types.IXFR.to_bytes(2, "big"):
        raise FormError
    _, version, do, _, _ = wire.parse_opt(packet, opt_at) if opt_at else wire.NO_OPT
    if version:
        record = wire.opt(do, extended=types.BADVERS >> 4)
        return _bare(packet, types.BADVERS, metrics.KIND_BADVERS, ctx, tail=tail, record=record)
    if ctx.desk is not None and ctx.desk.takes(b"", packet[tail - 4 : tail], client):
        ctx.count[metrics.DESK] += 1
        return DESK
    node = image.get(packet[12 : tail - 4].lower())
    _, _, rcode, _, options, kind = NO_TRANSFER if node is not None and node.flags & layout.N_APEX else NO_SUCH_ZONE
    record = wire.opt(do, options) if opt_at else b""
    return _bare(packet, rcode, kind, ctx, tail=tail, record=record)


def _opt_behind(packet: bytes, tail: int) -> bytes:
    """Our OPT, where one stands right behind the question, or behind the header where there is none (RFC 6891 §7)."""
    return wire.asked_opt(packet, tail) if packet[11] and (tail > 12 or packet[4:6] == b"\0\0") else b""


def _question_end(packet: bytes) -> int:
    """Where the only question ends; 12 where there is no such."""
    if packet[4:6] != b"\0\1":
        return 12
    try:
        return wire.question_labels(packet)[-1] + 5
    except FormError:
        return 12


def _bare(packet: bytes, rcode: int, kind: int, ctx: Context, *, tail: int = 12, record: bytes = b"",
          extra: int = -1, opcode: int = 0) -> bytes:
    """A reply without data: head, the question up to `tail`, and the `extra` records that are in `record`."""
    ctx.count[kind] += 1
    ctx.count[metrics.RCODE + rcode] += 1
    if extra < 0:
        extra = 1 if record else 0
    heads = wire.heads(rcode, aa=False, extra=extra, opcode=opcode, questions=1 if tail > 12 else 0)
    return packet[:2] + heads[packet[2] & 1] + packet[12:tail] + record
