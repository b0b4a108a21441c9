"""What would be different: a question put to `simulate`, and the fleet as it would be then.

Lives here: the question's form and bounds, laying it over a copy of the fleet. Does not live here: what a document of
`apply` comes to (`admin.fleet` makes the changes, `registry.rules` checks them), what clients would get (`simulate`).

    change      as `POST /v1/apply` takes it, first of all
    added       a site, and an endpoint there of every service that is looked at (or of those it names)
    moved       a site's coordinates
    lost        a site forced down, as an override would: its endpoints are there, but nobody is sent to them
    weights     of an endpoint (`service/id`), or of all endpoints of a site
    policies    of a service: what is named replaces what is declared
    capacities  of a site
    rtt_ms      so many milliseconds more, or less, between everybody and a site
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field, ValidationError

from dnsd.control.state import Fleet
from dnsd.model import Fault
from dnsd.registry import rules
from dnsd.registry.fields import Id, Model, Name
from dnsd.registry.models import Endpoint, Override, PolicySpec, Service, Site, key_of
from dnsd.registry.values import Change, Loaded, Position

SERVICES: Final = 32
CLIENTS: Final = 10_000
ITEMS: Final = 64
FOREVER_MS: Final = 1 << 62
STAND_IN: Final = "simulated"
"""The id of an endpoint that `added` puts at its site."""

_FIRST4: Final = ipaddress.IPv4Address("240.0.0.1")
_FIRST6: Final = ipaddress.IPv6Address("100::1")
"""Addresses of such endpoints: reserved (RFC 1112 §4, RFC 6666), so nothing real has them."""


class Place(Model):
    """Degrees."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)


class Added(Site):
    """A site that is not there yet. `services` empty: all that are looked at."""

    services: tuple[Name, ...] = Field(default=(), max_length=SERVICES)
    weight: int = Field(default=100, ge=0, le=65535)
    tier: int = Field(default=0, ge=0, le=255)


class Client(Model):
    """A prefix that asks, how much it weighs among all, and of which service alone (left out: of all that are looked
    at). `ecs`: its resolver tells its subnet; else the resolver is where the client is, and tells nothing."""

    prefix: ipaddress.IPv4Network | ipaddress.IPv6Network
    weight: float = Field(default=1.0, gt=0, le=1e15)
    service: Name | None = None
    ecs: bool = True


Weight = Annotated[int, Field(ge=0, le=65535)]
Capacity = Annotated[int, Field(ge=1, le=1 << 40)]
Shift = Annotated[float, Field(ge=-5000, le=5000)]


class Question(Model):
    """What would be different, for whom, and how much they ask for altogether."""

    services: tuple[Name, ...] = Field(
        default=(), max_length=SERVICES, description="to look at; left out: all that have endpoints, 32 at most")
    added: tuple[Added, ...] = Field(default=(), max_length=ITEMS)
    moved: dict[Id, Place] = Field(default_factory=dict, max_length=ITEMS)
    lost: tuple[Id, ...] = Field(default=(), max_length=ITEMS)
    weights: dict[Annotated[str, Field(max_length=400)], Weight] = Field(
        default_factory=dict, max_length=1000, description="site or service/id -> weight")
    policies: dict[Name, dict[str, Any]] = Field(default_factory=dict, max_length=SERVICES)
    capacities: dict[Id, Capacity] = Field(default_factory=dict, max_length=ITEMS)
    rtt_ms: dict[Id, Shift] = Field(default_factory=dict, max_length=ITEMS, description="site -> milliseconds more")
    clients: tuple[Client, ...] = Field(
        default=(), max_length=CLIENTS, description="left out: a sample of the atlas's IPv4 addresses")
    load: float | None = Field(
        default=None, gt=0, le=1e15, description="units of load of all clients together; left out: what sites report")


