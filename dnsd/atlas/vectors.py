"""Milliseconds to every site for all that a map tells apart, where round trips were measured.

Lives here: the atlas and the measured table as `rtt.infer` takes them, and what it says as vectors: one for each class
of origins that share all evidence, one for each measured block, one for what a prefix says of a class. Does not live
here: inference (`rtt.infer`), levels and rows (`atlas.derive`), the file that people are told from (`atlas.estimates`).

A measured cell is what it was measured, whatever inference would have said; a block's other cells are its class's,
moved by what the block's own cells have in common. A block whose place nobody knows is where it was measured best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import flatten, levels, positions
from dnsd.atlas.prefixes import U8, U32, U64, distinct
from dnsd.atlas.store import Atlas
from dnsd.image import layout
from dnsd.rtt import blocks, infer, infer_field
from dnsd.rtt.infer import DISTANCE, MEASURED, MODEL, SOURCES, Check, Inferred
from dnsd.rtt.infer_field import Points
from dnsd.rtt.table import TENTHS, Table
from dnsd.steer import distance

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LEAST_MS: Final = 0.1
_MAPPED, _NAT64, _TEREDO, _SIX_TO_FOUR = (np.uint64(top) for top in (0, 0x0064FF9B0000, 0x20010000, 0x2002))
"""/48s, a /32 and a /16 of IPv6 whose clients are the IPv4 inside, so that a block there is nobody's."""


class Where(levels.Where, Protocol):
    """As much of a site as matters here."""

    @property
    def id(self) -> str:
        """Its name in the measured table."""


class Vectors(NamedTuple):
    """`ms`, `error_ms`, `source` (vectors, sites), and each vector's origin's number, for its place and networks.

    First the classes (`of_origin` says which of them an origin has), then what prefixes say of classes (`pairs`:
    class << 32 | prefix, sorted), then the measured blocks, from vector `first_block` on.
    """

    ms: F64
    error_ms: F64
    source: U8
    origin: I64
    of_origin: I64
    pairs: I64
    blocks: U64
    rows: I64
    """Of each block, its row in the measured table."""
    prefixes: U64
    check: Check

    @property
    def first_block(self) -> int:
        """The vector of the first block."""
        return len(self.ms) - len(self.blocks)


class Cells(NamedTuple):
    """Runs of one family cut at measured blocks and prefixes: starts, the origin, the vector (-1: the origin's)."""

    starts: U64
    origins: U32
    vectors: I64


