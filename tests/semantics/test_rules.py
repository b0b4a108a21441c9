"""Every rule of the tables, asked through the door of one image and read by dnspython."""

from __future__ import annotations

import random
from collections.abc import Iterator

import dns.message
import pytest

from dnsd.image.reading import Image
from dnsd.model import Policy
from tests.golden.world import Door, endpoint, image, service, zone
from tests.semantics import edns, names
from tests.semantics.world import CLIENT, Row, ask, build, door, world

ROWS = [(table, row) for table, rows in (names.TABLES | edns.TABLES).items() for row in rows]


@pytest.fixture(scope="module")
def held() -> Image:
    """The world."""
    return world()


@pytest.fixture(scope="module")
def doors(held: Image) -> dict[bool, Door]:
    """UDP and TCP."""
    return {tcp: door(held, tcp=tcp) for tcp in (False, True)}


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}: {row.rfc}: {row.ask[-60:]}" for table, row in ROWS])
def test_rule(doors: dict[bool, Door], table: str, row: Row) -> None:
    says, answer, authority, additional, opt = ask(doors, row)
    assert says == row.says
    assert (answer == list(row.an)) if "CNAME" in " ".join(row.an) else sorted(answer) == sorted(row.an)
    assert sorted(authority) == sorted(row.au)
    assert sorted(additional) == sorted(row.ad)
    assert opt == row.opt


def test_no_two_rows_are_the_same() -> None:
    asked = [(row.ask, row.rfc) for _, row in ROWS]
    assert len(asked) == len(set(asked))


def test_the_question_comes_back_in_every_case(doors: dict[bool, Door]) -> None:
    """Resolvers compare the case they sent (draft-vixie-dnsext-dns0x20); the answer is the same but for its owner."""
    rnd = random.Random(20)
    for _, row in ROWS:
        name, _, rest = row.ask.partition(" ")
        if "\\" in name:
            continue
        mixed = "".join(rnd.choice((char.lower(), char.upper())) for char in name)
        packet, plain = build(f"{mixed} {rest}"), build(row.ask)
        one, other = (doors["+tcp" in row.ask].send(each) for each in (packet, plain))
        end = packet.index(b"\0", 12) + 5
        assert one.octets[12:end] == packet[12:end] or one.rcode == 1
        assert (one.rcode, len(one.octets)) == (other.rcode, len(other.octets))
        assert [t.lower() for t in one.answer + one.authority] == [t.lower() for t in other.answer + other.authority]


def _healths() -> Iterator[Image]:
    """A service that owns A and AAAA in every state it can be in: all well, half of it, on every rung, with nothing."""
    def held(*live: object, **values: object) -> Image:
        return image([zone("t", "api MX 10 ns1\n")], [service("api.t", *live, **values)])  # type: ignore[arg-type]

    yield held(endpoint(1), endpoint(2))
    yield held(endpoint(1, aaaa=False))
    yield held(endpoint(1, a=False))
    yield held(endpoint(1), panic=True)
    yield held(endpoint(1), policy=Policy(no_ecs_fallback=True), fallback=["203.0.113.1"])
    yield held(fallback=["203.0.113.1"])
    yield held(last_good=["2001:db8::9"])
    yield held()


def test_which_types_exist_depends_on_no_client_and_no_health() -> None:
    """Whoever asks, whatever is up: A and AAAA are answered or fail, MX is there, all else is NODATA."""
    clients = (CLIENT, b"\x0a\0\0\1", bytes(16), b"\x20\x01" + bytes(14))
    subnets = ("", " +edns", " +subnet=10.0.0.0/24", " +subnet=0.0.0.0/0", " +subnet=2001:db8::/56")
    for held in _healths():
        for client in clients:
            one = Door(held, client=client)
            for subnet in subnets:
                for type_, answered in (("A", True), ("AAAA", True), ("MX", True), ("TXT", False), ("SRV", False)):
                    reply = one.send(build(f"api.t {type_}{subnet}"))
                    assert bool(reply.answer) is answered or (reply.rcode == 2 and type_ in ("A", "AAAA"))
                    assert reply.rcode in (0, 2)
                    assert bool(reply.authority) is (not answered)


@pytest.mark.parametrize(("ttl", "minimum"), [
    (3600, 60), (60, 3600), (60, 60), (0, 60), (60, 0), (2**31 - 1, 2**31 - 1)])
def test_negative_ttl(ttl: int, minimum: int) -> None:
    """RFC 2308 §3 and §5: the SOA of a denial has the lesser of its TTL and its minimum; asked for, it has its own."""
    one = Door(image([zone("t", f"@ {ttl} IN SOA ns1 h 1 2 3 4 {minimum}\n")]))
    for name, type_ in (("x.t", "A"), ("t", "MX"), ("ns1.t", "AAAA")):
        reply = dns.message.from_wire(one.ask(name, type_).octets)
        assert reply.authority[0].ttl == min(ttl, minimum)
    assert one.ask("t", "SOA").message.answer[0].ttl == ttl
