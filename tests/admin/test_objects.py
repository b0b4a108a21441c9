"""Sites, services, endpoints, overrides over HTTP: conditions, paging, keys in paths, scopes over old and new value."""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.registry.models import Kind, Site
from dnsd.registry.values import Stored
from tests.admin.conftest import Api

SITE = {"latitude": 50.0, "longitude": 8.0, "country": "DE", "region": "eu"}


@pytest.mark.parametrize(("path", "headers", "status"), [
    ("/v1/sites/fra", {}, 428),
    ("/v1/sites/fra", {"If_Match": '"1"'}, 200),
    ("/v1/sites/fra", {"If_Match": "*"}, 200),
    ("/v1/sites/fra", {"If_Match": '"2"'}, 412),
    ("/v1/sites/fra", {"If_Match": 'W/"1"'}, 412),
    ("/v1/sites/fra", {"If_None_Match": "*"}, 412),
    ("/v1/sites/fra", {"If_None_Match": '"1"'}, 400),
    ("/v1/sites/new", {}, 201),
    ("/v1/sites/new", {"If_None_Match": "*"}, 201),
    ("/v1/sites/new", {"If_Match": "*"}, 412),
    ("/v1/sites/new", {"If_Match": '"1"'}, 412),
])
@pytest.mark.asyncio
async def test_conditional_writes(api: Api, path: str, headers: dict[str, str], status: int) -> None:
    reply = await api.call("PUT", path, body=SITE, **headers)
    assert reply.status == status
    if status < 300:
        assert reply.body["etag"] == reply.headers["ETag"]
        assert reply.body["durability"] == "fsync"
        assert reply.body["created"] == (status == 201)
        assert (await api.call("GET", path)).headers["ETag"] == reply.headers["ETag"]
    elif "fra" in path and status != 400:
        assert reply.headers["ETag"] == '"1"'


@pytest.mark.parametrize(("headers", "status"), [({}, 428), ({"If_Match": '"9"'}, 412), ({"If_Match": '"1"'}, 200)])
@pytest.mark.asyncio
async def test_conditional_deletes(api: Api, headers: dict[str, str], status: int) -> None:
    assert (await api.call("DELETE", "/v1/services/www.a.example", **headers)).status == status
    assert (await api.call("GET", "/v1/services/www.a.example")).status == (404 if status == 200 else 200)


@pytest.mark.asyncio
async def test_two_creators_at_once_are_told_apart_by_the_registry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object appears between the handler's read and its write."""
    async def nothing(kind: Kind, key: str) -> None:
        return None

    real = api.registry.get

    async def get(kind: Kind, key: str) -> Any:
        return await (real if kind is Kind.TOKEN else nothing)(kind, key)

    monkeypatch.setattr(api.registry, "get", get)
    assert (await api.call("PUT", "/v1/sites/fra", body=SITE)).status == 428
    assert (await api.call("PUT", "/v1/sites/fra", body=SITE, If_None_Match="*")).status == 412


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/sites/fra", None),
    ("/v1/services/api.a.example", None),
    ("/v1/endpoints/api.a.example/fixed", None),
    ("/v1/overrides/site:iad", None),
    ("/v1/tokens/agent-a", None),
])
@pytest.mark.asyncio
async def test_what_get_gives_put_takes(api: Api, path: str, body: Any) -> None:
    first = await api.call("GET", path)
    assert (await api.call("GET", path, If_None_Match=first.headers["ETag"])).status in (200, 304)
    written = await api.call("PUT", path, body=first.body, If_Match=first.headers["ETag"])
    assert written.status == 200
    assert (await api.call("GET", path)).body == first.body


@pytest.mark.asyncio
async def test_an_unchanged_object_is_304(api: Api) -> None:
    reply = await api.call("GET", "/v1/sites/fra", If_None_Match='"1"')
    assert (reply.status, reply.body) == (304, "")