class Imagined(NamedTuple):
    """The fleet as it would be, milliseconds to add by site, which services to look at, and the changes in words."""

    fleet: Fleet
    shifts: dict[str, float]
    services: tuple[str, ...]
    words: tuple[str, ...]


class ImpossibleError(ValueError):
    """A question about what is not there; `faults` name all of it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in self.faults))


def imagine(fleet: Fleet, changes: Iterable[Change], question: Question, now_ms: int) -> Imagined:
    """The fleet after the changes and what the question adds; the given one stays as it is. ImpossibleError names
    sites, services and endpoints that there would not be."""
    after = copied(fleet)
    words = list(_change(after, changes))
    services = _looked_at(after, fleet, question)
    faults: list[Fault] = [Fault(f"/services/{i}", f"there is no service {name}")
                           for i, name in enumerate(question.services)
                           if name not in after.services and name not in fleet.services]
    for lay in (_add, _move, _lose, _weigh, _declare, _size):
        words += lay(after, question, services, faults)
    faults += [Fault(f"/rtt_ms/{site}", "there is no such site") for site in question.rtt_ms if site not in after.sites]
    words += [f"{site}: {ms:+g} ms" for site, ms in question.rtt_ms.items()]
    faults += [Fault(f"/clients/{i}/service", f"{client.service} is not looked at")
               for i, client in enumerate(question.clients)
               if client.service is not None and client.service not in services]
    if not services:
        faults.append(Fault("/services", "no service has an endpoint"))
    if faults:
        raise ImpossibleError(faults)
    after.version = fleet.version
    return Imagined(after, dict(question.rtt_ms), services, tuple(words))


def copied(fleet: Fleet) -> Fleet:
    """A fleet that can be changed without touching this one: values are frozen, containers are copied."""
    made = copy.copy(fleet)
    made.sites, made.services, made.overrides = dict(fleet.sites), dict(fleet.services), dict(fleet.overrides)
    made.members = {name: dict(members) for name, members in fleet.members.items()}
    made.owned, made.ended = dict(fleet.owned), {name: dict(ended) for name, ended in fleet.ended.items()}
    return made


def loaded(fleet: Fleet) -> Loaded:
    """The fleet as the registry would give it: what rules and plans are made from."""
    return Loaded(
        Position(0, fleet.version, "", ""), dict(fleet.sites), dict(fleet.services),
        {endpoint.key: endpoint for endpoint in fleet.endpoints()}, dict(fleet.leases), dict(fleet.overrides),
        dict(fleet.owned), [])


def _looked_at(after: Fleet, fleet: Fleet, question: Question) -> tuple[str, ...]:
    """The services named, else those with endpoints, those that are changed first."""
    if question.services:
        return tuple(dict.fromkeys(question.services))
    changed = {name for name in (*after.services, *question.policies)
               if after.services.get(name) != fleet.services.get(name)
               or after.members.get(name) != fleet.members.get(name) or name in question.policies}
    have = [name for name in sorted(after.services) if after.members.get(name)]
    return tuple(sorted(have, key=lambda name: (name not in changed, name))[:SERVICES])


def _change(after: Fleet, changes: Iterable[Change]) -> Iterator[str]:
    """What a document changes; leases' endpoints are as they are."""
    for change in changes:
        kind, key = change.kind.value, rules.target(change)
        yield f"{kind} {key} {'deleted' if change.value is None else 'as in the document'}"
        match change.value:
            case Site():
                after.sites[key] = change.value
            case Service():
                after.services[key] = change.value
            case Endpoint():
                _put(after, change.value)
            case Override():
                after.overrides[key] = change.value.model_copy(update={"until_ms": FOREVER_MS})
            case _:
                kinds: dict[str, dict[str, Any]] = {
                    "site": after.sites, "service": after.services, "override": after.overrides,
                    "endpoint": after.members.get(key.rpartition("/")[0], {})}
                kinds[kind].pop(key, None)


def _put(after: Fleet, endpoint: Endpoint) -> None:
    after.members.setdefault(endpoint.service, {})[key_of(endpoint)] = endpoint


