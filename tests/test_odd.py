"""The door beside plain queries: signed ones, transfers, class CH, what a context adds, and what is shed.

Packets are built with dnspython or octet by octet, replies read by dnspython; every case names the counters that move.
"""

from __future__ import annotations

import struct

import dns.message
import dns.name
import dns.rdatatype
import dns.tsig
import pytest

from dnsd import metrics as m
from dnsd.context import DESK, Desk
from dnsd.dns.cookies import Cookies
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes
from tests.golden.world import NOW, RESOLVER, Door, image, query, standard, with_client, zone

FORMERR, NXDOMAIN, REFUSED, NOTAUTH, BADVERS = 1, 3, 5, 9, 16
KEY = dns.tsig.Key("key.example.", b"0123456789abcdef", "hmac-sha256")


def door(*, tcp: bool = False) -> Door:
    """The standard world with a context of its own."""
    return Door(standard(), tcp=tcp)


def signed(name: str, type_: str = "A", *, edns: bool = False) -> bytes:
    """A query with a TSIG."""
    message = dns.message.make_query(name, type_, use_edns=0 if edns else False, id=4711, flags=0)
    message.use_tsig(KEY)
    return message.to_wire()


def ixfr(name: str, *, edns: bool = False, tsig: bool = False) -> bytes:
    """An IXFR query with the SOA its asker has (RFC 1995 §3)."""
    message = dns.message.make_query(name, "IXFR", use_edns=0 if edns else False, id=4711, flags=0)
    message.authority.append(dns.rrset.from_text(f"{name}.", 0, "IN", "SOA", ". . 1 2 3 4 5"))
    if tsig:
        message.use_tsig(KEY)
    return message.to_wire()


# --- signed -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("type_", ["A", "SOA", "AXFR", "TYPE65000"])
def test_a_key_nobody_gave_us_is_unknown(type_: str, edns: bool) -> None:
    """RFC 8945 §5.2.1: NOTAUTH, BADKEY in a TSIG without a MAC, no signature checked, nothing answered."""
    world = door()
    packet = signed("www.example.com", type_, edns=edns)
    octets, moved = world.octets(packet)
    assert octets is not None
    # dnspython would raise what the TSIG tells; so it is asked not to look at it, and the TSIG is read apart.
    with pytest.raises(dns.tsig.PeerBadKey):
        dns.message.from_wire(octets, keyring={KEY.name: KEY}, request_mac=b"")
    reply = dns.message.from_wire(octets, keyring=False)
    tsig = reply.tsig[0]
    assert (reply.rcode(), reply.answer, reply.authority) == (NOTAUTH, [], [])
    assert reply.question == dns.message.from_wire(packet, keyring={KEY.name: KEY}).question
    assert (reply.tsig.name, tsig.algorithm, tsig.mac, tsig.error) == (KEY.name, KEY.algorithm, b"", 17)
    assert (tsig.original_id, tsig.other) == (4711, b"")
    assert (reply.edns == 0) is edns
    assert moved == {m.KIND_REFUSED: 1, m.RCODE + NOTAUTH: 1}


@pytest.mark.parametrize("packet", [
    signed("www.example.com"), signed("nothing.example.com", "AXFR", edns=True), signed("example.net", "SOA"),
    ixfr("example.com", tsig=True), ixfr("example.com", edns=True, tsig=True)])
def test_with_keys_the_desk_takes_all_that_is_signed(packet: bytes) -> None:
    world = door()
    world.context.desk = Desk(signed=True)
    assert world.octets(packet) == (DESK, {m.DESK: 1})


def broken_tails() -> list[tuple[str, bytes]]:
    """Tails that are no OPT and no TSIG."""
    whole = signed("www.example.com")
    record = whole[33:]
    head = struct.pack(">6H", 4711, 0, 1, 0, 0, 1) + whole[12:33]
    cut = [(f"cut by {n}", whole[:-n]) for n in (1, 2, 10, 40, len(record) - 1)]
    return [
        *cut, ("trailing octet", whole + b"\0"), ("pointer as the key's name", head + b"\xc0\x0c" + record[13:]),
        ("label type 0x40", head + b"\x40" + record[1:]), ("twice", head[:11] + b"\2" + head[12:] + record * 2),
        ("not the last", head[:11] + b"\2" + head[12:] + record + b"\0\0\x29\4\xd0\0\0\0\0\0\0"),
        ("three more", head[:11] + b"\4" + head[12:] + (b"\0\0\x29\4\xd0\0\0\0\0\0\0") * 4),
        ("a name without an end", head + b"\x3f" * 300), ("two OPT", head[:11] + b"\2" + head[12:] + (
            b"\0\0\x29\4\xd0\0\0\0\0\0\0") * 2),
    ]


