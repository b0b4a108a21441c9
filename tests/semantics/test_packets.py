"""What is no plain query, octet by octet: what it is told, or that it is told nothing."""

from __future__ import annotations

import struct
from typing import NamedTuple

import dns.message
import dns.rcode
import pytest

from dnsd.dns.types import TSIG
from tests.golden.world import Door, wire
from tests.semantics.world import door, world

QUESTION = wire("www.t") + b"\0\1\0\1"
ZONE = wire("t") + b"\0\6\0\1"
OPT = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
SOA = b"\xc0\x0c\0\6\0\1\0\0\0\0\0\x16\0\0" + struct.pack(">5I", 1, 2, 3, 4, 5)


def head(flags: int = 0, questions: int = 1, answers: int = 0, authority: int = 0, extra: int = 0) -> bytes:
    """A header, id 0x1267."""
    return struct.pack(">6H", 0x1267, flags, questions, answers, authority, extra)


def tsig(name: str = "key.x", *, size: int = 32) -> bytes:
    """A TSIG record of a key nobody has (RFC 8945 §4.2)."""
    data = (wire("hmac-sha256") + b"\0\0" + struct.pack(">IHH", 1_700_000_000, 300, size) + bytes(size)
            + struct.pack(">HHH", 0x1267, 0, 0))
    return wire(name) + struct.pack(">HHIH", TSIG, 255, 0, len(data)) + data


class Row(NamedTuple):
    """A packet and what comes back: rcode, None for nothing; whether the question and an OPT do."""

    rfc: str
    packet: bytes
    rcode: str | None
    question: bool = True
    opt: bool = False


