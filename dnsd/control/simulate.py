"""Simulating a change: what clients would get, before anything of it is published.

Lives here: the two states as images, the task for the child, one at a time, its bounds. Does not live here: what would
be different (`whatif`), asking (`simulating`, a niced child), adding up (`outcome`).

It is the same code that answers: the services are resolved with the health there is now, compiled to an image, and the
child asks that image through the one door with a map derived as maps are. Nothing is written but the child's own
folder, which goes with it; no state of this process changes.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd.compile import image as compile_image
from dnsd.compile import service as compile_service
from dnsd.compile.zones import CompileError
from dnsd.control import mapplan, spill, whatif
from dnsd.control.maps import Maps
from dnsd.control.outcome import FALLBACK
from dnsd.control.publish import Publisher
from dnsd.control.resolve import Resolved
from dnsd.control.state import Fleet
from dnsd.control.views import Views
from dnsd.control.whatif import Imagined, ImpossibleError, Question
from dnsd.dns import types
from dnsd.model import Fault, MapView, Stamp, ZoneView
from dnsd.registry.models import Site
from dnsd.registry.values import Change

SECONDS: Final = 60.0
ASKED: Final = 200_000
"""Questions of one simulation: clients × services × before and after."""

MAPS: Final = 16
CHILD: Final = "dnsd.control.simulating"
_STAMP: Final = Stamp(1, 1, 0)


class BusyError(Exception):
    """Another simulation is being made."""


class FailedError(Exception):
    """The simulation could not be made; the text says why."""


class State(NamedTuple):
    """One side, before or after: the fleet, its services resolved, and of each which map it uses."""

    fleet: Fleet
    resolved: Mapping[str, Resolved]
    map_of: Mapping[str, int]


class Simulator:
    """Makes simulations, one at a time."""

    def __init__(self, views: Views, publisher: Publisher, maps: Maps) -> None:
        self.views, self.publisher, self.maps = views, publisher, maps
        self.clients: Path | None = None  # whom services that spill over count on
        self._busy = asyncio.Lock()

    async def simulate(self, changes: Iterable[Change], question: Question) -> dict[str, Any]:
        """What would come of it. ImpossibleError names what the question takes for granted and is not so; BusyError;
        FailedError."""
        if self._busy.locked():
            raise BusyError
        async with self._busy:
            imagined = whatif.imagine(self.views.fleet, changes, question, self.publisher.clock.unix_ms())
            asked = 2 * len(imagined.services) * max(len(question.clients), whatif.CLIENTS // 2)
            if asked > ASKED:
                raise ImpossibleError([Fault("/services", f"{asked} questions to ask, {ASKED} are the most; "
                                                          "name fewer services or fewer clients")])
            task = self.task(imagined, question)
            found = await _child(task)
        return {
            "changes": list(imagined.words), "version": self.views.fleet.version,
            "atlas": f"{self.maps.atlas.digest:016x}" if self.maps.atlas is not None else None, **found}

    def task(self, imagined: Imagined, question: Question) -> dict[str, Any]:
        """What the child is told."""
        layers = _Maps(self.maps, imagined.shifts)
        before, after = self._before(imagined, layers), self._after(imagined, layers)
        if len(layers.found) > MAPS:
            raise ImpossibleError([Fault("/services", f"{len(layers.found)} maps to derive, {MAPS} are the most")])
        measured = self.maps.rtt
        return {
            "atlas": str(self.maps.atlas_dir) if self.maps.atlas is not None else None,
            "rtt": str(measured[0]) if measured is not None else None,
            "table": measured[1].number if measured is not None else None,
            "maps": list(layers.found.values()), "shifts": imagined.shifts, "services": list(imagined.services),
            "before": self._side(before, layers), "after": self._side(after, layers),
            "clients": [[str(one.prefix), one.weight, one.service, one.ecs] for one in question.clients],
            "sites": [{
                "id": id_, "capacity_before": _capacity(before.fleet, id_),
                "capacity_after": _capacity(after.fleet, id_)}
                for id_ in sorted(before.fleet.sites.keys() | after.fleet.sites.keys())],
            "load": question.load, "reported": reported(before.fleet, imagined.services),
            "counted_on": str(self.clients) if self.clients is not None else None,
            "spill": {name: self._spill(after, name, question, layers) for name, one in after.resolved.items()
                      if one.view.policy.spill}}

    def _spill(self, after: State, name: str, question: Question, layers: _Maps) -> dict[str, Any]:
        """What the shares of a service's sites are solved from, once its map is there."""
        resolved, number = after.resolved[name], after.map_of[name]
        wanted = spill.wanted(after.fleet, name, resolved, "", math.inf if self.clients is not None else 0.0, "")
        whole = replace(spill.whole(resolved.view), map_id=number)
        found = {} if wanted is None else {
            "rooms": [[site, *room] for site, room in wanted.rooms], "low": wanted.low, "high": wanted.high,
            "demand": wanted.demand if math.isfinite(wanted.demand) else None}
        if question.load is not None and len(after.resolved) == 1:
            found["demand"] = question.load
        return {"record": base64.b64encode(compile_service.record(whole, layers.views())).decode(), **found}

    def _before(self, imagined: Imagined, layers: _Maps) -> State:
        """What is answered now."""
        fleet, numbers = self.views.fleet, {}
        known = [name for name in imagined.services if name in self.views.resolved]
        for name in known:
            numbers[name] = layers.present(self.maps.of(name), fleet)
        return State(fleet, {name: self.views.resolved[name] for name in known}, numbers)

    def _after(self, imagined: Imagined, layers: _Maps) -> State:
        """What would be answered."""
        fleet, now_ms = imagined.fleet, self.publisher.clock.unix_ms()
        resolved, numbers = {}, {}
        for name in imagined.services:
            if name not in fleet.services:
                continue
            resolved[name] = self.views.imagined(fleet, name, now_ms)
            sites = frozenset(endpoint.site for endpoint in fleet.members.get(name, {}).values())
            numbers[name] = layers.wanted(self.maps.of(name) if name in self.views.fleet.services else 0, sites, fleet)
        return State(fleet, resolved, numbers)

    def _side(self, state: State, layers: _Maps) -> dict[str, Any]:
        """A side as the child needs it."""
        views = [replace(one.view, map_id=state.map_of[name]) for name, one in state.resolved.items()]
        zones = [_bare(zone) for zone in self.publisher.zones or ()]
        try:
            data = compile_image.build(zones, views, list(layers.views().values()), _STAMP, 0).data
        except CompileError as error:
            raise ImpossibleError(error.faults) from None
        return {
            "image": base64.b64encode(data).decode(),
            "services": {name: {
                "types": sorted(one.view.types & {types.A, types.AAAA}), "map": state.map_of[name],
                "sites": _addresses(one), "alive": sorted({e.site for e in one.view.live})}
                for name, one in state.resolved.items()}}


