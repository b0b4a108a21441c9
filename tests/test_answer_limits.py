"""The door over its rate: who is told to come by TCP, who to come with a cookie, who is answered all the same.

Lives here: `respond` with a guard and cookies. Does not live here: buckets (`dns/test_guard`), cookies themselves
(`dns/test_cookies`), a flood on a real node (`e2e/test_limits`).
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest

from dnsd import metrics as m
from dnsd.dns.cookies import Cookies
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes
from tests.golden.world import NOW, RESOLVER, Door, query, standard

BADCOOKIE, FORMERR = 23, 1
COOKIES = Cookies([b"0123456789abcdef"])
ASKER = b"8 octets"
VALID = ASKER + COOKIES.made(ASKER, RESOLVER, NOW)
ANSWERS, OTHERS = 4, 2

KINDS = [
    ("www.example.com", "A", ANSWERS), ("api.example.com", "AAAA", ANSWERS), ("al.example.com", "A", ANSWERS),
    ("huge.example.com", "TXT", ANSWERS), ("x.w.example.com", "A", ANSWERS), ("www.example.com", "ANY", ANSWERS),
    ("www.example.com", "MX", OTHERS), ("b.example.com", "A", OTHERS),  # NODATA
    ("x.w.example.com", "MX", OTHERS),
    ("nothing.example.com", "A", OTHERS), ("a.b.c.nothing.example.com", "TXT", OTHERS),  # NXDOMAIN
    ("x.sub.example.com", "A", OTHERS),  # referral
    ("example.net", "A", OTHERS), ("www.example.com", "AXFR", OTHERS),  # REFUSED
    ("dark.example.com", "A", OTHERS), ("loop1.example.com", "A", ANSWERS),
]


def limited(*, tcp: bool = False, cookies: Cookies | None = COOKIES, client: bytes = RESOLVER,
            exempt: tuple[str, ...] = ()) -> Door:
    """The standard world with rates of 4 and 2, asked as a flood is."""
    world = Door(standard(), tcp=tcp, client=client)
    world.context.guard = Guard(
        array("Q", bytes(8192)), answers=ANSWERS, others=OTHERS, burst_s=1, raised_by=1, exempt=Prefixes(exempt),
        raised=Prefixes(()), key=7)
    world.context.cookies = cookies
    world.context.strict = True
    return world


def asked(name: str = "www.example.com", type_: str = "A", *, cookie: bytes = b"", edns: bool = False, do: bool = False,
          rd: bool = False) -> bytes:
    """A query, with a cookie where there is one."""
    message = dns.message.make_query(
        name, type_, use_edns=0 if edns or cookie or do else False, want_dnssec=do, id=4711,
        flags=dns.flags.RD if rd else 0, options=[dns.edns.GenericOption(10, cookie)] if cookie else None)
    return message.to_wire()


def outcomes(world: Door, packet: bytes, number: int) -> Counter[str]:
    """What became of so many queries; every reply is checked."""
    found: Counter[str] = Counter()
    for _ in range(number):
        octets, _ = world.octets(packet)
        if octets is None:
            found["dropped"] += 1
            continue
        reply = world_reads(packet, octets)
        if reply.rcode() == BADCOOKIE:
            found["badcookie"] += 1
        elif reply.flags & dns.flags.TC and not reply.flags & dns.flags.AA:
            found["come by TCP"] += 1
        else:
            found["answered"] += 1
    return found


def world_reads(packet: bytes, octets: bytes) -> dns.message.Message:
    """The reply as dnspython reads it, after what holds for any."""
    reply = dns.message.from_wire(octets)
    asked_for = dns.message.from_wire(packet)
    assert reply.id == asked_for.id
    assert reply.flags & (dns.flags.QR | dns.flags.RA) == dns.flags.QR
    assert reply.flags & dns.flags.RD == asked_for.flags & dns.flags.RD
    assert reply.question == asked_for.question
    assert (reply.edns >= 0) == (asked_for.edns >= 0)
    return reply


@pytest.mark.parametrize(("name", "type_", "rate"), KINDS)
@pytest.mark.parametrize("edns", [False, True])
def test_over_its_rate_every_second_query_is_told_to_come_by_tcp(name: str, type_: str, rate: int, edns: bool) -> None:
    world = limited()
    packet = asked(name, type_, edns=edns)
    assert outcomes(world, packet, rate) == {"answered": rate}
    assert outcomes(world, packet, 20) == {"dropped": 10, "come by TCP": 10}
    assert (world.count[m.LIMITED_DROPPED], world.count[m.LIMITED_TRUNCATED]) == (10, 10)
    assert world.context.guard is not None
    world.context.guard.tick(1_000_000_000)
    assert outcomes(world, packet, rate + 2) == {"answered": rate, "dropped": 1, "come by TCP": 1}


@pytest.mark.parametrize(("edns", "do", "rd"), [(False, False, True), (True, False, False), (True, True, True)])
def test_what_sends_to_tcp_is_empty(edns: bool, do: bool, rd: bool) -> None:
    """RFC 2181 §9: TC and nothing else, the question as it came, 0x20 too; no longer than the query was."""
    world = limited()
    packet = asked("wWw.ExAmPlE.cOm", edns=edns, do=do, rd=rd)
    outcomes(world, packet, ANSWERS)
    first, moved = world.octets(packet)
    assert first is None
    assert {k: v for k, v in moved.items() if k != m.EDNS} == {m.LIMITED_DROPPED: 1}
    octets, moved = world.octets(packet)
    assert octets is not None
    assert {k: v for k, v in moved.items() if k != m.EDNS} == {m.LIMITED_TRUNCATED: 1}
    reply = world_reads(packet, octets)
    assert reply.flags & ~dns.flags.RD == dns.flags.QR | dns.flags.TC
    assert (reply.rcode(), reply.answer, reply.authority, reply.additional, reply.options) == (0, [], [], [], ())
    assert bool(reply.ednsflags & dns.flags.DO) == do
    assert packet[12:] == octets[12 : 12 + len(packet) - 12] or edns
    assert octets[12:33] == packet[12:33]
    assert len(octets) == len(packet)


@pytest.mark.parametrize(("name", "type_", "rate"), KINDS)
def test_bytes_out_stay_below_bytes_in(name: str, type_: str, rate: int) -> None:
    """Whatever is asked, with and without cookies, what is over its rate gains an attacker nothing."""
    for packet in (asked(name, type_), asked(name, type_, edns=True, do=True), asked(name, type_, cookie=ASKER),
                   asked(name, type_, cookie=ASKER + bytes(16)), asked(name, type_, cookie=ASKER + bytes(32))):
        world = limited()
        outcomes(world, packet, rate)
        out = sum(len(world.octets(packet)[0] or b"") for _ in range(100))
        assert out <= 100 * len(packet) * 0.75


@pytest.mark.parametrize(("name", "type_", "rate"), KINDS)
@pytest.mark.parametrize("cookie", [
    pytest.param(ASKER, id="none of ours"), pytest.param(ASKER + bytes(8), id="short"),
    pytest.param(ASKER + bytes(32), id="long"),
    pytest.param(ASKER + COOKIES.made(ASKER, bytes((192, 0, 2, 54)), NOW), id="another client's"),
    pytest.param(ASKER + COOKIES.made(ASKER, RESOLVER, NOW - 3601), id="old"),
    pytest.param(ASKER + Cookies([bytes(16)]).made(ASKER, RESOLVER, NOW), id="another secret's"),
])
def test_a_client_that_speaks_cookies_is_told_to_come_with_one(
        name: str, type_: str, rate: int, cookie: bytes) -> None:
    """RFC 7873 §5.2.3, §5.2.4: below the rate it is answered; over it, BADCOOKIE with a cookie that then is good."""
    world = limited()
    packet = asked(name, type_, cookie=cookie)
    assert outcomes(world, packet, rate) == {"answered": rate}
    assert outcomes(world, packet, 10) == {"dropped": 5, "badcookie": 5}
    assert world.octets(packet)[0] is None
    octets, moved = world.octets(packet)
    assert octets is not None
    assert moved.items() >= {m.LIMITED_BADCOOKIE: 1, m.RCODE + BADCOOKIE: 1, m.EDNS: 1}.items()
    reply = world_reads(packet, octets)
    assert (reply.rcode(), reply.answer, reply.authority, reply.additional) == (BADCOOKIE, [], [], [])
    assert not reply.flags & (dns.flags.AA | dns.flags.TC)
    (option,) = reply.options
    assert (option.otype, option.to_wire()) == (10, VALID)
    assert outcomes(world, asked(name, type_, cookie=option.to_wire()), 50) == {"answered": 50}
    assert world.count[m.LIMITED_EXCUSED] == 50


def test_a_renewed_cookie_comes_with_an_excused_answer() -> None:
    world = limited()
    old = ASKER + COOKIES.made(ASKER, RESOLVER, NOW - 1900)
    outcomes(world, asked(), ANSWERS)
    reply = world.send(asked(cookie=old))
    assert reply.rcode == 0
    assert reply.addresses == ["192.0.2.2", "192.0.2.3"]
    option = reply.option(10)
    assert option is not None
    assert option.to_wire() == VALID
    assert reply.moved == dict.fromkeys([m.LIMITED_EXCUSED, m.KIND_STATIC, m.RCODE, m.EDNS, m.COOKIES], 1)


def test_without_cookies_of_ours_a_cookie_is_nothing() -> None:
    world = limited(cookies=None)
    outcomes(world, asked(cookie=VALID), ANSWERS)
    assert outcomes(world, asked(cookie=VALID), 10) == {"dropped": 5, "come by TCP": 5}


@pytest.mark.parametrize(("name", "type_", "rate"), KINDS)
def test_tcp_is_never_limited(name: str, type_: str, rate: int) -> None:
    assert outcomes(limited(tcp=True), asked(name, type_), rate + 50) == {"answered": rate + 50}


def test_nobody_is_limited_while_nothing_is_to_be_held() -> None:
    world = limited()
    world.context.strict = False
    assert outcomes(world, asked(), 50) == {"answered": 50}
    world.context.strict = True
    world.context.guard = None
    assert outcomes(world, asked(), 50) == {"answered": 50}


def test_who_is_exempt_is_never_limited() -> None:
    assert outcomes(limited(exempt=("192.0.2.53",)), asked(), 50) == {"answered": 50}
    assert outcomes(limited(exempt=("192.0.2.54",)), asked(), 50)["answered"] == ANSWERS


def test_what_shares_a_bucket() -> None:
    """A prefix, a zone, a kind: random names below a zone are one; what one kind has spent, another has still."""
    world = limited()
    for n in range(10):
        outcomes(world, asked(f"random{n}.example.com"), 1)
    assert world.count[m.KIND_NXDOMAIN] == OTHERS
    for name, type_, rate in (("www.example.com", "MX", OTHERS), ("x.sub.example.com", "A", OTHERS),
                              ("example.net", "A", OTHERS), ("www.example.com", "A", ANSWERS),
                              ("nothing.nested.example.com", "A", OTHERS), ("www.example.org", "A", ANSWERS)):
        assert outcomes(world, asked(name, type_), 20)["answered"] == rate, name
    world.client = bytes((192, 0, 2, 99))
    assert outcomes(world, asked(), 10)["answered"] == 0
    world.client = bytes((192, 0, 3, 53))
    assert outcomes(world, asked(), 10)["answered"] == ANSWERS


def test_ipv6_is_one_bucket_for_a_56() -> None:
    world = limited(client=bytes.fromhex("20010db8000000010000000000000001"))
    assert outcomes(world, asked(), 10)["answered"] == ANSWERS
    world.client = bytes.fromhex("20010db8000000ff0000000000000002")
    assert outcomes(world, asked(), 10)["answered"] == 0
    world.client = bytes.fromhex("20010db8000001000000000000000001")
    assert outcomes(world, asked(), 10)["answered"] == ANSWERS


def cookie_alone(cookie: bytes) -> bytes:
    """A query with no question (RFC 7873 §5.4)."""
    option = struct.pack(">HH", 10, len(cookie)) + cookie
    return struct.pack(">6H", 4711, 0, 0, 0, 0, 1) + b"\0\0\x29\4\xd0" + bytes(4) + struct.pack(
        ">H", len(option)) + option


def test_cookies_alone_have_a_rate_as_well() -> None:
    world = limited()
    replies = [world.octets(cookie_alone(ASKER))[0] for _ in range(OTHERS + 10)]
    assert all(replies[:OTHERS])
    assert replies[OTHERS:] == [None] * 10
    for octets in filter(None, replies):
        reply = dns.message.from_wire(octets)
        assert (reply.rcode(), reply.question, reply.options[0].to_wire()) == (0, [], VALID)
    assert world.count[m.LIMITED_DROPPED] == 10


@pytest.mark.parametrize("size", [1, 7, 9, 15, 41])
def test_a_cookie_of_no_length_is_malformed_also_over_the_rate(size: int) -> None:
    world = limited()
    outcomes(world, asked(), ANSWERS + 4)
    assert world.send(asked(cookie=bytes(size))).rcode == FORMERR


def test_a_name_in_mixed_case_is_the_same_name() -> None:
    world = limited()
    outcomes(world, asked("www.example.com"), ANSWERS)
    assert outcomes(world, asked("WWW.example.COM"), 4)["answered"] == 0
    assert outcomes(world, asked("WWW.example.COM", cookie=VALID), 4)["answered"] == 4


def test_the_least_useful_is_shed_before_it_is_counted() -> None:
    world = limited()
    world.context.shed = 3
    assert outcomes(world, query("nothing.example.com"), 5) == {"dropped": 5}
    assert (world.count[m.SHED], world.count[m.LIMITED_DROPPED]) == (5, 0)
    world.context.shed = 0
    assert outcomes(world, query("nothing.example.com"), 5)["answered"] == OTHERS
