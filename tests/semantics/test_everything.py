"""All types, classes and opcodes: each has an answer that is defined, and none raises.

Replies are checked by their octets, without dnspython, which would take minutes. `TEST_EVERYTHING=1` asks the whole
product of 65,536 types, six classes and sixteen opcodes; else opcodes other than QUERY are asked a sample of types.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from dnsd.answer import respond
from dnsd.image.reading import Image
from tests.golden.world import NOW, wire
from tests.semantics.world import CLIENT, door, world

WHOLE = os.environ.get("TEST_EVERYTHING") == "1"
CLASSES = (0, 1, 3, 4, 254, 255)
SAMPLE = sorted({*range(300), *range(300, 65536, 61), *range(65500, 65536)})
TRANSFERS, SOA, IN, CH = (251, 252), 6, 1, 3


@pytest.fixture(scope="module")
def held() -> Image:
    """The world of the tables."""
    return world()


def may(opcode: int, class_: int, type_: int) -> tuple[int, ...]:
    """The rcodes that are defined for a question about a name of ours."""
    if opcode in (4, 5):
        return (9,) if type_ == SOA else (1,)  # the name asked is no apex; a zone is named by its SOA (RFC 2136 §3.1.1)
    if opcode:
        return (4,)
    if class_ != IN:
        return (5,)
    return (9,) if type_ in TRANSFERS else (0,)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("opcode", range(16))
def test_every_type_and_class(held: Image, opcode: int) -> None:
    context = door(held).context
    name = wire("www.t")
    start = b"\x12\x67" + bytes([opcode << 3]) + b"\0\0\1\0\0\0\0\0\0" + name
    seen: Counter[int] = Counter()
    for class_ in CLASSES:
        end = class_.to_bytes(2, "big")
        for type_ in range(65536) if WHOLE or not opcode else SAMPLE:
            packet = start + type_.to_bytes(2, "big") + end
            reply = respond(packet, CLIENT, held, NOW, context)
            assert reply
            rcode = reply[3] & 15
            seen[rcode] += 1
            assert rcode in may(opcode, class_, type_), (type_, class_)
            assert reply[:2] == b"\x12\x67"
            assert reply[2] & 0xFB == 0x80 | opcode << 3
            assert reply[12 : len(packet)] in (packet[12:], b"" if opcode else packet[12:])
    assert sum(seen.values()) == len(CLASSES) * (65536 if WHOLE or not opcode else len(SAMPLE))


@pytest.mark.parametrize("name", [
    "api.t", "x.svc.t", "x.w.t", "x.sub.t", "alapi.t", "x.dn.t", "ent.full.t", "nothing.t", "t", "dark.t", "id.server",
    "."])
def test_every_type_of_every_kind_of_name(held: Image, name: str) -> None:
    context = door(held).context
    start = b"\x12\x67\0\0\0\1\0\0\0\0\0\0" + wire(name)
    for class_ in (IN, CH):
        end = class_.to_bytes(2, "big")
        for type_ in range(65536) if WHOLE else SAMPLE:
            reply = respond(start + type_.to_bytes(2, "big") + end, CLIENT, held, NOW, context)
            assert reply
            assert reply[3] & 15 in (0, 2, 3, 5, 9)
            assert reply[2] & 0xF8 == 0x80
