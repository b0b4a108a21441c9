"""Services through the door: who decides, what is given, how far it may be kept, which rung and which counter.

Lives here: every branch of `choose`, as tables over one map of three sites. Ranking and draws themselves are tested in
tests/steer and tests/image/test_record.py.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from dnsd import metrics as m
from dnsd.image import layout
from dnsd.image.table import MapTable
from dnsd.model import EndpointView, Fence, MapView, Match, Policy, ServiceView
from tests.golden.world import Door, endpoint, image, query, service, table_bytes, v4, v6, with_client, zone

LEFT, MIDDLE, RIGHT = "s0", "s1", "s2"
NEAR, FAR = 0, 13
SAME_COUNTRY = int(Match.COUNTRY | Match.REGION)
ROWS = [
    [(0, 0), (0, 0), (0, 0)],                                    # 0 nobody knows
    [(NEAR, SAME_COUNTRY), (5, int(Match.REGION)), (FAR, 0)],    # 1 near the left
    [(FAR, 0), (5, 0), (NEAR, SAME_COUNTRY)],                    # 2 near the right
    [(4, 0), (NEAR, 0), (4, 0)],                                 # 3 in the middle, of no country
]
RUNS4 = [(0, 0), (v4("10.0.0.0"), 1), (v4("10.0.6.0"), 2), (v4("10.1.0.0"), 3), (v4("10.2.0.0"), 0),
         (v4("192.0.2.0"), 3), (v4("192.0.3.0"), 0)]
RUNS6 = [(0, 0), (v6("2400::"), 1), (v6("2400:0:0:600::"), 2), (v6("2401::"), 0)]
FINE4 = [(int(ipaddress.IPv4Address("192.0.2.53")), int(ipaddress.IPv4Address("192.0.2.53")), 2)]
MAPS = [MapView(0, "all", (LEFT, MIDDLE, RIGHT)), MapView(1, "some", (RIGHT, MIDDLE)), MapView(2, "one", (RIGHT,))]
LIVE = (endpoint(1, LEFT), endpoint(2, MIDDLE), endpoint(3, RIGHT))
FALLBACK = ["203.0.113.1", "203.0.113.2", "2001:db8:f::1"]

P = Policy()
SERVICES: dict[str, ServiceView] = {
    "geo": service("geo.example.com", *LIVE),
    "same": service("same.example.com", *LIVE, policy=replace(P, uses_client=False, take=3)),
    "declared": service("declared.example.com", *LIVE, policy=replace(P, no_ecs_fallback=True), fallback=FALLBACK),
    "hollow": service("hollow.example.com", *LIVE, policy=replace(P, no_ecs_fallback=True)),
    "unknown": service("unknown.example.com", *LIVE, policy=replace(P, unknown_fallback=True), fallback=FALLBACK),
    "blind": service("blind.example.com", *LIVE[:1], policy=replace(P, unknown_fallback=True, uses_client=False),
                     fallback=FALLBACK),
    "country": service("country.example.com", *LIVE, policy=replace(P, fence=Fence.COUNTRY), fallback=FALLBACK),
    "region": service("region.example.com", *LIVE, policy=replace(P, fence=Fence.REGION, take=3), fallback=FALLBACK),
    "fence": service("fence.example.com", *LIVE, policy=replace(P, fence=Fence.COUNTRY)),
    "sticky": service("sticky.example.com", *LIVE[:1], policy=replace(P, split4=20, split6=40)),
    "stickyall": service("stickyall.example.com", *LIVE[:1],
                         policy=replace(P, split4=20, split6=40, uses_client=False)),
    "nomap": service("nomap.example.com", *LIVE, map_id=9),
    "other": service("other.example.com", LIVE[0], LIVE[2], map_id=1),
    "single": service("single.example.com", LIVE[2], map_id=2),
    "fenced": service("fenced.example.com", LIVE[2], policy=replace(P, fence=Fence.COUNTRY), fallback=FALLBACK,
                      map_id=2),
    "panic": service("panic.example.com", *LIVE, panic=True),
    "panicky": service("panicky.example.com", *LIVE, policy=replace(P, no_ecs_fallback=True), fallback=FALLBACK,
                       panic=True),
    "fall": service("fall.example.com", fallback=FALLBACK, last_good=["203.0.113.9"]),
    "stale": service("stale.example.com", last_good=["203.0.113.9", "2001:db8:f::9"]),
    "dark": service("dark.example.com"),
    "half": service("half.example.com", endpoint(4, LEFT, aaaa=False)),
    "mixed": service("mixed.example.com", endpoint(4, LEFT, aaaa=False), fallback=["2001:db8:f::4"],
                     last_good=["203.0.113.9"]),
}


@pytest.fixture(scope="module")
def door() -> Door:
    """All services over the map, asked by a resolver nobody knows."""
    table = MapTable(table_bytes(3, ROWS, RUNS4, RUNS6, FINE4))
    runs = [(0, 0), (v4("10.0.0.0"), 1), (v4("11.0.0.0"), 0)]
    some = MapTable(table_bytes(2, [[(0, 0), (0, 0)], [(7, 7), (9, 0)]], runs))
    one = MapTable(table_bytes(1, [[(0, 0)], [(0, SAME_COUNTRY)]], runs))
    held = image([zone("example.com", "al CNAME geo\n")], list(SERVICES.values()), MAPS, {0: table, 1: some, 2: one})
    return Door(held, client=ipaddress.ip_address("198.18.0.1").packed)


class Row(NamedTuple):
    """A question, who asks it, and the addresses' last parts, scope and counters of its answer."""

    name: str
    ecs: str | None
    given: Sequence[str]
    scope: int | None
    also: Sequence[int] = ()
    client: str = "198.18.0.1"
    kind: int = m.KIND_SERVICE