def _add(after: Fleet, question: Question, services: tuple[str, ...], faults: list[Fault]) -> Iterator[str]:
    for number, added in enumerate(question.added):
        if added.id in after.sites:
            faults.append(Fault(f"/added/{number}/id", f"there is a site {added.id}"))
            continue
        after.sites[added.id] = Site(**added.model_dump(include=set(Site.model_fields)))
        for name in added.services or services:
            if name not in after.services:
                faults.append(Fault(f"/added/{number}/services", f"there is no service {name}"))
                continue
            members = after.members.get(name, {}).values()
            a = any(e.a for e in members) or not any(e.aaaa for e in members)
            _put(after, Endpoint(
                id=f"{STAND_IN}.{number}", service=name, site=added.id, a=_FIRST4 + number if a else None,
                aaaa=_FIRST6 + number if any(e.aaaa for e in members) else None, weight=added.weight, tier=added.tier))
        yield f"site {added.id} added at {added.latitude:g}, {added.longitude:g}"


def _move(after: Fleet, question: Question, _services: tuple[str, ...], faults: list[Fault]) -> Iterator[str]:
    for id_, place in question.moved.items():
        site = after.sites.get(id_)
        if site is None:
            faults.append(Fault(f"/moved/{id_}", "there is no such site"))
            continue
        after.sites[id_] = site.model_copy(update=place.model_dump())
        yield f"site {id_} moved to {place.latitude:g}, {place.longitude:g}"


def _lose(after: Fleet, question: Question, _services: tuple[str, ...], faults: list[Fault]) -> Iterator[str]:
    for number, id_ in enumerate(question.lost):
        if id_ not in after.sites:
            faults.append(Fault(f"/lost/{number}", f"there is no site {id_}"))
            continue
        override = Override(target="site", name=id_, state="down", seconds=86400, reason="lost", until_ms=FOREVER_MS)
        after.overrides[override.key] = override
        yield f"site {id_} lost"


def _weigh(after: Fleet, question: Question, _services: tuple[str, ...], faults: list[Fault]) -> Iterator[str]:
    named: dict[str, list[Endpoint]] = {}
    for endpoint in after.endpoints() if question.weights else ():
        for name in {endpoint.site, endpoint.key} & question.weights.keys():
            named.setdefault(name, []).append(endpoint)
    for name, weight in question.weights.items():
        if name not in named:
            faults.append(Fault(f"/weights/{name}", "there is no such endpoint, and no such site with endpoints"))
            continue
        for endpoint in named[name]:
            _put(after, endpoint.model_copy(update={"weight": weight}))
        yield f"weight {weight} for {name}"


def _declare(after: Fleet, question: Question, _services: tuple[str, ...], faults: list[Fault]) -> Iterator[str]:
    for name, policy in question.policies.items():
        service = after.services.get(name)
        if service is None:
            faults.append(Fault(f"/policies/{name}", "there is no such service"))
            continue
        whole = service.policy.model_dump() | policy
        if "preset" in policy and policy["preset"] != service.policy.preset:
            whole = policy  # another preset: its own numbers, not what was declared over the former one
        try:
            after.services[name] = service.model_copy(update={"policy": PolicySpec.model_validate(whole)})
        except ValidationError as error:
            faults += [Fault("/".join((f"/policies/{name}", *map(str, one["loc"]))), one["msg"])
                       for one in error.errors(include_url=False)]
            continue
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in policy.items())


def _size(after: Fleet, question: Question, _services: tuple[str, ...], faults: list[Fault]) -> Iterator[str]:
    for id_, capacity in question.capacities.items():
        if id_ not in after.sites:
            faults.append(Fault(f"/capacities/{id_}", "there is no such site"))
            continue
        after.sites[id_] = after.sites[id_].model_copy(update={"capacity": capacity})
        yield f"capacity {capacity} for {id_}"
