"""Which maps there should be: the sets of sites that services refer to, and which map each service uses.

Lives here: the plan, pure. Does not live here: deriving tables (`control.maps`), the tables (`atlas.derive`).

    map 0      all sites, in the order they came: a new one is added behind, so columns in use stay
    map 1..63  one for each other set of sites that services use, those of most services first

A service whose own map is not there yet uses one that has all its sites, at last map 0: right, only finer. A site that
a service has just lost stays in its set for a while, so that an instance that restarts does not make and unmake maps.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dnsd.atlas import affinity
from dnsd.control.state import Fleet
from dnsd.image import layout
from dnsd.registry.models import Site
from dnsd.steer import distance, row

MOST: Final = 64
SITES_MOST: Final = layout.NO_COLUMN - 1
LINGER_MS: Final = 600_000
Sites = tuple[str, ...]


class Seen:
    """Which sites each service uses or used within the last ten minutes."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}

    def note(self, fleet: Fleet, now_ms: int) -> None:
        """Take down who uses what now; forget what is long gone."""
        for name in self._seen.keys() - fleet.services.keys():
            del self._seen[name]
        for name in fleet.services:
            sites = self._seen.setdefault(name, {})
            for endpoint in fleet.members.get(name, {}).values():
                sites[endpoint.site] = now_ms
            for site in [s for s, at in sites.items() if now_ms - at > LINGER_MS or s not in fleet.sites]:
                del sites[site]

    def sites(self, name: str) -> frozenset[str]:
        """The service's set of sites."""
        return frozenset(self._seen.get(name, ()))

    def sets(self) -> Counter[frozenset[str]]:
        """Every set in use and by how many services."""
        return Counter(frozenset(sites) for sites in self._seen.values() if sites)


def everything(fleet: Fleet, before: Sequence[str]) -> Sites:
    """Map 0's columns: all sites; those it had keep their order, new ones come behind."""
    kept = [site for site in before if site in fleet.sites]
    return tuple([*kept, *sorted(fleet.sites.keys() - set(kept))][:SITES_MOST])


def wanted(fleet: Fleet, seen: Seen, before: Sequence[str]) -> list[Sites]:
    """The maps there should be, map 0 first."""
    first = everything(fleet, before)
    others = [(-count, tuple(sorted(sites))) for sites, count in seen.sets().items() if sites != set(first)]
    return [first, *(sites for _, sites in sorted(others)[: MOST - 1])]


def choose(needed: frozenset[str], own: frozenset[str], present: int, sets: Mapping[int, frozenset[str]]) -> int:
    """The map for a service that needs these sites: of its own set, else its present one, else map 0.

    One that lacks a needed site is none: until it is derived map 0 places the new endpoint too.
    """
    for number, sites in sets.items():
        if number and own == sites and needed <= sites:
            return number
    return present if present in sets and needed <= sets[present] else 0


def file_name(atlas_digest: int, sites: Sequence[Site], measured: str = "") -> str:
    """The table's file name: a digest of all that goes into it, so an equal table is never derived twice. `measured`
    is the digest of the round trips, "" where there are none.
    """
    ingredients = [
        f"{atlas_digest:016x}", layout.LAYOUT, row.LEVEL_MS, distance.EARTH_KM, distance.BASE_MS, distance.MS_PER_KM,
        [spec(site) for site in sites], *([measured] if measured else []),
        *([affinity.BAND_MS] if any(site.carriers for site in sites) else [])]
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32] + ".map"


def spec(site: Site) -> dict[str, Any]:
    """A site as `atlas.derive` takes it: only what rows are made of."""
    return site.model_dump(mode="json", include={
        "id", "latitude", "longitude", "country", "region", "provider", "carriers", "asns"})
