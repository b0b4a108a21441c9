"""The image that workers have, kept in this process too, and changing it by deltas.

Lives here: the own image with who is in it, records and maps to frames, the check before a frame goes out, stamps. Does
not live here: when to publish (`control.publish`), making a whole image (`control.draft`).

A delta is applied to the own image first and its services are asked through the door; a record that does not answer is
put back as it was and is not sent. A stamp never goes back; node_seq counts what the store knows nothing of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from dnsd.compile import service as compile_service
from dnsd.control.clock import Clock
from dnsd.control.draft import Draft
from dnsd.control.feeds import Feeds
from dnsd.control.files import ImageFiles
from dnsd.control.selfcheck import Asker, service_fault
from dnsd.dns import names
from dnsd.image import frames, layout
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import MapView, ServiceView, Stamp, ZoneView

FRAMES_MAX: Final = 16
BREATH: Final = 50
"""Records made before others get a turn."""

_log = logging.getLogger("dnsd.control")
Changed = Mapping[str, ServiceView | None]
"""Service name -> its view now, None for one that is gone."""


@dataclass(slots=True)
class Counts:
    """What this process published, for status and metrics."""

    deltas: int = 0
    records: int = 0
    images: int = 0
    rewrites: int = 0
    refused: int = 0
    failures: int = 0


class Live:
    """What is served. `left_out`: owner -> why it is not in the image; `refused`: owner -> why it is as it was."""

    def __init__(self, files: ImageFiles, feeds: Feeds, *, node: str, clock: Clock) -> None:
        self.files, self.feeds, self.clock = files, feeds, clock
        self.image: Image | None = None
        self.stamp = Stamp(0, 0, 0)
        self.zones: Sequence[ZoneView] = ()
        self.index: dict[bytes, int] = {}
        self.published: dict[bytes, ServiceView] = {}
        self.left_out: dict[bytes, str] = {}
        self.refused: dict[bytes, str] = {}
        self.counts = Counts()
        self.grown = asyncio.Event()
        self._asker = Asker(node)

    def start(self) -> None:
        """Take over the image a former process left, so that no stamp goes back. ImageError when it cannot be read."""
        self.image = self.files.load()
        if self.image is not None:
            self.stamp = self.image.stamp

    def replace(self, found: Draft, stamp: Stamp, zones: Sequence[ZoneView]) -> None:
        """A whole image is on disk: it is the one now, and workers read it."""
        for owner, fault in {**found.left_out, **found.refused}.items():
            if fault not in (self.left_out.get(owner), self.refused.get(owner)):
                _log.error("service %s: %s", names.to_text(owner), fault)
        self.image, self.stamp, self.index, self.zones = found.image, stamp, found.index, zones
        self.published, self.left_out, self.refused = found.views, found.left_out, found.refused
        self.counts.images += 1
        self.counts.refused += len(found.refused)
        self.files.cut(stamp)
        self.feeds.remap()

    def next(self, version: int) -> Stamp:
        """The stamp after the present one, in its epoch."""
        if version > self.stamp.version:
            return Stamp(self.stamp.epoch, version, self.stamp.node_seq)
        return Stamp(self.stamp.epoch, self.stamp.version, self.stamp.node_seq + 1)

    def restructures(self, changed: Changed) -> bool:
        """Whether a change is more than records: a service came, went, or owns other types."""
        return any(self._restructures(name, view) for name, view in changed.items())

    async def change(self, changed: Changed, maps: Mapping[int, MapView], version: int) -> bool:
        """Publish what records can say of a change, in as few frames as hold it; False where that is too much.

        Others get turns in between; nobody else may change or replace the image meanwhile.
        """
        if self.image is None:
            return False
        records: list[tuple[int, bytes, ServiceView]] = []
        names_left, size = list(changed), 0
        while names_left:
            part, names_left = names_left[:BREATH], names_left[BREATH:]
            made = self._records(self.image, {name: changed[name] for name in part}, maps)
            records += made
            size += sum(len(data) for _, data, _ in made)
            if size > FRAMES_MAX * layout.FRAME_MAX:
                return False
            if names_left:
                await asyncio.sleep(0)
        records.sort(key=itemgetter(0))
        chunks = _chunks([(index, data) for index, data, _ in records])
        if len(chunks) > FRAMES_MAX or not all(frames.fits(chunk) for chunk in chunks):
            return False
        views = {index: view for index, _, view in records}
        for chunk in chunks[:-1]:
            # Only with its last frame has the image reached the new version.
            self._send_records(self.image, chunk, views, self.next(self.stamp.version))
            await asyncio.sleep(0)
        if chunks or version > self.stamp.version:
            self._send_records(self.image, chunks[-1] if chunks else [], views, self.next(version))
        return True

    def tell_maps(self, maps: Sequence[MapView], tables: Mapping[int, MapTable]) -> None:
        """Tell which table each of these maps is now."""
        if self.image is None or not maps:
            return
        start, stamp = self.stamp, self.next(self.stamp.version)
        for view in maps:
            if view.id in tables:
                self.image.set_map(view.id, tables[view.id])
            self.image.map_refs[view.id] = view.file
        self.image.apply([], stamp)
        self._send(frames.encode(layout.F_MAP, stamp, start, [(view.id, view.file.encode()) for view in maps]), stamp)

    def _restructures(self, name: str, view: ServiceView | None) -> bool:
        if view is None:
            return names.to_wire(name) in self.published
        before = self.published.get(view.owner)
        return view.owner not in self.left_out if before is None else before.types != view.types

    def _records(
        self, image: Image, changed: Changed, maps: Mapping[int, MapView],
    ) -> list[tuple[int, bytes, ServiceView]]:
        """Index and record of changed services that are not as published; one that cannot be made is refused."""
        found = []
        for name, view in changed.items():
            if view is None or view.owner not in self.index or self._restructures(name, view):
                continue
            index = self.index[view.owner]
            try:
                data = compile_service.record(view, maps)
            except Exception as error:
                self._refuse(view, f"its record cannot be made: {error!r}")
                continue
            if data != image.record(index):
                found.append((index, data, view))
            else:
                self.published[view.owner] = view
                self.refused.pop(view.owner, None)
        return found

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
        self.grown.set()

    def _refuse(self, view: ServiceView, fault: str) -> None:
        self.counts.refused += 1
        if self.refused.get(view.owner) != fault:
            _log.error("not published, the last good record stays: %s", fault)
        self.refused[view.owner] = fault


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
