"""How far a client is from each site of a map, as far as is known, and how that is known.

Lives here: an address to milliseconds by site, with source, samples, age and confidence. Does not live here: how an
estimate comes about (`atlas.estimates`), what becomes of milliseconds (`atlas.derive`).

A map that was derived without measured round trips has no estimates: it is distance alone, and is told as that, with
no error and no confidence, for nothing here says how wrong it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd.atlas.estimates import SUFFIX, Estimates
from dnsd.atlas.store import Atlas
from dnsd.steer import distance

DISTANCE: Final = "distance"
QUICK: Final = 16 << 20
"""Octets of a file of estimates that may be read while others wait."""

KEPT: Final = 8
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Place(NamedTuple):
    """A site and where it is, in degrees."""

    id: str
    latitude: float
    longitude: float


class Reckoned(NamedTuple):
    """Milliseconds to a site: what they rest on, how many samples, minutes since the newest, and 0..1."""

    ms: float
    source: str
    error_ms: float | None = None
    samples: int = 0
    age_min: float | None = None
    confidence: float | None = None

    def told(self) -> dict[str, Any]:
        """As JSON, rounded."""
        return {
            "rtt_ms": round(self.ms, 1), "rtt_source": self.source, "rtt_error_ms": self.error_ms,
            "rtt_samples": self.samples, "rtt_age_min": self.age_min, "rtt_confidence": self.confidence}


def by_distance(atlas: Atlas, address: IPAddress, sites: Iterable[Place],
                shifts: Mapping[str, float] | None = None) -> dict[str, Reckoned]:
    """Milliseconds by distance; nothing where the atlas does not know the place. `shifts` are added, by site."""
    origin = atlas.origin(address)
    if origin.latitude is None or origin.longitude is None:
        return {}
    here = origin.latitude, origin.longitude
    return {
        site.id: Reckoned(max(0.0, distance.rtt_ms(distance.km(*here, site.latitude, site.longitude))
                              + (shifts or {}).get(site.id, 0.0)), DISTANCE)
        for site in sites}


def by_estimates(estimates: Estimates, atlas: Atlas, address: IPAddress, now_ms: int | None = None,
                 ) -> dict[str, Reckoned]:
    """What a map's estimates say; nothing where they know nothing of the address."""
    return {one.site: Reckoned(one.ms, one.source, one.error_ms, one.count, one.age_min, one.confidence)
            for one in estimates.of(address, atlas, now_ms)}


def estimates_of(table: Path) -> Estimates | None:
    """The estimates beside a map's table; None where it has none, or they cannot be read."""
    try:
        return Estimates(table.with_suffix(SUFFIX))
    except (OSError, ValueError):
        return None


class Shelf:
    """Estimates of the maps in use, by file name, each read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, Estimates | None] = {}

    def get(self, file: str) -> Estimates | None:
        """Those of a map, if they are here already, or quickly read."""
        if file not in self._known:
            try:
                if (self.folder / file).with_suffix(SUFFIX).stat().st_size > QUICK:
                    return None
            except OSError:
                pass
            self.read(file)
        return self._known[file]

    def reckon(self, file: str, atlas: Atlas, address: IPAddress, sites: Iterable[Place], now_ms: int,
               ) -> tuple[dict[str, Reckoned], int | None]:
        """Milliseconds to each site of a map, and the number of the measured table they are from (None: none)."""
        estimates = self.get(file)
        if estimates is None:
            return by_distance(atlas, address, sites), None
        return by_estimates(estimates, atlas, address, now_ms), estimates.number

    def lacks(self, file: str) -> bool:
        """Whether a map's estimates would take a while to read."""
        self.get(file)
        return file not in self._known

    def read(self, file: str) -> None:
        """Read a map's estimates; the eldest of too many go."""
        self._known[file] = estimates_of(self.folder / file)
        for eldest in list(self._known)[:-KEPT]:
            del self._known[eldest]