@pytest.mark.parametrize(("why", "packet"), broken_tails(), ids=[why for why, _ in broken_tails()])
def test_broken_tails_are_malformed(why: str, packet: bytes) -> None:
    world = door()
    reply = world.send(packet)
    assert reply.rcode == FORMERR
    assert reply.moved == {m.KIND_FORMERR: 1, m.RCODE + FORMERR: 1}


def test_an_algorithm_told_by_a_pointer_is_malformed() -> None:
    """RFC 8945 §4.2: these names are not compressed; ours would point elsewhere."""
    packet = signed("www.example.com")
    name = dns.name.from_text("hmac-sha256").to_wire()
    at = packet.index(name)
    length = int.from_bytes(packet[at - 2 : at], "big") - len(name) + 2
    packet = packet[: at - 2] + length.to_bytes(2, "big") + b"\xc0\x0c" + packet[at + len(name) :]
    assert door().send(packet).rcode == FORMERR


def test_a_broken_tail_costs_one_token() -> None:
    """What is neither OPT nor TSIG is counted against its sender once."""
    world = door()
    guard = Guard([0] * 64, answers=10, others=10, burst_s=1.0, raised_by=1, exempt=Prefixes(()), raised=Prefixes(()),
                  key=1)
    guard.tick(10**12)
    world.context.guard, world.context.strict = guard, True
    replies = [world.octets(signed("www.example.com") + b"junk")[0] for _ in range(12)]
    assert list(map(bool, replies)) == [True] * 10 + [False] * 2


# --- transfers and explanations ---------------------------------------------------------------------------------------

NEAR = Desk(neighbours=Prefixes(["192.0.2.0/24"]), why=Prefixes(["192.0.2.53"]))


@pytest.mark.parametrize("edns", [False, True])
def test_ixfr_is_refused_unless_a_neighbour_asks(edns: bool) -> None:
    packet = ixfr("example.com", edns=edns)
    world = door()
    reply = world.send(packet)
    assert (reply.rcode, reply.message.edns) == (REFUSED, 0 if edns else -1)
    told = reply.option(15)
    assert (told is not None and told.to_wire()[:2] == b"\0\x12") is edns
    below = door().send(ixfr("www.example.com", edns=edns))
    assert below.rcode == NOTAUTH
    assert reply.octets[12:].startswith(packet[12:29])
    assert reply.moved == {m.KIND_REFUSED: 1, m.RCODE + REFUSED: 1}
    world.context.desk = NEAR
    assert world.octets(packet) == (DESK, {m.DESK: 1})
    far = with_client(world, "198.51.100.1")
    far.context.desk = NEAR
    assert far.send(packet).rcode == REFUSED


def test_ixfr_is_asked_by_the_rules_of_edns() -> None:
    """RFC 6891 §6.1.3: another version first of all; RFC 7871 §7.1.2 here as anywhere."""
    packet = ixfr("example.com", edns=True)
    assert packet[-11:-8] == b"\0\0\x29"
    world = door()
    world.context.desk = NEAR
    reply = world.send(packet[:-5] + b"\1" + packet[-4:])
    assert (reply.rcode, reply.message.edns, reply.message.payload) == (BADVERS, 0, 1232)
    assert reply.moved == {m.KIND_BADVERS: 1, m.RCODE + BADVERS: 1}
    reply = world.send(packet[:-2] + b"\0\x08\0\x08\0\4\0\1\x18\1")
    assert reply.rcode == FORMERR


