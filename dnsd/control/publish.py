"""Publishing: what changed becomes a new image on every worker, at once or within 50 ms, and never a worse one.

Lives here: coalescing, when a whole image is due, trying again, the image file beside ongoing deltas. Does not live
here: what a service answers (`control.views`), deltas (`control.live`), making a whole image (`control.draft`).

    idle      a change is published in the same turn of the loop
    busy      changes gather until 50 ms after the last publication
    records   a delta: own image -> asked through the door -> workers -> journal
    structure (services, types, zones come or go) whole image -> file -> workers told to read it
    behind    the image file is written anew at most every 5 s while deltas go on

A whole image that cannot be made or written is tried again every second; meanwhile records of the present image go on
changing, and its version stands still, for it lacks something of the newer ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dnsd.control import draft
from dnsd.control.clock import Clock
from dnsd.control.feeds import Feeds
from dnsd.control.files import ImageFiles
from dnsd.control.live import Changed, Live
from dnsd.control.serials import Serials
from dnsd.control.views import Views
from dnsd.image import frames, layout
from dnsd.image.table import MapTable
from dnsd.model import MapView, ServiceView, Stamp, ZoneView

COALESCE_S: Final = 0.05
REWRITE_S: Final = 5.0
REWRITE_SHARE: Final = 20  # a rewrite may take at most this part of the time between two
RETRY_S: Final = 1.0
BREATH: Final = 16
"""Services resolved before others get a turn."""

MEND_S: Final = 1.0
COLUMNS: Final = "map columns"
_log = logging.getLogger("dnsd.control")


@dataclass(slots=True)
class Batch:
    """What has changed since the last publication."""

    services: set[str] = field(default_factory=set)
    maps: set[int] = field(default_factory=set)


class Publisher:
    """One node's publications. Nothing is published before `zones` are set and a fleet is adopted: until then what
    workers found on disk is served. `faults` say why a whole image could not be published."""

    def __init__(self, views: Views, files: ImageFiles, feeds: Feeds, *, node: str, clock: Clock) -> None:
        self.views, self.files, self.feeds, self.clock, self.node = views, files, feeds, clock, node
        self.live = Live(files, feeds, node=node, clock=clock)
        self.zones: tuple[ZoneView, ...] | None = None
        self.serials: Serials | None = None  # of zones that are transferred
        self._dressed: tuple[ZoneView, ...] = ()  # the zones served, with their serials
        self.maps: dict[int, MapView] = {}
        self.tables: dict[int, MapTable] = {}
        self.faults: list[str] = []
        self._epoch: int | None = None
        self._held = False
        self._batch = Batch()
        self._structure: set[str] = set()
        self._last_s = self._whole_s = self._rewrite_s = float("-inf")
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None

    # --- what others say ---

    def adopt(self, epoch: int, *, held: bool = False) -> None:
        """The fleet is the registry's, of this epoch: publish it, whole the first time, and from now on follow it.

        `held`: it is what a former process served, and nothing is followed yet.
        """
        self._epoch, self._held = epoch, held
        first = self.live.counts.images == 0 or epoch != self.live.stamp.epoch
        self.mark(structure=f"epoch {epoch:016x}" if first else "")

    def hold(self) -> None:
        """What the registry has now is in doubt: what is served stays, and what this node finds by itself is published
        on, but no version counts as reached until the next `adopt`."""
        self._held = True

    def mark(self, services: Iterable[str] = (), *, structure: str = "") -> None:
        """Something has changed: these services, or what the image is made of; none at all moves the version on."""
        self._batch.services.update(services)
        if structure:
            self._structure.add(structure)
            self._whole_s = float("-inf")  # perhaps it can be made now
        self._wake.set()

    def set_maps(self, views: Mapping[int, MapView], tables: Mapping[int, MapTable], services: Iterable[str]) -> None:
        """These maps are ready, and these services refer to others, or to more columns, than before.

        A map that is new or has another table goes out by itself; where columns in use have moved, records and tables
        must change at the same moment, and so the image goes out whole.
        """
        moved = any(
            number in self.maps and view.sites[: len(self.maps[number].sites)] != self.maps[number].sites
            for number, view in views.items())
        self._batch.maps |= {number for number, view in views.items() if self.maps.get(number) != view}
        self.maps, self.tables = dict(views), dict(tables)
        self.mark(services, structure=COLUMNS if moved else "")

    @property
    def open(self) -> bool:
        """Whether there is a fleet to publish."""
        return self._epoch is not None

    @property
    def following(self) -> bool:
        """Whether the image follows a fleet, not only the file of a former process."""
        return (self._epoch is not None and not self._held and self.live.image is not None
                and self.live.stamp.epoch == self._epoch)

    def reached(self, version: int) -> bool:
        """Whether every worker serves at least this version of the epoch that is followed."""
        return self._epoch is not None and not self._held and self.feeds.reached(self._epoch, version)

    def remap_frame(self) -> bytes:
        """The frame that tells a worker to read the files."""
        return frames.encode(layout.F_REMAP, self.live.stamp, self.live.stamp)

    # --- the loop ---

    async def run(self) -> None:
        """Publish whatever is marked, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publisher())
            tasks.create_task(self._rewriter())
            tasks.create_task(self._mender())

    async def _publisher(self) -> None:
        while True:
            await self._wake.wait()
            delay = self._last_s + COALESCE_S - self.clock.monotonic()
            if delay > 0:
                await self.clock.sleep(delay)
            self._wake.clear()
            await self.publish()

    async def publish(self) -> bool:
        """Publish what is marked, now. False when a whole image is due and could not be published."""
        if self._epoch is None or self.zones is None:
            return True
        batch, self._batch = self._batch, Batch()
        try:
            changed = await self._refreshed(batch)
            if self.live.restructures(changed) or (self.serials is not None and self.serials.touched(changed)):
                self._structure.add("services")
            whole = self.live.image is None or (self._structure and self.clock.monotonic() >= self._whole_s)
            if whole or not await self._delta(batch, changed, self.views.fleet.version):
                await self._whole(self._epoch)
        except Exception as error:
            self._failed(error, batch)
        finally:
            self._last_s = self.clock.monotonic()
        return not self._structure

    async def _refreshed(self, batch: Batch) -> dict[str, ServiceView | None]:
        """The views of what changed, with turns for others in between.

        What changes meanwhile is taken along: the version that is published afterwards says that it is in.
        """
        changed: dict[str, ServiceView | None] = {}
        waiting = list(batch.services)
        while waiting:
            changed |= self.views.refresh(waiting[:BREATH], self.clock.unix_ms())
            waiting = waiting[BREATH:]
            if waiting:
                await asyncio.sleep(0)
                new, self._batch.services = self._batch.services, set()
                batch.services |= new
                waiting += new
        return changed

    async def _delta(self, batch: Batch, changed: Changed, version: int) -> bool:
        """Maps first, for records refer to them. All of `version` is in. False: only a whole image can say this."""
        if COLUMNS in self._structure or self.live.stamp.epoch != self._epoch:
            return bool(self._structure)  # it is pending already: nothing that would fit the present image can be made
        self.live.tell_maps([self.maps[n] for n in sorted(batch.maps) if n in self.maps], self.tables)
        return await self.live.change(changed, self.maps, self.live.stamp.version if self._structure else version)

    def _failed(self, error: Exception, batch: Batch) -> None:
        """Keep what was not published, publish its records at once and the whole image a second later."""
        self.live.counts.failures += 1
        faults = [f"{f.place}: {f.message}" for f in error.faults] if isinstance(error, draft.DraftError) else [
            f"publishing failed: {error!r}"]
        if faults != self.faults:
            _log.error("no whole image was published, trying again", exc_info=error)
        self.faults = faults
        first = not self._structure or self._whole_s == float("-inf")
        self._structure.add("retry")
        self._whole_s = self.clock.monotonic() + RETRY_S
        self._batch.services |= batch.services
        self._batch.maps |= batch.maps
        if first and self.live.image is not None:
            self._wake.set()
        if self._again is None or self._again.done():
            self._again = asyncio.get_running_loop().create_task(self._wake_again())

    async def _wake_again(self) -> None:
        await self.clock.sleep(RETRY_S)
        self._wake.set()

    # --- whole images ---

    async def _whole(self, epoch: int) -> None:
        """Make, ask and write an image, then have workers read it."""
        version, structure = self.views.fleet.version, set(self._structure)
        stamp = self.live.stamp
        stamp = self.live.next(version) if epoch == stamp.epoch else Stamp(epoch, version, stamp.node_seq + 1)
        zones = self.zones or ()
        dressed = zones if self.serials is None else await self.serials.dress(zones)
        task = self._task(stamp, [resolved.view for resolved in self.views.resolved.values()], dressed)
        found = await asyncio.to_thread(draft.make, task)
        async with self._writing:
            await asyncio.to_thread(self.files.put, found.data)
            self.live.replace(found, stamp, zones)
            self._dressed = dressed
            self._rewrite_s = self.clock.monotonic()
        if self.serials is not None:
            await self.serials.take()
        self._structure -= structure | {"retry"}
        self._whole_s = float("-inf")
        self.faults = []

    async def _rewriter(self) -> None:
        """Keep the journal short: the image file anew, from what is published, beside ongoing deltas."""
        pause = REWRITE_S
        while True:
            await self.live.grown.wait()
            await self.clock.sleep(max(0.0, self._rewrite_s + pause - self.clock.monotonic()))
            self.live.grown.clear()
            if not self.files.behind or self._epoch is None:
                continue
            try:
                pause = max(REWRITE_S, REWRITE_SHARE * await self.rewrite())
            except Exception as error:
                self.live.counts.failures += 1
                _log.error("the image file could not be written anew: %r", error)
                self._rewrite_s = self.clock.monotonic()
                self.live.grown.set()

    async def rewrite(self) -> float:
        """Write the image file as it is published now; the seconds that took. A whole image meanwhile wins."""
        began = self.clock.monotonic()
        image, stamp = self.live.image, self.live.stamp
        found = await asyncio.to_thread(draft.make, self._task(
            stamp, list(self.live.published.values()), self._dressed))
        async with self._writing:
            if self.live.image is image and found.index == self.live.index:
                await asyncio.to_thread(self.files.put, found.data)
                self.files.cut(stamp)
                self.live.counts.rewrites += 1
            self._rewrite_s = self.clock.monotonic()
        return self.clock.monotonic() - began

    async def _mender(self) -> None:
        """A worker that finds no image it can read has only us to turn to: its queries are lost until it has one."""
        while True:
            await self.feeds.bare.wait()
            await self.clock.sleep(max(0.0, self._rewrite_s + MEND_S - self.clock.monotonic()))
            self.feeds.bare.clear()
            await self.mend()

    async def mend(self) -> None:
        """Put what is served in place again, if a worker lacks it and this process has made an image."""
        if not self.live.counts.images or all(feed.stamp is not None for feed in self.feeds.feeds):
            return
        try:
            await self.rewrite()
            _log.error("a worker could not read the image file: it is written anew")
        except Exception as error:
            self.live.counts.failures += 1
            self._rewrite_s = self.clock.monotonic() + REWRITE_S
            _log.error("a worker cannot read the image file, nor could it be written anew: %r", error)

    def _task(self, stamp: Stamp, services: list[ServiceView], zones: tuple[ZoneView, ...]) -> draft.Task:
        live = self.live
        known = {} if live.image is None else {
            owner: (view, live.image.record(live.index[owner])) for owner, view in live.published.items()}
        return draft.Task(
            zones, services, dict(self.maps), dict(self.tables), stamp, self.clock.unix_ms(), self.node,
            known)
