"""Small fleets for the tests of this room."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from dnsd.control.state import Fleet
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, Kind, Override, Service, Site
from dnsd.registry.values import Event, Loaded, Position

SERVICE = "api.example.com"
HOUR = 3600 * 1000
NOW = 1_900_000_000_000


def site(id_: str, latitude: float = 50, longitude: float = 8, country: str = "DE", region: str = "eu") -> Site:
    return Site(id=id_, latitude=latitude, longitude=longitude, country=country, region=region)


def endpoint(
    id_: str, a: str | None = None, aaaa: str | None = None, *, site: str = "one", service: str = SERVICE,
    lease: str | None = None, **more: Any,
) -> Endpoint:
    return Endpoint.model_validate(
        {"id": id_, "service": service, "site": site, "a": a, "aaaa": aaaa, "lease": lease, **more})


def service(name: str = SERVICE, **more: Any) -> Service:
    return Service.model_validate({"name": name, **more})


def override(target: str, name: str, state: str, until_ms: int = NOW + HOUR) -> Override:
    return Override.model_validate(
        {"target": target, "name": name, "state": state, "seconds": 3600, "reason": "test", "until_ms": until_ms})


def fleet(*objects: Model) -> Fleet:
    made = Fleet()
    made.apply(events(1, *objects), NOW)
    return made


def event(version: int, kind: Kind, key: str, value: Model | None, owned: frozenset[str] | None = None) -> Event:
    return Event(f"{version}-0", version, kind, key, value, f"chain{version}", owned)


def events(version: int, *objects: Model) -> list[Event]:
    """One write that puts these objects."""
    return [event(version, kind_of(value), key_of(value), value) for value in objects]


def gone(version: int, *objects: Model) -> list[Event]:
    """One write that removes these objects."""
    return [event(version, kind_of(value), key_of(value), None) for value in objects]


def kind_of(value: Model) -> Kind:
    return {Site: Kind.SITE, Service: Kind.SERVICE, Endpoint: Kind.ENDPOINT, Override: Kind.OVERRIDE}[type(value)]


def key_of(value: Model) -> str:
    if isinstance(value, Service):
        return value.name
    return str(getattr(value, "key", None) or getattr(value, "id"))  # noqa: B009


def loaded(
    *objects: Model, epoch: int = 7, version: int = 1, owned: Mapping[str, frozenset[str]] | None = None,
) -> Loaded:
    by_kind: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
    for value in objects:
        by_kind[kind_of(value)][key_of(value)] = value
    return Loaded(
        Position(epoch, version, f"{version}-0", f"chain{version}"), by_kind[Kind.SITE], by_kind[Kind.SERVICE],
        by_kind[Kind.ENDPOINT], {}, by_kind[Kind.OVERRIDE], dict(owned or {}), [])


def addresses(count: int) -> list[str]:
    return [f"192.0.2.{i}" for i in itertools.islice(itertools.count(1), count)]