V4, V6, OUT = m.ECS_V4, m.ECS_V6, m.ECS_OPT_OUT
UNKNOWN, DECLARED = m.NO_PLACE, m.DECLARED_FALLBACK
ANYCAST = ["203.0.113.1", "203.0.113.2"]
ONE, TWO, THREE = ["198.51.100.1"], ["198.51.100.2"], ["198.51.100.3"]
ANY = ["*"]

TABLE = [
    # RFC 7871 §7.2.1: the subnet decides, the scope is the widest block of that row
    Row("geo", "10.0.0.0/24", ONE, 22, [V4]),
    Row("geo", "10.0.4.0/24", ONE, 23, [V4]),
    Row("geo", "10.0.5.255/32", ONE, 23, [V4]),
    Row("geo", "10.0.6.0/24", THREE, 23, [V4]),
    Row("geo", "10.0.8.0/25", THREE, 21, [V4]),
    Row("geo", "10.1.77.0/24", TWO, 16, [V4]),
    Row("geo", "10.0.0.0/8", ONE, 22, [V4]),                      # longer than the source: more bits would tell more
    Row("geo", "10.0.0.0/16", ONE, 22, [V4]),
    Row("geo", "11.0.0.0/24", ANY, 8, [V4, UNKNOWN]),
    Row("geo", "2400::/56", ONE, 54, [V6]),
    Row("geo", "2400:0:0:500::/64", ONE, 55, [V6]),
    Row("geo", "2400:0:0:700::/56", THREE, 55, [V6]),
    Row("geo", "2400::/40", ONE, 54, [V6]),
    Row("geo", "3000::/56", ANY, 4, [V6, UNKNOWN]),
    Row("geo", "::ffff:10.0.6.0/120", THREE, 119, [V6]),
    Row("al", "10.0.4.0/24", ONE, 23, [V4], kind=m.KIND_CNAME),
    # no subnet, or one of no length: the resolver decides and the scope is 0 (RFC 7871 §7.1.2)
    Row("geo", None, ANY, None, [UNKNOWN]),
    Row("geo", None, ONE, None, client="10.0.0.1"),
    Row("geo", None, THREE, None, client="10.0.7.1"),
    Row("geo", None, ONE, None, client="2400::1"),
    Row("geo", "0.0.0.0/0", ONE, 0, [OUT], client="10.0.0.1"),
    Row("geo", "::/0", THREE, 0, [OUT], client="10.0.7.1"),
    Row("geo", None, TWO, None, client="192.0.2.1"),
    Row("geo", None, THREE, None, client="192.0.2.53"),            # a prefix finer than any scope
    Row("geo", "192.0.2.53/32", TWO, 24, [V4], client="192.0.2.53"),
    # the client does not matter
    Row("same", "10.0.0.0/24", ONE + TWO + THREE, 0, [V4]),
    Row("same", None, ONE + TWO + THREE, None),
    Row("blind", "11.0.0.0/24", ONE, 0, [V4]),
    # declared for queries without a subnet, or clients without a place
    Row("declared", None, ANYCAST, None, [DECLARED]),
    Row("declared", "0.0.0.0/0", ANYCAST, 0, [OUT, DECLARED]),
    Row("declared", None, ANYCAST, None, [DECLARED], client="10.0.0.1"),
    Row("declared", "10.0.0.0/24", ONE, 22, [V4]),
    Row("hollow", None, ONE, None, client="10.0.0.1"),
    Row("unknown", None, ANYCAST, None, [DECLARED]),
    Row("unknown", "11.0.0.0/24", ANYCAST, 8, [V4, DECLARED]),
    Row("unknown", "10.0.0.0/24", ONE, 22, [V4]),
    Row("unknown", None, THREE, None, client="10.0.7.1"),
    # fences
    Row("country", "10.0.0.0/24", ONE, 22, [V4]),
    Row("country", "10.0.6.0/24", THREE, 23, [V4]),
    Row("country", "10.1.0.0/24", ANYCAST, 16, [V4, DECLARED]),
    Row("country", None, ANYCAST, None, [DECLARED]),
    Row("region", "10.0.0.0/24", ONE + TWO, 22, [V4]),
    Row("region", "10.0.6.0/24", THREE, 23, [V4]),
    Row("fence", "10.1.0.0/24", TWO, 16, [V4]),                    # nobody inside and no fallback: the fence gives way
    Row("fence", "10.0.6.0/24", THREE, 23, [V4]),
    # sticky: scopes are never wider than the block the draw is keyed by
    Row("sticky", "10.0.0.0/24", ONE, 22, [V4]),
    Row("sticky", "10.1.0.0/24", ONE, 20, [V4]),
    Row("sticky", "11.0.0.0/24", ONE, 20, [V4, UNKNOWN]),
    Row("sticky", "3000::/56", ONE, 40, [V6, UNKNOWN]),
    Row("sticky", "2400::/56", ONE, 54, [V6]),
    Row("sticky", None, ONE, None, client="10.0.0.1"),
    Row("sticky", "0.0.0.0/0", ONE, 0, [OUT], client="10.0.0.1"),
    Row("sticky", None, ONE, None, client="2400::1"),
    Row("stickyall", "10.0.0.0/24", ONE, 20, [V4]),
    Row("stickyall", "2400::/56", ONE, 40, [V6]),
    # maps that are not here, or lack a site
    Row("nomap", "10.0.0.0/24", ANY, 24, [V4, UNKNOWN]),
    Row("nomap", "10.0.0.0/32", ANY, 24, [V4, UNKNOWN]),
    Row("nomap", "10.0.0.0/8", ANY, 8, [V4, UNKNOWN]),
    Row("nomap", "2400::/128", ANY, 56, [V6, UNKNOWN]),
    Row("nomap", None, ANY, None, [UNKNOWN], client="10.0.0.1"),
    Row("nomap", "2400::/48", ANY, 48, [V6, UNKNOWN]),
    Row("other", "10.0.0.0/24", THREE, 8, [V4]),
    Row("other", None, THREE, None, [UNKNOWN]),
    Row("single", "10.0.0.0/24", THREE, 0, [V4]),                  # one site: nobody is nearer to another
    Row("single", None, THREE, None),
    Row("fenced", "10.0.0.0/24", THREE, 8, [V4]),
    Row("fenced", "12.0.0.0/24", ANYCAST, 6, [V4, DECLARED]),
    Row("panic", "10.0.0.0/24", ONE, 22, [V4, m.PANIC]),
    Row("panicky", "10.0.0.0/24", ONE, 22, [V4, m.PANIC]),
    Row("panicky", None, ANYCAST, None, [DECLARED]),               # health has no say in it, panic or not
    # never empty: live, fallback, last good, SERVFAIL
    Row("fall", "10.0.0.0/24", ANYCAST, 0, [V4, m.LADDER_FALLBACK]),
    Row("fall", None, ANYCAST, None, [m.LADDER_FALLBACK]),
    Row("stale", "10.0.0.0/24", ["203.0.113.9"], 0, [V4, m.LADDER_LAST_GOOD]),
    Row("stale", None, ["203.0.113.9"], None, [m.LADDER_LAST_GOOD]),
    Row("half", "10.0.0.0/24", ["198.51.100.4"], 22, [V4]),
    Row("mixed", "10.0.0.0/24", ["198.51.100.4"], 22, [V4]),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.name} {row.ecs or '-'} {row.client}")
