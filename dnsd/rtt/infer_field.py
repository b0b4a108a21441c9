"""The field: how round trips differ from what distance says, over the whole earth, from a few stations.

Lives here: kriging of residuals, exact, and what each station would have been told by the others. Does not live here:
what the residuals are of, whether the field is used (`rtt.infer`), what networks add to it (`rtt.infer_rungs`).

A residual at (client place a, site j) is taken to be the sum of three things, each with a declared size and reach:

    common    of the place, the same to all sites: bad access moves no answer, and must not be taken for a bad site
    site      of the site, the same to all places
    path      of places near a to sites near j: cables, peering, detours

so a place measured at one site only tells the others what it may, and no more. Sites that measure each other are
stations too. One factorisation gives the field and, by the block inverse, every station's prediction without itself
(Dubrule 1983): the check costs no second fit. Its size is bounded: stations lie together on the finest grid that has
no more than CELLS_MOST cells.

The constants were chosen on half of 100 cities' round trips and checked on the other half (docs/rtt.md, "Inference").
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.steer import distance

CELLS_MOST: Final = 1600
GRIDS: Final = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 180.0)
"""Degrees; 0: every place is a station of its own."""

COMMON: Final = 0.25
COMMON_KM: Final = 1500.0
SITE: Final = 0.25
PATH: Final = 0.21
PATH_KM: Final = 4800.0
PATH_SITE_KM: Final = 1950.0
NUGGET: Final = 0.12
"""Sizes (one sigma) and reaches of the parts; the nugget is a station's own, which tells nothing of its neighbours."""

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Points(NamedTuple):
    """Places in degrees."""

    latitude: F64
    longitude: F64


class Stations(NamedTuple):
    """Where residuals are known: position, residual (n, sites; NaN: none) and its variance, which come first as they
    are of clients (`clients` of them), then of sites."""

    at: Points
    residual: F64
    variance: F64
    clients: int


class Field(NamedTuple):
    """`values`, `variance` (places, sites) of the path part's error; `left_out` (client stations, sites): what the
    others say of each; `leverage` likewise: how much of its own residual the field takes over there."""

    values: F64
    variance: F64
    left_out: F64
    leverage: F64


def kilometres(one: Points, other: Points) -> F64:
    """Great-circle distances of all pairs; NaN where a position is."""
    here, there = np.radians(one.latitude)[:, None], np.radians(other.latitude)
    turn = np.radians(other.longitude) - np.radians(one.longitude)[:, None]
    half = np.sin((there - here) / 2) ** 2 + np.cos(here) * np.cos(there) * np.sin(turn / 2) ** 2
    km: F64 = 2 * distance.EARTH_KM * np.arcsin(np.sqrt(np.minimum(1.0, half)))
    return km


def gather(at: Points, sites: int) -> tuple[I64, int]:
    """The station of each measured place, and how many there are: few enough for CELLS_MOST."""
    most = max(1, CELLS_MOST // max(1, sites) - sites)
    for degrees in GRIDS:
        if degrees:
            rows = np.floor((at.latitude + 90.0) / degrees).astype(np.int64)
            columns = np.floor((at.longitude + 180.0) / degrees).astype(np.int64)
            keys = rows * 1000 + columns
        else:
            keys = np.arange(len(at.latitude), dtype=np.int64)
        found, which = np.unique(keys, return_inverse=True)
        if len(found) <= most:
            break
    return which.reshape(-1).astype(np.int64), len(found)


def krige(stations: Stations, sites: Points, places: Points) -> Field:
    """The field at all places. Places without a position have NaN."""
    apart = np.exp(-kilometres(sites, sites) / PATH_SITE_KM)
    among = kilometres(stations.at, stations.at)
    common, path = COMMON**2 * np.exp(-among / COMMON_KM), PATH**2 * np.exp(-among / PATH_KM)
    a, j = np.nonzero(np.isfinite(stations.residual))
    known = common[np.ix_(a, a)] + path[np.ix_(a, a)] * apart[np.ix_(j, j)] + SITE**2 * (j[:, None] == j)
    noise = stations.variance[a, j] + NUGGET**2
    known[np.diag_indices_from(known)] += noise
    inverse = np.linalg.inv(known)
    residual = stations.residual[a, j]
    weights = np.zeros(stations.residual.shape)
    weights[a, j] = inverse @ residual
    to = kilometres(places, stations.at)
    values = (COMMON**2 * np.exp(-to / COMMON_KM) @ weights.sum(axis=1))[:, None] + SITE**2 * weights.sum(axis=0)
    values += PATH**2 * np.exp(-to / PATH_KM) @ weights @ apart
    leverage = np.zeros(stations.residual.shape)
    leverage[a, j] = 1.0 - noise * inverse.diagonal()
    return Field(values, _variance(stations, to, sites), _left_out(stations, inverse, weights, (a, j)),
                 leverage[: stations.clients])


def _left_out(stations: Stations, inverse: F64, weights: F64, cells: tuple[I64, I64]) -> F64:
    """What the others say of each client station at the sites it has."""
    a, j = cells
    left_out = np.full((stations.clients, stations.residual.shape[1]), np.nan)
    for station in range(stations.clients):
        mine = np.flatnonzero(a == station)
        if len(mine):
            off = np.linalg.solve(inverse[np.ix_(mine, mine)], weights[station, j[mine]])
            left_out[station, j[mine]] = stations.residual[station, j[mine]] - off
    return left_out


def _variance(stations: Stations, to: F64, sites: Points) -> F64:
    """An upper bound of the error at each place: what the nearest station with that site leaves open."""
    variance = np.full((len(to), len(sites.latitude)), PATH**2 + SITE**2 + NUGGET**2)
    for column in range(len(sites.latitude)):
        has = np.isfinite(stations.residual[:, column])
        if has.any():
            near = np.exp(-np.nanmin(np.where(np.isnan(to[:, has]), np.inf, to[:, has]), axis=1) / PATH_KM)
            variance[:, column] = NUGGET**2 + PATH**2 * (1 - near**2)
    return variance
