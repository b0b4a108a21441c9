"""Publishing: what changed becomes a new image on every worker, at once or within 50 ms, and never a worse one.

Lives here: coalescing, deltas, when a whole image is due, stamps, the check before anything is sent. Does not live
here: what a service answers (`control.views`), making a whole image (`control.draft`), sockets (`control.feeds`).

    idle      a change is published in the same turn of the loop
    busy      changes gather until 50 ms after the last publication
    records   delta: own image -> asked through the door -> workers -> journal
    structure (services, types, zones come or go) whole image -> file -> workers told to read it
    behind    the image file is written anew at most every 5 s while deltas go on

The own image is what workers have: a delta is applied to it first and its services are asked; a record that does not
answer is put back as it was and is not sent. A stamp never goes back; node_seq counts what the store knows nothing of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dnsd.compile import service as compile_service
from dnsd.control import draft
from dnsd.control.clock import Clock
from dnsd.control.feeds import Feeds
from dnsd.control.files import ImageFiles
from dnsd.control.selfcheck import Asker, service_fault
from dnsd.control.views import Views
from dnsd.dns import names
from dnsd.image import frames, layout
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import MapView, ServiceView, Stamp, ZoneView

COALESCE_S: Final = 0.05
REWRITE_S: Final = 5.0
REWRITE_SHARE: Final = 20  # a rewrite may take at most this part of the time between two
RETRY_S: Final = 1.0
FRAMES_MAX: Final = 16
JOURNAL_MAX: Final = 64 * 1024 * 1024
_log = logging.getLogger("dnsd.control")


@dataclass(slots=True)
class Batch:
    """What has changed since the last publication. `structure` names why the image must be made whole."""

    services: set[str] = field(default_factory=set)
    structure: set[str] = field(default_factory=set)
    maps: set[int] = field(default_factory=set)

    def take_back(self, other: Batch) -> None:
        """Put what could not be published back among what waits."""
        self.services |= other.services
        self.structure |= other.structure
        self.maps |= other.maps


@dataclass(slots=True)
class Counts:
    """What this process published, for status and metrics."""

    deltas: int = 0
    records: int = 0
    images: int = 0
    rewrites: int = 0
    refused: int = 0
    failures: int = 0


class Publisher:
    """One node's publications. Nothing is published before `zones` are set and a fleet is adopted: until then what
    workers found on disk is served."""

    def __init__(self, views: Views, files: ImageFiles, feeds: Feeds, *, node: str, clock: Clock) -> None:
        self.views, self.files, self.feeds, self.clock, self.node = views, files, feeds, clock, node
        self.image: Image | None = None
        self.stamp = Stamp(0, 0, 0)
        self.zones: tuple[ZoneView, ...] | None = None
        self.zones_served: Sequence[ZoneView] = ()
        self.maps: dict[int, MapView] = {}
        self.tables: dict[int, MapTable] = {}
        self.published: dict[bytes, ServiceView] = {}
        self.left_out: dict[bytes, str] = {}
        self.refused: dict[bytes, str] = {}
        self.faults: list[str] = []
        self.counts = Counts()
        self.last_s = float("-inf")
        self._index: dict[bytes, int] = {}
        self._epoch: int | None = None
        self._batch = Batch()
        self._wake = asyncio.Event()
        self._rewrite_wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._rewrite_at = float("-inf")
        self._asker = Asker(node)

    # --- what others say ---

    def start(self) -> None:
        """Take over the image a former process left, so that no stamp goes back. ImageError when it cannot be read."""
        self.image = self.files.load()
        if self.image is not None:
            self.stamp = self.image.stamp

    def adopt(self, epoch: int) -> None:
        """The fleet is the registry's, of this epoch: publish it, whole the first time, and from now on follow it."""
        self._epoch = epoch
        first = self.counts.images == 0 or epoch != self.stamp.epoch
        self.mark(structure=f"epoch {epoch:016x}" if first else "")

    def hold(self) -> None:
        """The fleet is in doubt: publish nothing of it until the next `adopt`."""
        self._epoch = None

    def mark(self, services: Iterable[str] = (), *, structure: str = "") -> None:
        """Something has changed: these services, or what the image is made of; none at all moves the version on."""
        self._batch.services.update(services)
        if structure:
            self._batch.structure.add(structure)
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
        self.mark(services, structure="map columns" if moved else "")

    @property
    def open(self) -> bool:
        """Whether there is a fleet to publish."""
        return self._epoch is not None

    @property
    def following(self) -> bool:
        """Whether the image follows a fleet, not only the file of a former process."""
        return self._epoch is not None and self.image is not None and self.stamp.epoch == self._epoch

    def reached(self, version: int) -> bool:
        """Whether every worker serves at least this version of the epoch that is followed."""
        return self._epoch is not None and self.feeds.reached(self._epoch, version)

    def remap_frame(self) -> bytes:
        """The frame that tells a worker to read the files."""
        return frames.encode(layout.F_REMAP, self.stamp, self.stamp)

    # --- the loop ---

    async def run(self) -> None:
        """Publish whatever is marked, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rewriter())
            tasks.create_task(self._publisher())

    async def _publisher(self) -> None:
        while True:
            await self._wake.wait()
            delay = self.last_s + COALESCE_S - self.clock.monotonic()
            if delay > 0:
                await self.clock.sleep(delay)
            self._wake.clear()
            if not await self.publish():
                await self.clock.sleep(RETRY_S)
                self._wake.set()

    async def publish(self) -> bool:
        """Publish what is marked, now. False when it could not be: it stays marked, what was served is served on."""
        if self._epoch is None or self.zones is None:
            return True
        batch, self._batch = self._batch, Batch()
        try:
            changed = self.views.refresh(batch.services, self.clock.unix_ms())
            image = None if batch.structure or self._restructures(changed) else self.image
            if image is None or not self._delta(image, batch, changed):
                await self._whole(self._epoch)
        except Exception as error:
            self.counts.failures += 1
            self.faults = _told(error)
            _log.exception("nothing was published; trying again", exc_info=error)
            self._batch.take_back(batch)
            self._batch.structure.add("retry")  # the views are resolved already: only a whole image has them all
            return False
        finally:
            self.last_s = self.clock.monotonic()
        self.faults = []
        return True

    # --- deltas ---

    def _restructures(self, changed: Mapping[str, ServiceView | None]) -> bool:
        """Whether a change is more than records: a service came, went, or owns other types."""
        for name, view in changed.items():
            owner = names.to_wire(name) if view is None else view.owner
            before = self.published.get(owner)
            if view is None:
                if before is not None:
                    return True
            elif before is None:
                if owner not in self.left_out:
                    return True
            elif before.types != view.types:
                return True
        return False

    def _delta(self, image: Image, batch: Batch, changed: Mapping[str, ServiceView | None]) -> bool:
        """Maps first, for records refer to them; then records, in as few frames as hold them. False: too many."""
        self._send_maps(image, batch.maps)
        records = self._records(image, changed)
        chunks = _chunks([(index, data) for index, data, _ in records])
        if len(chunks) > FRAMES_MAX or not all(frames.fits(chunk) for chunk in chunks):
            return False
        views = {index: view for index, _, view in records}
        version = self.views.fleet.version
        for chunk in chunks[:-1]:
            # Only with its last frame has the image reached the new version.
            self._send_records(image, chunk, views, self._next(self.stamp.version))
        if chunks or version > self.stamp.version:
            self._send_records(image, chunks[-1] if chunks else [], views, self._next(version))
        return True

    def _records(
        self, image: Image, changed: Mapping[str, ServiceView | None],
    ) -> list[tuple[int, bytes, ServiceView]]:
        """The changed services' records that are not as published, by index; one that cannot be made is refused."""
        found = []
        for view in changed.values():
            index = None if view is None else self._index.get(view.owner)
            if view is None or index is None:
                continue
            try:
                data = compile_service.record(view, self.maps)
            except Exception as error:
                self._refuse(view, f"its record cannot be made: {error!r}")
                continue
            if data != image.record(index):
                found.append((index, data, view))
            else:
                self.published[view.owner] = view
                self.refused.pop(view.owner, None)
        return sorted(found, key=lambda item: item[0])

    def _send_records(
        self, image: Image, items: list[tuple[int, bytes]], views: Mapping[int, ServiceView], stamp: Stamp,
    ) -> None:
        """Apply to the own image, ask, and send what answers."""
        before = [(index, image.record(index)) for index, _ in items]
        start = self.stamp
        image.apply(items, stamp)
        now = self.clock.unix_ms() // 1000
        bad = set()
        for index, _ in items:
            fault = service_fault(self._asker, image, views[index], now)
            if fault is not None:
                bad.add(index)
                self._refuse(views[index], fault)
        image.apply([item for item in before if item[0] in bad], stamp)
        good = [item for item in items if item[0] not in bad]
        for index, _ in good:
            self.published[views[index].owner] = views[index]
            self.refused.pop(views[index].owner, None)
        self.counts.records += len(good)
        self._send(frames.encode(layout.F_RECORDS, stamp, start, good), stamp)

    def _send_maps(self, image: Image, changed: set[int]) -> None:
        """Tell which table each of these maps is."""
        items = [(number, self.maps[number].file.encode()) for number in sorted(changed) if number in self.maps]
        if not items:
            return
        start, stamp = self.stamp, self._next(self.stamp.version)
        for number in self.tables.keys() & changed:
            image.set_map(number, self.tables[number])
        image.map_refs.update({number: self.maps[number].file for number, _ in items})
        image.apply([], stamp)
        self._send(frames.encode(layout.F_MAP, stamp, start, items), stamp)

    def _send(self, frame: bytes, stamp: Stamp) -> None:
        self.stamp = stamp
        self.counts.deltas += 1
        self.feeds.send(frame)
        try:
            self.files.append(stamp, frame)
        except OSError as error:
            # Workers have it; only one that starts now would not, until the image file is written anew.
            self.counts.failures += 1
            _log.error("the journal cannot be written: %s", error)
        self._rewrite_wake.set()

    def _refuse(self, view: ServiceView, fault: str) -> None:
        self.counts.refused += 1
        self.refused[view.owner] = fault
        _log.error("not published, the last good record stays: %s", fault)

    # --- whole images ---

    async def _whole(self, epoch: int) -> None:
        """Make, ask and write an image, then have workers read it."""
        version = self.views.fleet.version
        same = epoch == self.stamp.epoch
        stamp = self._next(version) if same else Stamp(epoch, version, self.stamp.node_seq + 1)
        task = self._task(stamp, [resolved.view for resolved in self.views.resolved.values()])
        found = await asyncio.to_thread(draft.make, task)
        async with self._writing:
            await asyncio.to_thread(self.files.put, found.data)
            self.image, self.stamp, self._index = found.image, stamp, found.index
            self.published, self.left_out = found.views, found.left_out
            self.refused, self.zones_served = found.refused, task.zones
            self.counts.images += 1
            self.counts.refused += len(found.refused)
            self._rewrite_at = self.clock.monotonic()
            self.files.cut(stamp)
            self.feeds.remap()
        for owner, fault in {**found.left_out, **found.refused}.items():
            _log.error("service %s: %s", names.to_text(owner), fault)

    async def _rewriter(self) -> None:
        """Keep the journal short: the image file anew, from what is published, beside ongoing deltas."""
        pause = REWRITE_S
        while True:
            await self._rewrite_wake.wait()
            await self.clock.sleep(max(0.0, self._rewrite_at + pause - self.clock.monotonic()))
            self._rewrite_wake.clear()
            if not self.files.frames:
                continue
            try:
                pause = max(REWRITE_S, REWRITE_SHARE * await self.rewrite())
            except Exception as error:
                self.counts.failures += 1
                _log.exception("the image file could not be written anew", exc_info=error)
                self._rewrite_at = self.clock.monotonic()
                self._rewrite_wake.set()

    async def rewrite(self) -> float:
        """Write the image file as it is published now; the seconds that took. A whole image meanwhile wins."""
        began = self.clock.monotonic()
        image, stamp = self.image, self.stamp
        task = self._task(stamp, list(self.published.values()))
        found = await asyncio.to_thread(draft.make, task)
        async with self._writing:
            if self.image is image and found.index == self._index:
                await asyncio.to_thread(self.files.put, found.data)
                self.files.cut(stamp)
                self.counts.rewrites += 1
            self._rewrite_at = self.clock.monotonic()
        return self.clock.monotonic() - began

    def _task(self, stamp: Stamp, services: list[ServiceView]) -> draft.Task:
        known = {} if self.image is None else {
            owner: (view, self.image.record(self._index[owner])) for owner, view in self.published.items()}
        return draft.Task(
            self.zones or (), services, dict(self.maps), dict(self.tables), stamp, self.clock.unix_ms(), self.node,
            known)

    def _next(self, version: int) -> Stamp:
        """The stamp after the present one, in its epoch."""
        if version > self.stamp.version:
            return Stamp(self.stamp.epoch, version, self.stamp.node_seq)
        return Stamp(self.stamp.epoch, self.stamp.version, self.stamp.node_seq + 1)


def _told(error: Exception) -> list[str]:
    if isinstance(error, draft.DraftError):
        return [f"{fault.place}: {fault.message}" for fault in error.faults]
    return [f"publishing failed: {error!r}"]


def _chunks(items: list[tuple[int, bytes]]) -> list[list[tuple[int, bytes]]]:
    """Items in as few frames as hold them, in order; one that fits no frame stands alone."""
    chunks: list[list[tuple[int, bytes]]] = []
    size = layout.FRAME_MAX
    for item in items:
        length = layout.ITEM.size + len(item[1])
        if size + length > layout.FRAME_MAX - layout.FRAME.size:
            chunks.append([])
            size = 0
        chunks[-1].append(item)
        size += length
    return chunks
