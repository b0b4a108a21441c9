"""The decided table in parts: what changed in a round is written and read again, the rest stays.

Lives here: which part a block is in, a part's octets, the table of all parts. Does not live here: which cells are
decided (`rtt.decide`), where parts are kept (the registry's).

A part is a small `Table` of its blocks, compressed. It is written once under its number and never changed: whoever
has the list of numbers has one state of the table and no other.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt.cells import EPOCH_S, I64, U64, Cells, blocks_of, columns_of
from dnsd.rtt.table import BLOCKS_MOST, COUNT_SCALE, Table

SHARDS: Final = 256
OCTETS_MOST: Final = 256 << 20
_LEVEL: Final = 1
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)


def shard_of(blocks: U64) -> I64:
    """The part of each block."""
    return ((blocks * _ODD) >> np.uint64(56)).astype(np.int64)


def made(cells: Cells, shards: Iterable[int], number: int, now_s: int) -> dict[int, bytes]:
    """These parts as they are now; empty octets for one without blocks."""
    wanted = np.zeros(SHARDS, np.bool_)
    wanted[list(shards)] = True
    decided = np.flatnonzero(cells["ms"])
    part = shard_of(blocks_of(cells.keys[decided]))
    decided, part = decided[wanted[part]], part[wanted[part]]
    order = np.argsort(part, kind="stable")
    ends = np.searchsorted(part[order], np.arange(SHARDS + 1))
    found = {}
    for shard in np.flatnonzero(wanted).tolist():
        numbers = decided[order[ends[shard] : ends[shard + 1]]]
        found[shard] = zlib.compress(_table(cells, numbers, number, now_s).to_bytes(), _LEVEL) if len(numbers) else b""
    return found


def read(octets: bytes) -> Table:
    """A part; ValueError where it is none."""
    try:
        packed = zlib.decompressobj()
        table = Table.from_bytes(packed.decompress(octets, OCTETS_MOST))
    except zlib.error as problem:
        raise ValueError(f"no part of an RTT table: {problem}") from None
    return table


def joined(parts: Sequence[Table], sites: Sequence[str], between: Mapping[str, Mapping[str, float]], *, number: int,
           at_ms: int) -> Table:
    """The table of all parts, with these sites and what is known between them."""
    blocks = np.concatenate([part.blocks for part in parts]) if parts else np.zeros(0, np.uint64)
    order = np.argsort(blocks, kind="stable")
    blocks = blocks[order][:BLOCKS_MOST]
    table = Table.zeros(tuple(sites), blocks, number=number, at_ms=at_ms)
    column = {site: at for at, site in enumerate(table.sites)}
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    first = 0
    for part in parts:
        rows = place[first : first + len(part.blocks)]
        first += len(part.blocks)
        mine = np.array([at for at, site in enumerate(part.sites) if site in column], np.int64)
        theirs = np.array([column[part.sites[at]] for at in mine.tolist()], np.int64)
        for name in ("ms", "error", "count", "seen", "reporters"):
            getattr(table, name)[np.ix_(rows, theirs)] = getattr(part, name)[:, mine]
        table.weight[rows] = part.weight
    for one, row in between.items():
        for other, ms in row.items():
            if one in column and other in column:
                table.between[column[one], column[other]] = min(max(round(ms * 10), 1), 0xFFFF)
    return _rows(table, np.asarray(table.ms.any(axis=1)))  # not what only sites that are gone were measured from


def _rows(table: Table, kept: NDArray[np.bool_]) -> Table:
    """A table of these rows."""
    if kept.all():
        return table
    parts: dict[str, Any] = {name: getattr(table, name)[kept] for name in (
        "blocks", "ms", "error", "count", "seen", "reporters", "weight")}
    return replace(table, **parts)


def _table(cells: Cells, numbers: I64, number: int, now_s: int) -> Table:
    """Decided cells as a table of their own."""
    columns = columns_of(cells.keys[numbers])
    used = np.unique(columns)
    blocks, row = np.unique(blocks_of(cells.keys[numbers]), return_inverse=True)
    table = Table.zeros(tuple(str(cells.sites[one]) for one in used), blocks, number=number,
                        at_ms=(EPOCH_S + now_s) * 1000)
    found = cells.estimate(numbers, now_s)
    at: tuple[NDArray[Any], NDArray[Any]] = (row, np.searchsorted(used, columns))
    table.ms[at] = cells["ms"][numbers]
    table.error[at] = np.clip(np.ceil(found.error), 1, 255)
    table.count[at] = np.minimum(np.rint(np.log2(1 + found.samples) * COUNT_SCALE), 255)
    table.seen[at] = cells["at"][numbers].max(axis=1) // 60
    table.reporters[at] = found.reporters
    hours = cells.half_life_s / 3600 / np.log(2)
    np.add.at(table.weight, row, (cells.decayed(numbers, now_s).sum(axis=1) / hours).astype(np.float32))
    return table


def without(table: Table, gone: Iterable[int]) -> Table:
    """A table without the blocks of some parts."""
    left = np.ones(SHARDS, np.bool_)
    left[list(gone)] = False
    return _rows(table, left[shard_of(table.blocks)])
