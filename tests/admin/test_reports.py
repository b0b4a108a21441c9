"""Reports over HTTP: who may report of what, what a renewal carries, quotas."""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.control.told import Told
from tests.admin.conftest import Api

MINE, THEIRS = "api.a.example/one-a", "api.b.example/one-b"


@pytest.mark.asyncio
async def test_what_is_reported_comes_to_the_control_process(api: Api) -> None:
    body = {"reports": [
        {"endpoint": MINE, "ok": 5, "failed": 2, "rtt_ms": 12.5}, {"endpoint": "API.a.example./fixed", "ok": 1},
        {"endpoint": "api.a.example/nobody", "ok": 1}]}
    reply = await api.call("POST", "/v1/reports", "agent-a", body)
    assert (reply.status, reply.body) == (200, {"taken": 2, "unknown": ["api.a.example/nobody"]})
    assert api.control.told == [
        Told(MINE, "agent-a", 5, 2, (12.5,)), Told("api.a.example/fixed", "agent-a", 1, 0)]


@pytest.mark.parametrize(("as_", "endpoint", "status"), [
    ("root", MINE, 200), ("ops", THEIRS, 200), ("ops-a", MINE, 200), ("ops-a", THEIRS, 403), ("ops-net", MINE, 200),
    ("ops-net", THEIRS, 403), ("agent-a", THEIRS, 403), ("agent-b", THEIRS, 200), ("agent-b", MINE, 403),
    ("agent-free", THEIRS, 200), ("agent-a", "api.b.example/nobody", 403), ("reader", MINE, 403)])
@pytest.mark.asyncio
async def test_only_of_what_is_in_scope(api: Api, as_: str, endpoint: str, status: int) -> None:
    body = {"reports": [{"endpoint": endpoint, "ok": 1}, {"endpoint": endpoint, "failed": 1}]}
    reply = await api.call("POST", "/v1/reports", as_, body)
    assert reply.status == status
    if status == 403:
        assert api.control.told == []
        assert as_ == "reader" or "/reports/1/endpoint" in reply.faults


@pytest.mark.parametrize(("one", "pointer"), [
    ({"ok": 1}, "/reports/0/endpoint"), ({"endpoint": MINE, "ok": -1}, "/reports/0/ok"),
    ({"endpoint": MINE, "failed": 10**7}, "/reports/0/failed"), ({"endpoint": MINE, "rtt_ms": 0}, "/reports/0/rtt_ms"),
    ({"endpoint": MINE, "rtt_ms": 60_001}, "/reports/0/rtt_ms"), ({"endpoint": MINE, "ok": 1.5}, "/reports/0/ok"),
    ({"endpoint": MINE, "healthy": False}, "/reports/0/healthy"), ({"endpoint": ""}, "/reports/0/endpoint"),
    ({"endpoint": MINE, "what": 1}, "/reports/0/what")])
@pytest.mark.asyncio
async def test_what_is_no_report(api: Api, one: dict[str, Any], pointer: str) -> None:
    reply = await api.call("POST", "/v1/reports", "ops", {"reports": [one]})
    assert reply.status == 422
    assert pointer in reply.faults


@pytest.mark.parametrize("reports", [[], [{"endpoint": MINE}] * 1001])
@pytest.mark.asyncio
async def test_a_batch_is_bounded(api: Api, reports: list[Any]) -> None:
    assert (await api.call("POST", "/v1/reports", "ops", {"reports": reports})).status == 422


@pytest.mark.asyncio
async def test_more_than_a_reporter_may_send(api: Api) -> None:
    api.control.takes = False
    reply = await api.call("POST", "/v1/reports", "ops", {"reports": [{"endpoint": MINE, "ok": 1}]})
    assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
    renewed = await api.call("PUT", "/v1/leases/one-a", "agent-a", {"fence": 3, "reports": {MINE: {"ok": 1}}})
    assert renewed.status == 200  # the lease lives on


@pytest.mark.asyncio
async def test_reports_count_while_the_store_is_away(api: Api) -> None:
    await api.call("GET", "/v1/status", "agent-a")
    api.registry.away = True
    reply = await api.call("POST", "/v1/reports", "agent-a", {"reports": [{"endpoint": MINE, "failed": 1}]})
    assert reply.body == {"taken": 1, "unknown": []}


@pytest.mark.parametrize(("said", "told"), [
    ({}, Told(MINE, "agent-a")), ({"healthy": False}, Told(MINE, "agent-a", sick_ms=60_000)),
    ({"healthy": True}, Told(MINE, "agent-a", sick_ms=0)),
    ({"ok": 7, "failed": 3, "rtt_ms": 900, "in_flight": 5}, Told(MINE, "agent-a", 7, 3, (900.0,)))])
@pytest.mark.asyncio
async def test_a_renewal_reports_of_the_leases_own(api: Api, said: dict[str, Any], told: Told) -> None:
    reports = {MINE: said, "api.a.example/fixed": said, THEIRS: said, "x/y": said}
    reply = await api.call("PUT", "/v1/leases/one-a", "agent-a", {"fence": 3, "reports": reports})
    assert reply.status == 200
    assert api.control.told == [told]
    api.control.told.clear()
    many = {"renewals": [
        {"id": "one-a", "fence": 3, "reports": reports}, {"id": "one-a", "fence": 2, "reports": reports},
        {"id": "one-b", "fence": 3, "reports": reports}, {"id": "gone", "fence": 1, "reports": reports}]}
    assert (await api.call("POST", "/v1/leases:renew", "agent-a", many)).status == 200
    assert api.control.told == [told]  # neither with an old fence, nor of another's lease


@pytest.mark.parametrize(("body", "loads"), [
    ({"reports": {MINE: {"in_flight": 50, "capacity": 200}}}, {MINE: 0.25}),
    ({"reports": {MINE: {"in_flight": 500, "capacity": 200}}}, {MINE: 1.0}),
    ({"reports": {MINE: {"in_flight": 50, "capacity": 200}}, "loads": {MINE: 0.9}}, {MINE: 0.9}),
    ({"reports": {MINE: {"in_flight": 50}}}, {}), ({"reports": {MINE: {"capacity": 50}}}, {})])
@pytest.mark.asyncio
async def test_requests_under_way_are_a_load(
    api: Api, body: dict[str, Any], loads: dict[str, float], monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    real = api.registry.renew

    async def renew(renewals: Any, *, actor: str) -> Any:
        seen.extend(renewals)
        return await real(renewals, actor=actor)

    monkeypatch.setattr(api.registry, "renew", renew)
    await api.call("PUT", "/v1/leases/one-a", "agent-a", {"fence": 3, **body})
    assert seen[0].loads == loads


@pytest.mark.asyncio
async def test_who_acquires_begins_anew(api: Api) -> None:
    body = {"holder": "h", "endpoints": [{"id": "h", "service": "api.a.example", "site": "fra", "a": "192.0.2.20"}]}
    assert (await api.call("POST", "/v1/leases", "agent-a", body)).status == 201
    assert api.control.anew == ["api.a.example/h"]
