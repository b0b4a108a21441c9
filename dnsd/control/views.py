"""The fleet as it may be answered now: every service's view, kept up to date, and what must survive a restart.

Lives here: resolving what changed, noticing what time changes, the file `node.json`. Does not live here: the rules
(`control.resolve`), what becomes of a view (`control.publish`).

The file holds the memory of last good answers, and the last sound sites, services and overrides: where the store has
spoilt one of them, a process that has just started still knows what it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from dnsd import disk
from dnsd.control import resolve
from dnsd.control.resolve import UNMEASURED, Good, Health, Memory, Remembered, Removals, Resolved
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.model import ServiceView
from dnsd.registry.models import Override, Service, Site

FORMAT: Final = 1
MAX_NODE_FILE: Final = 256 * 1024 * 1024


class Measuring(Protocol):
    """What of `control.health` is needed."""

    def renew(self, name: str) -> None:
        """A service is resolved anew: probe what it has now."""

    def measured(self, service: str, id_: str, type_: int) -> Measured:
        """What is known of an endpoint's address."""

    def last(self, service: str, id_: str, type_: int) -> Measured | None:
        """What `measured` last said; asking changes nothing."""

    def removals(self, service: str) -> Removals:
        """What health had removed of a service."""

    def keep(self, service: str, removals: Removals) -> None:
        """What it has removed now."""

    def decided(self, service: str) -> int:
        """As of when the limits hold (unix ms), where that was decided for all nodes; 0: now."""

    def speaks(self, service: str) -> bool:
        """Whether something besides probes speaks of a service's health."""


