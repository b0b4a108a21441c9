"""HTTPS of services: its hints are what A and AAAA give to the same question, whoever asks, whatever is alive.

Replies are read by dnspython, which also checks the order and form of SvcParams (RFC 9460).
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from functools import cache

import dns.edns
import dns.rdatatype
import dns.rdtypes.svcbbase as svcb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd import metrics as m
from dnsd.compile import zones as tree
from dnsd.dns import types
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import Fence, MapView, Policy, ServiceView
from tests.golden.world import Door, Reply, endpoint, image, service, table_bytes, v4, v6, wire, zone
from tests.image.test_record import services

SITES = ("s0", "s1", "s2")
ROWS = [[(0, 0)] * 3, [(0, 24), (5, 16), (13, 0)], [(13, 0), (5, 0), (0, 24)]]
TABLE = table_bytes(3, ROWS, [(0, 0), (v4("10.0.0.0"), 1), (v4("10.1.0.0"), 2), (v4("10.2.0.0"), 0)],
                    [(0, 0), (v6("2400::"), 1), (v6("2401::"), 2), (v6("2402::"), 0)])
LIVE = (endpoint(1, "s0"), endpoint(2, "s1"), endpoint(3, "s2", aaaa=False), endpoint(4, "s2", a=False),
        endpoint(5, "s2"), endpoint(6, "s0", tier=1))
P = Policy()
PARAMS = ((1, b"\2h2\2h3"), (3, (8443).to_bytes(2, "big")), (5, b"\0\x08\xfe\x0d\0\4abcd"))


def web(owner: str, *live: object, params: tuple[tuple[int, bytes], ...] = PARAMS, owns: tuple[int, ...] = (1, 28),
        **values: object) -> ServiceView:
    """A service with an HTTPS record."""
    made = service(owner, *live, types=[*owns, types.HTTPS], **values)  # type: ignore[arg-type]
    return replace(made, https=params)


SERVICES = [
    web("geo.example.com", *LIVE),
    web("plain.example.com", *LIVE, params=()),
    web("all.example.com", *LIVE, policy=replace(P, take=4)),
    web("weighted.example.com", *LIVE, policy=replace(P, uses_client=False)),
    web("sticky.example.com", *LIVE, policy=replace(P, split4=20, split6=40)),
    web("fence.example.com", *LIVE, policy=replace(P, fence=Fence.COUNTRY), fallback=["203.0.113.1", "2001:db8:f::1"]),
    web("noecs.example.com", *LIVE, policy=replace(P, no_ecs_fallback=True),
        fallback=["203.0.113.1", "2001:db8:f::1"]),
    web("v4.example.com", endpoint(7, aaaa=False), owns=(1,)),
    web("half.example.com", endpoint(8, aaaa=False)),
    web("fall.example.com", fallback=["203.0.113.1", "203.0.113.2"]),
    web("stale.example.com", last_good=["203.0.113.9", "2001:db8:f::9"]),
    web("panic.example.com", *LIVE, panic=True),
    web("mixed.example.com", endpoint(9, aaaa=False), panic=True, last_good=["2001:db8:f::9"]),
    web("dark.example.com"),
    web("*.wild.example.com", *LIVE),
    web("example.com", *LIVE),
    service("none.example.com", *LIVE),
]
NAMES = ["geo", "plain", "all", "weighted", "sticky", "fence", "noecs", "v4", "half", "fall", "stale", "panic",
         "x.wild"]


@cache
def held() -> Image:
    """The image; made when it is first asked, so that what breaks it fails a test and not this file."""
    return image([zone("example.com", "al CNAME geo\nold HTTPS 0 geo\n")], SERVICES, [MapView(0, "all", SITES)],
                 {0: MapTable(TABLE)})


def ask(name: str, type_: str, *, now: int = 1_700_000_000, ecs: str | None = None,
        client: str = "192.0.2.53") -> Reply:
    """The reply over a door large enough for any answer."""
    return Door(held(), tcp=True, now=now, client=ipaddress.ip_address(client).packed).ask(name, type_, ecs=ecs)


def hints(reply: Reply) -> tuple[list[str], list[str]]:
    """The hinted addresses."""
    [rrset] = reply.message.answer
    params = rrset[0].params
    four, six = params.get(svcb.ParamKey.IPV4HINT), params.get(svcb.ParamKey.IPV6HINT)
    return list(four.addresses if four else ()), list(six.addresses if six else ())


def errors(reply: Reply) -> list[tuple[int, str]]:
    """The extended errors."""
    return [(option.code, option.text or "") for option in reply.message.options
            if isinstance(option, dns.edns.EDEOption)]


CLIENTS = st.one_of(
    st.none(), st.integers(0, 0x3FF).map(lambda n: f"10.{n >> 8}.{n & 255}.0/24"), st.just("0.0.0.0/0"),
    st.integers(0, 0x3FF).map(lambda n: f"{0x2400 + (n >> 8):x}:{n & 255:x}::/56"), st.just("::/0"))


@given(st.sampled_from(NAMES), CLIENTS, st.integers(1_700_000_000, 1_700_100_000),
       st.sampled_from(["192.0.2.53", "10.0.7.7", "10.1.2.3", "2400::1", "2401:5::1"]))
def test_hints_are_what_a_and_aaaa_give(name: str, ecs: str | None, now: int, client: str) -> None:
    """RFC 9460 §7.3: the same client, window and image; the scope good for both families."""
    four, six, both = (ask(f"{name}.example.com", type_, now=now, ecs=ecs, client=client)
                       for type_ in ("A", "AAAA", "HTTPS"))
    assert both.rcode == 0
    assert hints(both) == (four.addresses if four.rcode == 0 else [], six.addresses if six.rcode == 0 else [])
    assert both.scope == (None if ecs is None else max(four.scope or 0, six.scope or 0))


@settings(max_examples=80)
@given(services, st.booleans(), CLIENTS, st.integers(1_700_000_000, 1_700_100_000))
def test_hints_of_any_service(view: ServiceView, known: bool, ecs: str | None, now: int) -> None:
    """Whatever its policy, endpoints, rungs and parameters; with its map and before it is there."""
    view = replace(view, owner=wire("any.example.com"), types=view.types | {types.HTTPS}, https=PARAMS)
    held = image([zone("example.com", "")], [view], [MapView(0, "all", SITES)], {0: MapTable(TABLE)} if known else {})
    four, six, both = (Door(held, tcp=True, now=now, client=bytes((10, 0, 7, 7))).ask("any.example.com", type_, ecs=ecs)
                       for type_ in ("A", "AAAA", "HTTPS"))
    if not four.answer and not six.answer:
        assert (both.rcode, both.answer) == (2, [])
        return
    assert hints(both) == (four.addresses, six.addresses)
    assert both.scope == (None if ecs is None else max(four.scope or 0, six.scope or 0))
    assert {rrset.ttl for rrset in both.message.answer} == {view.ttl}
    assert set(errors(both)) == {told for reply in (four, six) if reply.answer for told in errors(reply)}
    moved = {slot for reply in (four, six) if reply.answer for slot in reply.moved}
    assert both.moved == dict.fromkeys(moved, 1)


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_one_record_in_service_mode(name: str) -> None:
    """Priority 1, target `.`, the service's TTL, SvcParams as declared, sorted (dnspython refuses others)."""
    [rrset] = ask(f"{name}.example.com".removeprefix("."), "HTTPS").message.answer
    [rdata] = rrset
    assert (rdata.priority, rdata.target.to_text(), rrset.ttl) == (1, ".", 8)
    text = rdata.to_text()
    declared = 'alpn="h2,h3" port="8443"' in text and 'ech="AAj+DQAEYWJjZA=="' in text
    assert declared is (name != "plain")
    assert list(rdata.params) == sorted(rdata.params)