@pytest.mark.parametrize("opcode", range(1, 16))
@pytest.mark.parametrize("type_", ["SOA", "A"])
@pytest.mark.parametrize("do", [False, True])
def test_edns_is_answered_to_any_opcode(opcode: int, type_: str, do: bool) -> None:
    """RFC 6891 §6.1.1."""
    packet = bytearray(query("example.com", type_, edns=True, do=do))
    packet[2] |= opcode << 3
    octets, _ = door().octets(bytes(packet))
    assert octets is not None
    assert octets[11] == 1
    assert octets.endswith(b"\0\0\x29\4\xd0\0\0" + (b"\x80" if do else b"\0") + bytes(3))
    assert len(octets) <= len(packet)
    packet[11:] = b"\0" + packet[12:-11]
    octets, _ = door().octets(bytes(packet))
    assert octets is not None
    assert octets[11] == 0


def test_only_ixfr_has_an_authority_section() -> None:
    packet = ixfr("example.com").replace(b"\0\xfb\0\1", b"\0\1\0\1", 1)
    assert door().send(packet).rcode == FORMERR
    two = bytearray(ixfr("example.com"))
    two[9] = 2
    assert door().send(bytes(two)).rcode == FORMERR


@pytest.mark.parametrize(("name", "type_"), [
    ("example.com", "AXFR"), ("example.com", "IXFR"), ("nothing.example.com", "AXFR"), ("example.net", "AXFR"),
    ("_why.api.example.com", "TXT"), ("_WHY.api.example.com", "TXT"), ("_why.example.net", "TXT")])
def test_the_desk_takes_what_its_clients_ask(name: str, type_: str) -> None:
    world = door()
    before = world.ask(name, type_).rcode
    world.context.desk = NEAR
    assert world.octets(query(name, type_)) == (DESK, {m.DESK: 1})
    far = with_client(world, "203.0.113.1")
    far.context.desk = NEAR
    assert far.ask(name, type_).rcode == before


@pytest.mark.parametrize(("name", "type_"), [
    ("example.com", "SOA"), ("_why.api.example.com", "A"), ("why.api.example.com", "TXT"),
    ("_whyapi.example.com", "TXT")])
def test_the_desk_takes_nothing_else(name: str, type_: str) -> None:
    world = door()
    world.context.desk = NEAR
    assert world.ask(name, type_).octets


# --- class CH ---------------------------------------------------------------------------------------------------------

def chaos() -> Door:
    world = door()
    world.context.chaos = {b"\x02id\x06server\0": None, b"\x07version\x04bind\0": b"dnsd 9"}
    return world


@pytest.mark.parametrize(("name", "type_", "text"), [
    ("id.server", "TXT", "node1.w0 00000000000000e0.7.3"), ("ID.Server", "TXT", "node1.w0 00000000000000e0.7.3"),
    ("version.bind", "TXT", "dnsd 9"), ("version.bind", "ANY", "dnsd 9"),
])
def test_who_we_are(name: str, type_: str, text: str) -> None:
    reply = chaos().ask(name, type_, "CH")
    assert reply.message.answer[0].rdclass == 3
    assert reply.answer == [f'{dns.name.from_text(name)} 0 TXT "{text}"']
    assert reply.moved == {m.KIND_CHAOS: 1, m.RCODE: 1}


@pytest.mark.parametrize(("name", "type_", "class_"), [
    ("version.bind", "A", "CH"), ("hostname.bind", "TXT", "CH"), ("version.bind", "TXT", "IN"),
    ("version.bind", "TXT", "HS"), ("www.example.com", "TXT", "CH"), ("version.bind", "AXFR", "CH")])
def test_what_is_switched_off_or_not_there_is_refused(name: str, type_: str, class_: str) -> None:
    assert chaos().ask(name, type_, class_).rcode == REFUSED


# --- what a context adds ----------------------------------------------------------------------------------------------

def with_options(*options: tuple[int, bytes], questions: int = 1, size: int = 1232) -> bytes:
    data = b"".join(struct.pack(">HH", code, len(value)) + value for code, value in options)
    question = query("www.example.com")[12:] if questions else b""
    return (struct.pack(">6H", 4711, 0, questions, 0, 0, 1) + question + b"\0\0\x29" + size.to_bytes(2, "big")
            + bytes(4) + struct.pack(">H", len(data)) + data)


