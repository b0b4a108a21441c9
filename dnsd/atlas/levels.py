"""Extra milliseconds by distance, and the kinds of rows they make, for every place and site at once.

Lives here: great circles, levels, rows that are alike made one; in numpy, and by `rows.pyx` where that is compiled: the
same operations in the same order, so the same octets. Does not live here: the formula's constants (`steer.distance`),
levels themselves (`steer.row`), which bits a place has and who gets which row (`atlas.derive`).

Levels below FAR_MS are a place's own. A far site's level is that of the mean over all places which agree in every near
level, country and region bit, so far sites never split a row: they keep a full order for the day the near ones die and
cost no scope block. (Eight cloud regions, IPv4: levels of the place's own throughout 1.95 M blocks; so 1.13 M.)

An angle is found from its cosine by a polynomial (Abramowitz and Stegun 4.4.46): 0.2 m off at most, where `asin` is
exact, takes four times as long, and rounds differently on different machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import compiled
from dnsd.atlas.prefixes import U8, U32
from dnsd.steer import distance
from dnsd.steer.row import LEVEL_MS, ROW_UNKNOWN, level_of

FAR_MS: Final = 60
"""From so many extra milliseconds on a site is far: a lower bound of `steer.row.LEVEL_MS`."""

DENSE: Final = 1 << 24
"""Numbers up to here are marked in a table, greater ones sorted."""

F64 = NDArray[np.float64]

_ARC: Final = np.array([1.5707963050, -0.2145988016, 0.0889789874, -0.0501743046, 0.0308918810, -0.0170881256,
                        0.0066700901, -0.0012624911])
_FAR: Final = np.uint8(level_of(FAR_MS))
_LEVEL_OF: Final = np.array([level_of(ms) for ms in range(LEVEL_MS[-1] + 1)], np.uint8)
"""Levels begin at whole milliseconds."""


class Where(Protocol):
    """As much of a site as matters here."""

    @property
    def latitude(self) -> float:
        """Degrees."""

    @property
    def longitude(self) -> float:
        """Degrees."""

    @property
    def shift_ms(self) -> float:
        """Milliseconds more from everywhere."""


class Kinds(NamedTuple):
    """Distinct rows, sorted: (kinds, 2 x sites) levels, then bits; and which of them each asked for has."""

    rows: U8
    of: U32


def extra_ms(latitude: F64, longitude: F64, sites: Sequence[Where]) -> F64:
    """(places, sites) milliseconds over the place's best site; 0 where the position is unknown."""
    found = np.zeros((len(latitude), len(sites)))
    if not sites:
        return found
    there = _vectors(np.array([site.latitude for site in sites]), np.array([site.longitude for site in sites]))
    base = distance.BASE_MS + np.array([site.shift_ms for site in sites])
    scale = distance.EARTH_KM * distance.MS_PER_KM
    fill = compiled.rows.extra if compiled.rows else _extra

    def part(some: slice) -> None:
        fill(_vectors(latitude[some], longitude[some]), there, base, scale, _ARC, found[some])

    _in_two(part, len(latitude))
    return found


def kinds(extra: F64, bits: U8, weights: F64) -> Kinds:
    """The kinds of rows of so many (n, sites) extra milliseconds and match bits, each of which weighs so much."""
    sites = extra.shape[1]
    cells = np.empty((len(extra), 2 * sites), np.uint8)
    cells[:, sites:] = bits
    fill = compiled.rows.near if compiled.rows else _near
    _in_two(lambda some: fill(extra[some], _LEVEL_OF, _FAR, cells[some]), len(extra))
    alike = distinct(cells)
    mean = _means(extra, weights, alike)
    rows = alike.rows.copy()
    far = rows[:, :sites] == _FAR
    rows[:, :sites][far] = _LEVEL_OF[np.clip(mean[far], FAR_MS, LEVEL_MS[-1]).astype(np.intp)]
    order = _order(rows)  # rows that differed still do: near levels and bits are as they were
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return Kinds(rows[order], rank[alike.of])


def distinct(cells: U8) -> Kinds:
    """The distinct rows of a matrix, sorted, and which of them each row is."""
    if not cells.shape[1]:
        return Kinds(cells[:1], np.zeros(len(cells), np.uint32))
    if compiled.rows:
        which, first = compiled.rows.number(cells)
    else:
        _, first, which = np.unique(_texts(cells), return_index=True, return_inverse=True)
    some = np.ascontiguousarray(cells[first])
    order = _order(some)
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return Kinds(some[order], rank[which.reshape(-1)])


