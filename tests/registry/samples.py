"""Objects the registry's tests write.

Lives here: small valid objects with the one thing a test cares about as parameter. Does not live here: any test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from dnsd.registry.models import (
    Endpoint,
    EndpointSpec,
    Fallback,
    Kind,
    LeaseRequest,
    Override,
    Role,
    Service,
    Site,
    Token,
)
from dnsd.registry.store import Registry

API = "api.demo.example"
T = TypeVar("T")
SITES = ("fra", "ams", "sin")


async def in_turns(calls: Iterable[Awaitable[T]], at_once: int = 32) -> list[T]:
    """Awaits many calls, so many of them at a time that none waits long enough to be given up."""
    turns = asyncio.Semaphore(at_once)

    async def one(call: Awaitable[T]) -> T:
        async with turns:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


def site(name: str, **more: object) -> Site:
    return Site.model_validate({"id": name, "latitude": 50, "longitude": 8, "country": "DE", "region": "eu", **more})


def service(name: str = API, **more: object) -> Service:
    return Service.model_validate({"name": name, **more})


def fallback(a: str = "192.0.2.99") -> Fallback:
    return Fallback(a=(IPv4Address(a),))


def spec(
    name: str, *, at: str = "fra", of: str = API, a: str | None = "192.0.2.1", aaaa: str | None = None,
) -> EndpointSpec:
    return EndpointSpec(
        id=name, service=of, site=at, a=IPv4Address(a) if a else None, aaaa=IPv6Address(aaaa) if aaaa else None)


def endpoint(name: str, **more: object) -> Endpoint:
    return Endpoint.model_validate({"id": name, "service": API, "site": "fra", "a": "192.0.2.1", **more})


def request(holder: str, *names: str, ttl: int = 30, **more: str) -> LeaseRequest:
    return LeaseRequest(holder=holder, ttl=ttl, endpoints=tuple(spec(name, **more) for name in names))


def override(name: str = "fra", *, target: str = "site", seconds: int = 60) -> Override:
    return Override.model_validate(
        {"target": target, "name": name, "state": "down", "seconds": seconds, "reason": "test"})


def token(name: str) -> Token:
    return Token(id=name, sha256="0" * 64, role=Role.OPERATOR)


async def fill(registry: Registry) -> None:
    """Three sites and the service."""
    for name in SITES:
        await registry.put(Kind.SITE, site(name), actor="test", if_match=None)
    await registry.put(Kind.SERVICE, service(), actor="test", if_match=None)
