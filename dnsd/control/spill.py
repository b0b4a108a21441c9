"""Spill-over on this node: the shares of sites of each service that spills over, solved and kept up to date.

Lives here: who the clients are, what sites carry and what all clients ask for, when to solve, what is shown. Does not
live here: the rule (`steer.spill`), the solution (`steer.spread`), what is dead (`control.resolve`).

Shares have no memory: they are a pure function of what all nodes have (the service, its endpoints and their health as
decided, their loads as reported, capacities, the map), so nothing of them is written and nodes agree. The order of
sites of each client is asked of the very record that answers. A removal is published at once, with the shares that
there are; solving takes a moment, in a thread, and what comes of it follows as another record.
"""

from __future__ import annotations

import asyncio
import csv
import ipaddress
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd.atlas import population, store
from dnsd.compile import service as compile_service
from dnsd.control.clock import Allowance, Clock
from dnsd.control.maps import Maps
from dnsd.control.publish import Publisher
from dnsd.control.resolve import Resolved
from dnsd.control.state import Fleet
from dnsd.control.views import Views
from dnsd.image import layout
from dnsd.image.record import V6_BLOCK, Plan
from dnsd.image.table import MapTable
from dnsd.model import ServiceView
from dnsd.registry.models import Site, Spill
from dnsd.rtt.table import Table
from dnsd.steer import spread
from dnsd.steer.spill import WHOLE
from dnsd.steer.spread import Client, Room, Solved

LOOK_S: Final = 0.1
MOST: Final = 8192
"""Clients that are asked; of more, so many that stand for all."""

ASSUMED: Final = 0.7
"""Of all capacity, what clients are taken to ask for where nobody says."""

SPARE: Final = {"rate": 0.1, "most": 10.0}
"""Seconds of solving, a second and at once, where only clients or maps are others, as with each table of trips."""