@pytest.mark.parametrize(("name", "rcode", "found"), [
    ("dark", 2, False), ("none", 0, False), ("geo", 0, True), ("al", 0, True), ("old", 0, True), ("fall", 0, True)])
def test_who_has_one(name: str, rcode: int, found: bool) -> None:
    reply = ask(f"{name}.example.com", "HTTPS")
    assert (reply.rcode, any(r.rdtype == dns.rdatatype.HTTPS for r in reply.message.answer)) == (rcode, found)


def test_with_one_family_alone_only_that_is_hinted() -> None:
    assert hints(ask("v4.example.com", "HTTPS")) == (["198.51.100.7"], [])
    assert hints(ask("half.example.com", "HTTPS")) == (["198.51.100.8"], [])
    assert ask("half.example.com", "AAAA").rcode == 2


@pytest.mark.parametrize(("name", "code", "text"), [
    ("stale", 3, "last good answer"), ("panic", 0, "panic: too little is healthy"), ("dark", 0, "no address to give")])
@pytest.mark.parametrize("type_", ["A", "HTTPS"])
def test_a_lower_rung_and_panic_are_told_once(name: str, code: int, text: str, type_: str) -> None:
    """RFC 8914."""
    [(found, told)] = errors(ask(f"{name}.example.com", type_, ecs="10.0.1.0/24"))
    assert (found, text in told) == (code, True)