def of(atlas: Atlas, sites: Sequence[Where], table: Table) -> Vectors | None:
    """All vectors; None where the table says nothing of these sites."""
    seen, rows = _seen(atlas, sites, table)
    if not len(rows):
        return None
    points = Points(np.array([site.latitude for site in sites]), np.array([site.longitude for site in sites]))
    between = _between(sites, table)
    inferred = infer.infer(_ground(atlas), points, seen, between)
    place = atlas.arrays["place"]
    of_origin, firsts = _classes(inferred, place)
    parts = [_by_origin(inferred, place, firsts)]
    pairs = np.zeros(0, np.int64)
    if inferred.prefixes is not None:
        pairs, part = _by_prefix(atlas, inferred.prefixes, of_origin, parts[0])
        parts.append(part)
    parts.append(_by_block(inferred, seen, of_origin, parts[0]))
    whole = Part(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    ms = np.exp(whole.logs) - infer.SOFT_MS
    error_ms = np.sqrt(whole.variance) * (ms + infer.SOFT_MS)
    with np.errstate(invalid="ignore"):
        ms = np.maximum(ms, np.maximum(inferred.least_ms[place[whole.origin]], LEAST_MS))
    here, mine = np.isfinite(seen.ms), len(ms) - len(rows)
    ms[mine:][here], error_ms[mine:][here], whole.source[mine:][here] = seen.ms[here], seen.error[here], MEASURED
    lost = mine + np.flatnonzero(np.isnan(ms[mine:]).any(axis=1))
    ms[lost] = _by_best(ms[lost], points, between)
    ms += np.array([site.shift_ms for site in sites])
    prefixes = np.zeros(0, np.uint64) if inferred.prefixes is None else inferred.prefixes.of.astype(np.uint64)
    return Vectors(ms, error_ms, whole.source, whole.origin, of_origin, pairs, seen.blocks, rows, prefixes,
                   inferred.check)


def cut4(atlas: Atlas, vectors: Vectors) -> Cells:
    """The IPv4 runs, keys address >> 8."""
    mine = (vectors.blocks & np.uint64(blocks.SIX)) == 0
    return _cut(atlas.arrays["starts4"].astype(np.uint64), atlas.arrays["origins4"], vectors, mine, 4)


def cut6(atlas: Atlas, vectors: Vectors) -> Cells:
    """The IPv6 runs, keys the upper 64 bits."""
    mine = (vectors.blocks & np.uint64(blocks.SIX)) > 0
    return _cut(atlas.arrays["starts6"], atlas.arrays["origins6"], vectors, mine, 6)


def pair(classes: I64, prefixes: I64) -> I64:
    """The key of what a prefix says of a class."""
    return classes << 32 | prefixes


# --- in ---


def _seen(atlas: Atlas, sites: Sequence[Where], table: Table) -> tuple[infer.Seen, I64]:
    """The blocks with a cell at any of these sites, and their rows in the table."""
    column = {site: number for number, site in enumerate(table.sites)}
    ms = np.full((len(table.blocks), len(sites)), np.nan)
    error = np.ones(ms.shape)
    for number, site in enumerate(sites):
        if site.id in column:
            tenths = table.ms[:, column[site.id]]
            ms[:, number] = np.where(tenths > 0, tenths / TENTHS, np.nan)
            error[:, number] = np.maximum(1, table.error[:, column[site.id]])
    rows = np.flatnonzero(np.isfinite(ms).any(axis=1) & ~_carrying(table.blocks))
    numbers = table.blocks[rows]
    origin = positions.origins(atlas, numbers).astype(np.int64)
    return infer.Seen(numbers, origin, ms[rows], error[rows]), rows


def _carrying(numbers: U64) -> NDArray[np.bool_]:
    """IPv6 blocks that only carry IPv4."""
    upper = numbers ^ np.uint64(blocks.SIX)
    found: NDArray[np.bool_] = (upper == _MAPPED) | (upper == _NAT64)
    found |= (upper >> np.uint64(16) == _TEREDO) | (upper >> np.uint64(32) == _SIX_TO_FOUR)
    return found & ((numbers & np.uint64(blocks.SIX)) > 0)


def _ground(atlas: Atlas) -> infer.Ground:
    arrays = atlas.arrays
    _, country = np.unique(arrays["country"], return_inverse=True)  # the unknown one, "", sorts first
    return infer.Ground(
        Points(arrays["latitude"], arrays["longitude"]), country.reshape(-1).astype(np.int64),
        *(arrays[name].astype(np.int64) for name in ("place", "asn", "carrier")))


def _between(sites: Sequence[Where], table: Table) -> F64:
    """Milliseconds between sites, NaN where not known."""
    column = [table.sites.index(site.id) if site.id in table.sites else -1 for site in sites]
    known = np.array([at >= 0 for at in column])
    if not known.any():
        return np.full((len(sites), len(sites)), np.nan)
    tenths = table.between[np.ix_(column, column)] * (known[:, None] & known)
    return np.where(tenths > 0, tenths / TENTHS, np.nan)


# --- out ---


class Part(NamedTuple):
    """Some vectors as inference has them: logs, variances, sources, and an origin of each."""

    logs: F64
    variance: F64
    source: U8
    origin: I64


def _classes(inferred: Inferred, place: U32) -> tuple[I64, I64]:
    """The class of each origin, and an origin of each class."""
    firsts, which = flatten.groups([place, *(rung.of.astype(np.uint32) for rung in inferred.rungs)])
    return which, firsts


def _by_origin(inferred: Inferred, place: U32, origins: I64) -> Part:
    """What is estimated of these origins."""
    at = place[origins]
    kind = MODEL if SOURCES[MODEL] in inferred.check.steps else DISTANCE
    part = Part(inferred.base[at], inferred.spread[at], np.full((len(at), inferred.base.shape[1]), kind, np.uint8),
                origins)
    for rung in inferred.rungs:
        _climb(rung, rung.of[origins], part)
    return part


def _climb(rung: infer.Rung, group: I64, part: Part) -> None:
    """Add what a rung says to estimates, in place."""
    has = group > 0
    part.logs[has] += rung.effects.value[group[has]]
    known = (rung.effects.cells[group] > 0) & has[:, None]
    part.variance[known] = rung.effects.variance[group][known]
    part.source[known] = SOURCES.index(rung.name)


def _copied(part: Part, rows: I64, origin: I64) -> Part:
    return Part(part.logs[rows], part.variance[rows], part.source[rows], origin)


def _by_prefix(atlas: Atlas, rung: infer.Rung, of_origin: I64, classes: Part) -> tuple[I64, Part]:
    """What prefixes say of the classes that have addresses in them: pairs and their estimates."""
    found = []
    for version, shift in ((4, np.uint64(0)), (6, np.uint64(16))):
        low, high, number = _spans(rung.of.astype(np.uint64), version, shift)
        starts, origins = atlas.arrays[f"starts{version}"], atlas.arrays[f"origins{version}"]
        first = np.searchsorted(starts, low.astype(starts.dtype), "right") - 1
        counts = np.searchsorted(starts, high.astype(starts.dtype), "right") - first
        found.append(pair(of_origin[origins[flatten.ranges(first, counts)]], np.repeat(number, counts)))
    pairs = np.unique(np.concatenate(found))
    part = _copied(classes, pairs >> 32, classes.origin[pairs >> 32])
    _climb(rung, (pairs & 0xFFFFFFFF) + 1, part)
    return pairs, part


def _spans(prefixes: U64, version: int, shift: np.uint64) -> tuple[U64, U64, I64]:
    """First and last keys and numbers of the prefixes of one family."""
    six = (prefixes & np.uint64(blocks.SIX)) > 0
    number = np.flatnonzero(six if version == 6 else ~six)
    wide = np.uint64(infer.PREFIX_BITS[version == 6])
    low = ((prefixes[number] ^ np.uint64(blocks.SIX if version == 6 else 0)) << wide) << shift
    return low, low + ((np.uint64(1) << (wide + shift)) - np.uint64(1)), number


def _by_block(inferred: Inferred, seen: infer.Seen, of_origin: I64, classes: Part) -> Part:
    """What is estimated of the measured blocks at the sites where they were not measured."""
    part = _copied(classes, of_origin[seen.origin], seen.origin)
    if inferred.prefixes is not None:
        prefixes, mine = inferred.prefixes.of.astype(np.uint64), infer.prefix_of(seen.blocks)
        at = np.minimum(np.searchsorted(prefixes, mine), len(prefixes) - 1)
        _climb(inferred.prefixes, np.where(prefixes[at] == mine, at + 1, 0), part)
    return part._replace(logs=part.logs + inferred.own)


def _by_best(ms: F64, sites: Points, between: F64) -> F64:
    """Of blocks with no place: as far from each site as the site is from that where the block was measured best."""
    if not len(ms):
        return ms
    apart = distance.BASE_MS + distance.MS_PER_KM * infer_field.kilometres(sites, sites)
    np.fill_diagonal(apart, 0.0)
    apart = np.where(np.isfinite(between), between, apart)
    best = np.nanargmin(ms, axis=1)
    return np.where(np.isnan(ms), np.nanmin(ms, axis=1)[:, None] + apart[best], ms)


def _cut(starts: U64, origins: U32, vectors: Vectors, mine: NDArray[np.bool_], version: int) -> Cells:
    """One family's runs, cut where a block or a prefix begins or ends. What ends with the space has no key after."""
    shift, family = np.uint64(16 if version == 6 else 0), np.uint64(blocks.SIX if version == 6 else 0)
    last = np.uint64((1 << (layout.KEY6_BITS if version == 6 else layout.KEY4_BITS)) - 1)
    low = (vectors.blocks[mine] ^ family) << shift
    end = low + ((np.uint64(1) << shift) - np.uint64(1))
    first, until, number = _spans(vectors.prefixes, version, shift)
    edges = np.concatenate((starts, low, end[end < last] + np.uint64(1), first, until[until < last] + np.uint64(1)))
    edges = distinct(edges)
    origin = origins[np.searchsorted(starts, edges, "right") - 1]
    found = np.full(len(edges), -1, np.int64)
    if len(first):
        at = np.maximum(np.searchsorted(first, edges, "right") - 1, 0)
        inside = (edges >= first[at]) & (edges <= until[at])
        wanted = pair(vectors.of_origin[origin[inside]], number[at[inside]])
        classes = vectors.first_block - len(vectors.pairs)
        found[inside] = classes + np.searchsorted(vectors.pairs, wanted)
    if len(low):
        at = np.maximum(np.searchsorted(low, edges, "right") - 1, 0)
        inside = (edges >= low[at]) & (edges <= end[at])
        found[inside] = vectors.first_block + np.flatnonzero(mine)[at[inside]]
    return Cells(edges, origin, found)