def test_client_subnets_are_believed_from_listed_resolvers_only() -> None:
    world = door()
    world.context.ecs_from = Prefixes(["198.51.100.0/24"])
    reply = world.ask("api.example.com", ecs="10.1.2.0/24")
    assert (reply.scope, reply.rcode) == (None, 0)
    assert reply.addresses == door().ask("api.example.com").addresses
    assert reply.moved[m.ECS_IGNORED] == 1
    assert m.ECS_V4 not in reply.moved
    believed = with_client(world, "198.51.100.7")
    believed.context.ecs_from = world.context.ecs_from
    assert believed.ask("api.example.com", ecs="10.1.2.0/24").scope is not None


def test_a_malformed_subnet_is_malformed_from_anybody() -> None:
    world = door()
    world.context.ecs_from = Prefixes(["198.51.100.0/24"])
    assert world.send(with_options((8, b"\0\1\x18\0\1"))).rcode == FORMERR


@pytest.mark.parametrize(("tcp", "keepalive", "told"), [(True, 100, b"\0\x64"), (True, 0, b"\0\0"), (True, -1, None),
                                                        (False, 100, None)])
def test_keepalive(tcp: bool, keepalive: int, told: bytes | None) -> None:
    """RFC 7828 §3.2: told on TCP where it is asked for, never over UDP."""
    world = door(tcp=tcp)
    world.context.keepalive = keepalive
    found = world.send(with_options((11, b""))).option(11)
    assert (found.to_wire() if found else None) == told
    assert world.ask("www.example.com", do=True).option(11) is None


@pytest.mark.parametrize("extra", [(), ((3, b""),), ((10, b"12345678"),), ((8, b"\0\1\x18\0\1\2\3"),)])
def test_padding_fills_blocks_of_468_on_encrypted_transports(extra: tuple[tuple[int, bytes], ...]) -> None:
    """RFC 8467 §4.1."""
    world = door(tcp=True)
    asked = with_options((12, b""), *extra)
    assert world.send(asked).option(12) is None
    world.context.pad = True
    world.context.cookies = Cookies([bytes(16)])
    reply = world.send(asked)
    assert reply.option(12) is not None
    assert len(reply.octets) == 468
    assert len(world.send(with_options(*extra)).octets) < 200


def test_padding_makes_nothing_too_long() -> None:
    """RFC 8467 §4.1: up to what a message can have."""
    text = f'"{"z" * 250}" ' * 260
    for last, size in ((198, 65520), (199, 65520 + 15), (213, 65520 + 15)):
        world = Door(image([zone("example.com", f"long TXT {text} {'y' * last}")]), tcp=True)
        world.context.pad = True
        reply = world.send(query("long.example.com", "TXT", edns=True)[:-2] + b"\0\4\0\x0c\0\0")
        assert (len(reply.octets), bool(reply.answer)) == (size, True)


# --- cookies ----------------------------------------------------------------------------------------------------------

COOKIES = Cookies([b"0123456789abcdef"])
CLIENT = b"8 octets"


def bakery(*, tcp: bool = False) -> Door:
    world = door(tcp=tcp)
    world.context.cookies = COOKIES
    return world


def test_a_cookie_for_a_cookie() -> None:
    reply = bakery().send(with_options((10, CLIENT)))
    found = reply.option(10)
    assert found is not None
    assert found.to_wire() == CLIENT + COOKIES.made(CLIENT, RESOLVER, NOW)
    assert reply.moved == dict.fromkeys([m.KIND_STATIC, m.RCODE, m.EDNS, m.COOKIES], 1)
    assert door().send(with_options((10, CLIENT))).option(10) is None, "cookies are off"


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15, 41, 100])
def test_cookies_of_no_length_are_malformed(size: int) -> None:
    """RFC 7873 §5.2.2; an empty option is no cookie either."""
    reply = bakery().send(with_options((10, bytes(size))))
    assert reply.rcode == FORMERR


def test_of_two_cookies_the_first_counts() -> None:
    """RFC 7873 §5.2."""
    found = bakery().send(with_options((10, CLIENT), (10, b"87654321"))).option(10)
    assert found is not None
    assert found.to_wire().startswith(CLIENT)