def test_who_decides_what_and_for_whom(door: Door, row: Row) -> None:
    reply = with_client(door, row.client).ask(f"{row.name}.example.com", ecs=row.ecs)
    assert (reply.rcode, reply.aa, reply.scope) == (0, True, row.scope)
    given = [address for address in reply.addresses if address != "geo.example.com."]
    if row.given is ANY:
        assert len(given) == 1
        assert given[0] in ONE + TWO + THREE
    else:
        assert sorted(given) == sorted(row.given)
    edns = [m.EDNS] if row.ecs else []
    assert reply.moved == dict.fromkeys([row.kind, m.RCODE, *edns, *row.also], 1)


@pytest.mark.parametrize("row", [row for row in TABLE if row.name not in ("al", "half", "mixed")],
                         ids=lambda row: f"{row.name} {row.ecs or '-'} {row.client}")
def test_aaaa_has_the_row_scope_and_rung_of_a(door: Door, row: Row) -> None:
    v4_reply, v6_reply = (with_client(door, row.client).ask(f"{row.name}.example.com", type_, ecs=row.ecs)
                          for type_ in ("A", "AAAA"))
    assert v4_reply.scope == v6_reply.scope
    assert v4_reply.moved == v6_reply.moved
    if v4_reply.addresses[0].startswith("198.51"):
        numbers = [address.rpartition(".")[2] for address in v4_reply.addresses]
        assert [address.rpartition(":")[2] for address in v6_reply.addresses] == numbers