WHILE_UNSOLVED: Final = (WHOLE, WHOLE // 2)
V6_MEASURED: Final = 1 << 62
MAX_FILE: Final = 64 * 1024 * 1024
TOLD: Final = 20
_log = logging.getLogger("dnsd.control")


class Block(NamedTuple):
    """Clients of one prefix: its first address and length, and what it weighs."""

    v6: bool
    address: int
    weight: float


class Ranked(NamedTuple):
    """Of each client, in the order of the blocks: weight, seed, and its sites' hashes, native first."""

    clients: tuple[tuple[float, int, tuple[int, ...]], ...]


class Wanted(NamedTuple):
    """All that a solution depends on: equal ones have equal solutions."""

    view: ServiceView
    file: str
    rooms: tuple[tuple[str, Room], ...]
    demand: float
    low: float
    high: float
    source: str


class Found(NamedTuple):
    """What was solved for what, and how long that took."""

    wanted: Wanted
    solved: Solved
    seconds: float

    @property
    def shares(self) -> dict[str, tuple[int, int]]:
        """By site: keep and take."""
        return {site: (keep, take) for (site, _), keep, take in zip(
            self.wanted.rooms, self.solved.keep, self.solved.take, strict=True)}


class Spills:
    """The shares of all services that spill over."""

    def __init__(self, views: Views, publisher: Publisher, maps: Maps, clients: Path | None, *, clock: Clock) -> None:
        self.views, self.publisher, self.maps, self.clients, self.clock = views, publisher, maps, clients, clock
        self.fault, self.solved = "", 0
        self._spare = Allowance(clock, **SPARE)
        self._when: dict[str, int] = {}  # the last time, as a number of `solved`
        self._raw: dict[str, Resolved] = {}  # as resolved, without shares
        self._found: dict[str, Found] = {}
        self._looked: dict[str, tuple[Resolved, str, str, list[Site | None]]] = {}  # as of the last turn
        self._ranked: dict[str, tuple[tuple[bytes, str, str], Ranked]] = {}
        self._blocks: tuple[str, list[Block]] = ("", [])
        views.spread = self.dress

    def dress(self, name: str, resolved: Resolved) -> Resolved:
        """A service as resolved, with the shares that its sites have now."""
        if not resolved.view.policy.spill:
            for kept in (self._raw, self._found, self._ranked, self._looked):
                kept.pop(name, None)
            return resolved
        self._raw[name] = resolved
        found = self._found.get(name)
        return resolved._replace(view=dressed(resolved.view, found.shares if found is not None else {}))

    async def run(self) -> None:
        """Solve whatever has changed, for ever."""
        while True:
            await self.clock.sleep(LOOK_S)
            await self.turn()

    async def turn(self) -> None:
        """Solve for the services of which something has changed; those whose shares are others are published."""
        for name in sorted(self._raw, key=lambda name: self._when.get(name, 0)):
            if name not in self.views.fleet.services:
                for kept in (self._raw, self._found, self._ranked, self._looked):
                    kept.pop(name, None)
                continue
            try:
                await self._one(name)
            except Exception as error:  # the shares there are go on holding
                if self.fault != repr(error):
                    _log.exception("%s: no shares were solved", name, exc_info=error)
                self.fault = repr(error)

    async def _one(self, name: str) -> None:
        view = self._raw[name].view
        map_view, table = self.publisher.maps.get(view.map_id), self.publisher.tables.get(view.map_id)
        if map_view is None or table is None or not (view.live or view.ghosts):
            return
        source, sites = self._source(), self.views.fleet.sites
        looked = self._raw[name], map_view.file, source, [sites.get(one) for one in map_view.sites]
        last = self._looked.get(name)
        same = last is not None and last[0] == looked[0] and last[3] == looked[3]
        if same and (last == looked or not self._spare.left()):
            return
        if self._blocks[0] != source:
            self._blocks = source, await asyncio.to_thread(self._read)
        blocks = self._blocks[1]
        given = sum(block.weight for block in blocks) if self.clients is not None else 0.0
        now = wanted(self.views.fleet, name, self._raw[name], map_view.file, given, source)
        before = self._found.get(name)
        self._looked[name] = looked
        if not blocks or now is None or (before is not None and before.wanted == now):
            return
        began = time.monotonic()
        key = compile_service.record(whole(now.view), {map_view.id: map_view}), map_view.file, source
        known = self._ranked.get(name)
        if known is None or known[0] != key:
            known = self._ranked[name] = key, await asyncio.to_thread(rank, key[0], table, blocks)
        solved = await asyncio.to_thread(solve, known[1], now)
        if name not in self._raw:
            return  # it has ceased to spill over meanwhile
        self._found[name] = found = Found(now, solved, time.monotonic() - began)
        self._spare.spend(found.seconds if same else 0.0)
        self.solved, self.fault = self.solved + 1, ""
        self._when[name] = self.solved
        if before is None or found.shares != before.shares:
            self.publisher.mark([name])

    # --- clients ---

    def _source(self) -> str:
        """Whose clients they are: a file, measured round trips, or the atlas."""
        if self.clients is not None:
            try:
                status = self.clients.stat()
                return f"file {status.st_mtime_ns} {status.st_size}"
            except OSError as error:
                return f"file {error.strerror}"
        if self.maps.rtt is not None and len(self.maps.rtt[1].blocks) >= population.LEAST:
            return f"measured {self.maps.rtt[1].digest}"
        return f"atlas {self.maps.atlas.digest:016x}" if self.maps.atlas is not None else ""

    def _read(self) -> list[Block]:
        """The clients, at most `MOST`."""
        atlas, measured = self.maps.atlas, self.maps.rtt
        if self.clients is not None:
            try:
                return fewer(read(self.clients))
            except (OSError, ValueError, csv.Error) as error:
                self.fault = f"clients: {error}"
                _log.error("the list of clients cannot be used: %s", error)
                return []
        if measured is not None and len(measured[1].blocks) >= population.LEAST:
            return fewer(seen(measured[1]))
        return fewer(_sample(atlas)) if atlas is not None else []

    # --- for people ---

    def described(self) -> dict[str, Any]:
        """Each service's sites: what they carry, whose clients come, and their shares."""
        return {
            "clients": len(self._blocks[1]), "solved": self.solved, "fault": self.fault or None,
            "overfull": sum(1 for found in self._found.values() if not found.solved.fits),
            "fullest": max(map(_fullest, self._found.values()), default=0.0),
            "services": [self._told(name, found) for name, found in sorted(self._found.items())]}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        if self.fault:
            yield f"spill-over: {self.fault}"
        for name, found in sorted(self._found.items()):
            if not found.solved.fits:
                yield f"service {name} has more clients than its sites carry: all are filled beyond their watermark"

    def _told(self, name: str, found: Found) -> dict[str, Any]:
        solved = found.solved
        return {
            "service": name, "demand": round(found.wanted.demand, 1), "clients": found.wanted.source.split(" ")[0],
            "fits": solved.fits, "seconds": round(found.seconds, 3), "sites": [{
                "site": site, "capacity": room.capacity, "alive": room.alive,
                "natives": round(solved.natives[n], 1), "kept": round(solved.kept[n], 1),
                "taken": round(solved.taken[n], 1),
                "load": round((solved.kept[n] + solved.taken[n]) / room.capacity, 4) if room.capacity else None,
                "keep": round(solved.keep[n] / WHOLE, 4), "take": round(solved.take[n] / WHOLE, 4),
            } for n, (site, room) in enumerate(found.wanted.rooms)]}


def _fullest(found: Found) -> float:
    """Load of the fullest site as a part of its capacity."""
    solved = found.solved
    rooms = [room for _, room in found.wanted.rooms]
    full = [(solved.kept[n] + solved.taken[n]) / room.capacity
            for n, room in enumerate(rooms) if room.capacity and room.alive]
    return round(max(full, default=0.0), 4)


def dressed(view: ServiceView, shares: Mapping[str, tuple[int, int]]) -> ServiceView:
    """The view with these shares by site; a site without has those from before anything was solved."""
    live, ghosts = (tuple(
        replace(one, keep=shares.get(one.site, WHILE_UNSOLVED)[0], take=shares.get(one.site, WHILE_UNSOLVED)[1])
        for one in some) for some in (view.live, view.ghosts))
    return replace(view, live=live, ghosts=ghosts)


def wanted(fleet: Fleet, name: str, resolved: Resolved, file: str, given: float, source: str) -> Wanted | None:
    """What is to be solved; `given`: the units that a list of clients adds up to, 0: it says nothing of units."""
    spill = fleet.services[name].policy.spill
    view = resolved.view
    if spill is None:
        return None
    sites = sorted({one.site for one in (*view.live, *view.ghosts)})
    rooms = tuple((site, _room(fleet, resolved, site, spill)) for site in sites)
    demand = spill.demand or _reported(fleet, name, resolved, spill) or given or ASSUMED * sum(
        _capacity(fleet, site, spill) or 0.0 for site in sites)
    # TTL and what else does not change who goes where is left out
    bare = replace(view, ttl=1, fallback_a=(), fallback_aaaa=(), last_good_a=(), last_good_aaaa=(), https=(),
                   live=tuple(replace(one, load=1000) for one in view.live))
    return Wanted(bare, file, rooms, demand, spill.low / 100, spill.high / 100, source)


def _capacity(fleet: Fleet, site: str, spill: Spill) -> float | None:
    """What a site carries of this service, in units; None: it does not say."""
    found = fleet.sites.get(site)
    return None if found is None or found.capacity is None else found.capacity * spill.share / 100


def _room(fleet: Fleet, resolved: Resolved, site: str, spill: Spill) -> Room:
    """A site: what it carries is in proportion to the weight that is up, with a share of it after a recovery."""
    members = [m for m in resolved.members if m.endpoint.site == site]
    weight = sum(m.endpoint.weight for m in members)
    able = sum(m.endpoint.weight * m.share / 1000 for m in members if m.a or m.aaaa)
    live = [one for one in resolved.view.live if one.site == site]
    capacity = _capacity(fleet, site, spill)
    if capacity is not None and weight and live:
        capacity = max(capacity * able / weight, 1e-9)
    tier = min((one.tier if one.weight else one.tier + 256 for one in live), default=0)
    return Room(compile_service.key_of(site.encode()) & 0xFFFFFFFF, capacity, bool(live), tier)


def _reported(fleet: Fleet, name: str, resolved: Resolved, spill: Spill) -> float:
    """Units that the sites carry now, by what holders report of their endpoints; 0: not all of them do.

    What one site does not carry another does, so spilling over does not change the sum. A level stands for the middle
    of its eighth.
    """
    levels: dict[str, list[int]] = {}
    for member in resolved.members:
        if member.a or member.aaaa:
            if member.endpoint.lease is None:
                return 0.0
            levels.setdefault(member.endpoint.site, []).append(member.endpoint.load)
    if not any(any(found) for found in levels.values()):
        return 0.0
    return sum((_capacity(fleet, site, spill) or 0.0) * sum(level + 0.5 for level in found) / len(found) / 8
               for site, found in levels.items())


def whole(view: ServiceView) -> ServiceView:
    """The view as if nothing were dead: whose order of sites does not depend on that."""
    found = sorted((*view.live, *view.ghosts), key=lambda one: (one.id, one.a is None))
    return replace(view, ghosts=(), live=tuple(replace(one, keep=WHOLE, take=0) for one in found))


def rank(record: bytes, table: MapTable, blocks: Sequence[Block]) -> Ranked:
    """The order of sites of each client, by a record in which all are alive."""
    plan = Plan(record)
    found = []
    orders: dict[tuple[int, ...], tuple[int, ...]] = {}
    for v6, address, weight in blocks:
        if v6:
            row, block, cut = table.find6(address, 56)[0], address >> 72 | V6_BLOCK, layout.ECS_MAX6 - plan.split6
        else:
            row, block, cut = table.find4(address >> 8)[0], address >> 8, layout.ECS_MAX4 - plan.split4
        type_ = 1 if plan.flags & layout.R_OWNS_AAAA and (v6 or not plan.flags & layout.R_OWNS_A) else 0
        seed = plan.seed(block >> cut << cut, 0)
        groups = plan.groups(type_, row, table if plan.uses_client else None)
        order = tuple(dict.fromkeys(stand.spread.site for stand in plan.way(type_, groups, seed)))
        if order:  # of equal ones one is kept
            found.append((weight, seed, orders.setdefault(order, order)))
    return Ranked(tuple(found))


def solve(ranked: Ranked, now: Wanted) -> Solved:
    """The shares, for clients whose weights add up to the demand."""
    rooms = [room for _, room in now.rooms]
    numbers = {room.site: number for number, room in enumerate(rooms)}
    unit = now.demand / (sum(weight for weight, _, _ in ranked.clients) or 1.0)
    orders = {order: tuple(numbers[site] for site in order if site in numbers)
              for order in {order for _, _, order in ranked.clients}}
    clients = [Client(weight * unit, seed, sites) for weight, seed, order in ranked.clients if (sites := orders[order])]
    return spread.solve(clients, rooms, now.low, now.high)


# --- clients ---


def read(path: Path) -> list[Block]:
    """A list of clients: lines of `prefix,weight`, perhaps with a heading. ValueError names all wrong lines."""
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path} has more than {MAX_FILE} octets")
    found, wrong = [], []
    with path.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if not row or row[0].startswith("#") or (number == 1 and row[0].strip() == "prefix"):
                continue
            try:
                network = ipaddress.ip_network(row[0].strip(), strict=False)
                weight = float(row[1]) if len(row) > 1 else 1.0
                if not 0 < weight < 1e15:
                    raise ValueError(f"a weight is above 0, not {row[1]}")
            except ValueError as error:
                wrong.append(f"{path}:{number}: {error}")
                continue
            found.append(Block(network.version == 6, int(network.network_address), weight))
    if wrong:
        more = f"; and {len(wrong) - TOLD} more" if len(wrong) > TOLD else ""
        raise ValueError("; ".join(wrong[:TOLD]) + more)
    return found


def seen(table: Table) -> list[Block]:
    """The clients whose round trips are measured, as often as they are."""
    return [Block(True, (block & ~V6_MEASURED) << 80, weight) if block & V6_MEASURED else
            Block(False, block << 8, weight)
            for block, weight in zip(table.blocks.tolist(), table.weight.tolist(), strict=True) if weight > 0]


def _sample(atlas: store.Atlas) -> list[Block]:
    return [Block(False, int(network.network_address), weight) for network, weight in population.sample(atlas)]


def fewer(blocks: Sequence[Block]) -> list[Block]:
    """At most `MOST` of them that stand for all: in the order of addresses, one at each equal step of the weights."""
    ordered = sorted(blocks)
    if len(ordered) <= MOST:
        return ordered
    step = sum(block.weight for block in ordered) / MOST
    found: list[Block] = []
    passed, due = 0.0, step / 2
    for block in ordered:
        passed += block.weight
        times = 0
        while due < passed and times < MOST:
            due, times = due + step, times + 1
        if times:
            found.append(block._replace(weight=times * step))
    return found
