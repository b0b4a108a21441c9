"""A registry in memory and a control process of nothing, with the signatures the API uses.

Lives here: the fakes and the fleet the tests begin with. Does not live here: tests; what only the real registry can
show is in `test_real_registry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from dnsd import metrics
from dnsd.admin import auth
from dnsd.control import whatif
from dnsd.control.clock import Clock
from dnsd.control.measurements import Taken
from dnsd.control.news import News
from dnsd.control.state import Fleet
from dnsd.control.told import Told
from dnsd.control.whatif import Question
from dnsd.model import Fault
from dnsd.registry import errors, rules
from dnsd.registry.fields import Model
from dnsd.registry.models import (
    Endpoint,
    Kind,
    Lease,
    LeaseRequest,
    Override,
    Renewal,
    Role,
    Service,
    Site,
    Token,
    key_of,
)
from dnsd.registry.roundtrips import RoundTrip
from dnsd.registry.store import ABSENT
from dnsd.registry.values import AuditEntry, Change, Granted, Loaded, Position, Renewed, Stored, Written

SECRETS = {token_id: f"{number:064x}" for number, token_id in enumerate((
    "root", "ops", "ops-a", "ops-net", "agent-a", "agent-b", "agent-free", "reader", "reader-a", "page"), 1)}
TOKENS = (
    Token(id="root", sha256="0" * 64, role=Role.ADMIN),
    Token(id="ops", sha256="0" * 64, role=Role.OPERATOR),
    Token(id="ops-a", sha256="0" * 64, role=Role.OPERATOR, services=("*.a.example",)),
    Token(id="ops-net", sha256="0" * 64, role=Role.OPERATOR, addresses=("192.0.2.0/24",)),
    Token(id="agent-a", sha256="0" * 64, role=Role.AGENT, services=("*.a.example",),
          addresses=("192.0.2.0/24", "2001:db8:a::/48")),
    Token(id="agent-b", sha256="0" * 64, role=Role.AGENT, services=("api.b.example",), addresses=("198.51.100.0/24",)),
    Token(id="agent-free", sha256="0" * 64, role=Role.AGENT),
    Token(id="reader", sha256="0" * 64, role=Role.READER),
    Token(id="reader-a", sha256="0" * 64, role=Role.READER, services=("api.a.example",)),
    Token(id="page", sha256="0" * 64, role=Role.BEACON),
)
SITES = (
    Site(id="fra", latitude=50.1, longitude=8.7, country="DE", region="eu"),
    Site(id="iad", latitude=38.9, longitude=-77.4, country="US", region="na"),
)
SERVICES = (Service(name="api.a.example"), Service(name="www.a.example"), Service(name="api.b.example"))
ENDPOINTS = (Endpoint(id="fixed", service="api.a.example", site="fra", a="192.0.2.1"),)


class FakeRegistry:
    """Objects in dictionaries, one version for all; `away` makes every method raise Unavailable."""

    def __init__(self) -> None:
        self.version = 0
        self.away = False
        self.asked = 0
        self.trail: list[AuditEntry] = []
        self.objects: dict[Kind, dict[str, Stored]] = {kind: {} for kind in Kind}

    def _open(self) -> None:
        self.asked += 1
        if self.away:
            raise errors.Unavailable("the store is away")

    def values(self, kind: Kind) -> dict[str, Any]:
        return {key: stored.value for key, stored in sorted(self.objects[kind].items())}

    async def load(self) -> Loaded:
        self._open()
        position = Position(1, self.version, "0-0", "")
        kinds = (Kind.SITE, Kind.SERVICE, Kind.ENDPOINT, Kind.LEASE, Kind.OVERRIDE)
        return Loaded(position, *(self.values(kind) for kind in kinds), {}, [])

    async def get(self, kind: Kind, key: str) -> Stored | None:
        self._open()
        return self.objects[kind].get(key)

    async def list(
        self, kind: Kind, *, after: str = "", limit: int = 100, prefix: str = "",
    ) -> tuple[list[Stored], str]:
        self._open()
        keys = [key for key in sorted(self.objects[kind]) if key > after and key.startswith(prefix)]
        found = [self.objects[kind][key] for key in keys[:limit]]
        return found, keys[limit - 1] if len(keys) >= limit else ""

    async def put(
        self, kind: Kind, value: Model, *, actor: str, if_match: str | None, left_s: float | None = None,
    ) -> Written:
        return await self._one(Change("put", kind, value, if_match=if_match, left_s=left_s), actor)

    async def delete(self, kind: Kind, key: str, *, actor: str, if_match: str | None) -> Written:
        return await self._one(Change("delete", kind, key=key, if_match=if_match), actor)

    async def apply(self, changes: Sequence[Change], *, actor: str, if_version: int | None) -> Written:
        self._open()
        if if_version not in (None, self.version):
            raise errors.PreconditionFailed("another version")
        if broken := rules.shape(changes) or rules.check(await self.load(), changes):
            raise rules.error(broken)
        self.version += 1
        for change in changes:
            self._set(change, actor, "apply")
        return Written("", "", self.version, False, "fsync")

    async def _one(self, change: Change, actor: str) -> Written:
        self._open()
        key, etag = rules.target(change), change.if_match
        stored = self.objects[change.kind].get(key)
        if stored and etag in (None, ABSENT):
            raise (errors.PreconditionRequired if etag is None else errors.PreconditionFailed)("it exists")
        if etag not in (None, ABSENT, "*") and (stored is None or stored.etag != etag):
            raise errors.PreconditionFailed("another etag")
        broken = rules.shape([change], lambda _: "") or rules.check(await self.load(), [change])
        if broken:
            raise rules.error(broken)
        self.version += 1
        self._set(change, actor, change.op)
        now = self.objects[change.kind].get(key)
        return Written(key, now.etag if now else "", self.version, stored is None, "fsync")

    def _set(self, change: Change, actor: str, action: str) -> None:
        key = rules.target(change)
        old = self.objects[change.kind].pop(key, None)
        if change.value is not None:
            self.objects[change.kind][key] = Stored(change.value, str(self.version), self.version)
        sides = [value and value.model_dump(mode="json") for value in (old and old.value, change.value)]
        entry_id = f"{len(self.trail) + 1}-0"
        self.trail.append(AuditEntry(entry_id, 0, actor, action, change.kind, key, self.version, *sides))

    async def acquire(
        self, request: LeaseRequest, *, actor: str, token_id: str, take_over: bool = False,
    ) -> Granted:
        self._open()
        held = self.objects[Kind.LEASE].get(request.holder)
        if held and held.value.token != token_id and not take_over:
            raise errors.Conflict("acquired with another token")
        faults = []
        for number, spec in enumerate(request.endpoints):
            there = self.objects[Kind.ENDPOINT].get(key_of(Endpoint(**dict(spec))))
            if spec.service not in self.objects[Kind.SERVICE]:
                faults.append(Fault(f"/endpoints/{number}/service", "no such service"))
            if there and there.value.lease != request.holder:
                raise errors.Conflict(faults=[Fault(f"/endpoints/{number}", "the endpoint is held")])
        if faults:
            raise errors.Invalid(faults=faults)
        self.version += 1
        for key in held.value.endpoints if held else ():
            del self.objects[Kind.ENDPOINT][key]
        endpoints = [Endpoint(**dict(spec), lease=request.holder) for spec in request.endpoints]
        for endpoint in endpoints:
            self.objects[Kind.ENDPOINT][endpoint.key] = Stored(endpoint, str(self.version), self.version)
        lease = Lease(
            id=request.holder, holder=request.holder, fence=self.version, ttl=request.ttl, deadline=1000,
            endpoints=[endpoint.key for endpoint in endpoints], token=token_id)
        self.objects[Kind.LEASE][lease.id] = Stored(lease, str(self.version), self.version)
        return Granted(lease, self.version, "fsync")

    async def renew(self, renewals: Sequence[Renewal], *, actor: str) -> list[Renewed]:
        self._open()
        done = []
        for renewal in renewals:
            held = self.objects[Kind.LEASE].get(renewal.id)
            fence = held.value.fence if held else 0
            problem = "unknown" if held is None else "fenced" if fence != renewal.fence else None
            done.append(Renewed(renewal.id, problem is None, fence, 0 if problem else held.value.ttl * 1000, problem))
        return done

    async def release(self, lease_id: str, fence: int, *, actor: str) -> Written:
        self._open()
        held = self.objects[Kind.LEASE].get(lease_id)
        if held is None:
            raise errors.NotFound()
        if held.value.fence != fence:
            raise errors.Conflict("another fence")
        for key in (*held.value.endpoints,):
            del self.objects[Kind.ENDPOINT][key]
        del self.objects[Kind.LEASE][lease_id]
        self.version += 1
        return Written(lease_id, "", self.version, False, "fsync")

    async def audit(self, *, after: str = "", limit: int = 100) -> list[AuditEntry]:
        self._open()
        first = int(after.partition("-")[0]) if after else 0
        return self.trail[first : first + limit]


class FakeControl:
    """Ready, with two workers, and whatever a test sets."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry
        self.stats = memoryview(bytearray(2 * metrics.REGION))
        self.unmet: list[str] = []
        self.faults: list[Fault] = []
        self.served = 10
        self.no_place: dict[str, str] = {}
        self.waited: list[tuple[int, float]] = []
        self.told: list[Told] = []
        self.measured: list[tuple[str, str | None, Sequence[RoundTrip]]] = []
        self.anybody = False
        self.anew: list[str] = []
        self.takes = True
        self.cannot: Exception | None = None
        self.news = News(Clock(), lambda: self.unmet)
        self.custody = FakeCustody()
        self.local: Any = None

    def status(self) -> dict[str, Any]:
        return {
            "node": "n", "epoch": 7, "version": self.served, "workers": [{"slot": 0}], "registry": {"up": True},
            "leases": {"shifted_ms": 2500}, "maps": [{}, {}, {}],
        }

    def ready(self) -> tuple[bool, dict[str, Any]]:
        return not self.unmet, {"stale_for": 1.5, "conditions": self.unmet}

    async def wait_version(self, version: int, timeout: float) -> bool:
        self.waited.append((version, timeout))
        return version <= self.served

    async def explain(self, name: str, type: str, client: str | None, ecs: str | None) -> dict[str, Any]:
        if type == "BOGUS":
            raise ValueError("no such type")
        return {"name": name, "type": type, "client": client, "subnet": ecs}

    def stands(self, service: str) -> dict[str, Any] | None:
        there = service in self.registry.objects[Kind.SERVICE]
        return {"service": service, "endpoints": []} if there else None

    def fleet(self) -> Fleet:
        made = Fleet(self.registry.version)
        made.sites, made.services = self.registry.values(Kind.SITE), self.registry.values(Kind.SERVICE)
        made.overrides = self.registry.values(Kind.OVERRIDE)
        for endpoint in self.registry.values(Kind.ENDPOINT).values():
            made.members.setdefault(endpoint.service, {})[endpoint.key] = endpoint
        made.leases = self.registry.values(Kind.LEASE)
        return made

    async def simulate(self, changes: Sequence[Change], question: Question) -> dict[str, Any]:
        """As the real one says it, of no clients; `cannot` is what it raises."""
        if self.cannot is not None:
            raise self.cannot
        imagined = whatif.imagine(self.fleet(), changes, question, 1)
        return {
            "changes": list(imagined.words), "version": self.registry.version, "atlas": None, "table": None,
            "clients": {"source": "given", "number": 0, "weight": 0.0}, "load": {"units": None, "from": None},
            "sites": [], "moved": 0.0, "had_to": 0.0, "services": [], "seconds": 0.1}

    def misplaced(self, service: Service) -> str:
        return self.no_place.get(service.name, "")

    def endpoint(self, key: str) -> Endpoint | None:
        stored = self.registry.objects[Kind.ENDPOINT].get(key)
        return stored.value if stored is not None else None

    def report(self, reporter: str, told: Sequence[Told]) -> bool:
        self.told += told if self.takes else ()
        return self.takes

    def measure(self, reporter: str, site: str | None, samples: Sequence[RoundTrip], *, anybody: bool = False,
                ) -> Taken | None:
        self.measured.append((reporter, site, samples))
        self.anybody = anybody
        return Taken(len(samples), {}) if self.takes else None

    def registered(self, keys: Iterable[str]) -> None:
        self.anew += keys

    async def reload(self) -> list[Fault]:
        return self.faults