def paired(place: Kinds, part: U32, net: Kinds, unknown: NDArray[np.bool_]) -> tuple[U8, U32]:
    """Distinct rows of places' and networks' kinds, and the row of each user.

    `part` are positions in `place.of`; `net.of` and `unknown` are of users. Row ROW_UNKNOWN is theirs of whom nothing
    is known, and nobody else's.
    """
    end = len(place.rows) * len(net.rows) + 1
    if compiled.rows and end <= DENSE:
        pairs, row_of = compiled.rows.paired(place.of, part, net.of, unknown.view(np.uint8), len(net.rows), end)
    else:
        numbers = place.of[part].astype(np.int64) * len(net.rows) + net.of + 1
        numbers[unknown] = ROW_UNKNOWN
        pairs, row_of = present(numbers, end, ROW_UNKNOWN)
    sites = net.rows.shape[1]
    some, other = place.rows[(pairs - 1) // len(net.rows)], net.rows[(pairs - 1) % len(net.rows)]
    rows = np.hstack((some[:, :sites], some[:, sites:] | other))
    rows[ROW_UNKNOWN] = 0
    return rows, row_of


def present(numbers: NDArray[np.int64], end: int, *always: int) -> tuple[NDArray[np.int64], U32]:
    """The numbers below `end` that there are, sorted, and which of them each is."""
    if end > DENSE:
        found, which = np.unique(np.append(numbers, np.array(always, np.int64)), return_inverse=True)
        return found, which.reshape(-1)[: len(numbers)].astype(np.uint32)
    there = np.zeros(end, np.bool_)
    there[numbers] = True
    there[list(always)] = True
    return np.flatnonzero(there), (np.cumsum(there, dtype=np.uint32) - np.uint32(1))[numbers]


def _means(extra: F64, weights: F64, alike: Kinds) -> F64:
    """(kinds, sites) mean extra milliseconds of those that are alike."""
    total = np.bincount(alike.of, weights, len(alike.rows))
    sums = np.zeros((len(alike.rows), extra.shape[1]))
    add = compiled.rows.add if compiled.rows else _add
    _in_two(lambda some: add(extra[:, some], weights, alike.of, sums[:, some]), extra.shape[1])
    found: F64 = sums / total[:, None]
    return found


def _in_two(work: Callable[[slice], None], count: int) -> None:
    """Do the two halves of so many at once."""
    half = count // 2
    with ThreadPoolExecutor(1) as beside:
        other = beside.submit(work, slice(0, half))
        work(slice(half, count))
        other.result()


def _vectors(latitude: F64, longitude: F64) -> F64:
    """(places, 3) unit vectors of places in degrees."""
    north, east = np.radians(latitude), np.radians(longitude)
    flat = np.cos(north)
    return np.stack((flat * np.cos(east), flat * np.sin(east), np.sin(north)), axis=1)


def _order(rows: U8) -> NDArray[np.int64]:
    """Which row comes first, second and so on, by octets."""
    return np.argsort(_texts(rows), kind="stable") if rows.shape[1] else np.arange(len(rows))


def _texts(rows: U8) -> NDArray[Any]:
    """Rows as texts: of one width, so that they are equal and sort as their octets do."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").reshape(-1)


# --- what `rows.pyx` does ---


def _extra(here: F64, there: F64, base: F64, scale: float, arc: F64, out: F64) -> None:
    """Fill (places, sites) with milliseconds over the best: `scale` for a radian, on top of `base` of each site."""
    cosine = here[:, :1] * there[:, 0] + here[:, 1:2] * there[:, 1] + here[:, 2:] * there[:, 2]
    steep = np.minimum(np.abs(cosine), 1.0)
    angle = np.full(steep.shape, arc[-1])
    for factor in arc[-2::-1]:
        angle = angle * steep + factor
    angle *= np.sqrt(1.0 - steep)
    angle = np.where(cosine < 0, np.pi - angle, angle)
    ms = base + scale * angle
    out[:] = np.nan_to_num(ms - ms.min(axis=1, keepdims=True))


def _near(extra: F64, level: U8, far: np.uint8, cells: U8) -> None:
    """Fill the left half of (n, 2 x sites) with each one's level, at most `far`."""
    found = level[np.minimum(extra, len(level) - 1).astype(np.intp)]
    cells[:, : extra.shape[1]] = np.minimum(found, far)


def _add(extra: F64, weights: F64, of: U32, sums: F64) -> None:
    """Add each one's weighed milliseconds to the sums of its kind."""
    for column in range(extra.shape[1]):
        sums[:, column] += np.bincount(of, weights * extra[:, column], len(sums))