@pytest.mark.parametrize(("name", "type_", "rcode", "slot", "error"), [
    ("dark", "A", 2, m.LADDER_EMPTY, "EDE 0 (Other): service has no address to give"),
    ("dark", "AAAA", 2, m.LADDER_EMPTY, "EDE 0 (Other): service has no address to give"),
    ("half", "AAAA", 2, m.LADDER_EMPTY, "EDE 0 (Other): service has no address to give"),
    ("mixed", "AAAA", 0, m.LADDER_FALLBACK, None),
    ("stale", "A", 0, m.LADDER_LAST_GOOD,
     "EDE 3 (Stale Answer): last good answer: no endpoint and no fallback is left"),
    ("panic", "A", 0, m.PANIC, "EDE 0 (Other): panic: too little is healthy, so health is ignored"),
    ("panic", "AAAA", 0, m.PANIC, "EDE 0 (Other): panic: too little is healthy, so health is ignored"),
])
def test_lower_rungs_and_panic_say_why(
    door: Door, name: str, type_: str, rcode: int, slot: int, error: str | None,
) -> None:
    """RFC 8914 §4.4: EDE beside the answer, and the client subnet with scope 0 in errors too."""
    reply = door.ask(f"{name}.example.com", type_, ecs="10.0.0.0/24")
    told = [str(option.to_text()) for option in reply.message.options if option.otype == 15]
    scope = 22 if name == "panic" else 0
    assert (reply.rcode, told, reply.scope) == (rcode, [error] if error else [], scope)
    kind = m.KIND_SERVFAIL if rcode else m.KIND_SERVICE
    assert reply.moved == dict.fromkeys([kind, m.RCODE + rcode, m.EDNS, V4, slot], 1)
    bare = with_client(door, "10.0.0.1").ask(f"{name}.example.com", type_)
    assert (bare.rcode, bare.message.opt, bare.answer) == (rcode, None, reply.answer)


