"""Distance as milliseconds: what a client's extra delay is taken to be where nothing was measured.

Lives here: the great-circle formula and the fitted line. Does not live here: the same over whole tables at once
(`atlas.derive` does it in numpy with these constants), levels (`steer.row`).

Only differences count: a client's extra milliseconds at a site are `rtt_ms` there less the least `rtt_ms` over the
map's sites, so the line's height cancels and its slope decides. The line is the median path (least absolute
deviations): a few long detours, as from Cape Town to Asia by way of Europe, must not make every kilometre look slower.
"""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt
from typing import Final

EARTH_KM: Final = 6371.0088
"""Mean radius (IUGG)."""

BASE_MS: Final = 6.07
"""Round-trip milliseconds at no distance. Fitted, with `MS_PER_KM`, by `python bench/fit_distance.py` on data/rtt."""

MS_PER_KM: Final = 0.01549
"""Round-trip milliseconds for each kilometre of great circle; light in fibre on that path would need 0.0098."""


def km(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Great-circle kilometres between two places in degrees (haversine)."""
    here, there = radians(latitude), radians(to_latitude)
    half = sin((there - here) / 2) ** 2 + cos(here) * cos(there) * sin(radians(to_longitude - longitude) / 2) ** 2
    return 2 * EARTH_KM * asin(sqrt(min(1.0, half)))


def rtt_ms(distance_km: float) -> float:
    """Round-trip milliseconds expected over that distance."""
    return BASE_MS + MS_PER_KM * distance_km