@pytest.mark.parametrize(("path", "body", "pointers"), [
    ("/v1/sites/new", {**SITE, "id": "other"}, {"/id"}),
    ("/v1/endpoints/api.a.example/x", {"service": "api.b.example", "id": "y", "site": "fra", "a": "192.0.2.3"},
     {"/service", "/id"}),
    ("/v1/overrides/site:fra", {"target": "site", "name": "iad", "state": "up", "seconds": 1, "reason": "r"},
     {"/name"}),
    ("/v1/overrides/fra", {"state": "up", "seconds": 1, "reason": "r"}, {"/target"}),
    ("/v1/overrides/host:fra", {"state": "up", "seconds": 0, "reason": ""}, {"/target", "/seconds", "/reason"}),
    ("/v1/sites/UPPER", SITE, {"/id"}),
])
@pytest.mark.asyncio
async def test_path_and_body_agree(api: Api, path: str, body: Any, pointers: set[str]) -> None:
    reply = await api.call("PUT", path, body=body)
    assert (reply.status, set(reply.faults)) == (422, pointers)


@pytest.mark.parametrize("path", [
    "/v1/endpoints/api.a.example/fixed", "/v1/endpoints/API.A.example./fixed", "/v1/overrides/site:iad",
    "/v1/overrides/site%3Aiad", "/v1/services/api.A.EXAMPLE",
])
@pytest.mark.asyncio
async def test_spellings_of_a_key(api: Api, path: str) -> None:
    assert (await api.call("GET", path)).status == 200


@pytest.mark.asyncio
async def test_an_override_of_an_endpoint_has_a_slash_in_its_key(api: Api) -> None:
    body = {"state": "down", "seconds": 60, "reason": "broken"}
    for path in ("/v1/overrides/endpoint:api.a.example/fixed", "/v1/overrides/endpoint%3Aapi.a.example%2Ffixed"):
        reply = await api.call("PUT", path, body=body, **({} if "%" not in path else {"If_Match": "*"}))
        assert reply.status in (200, 201)
        assert reply.body["key"] == "endpoint:api.a.example/fixed"


@pytest.mark.asyncio
async def test_paging_reaches_everything_once_and_in_order(api: Api) -> None:
    for number in range(25):
        site = Site(id=f"s{number:02}", **SITE)
        api.registry.objects[Kind.SITE][site.id] = Stored(site, "1", 1)
    for size in (1, 7, 27, 1000):
        seen, token = [], ""
        while True:
            page = (await api.call("GET", f"/v1/sites?page_size={size}&page_token={token}")).body
            assert len(page["items"]) <= size
            seen += [item["key"] for item in page["items"]]
            token = page["next_page_token"]
            if not token:
                break
        assert seen == sorted(api.registry.objects[Kind.SITE])
    page = (await api.call("GET", "/v1/sites?prefix=s1")).body
    assert [item["key"] for item in page["items"]] == [f"s{number}" for number in range(10, 20)]
    assert page["items"][0]["value"]["id"] == "s10"
    assert page["items"][0]["etag"] == '"1"'


@pytest.mark.asyncio
async def test_endpoints_of_one_service(api: Api) -> None:
    for query, keys in (("service=api.a.example", ["api.a.example/fixed", "api.a.example/one-a"]),
                        ("service=API.B.example.", ["api.b.example/one-b"]),
                        ("service=api.a.example&prefix=one", ["api.a.example/one-a"])):
        page = (await api.call("GET", f"/v1/endpoints?{query}")).body
        assert [item["key"] for item in page["items"]] == keys


@pytest.mark.parametrize(("as_", "plural", "keys"), [
    ("reader", "services", ["api.a.example", "api.b.example", "www.a.example"]),
    ("reader-a", "services", ["api.a.example"]),
    ("reader-a", "endpoints", ["api.a.example/fixed", "api.a.example/one-a"]),
    ("ops-a", "services", ["api.a.example", "www.a.example"]),
    ("reader-a", "overrides", ["site:iad"]),
    ("agent-a", "leases", ["one-a"]),
    ("agent-b", "leases", ["one-b"]),
    ("agent-free", "leases", []),
    ("reader-a", "leases", ["one-a"]),
    ("reader", "leases", ["one-a", "one-b"]),
])
@pytest.mark.asyncio
async def test_lists_show_what_is_in_scope(api: Api, as_: str, plural: str, keys: list[str]) -> None:
    page = (await api.call("GET", f"/v1/{plural}", as_)).body
    assert [item["key"] for item in page["items"]] == keys


