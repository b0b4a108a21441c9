"""Every operation of the route table × every role and scope: the status that the table alone does not show.

The expectation is written down here once more, by hand, and held against what the application answers.
"""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.admin import app
from dnsd.admin.call import Route
from tests.admin.conftest import Api
from tests.admin.fake import TOKENS

OPEN = {"measure_asked", "openapi", "healthz", "readyz", "metrics"}  # metrics: the test client is on this machine
SITE = {"id": "fra", "latitude": 50.0, "longitude": 8.0, "country": "DE", "region": "eu"}
# operation -> (path, body, headers) that succeeds for the admin
CALLS: dict[str, tuple[str, Any, dict[str, str]]] = {
    "list_sites": ("/v1/sites", None, {}),
    "get_site": ("/v1/sites/fra", None, {}),
    "put_site": ("/v1/sites/new", {**SITE, "id": "new"}, {}),
    "delete_site": ("/v1/sites/iad", None, {"If_Match": '"1"'}),
    "list_services": ("/v1/services", None, {}),
    "get_service": ("/v1/services/api.a.example", None, {}),
    "put_service": ("/v1/services/new.a.example", {}, {}),
    "delete_service": ("/v1/services/www.a.example", None, {"If_Match": '"1"'}),
    "list_endpoints": ("/v1/endpoints", None, {}),
    "get_endpoint": ("/v1/endpoints/api.a.example/fixed", None, {}),
    "put_endpoint": ("/v1/endpoints/api.a.example/new", {"site": "fra", "a": "192.0.2.7"}, {}),
    "delete_endpoint": ("/v1/endpoints/api.a.example/fixed", None, {"If_Match": '"1"'}),
    "list_overrides": ("/v1/overrides", None, {}),
    "get_override": ("/v1/overrides/site:iad", None, {}),
    "put_override": ("/v1/overrides/service:api.a.example", {"state": "up", "seconds": 9, "reason": "x"}, {}),
    "delete_override": ("/v1/overrides/site:iad", None, {"If_Match": '"1"'}),
    "acquire_lease": ("/v1/leases", {"holder": "new-a", "endpoints": [
        {"id": "new-a", "service": "api.a.example", "site": "fra", "a": "192.0.2.8"}]}, {}),
    "renew_leases": ("/v1/leases:renew", {"renewals": [{"id": "one-a", "fence": 3}]}, {}),
    "report": ("/v1/reports", {"reports": [{"endpoint": "api.a.example/one-a", "ok": 1}]}, {}),
    "measure": ("/v1/measurements", {"site": "fra", "samples": [{"rtt_ms": 12.5}]}, {}),
    "measure_asked": ("/v1/measurements", None, {}),
    "list_leases": ("/v1/leases", None, {}),
    "get_lease": ("/v1/leases/one-a", None, {}),
    "renew_lease": ("/v1/leases/one-a", {"fence": 3}, {}),
    "release_lease": ("/v1/leases/one-a?fence=3", None, {}),
    "list_tokens": ("/v1/tokens", None, {}),
    "get_token": ("/v1/tokens/ops", None, {}),
    "put_token": ("/v1/tokens/new", {"role": "reader"}, {}),
    "delete_token": ("/v1/tokens/ops", None, {"If_Match": '"1"'}),
    "apply": ("/v1/apply", {"services": [{"name": "other.a.example"}]}, {}),
    "simulate": ("/v1/simulate", {"lost": ["fra"]}, {}),
    "explain": ("/v1/explain?name=api.a.example", None, {}),
    "status": ("/v1/status", None, {}),
    "stands": ("/v1/services/api.a.example/health", None, {}),
    "events": ("/v1/events", None, {}),
    "audit": ("/v1/audit", None, {}),
    "reload": ("/v1/reload", None, {}),
    "get_registry": ("/v1/registry", None, {}),
    "accept_registry": ("/v1/registry/accept", None, {"If_Match": '"7-1"'}),
    "restore_registry": ("/v1/registry/restore", None, {"If_Match": '"7-1"'}),
    "openapi": ("/v1/openapi.json", None, {}),
    "healthz": ("/healthz", None, {}),
    "readyz": ("/readyz", None, {}),
    "metrics": ("/metrics", None, {}),
}
READS = {f"{verb}_{what}" for verb, whats in (
    ("list", ("sites", "services", "endpoints", "overrides", "leases")),
    ("get", ("site", "service", "endpoint", "override", "lease"))) for what in whats}
FLEET = {f"{verb}_{what}" for verb in ("put", "delete") for what in ("site", "service", "endpoint", "override")}
LEASES = {"acquire_lease", "renew_leases", "renew_lease", "release_lease", "report", "measure"}
BOTH = {"explain", "status", "stands"}
TOKEN_ROUTES = {"list_tokens", "get_token", "put_token", "delete_token", "accept_registry", "restore_registry"}
# reach beyond any narrowing
EVERYBODY = {"put_site", "delete_site", "delete_override", "audit", "events", "reload", "simulate"}
ALLOWED = {
    "root": set(CALLS),
    "ops": set(CALLS) - TOKEN_ROUTES,
    "ops-a": (READS | FLEET | LEASES | BOTH | {"apply"}) - EVERYBODY,
    # an address scope: not what a forced service would answer, nobody's lease
    "ops-net": (READS | FLEET | LEASES | BOTH | {"apply"}) - EVERYBODY - {
        "put_override", "renew_lease", "release_lease"},
    "agent-a": LEASES | BOTH | {"list_sites", "get_site", "list_leases", "get_lease"},
    "agent-b": (LEASES | BOTH | {"list_sites", "get_site", "list_leases"}) - {
        "acquire_lease", "renew_lease", "release_lease", "explain", "report", "stands"},
    "agent-free": (LEASES | BOTH | {"list_sites", "get_site", "list_leases"}) - {"renew_lease", "release_lease"},
    "reader": READS | BOTH | {"audit", "events", "get_registry", "simulate"},
    "reader-a": READS | BOTH,
    "page": {"measure"},
}


def test_the_matrix_covers_the_route_table() -> None:
    assert {route.operation for route in app.ROUTES} == set(CALLS)
    assert set(ALLOWED) == {token.id for token in TOKENS}
    assert len({(route.method, route.path) for route in app.ROUTES}) == len(app.ROUTES)


@pytest.mark.parametrize("who", [*ALLOWED, "", "wrong"])
@pytest.mark.asyncio
async def test_each_operation_for(who: str, api: Api) -> None:
    """Denied operations change nothing, so the allowed ones run after them on the same registry."""
    routes = {route.operation: route for route in app.ROUTES}
    denied = [operation for operation in CALLS if operation not in ALLOWED.get(who, set()) | OPEN]
    before = {kind: dict(objects) for kind, objects in api.registry.objects.items()}
    for operation in denied:
        assert await _status(api, routes[operation], who) == (403 if who in ALLOWED else 401), operation
    assert api.registry.objects == before
    allowed = [operation for operation in CALLS if operation not in denied]
    for operation in sorted(allowed, key=lambda name: (name.startswith("release"), name.startswith("delete"))):
        status = await _status(api, routes[operation], who)
        assert status in (200, 201, 202, 204), operation


async def _status(api: Api, route: Route, who: str) -> int:
    path, body, headers = CALLS[route.operation]
    if who == "wrong":
        headers = {**headers, "Authorization": "Bearer dnsd_root_" + "0" * 64}
    reply = await api.call(route.method, path, "" if who == "wrong" else who, body, **headers)
    if reply.status >= 400:
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["status"] == reply.status
    return reply.status
