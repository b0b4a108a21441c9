"""The oracle's judgement: an origin and a fleet to the endpoints that may be answered, by the documented rules alone.

Lives here: distance, levels, match bits as docs/data.md has them, scores and groups, all constants written down again.
Does not live here: what the data say of a client (`origins`), asking (`test_oracle`).

    tier         lowest first; weight 0 behind all tiers
    band         sites within band_ms of the tier's best come first
    score        proximity x (1000 x half_ms // (half_ms + ms)); in the band also match x 1000 if provider, carrier or
                 AS number are in common, health x 1000 and load x (1000 - 125 x load level)
    group        equal tier, band and score; the answer is the first `take` in the order of groups

A draw among equals is not predicted: whoever is in the group may come. Levels that hang by a hair are not judged.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import asin, cos, radians, sin, sqrt
from typing import Any, Final, NamedTuple

from tests.oracle.origins import NOWHERE, Origin, Place

EARTH_KM: Final = 6371.0088
BASE_MS: Final = 6.07
MS_PER_KM: Final = 0.01549
LEVEL_MS: Final = (0, 1, 4, 7, 10, 14, 19, 25, 31, 60, 75, 90, 105, 120, 140, 160, 180, 210, 250)
FAR_MS: Final = 60
HAIR_MS: Final = 1e-6
PROVIDER, CARRIER, ASN, COUNTRY, REGION = 1, 2, 4, 8, 16
_NOTHING: Final = {"proximity": 0, "match": 0, "health": 0, "load": 0, "half_ms": 50, "band_ms": 30, "take": 1}
PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "geo": {**_NOTHING, "proximity": 40, "match": 30, "health": 20, "load": 10, "client": True},
    "latency": {**_NOTHING, "proximity": 100, "band_ms": 0, "client": True},
    "failover": {**_NOTHING, "client": False},
    "weighted": {**_NOTHING, "client": False},
    "all": {**_NOTHING, "take": 32, "client": False},
}


class Column(NamedTuple):
    """A client and a site: level in ms and match bits; `hair`: the level could as well be the next one."""

    ms: int
    bits: int
    hair: bool


@dataclass(frozen=True)
class Expected:
    """Groups of addresses, best first, each of equals; the first `take` of them are the answer. `hair` as in Column."""

    groups: tuple[frozenset[str], ...]
    take: int
    hair: bool = False

    def allows(self, addresses: Sequence[str]) -> bool:
        """Whether an answer of these addresses, in any order, is one of the possible ones."""
        left = set(addresses)
        if len(left) != len(addresses) or len(left) != min(self.take, sum(map(len, self.groups))):
            return False
        for group in self.groups:
            if not left or not left & group:
                return not left
            if not group <= left:
                return left <= group
            left -= group
        return not left


@dataclass
class Map:
    """The sites of one map and, for each of them, what far sites cost on the mean of places alike near by."""

    sites: Sequence[Mapping[str, Any]]
    places: Counter[Place]
    _far: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sums: dict[tuple[Any, ...], tuple[list[float], list[float]]] = {}
        for place, units in self.places.items():
            weight = units + 1.0  # so that a place of IPv6 alone has a say
            extra = self._extra(place)
            total, columns = sums.setdefault(self._like(place, extra), ([0.0], [0.0] * len(self.sites)))
            total[0] += weight
            for i, ms in enumerate(extra):
                columns[i] += weight * ms
        self._far = {like: [ms / total[0] for ms in columns] for like, (total, columns) in sums.items()}

    def row(self, origin: Origin) -> dict[str, Column]:
        """Every site as this client sees it."""
        if not origin.known:
            return {str(site["id"]): Column(0, 0, False) for site in self.sites}
        extra = self._extra(origin.place)
        mean = self._far[self._like(origin.place, extra)]
        row = {}
        for i, site in enumerate(self.sites):
            ms = extra[i] if extra[i] < FAR_MS else max(mean[i], float(FAR_MS))
            hair = any(abs(value - step) < HAIR_MS for value in (extra[i], ms) for step in LEVEL_MS[1:])
            bits = _place_bits(origin.place, site)
            bits |= PROVIDER if origin.provider and origin.provider == site.get("provider") else 0
            bits |= CARRIER if origin.carrier and origin.carrier in site.get("carriers", ()) else 0
            bits |= ASN if origin.asn in site.get("asns", ()) else 0
            row[str(site["id"])] = Column(_level(ms), bits, hair)
        return row

    def _extra(self, place: Place) -> list[float]:
        if place.latitude is None or place.longitude is None:
            return [0.0] * len(self.sites)
        ms = [BASE_MS + MS_PER_KM * km(place.latitude, place.longitude, site["latitude"], site["longitude"])
              for site in self.sites]
        return [value - min(ms) for value in ms]

    def _like(self, place: Place, extra: Sequence[float]) -> tuple[Any, ...]:
        near = tuple(min(_level(ms), FAR_MS) for ms in extra)
        return near, tuple(_place_bits(place, site) for site in self.sites)


def expect(service: Mapping[str, Any], endpoints: Sequence[Mapping[str, Any]], row: Mapping[str, Column],
           kind: str, *, unknown: bool = False, no_ecs: bool = False) -> Expected:
    """What may be answered for one type. `kind` is `a` or `aaaa`; endpoints carry `load`, 0 to 7."""
    policy = policy_of(service)
    fallback = [str(address) for address in service.get("fallback", {}).get(kind, ())]
    if not policy["client"]:
        row = {}
    if fallback and ((no_ecs and policy.get("no_ecs") == "fallback") or
                     (unknown and policy["client"] and policy.get("unknown_client") == "fallback")):
        return Expected((frozenset(fallback),), len(fallback))
    usable = [endpoint for endpoint in endpoints if endpoint.get(kind)]
    fence = {"country": COUNTRY, "region": REGION}.get(policy.get("fence") or "none", 0)
    inside = [endpoint for endpoint in usable if not fence or row[endpoint["site"]].bits & fence]
    if not inside and fallback:
        return Expected((frozenset(fallback),), len(fallback))
    inside = inside or usable
    if not inside:
        return Expected((frozenset(fallback),), len(fallback))
    scored = sorted((score(policy, endpoint, inside, row), str(endpoint[kind])) for endpoint in inside)
    groups: dict[tuple[int, bool, int], set[str]] = {}
    for place, address in scored:
        groups.setdefault(place, set()).add(address)
    hair = any(row[endpoint["site"]].hair for endpoint in inside if row)
    return Expected(tuple(frozenset(groups[place]) for place in sorted(groups)), policy["take"], hair)


def score(policy: Mapping[str, Any], endpoint: Mapping[str, Any], among: Sequence[Mapping[str, Any]],
          row: Mapping[str, Column]) -> tuple[int, bool, int]:
    """Tier, whether beyond the band, points lost: the lowest is the best, equal is equal."""
    def ms(one: Mapping[str, Any]) -> int:
        return row[one["site"]].ms if row else 0

    tier = _tier(endpoint)
    best = min(ms(one) for one in among if _tier(one) == tier)
    beyond = ms(endpoint) > best + policy["band_ms"]
    points = policy["proximity"] * (1000 * policy["half_ms"] // (policy["half_ms"] + ms(endpoint)))
    if not beyond:
        bits = row[endpoint["site"]].bits if row else 0
        points += policy["match"] * 1000 if bits & (PROVIDER | CARRIER | ASN) else 0
        points += policy["health"] * 1000 + policy["load"] * (1000 - 125 * int(endpoint.get("load", 0)))
    return tier, beyond, -points


def policy_of(service: Mapping[str, Any]) -> dict[str, Any]:
    """A service's policy: its preset with what it declares itself laid over; a fence looks at the client."""
    declared = {name: value for name, value in service.get("policy", {}).items() if value is not None}
    policy = {**PRESETS[declared.pop("preset", "geo")], **declared}
    if policy.get("fence", "none") != "none":
        policy["client"] = True
    return policy


def km(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    """Great-circle kilometres (haversine)."""
    here, there = radians(latitude), radians(to_latitude)
    half = sin((there - here) / 2) ** 2 + cos(here) * cos(there) * sin(radians(to_longitude - longitude) / 2) ** 2
    return 2 * EARTH_KM * asin(sqrt(min(1.0, half)))


def _tier(endpoint: Mapping[str, Any]) -> int:
    """Weight 0 stands behind every tier: it is answered only when no other can be."""
    return int(endpoint.get("tier", 0)) + (0 if endpoint.get("weight", 100) else 256)


def _level(ms: float) -> int:
    """The milliseconds a level stands for."""
    return LEVEL_MS[bisect_right(LEVEL_MS, ms) - 1]


def _place_bits(place: Place, site: Mapping[str, Any]) -> int:
    if place == NOWHERE:
        return 0
    return ((COUNTRY if place.country and place.country == site["country"].upper() else 0)
            | (REGION if place.region and place.region == site["region"].lower() else 0))
