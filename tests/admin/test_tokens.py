"""Tokens over HTTP: secrets shown once, digests never, the last admin stays, a revoked token ends at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dnsd.admin import auth
from tests.admin.conftest import Api


async def as_text(api: Api, text: str, path: str = "/v1/status") -> int:
    return (await api.call("GET", path, "", Authorization=f"Bearer {text}")).status


@pytest.mark.asyncio
async def test_a_token_is_made_used_changed_rotated_and_revoked(api: Api) -> None:
    made = await api.call("PUT", "/v1/tokens/t_1", body={"role": "agent", "services": ["*.A.example."]})
    assert made.status == 201
    text = made.body["token"]
    assert text.startswith("dnsd_t_1_")
    assert await as_text(api, text) == 200
    shown = await api.call("GET", "/v1/tokens/t_1")
    assert shown.body["services"] == ["*.a.example"]
    changed = await api.call("PUT", "/v1/tokens/t_1", body={**shown.body, "role": "reader"}, If_Match=made.body["etag"])
    assert (changed.status, changed.body["token"]) == (200, None)
    assert await as_text(api, text, "/v1/audit") == 403
    assert await as_text(api, text, "/v1/services") == 200
    rotated = await api.call(
        "PUT", "/v1/tokens/t_1?rotate=true", body={"role": "reader"}, If_Match=changed.body["etag"])
    assert await as_text(api, text) == 401
    assert await as_text(api, rotated.body["token"]) == 200
    assert (await api.call("DELETE", "/v1/tokens/t_1")).status == 428
    assert (await api.call("DELETE", "/v1/tokens/t_1", If_Match="*")).status == 200
    assert await as_text(api, rotated.body["token"]) == 401


@pytest.mark.asyncio
async def test_a_secret_made_elsewhere_never_travels(api: Api) -> None:
    text, sha256 = auth.issue("own")
    made = await api.call("PUT", "/v1/tokens/own", body={"role": "reader", "sha256": sha256})
    assert (made.status, made.body["token"]) == (201, None)
    assert await as_text(api, text) == 200


@pytest.mark.asyncio
async def test_no_answer_shows_a_digest(api: Api) -> None:
    await api.call("PUT", "/v1/tokens/t", body={"role": "reader"})
    digests = [stored.value.sha256 for stored in api.registry.objects[next(iter(
        kind for kind in api.registry.objects if kind == "token"))].values()]
    for path in ("/v1/tokens", "/v1/tokens/t", "/v1/audit", "/v1/status", "/metrics"):
        text = json.dumps((await api.call("GET", path)).body)
        assert not [digest for digest in digests if digest in text]
        assert "sha256" not in text


@pytest.mark.parametrize(("method", "body"), [
    ("DELETE", None),
    ("PUT", {"role": "reader"}),
    ("PUT", {"role": "admin", "expires_ms": 10**13}),
])
@pytest.mark.asyncio
async def test_the_last_lasting_admin_stays(api: Api, method: str, body: Any) -> None:
    reply = await api.call(method, "/v1/tokens/root", body=body, If_Match="*")
    assert reply.status == 409
    assert reply.body["type"] == "urn:dnsd:problem:last-admin"
    await api.call("PUT", "/v1/tokens/second", body={"role": "admin"})
    assert (await api.call(method, "/v1/tokens/root", body=body, If_Match="*")).status == 200


@pytest.mark.parametrize(("body", "pointers"), [
    ({"role": "admin", "services": ["a.b"]}, {""}),
    ({"role": "reader", "services": ["*"]}, {"/services"}),
    ({"role": "reader", "services": ["a.*.b"]}, {"/services"}),
    ({"role": "reader", "sha256": "beef"}, {"/sha256"}),
    ({"role": "agent", "addresses": ["192.0.2.1/24", "10.0.0.0/8"]}, {"/addresses/0"}),
    ({"role": "reader", "id": "other"}, {"/id"}),
    ({}, {"/role"}),
])
@pytest.mark.asyncio
async def test_scopes_are_checked(api: Api, body: Any, pointers: set[str]) -> None:
    reply = await api.call("PUT", "/v1/tokens/t", body=body)
    assert (reply.status, set(reply.faults)) == (422, pointers)