class FakeCustody:
    """A registry that is held off, until one of the two is called for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None, str]] = []

    def described(self) -> dict[str, Any]:
        served = {"epoch": "7", "version": 9, "sites": 1, "services": 1, "endpoints": 4, "leases": 0}
        losses = [{"kind": "endpoint", "had": 4, "missing": 4, "changed": 0, "named": ["api.a.example/fixed"]}]
        return {"state": "held", "why": "emptied", "alarm": "", "etag": "7-1", "served": served,
                "offered": {"epoch": "8", "version": 1}, "losses": losses, "stale_for": 1.5}

    async def accept(self, etag: str | None, actor: str) -> dict[str, Any]:
        return self._settle("accept", etag, actor)

    async def restore(self, etag: str | None, actor: str) -> dict[str, Any]:
        return self._settle("restore", etag, actor)

    def _settle(self, what: str, etag: str | None, actor: str) -> dict[str, Any]:
        if etag is None:
            raise errors.PreconditionRequired("say which")
        if etag not in ("7-1", "*"):
            raise errors.PreconditionFailed("another by now")
        self.calls.append((what, etag, actor))
        return {"epoch": "9", "version": 10, "written": 0}


def filled() -> FakeRegistry:
    """A registry with TOKENS, SITES, SERVICES, ENDPOINTS, one lease of agent-a and one of agent-b."""
    registry = FakeRegistry()
    for token in TOKENS:
        sha256 = auth.digest(SECRETS[token.id]).hex()
        _store(registry, Kind.TOKEN, token.model_copy(update={"sha256": sha256}))
    for value in (*SITES, *SERVICES, *ENDPOINTS):
        _store(registry, Kind(type(value).__name__.lower()), value)
    _store(registry, Kind.OVERRIDE, Override(target="site", name="iad", state="drain", seconds=60, reason="works"))
    for holder, service, address in (
            ("one-a", "api.a.example", "192.0.2.10"), ("one-b", "api.b.example", "198.51.100.10")):
        key = f"{service}/{holder}"
        _store(registry, Kind.ENDPOINT, Endpoint(id=holder, service=service, site="fra", a=address, lease=holder))
        _store(registry, Kind.LEASE, Lease(
            id=holder, holder=holder, fence=3, ttl=30, deadline=1000, endpoints=[key], token=f"agent-{holder[-1]}"))
    registry.version = 10
    return registry


def _store(registry: FakeRegistry, kind: Kind, value: Model) -> None:
    registry.objects[kind][key_of(value)] = Stored(value, "1", 1)
