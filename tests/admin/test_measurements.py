"""Measurements over HTTP: who may speak of whom, what a beacon may, bounds, quotas, what browsers ask first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dnsd.admin import measurements
from dnsd.admin.beacons import BEACON_MOST, BEACON_S, Beacons
from dnsd.registry.roundtrips import RoundTrip
from tests.admin.conftest import Api

ONE = {"client": "192.0.2.7", "rtt_ms": 12.5}
PATH = "/v1/measurements"


@pytest.mark.asyncio
async def test_what_is_measured_comes_to_the_control_process(api: Api) -> None:
    body = {"site": "fra", "source": "agent", "samples": [
        ONE, {"client": "2001:db8::/48", "rtt_ms": 3, "count": 7, "spread_ms": 1.5, "site": "iad"}]}
    reply = await api.call("POST", PATH, "agent-a", body)
    assert (reply.status, reply.body) == (202, {"accepted": 2, "dropped": {}})
    assert api.control.measured == [("agent-a", "fra", (
        RoundTrip(client="192.0.2.7", rtt_ms=12.5),
        RoundTrip(client="2001:db8::/48", rtt_ms=3, count=7, spread_ms=1.5, site="iad")))]


@pytest.mark.parametrize(("sent", "pointer"), [
    ({"samples": [ONE]}, "/site"), ({"site": "fra", "samples": []}, "/samples"), ({"site": "fra"}, "/samples"),
    ({"site": "fra", "samples": [ONE] * 5001}, "/samples"), ({"site": "F", "samples": [ONE]}, "/site"),
    ({"site": "fra", "samples": [{"client": "192.0.2.7"}]}, "/samples/0/rtt_ms"),
    ({"site": "fra", "samples": [{**ONE, "count": 0}]}, "/samples/0/count"),
    ({"site": "fra", "samples": [ONE, {**ONE, "what": 1}]}, "/samples/1/what"),
    ({"site": "fra", "samples": [{**ONE, "client": "1" * 51}]}, "/samples/0/client"),
    ({"site": "fra", "samples": [ONE], "source": "me"}, "/source")])
@pytest.mark.asyncio
async def test_what_is_no_batch(api: Api, sent: dict[str, Any], pointer: str) -> None:
    reply = await api.call("POST", PATH, "ops", sent)
    assert reply.status == 422
    assert pointer in reply.faults
    assert api.control.measured == []


@pytest.mark.asyncio
async def test_a_sample_that_is_merely_wrong_is_no_fault_of_the_batch(api: Api) -> None:
    body = {"site": "none", "samples": [{"client": "no address", "rtt_ms": -1}]}
    assert (await api.call("POST", PATH, "ops", body)).status == 202


@pytest.mark.asyncio
async def test_a_beacon_speaks_of_its_own_address_only(api: Api) -> None:
    reply = await api.call("POST", PATH, "page", {
        "samples": [{"rtt_ms": 20, "site": "fra"}, {"rtt_ms": 90, "site": "iad"}]})
    assert reply.status == 202
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    [(who, site, samples)] = api.control.measured
    assert (who, site) == ("page", None)
    assert {one.client for one in samples} == {"127.0.0.1"}  # which the intake drops: nobody's client
    refused = await api.call("POST", PATH, "page", {"site": "fra", "samples": [{"rtt_ms": 20}, {**ONE, "site": "iad"}]})
    assert (refused.status, set(refused.faults)) == (403, {"/samples/1/client"})
    many = await api.call("POST", PATH, "page", {"site": "fra", "samples": [{"rtt_ms": 20}] * 65})
    assert set(many.faults) == {"/samples"}
    assert len(api.control.measured) == 1


@pytest.mark.asyncio
async def test_a_beacon_makes_its_block_no_heavier_than_a_page_is(api: Api) -> None:
    """What a block weighs says who the clients are that sites are filled with; anybody can read the token."""
    reply = await api.call("POST", PATH, "page", {"site": "fra", "samples": [{"rtt_ms": 20, "count": 65_535}]})
    assert reply.status == 202
    assert [one.count for one in api.control.measured[0][2]] == [8]
    assert api.control.anybody
    twice = await api.call("POST", PATH, "page", {"site": "fra", "samples": [
        {"rtt_ms": 20}, {"rtt_ms": 20, "site": "iad"}, {"rtt_ms": 21, "site": "fra"}, {"rtt_ms": 9, "site": "iad"}]})
    assert (twice.status, set(twice.faults)) == (403, {"/samples/2/site", "/samples/3/site"})
    await api.call("POST", PATH, "agent-a", {"site": "fra", "samples": [{**ONE, "count": 65_535}] * 2})
    assert [one.count for one in api.control.measured[-1][2]] == [65_535] * 2
    assert not api.control.anybody


@pytest.mark.parametrize(("peer", "client", "block"), [
    (("192.0.2.7", 1), "192.0.2.7", b"\xc0\0\2"), (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7", b"\xc0\0\2"),
    (("2001:db8::7%eth0", 1, 0, 0), "2001:db8::7", b"\x20\1\x0d\xb8\0\0")])
def test_where_a_page_comes_from(peer: tuple[Any, ...], client: str, block: bytes) -> None:
    asked = SimpleNamespace(transport=SimpleNamespace(get_extra_info=lambda name: peer))
    assert measurements._peer(asked) == (client, block)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_a_beacon_speaks_a_few_times_a_minute(api: Api) -> None:
    body = {"site": "fra", "samples": [{"rtt_ms": 20}]}
    for _ in range(BEACON_MOST):
        assert (await api.call("POST", PATH, "page", body)).status == 202
    reply = await api.call("POST", PATH, "page", body)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
    assert (await api.call("POST", PATH, "agent-a", {"site": "fra", "samples": [ONE]})).status == 202


def test_blocks_have_their_own_pace_and_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    beacons = Beacons(lambda: now[0])
    assert [beacons.may(b"abc") for _ in range(BEACON_MOST + 2)] == [True] * BEACON_MOST + [False] * 2
    assert beacons.may(b"abd")
    now[0] = BEACON_S
    assert beacons.may(b"abc")
    monkeypatch.setattr("dnsd.admin.beacons.BLOCKS", 1)
    beacons.may(b"xyz")
    assert len(beacons._spoken) == 2  # one goes for each that comes


@pytest.mark.asyncio
async def test_more_than_a_reporter_may_send(api: Api) -> None:
    api.control.takes = False
    reply = await api.call("POST", PATH, "ops", {"site": "fra", "samples": [ONE]})
    assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
    assert reply.body["type"] == "urn:dnsd:problem:too-many-measurements"


@pytest.mark.asyncio
async def test_what_a_browser_asks_first(api: Api) -> None:
    reply = await api.call("OPTIONS", PATH, "")
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert reply.headers["Access-Control-Allow-Methods"] == "POST"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.asyncio
async def test_measurements_are_taken_while_the_store_is_away(api: Api) -> None:
    await api.call("GET", "/v1/status", "agent-a")
    api.registry.away = True
    assert (await api.call("POST", PATH, "agent-a", {"site": "fra", "samples": [ONE]})).status == 202