@pytest.mark.parametrize(("as_", "path", "body", "pointers"), [
    ("ops-a", "/v1/services/new.b.example", {}, {"/name"}),
    ("ops-a", "/v1/services/a.example", {}, {"/name"}),
    ("ops-a", "/v1/endpoints/api.b.example/x", {"site": "fra", "a": "192.0.2.3"}, {"/service"}),
    ("ops-a", "/v1/sites/new", SITE, {"/id"}),
    ("ops-a", "/v1/overrides/site:fra", {"state": "up", "seconds": 1, "reason": "r"}, {"/target"}),
    ("ops-a", "/v1/overrides/endpoint:api.b.example/one-b", {"state": "up", "seconds": 1, "reason": "r"}, {"/name"}),
    ("ops-net", "/v1/overrides/service:api.a.example", {"state": "up", "seconds": 1, "reason": "r"}, {"/target"}),
    ("ops-net", "/v1/endpoints/api.a.example/x", {"site": "fra", "a": "192.0.2.3", "aaaa": "2001:db8::1"}, {"/aaaa"}),
    ("ops-net", "/v1/services/new.a.example",
     {"fallback": {"a": ["192.0.2.1", "198.51.100.1"], "aaaa": ["2001:db8::1"]}},
     {"/fallback/a/1", "/fallback/aaaa/0"}),
])
@pytest.mark.asyncio
async def test_writes_out_of_scope(api: Api, as_: str, path: str, body: Any, pointers: set[str]) -> None:
    reply = await api.call("PUT", path, as_, body)
    assert (reply.status, set(reply.faults)) == (403, pointers)
    assert api.registry.version == 10


@pytest.mark.asyncio
async def test_what_is_replaced_must_be_in_scope_too(api: Api) -> None:
    moved = {"site": "fra", "a": "192.0.2.99"}
    await api.call("PUT", "/v1/endpoints/api.a.example/far", body={"site": "fra", "a": "198.51.100.7"})
    for method, body in (("PUT", moved), ("DELETE", None)):
        reply = await api.call(method, "/v1/endpoints/api.a.example/far", "ops-net", body, If_Match="*")
        assert (reply.status, set(reply.faults)) == (403, {"/a"})


@pytest.mark.asyncio
async def test_a_leased_endpoint_is_its_holders(api: Api) -> None:
    path = "/v1/endpoints/api.a.example/one-a"
    assert (await api.call("PUT", path, body={"site": "fra", "a": "192.0.2.9"}, If_Match="*")).status == 409
    assert (await api.call("DELETE", path, If_Match="*")).status == 409
    reply = await api.call(
        "PUT", "/v1/endpoints/api.a.example/x", body={"site": "fra", "a": "192.0.2.3", "lease": "one-a"})
    assert (reply.status, set(reply.faults)) == (422, {"/lease"})


@pytest.mark.asyncio
async def test_the_registrys_rules_come_through_with_their_status(api: Api) -> None:
    assert (await api.call("DELETE", "/v1/sites/fra", If_Match="*")).status == 409
    reply = await api.call("PUT", "/v1/endpoints/none.example/x", body={"site": "nowhere", "a": "192.0.2.3"})
    assert reply.status == 422
    assert len(reply.faults) == 2


@pytest.mark.asyncio
async def test_a_service_where_the_zone_has_addresses_or_a_cut_is_refused(api: Api) -> None:
    api.control.no_place = {"www.a.example": "the zone has static A here"}
    before = api.registry.version
    reply = await api.call("PUT", "/v1/services/www.a.example", body={"ttl": 9}, If_Match="*")
    assert (reply.status, reply.faults) == (422, {"/name": "the zone has static A here"})
    document = {"services": [{"name": "new.a.example"}, {"name": "www.a.example", "ttl": 9}]}
    for path in ("/v1/apply", "/v1/apply?dry_run=true"):
        reply = await api.call("POST", path, body=document)
        assert (reply.status, reply.faults) == (422, {"/services/1/name": "the zone has static A here"})
    assert api.registry.version == before
    assert (await api.call("DELETE", "/v1/services/www.a.example", If_Match="*")).status == 200
