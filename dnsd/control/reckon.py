"""How far a client is from each site of a map, as far as is known, and how that is known.

Lives here: an address to milliseconds by site, with source, count, age and confidence. Does not live here: how an
estimate comes about (`atlas.estimates`), what becomes of milliseconds (`atlas.derive`).

A map that was derived without measured round trips has no estimates: it is distance alone, and is told as that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from dnsd.atlas.store import Atlas
from dnsd.steer import distance

DISTANCE: Final = "distance"
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
    confidence: float = 0.0

    def told(self) -> dict[str, Any]:
        """As JSON, rounded."""
        return {
            "rtt_ms": round(self.ms, 1), "rtt_source": self.source, "rtt_error_ms": self.error_ms,
            "rtt_samples": self.samples, "rtt_age_min": self.age_min, "rtt_confidence": round(self.confidence, 2)}


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