class _Maps:
    """The maps a simulation needs, each once: what it is made of, and its file where there is one already."""

    def __init__(self, maps: Maps, shifts: Mapping[str, float]) -> None:
        self.maps, self.shifts = maps, shifts
        self.found: dict[str, dict[str, Any]] = {}

    def views(self) -> dict[int, MapView]:
        """The maps as records see them."""
        return {number: MapView(number, "", tuple(site["id"] for site in layer["sites"]),
                                {site["id"]: column for column, site in enumerate(layer["sites"])})
                for number, layer in enumerate(self.found.values())}

    def present(self, number: int, fleet: Fleet) -> int:
        """A map that is in use."""
        view = self.maps.views.get(number)
        if view is None:
            return self._one((), fleet, None, {})
        sites = tuple(site for site in view.sites if site in fleet.sites)
        file = str(self.maps.dir / view.file) if len(sites) == len(view.sites) else None
        return self._one(sites, fleet, file, {})

    def wanted(self, number: int, needed: frozenset[str], fleet: Fleet) -> int:
        """The map a service would use: its present one if that has all its sites, and nothing of them is different."""
        view, now = self.maps.views.get(number), self.maps.fleet.sites
        if view is not None and needed <= set(view.sites) and not self.shifts.keys() & set(view.sites) and all(
                id_ in fleet.sites and id_ in now and mapplan.spec(fleet.sites[id_]) == mapplan.spec(now[id_])
                for id_ in view.sites):
            return self.present(number, fleet)
        return self._one(tuple(sorted(needed)), fleet, None, self.shifts)

    def _one(self, sites: Sequence[str], fleet: Fleet, file: str | None, shifts: Mapping[str, float]) -> int:
        specs = [mapplan.spec(fleet.sites[id_]) | ({"shift_ms": shifts[id_]} if id_ in shifts else {}) for id_ in sites]
        key = json.dumps(specs, sort_keys=True)
        self.found.setdefault(key, {"sites": specs, "file": file})
        return list(self.found).index(key)


async def _child(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run the child; FailedError with what it says went wrong."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(SECONDS):
            out, complaint = await child.communicate(json.dumps(task).encode())
    except TimeoutError:
        raise FailedError(f"not made within {SECONDS:.0f} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    with suppress(ValueError):
        found: dict[str, Any] = json.loads(out)
        if "error" in found:
            raise FailedError(str(found["error"]))
        if not child.returncode:
            return found
    raise FailedError(complaint.decode(errors="replace").strip()[-300:] or f"the child ended with {child.returncode}")


def reported(fleet: Fleet, services: Iterable[str]) -> float | None:
    """Units of load that sites with a capacity carry now, by what their endpoints' holders report; None: nobody does.

    A level stands for the middle of the eighth it tells of.
    """
    levels: dict[str, list[int]] = {}
    for name in services:
        for endpoint in fleet.members.get(name, {}).values():
            levels.setdefault(endpoint.site, []).append(endpoint.load)
    if not any(any(found) for found in levels.values()):
        return None
    return sum((_capacity(fleet, site) or 0) * sum(level + 0.5 for level in found) / len(found) / 8
               for site, found in levels.items())


def _capacity(fleet: Fleet, id_: str) -> int | None:
    site: Site | None = fleet.sites.get(id_)
    return site.capacity if site is not None else None


def _addresses(one: Resolved) -> dict[str, str]:
    """Whose each address is that the service can answer with."""
    found = dict.fromkeys((*one.view.fallback_a, *one.view.fallback_aaaa), FALLBACK)
    found |= {good.address: good.site for kept in one.memory.values() for good in kept.goods}
    found |= {address: e.site for e in one.view.live for address in (e.a, e.aaaa) if address is not None}
    return {str(ipaddress.ip_address(address)): site for address, site in found.items()}


def _bare(zone: ZoneView) -> ZoneView:
    """A zone with nothing in it but what makes it one."""
    return ZoneView(zone.apex, tuple(rrset for rrset in zone.rrsets
                                     if rrset.owner == zone.apex and rrset.type in (types.SOA, types.NS)))


