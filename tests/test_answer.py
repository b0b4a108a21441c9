"""The door: what is no query, headers, EDNS, client subnets, NSID, truncation — packets built octet by octet.

Replies are read by dnspython. Every case names the counters that move; nothing else may.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import dns.flags
import dns.message
import dns.rdatatype
import pytest

from dnsd import metrics as m
from dnsd.answer import respond
from dnsd.context import Context
from dnsd.dns.cookies import Cookies
from dnsd.dns.wire import OPTIONS_MAX
from tests.golden.world import NOW, RESOLVER, Door, endpoint, image, query, service, standard, wire, zone

FORMERR, NOTIMP, NXDOMAIN, REFUSED, NOTAUTH, BADVERS = 1, 4, 3, 5, 9, 16
QUESTION = wire("www.example.com") + b"\0\1\0\1"


def header(*, flags: int = 0, questions: int = 1, answers: int = 0, authority: int = 0, extra: int = 0) -> bytes:
    """A header with id 4711."""
    return struct.pack(">6H", 4711, flags, questions, answers, authority, extra)


def opt(options: bytes = b"", *, owner: bytes = b"\0", size: int = 1232, extended: int = 0, version: int = 0,
        flags: int = 0, length: int | None = None) -> bytes:
    """An OPT record; `length` lies about its rdata where given."""
    return owner + struct.pack(
        ">HHBBHH", 41, size, extended, version, flags, len(options) if length is None else length) + options


def option(code: int, data: bytes) -> bytes:
    """One EDNS option."""
    return struct.pack(">HH", code, len(data)) + data


def ecs(family: int, source: int, address: bytes, scope: int = 0) -> bytes:
    """A client subnet option (RFC 7871 §6)."""
    return option(8, struct.pack(">HBB", family, source, scope) + address)


def with_opt(record: bytes, question: bytes = QUESTION) -> bytes:
    """A query with that OPT."""
    return header(extra=1) + question + record


@pytest.fixture(scope="module")
def world() -> Door:
    """The standard world over UDP."""
    return Door(standard())


# --- no query ---------------------------------------------------------------------------------------------------------

A_RR = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4"
TSIG = b"\0\0\xfa\0\xff\0\0\0\0\0\0"

MALFORMED = [
    ("9619 §4 QDCOUNT 0", header(questions=0)),
    ("9619 §4 QDCOUNT 0 with OPT", header(questions=0, extra=1) + opt()),
    ("9619 §4 QDCOUNT 2", header(questions=2) + QUESTION * 2),
    ("9619 §4 QDCOUNT 256", header(questions=256) + QUESTION),
    ("1035 §4.1.1 ANCOUNT 1", header(answers=1) + QUESTION + A_RR),
    ("1035 §4.1.1 ANCOUNT 256", header(answers=256) + QUESTION),
    ("1035 §4.1.1 NSCOUNT 1", header(authority=1) + QUESTION + A_RR),
    ("6891 §6.1.1 two OPT", header(extra=2) + QUESTION + opt() + opt()),
    ("ARCOUNT 256", header(extra=256) + QUESTION + opt()),
    ("ARCOUNT 0 with an OPT", header() + QUESTION + opt()),
    ("two OPT, one counted", header(extra=1) + QUESTION + opt() + opt()),
    ("trailing octet", header() + QUESTION + b"\0"),
    ("trailing octets behind OPT", with_opt(opt()) + b"junk"),
    ("additional is no OPT", with_opt(A_RR)),
    ("8945 §5.2 TSIG we do not speak", with_opt(TSIG)),
    ("6891 §6.1.2 OPT not at the root", with_opt(opt(owner=b"\1a\0"))),
    ("6891 §6.1.2 OPT at a pointer", with_opt(opt(owner=b"\xc0\x0c"))),
    ("OPT cut", with_opt(opt()[:-1])),
    ("OPT left out", with_opt(b"")),
    ("OPT longer than the packet", with_opt(opt(length=1))),
    ("OPT shorter than the packet", with_opt(opt(option(65001, b""), length=0))),
    ("option head cut", with_opt(opt(b"\0\3\0"))),
    ("option longer than OPT", with_opt(opt(b"\0\3\0\1"))),
    ("second option cut", with_opt(opt(option(65001, b"xyz") + b"\0\3\0"))),
    ("more options than anybody sends", with_opt(opt(option(65001, b"") * (OPTIONS_MAX + 1)))),
    ("header alone", header()),
    ("no type", header() + wire("www.example.com")),
    ("half a class", header() + QUESTION[:-1]),
    ("half a class of a name not here", header() + wire("nothing.example.com") + b"\0\1\0"),
    ("name without end", header() + b"\3www\7example\3com"),
    ("label without end", header() + b"\3www\x0bexam\0\1\0\1"),
    ("1035 §4.1.4 pointer as a name", header() + b"\xc0\x0c\0\1\0\1"),
    ("1035 §4.1.4 pointer at the end", header() + b"\3www\xc0\x0c\0\1\0\1"),
    ("1035 §4.1.4 pointer to itself", header() + b"\3www\xc0\x10\0\1\0\1"),
    ("label type 0x40", header() + b"\x41" + b"a" * 65 + b"\0\0\1\0\1"),
    ("label type 0x80", header() + b"\x81a\0\0\1\0\1"),
    ("1035 §2.3.4 name of 256", header() + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"b" * 62 + b"\0" + b"\0\1\0\1"),
    ("1035 §2.3.4 endless labels", header() + b"\1a" * 200 + b"\0\0\1\0\1"),
    ("1035 §2.3.4 long name under a zone", header() + b"\1a" * 122 + wire("example.com") + b"\0\1\0\1"),
]


@pytest.mark.parametrize(("packet", "why"), [(packet, why) for why, packet in MALFORMED], ids=[w for w, _ in MALFORMED])
@pytest.mark.parametrize("rd", [0, 1])
def test_malformed_gets_formerr_with_what_can_be_read(world: Door, packet: bytes, why: str, rd: int) -> None:
    """The question where there is one whole one, and an OPT for an OPT behind it (RFC 6891 §7), plain."""
    packet = packet[:2] + bytes([packet[2] | rd]) + packet[3:]
    reply = world.send(packet)
    name = wire("www.example.com")
    asked = packet[4:6] == b"\0\1" and packet[12:].startswith(name) and len(packet) >= 12 + len(QUESTION)
    question = packet[12 : 12 + len(QUESTION)] if asked else b""
    behind = packet[12 + len(question) :]
    edns = (asked or packet[4:6] == b"\0\0") and packet[11] and len(behind) >= 11 and behind.startswith(b"\0\0\x29")
    record = opt(flags=behind[7] << 8 & 0x8000) if edns else b""
    assert reply.octets == packet[:2] + struct.pack(
        ">5H", 0x8001 | rd << 8, bool(question), 0, 0, bool(record)) + question + record
    assert reply.moved == {m.KIND_FORMERR: 1, m.RCODE + FORMERR: 1}


@pytest.mark.parametrize("size", [*range(12), 13, 14, 15, 16])
def test_stumps(world: Door, size: int) -> None:
    octets, moved = world.octets((header() + QUESTION)[:size])
    if size < 12:
        assert (octets, moved) == (None, {m.DROPPED: 1})
    else:
        assert octets is not None
        assert octets[3] & 15 == FORMERR


@pytest.mark.parametrize("opcode", range(16))
@pytest.mark.parametrize("rest", [QUESTION, b"", QUESTION * 3, b"\xff" * 500], ids=["question", "none", "3", "junk"])
def test_no_reply_to_a_reply(world: Door, opcode: int, rest: bytes) -> None:
    assert world.octets(header(flags=0x8000 | opcode << 11) + rest) == (None, {m.DROPPED: 1})


@pytest.mark.parametrize("opcode", [1, 2, 3, *range(6, 16)])
@pytest.mark.parametrize("rest", [b"", QUESTION, b"\xff" * 500], ids=["none", "question", "junk"])
def test_other_opcodes_are_not_implemented(world: Door, opcode: int, rest: bytes) -> None:
    reply = world.send(header(flags=opcode << 11 | 0x0100) + rest)
    assert reply.message.opcode() == opcode
    assert (reply.rcode, reply.aa, len(reply.octets)) == (NOTIMP, False, 12)
    assert reply.moved == {m.KIND_NOTIMP: 1, m.RCODE + NOTIMP: 1}


@pytest.mark.parametrize("opcode", [4, 5], ids=["NOTIFY", "UPDATE"])
@pytest.mark.parametrize(("zone_section", "rcode"), [
    (wire("example.com") + b"\0\6\0\1", REFUSED),       # RFC 2136 §3.1.2: ours, and nobody may change it
    (wire("EXAMPLE.com") + b"\0\6\0\1", REFUSED),
    (wire("www.example.com") + b"\0\6\0\1", NOTAUTH),   # no zone is cut there
    (wire("nothing.example.com") + b"\0\6\0\1", NOTAUTH),
    (wire("nobody.test") + b"\0\6\0\1", NOTAUTH),
])
def test_update_and_notify_are_answered_cleanly(world: Door, opcode: int, zone_section: bytes, rcode: int) -> None:
    reply = world.send(header(flags=opcode << 11, authority=1) + zone_section + A_RR)
    assert (reply.rcode, reply.message.opcode(), reply.aa) == (rcode, opcode, False)
    assert reply.octets[12:] == zone_section
    assert reply.moved == {m.KIND_REFUSED: 1, m.RCODE + rcode: 1}


@pytest.mark.parametrize("opcode", [4, 5])
@pytest.mark.parametrize("packet", [
    header(questions=0), header(questions=2) + QUESTION * 2, header() + b"\xff" * 500,
    header() + QUESTION])  # a zone section names a zone by its SOA
def test_update_and_notify_without_one_zone_are_malformed(world: Door, opcode: int, packet: bytes) -> None:
    reply = world.send(packet[:2] + bytes([opcode << 3]) + packet[3:])
    assert (reply.rcode, reply.message.opcode(), len(reply.octets)) == (FORMERR, opcode, 12)


# --- names at their limits --------------------------------------------------------------------------------------------

LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 49]) + ".example.com."
DEEPEST = "z." * 121 + "example.com."


def test_names_of_255_octets_and_123_labels() -> None:
    assert len(wire(LONGEST)) == 255
    assert len(wire(DEEPEST)) == 255
    door = Door(image([zone("example.com", f"{LONGEST} A 192.0.2.1\n{DEEPEST} A 192.0.2.2\n")]))
    assert door.ask(LONGEST).addresses == ["192.0.2.1"]
    assert door.ask(DEEPEST).addresses == ["192.0.2.2"]
    assert door.ask(LONGEST[2:]).rcode == NXDOMAIN
    assert door.ask(DEEPEST[2:]).rcode == 0
    assert door.ask(DEEPEST.replace("z", "y", 1)).rcode == NXDOMAIN
    assert door.ask("y." + DEEPEST[2:], "DS").authority


@pytest.mark.parametrize(
    "name", ["\\000", "a\\000", "\\000a.nul\\000octet", "nul\\000octet.www", "\\000\\000\\000", "www\\000"])
def test_zero_octets_in_labels_end_no_name(world: Door, name: str) -> None:
    packet = query(f"{name}.example.com")
    reply = world.send(packet)
    assert (reply.rcode, reply.octets[12 : len(packet)]) == (NXDOMAIN, packet[12:])


def test_zero_octets_where_the_rest_looks_like_a_query(world: Door) -> None:
    """The octets up to the first zero are no whole name here, whatever stands behind them."""
    inner = b"\x10www\7example\3com\0" + b"\7example\3com\0" + b"\0\1\0\1"
    reply = world.send(header() + inner)
    assert reply.rcode == NXDOMAIN


def test_known_name_found_by_its_octets_without_question(world: Door) -> None:
    assert world.send(header(extra=1) + wire("www.example.com")).rcode == FORMERR


# --- flags ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags", [0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010, 0x000F, 0x07FF])
def test_of_the_querys_flags_only_rd_comes_back(world: Door, flags: int) -> None:
    reply = world.send(header(flags=flags) + QUESTION)
    assert int(reply.message.flags) == dns.flags.QR | dns.flags.AA | (flags & dns.flags.RD)
    assert reply.rcode == 0


# --- EDNS -------------------------------------------------------------------------------------------------------------

def test_no_opt_without_opt(world: Door) -> None:
    assert world.ask("www.example.com").message.opt is None


@pytest.mark.parametrize(("name", "type_", "rcode", "kind"), [
    ("www.example.com", "A", 0, m.KIND_STATIC), ("nothing.example.com", "A", NXDOMAIN, m.KIND_NXDOMAIN),
    ("www.example.com", "MX", 0, m.KIND_NODATA), ("x.sub.example.com", "A", 0, m.KIND_REFERRAL),
    ("al.example.com", "A", 0, m.KIND_CNAME), ("api.example.com", "TXT", 0, m.KIND_STATIC),
    ("example.net", "A", REFUSED, m.KIND_REFUSED), ("www.example.com", "ANY", 0, m.KIND_ANY),
])
@pytest.mark.parametrize("do", [False, True])
def test_opt_comes_back_with_do(world: Door, name: str, type_: str, rcode: int, kind: int, do: bool) -> None:
    """RFC 6891 §6.1.1, RFC 3225 §3: an OPT for an OPT, DO copied, our own size, version 0, unsigned data unchanged."""
    reply = world.send(query(name, type_, edns=True, do=do))
    assert reply.rcode == rcode
    assert reply.message.edns == 0
    assert reply.message.payload == 1232
    assert reply.message.ednsflags == (dns.flags.DO if do else 0)
    assert reply.moved == dict.fromkeys([kind, m.RCODE + rcode, m.EDNS, *([m.DNSSEC_OK] if do else [])], 1)
    assert reply.answer == world.ask(name, type_).answer
    assert world.ask(name, type_).octets[12:] in reply.octets or rcode == REFUSED


@pytest.mark.parametrize("version", [1, 2, 255])
@pytest.mark.parametrize("name", ["www.example.com", "nothing.example.com", "api.example.com", "example.net"])
def test_badvers(world: Door, version: int, name: str) -> None:
    """RFC 6891 §6.1.3: extended rcode 16, version 0, the question, no data; options of that version are not read."""
    question = wire(name) + b"\0\1\0\1"
    for options in (b"", b"\0\3\0\xff", ecs(9, 9, b"xx")):
        reply = world.send(with_opt(opt(options, version=version, flags=0x8000), question))
        assert (reply.rcode, reply.message.edns, reply.aa) == (BADVERS, 0, False)
        assert reply.octets == (b"\x12\x67\x80\0\0\1\0\0\0\0\0\1" + question + b"\0\0\x29\4\xd0\1\0\x80\0\0\0")
        assert reply.moved == dict.fromkeys([m.KIND_BADVERS, m.RCODE + BADVERS, m.EDNS, m.DNSSEC_OK], 1)


@pytest.mark.parametrize(("record", "why"), [
    (opt(option(65001, b"anything")), "unknown option"),
    (opt(option(10, b"12345678")), "cookie"),
    (opt(option(12, bytes(100))), "padding"),
    (opt(option(65001, b"") * OPTIONS_MAX), "many options"),
    (opt(flags=0x7FFF), "unknown flags"),
    (opt(extended=77), "extended rcode in a query"),
    (opt(option(15, b"")), "an error told to us"),
])
def test_what_we_do_not_know_is_passed_over(world: Door, record: bytes, why: str) -> None:
    """RFC 6891 §6.1.2 and §6.1.4: ignored, and not sent back."""
    reply = world.send(with_opt(record))
    assert reply.octets[-11:] == opt()
    assert reply.moved == dict.fromkeys([m.KIND_STATIC, m.RCODE, m.EDNS], 1)


# --- NSID -------------------------------------------------------------------------------------------------------------

def test_nsid_names_node_worker_and_stamp(world: Door) -> None:
    """RFC 5001 §2.3; also in errors, and once however often asked."""
    for packet, rcode in [
        (query("www.example.com", nsid=True), 0), (query("example.net", nsid=True), REFUSED),
        (query("nothing.example.com", nsid=True), NXDOMAIN), (with_opt(opt(option(3, b"ignored") * 2)), 0),
    ]:
        reply = world.send(packet)
        found = reply.option(3)
        assert found is not None
        assert found.to_wire() == b"node1.w0 00000000000000e0.7.3"
        assert reply.rcode == rcode
        assert (reply.moved[m.NSID], reply.moved[m.EDNS]) == (1, 1)


def test_nsid_with_everything_else(world: Door) -> None:
    reply = world.ask("api.example.com", ecs="10.1.2.0/24", nsid=True, do=True)
    assert {option.otype for option in reply.message.options} == {3, 8}
    assert reply.scope == 24
    assert reply.moved == dict.fromkeys(
        [m.KIND_SERVICE, m.RCODE, m.EDNS, m.NSID, m.DNSSEC_OK, m.ECS_V4, m.NO_PLACE], 1)


# --- client subnet ----------------------------------------------------------------------------------------------------

GOOD_ECS = [
    ("v4 /24", ecs(1, 24, b"\x0a\1\2"), m.ECS_V4),
    ("v4 /32", ecs(1, 32, b"\x0a\1\2\3"), m.ECS_V4),
    ("v4 /25", ecs(1, 25, b"\x0a\1\2\x80"), m.ECS_V4),
    ("v4 /20", ecs(1, 20, b"\x0a\1\xf0"), m.ECS_V4),
    ("v4 /8", ecs(1, 8, b"\x0a"), m.ECS_V4),
    ("v4 /1", ecs(1, 1, b"\x80"), m.ECS_V4),
    ("v4 /0", ecs(1, 0, b""), m.ECS_OPT_OUT),
    ("v6 /56", ecs(2, 56, b"\x20\1\x0d\xb8\0\1\2"), m.ECS_V6),
    ("v6 /128", ecs(2, 128, b"\x20\1\x0d\xb8" + bytes(11) + b"\1"), m.ECS_V6),
    ("v6 /49", ecs(2, 49, b"\x20\1\x0d\xb8\0\1\x80"), m.ECS_V6),
    ("v6 /0", ecs(2, 0, b""), m.ECS_OPT_OUT),
]

# What `dig +subnet=0` sends: an opt-out of no family. dnspython reads no such option: it is looked for by its octets.
NO_FAMILY = ecs(0, 0, b"")

BAD_ECS = [
    ("§6 empty", option(8, b"")),
    ("§6 three octets", option(8, b"\0\1\0")),
    ("§6 family 0 with a prefix", ecs(0, 8, b"\x0a")),
    ("§7.1.2 family 3", ecs(3, 0, b"")),
    ("§7.1.2 family 3 with a prefix", ecs(3, 24, b"\x0a\1\2")),
    ("§7.1.2 family 257", ecs(257, 24, b"\x0a\1\2")),
    ("§7.1.2 family 512", ecs(512, 0, b"")),
    ("§6 v4 /33", ecs(1, 33, b"\x0a\1\2\3\0")),
    ("§6 v4 /255", ecs(1, 255, bytes(32))),
    ("§6 v6 /129", ecs(2, 129, bytes(17))),
    ("§6 octet missing", ecs(1, 24, b"\x0a\1")),
    ("§6 octet too many", ecs(1, 24, b"\x0a\1\2\0")),
    ("§6 address for source 0", ecs(1, 0, b"\0")),
    ("§6 no address", ecs(1, 24, b"")),
    ("§6 trailing bit v4", ecs(1, 20, b"\x0a\1\xf1")),
    ("§6 trailing bit v4 /1", ecs(1, 1, b"\xc0")),
    ("§6 trailing bit v6", ecs(2, 49, b"\x20\1\x0d\xb8\0\1\xc0")),
    ("§7.1.2 scope 1", ecs(1, 24, b"\x0a\1\2", 1)),
    ("§7.1.2 scope 24", ecs(1, 24, b"\x0a\1\2", 24)),
    ("§7.1.2 scope in opt-out", ecs(1, 0, b"", 255)),
    ("two subnets", ecs(1, 24, b"\x0a\1\2") * 2),
    ("two different subnets", ecs(1, 24, b"\x0a\1\2") + ecs(2, 0, b"")),
]


@pytest.mark.parametrize(("data", "slot", "why"), [(data, slot, why) for why, data, slot in GOOD_ECS],
                         ids=[why for why, *_ in GOOD_ECS])
@pytest.mark.parametrize(("name", "kind", "rcode", "also"), [
    ("www.example.com", m.KIND_STATIC, 0, []), ("nothing.example.com", m.KIND_NXDOMAIN, NXDOMAIN, []),
    ("x.sub.example.com", m.KIND_REFERRAL, 0, []), ("example.net", m.KIND_REFUSED, REFUSED, []),
    ("api.example.com", m.KIND_SERVICE, 0, [m.NO_PLACE]),
])
def test_subnet_comes_back_with_its_scope(
    world: Door, name: str, kind: int, rcode: int, also: list[int], data: bytes, slot: int, why: str,
) -> None:
    """RFC 7871 §7.2.1: family, source and address as they came; scope 0 where the client does not matter (§7.4).

    The service's map is not here, so its answer is only for who asked.
    """
    reply = world.send(with_opt(opt(data), wire(name) + b"\0\1\0\1"))
    scope = min(data[6], 56 if data[5] == 2 else 24) if kind == m.KIND_SERVICE else 0
    assert reply.octets.endswith(data[:7] + bytes([scope]) + data[8:])
    assert reply.message.payload == 1232
    assert reply.moved == dict.fromkeys([kind, m.RCODE + rcode, m.EDNS, slot, *also], 1)


@pytest.mark.parametrize(("data", "why"), [(data, why) for why, data in BAD_ECS], ids=[why for why, _ in BAD_ECS])
@pytest.mark.parametrize("name", ["www.example.com", "nothing.example.com", "api.example.com"])
def test_bad_subnet_is_formerr(world: Door, data: bytes, why: str, name: str) -> None:
    """RFC 7871 §7.1.2 and §7.2.1: FORMERR, whatever is asked and whatever other options there are."""
    for options in (data, option(3, b"") + data, data + option(65001, b"x")):
        reply = world.send(with_opt(opt(options), wire(name) + b"\0\1\0\1"))
        assert reply.moved == {m.KIND_FORMERR: 1, m.RCODE + FORMERR: 1}


@pytest.mark.parametrize("name", ["www.example.com", "api.example.com", "nothing.example.com"])
def test_opt_out_without_a_family(world: Door, name: str) -> None:
    octets, moved = world.octets(with_opt(opt(NO_FAMILY), wire(name) + b"\0\1\0\1"))
    assert octets is not None
    assert octets.endswith(opt(NO_FAMILY))
    assert moved[m.ECS_OPT_OUT] == 1


# --- truncation -------------------------------------------------------------------------------------------------------

BIG, HUGE = "big.example.com", "huge.example.com"  # 753 and 2008 octets of rdata


@pytest.mark.parametrize(("name", "payload", "tcp", "cut"), [
    ("www.example.com", None, False, False), (BIG, None, False, True), (BIG, None, True, False),
    (BIG, 0, False, True), (BIG, 512, False, True), (BIG, 800, False, True), (BIG, 900, False, False),
    (BIG, 65535, False, False), (HUGE, 65535, False, True), (HUGE, 1232, False, True), (HUGE, 512, True, False),
    (HUGE, None, True, False), ("www.example.com", 0, False, False),
])
def test_truncation(name: str, payload: int | None, tcp: bool, cut: bool) -> None:
    """RFC 6891 §6.2.3–6.2.5, RFC 9715 §3: the client's size, at least 512, at most 1232; TCP has room for all."""
    door = Door(standard(), tcp=tcp)
    packet = query(name, "TXT") if payload is None else query(name, "TXT", edns=True, payload=payload)
    reply = door.send(packet)
    assert reply.tc == cut
    assert (reply.rcode, reply.aa) == (0, True)
    assert reply.octets[12 : 12 + len(wire(name)) + 4] == wire(name) + b"\0\x10\0\1"
    assert bool(reply.answer) != cut
    assert reply.message.edns == (-1 if payload is None else 0)
    expected = [m.KIND_STATIC, m.RCODE, *([m.EDNS] if payload is not None else []), *([m.TRUNCATED] if cut else [])]
    assert reply.moved == dict.fromkeys(expected, 1)


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("size", [511, 512, 513])
def test_an_answer_may_fill_the_limit_and_no_more(edns: bool, size: int) -> None:
    rdata = size - 12 - len(wire("t.example.com")) - 4 - 12 - 11 * edns
    door = Door(image([zone("example.com", f"t TXT {'x' * 240} {'y' * (rdata - 242)}")]))
    reply = door.send(query("t.example.com", "TXT", edns=edns, payload=512))
    assert (reply.tc, len(reply.octets) == size) == ((False, True) if size <= 512 else (True, False))


