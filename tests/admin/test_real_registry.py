"""The API over the real registry on an embedded store: what the fakes cannot show."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from dnsd.admin import app, auth
from dnsd.registry import embedded, errors
from dnsd.registry.store import Registry
from tests.admin.conftest import Api
from tests.admin.fake import FakeControl

SITE = {"latitude": 50.0, "longitude": 8.0, "country": "DE", "region": "eu"}
FLEET = {"sites": [{"id": "fra", **SITE}, {"id": "iad", **SITE}], "services": [{"name": "api.a.example"}]}
START_S = 10.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A store's state directory and its running process' arguments."""
    state = tmp_path_factory.mktemp("s")
    embedded.folder_of(state).mkdir(mode=0o700)
    with subprocess.Popen(embedded.command(state), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield state, []
        process.kill()


@pytest_asyncio.fixture
async def real(store: tuple[Path, Any], tmp_path: Path) -> AsyncIterator[Api]:
    """The API over a registry of its own, with FLEET applied; its first admin's token is in `api.text`."""
    registry = await _open(embedded.url(store[0]), prefix=tmp_path.name)
    text = await auth.ensure_admin(registry, tmp_path)
    async with TestClient(TestServer(app.make(FakeControl(registry)))) as client:
        api = Api(client, FakeControl(registry))
        api.text = text
        assert (await as_(api, text, "POST", "/v1/apply", FLEET)).status == 200
        yield api
    await registry.close()


async def _open(url: str, prefix: str) -> Registry:
    until = time.monotonic() + START_S
    while True:
        try:
            return await Registry.open(url, prefix=prefix)
        except errors.Unavailable:
            assert time.monotonic() < until, "the store does not start"
            await asyncio.sleep(0.02)


async def as_(api: Api, text: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return await api.call(method, path, "", body, Authorization=f"Bearer {text}", **headers)


def lease(holder: str, address: str, site: str = "fra") -> dict[str, Any]:
    return {"holder": holder, "endpoints": [{"id": holder, "service": "api.a.example", "site": site, "a": address}]}


@pytest.mark.asyncio
async def test_the_life_of_an_instance(real: Api) -> None:
    agent = (await as_(real, real.text, "PUT", "/v1/tokens/agent", {
        "role": "agent", "services": ["*.a.example"], "addresses": ["192.0.2.0/24"]})).body["token"]
    assert (await as_(real, agent, "POST", "/v1/leases", lease("one", "198.51.100.1"))).status == 403
    granted = await as_(real, agent, "POST", "/v1/leases", lease("one", "192.0.2.1"), Idempotency_Key="boot-1")
    assert granted.status == 201
    assert granted.body["durability"] == "fsync"
    again = await as_(real, agent, "POST", "/v1/leases", lease("one", "192.0.2.1"), Idempotency_Key="boot-1")
    assert again.body == granted.body
    path, fence = f"/v1/leases/{granted.body['id']}", granted.body["fence"]
    renewed = await as_(real, agent, "PUT", path, {"fence": fence, "loads": {"api.a.example/one": 0.9}})
    assert renewed.body["ok"]
    assert 0 < renewed.body["remaining_ms"] <= 30000
    endpoint = (await as_(real, real.text, "GET", "/v1/endpoints/api.a.example/one")).body
    assert (endpoint["lease"], endpoint["a"], endpoint["load"] > 0) == ("one", "192.0.2.1", True)
    batch = await as_(real, agent, "POST", "/v1/leases:renew", {
        "renewals": [{"id": "one", "fence": fence}, {"id": "none", "fence": 1}, {"id": "one", "fence": fence + 1}]})
    assert [one["problem"] for one in batch.body["renewed"]] == [None, "unknown", "fenced"]
    assert (await as_(real, agent, "DELETE", f"{path}?fence={fence + 1}")).status == 409
    assert (await as_(real, agent, "DELETE", f"{path}?fence={fence}")).status == 200
    assert (await as_(real, real.text, "GET", "/v1/endpoints/api.a.example/one")).status == 404
    assert (await as_(real, agent, "PUT", path, {"fence": fence})).status == 404


@pytest.mark.asyncio
async def test_holders_and_endpoints_are_not_stolen(real: Api) -> None:
    paths = ("/v1/tokens/agent-a", "/v1/tokens/agent-b")
    texts = [(await as_(real, real.text, "PUT", path, {"role": "agent"})).body["token"] for path in paths]
    assert (await as_(real, texts[0], "POST", "/v1/leases", lease("one", "192.0.2.1"))).status == 201
    assert (await as_(real, texts[1], "POST", "/v1/leases", lease("one", "192.0.2.66"))).status == 409
    theft = lease("two", "192.0.2.66")
    theft["endpoints"][0]["id"] = "one"
    reply = await as_(real, texts[1], "POST", "/v1/leases", theft)
    assert (reply.status, set(reply.faults)) == (409, {"/endpoints/0"})
    fence = (await as_(real, real.text, "GET", "/v1/leases/one")).body["fence"]
    assert (await as_(real, texts[1], "DELETE", f"/v1/leases/one?fence={fence}")).status == 403
    assert (await as_(real, real.text, "POST", "/v1/leases?take_over=true", lease("one", "192.0.2.5"))).status == 201
    assert (await as_(real, texts[0], "PUT", "/v1/leases/one", {"fence": fence})).status == 403


@pytest.mark.asyncio
async def test_conditions_hold_in_the_store(real: Api) -> None:
    first = await as_(real, real.text, "GET", "/v1/sites/fra")
    etag = first.headers["ETag"]
    changed = {**first.body, "capacity": 5}
    assert (await as_(real, real.text, "PUT", "/v1/sites/fra", changed)).status == 428
    assert (await as_(real, real.text, "PUT", "/v1/sites/fra", changed, If_None_Match="*")).status == 412
    bodies = [{**changed, "capacity": n} for n in range(1, 9)]
    writers = [as_(real, real.text, "PUT", "/v1/sites/fra", body, If_Match=etag) for body in bodies]
    statuses = [reply.status for reply in await asyncio.gather(*writers)]
    assert sorted(statuses) == [200] + [412] * 7
    creators = [as_(real, real.text, "PUT", "/v1/sites/new", SITE, If_None_Match="*") for _ in range(8)]
    assert sorted(reply.status for reply in await asyncio.gather(*creators)) == [201] + [412] * 7
    assert (await as_(real, real.text, "DELETE", "/v1/sites/new", If_Match="*")).status == 200


@pytest.mark.asyncio
async def test_apply_is_all_or_nothing_and_points_into_the_document(real: Api) -> None:
    wrong = {"sites": [{"id": "nrt", **SITE}], "endpoints": [
        {"id": "x", "service": "api.a.example", "site": "nrt", "a": "192.0.2.3"},
        {"id": "y", "service": "none.a.example", "site": "zzz", "a": "192.0.2.4"}]}
    for query in ("?dry_run=true", ""):
        reply = await as_(real, real.text, "POST", f"/v1/apply{query}", wrong)
        assert (reply.status, set(reply.faults)) == (422, {"/endpoints/1/site", "/endpoints/1/service"})
    assert (await as_(real, real.text, "GET", "/v1/sites/nrt")).status == 404
    right = {"sites": wrong["sites"], "endpoints": wrong["endpoints"][:1]}
    plan = await as_(real, real.text, "POST", "/v1/apply?dry_run=true", right)
    done = await as_(real, real.text, "POST", f"/v1/apply?if_version={plan.body['version']}", right)
    assert (done.status, done.body["steps"]) == (200, plan.body["steps"])
    assert (await as_(real, real.text, "POST", f"/v1/apply?if_version={plan.body['version']}", right)).status == 412
    assert (await as_(real, real.text, "POST", "/v1/apply", right)).body["unchanged"] == 2
    reply = await as_(real, real.text, "POST", "/v1/apply?force=true", {"delete": {"sites": ["nrt"]}})
    assert (reply.status, set(reply.faults)) == (409, {"/delete/sites/0"})


@pytest.mark.asyncio
async def test_pages_and_the_audit_trail(real: Api) -> None:
    for n in range(7):
        await as_(real, real.text, "PUT", f"/v1/services/s{n}.b.example", {})
    keys, token = [], ""
    while token is not None:
        page = (await as_(real, real.text, "GET", f"/v1/services?page_size=3&page_token={token}")).body
        keys += [item["key"] for item in page["items"]]
        token = page["next_page_token"]
    assert keys == ["api.a.example", *(f"s{n}.b.example" for n in range(7))]
    await as_(real, real.text, "PUT", "/v1/tokens/t", {"role": "reader"})
    entries, token = [], ""
    while token is not None:
        page = (await as_(real, real.text, "GET", f"/v1/audit?page_size=4&page_token={token}")).body
        entries += page["items"]
        token = page["next_page_token"]
    assert [entry["version"] for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry["actor"] for entry in entries] == ["system:first-start"] + ["token:admin"] * (len(entries) - 1)
    assert "sha256" not in str(entries)


@pytest.mark.asyncio
async def test_an_override_ends_when_the_registry_says(real: Api) -> None:
    before = time.time() * 1000
    body = {"state": "drain", "seconds": 60, "reason": "works"}
    assert (await as_(real, real.text, "PUT", "/v1/overrides/site:iad", body)).status == 201
    override = (await as_(real, real.text, "GET", "/v1/overrides/site:iad")).body
    assert before + 55_000 < override["until_ms"] < before + 70_000
    again = await as_(real, real.text, "POST", "/v1/apply", {"overrides": [{"target": "site", "name": "iad", **body}]})
    assert again.body["steps"] == []
    reply = await as_(real, real.text, "PUT", "/v1/overrides/site:nowhere", body)
    assert (reply.status, set(reply.faults)) == (422, {"/name"})


@pytest.mark.asyncio
async def test_a_store_that_is_gone_is_503_for_writes_and_nothing_for_health(tmp_path: Path) -> None:
    (state := tmp_path / "s").mkdir()
    embedded.folder_of(state).mkdir(mode=0o700)
    with subprocess.Popen(embedded.command(state), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        registry = await _open(embedded.url(state), prefix="d")
        text = await auth.ensure_admin(registry, tmp_path)
        control = FakeControl(registry)
        async with TestClient(TestServer(app.make(control))) as client:
            api = Api(client, control)
            assert (await as_(api, text, "POST", "/v1/apply", FLEET)).status == 200
            process.kill()
            process.wait()
            reply = await as_(api, text, "POST", "/v1/leases", lease("one", "192.0.2.1"))
            assert (reply.status, "Retry-After" in reply.headers) == (503, True)
            assert (await as_(api, text, "GET", "/v1/status")).status == 200
            assert (await api.call("GET", "/readyz", "")).status == 200
        await registry.close()
