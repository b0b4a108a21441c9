"""Leases over HTTP: who may register what, whose lease is whose, fences, batches, repeats."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dnsd.registry.models import Kind
from tests.admin.conftest import Api


def request(holder: str = "h", *addresses: str, service: str = "api.a.example") -> dict[str, Any]:
    endpoints = [
        {"id": f"{holder}-{number}", "service": service, "site": "fra", "aaaa" if ":" in address else "a": address}
        for number, address in enumerate(addresses or ("192.0.2.20",))]
    return {"holder": holder, "endpoints": endpoints}


@pytest.mark.asyncio
async def test_acquire_renew_release(api: Api) -> None:
    granted = await api.call("POST", "/v1/leases", "agent-a", request())
    assert granted.status == 201
    lease = granted.body
    assert lease["version"] == 11
    assert lease["durability"] == "fsync"
    path = granted.headers["Location"]
    assert path == f"/v1/leases/{lease['id']}"
    assert (await api.call("GET", path, "agent-a")).body["endpoints"] == lease["endpoints"] == ["api.a.example/h-0"]
    renewed = await api.call("PUT", path, "agent-a", {"fence": lease["fence"], "loads": {"api.a.example/h-0": 0.5}})
    assert renewed.body == {
        "id": lease["id"], "ok": True, "fence": lease["fence"], "remaining_ms": 30000, "problem": None}
    again = await api.call("POST", "/v1/leases", "agent-a", request())
    assert again.body["fence"] > lease["fence"]
    assert (await api.call("PUT", path, "agent-a", {"fence": lease["fence"]})).status == 409
    assert (await api.call("DELETE", f"{path}?fence={lease['fence']}", "agent-a")).status == 409
    assert (await api.call("DELETE", f"{path}?fence={again.body['fence']}", "agent-a")).status == 200
    assert (await api.call("PUT", path, "agent-a", {"fence": again.body["fence"]})).status == 404
    assert (await api.call("GET", path, "agent-a")).status == 404
    assert (await api.call("DELETE", path, "agent-a")).status == 422


@pytest.mark.parametrize(("as_", "body", "pointers"), [
    ("agent-a", request("h", "198.51.100.10"), {"/endpoints/0/a"}),
    ("agent-a", request("h", "192.0.2.20", "198.51.100.10", "2001:db8:b::1"), {"/endpoints/1/a", "/endpoints/2/aaaa"}),
    ("agent-a", request("h", service="api.b.example"), {"/endpoints/0/service"}),
    ("agent-a", request("h", "198.51.100.1", service="api.b.example"), {"/endpoints/0/service", "/endpoints/0/a"}),
    ("agent-a", request("h", service="a.example"), {"/endpoints/0/service"}),
    ("agent-b", request("h", "192.0.2.20", service="api.b.example"), {"/endpoints/0/a"}),
    ("agent-b", request("h", "2001:db8:a::1", service="api.b.example"), {"/endpoints/0/aaaa"}),
    ("ops-a", request("h", service="api.b.example"), {"/endpoints/0/service"}),
])
@pytest.mark.asyncio
async def test_a_tenant_registers_only_its_own(api: Api, as_: str, body: Any, pointers: set[str]) -> None:
    reply = await api.call("POST", "/v1/leases", as_, body)
    assert (reply.status, set(reply.faults)) == (403, pointers)
    assert api.registry.version == 10


@pytest.mark.parametrize(("as_", "status"), [
    ("agent-a", 200), ("agent-b", 403), ("agent-free", 403), ("root", 200), ("ops", 200), ("ops-a", 200),
    ("ops-net", 403), ("reader", 403),
])
@pytest.mark.asyncio
async def test_whose_lease_it_is(api: Api, as_: str, status: int) -> None:
    for _ in range(2):  # the second time from memory
        assert (await api.call("PUT", "/v1/leases/one-a", as_, {"fence": 3})).status == status
    reply = await api.call("POST", "/v1/leases:renew", as_, {"renewals": [{"id": "one-a", "fence": 3}]})
    if as_ == "reader":
        assert reply.status == 403
    else:
        assert [one["problem"] for one in reply.body["renewed"]] == [None if status == 200 else "forbidden"]
    assert (await api.call("DELETE", "/v1/leases/one-a?fence=3", as_)).status == status


@pytest.mark.asyncio
async def test_a_batch_answers_each_in_its_order(api: Api) -> None:
    renewals = [{"id": name, "fence": fence} for name, fence in (
        ("one-b", 3), ("one-a", 3), ("gone", 1), ("one-a", 2), ("one-b", 9), ("one-a", 3))]
    reply = await api.call("POST", "/v1/leases:renew", "agent-a", {"renewals": renewals})
    assert reply.status == 200
    assert [one["id"] for one in reply.body["renewed"]] == [one["id"] for one in renewals]
    problems = ["forbidden", None, "unknown", "fenced", "forbidden", None]
    assert [one["problem"] for one in reply.body["renewed"]] == problems
    assert [one["ok"] for one in reply.body["renewed"]] == [False, True, False, False, False, True]


@pytest.mark.asyncio
async def test_renewals_of_a_known_lease_cost_one_question(api: Api) -> None:
    await api.call("PUT", "/v1/leases/one-a", "agent-a", {"fence": 3})
    api.registry.asked = 0
    for _ in range(10):
        assert (await api.call("PUT", "/v1/leases/one-a", "agent-a", {"fence": 3})).status == 200
    assert api.registry.asked == 10


@pytest.mark.asyncio
async def test_not_yours_is_never_believed_from_memory(api: Api) -> None:
    assert (await api.call("PUT", "/v1/leases/one-a", "agent-free", {"fence": 3})).status == 403
    held = api.registry.objects[Kind.LEASE]["one-a"]
    lease = held.value.model_copy(update={"token": "agent-free"})
    api.registry.objects[Kind.LEASE]["one-a"] = held._replace(value=lease)  # taken over through another node
    assert (await api.call("PUT", "/v1/leases/one-a", "agent-free", {"fence": 3})).status == 200


@pytest.mark.parametrize(("as_", "query", "status"), [
    ("agent-free", "", 409), ("agent-free", "?take_over=true", 403), ("ops", "", 409), ("ops", "?take_over=true", 201),
    ("ops-a", "?take_over=true", 201), ("agent-a", "", 201),
])
@pytest.mark.asyncio
async def test_taking_over_a_holder(api: Api, as_: str, query: str, status: int) -> None:
    reply = await api.call("POST", f"/v1/leases{query}", as_, request("one-a"))
    assert reply.status == status


@pytest.mark.asyncio
async def test_a_scoped_operator_takes_over_only_in_its_scope(api: Api) -> None:
    reply = await api.call("POST", "/v1/leases?take_over=true", "ops-a", request("one-b"))
    assert reply.status == 403


@pytest.mark.asyncio
async def test_an_endpoint_of_another_is_a_conflict(api: Api) -> None:
    body = {"holder": "h", "endpoints": [{"id": "one-a", "service": "api.a.example", "site": "fra", "a": "192.0.2.20"}]}
    reply = await api.call("POST", "/v1/leases", "agent-free", body)
    assert (reply.status, set(reply.faults)) == (409, {"/endpoints/0"})


@pytest.mark.asyncio
async def test_a_repeat_with_the_same_key_gets_the_first_answer(api: Api) -> None:
    first = await api.call("POST", "/v1/leases", "agent-a", request(), Idempotency_Key="k")
    again = await api.call("POST", "/v1/leases", "agent-a", request(), Idempotency_Key="k")
    assert (again.status, again.body) == (first.status, first.body)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert api.registry.version == 11
    other_body = await api.call("POST", "/v1/leases", "agent-a", request("other"), Idempotency_Key="k")
    assert (other_body.status, set(other_body.faults)) == (422, {"Idempotency-Key"})
    other_token = await api.call("POST", "/v1/leases", "agent-free", request("free", "192.0.2.77"), Idempotency_Key="k")
    assert other_token.status == 201
    assert "Idempotency-Replayed" not in other_token.headers


@pytest.mark.asyncio
async def test_a_repeat_with_other_parameters_is_another_request(api: Api) -> None:
    await api.call("POST", "/v1/leases", "ops", request(), Idempotency_Key="k")
    reply = await api.call("POST", "/v1/leases?take_over=true", "ops", request(), Idempotency_Key="k")
    assert reply.status == 422


@pytest.mark.asyncio
async def test_a_refused_request_may_be_tried_again_with_its_key(api: Api) -> None:
    await api.call("GET", "/v1/status", "agent-a")
    api.registry.away = True
    assert (await api.call("POST", "/v1/leases", "agent-a", request(), Idempotency_Key="k")).status == 503
    api.registry.away = False
    assert (await api.call("POST", "/v1/leases", "agent-a", request(), Idempotency_Key="k")).status == 201


@pytest.mark.asyncio
async def test_a_repeat_while_the_first_runs_is_told_to_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, began, real = asyncio.Event(), asyncio.Event(), api.registry.acquire

    async def slow(*args: Any, **named: Any) -> Any:
        began.set()
        await gate.wait()
        return await real(*args, **named)

    monkeypatch.setattr(api.registry, "acquire", slow)
    first = asyncio.create_task(api.call("POST", "/v1/leases", "agent-a", request(), Idempotency_Key="k"))
    await began.wait()
    second = await api.call("POST", "/v1/leases", "agent-a", request(), Idempotency_Key="k")
    assert second.status == 409
    assert second.headers["Retry-After"] == "1"
    gate.set()
    assert (await first).status == 201
