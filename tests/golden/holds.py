"""What holds for any packet and its reply, whatever the packet is; properties and fuzz targets check by it.

Lives here: the check. Does not live here: packets (tests, `fuzz.targets`), which answer is right (tests/test_answer*).
"""

from __future__ import annotations

import struct

import dns.message

from dnsd.answer import respond
from dnsd.context import DESK
from tests.golden.world import Door

SMALL = 512
OPT = b"\0\0\x29"
FORMERR, NOTIMP, REFUSED, NOTAUTH = 1, 4, 5, 9


def check(door: Door, packet: bytes) -> bytes | None:
    """Ask, and assert everything that holds: something was counted, id, flags, question, limit, readable. The reply."""
    before = sum(door.count)
    reply = respond(packet, door.client, door.image, door.now, door.context)
    assert sum(door.count) > before, "not counted"
    if len(packet) < 12 or packet[2] & 0x80:
        assert reply is None, "a reply to a reply"
    elif reply is None:
        assert door.context.strict or door.context.shed, "no reply"
    elif reply == DESK:
        assert door.context.desk is not None
    else:
        _holds(door, packet, reply)
    return reply


def _holds(door: Door, packet: bytes, reply: bytes) -> None:
    assert 12 <= len(reply) <= door.context.limit
    assert reply[:2] == packet[:2]
    flags, questions, answers, authority, _ = struct.unpack_from(">5H", reply, 2)
    rcode = flags & 15
    assert flags & 0x8000
    assert flags & 0x7800 == (packet[2] & 0x78) << 8
    assert flags & 0x01F0 == (packet[2] & 1) << 8, "RD as asked; RA, Z, AD, CD clear"
    message = read(reply)
    if questions:
        question = question_of(packet)
        assert reply[12 : 12 + len(question)] == question
    if rcode in (FORMERR, NOTIMP, NOTAUTH) or not questions:
        assert not answers + authority
        assert message.edns < 0 or OPT in packet
        assert rcode or not questions  # a cookie alone may be answered without a question
        assert rcode == NOTAUTH or len(reply) <= len(packet) + 16 + 11, "no longer than what came, but for a cookie"
    else:
        assert (message.edns >= 0) == (packet[11] == 1)
    if message.edns < 0 and not door.context.tcp:
        assert len(reply) <= max(SMALL, len(packet))


def question_of(packet: bytes) -> bytes:
    """The question's octets, walked label by label."""
    at = 12
    while packet[at]:
        at += 1 + packet[at]
    return packet[12 : at + 5]


def read(reply: bytes) -> dns.message.Message:
    """The reply by dnspython, which does not know client subnets of no family, nor an UPDATE that names no zone."""
    reply = reply[:2] + bytes((reply[2] & 0x87,)) + reply[3:]
    if b"\0\x08\0\4\0\0\0\0" in reply:
        reply = reply.replace(b"\0\x08\0\4\0\0\0\0", b"\xfd\xe9\0\4\0\0\0\0")
    return dns.message.from_wire(reply, keyring=False, one_rr_per_rrset=True)