@pytest.mark.parametrize(("name", "ecs", "moved"), [
    ("geo", "10.0.1.0/24", [m.KIND_SERVICE, m.RCODE]),
    ("geo", "11.0.1.0/24", [m.KIND_SERVICE, m.RCODE, m.NO_PLACE]),
    ("half", "10.0.1.0/24", [m.KIND_SERVICE, m.RCODE]),  # AAAA alone has nothing to give
    ("fall", "10.0.1.0/24", [m.KIND_SERVICE, m.RCODE, m.LADDER_FALLBACK]),
    ("stale", "10.0.1.0/24", [m.KIND_SERVICE, m.RCODE, m.LADDER_LAST_GOOD]),
    ("noecs", "0.0.0.0/0", [m.KIND_SERVICE, m.RCODE, m.DECLARED_FALLBACK]),
    ("panic", "11.0.1.0/24", [m.KIND_SERVICE, m.RCODE, m.PANIC, m.NO_PLACE]),
    ("mixed", "10.0.1.0/24", [m.KIND_SERVICE, m.RCODE, m.PANIC, m.LADDER_LAST_GOOD]),
    ("dark", "10.0.1.0/24", [m.KIND_SERVFAIL, m.RCODE + 2, m.LADDER_EMPTY]),
])
def test_one_answer_is_counted_once(name: str, ecs: str, moved: list[int]) -> None:
    """Whatever happened to one family or to both."""
    found = ask(f"{name}.example.com", "HTTPS", ecs=ecs).moved
    subnet = m.ECS_OPT_OUT if ecs == "0.0.0.0/0" else m.ECS_V4
    assert found == dict.fromkeys([*moved, m.EDNS, subnet], 1)


def test_both_families_tell_what_befell_them() -> None:
    """RFC 8914 §2: several extended errors may stand in one reply."""
    assert [code for code, _ in errors(ask("mixed.example.com", "HTTPS", ecs="10.0.1.0/24"))] == [0, 3]


def test_a_static_one_beside_it_is_a_fault() -> None:
    """And none beside a service that declares none."""
    text = "geo HTTPS 1 . alpn=h2\nnone HTTPS 1 . alpn=h2\n"
    faults = tree.check([zone("example.com", text)], SERVICES)
    assert [(fault.place, fault.message) for fault in faults] == [
        ("geo.example.com.", "service owns A, AAAA, HTTPS here, but the zone has static HTTPS")]
