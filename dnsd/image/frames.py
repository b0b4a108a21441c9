"""Frames: what control tells workers, and the journal that is the same frames one after another.

Lives here: bytes to `Frame` and back, splitting, reading a journal with a torn tail.
Does not live here: sockets, files, when a frame is applied (`serve.worker`).

A frame names the stamp it starts from and the stamp it leads to, so a receiver needs no memory beyond its own stamp: it
applies what starts where it stands, passes over what it already has, and re-reads the files on anything else. A frame
is one datagram and becomes visible whole; a change too large for one goes out as a whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from dnsd.image import layout
from dnsd.model import Stamp


class Frame(NamedTuple):
    """One frame; `items` are (index, bytes), see `layout.F_*` for their meaning."""

    kind: int
    stamp: Stamp
    start: Stamp
    items: list[tuple[int, bytes]]


def encode(kind: int, stamp: Stamp, start: Stamp, items: Sequence[tuple[int, bytes]] = ()) -> bytes:
    """One frame; ValueError when it would not fit a packet (`layout.FRAME_MAX`): then the whole image is the way."""
    body = b"".join(layout.ITEM.struct.pack(index, len(data)) + data for index, data in items)
    if layout.FRAME.size + len(body) > layout.FRAME_MAX or len(items) > 0xFFFF:
        raise ValueError(f"frame of {len(body)} octets")
    head = layout.FRAME.struct.pack(
        layout.FRAME_MAGIC, kind, len(items), stamp.epoch, stamp.version, stamp.node_seq, start.version, start.node_seq,
        len(body), 0)[:_CRC]
    return head + crc32(body, crc32(head)).to_bytes(4, "little") + body


_CRC: Final = layout.FRAME.at["crc"]
"""The checksum stands last in the head and is of all the rest: a stamp that lies would be as bad as a torn record."""


def fits(items: Sequence[tuple[int, bytes]]) -> bool:
    """Whether these items go into one frame, that is become visible at once."""
    return layout.FRAME.size + sum(layout.ITEM.size + len(data) for _, data in items) <= layout.FRAME_MAX


def decode(data: bytes | memoryview, at: int = 0) -> tuple[Frame, int]:
    """The frame at that offset and where the next begins; ValueError for anything torn, damaged or foreign."""
    if len(data) - at < layout.FRAME.size:
        raise ValueError("torn frame")
    (magic, kind, count, epoch, version, node_seq, from_version, from_node_seq, size, crc) = (
        layout.FRAME.unpack_from(data, at))
    body = bytes(data[at + layout.FRAME.size : at + layout.FRAME.size + size])
    if magic != layout.FRAME_MAGIC or len(body) != size or crc32(body, crc32(data[at : at + _CRC])) != crc:
        raise ValueError("torn or damaged frame")
    items: list[tuple[int, bytes]] = []
    offset = 0
    for _ in range(count):
        if offset + layout.ITEM.size > size:
            raise ValueError("frame's items exceed it")
        index, length = layout.ITEM.unpack_from(body, offset)
        offset += layout.ITEM.size
        if offset + length > size:
            raise ValueError("frame's items exceed it")
        items.append((index, body[offset : offset + length]))
        offset += length
    if offset != size:
        raise ValueError("octets behind the frame's items")
    frame = Frame(kind, Stamp(epoch, version, node_seq), Stamp(epoch, from_version, from_node_seq), items)
    return frame, at + layout.FRAME.size + size


def read_journal(data: bytes | memoryview) -> list[Frame]:
    """The journal's frames up to its end or to the first torn one: a crash while writing loses only what was torn."""
    found: list[Frame] = []
    at = 0
    while at < len(data):
        try:
            frame, at = decode(data, at)
        except ValueError:
            break
        found.append(frame)
    return found
