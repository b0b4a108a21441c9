"""Map table files: writing what workers map, and enough reading to report on one.

Lives here: arrays to the sections of `layout.map_sections`, the index arrays, counting scope blocks of a file. Does not
live here: offsets (`image.layout`), look-ups (`image.table`), what the rows hold (`atlas.derive`).

`index[s]` is the run that holds the first key of slot s, so the run of any key of the slot lies between `index[s]` and
`index[s + 1]`, both included.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnsd import disk
from dnsd.atlas import flatten, store
from dnsd.atlas.prefixes import U8, U32, U64
from dnsd.image import layout
from dnsd.steer.row import LEVEL_MS


@dataclass(frozen=True, slots=True)
class Table:
    """A map table as arrays: `rows` is (rows, 2 x sites), levels then match bits; starts4 are address >> 8; fine tables
    (low, high) pairs flat."""

    rows: U8
    starts4: U32
    rows4: U32
    starts6: U64
    rows6: U32
    fine4: U32
    fine_rows4: U32
    fine6: U64
    fine_rows6: U32

    def blocks(self) -> tuple[int, int]:
        """Largest aligned blocks the IPv4 and IPv6 runs fall into: what a resolver's cache holds if it asks for all."""
        return (flatten.blocks(self.starts4, layout.KEY4_BITS),
                flatten.blocks(self.starts6, layout.ECS_MAX6, shift=8))


def write(path: Path, table: Table, *, atlas: int, made_ms: int) -> int:
    """Writes the file whole and renames it into place; returns its size."""
    levels = np.full(layout.LEVELS, LEVEL_MS[-1], np.uint32)
    levels[: len(LEVEL_MS)] = LEVEL_MS
    slots4 = np.arange(layout.INDEX4_SLOTS + 1, dtype=np.uint64) << np.uint64(layout.INDEX4_SHIFT)
    slots6 = np.arange(layout.INDEX6_SLOTS + 1, dtype=np.uint64) << np.uint64(layout.INDEX6_SHIFT)
    arrays: dict[str, NDArray[Any]] = {
        "level_ms": levels, "rows": table.rows.reshape(-1),
        "starts4": table.starts4, "rows4": table.rows4, "index4": _index(table.starts4, slots4.astype(np.uint32)),
        "starts6": table.starts6, "rows6": table.rows6,
        "index6": _index(table.starts6, slots6 + np.uint64(layout.INDEX6_BASE)),
        "fine4": table.fine4, "fine_rows4": table.fine_rows4, "fine6": table.fine6, "fine_rows6": table.fine_rows6,
    }
    counts = _counts(table)
    sections = layout.map_sections(*counts)
    size = sections.pop("end")[0]
    body: list[bytes | memoryview] = []
    at = layout.MAP_HEADER.size
    for name, (offset, _, code) in sorted(sections.items(), key=lambda item: item[1]):
        array = np.ascontiguousarray(arrays[name], {"B": "u1", "I": "<u4", "Q": "<u8"}[code])
        body += [bytes(offset - at), array.view(np.uint8).data]
        at = offset + array.nbytes
    body.append(bytes(size - at))
    names = ("sites", "rows", "runs4", "runs6", "fine4", "fine6")

    def head() -> bytes:
        return layout.MAP_HEADER.pack(
            magic=layout.MAP_MAGIC, layout=layout.LAYOUT, crc=reduce(lambda crc, part: zlib.crc32(part, crc), body, 0),
            atlas=atlas, made_ms=made_ms, size=size, **dict(zip(names, counts, strict=True)))

    disk.replace(path, bytes(layout.MAP_HEADER.size), *body, mode=store.MODE, head=head)
    return size


def _index(starts: NDArray[Any], firsts: NDArray[Any]) -> U32:
    return (np.searchsorted(starts, firsts, "right") - 1).astype(np.uint32)


def _counts(table: Table) -> tuple[int, int, int, int, int, int]:
    """sites, rows, runs4, runs6, fine4, fine6."""
    return (table.rows.shape[1] // 2, len(table.rows), len(table.starts4), len(table.starts6),
            len(table.fine_rows4), len(table.fine_rows6))


def read(path: Path) -> tuple[dict[str, int], Table]:
    """A file's header fields and its arrays; ValueError where it is no sound map table."""
    data = path.read_bytes()
    if len(data) < layout.MAP_HEADER.size:
        raise ValueError(f"{path}: is shorter than its header")
    head = layout.MAP_HEADER.read(data)
    if (data[:8], head["layout"], head["size"]) != (layout.MAP_MAGIC, layout.LAYOUT, len(data)):
        raise ValueError(f"{path}: is no map table of layout {layout.LAYOUT}")
    if zlib.crc32(data[layout.MAP_HEADER.size :]) != head["crc"]:
        raise ValueError(f"{path}: is damaged, its checksum differs")
    sections = layout.map_sections(*(head[name] for name in ("sites", "rows", "runs4", "runs6", "fine4", "fine6")))

    def array(name: str) -> NDArray[Any]:
        offset, count, code = sections[name]
        return np.frombuffer(data, {"B": "u1", "I": "<u4", "Q": "<u8"}[code], count, offset)

    return head, Table(array("rows").reshape(head["rows"], 2 * head["sites"]), *(array(name) for name in (
        "starts4", "rows4", "starts6", "rows6", "fine4", "fine_rows4", "fine6", "fine_rows6")))
