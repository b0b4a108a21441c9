"""The control process: everything put together, started, kept, and ended in order.

Lives here: the JSON argument, wiring, signals, tasks, the first admin token. Does not live here: what any part does.

The API is another room, `admin`, which imports this one; so it is found by its name here, at start, and not imported.
SIGHUP reads the zones again; SIGTERM makes /readyz say no; the process leaves when the supervisor's lifeline ends. A
task that ends by an exception ends the process: the supervisor starts it anew, and workers answer on meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from dnsd import disk, metrics
from dnsd.control import files, writes
from dnsd.control.builder import Builder
from dnsd.control.clock import Clock
from dnsd.control.custody import Custody
from dnsd.control.desk import Answers, Desk
from dnsd.control.face import Control
from dnsd.control.feeds import Feeds
from dnsd.control.health import Health
from dnsd.control.intake import Intake
from dnsd.control.judge import Judge
from dnsd.control.keeping import Keeping
from dnsd.control.leaseclock import LeaseClock
from dnsd.control.local import Local
from dnsd.control.maps import Maps, opened
from dnsd.control.publish import Publisher
from dnsd.control.reports import Reports
from dnsd.control.rules import PrometheusSettings, Rules
from dnsd.control.secondaries import Secondaries, ZoneSettings
from dnsd.control.spill import Spills
from dnsd.control.state import Fleet
from dnsd.control.survey import Survey
from dnsd.control.tap import CaptureSettings
from dnsd.control.tap import opened as opened_tap
from dnsd.control.transfer import Allowed
from dnsd.control.trips import Trips
from dnsd.control.tsig import Keys, KeySettings
from dnsd.control.views import Views
from dnsd.control.votes import UNSEEING, Votes
from dnsd.control.watching import ProbeSettings, Watching
from dnsd.control.zones import Zones
from dnsd.dns.prefixes import Prefixes
from dnsd.image.reading import ImageError
from dnsd.model import Stamp
from dnsd.registry.errors import RegistryError
from dnsd.registry.link import Link
from dnsd.registry.store import Registry

SAVE_S: Final = 1.0
SAVE_SHARE: Final = 20  # writing takes at most this part of the time
SEEN_S: Final = 600.0
TOKEN_S: Final = 0.25
ZONES_RETRY_S: Final = 5.0
CANCELS, CANCEL_S = 5, 0.5
GARBAGE: Final = (20_000, 3, 1600)
API: Final = "dnsd.admin.app"
LISTENING: Final = "dnsd.admin.listening"
TOKENS: Final = "dnsd.admin.auth"
_log = logging.getLogger("dnsd.control")


class RegistrySettings(BaseModel):
    """What of the registry's settings is not in its URL."""

    prefix: str = "dnsd"


class WhySettings(BaseModel):
    """Who may be told why: prefixes, and keys as `key:NAME`."""

    allow: tuple[str, ...] = ()


class EcsSettings(BaseModel):
    """Whose client subnets are believed; prefixes."""

    resolvers: tuple[str, ...] = ("0.0.0.0/0", "::/0")


class ListenSettings(BaseModel):
    """Of a table of settings, where it listens."""

    listen: list[str] = []


class Settings(BaseModel):
    """The JSON argument: the node's settings and inherited descriptors. What is not known here is for others."""

    model_config = ConfigDict(extra="ignore")

    node: str
    site: str | None = None
    clients: Path | None = None
    state: Path
    feeds: list[int]
    admin: list[int] = []
    certificate: Path | None = None
    key: Path | None = None
    lifeline: int
    store_url: str
    stats: Path
    atlas: Path
    maps: Path | None = None
    registry: RegistrySettings = RegistrySettings()
    zones: list[ZoneSettings] = []
    keys: list[KeySettings] = []
    desks: list[int] = []
    why: WhySettings = WhySettings()
    ecs: EcsSettings = EcsSettings()
    listen: list[str] = []
    tls: ListenSettings = ListenSettings()
    admin_listen: list[str] = []
    probes: ProbeSettings = ProbeSettings()
    prometheus: PrometheusSettings = PrometheusSettings()
    tap: int = -1
    capture: CaptureSettings = CaptureSettings()
    log_level: str = "info"


def main(argument: str) -> int:
    """Run until the lifeline ends; the exit code (0: left as told, 1: a part of it failed)."""
    settings = Settings.model_validate_json(argument)
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="dnsd control: %(levelname)s %(message)s")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):  # SIGHUP: until zones can be read again
        signal.signal(number, signal.SIG_IGN)
    # A large fleet is millions of small values that live on: looked at often they are most of the time, rarely a halt.
    gc.set_threshold(*GARBAGE)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(Process(settings).run())


