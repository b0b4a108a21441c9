"""The decided round-trip times: client block × site, as arrays in memory and as one file.

Lives here: `Table` and its file. Does not live here: a block's number (`rtt.blocks`), how a cell comes about
(`rtt.cells`), when it may move (`rtt.decide`), what follows for blocks nobody measured (`rtt.infer`).

A table says of every cell how sure it is and how old; what it does not say (0 tenths) nobody has measured. Tables are
compared by `digest`, which holds all that answers may depend on: neither number and time nor `seen`, which people
read.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnsd import disk

EPOCH_MINUTES: Final = 29_453_760
"""2026-01-01 00:00 UTC in minutes since 1970: what `Table.seen` counts from."""

COUNT_SCALE: Final = 8
"""`Table.count` is round(8 × log2(1 + samples)), 255 at most: 3.9 billion."""

TENTHS: Final = 10
MS_MOST: Final = 5000
BLOCKS_MOST: Final = 1_000_000
SITES_MOST: Final = 254
MAGIC: Final = b"DNSDRTT1"
_HEAD: Final = struct.Struct("<8sIIQQII")
"""Magic, CRC of what follows, octets of the sites' JSON, number, at, blocks, sites."""

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """Decided cells. Rows are `blocks`, columns `sites`; `between` is from a row's site to a column's."""

    number: int
    at_ms: int
    sites: tuple[str, ...]
    blocks: U64
    """(N,) sorted."""
    ms: U16
    """(N, S) tenths of a millisecond; 0: not measured."""
    error: U8
    """(N, S) milliseconds, one sigma, at least 1 where measured."""
    count: U8
    """(N, S) `COUNT_SCALE` × log2(1 + samples that still weigh)."""
    seen: U32
    """(N, S) minute of the newest sample, since `EPOCH_MINUTES`: for people, no answer may depend on it."""
    reporters: U8
    """(N, S) how many reporters' word it is."""
    weight: F32
    """(N,) samples an hour, decayed: what the block weighs among clients."""
    between: U16
    """(S, S) tenths of a millisecond between sites; 0: not known."""

    @classmethod
    def empty(cls, sites: tuple[str, ...] = (), *, number: int = 0, at_ms: int = 0) -> Table:
        """Nothing measured."""
        return cls.zeros(sites, np.zeros(0, np.uint64), number=number, at_ms=at_ms)

    @classmethod
    def zeros(cls, sites: tuple[str, ...], blocks: U64, *, number: int = 0, at_ms: int = 0) -> Table:
        """A table whose cells are to be filled in."""
        shape = len(blocks), len(sites)
        return cls(
            number, at_ms, sites, blocks, np.zeros(shape, np.uint16), np.zeros(shape, np.uint8),
            np.zeros(shape, np.uint8), np.zeros(shape, np.uint32), np.zeros(shape, np.uint8),
            np.zeros(len(blocks), np.float32), np.zeros((len(sites), len(sites)), np.uint16))

    @cached_property
    def digest(self) -> str:
        """16 hex digits of everything but number, time and `seen`."""
        hashed = hashlib.blake2b(json.dumps(self.sites).encode(), digest_size=8)
        for part in (part for part in _ARRAYS if part != "seen"):
            hashed.update(np.ascontiguousarray(getattr(self, part)).tobytes())
        return hashed.hexdigest()

    def find(self, block: int) -> int | None:
        """The row of a block (`blocks.of`)."""
        at = int(np.searchsorted(self.blocks, np.uint64(block)))
        return at if at < len(self.blocks) and int(self.blocks[at]) == block else None

    def samples(self) -> NDArray[np.float64]:
        """(N, S) `count` as samples."""
        return np.asarray(np.exp2(self.count / COUNT_SCALE) - 1.0, np.float64)

    def to_bytes(self) -> bytes:
        """The file's octets; ValueError when the arrays contradict each other."""
        if fault := shape_faults(self):
            raise ValueError(f"RTT table: {fault}")
        names = json.dumps(self.sites).encode()
        body = b"".join([names, *(
            np.ascontiguousarray(getattr(self, part), dtype.newbyteorder("<")).tobytes()
            for part, dtype in _ARRAYS.items())])
        return _HEAD.pack(
            MAGIC, zlib.crc32(body), len(names), self.number, self.at_ms, len(self.blocks), len(self.sites)) + body

    def write(self, path: Path) -> int:
        """Puts the file in its place, whole; returns its octets."""
        octets = self.to_bytes()
        disk.replace(path, octets)
        return len(octets)

    @classmethod
    def from_bytes(cls, octets: bytes) -> Table:
        """The table of `to_bytes`; ValueError where it is none, or not sound."""
        if len(octets) < _HEAD.size:
            raise ValueError("is shorter than its header")
        magic, crc, named, number, at_ms, rows, columns = _HEAD.unpack_from(octets)
        if magic != MAGIC or rows > BLOCKS_MOST or columns > SITES_MOST:
            raise ValueError("is no RTT table of this version")
        shapes = {part: _shape(part, rows, columns) for part in _ARRAYS}
        sizes = {part: int(np.prod(shapes[part])) * _ARRAYS[part].itemsize for part in _ARRAYS}
        if len(octets) != _HEAD.size + named + sum(sizes.values()) or zlib.crc32(octets[_HEAD.size:]) != crc:
            raise ValueError("is damaged, its size or checksum differs")
        offset, arrays = _HEAD.size + named, {}
        for part, dtype in _ARRAYS.items():
            flat = np.frombuffer(octets, dtype.newbyteorder("<"), int(np.prod(shapes[part])), offset)
            arrays[part] = flat.astype(dtype, copy=False).reshape(shapes[part])
            offset += sizes[part]
        sites = json.loads(octets[_HEAD.size : _HEAD.size + named])
        if not isinstance(sites, list) or len(sites) != columns or not all(isinstance(one, str) for one in sites):
            raise ValueError("has not the sites it says")
        table = cls(number, at_ms, tuple(sites), **arrays)
        if fault := shape_faults(table):
            raise ValueError(fault)
        return table

    @classmethod
    def read(cls, path: Path) -> Table:
        """A file's table; ValueError where there is none, or it is not sound."""
        try:
            octets = disk.read(path)
            if octets is None:
                raise ValueError("is not there")
            return cls.from_bytes(octets)
        except (ValueError, OSError) as problem:
            raise ValueError(f"RTT table {path}: {problem}") from None


