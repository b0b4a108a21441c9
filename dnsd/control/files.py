"""The image file and its journal, as workers read them.

Lives here: in which order they are written, what the journal keeps. Does not live here: replacing a file (`disk`), what
is in these (`control.publish`), reading them in a worker (`serve.images`).

The journal holds what was published since the image file was written. A new image may be older than the newest frame,
since frames go on while it is built; the journal then keeps what is newer. The image is put in place first: frames it
already contains are passed over on reading, so a crash between the two steps loses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dnsd import disk
from dnsd.image import frames, layout
from dnsd.image.reading import Image
from dnsd.model import Stamp

NODE: Final = "node.json"
JOURNAL_MAX: Final = 64 * 1024 * 1024


class ImageFiles:
    """The image and the journal beside it, in the state directory. Only the control process writes them."""

    def __init__(self, state: Path) -> None:
        self.image = state / disk.IMAGE
        self.journal = state / disk.JOURNAL
        self.frames: list[tuple[Stamp, bytes]] = []
        self.written: Stamp | None = None
        self.broken = False
        self.journal_size = 0
        self._dropped: Stamp | None = None
        self._open: int | None = None

    def load(self) -> Image | None:
        """The image with its journal applied, as a worker that starts now reads it; None when there is none.

        ImageError for one that cannot be read; maps are not opened. The journal is not continued: what follows is a
        whole image, since its last frame may be torn.
        """
        data = disk.read(self.image)
        if data is None:
            return None
        image = Image(data)
        for frame in frames.read_journal(disk.read(self.journal) or b""):
            if frame.stamp <= image.stamp:
                continue
            if frame.start != image.stamp:
                break
            image.apply(frame.items if frame.kind == layout.F_RECORDS else [], frame.stamp)
            if frame.kind == layout.F_MAP:
                image.map_refs.update((number, name.decode()) for number, name in frame.items)
        return image

    def append(self, stamp: Stamp, frame: bytes) -> None:
        """Add a published frame to the journal. OSError when it cannot be written; then nothing is, until `cut`."""
        self.frames.append((stamp, frame))
        self.journal_size += len(frame)
        if self.journal_size > JOURNAL_MAX:  # no image file could be written for long: only one as new as this will do
            self.frames, self.journal_size, self._dropped, self.broken = [], 0, stamp, True
        if self.broken:
            return
        self.broken = True
        if self._open is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._open = os.open(self.journal, flags, 0o600)
        if os.write(self._open, frame) != len(frame):
            raise OSError("the journal took only a part of a frame")
        self.broken = False

    def put(self, data: bytes) -> None:
        """Put a whole image in place; `cut` must follow. May run in a thread: it touches nothing but the file."""
        disk.replace(self.image, data)

    def cut(self, stamp: Stamp) -> None:
        """The image in place has this stamp: leave in the journal only what is newer. OSError: write a newer one."""
        self.close()
        self.frames = newer(self.frames, stamp)
        self.journal_size = sum(len(frame) for _, frame in self.frames)
        disk.replace(self.journal, b"".join(frame for _, frame in self.frames))
        self.broken = self._dropped is not None and self._dropped.epoch == stamp.epoch and self._dropped > stamp
        if self.broken:
            raise OSError("what lies between this image and the journal was dropped")
        self._dropped = None
        self.written = stamp

    @property
    def behind(self) -> bool:
        """Whether the image file lacks something that was published."""
        return bool(self.frames) or self.broken

    def close(self) -> None:
        """Let go of the journal; the next frame opens it again."""
        if self._open is not None:
            os.close(self._open)
            self._open = None


def newer(journal: Sequence[tuple[Stamp, bytes]], stamp: Stamp) -> list[tuple[Stamp, bytes]]:
    """The frames that lead beyond a stamp, within its epoch."""
    return [(at, frame) for at, frame in journal if at.epoch == stamp.epoch and at > stamp]
