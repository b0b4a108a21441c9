"""`POST /v1/apply`: the plan, all or nothing, what is pruned, the guard, pointers into the document, scopes."""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.registry.models import Endpoint, Kind, Service, Site
from dnsd.registry.values import Stored
from tests.admin.conftest import Api

SITE = {"id": "nrt", "latitude": 35.8, "longitude": 140.4, "country": "JP", "region": "as"}
SERVICE = {"name": "new.a.example", "policy": {"preset": "latency"}}
ENDPOINT = {"id": "x", "service": "new.a.example", "site": "nrt", "a": "192.0.2.30"}


def ops(reply: Any) -> list[tuple[str, str]]:
    return [(step["op"], f"{step['kind']}/{step['key']}") for step in reply.body["steps"]]


@pytest.mark.asyncio
async def test_a_dry_run_says_what_the_deed_does(api: Api) -> None:
    fleet = {"sites": [SITE, {"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
             "services": [SERVICE, {"name": "api.a.example", "ttl": 30}], "endpoints": [ENDPOINT]}
    plan = await api.call("POST", "/v1/apply?dry_run=true", body=fleet)
    expected = [("create", "site/nrt"), ("create", "service/new.a.example"), ("change", "service/api.a.example"),
                ("create", "endpoint/new.a.example/x")]
    assert ops(plan) == expected
    assert (plan.body["version"], plan.body["unchanged"], plan.body["dry_run"]) == (10, 1, True)
    change = plan.body["steps"][2]
    assert (change["before"]["ttl"], change["after"]["ttl"]) == (8, 30)
    assert api.registry.version == 10
    done = await api.call("POST", f"/v1/apply?if_version={plan.body['version']}", body=fleet)
    assert ops(done) == expected
    assert (done.body["version"], done.body["durability"]) == (11, "fsync")
    again = await api.call("POST", "/v1/apply", body=fleet)
    assert (ops(again), again.body["unchanged"], again.body["version"], again.body["durability"]) == ([], 5, 11, None)
    assert (await api.call("POST", "/v1/apply?if_version=10", body=fleet)).status == 412


@pytest.mark.asyncio
async def test_an_empty_document_does_nothing(api: Api) -> None:
    for fleet in ({}, {"sites": []}, {"delete": {}}):
        assert ops(await api.call("POST", "/v1/apply", body=fleet)) == []


@pytest.mark.parametrize(("fleet", "status", "pointers"), [
    ({"endpoints": [ENDPOINT, {**ENDPOINT, "id": "y", "service": "api.a.example", "site": "fra"}]}, 422,
     {"/endpoints/0/site", "/endpoints/0/service"}),
    ({"services": [SERVICE, SERVICE]}, 422, {"/services/1"}),
    ({"delete": {"sites": ["iad", "fra"]}}, 409, {"/delete/sites/1"}),
    ({"delete": {"sites": ["nowhere"]}}, 404, {"/delete/sites/0"}),
    ({"endpoints": [{"id": "one-a", "service": "api.a.example", "site": "fra", "a": "192.0.2.3"}]}, 409,
     {"/endpoints/0"}),
    ({"endpoints": [{**ENDPOINT, "lease": "one-a"}]}, 422, {"/endpoints/0/lease"}),
    ({"overrides": [{"target": "site", "name": "nowhere", "state": "up", "seconds": 1, "reason": "r"}]}, 422,
     {"/overrides/0/name"}),
])
@pytest.mark.asyncio
async def test_faults_point_into_the_document_and_nothing_is_done(
    api: Api, fleet: Any, status: int, pointers: set[str],
) -> None:
    for query in ("", "?dry_run=true"):
        reply = await api.call("POST", f"/v1/apply{query}", body=fleet)
        assert (reply.status, set(reply.faults)) == (status, pointers)
    assert api.registry.version == 10


@pytest.mark.asyncio
async def test_users_are_deleted_before_what_they_use(api: Api) -> None:
    fleet = {"delete": {"services": ["www.a.example"], "sites": ["iad"], "overrides": ["site:iad"]}}
    reply = await api.call("POST", "/v1/apply", body=fleet)
    assert ops(reply) == [("delete", "override/site:iad"), ("delete", "service/www.a.example"), ("delete", "site/iad")]


@pytest.mark.asyncio
async def test_prune_deletes_what_is_not_named_but_no_lease(api: Api) -> None:
    fleet = {"endpoints": [], "services": [{"name": "api.a.example"}, {"name": "api.b.example"}]}
    assert ops(await api.call("POST", "/v1/apply?dry_run=true", body=fleet)) == []
    reply = await api.call("POST", "/v1/apply?prune=true", body=fleet)
    assert ops(reply) == [("delete", "endpoint/api.a.example/fixed"), ("delete", "service/www.a.example")]
    assert "api.a.example/one-a" in api.registry.objects[Kind.ENDPOINT]
    assert "fra" in api.registry.objects[Kind.SITE]


def fill(api: Api, endpoints: int) -> None:
    for kind, value in (
            (Kind.SERVICE, Service(name="big.a.example")),
            *((Kind.ENDPOINT, Endpoint(id=f"e{n:02}", service="big.a.example", site="fra", a="192.0.2.40"))
              for n in range(endpoints))):
        key = value.name if isinstance(value, Service) else value.key
        api.registry.objects[kind][key] = Stored(value, "1", 1)


@pytest.mark.parametrize(("endpoints", "deleted", "status"), [
    (10, 3, 200), (10, 4, 422), (20, 6, 200), (20, 7, 422), (1, 1, 200), (2, 1, 200), (2, 2, 422),
])
@pytest.mark.asyncio
async def test_more_than_thirty_percent_needs_force(api: Api, endpoints: int, deleted: int, status: int) -> None:
    fill(api, endpoints)
    fleet = {"delete": {"endpoints": [f"big.a.example/e{n:02}" for n in range(deleted)]}}
    for query in ("?dry_run=true", ""):
        reply = await api.call("POST", f"/v1/apply{query}", body=fleet)
        assert reply.status == status
    if status == 422:
        assert reply.body["type"] == "urn:dnsd:problem:mass-delete"
        assert any("endpoints of big.a.example" in text for text in reply.faults.values())
        assert (await api.call("POST", "/v1/apply?force=true", body=fleet)).status == 200


@pytest.mark.asyncio
async def test_the_guard_counts_each_kind(api: Api) -> None:
    for n in range(8):
        api.registry.objects[Kind.SITE][f"s{n}"] = Stored(
            Site(id=f"s{n}", latitude=0, longitude=0, country="DE", region="eu"), "1", 1)
    reply = await api.call("POST", "/v1/apply", body={"delete": {"sites": [f"s{n}" for n in range(4)]}})
    assert (reply.status, list(reply.faults.values())) == (422, ["deletes 4 of 10 sites"])
    assert (await api.call("POST", "/v1/apply", body={"delete": {"sites": [f"s{n}" for n in range(3)]}})).status == 200


@pytest.mark.asyncio
async def test_a_service_that_ends_takes_its_endpoints_along(api: Api) -> None:
    """Deleting the service is what is judged: one of many services."""
    fill(api, 2)
    for n in range(20):
        service = Service(name=f"s{n}.b.example")
        endpoint = Endpoint(id="e", service=service.name, site="fra", a="192.0.2.40")
        api.registry.objects[Kind.SERVICE][service.name] = Stored(service, "1", 1)
        api.registry.objects[Kind.ENDPOINT][endpoint.key] = Stored(endpoint, "1", 1)
    fleet = {"delete": {"services": ["big.a.example"], "endpoints": ["big.a.example/e00", "big.a.example/e01"]}}
    assert (await api.call("POST", "/v1/apply", body=fleet)).status == 200


@pytest.mark.parametrize(("as_", "fleet", "pointers"), [
    ("ops-a", {"sites": [SITE], "services": [SERVICE, {"name": "x.b.example"}]}, {"/sites/0/id", "/services/1/name"}),
    ("ops-a", {"delete": {"services": ["api.b.example"], "sites": ["iad"]}},
     {"/delete/services/0/name", "/delete/sites/0/id"}),
    ("ops-a", {"delete": {"services": ["not-there.b.example"]}}, {"/delete/services/0"}),
    ("ops-net", {"endpoints": [{**ENDPOINT, "service": "api.a.example", "site": "fra", "a": "198.51.100.2"}]},
     {"/endpoints/0/a"}),
])
@pytest.mark.asyncio
async def test_scopes_hold_for_every_part(api: Api, as_: str, fleet: Any, pointers: set[str]) -> None:
    for query in ("?force=true", "?dry_run=true"):
        reply = await api.call("POST", f"/v1/apply{query}", as_, fleet)
        assert (reply.status, set(reply.faults)) == (403, pointers)
    assert api.registry.version == 10


@pytest.mark.asyncio
async def test_a_dry_run_out_of_scope_shows_nothing(api: Api) -> None:
    reply = await api.call("POST", "/v1/apply?dry_run=true&prune=true", "ops-a", {"services": []})
    assert reply.status == 403
    assert "steps" not in reply.body


@pytest.mark.asyncio
async def test_naming_an_override_again_does_not_prolong_it(api: Api) -> None:
    override = {"target": "site", "name": "iad", "state": "drain", "seconds": 60, "reason": "works"}
    reply = await api.call("POST", "/v1/apply", body={"overrides": [override]})
    assert (ops(reply), reply.body["unchanged"]) == ([], 1)
