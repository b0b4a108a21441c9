"""The fleet as the registry told it: objects by key, kept by events, and which services a change touches.

Lives here: `Fleet`, applying events, what a new load differs in, who revoked an address. Does not live here: the stream
(`control.intake`), what a service answers (`control.resolve`).

The idea: an endpoint that goes away is either *ended* (its lease expired or was released) or *revoked* (an operator
deleted it, or its own holder dropped it and kept the others). Only what ended may still serve as last good answer. The
registry lets nobody delete an endpoint whose lease lives, so an endpoint that had no lease was deleted by an operator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple, cast

from dnsd.registry.models import Endpoint, Kind, Lease, Override, Service, Site, Verdict
from dnsd.registry.values import Event, Loaded

ENDED_KEPT: Final = 16
"""Endpoints that are gone, remembered per service so that `explain` can say why they are not candidates."""


class Ended(NamedTuple):
    """An endpoint that is gone: what it was, when (unix ms), and whether its address must not be answered again."""

    endpoint: Endpoint
    at_ms: int
    revoked: bool


@dataclass(slots=True)
class Touched:
    """What a change reaches: services to resolve again, and whether sites or their use changed (the slow clock)."""

    services: set[str] = field(default_factory=set)
    sites: bool = False

    def add(self, other: Touched) -> None:
        """Take over what another change reaches."""
        self.services |= other.services
        self.sites |= other.sites


@dataclass(slots=True)
class Fleet:
    """Objects by key. `members` are a service's endpoints by key; `ended` those that are gone, newest last.

    `held` counts the endpoints under each lease; `leases` is what is known of these, `strangers` of which nothing is.
    `corrupt` are the places (`kind/key`) the store could not give at the last load. `overrides` are those in force:
    what was forced on this node alone (`local`) hides the registry's (`hidden`) until it is lifted.
    """

    version: int = 0
    sites: dict[str, Site] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    overrides: dict[str, Override] = field(default_factory=dict)
    owned: dict[str, frozenset[str]] = field(default_factory=dict)
    members: dict[str, dict[str, Endpoint]] = field(default_factory=dict)
    ended: dict[str, dict[str, Ended]] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    corrupt: frozenset[str] = frozenset()
    leases: dict[str, Lease] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)
    local: dict[str, Override] = field(default_factory=dict)
    hidden: dict[str, Override] = field(default_factory=dict)

    def endpoints(self) -> Iterable[Endpoint]:
        """All endpoints, service by service."""
        return (endpoint for members in self.members.values() for endpoint in members.values())

    def endpoint(self, key: str) -> Endpoint | None:
        """An endpoint by `service/id`."""
        return self.members.get(key.rpartition("/")[0], {}).get(key)

    def apply(self, events: Iterable[Event], now_ms: int) -> Touched:
        """Apply one or more whole writes, in order."""
        touched = Touched()
        gone: list[Endpoint] = []
        for event in events:
            if gone and event.version != self.version:
                self._bury(gone, now_ms)
                gone = []
            self.version = event.version
            self._one(event, touched, gone)
        self._bury(gone, now_ms)
        return touched

    def load(self, loaded: Loaded, now_ms: int) -> Touched:
        """Take a whole state in place of this one. Of values the store has corrupted the last sound one is kept."""
        fresh = from_loaded(loaded)
        touched = Touched(sites=True)
        for fault in loaded.corrupt:
            self._keep_sound(fresh, fault.place)
        gone = [e for e in self.endpoints() if fresh.endpoint(e.key) is None]
        touched.services |= self.services.keys() | fresh.services.keys()
        self.corrupt = frozenset(fault.place for fault in loaded.corrupt)
        ended = self.ended
        self.version, self.sites, self.services = fresh.version, fresh.sites, fresh.services
        self.overrides, self.owned, self.members = fresh.overrides, fresh.owned, fresh.members
        self.verdicts, self.leases, self.hidden = fresh.verdicts, fresh.leases, {}
        for override in self.local.values():
            self._hide(override)
        self.count_held()
        self.ended = {name: kept for name, kept in ended.items() if name in self.services}
        self._bury(gone, now_ms)
        return touched

    def take(self, other: Fleet) -> None:
        """Be as another is; what is forced on this node alone stays."""
        local = dict(self.local)
        for each in fields(other):
            setattr(self, each.name, getattr(other, each.name))
        self.local, self.hidden = {}, {}
        for override in local.values():
            self.force(override)

    def count_held(self) -> None:
        """Count anew which leases have endpoints."""
        self.held = Counter(e.lease for e in self.endpoints() if e.lease is not None)
        self.strangers = set(self.held.keys() - self.leases.keys())

    def force(self, override: Override) -> set[str]:
        """Force a state on this node alone; the services it has a say in."""
        touched = self.lift(override.key) | self.reached_by(override)
        self.local[override.key] = override
        self._hide(override)
        return touched

    def lift(self, key: str) -> set[str]:
        """Go by the registry's override again, if it has one; the services that reaches."""
        local = self.local.pop(key, None)
        if local is None:
            return set()
        _put(self.overrides, key, self.hidden.pop(key, None))
        return self.reached_by(local)

    def registered(self, key: str) -> Override | None:
        """The registry's override of a key."""
        return self.hidden.get(key) if key in self.local else self.overrides.get(key)

    def learn(self, leases: Iterable[Lease]) -> None:
        """What is known of leases under which there are endpoints."""
        for lease in leases:
            if lease.id in self.held:
                self.leases[lease.id] = lease
                self.strangers.discard(lease.id)

    def _hide(self, override: Override) -> None:
        if override.key in self.overrides:
            self.hidden[override.key] = self.overrides[override.key]
        self.overrides[override.key] = override

    def reached_by(self, override: Override) -> set[str]:
        """The services an override has a say in."""
        if override.target == "service":
            return {override.name}
        if override.target == "endpoint":
            return {override.name.rpartition("/")[0]}
        site = override.name
        return {name for name, members in self.members.items() if any(e.site == site for e in members.values())}

    def _one(self, event: Event, touched: Touched, gone: list[Endpoint]) -> None:
        kind, key, value = event.kind, event.key, event.value
        if kind is Kind.ENDPOINT:
            self._endpoint(key, cast("Endpoint | None", value), touched, gone)
            key = key.rpartition("/")[0]
        elif kind is Kind.SERVICE:
            _put(self.services, key, value)
            touched.services.add(key)
            if value is None:
                self.owned.pop(key, None)
                self.ended.pop(key, None)
                self.verdicts.pop(key, None)
        elif kind is Kind.VERDICT:
            _put(self.verdicts, key, value)
            touched.services.add(key)
        elif kind is Kind.SITE:
            _put(self.sites, key, value)
            touched.sites = True
        elif kind is Kind.OVERRIDE:
            for override in (self.registered(key), cast("Override | None", value)):
                touched.services |= self.reached_by(override) if override is not None else set()
            _put(self.hidden if key in self.local else self.overrides, key, value)
        if event.owned is not None:
            self.owned[key] = event.owned

    def _endpoint(self, key: str, value: Endpoint | None, touched: Touched, gone: list[Endpoint]) -> None:
        service = key.rpartition("/")[0]
        members = self.members.setdefault(service, {})
        before = members.get(key)
        touched.services.add(service)
        touched.sites |= before is None or value is None or before.site != value.site
        if before is not None and before.lease is not None:
            self.held[before.lease] -= 1
            if not self.held[before.lease]:
                del self.held[before.lease]
                self.leases.pop(before.lease, None)
                self.strangers.discard(before.lease)
        if value is not None:
            members[key] = value
            self.ended.get(service, {}).pop(key, None)
            if value.lease is not None:
                self.held[value.lease] += 1
                if value.lease not in self.leases:
                    self.strangers.add(value.lease)
            return
        if before is not None:
            del members[key]
            gone.append(before)
        if not members:
            del self.members[service]

    def _bury(self, gone: list[Endpoint], now_ms: int) -> None:
        """Remember what is gone, once the whole write is applied: only then is it known whether its lease lives on."""
        for endpoint in gone:
            if endpoint.service not in self.services or self.endpoint(endpoint.key) is not None:
                continue
            graves = self.ended.setdefault(endpoint.service, {})
            graves.pop(endpoint.key, None)
            graves[endpoint.key] = Ended(endpoint, now_ms, endpoint.lease is None or endpoint.lease in self.held)
            while len(graves) > ENDED_KEPT:
                del graves[next(iter(graves))]

    def _keep_sound(self, fresh: Fleet, place: str) -> None:
        """Carry the object of a `kind/key` place over into `fresh`, if it was sound here."""
        kind, _, key = place.partition("/")
        if kind == Kind.ENDPOINT:
            endpoint = self.endpoint(key)
            if endpoint is not None:
                fresh.members.setdefault(endpoint.service, {}).setdefault(key, endpoint)
            return
        for known, mine, theirs in (
            (Kind.SITE, self.sites, fresh.sites), (Kind.SERVICE, self.services, fresh.services),
            (Kind.OVERRIDE, self.overrides, fresh.overrides),
        ):
            if kind == known and key in mine:
                cast("dict[str, Any]", theirs).setdefault(key, mine[key])


def from_loaded(loaded: Loaded) -> Fleet:
    """A fleet as it was loaded, with nothing remembered."""
    fleet = Fleet(
        loaded.position.version, dict(loaded.sites), dict(loaded.services), dict(loaded.overrides), dict(loaded.owned),
        verdicts=dict(loaded.verdicts), leases=dict(loaded.leases))
    for key, endpoint in loaded.endpoints.items():
        fleet.members.setdefault(endpoint.service, {})[key] = endpoint
        if endpoint.lease is not None:
            fleet.held[endpoint.lease] += 1
    return fleet


def _put(objects: Mapping[str, Any], key: str, value: Any) -> None:
    """Set, or remove when there is no value."""
    if value is None:
        cast("dict[str, Any]", objects).pop(key, None)
    else:
        cast("dict[str, Any]", objects)[key] = value