@pytest.mark.parametrize(("server", "rcode"), [
    (b"", 0), (COOKIES.made(CLIENT, RESOLVER, NOW), 0), (COOKIES.made(CLIENT, b"\1\2\3\4", NOW), 23),
    (COOKIES.made(CLIENT, RESOLVER, NOW - 4000), 23), (bytes(8), 23), (bytes(32), 23)])
def test_a_cookie_without_a_question(server: bytes, rcode: int) -> None:
    """RFC 7873 §5.4."""
    reply = bakery().send(with_options((10, CLIENT + server), questions=0))
    assert (reply.rcode, reply.message.question) == (rcode, [])
    found = reply.option(10)
    assert found is not None
    assert found.to_wire()[8:] == COOKIES.made(CLIENT, RESOLVER, NOW)
    assert reply.moved == dict.fromkeys([m.KIND_COOKIE, m.RCODE + rcode, m.COOKIES], 1)


@pytest.mark.parametrize("packet", [
    with_options(questions=0), with_options((3, b""), questions=0), with_options((10, b"123"), questions=0),
    with_options((10, CLIENT), questions=0).replace(b"\4\xd0\0\0", b"\4\xd0\0\1")])
def test_no_question_and_no_cookie_is_malformed(packet: bytes) -> None:
    reply = bakery().send(packet)
    assert (reply.rcode, reply.message.edns) == (FORMERR, 0)


# --- shedding ---------------------------------------------------------------------------------------------------------

SHED = [
    (1, b"\x12\x67" + bytes(10)), (1, query("www.example.com") + b"junk"), (1, b"\x12\x67\x10" + bytes(9)),
    (1, b"\x12\x67\x28" + bytes(9)), (1, with_options().replace(b"\4\xd0\0\0", b"\4\xd0\0\1")),
    (2, query("example.net")), (2, query("example.net", "ANY", edns=True)), (3, query("nothing.example.com")),
]


@pytest.mark.parametrize("shed", [0, 1, 2, 3])
@pytest.mark.parametrize(("least", "packet"), SHED)
def test_the_least_useful_goes_first(least: int, packet: bytes, shed: int) -> None:
    world = door()
    world.context.shed, world.context.strict = shed, shed > 0
    octets, moved = world.octets(packet)
    if shed >= least:
        assert octets is None
        assert moved == {m.SHED: 1} or moved == {m.SHED: 1, m.EDNS: 1}
    else:
        assert octets
        assert m.SHED not in moved


@pytest.mark.parametrize(("name", "type_"), [
    ("www.example.com", "A"), ("api.example.com", "A"), ("al.example.com", "A"), ("www.example.com", "MX"),
    ("x.sub.example.com", "A"), ("x.w.example.com", "A"), ("www.example.com", "ANY")])
def test_what_is_known_and_good_is_never_shed(name: str, type_: str) -> None:
    world = door()
    expected = world.ask(name, type_)
    world.context.shed, world.context.strict = 3, True
    assert world.ask(name, type_) == expected


# --- limits -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("packet", [
    b"\x12\x67" + bytes(10), query("www.example.com") + b"junk", b"\x12\x67\x10" + bytes(9), b"\x12\x67\x28" + bytes(9),
    signed("www.example.com"), ixfr("example.com"), with_options((10, CLIENT), questions=0)])
def test_over_its_rate_a_client_is_told_no_more_errors(packet: bytes) -> None:
    """Whoever forges the address of another kind of server could make the two talk for ever."""
    world = bakery()
    world.context.guard = Guard(
        [0] * 64, answers=9, others=2, burst_s=1.0, raised_by=1, exempt=Prefixes(()), raised=Prefixes(()), key=1)
    world.context.guard.tick(10**9)
    world.context.strict = True
    assert [world.octets(packet)[0] is None for _ in range(4)] == [False, False, True, True]
    assert world.count[m.LIMITED_DROPPED] == 2
    tcp = bakery(tcp=True)
    tcp.context.guard, tcp.context.strict = world.context.guard, True
    assert tcp.octets(packet)[0] is not None