class Process:
    """The parts of one control process; `run` is its life."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or Clock()
        self.leave = asyncio.Event()
        self.fleet = Fleet()
        maps_dir = settings.maps or settings.state / disk.MAPS
        self.maps = Maps(self.fleet, settings.atlas, maps_dir, clock=self.clock)
        self.views = Views(self.fleet, self.maps.of)
        self.feeds = Feeds(
            [socket.socket(fileno=number) for number in settings.feeds], lambda: self.publisher.remap_frame())
        self.publisher = Publisher(
            self.views, files.ImageFiles(settings.state), self.feeds, node=settings.node, clock=self.clock)
        self.maps.publisher = self.publisher
        self.registry = Registry(Link(settings.store_url, settings.registry.prefix))
        self.intake = Intake(self.registry, self.fleet, self.publisher, self.maps, clock=self.clock, node=settings.node)
        self.intake.history = self.registry.history
        self.keeping = self.intake.memory = Keeping(settings.state, self.fleet, self.clock)
        self.lease_clock = LeaseClock(self.registry, self.views, self.publisher, clock=self.clock)
        self.zones = Zones([(zone.name, zone.file) for zone in settings.zones])
        self.control = Control(
            self.registry, disk.mapped(settings.stats), node=settings.node, views=self.views, publisher=self.publisher,
            feeds=self.feeds, maps=self.maps, intake=self.intake, lease_clock=self.lease_clock, zones=self.zones,
            clock=self.clock)
        self.local = self.control.local = Local(settings.state, self.intake, self.registry, node=settings.node)
        self.control.custody = Custody(self.intake, self.fleet, self.registry, self.registry.history)
        self._node_file = settings.state / files.NODE
        self.secondaries = self.control.secondaries = Secondaries(
            settings.zones, Keys(settings.keys), self.publisher, self.registry, self.intake, state=settings.state,
            clock=self.clock)
        answers = Answers(self.control, self.secondaries.keys, self.secondaries.transfers, Allowed(settings.why.allow))
        self.desk = Desk(
            [socket.socket(fileno=number) for number in settings.desks], answers.messages, self.clock.monotonic,
            answers.knows)
        self.control.desk = lambda: {**self.desk.described(), **answers.described()}
        self.control.ecs_from = Prefixes(settings.ecs.resolvers)
        if settings.tap >= 0:
            self.control.capture = opened_tap(settings.capture, settings.node, settings.tap)
        self.health = Health(self.fleet, self.publisher, self.clock)
        self.watching = self.control.watching = Watching(
            settings.probes, self.health, sockets=[*settings.listen, *settings.tls.listen, *settings.admin_listen],
            store_url=settings.store_url, node=settings.node, state=settings.state, clock=self.clock)
        self.votes = Votes(
            self.registry.sightings, node=settings.node, clock=self.clock,
            group=settings.probes.region if settings.probes.enabled else UNSEEING)
        self.builder = Builder(
            self.fleet, self.health, self.votes, self.registry.sightings, node=settings.node, clock=self.clock)
        self.builder.memories = self.views.memories
        self.judge = self.views.health = self.control.judge = Judge(
            self.fleet, self.health, self.votes, self.builder, self.publisher, self.clock)
        self.judge.follows = lambda: self.intake.epoch
        self.votes.elsewhere = lambda: bool(self.intake.held)
        self.trips = self.control.trips = Trips(
            self.registry, self.fleet, self.maps, self.health, self.judge.may_build, node=settings.node,
            site=settings.site or "", state=settings.state, feeds=self.feeds, clock=self.clock)
        self.spills = self.control.spills = Spills(
            self.views, self.publisher, self.maps, settings.clients, clock=self.clock)
        self._advise()

    def _advise(self) -> None:
        """What speaks of health besides probes."""
        node, state, clock = self.settings.node, self.settings.state, self.clock
        self.reports = self.control.reports = Reports(
            self.fleet, node=node, tell=self.registry.sightings.tell, clock=clock, state=state)
        self.rules = self.control.rules = Rules(self.fleet, self.settings.prometheus, clock, state=state)
        self.reports.changed = self.rules.changed = self.judge.advised
        self.votes.reported = self.reports.heard
        self.builder.advisers += (self.reports, self.rules)
        self.control.survey = Survey(self.views, self.judge, self.health, self.publisher, self.reports)

    async def run(self) -> int:
        """Start, keep running, leave; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self.settings.lifeline, self.leave.set)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        self._take_over()
        self.feeds.start()
        self.desk.start()
        if self.control.capture is not None:
            self.control.capture.start()
        api = await self._start_api()
        parts: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.publisher.run, self.intake.run, self.lease_clock.wind, self.lease_clock.watch, self.maps.run,
            self.keeping.run, self.local.run, self._first_token, self._keep, self._read_zones, self.secondaries.run,
            self.watching.run, self.votes.run, self.builder.run, self.judge.run, self.reports.run, self.rules.run,
            self.control.news.run, self.trips.run, self.spills.run]
        tasks = [asyncio.create_task(part(), name=part.__qualname__) for part in parts]
        loop.add_signal_handler(signal.SIGHUP, self._hangup)
        leaving = asyncio.create_task(self.leave.wait())
        try:
            return await self._watch(tasks, leaving)
        finally:
            await _ended([*tasks, leaving])
            if api is not None:
                await api.cleanup()
            self._save()
            self.watching.save()
            if self.control.capture is not None:
                await asyncio.to_thread(self.control.capture.close)
            await self.registry.close()
            self.desk.close()
            self.feeds.close()

    async def _watch(self, tasks: list[asyncio.Task[None]], leaving: asyncio.Task[bool]) -> int:
        """Until it is time to leave, or a part fails."""
        pending: set[asyncio.Task[Any]] = {*tasks, leaving}
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is leaving:
                    return 0
                if task.exception() is not None:
                    _log.critical("%s failed", task.get_name(), exc_info=task.exception())
                    return 1

    # --- starting ---

    def _take_over(self) -> None:
        """What a former process left: its image, which is served until there is a newer one, and its memory."""
        try:
            self.publisher.live.start()
        except (ImageError, OSError) as error:
            _log.error("the image on disk cannot be used: %s", error)
        image = self.publisher.live.image
        if image is not None:
            for number, table in opened(image.map_refs, self.maps.dir).items():
                image.set_map(number, table)
        try:
            self.intake.resume(self.views.restore(self._node_file))
        except (ValueError, OSError) as error:
            _log.error("the memory of last good answers is lost: %s", error)
        self.local.take_over()
        self.secondaries.take_over()
        self.watching.take_over()
        self.reports.take_over()
        self.rules.take_over()
        self.trips.measured.take_over()
        stats = self.control.stats
        for slot in range(min(metrics.workers(stats), len(self.feeds.feeds))):
            head = metrics.head(stats, slot)
            if head[metrics.EPOCH]:
                self.feeds.know(slot, Stamp(head[metrics.EPOCH], head[metrics.VERSION], head[metrics.NODE_SEQ]))

    async def _start_api(self) -> Any:
        """The admin API on its inherited sockets; its runner, or None without any."""
        if not self.settings.admin:
            return None
        sockets = [socket.socket(fileno=number) for number in self.settings.admin]
        api = _room(API).make(self.control, state=self.settings.state)
        return await _room(LISTENING).start(
            api, sockets, certificate=self.settings.certificate, key=self.settings.key)

    async def _first_token(self) -> None:
        """An admin token for every registry that has none, as soon as it can be asked; shown once."""
        room = _room(TOKENS)
        seen: int | None = None
        while True:
            if seen != self.intake.offered:
                try:
                    epoch = self.intake.offered
                    token = await room.ensure_admin(self.registry, self.settings.state)
                    seen = epoch
                    if token is not None:
                        print(f"dnsd control: first admin token, shown only now: {token}", flush=True)
                except (RegistryError, OSError) as error:
                    _log.debug("the first token cannot be made yet: %s", error)
            await self.clock.sleep(TOKEN_S)

    async def _read_zones(self) -> None:
        """The zones for the first image. While they are faulty the image of the former process is served on."""
        while self.publisher.zones is None:
            loaded, faults = await asyncio.to_thread(self.zones.read)
            if not faults:
                self.publisher.zones = self.zones.take(loaded)
                self.control.zone_faults = []
                self.publisher.mark()
                return
            if faults != self.control.zone_faults:
                for fault in faults:
                    _log.error("zone: %s: %s", fault.place, fault.message)
            self.control.zone_faults = faults
            await self.clock.sleep(ZONES_RETRY_S)

    # --- running ---

    def _drain(self) -> None:
        self.control.draining = True

    def _hangup(self) -> None:
        if self.control.capture is not None:
            self.control.capture.reopen()
        task = asyncio.get_running_loop().create_task(self.control.reload())
        task.add_done_callback(_reloaded)

    async def _keep(self) -> None:
        """Write down what must survive a restart when it changed, and now and then to say that we were there."""
        saved, pause = self.clock.monotonic(), SAVE_S
        while True:
            await self.clock.sleep(pause)
            now = self.clock.monotonic()
            if self.intake.stood and (self.views.unsaved or now - saved > SEEN_S):
                await writes.done(partial(self._write, self.views.dump(self.clock.unix_ms(), self.intake.stood)))
                saved = self.clock.monotonic()
                pause = max(SAVE_S, SAVE_SHARE * (saved - now))

    def _save(self) -> None:
        if self.intake.stood:  # else nothing was followed, and what is on disk is as good
            self._write(self.views.dump(self.clock.unix_ms(), self.intake.stood))

    def _write(self, data: bytes) -> None:
        try:
            disk.replace(self._node_file, data)
        except OSError as error:
            self.views.unsaved = True
            _log.error("the memory of last good answers cannot be written: %s", error)


async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended, within bounds: redis-py sometimes swallows a cancellation."""
    pending = set(tasks)
    for _ in range(CANCELS):
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_S)
        if not pending:
            return
    _log.error("did not end: %s", ", ".join(task.get_name() for task in pending))


def _room(name: str) -> ModuleType:
    return importlib.import_module(name)


def _reloaded(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("reload failed", exc_info=task.exception())
    elif not task.cancelled() and not task.result():
        _log.info("zones are reloaded")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
