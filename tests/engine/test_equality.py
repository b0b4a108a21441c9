"""The compiled engine gives the octets that `respond` gives, counts what it counts, and takes the tokens it takes."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.compile import image as compiler
from dnsd.compile.service import record
from dnsd.dns.cookies import Cookies
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import Fence, MapView, Policy, ServiceView
from dnsd.steer.row import LEVEL_MS
from tests.engine.pairs import CLIENTS, SECRETS, Pair, draw, pool
from tests.golden import packets as golden
from tests.golden.world import NOW, STAMP, query, table_bytes, v4, v6, wire, zone

SITES = ("s0", "s1", "s2")
MAPS = {0: MapView(0, "map", SITES), 7: MapView(7, "other", SITES)}
FORMS = {
    "udp": {}, "udp cookies": {"cookies": 2}, "tcp": {"tcp": True, "keepalive": 300, "cookies": 1},
    "tls": {"tcp": True, "pad": True, "cookies": 3}, "listed": {"listed": ["10.0.0.0/8", "2400::/16"], "cookies": 1}}

cells = st.tuples(st.integers(0, len(LEVEL_MS) - 1), st.integers(0, 31))
rows = st.lists(st.lists(cells, min_size=3, max_size=3), min_size=2, max_size=5)
octets4, octets16 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
policies = st.builds(
    Policy, st.integers(0, 100), st.integers(0, 100), st.integers(0, 3), st.integers(0, 3), st.integers(1, 1000),
    st.sampled_from([0, 1, 20, 10_000]), st.sampled_from([1, 1, 1, 2, 3, 32]), st.sampled_from([True, True, False]),
    st.sampled_from([Fence.NONE, Fence.NONE, *Fence]), st.booleans(), st.booleans(),
    st.sampled_from([0, 0, 0, 16, 20, 24]), st.sampled_from([32, 40, 56]))


def world() -> tuple[Image, dict[int, bytes]]:
    """The golden world's image, without its table: the engine reads the same octets as a buffer."""
    held = Image(_BUILT)
    held.set_map(0, MapTable(_TABLE))
    return held, {0: _TABLE}


_DOOR = golden.door()
_BUILT, _TABLE = bytes(_DOOR.image.buffer), bytes(_DOOR.image.maps[0].buffer)


def test_a_name_of_255_octets() -> None:
    """As long as names may be: an owner, an alias's target, a question that is not there."""
    long = ".".join(["x" * 63, "y" * 63, "z" * 63, "w" * 48, "long.example"])
    built = compiler.build([zone("long.example.", f"{long}. A 192.0.2.1\nalias CNAME {long}.")], [], [], STAMP, 0)
    pair = Pair(Image(built.data))
    assert len(wire(long)) == 255
    for name in (long, "alias.long.example", "v" + long[1:]):
        assert pair.ask(query(name)) is not None
    assert pair.handed == 0
    pair.check_counts()


@pytest.mark.parametrize("form", FORMS)
def test_every_packet_of_the_pool(form: str) -> None:
    held, tables = world()
    pair = Pair(held, tables=tables, **FORMS[form])
    for number, packet in enumerate(pool()):
        pair.ask(packet, CLIENTS[number % len(CLIENTS)])
    pair.check_counts()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_packets_changed_by_chance(form: str, seed: int) -> None:
    held, tables = world()
    pair = Pair(held, tables=tables, **FORMS[form])
    rnd = random.Random(seed)
    for _ in range(4000):
        client = rnd.choice(CLIENTS)
        pair.ask(draw(rnd, Cookies(SECRETS[rnd.randrange(3) :]), client), client, NOW + rnd.choice([0, 7, 8, 3600]))
    pair.check_counts()


@pytest.mark.parametrize("seed", range(8))
def test_limits_and_shedding(seed: int) -> None:
    held, tables = world()
    rnd = random.Random(seed)
    lists = rnd.choice([{}, {"exempt": ["192.0.2.53/32"]}, {"raised": ["10.0.0.0/8", "2400::/16"]},
                        {"exempt": ["2400::/16", "10.1.7.0/28"], "raised": ["192.0.2.0/24"]}])
    pair = Pair(held, tables=tables, cookies=rnd.randrange(3), rate=rnd.choice([1, 4, 20]), **lists)
    nanoseconds = rnd.choice([0, (1 << 50) - 10**9, 10**12])
    for step in range(4000):
        if step % 64 == 0:
            nanoseconds += rnd.choice([0, 10**6, 10**8, 10**9])
            pair.tick(nanoseconds)
            pair.shed(rnd.choice([0, 0, 0, 0, 1, 2, 3]))
        client = rnd.choice(CLIENTS[:3] if step % 500 < 250 else CLIENTS)
        pair.ask(draw(rnd, Cookies(SECRETS[:1]), client), client)
    pair.check_counts()


