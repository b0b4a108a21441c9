"""What a worker serves, kept up to date: the mapped image, its journal, the map tables, and control's frames.

Lives here: reading the files, and what a frame does to the image. Does not live here: sockets (`serve.worker`), writing
the files (`control.files`), bytes of frames (`image.frames`).

The files and the frames say the same twice, so nothing here can be missed: a frame that starts elsewhere than where
this image stands, or does not fit, means reading the files again. Within an epoch the stamp only grows; what cannot be
read never takes the place of what is served.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from dnsd import disk, metrics
from dnsd.image import frames, layout
from dnsd.image.frames import Frame
from dnsd.image.reading import Image, ImageError
from dnsd.image.table import MapTable
from dnsd.model import Stamp

_ATTEMPTS: Final = 3


class Images:
    """The image served now (None before there is one); `load` reads the files, `take` a frame."""

    def __init__(self, state: Path, count: memoryview) -> None:
        self.image: Image | None = None
        self._state = state
        self._count = count
        self._tables: dict[tuple[str, int, int], MapTable] = {}
        self._missing: set[int] = set()
        self._read: list[tuple[int, int, int] | None] = []
        self._complaint = ""

    @property
    def stamp(self) -> Stamp | None:
        """Where the image stands."""
        return self.image.stamp if self.image else None

    def load(self) -> bool:
        """Read image and journal; False, and everything as before, when they cannot be used or are older than that."""
        self._read = self._identities()
        try:
            image = self._from_files()
        except FileNotFoundError:
            return False
        except Exception as error:  # whatever is wrong with the files, what is served goes on
            self._complain(f"image: {error!r}")
            return False
        now = self.stamp
        if now and image.stamp.epoch == now.epoch and image.stamp < now:
            return False
        self._open_maps(image)
        self.image = image
        self._count[metrics.IMAGE_LOADS] += 1
        return True

    def take(self, packet: bytes) -> None:
        """Apply one frame from control, or read the files where it asks for that or does not fit."""
        count = self._count
        try:
            frame, _ = frames.decode(packet)
        except ValueError:
            count[metrics.DELTAS_BAD] += 1
            return
        image = self.image
        if frame.kind == layout.F_REMAP or image is None:
            self.load()
        elif frame.stamp.epoch == image.stamp.epoch and frame.stamp <= image.stamp:
            count[metrics.DELTAS_IGNORED] += 1
        elif frame.start != image.stamp:
            count[metrics.DELTAS_GAP] += 1
            self.load()
        else:
            try:
                self._apply(image, frame)
                count[metrics.DELTAS_APPLIED] += 1
            except ImageError as error:
                count[metrics.DELTAS_BAD] += 1
                self._complain(str(error))
                self.load()

    def outdated(self) -> bool:
        """Whether the files are others, or longer, than those `load` last looked at."""
        return self._read != self._identities()

    def mend(self) -> None:
        """Try again to open map tables that could not be; to be called now and then."""
        if self._missing and self.image:
            self._open_maps(self.image)

    def _identities(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for name in (disk.IMAGE, disk.JOURNAL):
            try:
                status = (self._state / name).lstat()
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append(None)
        return found

    def _from_files(self) -> Image:
        """The image with its journal.

        Control puts the image in place before the journal, so a journal that does not start where the image stands
        was read too late: read both again. If that never fits, the image alone is still one whole state.
        """
        for attempt in range(_ATTEMPTS):
            image = Image(disk.mapped(self._state / disk.IMAGE))
            if self._replay(image) or attempt == _ATTEMPTS - 1:
                break
        return image

    def _replay(self, image: Image) -> bool:
        try:
            data = disk.mapped(self._state / disk.JOURNAL)
        except FileNotFoundError:
            return True
        for frame in frames.read_journal(data):
            if frame.stamp.epoch == image.stamp.epoch and frame.stamp <= image.stamp:
                continue
            if frame.start != image.stamp:
                return False
            self._apply(image, frame)
        return True

    def _apply(self, image: Image, frame: Frame) -> None:
        if frame.kind == layout.F_RECORDS:
            image.apply(frame.items, frame.stamp)
        elif frame.kind == layout.F_MAP:
            image.map_refs.update((number, name.decode("ascii", "replace")) for number, name in frame.items)
            image.apply([], frame.stamp)
            if image is self.image:
                self._open_maps(image)

    def _open_maps(self, image: Image) -> None:
        """Open the tables the image refers to. Where one cannot be, the one before stays, or weights alone decide."""
        used: dict[tuple[str, int, int], MapTable] = {}
        missing: set[int] = set()
        for number, name in image.map_refs.items():
            try:
                key, table = self._table(name)
            except (OSError, ValueError) as error:
                missing.add(number)
                if number not in self._missing:
                    self._complain(f"map table {name!r}: {error}")
                continue
            used[key] = table
            image.set_map(number, table)
        self._tables, self._missing = used, missing

    def _table(self, name: str) -> tuple[tuple[str, int, int], MapTable]:
        if "/" in name or name.startswith("."):
            raise ValueError("not a file name")
        path = self._state / disk.MAPS / name
        status = path.lstat()
        key = (name, status.st_ino, status.st_mtime_ns)
        table = self._tables.get(key)
        if table is None:
            table = MapTable(disk.mapped(path))
            self._count[metrics.MAPS_LOADED] += 1
        return key, table

    def _complain(self, what: str) -> None:
        self._count[metrics.IMAGE_LOAD_ERRORS] += 1
        if what != self._complaint:  # said once, counted each time
            self._complaint = what
            print(f"dnsd worker: {what}", file=sys.stderr, flush=True)
