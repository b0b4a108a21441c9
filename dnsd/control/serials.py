"""The serials of zones that are transferred: the registry's, one for each content, on every node.

Lives here: which content is served and which is about to be, its serial, the file `serials.json`. Does not live here:
what the content is (`control.transfer`), how serials grow (`registry`), when an image is made (`control.publish`).

A zone gets its serial while the whole image is made: nothing of it is ever served under the serial of another content.
While the store is away a serial is provisional: the one this node remembers for the content, else the file's, never one
that goes back. As soon as the store is there it is asked, and now and then again, for other nodes may have moved on.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from dnsd import disk
from dnsd.compile import zones as compile_zones
from dnsd.control import transfer
from dnsd.control.clock import Clock
from dnsd.control.state import Fleet
from dnsd.control.transfer import Content, Declared
from dnsd.control.views import Views
from dnsd.dns import names
from dnsd.model import ServiceView, ZoneView
from dnsd.registry.errors import RegistryError
from dnsd.registry.models import Service
from dnsd.registry.values import ZoneContent

FORMAT: Final = 1
KEPT: Final = 16
MAX_FILE: Final = 16 * 1024 * 1024
AGAIN_S: Final = 10.0
PROVISIONAL_S: Final = 1.0
LISTED: Final = 100
_log = logging.getLogger("dnsd.control")


class Store(Protocol):
    """What is asked of the registry."""

    def serials(self, contents: Sequence[ZoneContent]) -> Awaitable[list[int]]:
        """See `Registry.serials`."""


class Serials:
    """The transferred zones of a node. `contents`: what is served of each; `zones`: the apexes of all that are served.

    `connected` says whether the store is worth asking.
    """

    def __init__(self, apexes: Iterable[bytes], views: Views, store: Store, path: Path, *,
                 connected: Callable[[], bool], clock: Clock) -> None:
        self.apexes = frozenset(apexes)
        self.contents: dict[bytes, Content] = {}
        self.zones: frozenset[bytes] = frozenset()
        self.provisional: set[bytes] = set()
        self.taken = asyncio.Event()  # set whenever other contents are served
        self._views, self._store, self._path = views, store, path
        self._fleet: Fleet = views.fleet
        self._connected, self._clock = connected, clock
        self._known: dict[bytes, dict[str, int]] = {}  # by apex: digest -> serial, the one served last at the end
        self._next: tuple[dict[bytes, Content], frozenset[bytes]] = ({}, frozenset())
        self._static: dict[bytes, tuple[ZoneView, str]] = {}
        self._seen: dict[str, tuple[object, ...]] = {}

    # --- what the publisher does ---

    async def dress(self, zones: Sequence[ZoneView]) -> tuple[ZoneView, ...]:
        """The zones with the serials to serve them with. `take` says that they are served."""
        served = frozenset(zone.apex for zone in zones)
        if not self.apexes & served:
            self._next = ({}, served)
            return tuple(zones)
        known = self._fleet.services
        services = [(resolved.view, known[name]) for name, resolved in self._views.resolved.items() if name in known]
        found = await asyncio.to_thread(self._contents, zones, services)
        dressed = await self._numbered(found)
        self._next = (dressed, served)
        return tuple(dressed[zone.apex].zone if zone.apex in dressed else zone for zone in zones)

    def touched(self, changed: Mapping[str, ServiceView | None]) -> bool:
        """Whether what stands for these services in transfers is not what it was when the image was made."""
        for name, view in changed.items():
            # One that was not seen is in no such zone, or is new, which takes a whole image anyway; as does one gone.
            if view is not None and name in self._seen and self._seen[name] != _part(view, self._fleet.services[name]):
                return True
        return False

    async def take(self) -> None:
        """What was dressed last is served."""
        before = {apex: (content.serial, content.digest) for apex, content in self.contents.items()}
        self.contents, self.zones = self._next
        if before != {apex: (content.serial, content.digest) for apex, content in self.contents.items()}:
            for apex, content in self.contents.items():
                self._remember(apex, content.digest, content.serial)
            await asyncio.to_thread(self._save)
        self.taken.set()

    # --- numbers ---

    def _contents(self, zones: Sequence[ZoneView], services: Iterable[tuple[ServiceView, Service]]) -> list[Content]:
        """What is transferred of each such zone. Runs in a thread."""
        apexes = {zone.apex: number for number, zone in enumerate(zones)}
        held: dict[bytes, list[tuple[ServiceView, Service]]] = {apex: [] for apex in self.apexes & apexes.keys()}
        for view, service in services:
            number = compile_zones.zone_of(view.owner, apexes)
            if number is not None and zones[number].apex in held:
                held[zones[number].apex].append((view, service))
        every = [view for each in held.values() for view, _ in each]
        wrong = {fault.place for fault in compile_zones.check(zones, every)}  # they are left out of the image too
        self._seen = {service.name: _part(view, service) for each in held.values() for view, service in each}
        found = []
        for zone in zones:
            if zone.apex in held:
                declared = [Declared(view, service.ttl) for view, service in held[zone.apex]
                            if names.to_text(view.owner) not in wrong]
                found.append(transfer.content(zone, self._static_digest(zone), declared))
        return found

    def _static_digest(self, zone: ZoneView) -> str:
        known = self._static.get(zone.apex)
        if known is None or known[0] is not zone:
            known = self._static[zone.apex] = zone, transfer.digest(zone)
        return known[1]

    async def _numbered(self, found: Sequence[Content]) -> dict[bytes, Content]:
        """Each content under its serial: what is served already, else the registry's, else provisional."""
        serials: dict[bytes, int] = {}
        unsure = []
        for content in found:
            apex = content.zone.apex
            served = self.contents.get(apex)
            if served is not None and served.digest == content.digest and apex not in self.provisional:
                serials[apex] = self._known[apex][content.digest]
            else:
                unsure.append(content)
        asked = await self._ask(unsure)
        for content in unsure:
            apex = content.zone.apex
            if asked is None:
                self.provisional.add(apex)
                serials[apex] = self._provisional(content)
            else:
                self.provisional.discard(apex)
                serials[apex] = asked[apex]
        return {content.zone.apex: content._replace(
            zone=transfer.with_serial(content.zone, serials[content.zone.apex])) for content in found}

    async def _ask(self, contents: Sequence[Content]) -> dict[bytes, int] | None:
        """The registry's serials; None where it is away."""
        if not contents:
            return {}
        if not self._connected():
            return None
        asked = []
        for content in contents:
            apex = content.zone.apex
            digest, served = self._served(apex)
            # Under a provisional serial there may have been two contents; secondaries have either, and need a new one.
            alone = list(self._known.get(apex, {}).values()).count(served or 0) < 2
            asked.append(ZoneContent(
                names.to_text(apex), content.digest, content.serial, served, digest == content.digest and alone))
        try:
            serials = await self._store.serials(asked)
        except RegistryError as error:
            _log.warning("serials of transferred zones are provisional: %s", error)
            return None
        return {content.zone.apex: number for content, number in zip(contents, serials, strict=True)}

    def _served(self, apex: bytes) -> tuple[str, int | None]:
        """Digest and serial of what this node served last of a zone."""
        known = self._known.get(apex)
        return next(reversed(known.items())) if known else ("", None)

    def _provisional(self, content: Content) -> int:
        apex, number = content.zone.apex, content.serial
        _, served = self._served(apex)
        number = self._known.get(apex, {}).get(content.digest, number)
        return number if served is None or not ahead(served, number) else served

    def _remember(self, apex: bytes, digest: str, number: int) -> None:
        known = self._known.setdefault(apex, {})
        known.pop(digest, None)
        known[digest] = number
        while len(known) > KEPT:
            del known[next(iter(known))]

    # --- time ---

    async def run(self, mark: Callable[[], None]) -> None:
        """Ask again, for ever; `mark` is called when something must be served under another serial."""
        while True:
            await self._clock.sleep(PROVISIONAL_S if self.provisional else AGAIN_S)
            if await self.again():
                mark()

    async def again(self) -> bool:
        """Ask for all that is served; whether any has another serial than it is served with."""
        contents = dict(self.contents)
        asked = await self._ask(list(contents.values()))
        if not asked:
            return False
        moved = False
        for apex, number in asked.items():
            content = contents[apex]
            if self.contents.get(apex) is not content:
                continue
            self.provisional.discard(apex)
            if number != content.serial:
                self._remember(apex, content.digest, number)
                moved = True
        return moved

    # --- memory ---

    def restore(self) -> None:
        """Take over what a former process wrote; ValueError or OSError where it cannot be read."""
        data = disk.read(self._path, MAX_FILE)
        if data is None:
            return
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            known = {names.to_wire(name): {str(digest): int(number) % 2**32 for digest, number in pairs}
                     for name, pairs in found["zones"].items()}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self._path} cannot be read: {error!r}") from error
        self._known = known

    def _save(self) -> None:
        zones = {names.to_text(apex): list(known.items()) for apex, known in self._known.items()}
        try:
            disk.replace(self._path, json.dumps({"format": FORMAT, "zones": zones}).encode())
        except OSError as error:
            _log.error("serials cannot be written down: %s", error)

    # --- for people ---

    def described(self, name: str) -> dict[str, Any]:
        """What `status` says of a zone; nothing of one that is not transferred."""
        content = self.contents.get(names.to_wire(name))
        if content is None:
            return {}
        records = sum(len(rrset.rdatas) for rrset in (*content.zone.rrsets, *content.services))
        return {"transfer": {
            "serial": content.serial, "provisional": content.zone.apex in self.provisional, "records": records,
            "refused": list(content.faults[:LISTED])}}

    def faults(self) -> list[str]:
        """Zones that cannot be transferred, and the first reason why."""
        return [f"zone {names.to_text(apex)} is not transferred: {content.faults[0]}"
                for apex, content in self.contents.items() if content.faults]


def _part(view: ServiceView, service: Service) -> tuple[object, ...]:
    """All of a service that is in a transfer."""
    return view.fallback_a, view.fallback_aaaa, view.https, view.types, service.ttl


def ahead(one: int, other: int) -> bool:
    """Whether a serial comes after another (RFC 1982)."""
    return 0 < (one - other) % 2**32 < 2**31