@st.composite
def views(make: st.DrawFn, of: ServiceView) -> ServiceView:
    """Another state of a service: any policy, endpoints, fallback; its name and types stay."""
    live = tuple(
        replace(endpoint, a=make(st.none() | octets4), aaaa=make(st.none() | octets16),
                tier=make(st.sampled_from([0, 0, 1, 255])), weight=make(st.sampled_from([0, 1, 100, 65535])),
                health=make(st.sampled_from([0, 500, 1000])), load=make(st.sampled_from([0, 1000])),
                site=make(st.sampled_from([*SITES, "elsewhere"])), keep=make(shares), take=make(shares))
        for endpoint in _ENDPOINTS[: make(st.integers(0, 6))])
    ghosts = tuple(one for one in live if make(st.booleans()))
    policy = replace(make(policies), spill=make(st.booleans()))
    few4, few16 = make(st.lists(octets4, max_size=3)), make(st.lists(octets16, max_size=3))
    return replace(
        of, policy=policy, ghosts=ghosts, ttl=make(st.sampled_from([1, 8, 300])), live=live, fallback_a=tuple(few4),
        fallback_aaaa=tuple(few16), last_good_a=tuple(make(st.lists(octets4, max_size=2))),
        last_good_aaaa=tuple(make(st.lists(octets16, max_size=2))), panic=make(st.booleans()),
        map_id=make(st.sampled_from([0, 0, 0, 7])))


shares = st.sampled_from([0, 1, 9000, 30_000, 65_535])
_SERVICES = golden.services()
_ENDPOINTS = _SERVICES[-1].live + _SERVICES[-1].live
_query = cache(query)
_NAMES = ["geo", "region", "sticky", "web", "rest", "both", "api", "x.svc", "al8", "alweb", "all"]


@settings(max_examples=60)
@given(st.data(), rows, st.integers(0, 2**32))
def test_any_service_and_any_map(data: st.DataObject, table: list[list[tuple[int, int]]], seed: int) -> None:
    held, _ = world()
    rnd = random.Random(seed)
    last = len(table) - 1
    runs4 = [(0, 0), (v4("10.0.0.0"), last), (v4("10.0.6.0"), rnd.randint(0, last)), (v4("10.1.8.0"), last + 3)]
    runs6 = [(0, 0), (v6("2400::"), last), (v6("2400:0:0:600::"), rnd.randint(0, last)), (v6("2401::"), 0)]
    fine = [(0xC0000235, 0xC0000235, last)]
    octets = table_bytes(3, table, runs4, runs6, fine, [(v6("2400:0:0:6::"), v6("2400:0:0:6::"), 1)])
    held.set_map(0, MapTable(octets))
    pair = Pair(held, tables={0: octets}, cookies=1)
    for _ in range(3):
        changed = data.draw(st.lists(st.sampled_from(range(len(_SERVICES))), min_size=3, max_size=6, unique=True))
        pair.delta([(_record(held, _SERVICES[i]), record(data.draw(views(_SERVICES[i])), MAPS)) for i in changed])
        for _ in range(60):
            name, type_ = rnd.choice(_NAMES), rnd.choice(["A", "AAAA", "HTTPS", "A"])
            subnet = rnd.choice([None, *golden.SUBNETS])
            client = rnd.choice(CLIENTS)
            pair.ask(_query(f"{name}.example.com", type_, ecs=subnet), client, NOW + rnd.randrange(40))
    pair.check_counts()


def _record(held: Image, view: ServiceView) -> int:
    node = held.get(view.owner)
    assert node is not None
    return node.record


def test_the_engine_answers_nearly_all_that_users_ask() -> None:
    """Static and service, wildcard, NODATA, NXDOMAIN, CNAME, referral, truncated, refused, broken."""
    held, tables = world()
    pair = Pair(held, tables=tables, cookies=1)
    asked = [query(f"{label}.example.com", type_, ecs=subnet, edns=True)
             for label in ("www", "geo", "x.w", "b", "nothing", "al", "al8", "x.sub", "huge", "region", "sticky", "web")
             for type_ in ("A", "AAAA", "TXT", "HTTPS") for subnet in (None, "10.0.6.0/24", "2400::/56")]
    asked += [query("www.example.net"), query("www.example.com")[:-1], golden.ODD["badvers"], golden.ODD["bad subnet"]]
    for packet in asked:
        pair.ask(packet)
    assert pair.handed == 0
    kinds = {slot for slot in range(metrics.KIND_STATIC, metrics.KIND_COOKIE) if pair.counts[1][slot]}
    assert kinds == {
        metrics.KIND_STATIC, metrics.KIND_SERVICE, metrics.KIND_NODATA, metrics.KIND_NXDOMAIN, metrics.KIND_REFERRAL,
        metrics.KIND_CNAME, metrics.KIND_WILDCARD, metrics.KIND_REFUSED, metrics.KIND_FORMERR, metrics.KIND_BADVERS}
    assert pair.counts[1][metrics.TRUNCATED]
