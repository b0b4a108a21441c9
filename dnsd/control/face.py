"""The control process as the admin API sees it: status, readiness, waiting, explain, reload.

Lives here: putting together what the parts know. Does not live here: HTTP (`admin`), starting and stopping
(`control.app`).

Ready means: workers answer. A registry that is away, a state that is held, a map that cannot be derived are conditions,
said with it, but no reason to take the node out of service: its answers are the best there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from dnsd import metrics
from dnsd.control.clock import Allowance, Clock
from dnsd.control.custody import Custody
from dnsd.control.explain import Explainer
from dnsd.control.feeds import Feeds
from dnsd.control.intake import Intake
from dnsd.control.judge import Judge
from dnsd.control.leaseclock import LeaseClock
from dnsd.control.local import Local
from dnsd.control.maps import Maps
from dnsd.control.measurements import Taken
from dnsd.control.news import News
from dnsd.control.publish import Publisher
from dnsd.control.reports import Reports
from dnsd.control.rules import Rules
from dnsd.control.secondaries import Secondaries
from dnsd.control.simulate import Simulator
from dnsd.control.spill import Spills
from dnsd.control.state import Fleet
from dnsd.control.survey import Survey
from dnsd.control.tap import Capture
from dnsd.control.told import Told
from dnsd.control.trips import Trips
from dnsd.control.views import Views
from dnsd.control.watching import Watching
from dnsd.control.whatif import Question
from dnsd.control.zones import Zones, conflicts, misplaced
from dnsd.dns import names
from dnsd.dns.prefixes import Prefixes
from dnsd.model import Fault
from dnsd.registry.models import Endpoint, Service
from dnsd.registry.store import Registry
from dnsd.registry.values import Change
from dnsd.rtt.intake import Sample

RELOAD_S: Final = 10.0
WORKERS_S: Final = 2.0  # how long a reload waits for workers to serve it; one that is away will when it comes
WHY_SHARE, WHY_BURST_S = 0.1, 0.25
LISTED: Final = 100
_log = logging.getLogger("dnsd.control")


class Control:
    """One node's control process. `registry` and `stats` are used by the API as they are."""

    def __init__(
        self, registry: Registry, stats: memoryview, *, node: str, views: Views, publisher: Publisher, feeds: Feeds,
        maps: Maps, intake: Intake, lease_clock: LeaseClock, zones: Zones, clock: Clock,
    ) -> None:
        self.registry, self.stats, self.node = registry, stats, node
        self.views, self.publisher, self.feeds, self.maps = views, publisher, feeds, maps
        self.intake, self.lease_clock, self.zones, self.clock = intake, lease_clock, zones, clock
        self.capture: Capture | None = None
        self.secondaries: Secondaries | None = None
        self.watching: Watching | None = None
        self.custody: Custody | None = None
        self.local: Local | None = None
        self.judge: Judge | None = None
        self.reports: Reports | None = None
        self.rules: Rules | None = None
        self.survey: Survey | None = None
        self.trips: Trips | None = None
        self.spills: Spills | None = None
        self.news = News(clock, self.conditions)
        views.tell = self.news.resolved
        self.desk: Callable[[], dict[str, Any]] = dict  # what has been asked of it
        self.ecs_from: Prefixes | None = None  # whose client subnets are believed; None: everybody's
        self.draining = False
        self.zone_faults: list[Fault] = []
        self.explainer = Explainer(views, publisher, maps)
        self.simulator = Simulator(views, publisher, maps)
        self.why = Allowance(clock, rate=WHY_SHARE, most=WHY_BURST_S)  # for explanations over DNS
        self._reloading = asyncio.Lock()
        self._started = clock.monotonic()

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether workers answer, `stale_for` in seconds, and every condition that is not as it should be."""
        serving = self.publisher.live.image is not None and all(feed.stamp is not None for feed in self.feeds.feeds)
        return serving and not self.draining, {
            "stale_for": round(self.intake.stale_for, 3), "conditions": list(self.conditions())}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        if self.draining:
            yield "draining"
        if self.publisher.live.image is None:
            yield "no image is served yet"
        if self.intake.alarm:
            yield f"lost: {self.intake.alarm}"
        if self.local is not None and self.local.entries:
            yield f"forced on this node only: {', '.join(sorted(self.local.entries)[:LISTED])}"
        if self.intake.held:
            yield f"held: {self.intake.held}"
        elif not self.intake.connected:
            yield f"the registry is away: {self.intake.problem or 'not asked yet'}"
        elif self.intake.problem:
            yield self.intake.problem
        if self.intake.corrupt:
            yield f"{self.intake.corrupt} values of the store cannot be read"
        yield from (f"zone: {fault.place}: {fault.message}" for fault in self.zone_faults[:LISTED])
        yield from self.publisher.faults
        yield from self.maps.faults
        for owner, fault in _first(self.publisher.live.left_out):
            yield f"service {names.to_text(owner)} is not served: {fault}"
        for owner, fault in _first(self.publisher.live.refused):
            yield f"service {names.to_text(owner)} is served as it was: {fault}"
        if self.publisher.files.broken:
            yield "the journal cannot be written"
        for feed in self.feeds.feeds:
            if feed.behind or feed.closed:
                yield f"worker {feed.slot} does not take changes"
        for part in (self.lease_clock, self.secondaries, self.watching, self.judge, self.rules, self.trips,
                     self.spills):
            if part is not None:
                yield from part.conditions()
        for outlet in self._captures().values():
            if outlet["problem"]:
                yield f"capture: {outlet['to']}: {outlet['problem']}"

    def status(self) -> dict[str, Any]:
        """Where this node stands."""
        stamp, fleet, intake = self.publisher.live.stamp, self.views.fleet, self.intake
        ready, details = self.ready()
        return {
            "node": self.node, "ready": ready, **stamp._asdict(),
            "uptime_s": round(self.clock.monotonic() - self._started, 1),
            "registry": {
                "up": intake.connected, "held": intake.held or None, "is_held": bool(intake.held),
                "alarm": intake.alarm or None, "alarmed": bool(intake.alarm),
                "local": self.local.described() if self.local is not None else [],
                "stale_for": details["stale_for"],
                "version": fleet.version, "events": intake.events, "loads": intake.loads, "corrupt": intake.corrupt},
            "workers": [self._worker(slot) for slot in range(len(self.feeds.feeds))],
            "fleet": {
                "sites": len(fleet.sites), "services": len(fleet.services), "overrides": len(fleet.overrides),
                "endpoints": sum(map(len, fleet.members.values())), "leases": len(fleet.held),
                "last_good": sum(1 for _ in self._last_good()),
                "left_out": len(self.publisher.live.left_out), "refused": len(self.publisher.live.refused)},
            "leases": self.lease_clock.described(),
            "published": asdict(self.publisher.live.counts),
            "journal_bytes": self.publisher.files.journal_size,
            "zones": self._zones(),
            "maps": self.maps.described(),
            "capture": self._captures(),
            "health": self._health(),
            "measurements": self.trips.described() if self.trips is not None else {},
            "spill": self.spills.described() if self.spills is not None else {},
            "desk": self.desk(),
            "last_good": list(self._last_good())[:LISTED],
            "conditions": details["conditions"],
        }

    async def wait_version(self, version: int, timeout: float) -> bool:
        """True as soon as every worker serves at least this version; false when `timeout` seconds have passed."""
        return await self.feeds.wait(lambda: self.publisher.reached(version), timeout)

    async def explain(self, name: str, type: str, client: str | None, ecs: str | None) -> dict[str, Any]:
        """How a query would be answered now, with every part; ValueError says what is wrong with the question."""
        return await self.explainer.told(name, type, client, ecs)

    def fleet(self) -> Fleet:
        """The fleet that is served."""
        return self.views.fleet

    async def simulate(self, changes: Sequence[Change], question: Question) -> dict[str, Any]:
        """What would come of changes (`control.simulate`)."""
        self.simulator.clients = self.spills.clients if self.spills is not None else None
        return await self.simulator.simulate(changes, question)

    def stands(self, service: str) -> dict[str, Any] | None:
        """How each endpoint of a service stands; None when there is no such service."""
        return self.survey.of(service, self.clock.unix_ms()) if self.survey is not None else None

    def endpoint(self, key: str) -> Endpoint | None:
        """An endpoint by `service/id`, as this node knows it."""
        return self.views.fleet.endpoint(key)

    def report(self, reporter: str, told: Sequence[Told]) -> bool:
        """Takes reports of endpoints' health; false: more than this reporter may send now, none was taken."""
        return self.reports is None or self.reports.report(reporter, told)

    def measure(self, reporter: str, site: str | None, samples: Sequence[Sample], *, anybody: bool = False,
                ) -> Taken | None:
        """Takes measured round trips; None: more than this reporter may send now, none was taken."""
        return Taken(0, {}) if self.trips is None else self.trips.intake.take(
            reporter, site, samples, anybody=anybody)

    def registered(self, keys: Iterable[str]) -> None:
        """These endpoints were registered anew."""
        if self.reports is not None:
            self.reports.renewed(keys)

    def misplaced(self, service: Service) -> str:
        """Why this service cannot stand at its name in the zones served here; empty when it can."""
        image = self.publisher.live.image
        https = service.https is not None
        return misplaced(image, names.to_wire(service.name), https=https) if image is not None else ""

    async def reload(self) -> list[Fault]:
        """Read the zone files again and serve them; with any fault nothing changes."""
        async with self._reloading:
            loaded, faults = await asyncio.to_thread(self.zones.read)
            if not faults:
                views = [resolved.view for resolved in self.views.resolved.values()]
                faults = conflicts([zone.view for zone in loaded], views, self.publisher.live.left_out)
            if faults:
                _log.error("zones are not taken: %d faults", len(faults))
                for fault in faults:
                    _log.error("zone: %s: %s", *fault)
                if self.publisher.zones is None:
                    self.zone_faults = faults
                return faults
            return await self._serve_zones(loaded)

    async def _serve_zones(self, loaded: tuple[Any, ...]) -> list[Fault]:
        before, taken = self.publisher.zones, self.zones.loaded
        self.publisher.zones = self.zones.take(loaded)
        self.zone_faults = []
        self.publisher.mark(structure="zones")
        if not self.publisher.open:
            return [Fault("registry", "the zones are sound; they are served as soon as the registry has been read")]
        deadline = self.clock.monotonic() + RELOAD_S
        while self.publisher.live.zones is not self.publisher.zones and self.clock.monotonic() < deadline:
            if self.publisher.faults:
                faults = [Fault("image", fault) for fault in self.publisher.faults]
                self.publisher.zones, self.zones.loaded = before, taken
                self.publisher.mark(structure="zones")
                return faults
            await self.clock.sleep(0.005)
        stamp = self.publisher.live.stamp
        await self.feeds.wait(lambda: self.feeds.serve(stamp), WORKERS_S)
        return []

    def _zones(self) -> list[dict[str, Any]]:
        told = self.zones.described()
        return told if self.secondaries is None else self.secondaries.described(told)

    def _worker(self, slot: int) -> dict[str, Any]:
        told = self.feeds.status()[slot]
        if slot < metrics.workers(self.stats):
            head = metrics.head(self.stats, slot)
            compiled = metrics.counters(self.stats, slot)[metrics.ENGINE]
            told |= {"pid": head[metrics.PID], "starts": head[metrics.STARTS],
                     "engine": "compiled" if compiled else "python"}
        return told

    def _health(self) -> dict[str, Any]:
        """What is measured, and what comes of it."""
        if self.watching is None:
            return {}
        resolved = self.views.resolved.items()
        held = [name for name, one in resolved if any(sifted.held for sifted in one.sifted.values())]
        panic = [name for name, one in resolved if one.view.panic]
        judge = self.judge.described() if self.judge is not None else {}
        reports = {name: part.described() for name, part in (("reports", self.reports), ("rules", self.rules))
                   if part is not None}
        return {**self.watching.described(), **judge, **reports, "held": held[:LISTED], "panic": panic[:LISTED]}

    def _captures(self) -> dict[str, dict[str, Any]]:
        return self.capture.described() if self.capture is not None else {}

    def _last_good(self) -> Iterator[str]:
        """Services that stand on the last good rung for some type."""
        for name, resolved in self.views.resolved.items():
            if any(kept.left_ms for kept in resolved.memory.values()):
                yield name


def _first(faults: dict[bytes, str]) -> list[tuple[bytes, str]]:
    return list(faults.items())[:LISTED]
