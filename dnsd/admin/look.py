"""Looking, and the two things that are neither object nor lease: explain, status, audit, health, metrics, reload.

Lives here: the handlers. Does not live here: what they show (the control process and the registry), the metrics text.

Health is two questions: /healthz, does the loop turn; /readyz, is an image served. The store is in neither: with it
away the node answers on, and /readyz says 200 with `stale_for`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from dnsd.admin import bodies, exposition, objects, openapi, problem
from dnsd.admin.auth import forbidden
from dnsd.admin.call import ALL, READERS, WRITERS, Call, Query, Route, answer
from dnsd.admin.problem import Problem
from dnsd.model import Fault
from dnsd.registry.models import Kind

WAITING_MAX: Final = 256
WAIT_SECONDS_MAX: Final = 60


async def explain(call: Call) -> web.Response:
    """How a query would be answered now, and why: every part of the score, scope, TTL, what removed whom."""
    name, client, subnet = call.query["name"].lower().removesuffix("."), call.query["client"], call.query["subnet"]
    if not call.caller.serves(name):
        raise forbidden("the name is not in the token's scope")
    faults = []
    if client is not None and not _parses(ipaddress.ip_address, client):
        faults.append(Fault("?client", f"{client!r} is no address"))
    if subnet is not None and not _parses(ipaddress.ip_interface, subnet):
        faults.append(Fault("?subnet", f"{subnet!r} is no address or prefix"))
    if faults:
        raise problem.invalid(faults)
    try:
        return answer(await call.control.explain(name or ".", call.query["type"].upper(), client, subnet))
    except ValueError as error:
        raise problem.invalid([Fault("", str(error))]) from None


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


async def status(call: Call) -> web.Response:
    """Where the node stands. With `wait_version`: as soon as every worker serves it, `reached` says whether they do."""
    version = call.query["wait_version"]
    members: dict[str, Any] = {}
    if version is not None:
        if call.room.waiting >= WAITING_MAX:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-waiting", f"{WAITING_MAX} calls wait already")
        call.room.waiting += 1
        try:
            members["reached"] = await call.control.wait_version(version, call.query["timeout"])
        finally:
            call.room.waiting -= 1
    return answer({**call.control.status(), **members})


async def audit(call: Call) -> web.Response:
    """A page of the audit stream, oldest first; digests of tokens are not shown."""
    if call.caller.narrowed:
        raise forbidden("the audit stream concerns everybody; the token is narrowed")
    entries = await call.registry.audit(after=objects.after(call), limit=call.query["page_size"])
    items = [without_digests(entry._asdict()) for entry in entries]
    return objects.page(items, entries[-1].id if len(entries) == call.query["page_size"] else None)


def without_digests(entry: dict[str, Any]) -> dict[str, Any]:
    """An audit entry without what tokens' secrets hash to."""
    if entry["kind"] == Kind.TOKEN:
        for side in ("before", "after"):
            if isinstance(entry[side], dict):
                entry[side] = {name: value for name, value in entry[side].items() if name != "sha256"}
    return entry


async def reload(call: Call) -> web.Response:
    """Reads the zone files again. 422 with every fault, and what was served is served on."""
    if call.caller.narrowed:
        raise forbidden("zones concern everybody; the token is narrowed")
    faults = await call.control.reload()
    if faults:
        raise problem.invalid(faults)
    return answer({"reloaded": True})


async def healthz(call: Call) -> web.Response:
    """The loop turns: this is its answer."""
    return answer({"status": "ok"})


async def readyz(call: Call) -> web.Response:
    """200 while an image is served; `stale_for` says for how many seconds the registry has been out of reach."""
    ready, details = call.control.ready()
    code = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return answer({"ready": ready, **details}, code, None if ready else {"Retry-After": problem.RETRY_AFTER})


async def metrics(call: Call) -> web.Response:
    """Prometheus text."""
    control = call.control
    text = exposition.text(control.stats, *control.ready(), control.status(), call.room.meter)
    return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})


async def document(call: Call) -> web.Response:
    """The OpenAPI document, made once from the route table."""
    if not call.room.document:
        call.room.document = openapi.document(call.room.routes)
    return web.Response(body=call.room.document, content_type="application/json")


_WAIT: Final = (
    Query("wait_version", "answer as soon as every worker serves this version", int, least=0, most=2**63 - 1),
    Query("timeout", "seconds to wait at most", float, 10.0, 0, WAIT_SECONDS_MAX),
)
_EXPLAIN: Final = (
    Query("name", "the name that is asked for", required=True, most=255),
    Query("type", "the record type", default="A", most=16),
    Query("client", "the resolver's address", most=64),
    Query("subnet", "the client subnet (ECS) the resolver sends, ADDRESS/LENGTH", most=64),
)
_OPEN: Final[frozenset[Any]] = frozenset()
ROUTES: Final = (
    Route("GET", "/v1/explain", "explain", "Why a client gets the answer it gets", explain, ALL, query=_EXPLAIN),
    Route("GET", "/v1/status", "status", "Where this node stands", status, ALL, query=_WAIT),
    Route("GET", "/v1/audit", "audit", "Every accepted write", audit, READERS, query=objects.PAGE[:2],
          answer=bodies.AuditPage),
    Route("POST", "/v1/reload", "reload", "Read the zone files again", reload, WRITERS),
    Route("GET", "/v1/openapi.json", "openapi", "This document", document, _OPEN),
    Route("GET", "/healthz", "healthz", "The loop turns", healthz, _OPEN),
    Route("GET", "/readyz", "readyz", "An image is served", readyz, _OPEN, problems=(HTTPStatus.SERVICE_UNAVAILABLE,)),
    Route("GET", "/metrics", "metrics", "Prometheus text; no token from the same machine", metrics, READERS,
          local=True, answer="text"),
)
