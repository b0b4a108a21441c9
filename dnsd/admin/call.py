"""What a handler is given, and how a route is declared: the table that routing, OpenAPI and the tests are made of.

Lives here: `Route`, `Query`, `Call`, `Room` (what all calls share), the protocol of the control process as this room
sees it. Does not live here: handlers, checks of tokens (`admin.auth`).

A route declares everything that is decided before its handler runs: who may call it, query parameters and their bounds,
the body's model. The declared table is the only source of the OpenAPI document.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol

from aiohttp import web
from pydantic import BaseModel
from pydantic_core import to_json

from dnsd.admin.auth import Caller, Tokens
from dnsd.admin.beacons import Beacons
from dnsd.admin.exposition import Meter
from dnsd.admin.idempotency import Memory
from dnsd.admin.owners import Owners
from dnsd.admin.problem import Problem, invalid
from dnsd.control.custody import Custody
from dnsd.control.local import Local
from dnsd.control.measurements import Taken
from dnsd.control.state import Fleet
from dnsd.control.told import Told
from dnsd.control.whatif import Question
from dnsd.model import Fault
from dnsd.registry.models import Endpoint, Role, Service
from dnsd.registry.roundtrips import RoundTrip
from dnsd.registry.store import Registry
from dnsd.registry.values import Change

BODY_SECONDS: Final = 10.0
_NUMBER = re.compile(r"[0-9]{1,19}(\.[0-9]{1,9})?")
ALL: Final = frozenset(Role) - {Role.BEACON}
READERS: Final = frozenset({Role.ADMIN, Role.OPERATOR, Role.READER})
WRITERS: Final = frozenset({Role.ADMIN, Role.OPERATOR})
HOLDERS: Final = frozenset({Role.ADMIN, Role.OPERATOR, Role.AGENT})
ADMINS: Final = frozenset({Role.ADMIN})


class News(Protocol):
    """What has happened on a node, numbered."""

    last: int

    def after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """What happened after this number, oldest first."""

    async def wait(self, number: int, seconds: float) -> None:
        """Until something happened after this number, or the time has passed."""


class Control(Protocol):
    """The control process as the API sees it (`dnsd.control` offers it)."""

    registry: Registry
    stats: memoryview
    news: News
    custody: Custody | None
    local: Local | None

    def status(self) -> dict[str, Any]:
        """Where this node stands: stamp, workers, store, maps."""

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether an image is served, with `stale_for` in seconds and the unmet `conditions`."""

    async def wait_version(self, version: int, timeout: float) -> bool:
        """True as soon as every worker serves at least this version; false when `timeout` seconds have passed."""

    async def explain(self, name: str, type: str, client: str | None, ecs: str | None) -> dict[str, Any]:
        """How a query would be answered now, with every part; ValueError says what is wrong with the question."""

    def fleet(self) -> Fleet:
        """The fleet that is served."""

    async def simulate(self, changes: Sequence[Change], question: Question) -> dict[str, Any]:
        """What would come of changes; `ImpossibleError`, `BusyError` or `FailedError` where nothing can be said."""

    def misplaced(self, service: Service) -> str:
        """Why this service cannot stand at its name in the zones served here; empty when it can."""

    def stands(self, service: str) -> dict[str, Any] | None:
        """How each endpoint of a service stands; None when there is no such service."""

    def endpoint(self, key: str) -> Endpoint | None:
        """An endpoint by `service/id`, as this node knows it."""

    def report(self, reporter: str, told: Sequence[Told]) -> bool:
        """Takes reports of endpoints' health; false: more than this reporter may send now, none was taken."""

    def measure(self, reporter: str, site: str | None, samples: Sequence[RoundTrip], *, anybody: bool = False,
                ) -> Taken | None:
        """Takes measured round trips; None: more than this reporter may send now, none was taken. `anybody`: whoever
        has seen a page may speak in this name."""

    def registered(self, keys: Iterable[str]) -> None:
        """These endpoints were registered anew."""

    async def reload(self) -> list[Fault]:
        """Read the zone files again; faults leave what was served."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query parameter. `kind` is bool, int, float or str; bounds hold for numbers, `most` is the length of a text."""

    name: str
    help: str
    kind: type[bool] | type[int] | type[float] | type[str] = str
    default: Any = None
    least: float = 0
    most: float = 255
    required: bool = False

    def parse(self, text: str) -> Any:
        """The value; ValueError says what it should be."""
        if self.kind is str:
            if len(text) > self.most:
                raise ValueError(f"longer than {self.most:.0f} characters")
            return text
        if self.kind is bool:
            if text not in ("true", "false"):
                raise ValueError("true or false")
            return text == "true"
        if not _NUMBER.fullmatch(text) or (self.kind is int and "." in text):
            raise ValueError(f"a {'whole ' if self.kind is int else ''}number from {self.least:.0f} to {self.most:.0f}")
        value = int(text) if self.kind is int else float(text)
        if not self.least <= value <= self.most:
            raise ValueError(f"from {self.least:.0f} to {self.most:.0f}")
        return value

    def schema(self) -> dict[str, Any]:
        """The parameter as an OpenAPI object."""
        names = {bool: "boolean", int: "integer", float: "number", str: "string"}
        schema: dict[str, Any] = {"type": names[self.kind]}
        if self.kind in (int, float):
            schema |= {"minimum": self.least, "maximum": self.most}
        elif self.kind is str:
            schema["maxLength"] = int(self.most)
        if self.default is not None:
            schema["default"] = self.default
        return {"name": self.name, "in": "query", "required": self.required, "description": self.help, "schema": schema}


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `roles` empty: needs no token; `local`: needs none from the same machine, else one of `roles`."""

    method: str
    path: str
    operation: str
    summary: str
    handler: Callable[[Call], Awaitable[web.StreamResponse]]
    roles: frozenset[Role] = READERS
    local: bool = False
    query: tuple[Query, ...] = ()
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | str = "object"
    status: int = HTTPStatus.OK
    conditional: bool = False
    problems: tuple[int, ...] = ()


@dataclass(slots=True)
class Room:
    """What all calls share."""

    control: Control
    tokens: Tokens
    memory: Memory
    meter: Meter
    routes: tuple[Route, ...]
    owners: Owners
    beacons: Beacons = field(default_factory=Beacons)
    document: bytes = b""
    busy: int = 0
    waiting: int = 0
    streams: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Call:
    """One request, its caller known and its query parameters parsed."""

    request: web.Request
    room: Room
    caller: Caller
    query: Mapping[str, Any]

    @property
    def control(self) -> Control:
        """The control process."""
        return self.room.control

    @property
    def registry(self) -> Registry:
        """The registry, where every write goes."""
        return self.room.control.registry

    @property
    def match(self) -> Mapping[str, str]:
        """The variable parts of the path, decoded."""
        return self.request.match_info

    async def body(self) -> bytes:
        """The body, whole; 408 when the client takes longer than BODY_SECONDS, 413 above BODY_MAX octets."""
        if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", "send the body uncompressed")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self.request.read()
        except TimeoutError:
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "body-too-slow") from None
        except ConnectionError:
            raise Problem(HTTPStatus.BAD_REQUEST, "body-cut", "the client left before the body was whole") from None


def parse_query(route: Route, request: web.Request) -> Mapping[str, Any]:
    """The declared parameters with their defaults; 422 with every fault, an unknown name is one."""
    values = {query.name: query.default for query in route.query}
    if not request.query_string and not any(query.required for query in route.query):
        return values
    declared = {query.name: query for query in route.query}
    faults = [
        Fault("?" + query.name, "required")
        for query in route.query if query.required and query.name not in request.query]
    for name, text in request.query.items():
        if name not in declared:
            faults.append(Fault("?" + name, "unknown parameter"))
            continue
        if len(request.query.getall(name)) > 1:
            faults.append(Fault("?" + name, "given more than once"))
            continue
        try:
            values[name] = declared[name].parse(text)
        except ValueError as error:
            faults.append(Fault("?" + name, str(error)))
    if faults:
        raise invalid(dict.fromkeys(faults))
    return values


def answer(members: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response."""
    return web.Response(body=to_json(members), status=status, content_type="application/json", headers=headers)