def test_ttl_is_the_records(door: Door) -> None:
    held = image([zone("example.com", "")], [service("a.example.com", endpoint(1), ttl=2),
                                             service("b.example.com", fallback=FALLBACK, ttl=77)])
    assert {text.split()[1] for text in Door(held).ask("a.example.com").answer} == {"2"}
    assert {text.split()[1] for text in Door(held).ask("b.example.com").answer} == {"77"}


# --- draws as clients see them ----------------------------------------------------------------------------------------

EQUAL = [endpoint(n, LEFT) for n in range(1, 9)]


def equals(policy: Policy = P, endpoints: Sequence[EndpointView] = tuple(EQUAL), **more: int) -> Door:
    """Eight equal endpoints at one site, without a map."""
    return Door(image([zone("example.com", "")], [service("e.example.com", *endpoints, policy=policy, **more)]))


def given(door: Door, *, now: int = 0, ecs: str | None = None, type_: str = "A") -> list[str]:
    """The last parts of the addresses given."""
    door.now = now
    return [a.replace(":", ".").rpartition(".")[2] for a in door.ask("e.example.com", type_, ecs=ecs).addresses]


def test_one_window_gives_one_answer_and_windows_differ() -> None:
    door = equals(ttl=8)
    within = {tuple(given(door, now=now, ecs="10.0.0.0/24")) for now in range(80, 88)}
    assert len(within) == 1
    assert len({tuple(given(door, now=8 * window, ecs="10.0.0.0/24")) for window in range(60)}) == 8


def test_blocks_draw_apart_and_addresses_of_a_block_alike() -> None:
    door = equals()
    assert len({tuple(given(door, ecs=f"10.0.{n}.0/24")) for n in range(100)}) == 8
    assert len({tuple(given(door, ecs=f"10.0.7.{n}/32")) for n in range(0, 256, 15)}) == 1
    assert len({tuple(given(door, ecs=f"2400:0:0:{n:x}::/64")) for n in range(0, 256, 15)}) == 1
    assert len({tuple(given(door, ecs=f"2400:0:0:{n:x}00::/56")) for n in range(100)}) == 8
    assert len({tuple(given(with_client(door, f"10.0.7.{n}"))) for n in range(0, 256, 15)}) == 1
    assert len({tuple(given(with_client(door, f"10.0.{n}.1"))) for n in range(100)}) == 8
    assert len({tuple(given(with_client(door, f"2400:0:0:{n:x}00::1"))) for n in range(100)}) == 8


def test_a_resolver_draws_as_its_own_subnet_would() -> None:
    door = equals()
    for n in range(30):
        assert given(with_client(door, f"10.0.{n}.9")) == given(door, ecs=f"10.0.{n}.0/24")
        assert given(with_client(door, f"2400:0:0:{n:x}00::9")) == given(door, ecs=f"2400:0:0:{n:x}00::/56")


def test_a_and_aaaa_of_a_client_are_of_one_endpoint() -> None:
    for policy in (P, replace(P, take=3), replace(P, uses_client=False), replace(P, split4=20, split6=40)):
        door = equals(policy)
        for n in range(40):
            ecs = f"10.0.{n}.0/24"
            assert given(door, now=n, ecs=ecs) == given(door, now=n, ecs=ecs, type_="AAAA")