ROWS = [
    Row("1035 §4.1.1: a reply is never answered", head(0x8000) + QUESTION, None),
    Row("1035 §4.1.1: nor any other with QR", head(0xFFFF, 9, 9, 9, 9), None),
    Row("1035 §4.1.1: shorter than a header", head()[:11], None),
    Row("1035 §4.1.1: nothing at all", b"", None),
    Row("9619 §4: two questions", head(questions=2) + QUESTION * 2, "FORMERR", False),
    Row("9619 §4: no question", head(questions=0), "FORMERR", False),
    Row("1035 §4.1.2: a question that ends too early", head() + QUESTION[:-1], "FORMERR", False),
    Row("1035 §4.1.2: no question where one is told of", head(), "FORMERR", False),
    Row("1035 §4.1.4: a pointer in the question", head() + b"\xc0\x0c\0\1\0\1", "FORMERR", False),
    Row("6891 §5: an extended label", head() + b"\x41x\0\0\1\0\1", "FORMERR", False),
    Row("1035 §2.3.4: a name of 256 octets", head() + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", "FORMERR", False),
    Row("1035 §4.1: octets behind the question", head() + QUESTION + b"\0", "FORMERR"),
    Row("1035 §4.1: an answer in a query", head(answers=1) + QUESTION + SOA, "FORMERR"),
    Row("1035 §4.1: an authority record in a query", head(authority=1) + QUESTION + SOA, "FORMERR"),
    Row("6891 §6.1.1: two OPTs", head(extra=2) + QUESTION + OPT * 2, "FORMERR", opt=True),
    Row("6891 §6.1.1: OPT has the root as owner", head(extra=1) + QUESTION + b"\1x" + OPT, "FORMERR"),
    Row("6891 §6.1.2: OPT cut short", head(extra=1) + QUESTION + OPT[:-1], "FORMERR"),
    Row("6891 §6.1.2: an option cut short", head(extra=1) + QUESTION + OPT[:-1] + b"\3\0\3\0", "FORMERR", opt=True),
    Row("6891 §6.1.2: an option longer than OPT", head(extra=1) + QUESTION + OPT[:-1] + b"\4\0\3\0\1", "FORMERR",
        opt=True),
    Row("1034 §3.7: opcode IQUERY (RFC 3425)", head(1 << 11) + QUESTION, "NOTIMP", False),
    Row("1035 §4.1.1: opcode STATUS", head(2 << 11) + QUESTION, "NOTIMP", False),
    Row("1035 §4.1.1: opcode 3", head(3 << 11) + QUESTION, "NOTIMP", False),
    Row("8490 §5.1: opcode DSO", head(6 << 11, 0), "NOTIMP", False),
    Row("1035 §4.1.1: opcode 15", head(15 << 11, 0), "NOTIMP", False),
    Row("1996 §3: NOTIFY of a zone of ours; we are nobody's secondary", head(4 << 11) + ZONE, "REFUSED"),
    Row("1996 §3: NOTIFY of another", head(4 << 11) + wire("far") + b"\0\6\0\1", "NOTAUTH"),
    Row("2136 §3.1: UPDATE of a zone of ours", head(5 << 11) + ZONE, "REFUSED"),
    Row("2136 §3.1.1: UPDATE of another", head(5 << 11) + wire("far") + b"\0\6\0\1", "NOTAUTH"),
    Row("2136 §3.1.2: UPDATE of a name that is no apex", head(5 << 11) + wire("www.t") + b"\0\6\0\1", "NOTAUTH"),
    Row("2136 §3.1.1: UPDATE of no zone's SOA", head(5 << 11) + QUESTION, "FORMERR", False),
    Row("2136 §3.1.1: UPDATE without a zone", head(5 << 11, 0), "FORMERR", False),
    Row("8945 §5.2.1: an unknown key", head(extra=1) + QUESTION + tsig(), "NOTAUTH"),
    Row("8945 §5.2.1: with EDNS", head(extra=2) + QUESTION + OPT + tsig(), "NOTAUTH", opt=True),
    Row("8945 §5.2: TSIG is the last", head(extra=2) + QUESTION + tsig() + OPT, "FORMERR"),
    Row("8945 §5.2: and only one", head(extra=2) + QUESTION + tsig() * 2, "FORMERR"),
    Row("1995 §3: IXFR with the SOA it starts from", head(authority=1) + wire("t") + b"\0\xfb\0\1" + SOA, "REFUSED"),
    Row("7873 §5.4: a cookie alone", head(questions=0, extra=1) + OPT[:-1] + b"\x0c\0\x0a\0\x08abcdefgh", "NOERROR",
        False, True),
]


@pytest.fixture(scope="module")
def one() -> Door:
    """A door without a desk."""
    return door(world())


@pytest.mark.parametrize("row", ROWS, ids=[row.rfc for row in ROWS])
def test_packet(one: Door, row: Row) -> None:
    octets, _ = one.octets(row.packet)
    if row.rcode is None:
        assert octets is None
        return
    assert octets
    reply = dns.message.from_wire(octets, continue_on_error=True)
    assert isinstance(reply, dns.message.Message)
    assert octets[:2] == row.packet[:2]
    assert octets[2] & 0xF8 == 0x80 | row.packet[2] & 0x78
    assert octets[2] & 6 == 0, "neither AA nor TC"
    assert dns.rcode.to_text(reply.rcode()) == row.rcode
    assert int.from_bytes(octets[4:6], "big") == row.question
    assert (reply.edns == 0) is row.opt
    assert len(octets) <= len(row.packet) + 40


def test_an_unknown_key_is_named(one: Door) -> None:
    """RFC 8945 §5.2.1: BADKEY in a TSIG without a MAC, which only looks at the query's octets can tell."""
    octets, _ = one.octets(head(extra=1) + QUESTION + tsig("some.key"))
    assert octets is not None
    assert octets[6:12] == b"\0\0\0\0\0\1"
    record = octets[12 + len(QUESTION) :]
    owner = wire("some.key")
    assert record[: len(owner)] == owner
    _, class_, ttl, length = struct.unpack_from(">HHIH", record, len(owner))
    data = record[len(owner) + 10 :]
    assert (class_, ttl, length) == (255, 0, len(data))
    behind = data[len(wire("hmac-sha256")) + 8 :]
    assert struct.unpack(">HHHH", behind) == (0, 0x1267, 17, 0)
