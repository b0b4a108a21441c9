"""The admin API as an aiohttp application: the route table put together, and the one place where errors become answers.

Lives here: `make`, admission of a request, the error middleware. Does not live here: what any route
does, sockets (`admin.listening`).

Every request runs the same way: request id, who calls, role, query parameters, handler; whatever is raised on the way
ends in the middleware as problem+json. A bug is answered 500 with the request id and logged with it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from dnsd import disk
from dnsd.admin import (
    auth,
    custody,
    fleet,
    leases,
    listening,
    look,
    measurements,
    objects,
    problem,
    reports,
    simulate,
    survey,
    tokens,
)
from dnsd.admin.call import Call, Control, Room, Route, parse_query
from dnsd.admin.exposition import Meter
from dnsd.admin.idempotency import Memory
from dnsd.admin.owners import Owners
from dnsd.admin.problem import Problem
from dnsd.registry.errors import RegistryError
from dnsd.registry.models import Role

ROUTES: Final[tuple[Route, ...]] = (
    *objects.ROUTES, *leases.ROUTES, *reports.ROUTES, *measurements.ROUTES, *tokens.ROUTES, *fleet.ROUTES, *look.ROUTES,
    *survey.ROUTES, *custody.ROUTES, *simulate.ROUTES)
BUSY_MAX: Final = 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "dnsd"}
_log = logging.getLogger("dnsd.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make(control: Control, *, state: Path | None = None) -> web.Application:
    """The application. It holds no connection of its own: everything is the control process's.

    `state` is the node's state directory, whose token file opens the API while the store is away.
    """
    local = state / disk.TOKEN if state else None
    room = Room(
        control, auth.Tokens(lambda: control.registry, local=local), Memory(), Meter(), ROUTES, Owners())
    app = web.Application(client_max_size=problem.BODY_MAX, middlewares=[_errors(room)])
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _bind(room, route), name=route.operation)
        if route.method == "GET":
            app.router.add_route("HEAD", route.path, _bind(room, route))
    return app


def _bind(room: Room, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller = await _admit(room, route, request)
        return await route.handler(Call(request, room, caller, parse_query(route, request)))
    return handle


async def _admit(room: Room, route: Route, request: web.Request) -> auth.Caller:
    """Who calls; 401 and 403. Runs before anything of the request but its head is looked at."""
    if not route.roles or (route.local and from_here(request)):
        return auth.NOBODY
    caller = _neighbour(request) or await room.tokens.caller(request.headers.get("Authorization"))
    if caller.role not in route.roles:
        raise auth.forbidden(f"the role {caller.role} may not do this")
    return caller


def _neighbour(request: web.Request) -> auth.Caller | None:
    """Who comes without a token by the socket in the state directory: its owner and root may do all they could there.

    So the registry need not be asked, nor have any token.
    """
    uid = None if "Authorization" in request.headers else listening.peer_uid(request.transport)
    if uid is None or uid not in (0, os.geteuid()):
        return None
    return auth.Caller(f"uid-{uid}", Role.ADMIN, via=auth.SOCKET)


def from_here(request: web.Request) -> bool:
    """Whether the request comes from this machine."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    if not isinstance(peer, tuple):
        return request.transport is not None  # a unix socket has no address
    return listening.is_loopback(str(peer[0]))


def _errors(room: Room) -> Middleware:
    operations = {route.operation for route in room.routes}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request_id = request.headers.get("X-Request-Id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(8).hex()
        room.busy += 1
        try:
            if room.busy > BUSY_MAX:
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", f"{BUSY_MAX} requests are being answered")
            response = await handler(request)
        except Exception as error:
            response = _explain(error, request_id)
        finally:
            room.busy -= 1
        response.headers["X-Request-Id"] = request_id
        response.headers.update(_HEADERS)
        name = request.match_info.route.name
        room.meter.count(name if name in operations else "none", response.status, time.perf_counter() - started)
        return response

    return middleware


def _explain(error: Exception, request_id: str) -> web.StreamResponse:
    """Any exception as an answer."""
    if isinstance(error, Problem):
        return error.response(request_id)
    if isinstance(error, RegistryError):
        return problem.of_registry(error).response(request_id)
    if isinstance(error, web.HTTPException):
        return problem.of_http(error).response(request_id)
    _log.exception("request %s failed", request_id, exc_info=error)
    bug = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "a bug; the log has it under this request id")
    return bug.response(request_id)
