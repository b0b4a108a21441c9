"""Frames from control and the journal: any octets are a frame or ValueError; with the checksum put right too."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

from dnsd.image import frames, layout
from dnsd.model import Stamp
from tests.golden.packets import door


def seeds() -> Iterator[bytes]:
    """A frame of each kind, two in a row, one torn."""
    record = door().image.record(0)
    one = frames.encode(layout.F_RECORDS, Stamp(1, 2, 3), Stamp(1, 1, 3), [(0, record), (1, b"")])
    for data in (one, frames.encode(layout.F_ACK, Stamp(1, 2, 3), Stamp(0, 0, 0)), one + one, one[:-3],
                 frames.encode(layout.F_MAP, Stamp(1, 2, 4), Stamp(1, 2, 3), [(0, b"map")])):
        yield b"\0" + data
        yield b"\1" + data


def check(data: bytes) -> None:
    """What decodes encodes to the same octets, and a journal gives as many frames as can be read."""
    frame = data[1:]
    at = layout.FRAME.at["crc"]
    if data[:1] == b"\1" and len(frame) >= layout.FRAME.size:
        checksum = crc32(frame[layout.FRAME.size :], crc32(frame[:at])).to_bytes(4, "little")
        frame = frame[:at] + checksum + frame[at + 4 :]
    whole = 0
    try:
        while whole < len(frame):
            read, end = frames.decode(frame, whole)
            assert frames.encode(*read) == frame[whole:end]
            whole = end
    except ValueError:
        pass
    assert sum(len(frames.encode(*read)) for read in frames.read_journal(frame)) == whole