def shape_faults(table: Table) -> str:
    """What contradicts itself in a table's arrays; empty when nothing does."""
    rows, columns = len(table.blocks), len(table.sites)
    for part, dtype in _ARRAYS.items():
        array = getattr(table, part)
        if array.shape != _shape(part, rows, columns) or array.dtype != dtype:
            return f"{part} is {array.dtype} {array.shape}"
    if len(set(table.sites)) != columns:
        return "a site is there twice"
    if rows > 1 and not bool(np.all(table.blocks[1:] > table.blocks[:-1])):
        return "its blocks are not in order"
    if rows and not bool(np.all(np.isfinite(table.weight))):
        return "a weight is no number"
    return ""


_ARRAYS: Final[dict[str, np.dtype[Any]]] = {
    "blocks": np.dtype(np.uint64), "ms": np.dtype(np.uint16), "error": np.dtype(np.uint8),
    "count": np.dtype(np.uint8), "seen": np.dtype(np.uint32), "reporters": np.dtype(np.uint8),
    "weight": np.dtype(np.float32), "between": np.dtype(np.uint16)}


def _shape(part: str, rows: int, columns: int) -> tuple[int, ...]:
    wanted = {"blocks": (rows,), "weight": (rows,), "between": (columns, columns)}
    return wanted.get(part, (rows, columns))
