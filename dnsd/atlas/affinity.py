"""A carrier's clients and the sites that are at home with that carrier.

Between Chinese carriers, and wherever carriers meet in few places, milliseconds that nobody measured are worth little:
what is near may be slow across the border of two networks. So a client whose carrier is known, by prefix list first and
AS number second, is not taken from a site of its own carrier in its own country by milliseconds that were only
inferred: that site stays in the band policy may choose from, and what client and site have in common decides.

Lives here: which origins are at home where, and what becomes of their extra milliseconds. Does not live here: the
extra milliseconds themselves, levels and match bits (`atlas.derive`), what a carrier in common is worth (`steer.rank`).

    extra       milliseconds over the best site
    at home     the origin's carrier is one of the site's, and its country the site's
    all as it is where a site at home is within BAND_MS, else the sites at home come nearer by as much as
    the best of them lacks, so their order stays; a site whose cell is measured, and measured to be more than BAND_MS
    behind another measured one, stays where it is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas.prefixes import U32
from dnsd.atlas.store import Atlas
from dnsd.model import Policy

BAND_MS: Final = Policy().band_ms
"""The band of a policy that does not declare another."""

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Where(Protocol):
    """As much of a site as matters here."""

    @property
    def country(self) -> str:
        """ISO code."""

    @property
    def carriers(self) -> tuple[str, ...]:
        """Carriers whose clients are at home there."""


class Homes(NamedTuple):
    """Distinct sets of sites to be at home at, (kinds, sites), the first of them empty; and which each origin has."""

    kinds: Mask
    of_origin: I64


class Parts(NamedTuple):
    """Vectors of milliseconds, parted by who is at home: of each part its vector and kind, of each user its part.

    First all vectors with nobody at home, in their order, then those parts that there are.
    """

    vector: I64
    kind: I64
    of: U32


def homes(atlas: Atlas, sites: Sequence[Where]) -> Homes:
    """Where each origin is at home."""
    arrays = atlas.arrays
    number = {text: i for i, text in enumerate(atlas.texts) if text}
    of_origin = np.zeros(len(arrays["place"]), np.int64)
    carried = np.flatnonzero(arrays["carrier"] if any(site.carriers for site in sites) else 0)
    country, carrier = arrays["country"][arrays["place"][carried]], arrays["carrier"][carried]
    home = np.zeros((len(carried), len(sites)), np.bool_)
    for column, site in enumerate(sites):
        carriers = [number[name] for name in site.carriers if name in number]
        if carriers and site.country:
            home[:, column] = np.isin(carrier, carriers) & (country == site.country.upper().encode())
    some = np.flatnonzero(home.any(axis=1))
    kinds = np.zeros((1, len(sites)), np.bool_)
    if len(some):
        found, which = np.unique(home[some], axis=0, return_inverse=True)
        kinds, of_origin[carried[some]] = np.vstack((kinds, found)), which.reshape(-1) + 1
    return Homes(kinds, of_origin)


def part(vectors: int, vector: NDArray[np.integer[Any]], kind: I64) -> Parts:
    """Parts of so many vectors for users that each have a vector and a kind."""
    home, of = np.flatnonzero(kind), vector.astype(np.uint32, copy=False)
    keys, which = np.unique(of[home].astype(np.int64) << 32 | kind[home], return_inverse=True)
    if len(home):
        of = of.copy()  # what came may be the atlas's own
        of[home] = vectors + which.reshape(-1)
    return Parts(np.concatenate((np.arange(vectors), keys >> 32)),
                 np.concatenate((np.zeros(vectors, np.int64), keys & 0xFFFFFFFF)), of)


def kept(extra: F64, home: Mask, measured: Mask) -> F64:
    """(n, sites) extra milliseconds as they count, of those at home at `home`, with these cells measured."""
    if not home.any():
        return extra
    best = np.where(measured, extra, np.inf).min(axis=1, keepdims=True)
    mine = home & ~(measured & (extra - best > BAND_MS))
    nearest = np.where(mine, extra, np.inf).min(axis=1, keepdims=True)
    nearer = np.where(np.isfinite(nearest), np.maximum(nearest - BAND_MS, 0.0), 0.0)
    return np.where(mine, extra - nearer, extra)