def test_what_is_cut_keeps_question_opt_subnet_and_nsid() -> None:
    """RFC 6891 §7: the OPT survives; the sections are empty (RFC 2181 §9)."""
    reply = Door(standard()).ask(HUGE, "TXT", ecs="10.1.2.0/24", nsid=True, do=True)
    assert reply.tc
    assert {option.otype for option in reply.message.options} == {3, 8}
    assert [len(section) for section in reply.message.sections] == [1, 0, 0, 0]


def test_referral_that_does_not_fit_is_cut_for_its_glue() -> None:
    """RFC 9471 §3.1: glue of in-domain servers that does not fit sets TC."""
    servers = "".join(
        f"sub NS ns{n}.sub\nns{n}.sub A 192.0.2.{n}\nns{n}.sub AAAA 2001:db8::{n}\n" for n in range(1, 11))
    door = Door(image([zone("example.com", servers)]))
    reply = door.ask("x.sub.example.com")
    assert (reply.tc, reply.aa) == (True, False)
    assert not door.send(query("x.sub.example.com", edns=True)).tc


@pytest.mark.parametrize("type_", ["A", "AAAA", "HTTPS", "MX"])
@pytest.mark.parametrize(("apex", "rcode"), [("example.com", REFUSED), ("d" * 61, 0)])
def test_the_longest_reply_without_data_fits_512(apex: str, rcode: int, type_: str) -> None:
    """Longest name, subnet, NSID, cookie and error texts: what is left after truncation goes into the least limit."""
    context = Context([0] * m.SLOTS, node="n" * 63 + " w255")
    context.cookies = Cookies([bytes(16)])
    web = service(f"*.{apex}", endpoint(1, aaaa=False), panic=True, last_good=["2001:db8::9"], types=[1, 28, 65])
    held = image([zone(apex, "")], [replace(web, https=((1, b"\2h2"),))])
    held.stamp = type(held.stamp)(2**64 - 1, 2**64 - 1, 2**64 - 1)
    options = option(3, b"") + ecs(2, 128, b"\xff" * 16) + option(10, b"8 octets")
    name = wire(".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]))
    packet = with_opt(opt(options, size=512), name + struct.pack(">HH", dns.rdatatype.from_text(type_), 1))
    reply = respond(packet, RESOLVER, held, NOW, context)
    assert reply is not None
    assert len(reply) <= 512
    assert dns.message.from_wire(reply).rcode() == rcode


def test_errors_say_why() -> None:
    """RFC 8914 §4.21: not authoritative."""
    reply = Door(standard()).send(query("example.net", edns=True))
    assert [str(option.to_text()) for option in reply.message.options] == [
        "EDE 20 (Not Authoritative): no zone of this server holds the name"]


def test_image_without_zones_refuses() -> None:
    door = Door(image([]))
    assert door.ask("example.com").rcode == REFUSED
    assert door.ask(".").rcode == REFUSED


def test_service_of_another_name_is_not_in_the_way() -> None:
    door = Door(image([zone("example.com", "")], [service("a.example.com")]))
    assert door.ask("b.example.com").rcode == NXDOMAIN