def test_sticky_services_keep_their_endpoint_for_a_split_block() -> None:
    """One draw for a /20 (a /40 of IPv6), for ever, and the scope says so."""
    door = equals(replace(P, split4=20, split6=40))
    one = {tuple(given(door, now=now, ecs=f"10.0.{n}.0/24")) for now in (0, 10**6, 10**9) for n in range(16)}
    assert len(one) == 1
    assert len({tuple(given(door, ecs=f"10.{n}.0.0/24")) for n in range(100)}) == 8
    six = {tuple(given(door, now=now, ecs=f"2400:0:{n:x}::/48")) for now in (0, 10**9) for n in range(256)}
    assert len(six) == 1
    assert len({tuple(given(door, ecs=f"2400:{n:x}::/48")) for n in range(100)}) == 8
    assert given(with_client(door, "10.0.3.3")) == given(door, ecs="10.0.0.0/24")


def test_take_gives_that_many_different_ones() -> None:
    for take in (1, 2, 5, 8, 32):
        door = equals(replace(P, take=take))
        for n in range(20):
            found = given(door, ecs=f"10.0.{n}.0/24")
            assert len(found) == len(set(found)) == min(take, 8)
    many = [endpoint(n, LEFT) for n in range(1, 41)]
    assert len(given(equals(replace(P, take=20), many), ecs="10.0.0.0/24")) == 20


def test_weight_shares() -> None:
    door = equals(endpoints=[endpoint(1, LEFT, weight=300), endpoint(2, LEFT, weight=100), endpoint(3, LEFT, weight=0)])
    found = [given(door, now=8 * n, ecs="10.0.0.0/24")[0] for n in range(800)]
    assert 550 < found.count("1") < 650
    assert "3" not in found
    only = equals(endpoints=[endpoint(3, LEFT, weight=0)])
    assert given(only) == ["3"]


def test_lower_tier_answers_alone() -> None:
    door = equals(endpoints=[endpoint(1, LEFT, tier=1), endpoint(2, LEFT, tier=0), endpoint(3, LEFT, tier=0, weight=0)])
    assert {given(door, now=8 * n)[0] for n in range(50)} == {"2"}
    three = [endpoint(1, LEFT, tier=1), endpoint(2, LEFT), endpoint(3, LEFT, weight=0)]
    taken = equals(replace(P, take=3), endpoints=three)
    assert {tuple(given(taken, now=8 * n)) for n in range(50)} == {("2", "1", "3")}


# --- delta and map under a door ---------------------------------------------------------------------------------------

def test_another_map_table_is_believed_at_once() -> None:
    """Rows of another table are other rows: nothing remembered by row may outlive it."""
    services = [SERVICES["geo"], SERVICES["region"], SERVICES["fence"]]
    held = image([zone("example.com", "")], services, MAPS)
    door = Door(held)
    swapped = [ROWS[0], ROWS[2], ROWS[1], ROWS[3]]
    for _ in range(2):
        for rows, expected in ((ROWS, ONE), (swapped, THREE)):
            held.set_map(0, MapTable(table_bytes(3, rows, RUNS4)))
            for name in ("geo", "fence", "region"):
                assert door.ask(f"{name}.example.com", ecs="10.0.0.0/24").addresses[:1] == expected


def test_the_same_table_again_forgets_nothing() -> None:
    held = image([zone("example.com", "")], [SERVICES["geo"], SERVICES["other"]], MAPS)
    table = MapTable(table_bytes(3, ROWS, RUNS4))
    held.set_map(0, table)
    Door(held).ask("geo.example.com", ecs="10.0.0.0/24")
    remembered = held.plan(0).tops_a
    assert remembered
    held.set_map(0, table)
    held.set_map(5, table)
    assert held.plan(0).tops_a is remembered


def test_services_in_an_image_keep_to_limits_of_a_reply() -> None:
    """The most that can be given, 32 addresses of each sort, fits one UDP answer with EDNS."""
    many = [endpoint(n, LEFT) for n in range(1, 33)]
    door = Door(image([zone("example.com", "")], [service("e.example.com", *many, policy=replace(P, take=32))]))
    for type_ in ("A", "AAAA"):
        reply = door.send(query("e.example.com", type_, edns=True))
        assert (reply.tc, len(reply.answer)) == (False, 32)
        assert door.ask("e.example.com", type_).tc
    assert layout.ECS_MAX4 == 24
