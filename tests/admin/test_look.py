"""Explain, status, audit, reload, health, metrics, the OpenAPI document; and answers that keep to their models."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from dnsd import metrics
from dnsd.admin import app, look, openapi
from dnsd.model import Fault
from tests.admin.conftest import Api
from tests.admin.test_matrix import CALLS


@pytest.mark.parametrize(("query", "status", "pointers"), [
    ("name=Api.A.example.&type=aaaa&client=192.0.2.1&subnet=198.51.100.0/24", 200, set()),
    ("name=api.a.example&subnet=198.51.100.7/24", 200, set()),
    ("name=.", 200, set()),
    ("type=A", 422, {"?name"}),
    ("name=x&client=nowhere&subnet=192.0.2.0/33", 422, {"?client", "?subnet"}),
    ("name=x&type=BOGUS", 422, {""}),
])
@pytest.mark.asyncio
async def test_explain(api: Api, query: str, status: int, pointers: set[str]) -> None:
    reply = await api.call("GET", f"/v1/explain?{query}")
    assert (reply.status, set(reply.faults)) == (status, pointers)
    if "Api" in query:
        assert reply.body == {
            "name": "api.a.example", "type": "AAAA", "client": "192.0.2.1", "subnet": "198.51.100.0/24"}


@pytest.mark.parametrize(("query", "reached", "waited"), [
    ("", None, []),
    ("?wait_version=10", True, [(10, 10.0)]),
    ("?wait_version=11&timeout=0.25", False, [(11, 0.25)]),
])
@pytest.mark.asyncio
async def test_status_waits(api: Api, query: str, reached: bool | None, waited: list[Any]) -> None:
    reply = await api.call("GET", f"/v1/status{query}", "agent-a")
    assert reply.status == 200
    assert reply.body.get("reached") is reached
    assert reply.body["version"] == 10
    assert api.control.waited == waited


@pytest.mark.asyncio
async def test_waiters_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "WAITING_MAX", 0)
    assert (await api.call("GET", "/v1/status?wait_version=1")).status == 503
    assert (await api.call("GET", "/v1/status")).status == 200
    assert (await api.call("GET", "/v1/status?timeout=61")).status == 422


@pytest.mark.asyncio
async def test_audit_in_pages(api: Api) -> None:
    for number in range(5):
        await api.call("PUT", f"/v1/services/s{number}.a.example", "ops", {})
    seen, token = [], ""
    while token is not None:
        page = (await api.call("GET", f"/v1/audit?page_size=2&page_token={token}", "reader")).body
        seen += page["items"]
        token = page["next_page_token"]
    assert [entry["key"] for entry in seen] == [f"s{number}.a.example" for number in range(5)]
    assert {entry["actor"] for entry in seen} == {"token:ops"}
    assert seen[0]["before"] is None
    assert seen[0]["after"]["name"] == "s0.a.example"


@pytest.mark.asyncio
async def test_a_reload_that_fails_names_file_and_line(api: Api) -> None:
    assert (await api.call("POST", "/v1/reload", "ops")).body == {"reloaded": True}
    api.control.faults = [Fault("a.zone:3", "no such type"), Fault("a.zone:9", "outside")]
    reply = await api.call("POST", "/v1/reload", "ops")
    assert (reply.status, reply.faults) == (422, {"a.zone:3": "no such type", "a.zone:9": "outside"})


@pytest.mark.asyncio
async def test_health_without_the_store(api: Api) -> None:
    api.registry.away = True
    assert (await api.call("GET", "/healthz", "")).body == {"status": "ok"}
    reply = await api.call("GET", "/readyz", "")
    assert (reply.status, reply.body["ready"], reply.body["stale_for"]) == (200, True, 1.5)
    api.control.unmet = ["no image yet"]
    reply = await api.call("GET", "/readyz", "")
    assert (reply.status, reply.body["conditions"]) == (503, ["no image yet"])
    assert (await api.call("GET", "/healthz", "")).status == 200
    assert (await api.client.request("HEAD", "/healthz")).status == 200


@pytest.mark.asyncio
async def test_metrics_parse_and_carry_both_processes(api: Api) -> None:
    metrics.counters(api.control.stats, 1)[metrics.QUERIES_UDP] = 5
    metrics.head(api.control.stats, 1)[metrics.PID] = 4242
    metrics.head(api.control.stats, 1)[metrics.VERSION] = 9
    metrics.head(api.control.stats, 1)[metrics.BEAT_MS] = int(time.monotonic() * 1000) - 3000  # as a worker writes it
    await api.call("GET", "/v1/sites")
    await api.call("GET", "/nowhere")
    reply = await api.call("GET", "/metrics", "")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(reply.body)}
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}
    assert samples["dnsd_queries_total", (("transport", "udp"), ("worker", "1"))] == 5
    assert samples["dnsd_worker_pid", (("worker", "1"),)] == 4242
    assert samples["dnsd_worker_version", (("worker", "1"),)] == 9
    assert 3 <= samples["dnsd_worker_beat_age_seconds", (("worker", "1"),)] < 60
    assert samples["dnsd_stale_seconds", ()] == 1.5
    assert samples["dnsd_ready", ()] == 1
    assert samples["dnsd_registry_up", ()] == 1
    assert samples["dnsd_image_version", ()] == 10
    assert samples["dnsd_lease_shifted_seconds_total", ()] == 2.5
    assert samples["dnsd_maps", ()] == 3
    assert ("dnsd_journal_bytes", ()) not in samples  # the fake does not tell
    assert samples["dnsd_admin_requests_total", (("operation", "list_sites"), ("status", "200"))] == 1
    assert samples["dnsd_admin_requests_total", (("operation", "none"), ("status", "404"))] == 1
    assert samples["dnsd_admin_request_seconds_count", ()] == 2
    assert samples["dnsd_admin_request_seconds_bucket", (("le", "+Inf"),)] == 2
    assert len(families) == sum(line.startswith("# TYPE") for line in reply.body.splitlines())
    assert all(family.documentation for family in families.values())


@pytest.mark.parametrize(("peer", "here"), [
    (("127.0.0.1", 1), True), (("127.8.8.8", 1), True), (("::1", 1, 0, 0), True), (("::ffff:127.0.0.1", 1, 0, 0), True),
    (("192.0.2.1", 1), False), (("::ffff:192.0.2.1", 1, 0, 0), False), (("fe80::1%eth0", 1, 0, 2), False),
    (("0.0.0.0", 1), False), ("", True),
])
def test_who_is_on_this_machine(peer: Any, here: bool) -> None:
    class Transport:
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return peer if name == "peername" else default

    request = make_mocked_request("GET", "/metrics", transport=Transport())
    assert app.from_here(request) is here


@pytest.mark.asyncio
async def test_metrics_from_elsewhere_need_a_token(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "from_here", lambda request: False)
    assert (await api.call("GET", "/metrics", "")).status == 401
    assert (await api.call("GET", "/metrics", "agent-a")).status == 403
    assert (await api.call("GET", "/metrics", "reader")).status == 200
    assert (await api.call("GET", "/readyz", "")).status == 200


@pytest.mark.asyncio
async def test_too_many_at_once_are_told_to_come_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BUSY_MAX", 0)
    reply = await api.call("GET", "/healthz", "")
    assert (reply.status, "Retry-After" in reply.headers) == (503, True)


def test_the_document_has_every_route_and_every_reference_leads_somewhere() -> None:
    document = json.loads(openapi.document(app.ROUTES))
    assert document["openapi"] == "3.1.0"
    operations = {
        operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()}
    assert set(operations) == set(CALLS)
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert operation["responses"]
    assert operations["put_site"]["x-roles"] == ["admin", "operator"]
    assert operations["healthz"]["security"] == []
    assert {"token": []} in operations["list_sites"]["security"]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in _references(value)]
    return [reference for value in node for reference in _references(value)] if isinstance(node, list) else []


@pytest.mark.asyncio
async def test_the_document_is_served_without_a_token(api: Api) -> None:
    for _ in range(2):
        reply = await api.call("GET", "/v1/openapi.json", "")
        assert (reply.status, reply.body["info"]["title"]) == (200, "dnsd admin API")


@pytest.mark.parametrize("route", app.ROUTES, ids=lambda route: route.operation)
@pytest.mark.asyncio
async def test_answers_keep_to_their_models(api: Api, route: Any) -> None:
    path, body, headers = CALLS[route.operation]
    reply = await api.call(route.method, path, "root", body, **headers)
    if isinstance(route.answer, type):
        route.answer.model_validate(reply.body)
    assert reply.status in (route.status, 201)
    refused = await api.call(route.method, path, "", body, **headers)
    if route.roles and not route.local:
        assert (refused.status, "Bearer" in refused.headers["WWW-Authenticate"]) == (401, True)