class Views:
    """Resolved services by name. `map_of` says which map a service's record refers to."""

    def __init__(self, fleet: Fleet, map_of: Callable[[str], int]) -> None:
        self.fleet = fleet
        self.map_of = map_of
        self.health: Measuring | None = None
        self.tell: Callable[[str, Resolved | None, Resolved | None], None] = lambda *_: None  # of what changed
        self.spread: Callable[[str, Resolved], Resolved] = lambda _, resolved: resolved  # with the shares of sites
        self._due: dict[str, int] = {}  # services that time alone will change: when (unix ms)
        self.resolved: dict[str, Resolved] = {}
        self.memories: dict[str, Memory] = {}
        self.unsaved = False
        self._asof_ms: tuple[int, int] | None = None  # first and last moment by which anything is what it is
        self._texts: dict[str, str] = {}  # each service's part of the file: a change writes only its own anew
        self._stored: dict[str, Service] = {}

    def refresh(self, names: Iterable[str], now_ms: int) -> dict[str, ServiceView | None]:
        """Resolve these services anew; their views, None for one that is gone."""
        first, last = self._asof_ms or (now_ms, now_ms)
        self._asof_ms = min(first, now_ms), max(last, now_ms)
        found: dict[str, ServiceView | None] = {}
        for name in names:
            if name not in self.fleet.services:
                before = self.resolved.pop(name, None)
                if before is not None:
                    found[name] = None
                    self.tell(name, before, None)
                self._stored.pop(name, None)
                self._due.pop(name, None)
                self._remember(name, {})
                if self.health is not None:
                    self.health.renew(name)
                continue
            if self.health is not None:
                self.health.renew(name)
            memory = self.memories.get(name, {})
            before = self.resolved.get(name)
            now = self.resolved[name] = self.spread(name, resolve.resolve(
                self.fleet, name, memory, now_ms, self.map_of(name), self._health(name)))
            self.tell(name, before, now)
            if now.due_ms and not (self.health is not None and self.health.decided(name)):
                self._due[name] = now.due_ms
            else:
                self._due.pop(name, None)
            if self.health is not None:
                self.health.keep(name, now.removals)
            if now.memory != memory or self._stored.get(name) is not self.fleet.services[name]:
                self._stored[name] = self.fleet.services[name]
                self._remember(name, now.memory)
            found[name] = now.view
        return found

    def imagined(self, fleet: Fleet, name: str, now_ms: int) -> Resolved:
        """A service resolved in a fleet that is not there; nothing is kept of it. What is measured of its endpoints
        holds, those that are not there yet are up."""
        health, measuring = self._health(name), self.health
        if measuring is not None:
            health = health._replace(measured=lambda id_, type_: measuring.last(name, id_, type_) or Measured())
        return resolve.resolve(fleet, name, self.memories.get(name, {}), now_ms, 0, health)

    def changed_by_time(self, now_ms: int) -> set[str]:
        """Services that time alone has changed since this was last asked."""
        first, last = self._asof_ms or (now_ms, now_ms)  # by a clock that may have gone to and fro since
        self._asof_ms = now_ms, now_ms
        back = now_ms < last  # the clock was set back: what it was due for has no meaning any more
        due = {name for name, at_ms in self._due.items() if at_ms <= now_ms or back}
        return resolve.changed_by_time(
            self.fleet, self.memories, min(first, now_ms), max(last, now_ms)) | due

    def _health(self, name: str) -> Health:
        """What is measured of a service, and what health had removed of it."""
        measuring = self.health
        if measuring is None:
            return UNMEASURED
        return Health(lambda id_, type_: measuring.measured(name, id_, type_), measuring.removals(name),
                      measuring.decided(name), measuring.speaks(name))

    def dump(self, now_ms: int, cursor: str) -> bytes:
        """The content of `node.json`; `cursor` is where in the registry's history it was true."""
        self.unsaved = False
        fleet = self.fleet
        small = {"site": fleet.sites.values(), "override": fleet.overrides.values()}
        head = json.dumps({
            "format": FORMAT, "seen_ms": now_ms, "cursor": cursor,
            **{kind: [value.model_dump(mode="json", exclude_defaults=True) for value in values]
               for kind, values in small.items()},
        }).removesuffix("}")
        services = ",\n".join(self._texts.values())
        return f'{head}, "service": [\n{services}\n]}}\n'.encode()

    def restore(self, path: Path) -> str:
        """Take over what a former process wrote; its cursor, or "" where there is no file. ValueError: unreadable.

        What was live when that process last wrote has ceased then, as far as anyone knows.
        """
        data = disk.read(path, MAX_NODE_FILE)
        if data is None:
            return ""
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            seen_ms = int(found["seen_ms"])
            cursor = str(found["cursor"])
            sites = [Site.model_validate(value) for value in found["site"]]
            overrides = [Override.model_validate(value) for value in found["override"]]
            services = [Service.model_validate(value) for value, _ in found["service"]]
            memories = {
                service.name: {int(type_): _remembered(service.name, kept, seen_ms) for type_, kept in memory.items()}
                for service, (_, memory) in zip(services, found["service"], strict=True)}
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} cannot be read: {error!r}") from error
        self.fleet.sites = {site.id: site for site in sites}
        self.fleet.overrides = {override.key: override for override in overrides}
        self.fleet.services = {service.name: service for service in services}
        for name, memory in memories.items():
            self._remember(name, memory)
        return cursor

    def _remember(self, name: str, memory: Memory) -> None:
        """Keep a service's memory, and its part of the file."""
        if memory:
            self.memories[name] = memory
        else:
            self.memories.pop(name, None)
        service = self.fleet.services.get(name)
        text = None if service is None else _text(service, memory)
        if text != self._texts.get(name):
            self.unsaved = True
            if text is None:
                del self._texts[name]
            else:
                self._texts[name] = text


def _text(service: Service, memory: Memory) -> str:
    """One service's line of the file: itself, and type -> when it left, (endpoint id, site, lease, address) of each."""
    kept = {type_: [one.left_ms, [
        [good.key.rpartition("/")[2], good.site, good.lease, good.address.hex()] for good in one.goods]]
        for type_, one in memory.items()}
    return json.dumps([service.model_dump(mode="json", exclude_defaults=True), kept], separators=(",", ":"))


def _remembered(service: str, kept: Any, seen_ms: int) -> Remembered:
    left_ms, goods = kept
    return Remembered(
        tuple(Good(f"{service}/{id_}", str(site), None if lease is None else str(lease), bytes.fromhex(address))
              for id_, site, lease, address in goods),
        int(left_ms) or seen_ms)
