"""Where round trips are known: 100 cities with five real prefixes each, and 21 regions of AWS; as worlds to choose in.

The files are read from `../shared/data/rtt` (or `DNSD_SHARED_DATA`), for measuring only: nothing of them is copied.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from servers import ROOT

from dnsd.atlas import positions, store
from dnsd.rtt import blocks

DATA: Final = Path(os.environ.get("DNSD_SHARED_DATA", ROOT.parent / "shared" / "data")) / "rtt"
SITES: Final = 10
REGIONS: Final = 5
AMAZON: Final = 16509
BENCHMARK: Final = int(ip_network("198.18.0.0/24").network_address) >> 8
"""Blocks for measuring (RFC 2544), where a client has no real ones."""


class Atlas(NamedTuple):
    """As much of an atlas as a map is derived from."""

    arrays: Mapping[str, np.ndarray]
    texts: Sequence[str]


class World(NamedTuple):
    """Cities: (latitude, longitude), ASes and country; ms and deviation [client city, site city]; sites to choose.

    Blocks, sorted: their city, number, place as clients (degrees), AS, country.
    """

    at: list[tuple[float, float]]
    asns: list[tuple[int, ...]]
    country_of: np.ndarray
    ms: np.ndarray
    deviation: np.ndarray
    sites: int
    city: np.ndarray
    numbers: np.ndarray
    place: np.ndarray
    asn: np.ndarray
    country: np.ndarray
    atlas: Atlas


def cities(atlas: store.Atlas | None) -> World:
    """Clients at the atlas's places; without one, in their cities, each country with a name of its own."""
    rows = _rows("cities.csv")
    number = {row["id"]: n for n, row in enumerate(rows)}
    ms = np.full((len(rows), len(rows)), np.nan)
    deviation = ms.copy()
    with gzip.open(DATA / "city_rtt.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            pair = number[row["from"]], number[row["to"]]
            ms[pair], deviation[pair] = float(row["avg_ms"]), float(row["mdev_ms"])
    clients = {blocks.of(ip_network(row["client_prefix"]).network_address): (number[row["server_id"]], int(row["asn"]))
               for row in _rows("city_prefixes.csv")}
    at = [(float(row["latitude"]), float(row["longitude"])) for row in rows]
    return _world(at, [row["country"] for row in rows], (ms, deviation), clients, atlas)


def regions() -> World:
    """AWS; a region is a client with one block."""
    rows = _rows("aws_regions.csv")
    number = {row["region"]: n for n, row in enumerate(rows)}
    ms = np.full((len(rows), len(rows)), np.nan)
    for row in _rows("aws_rtt.csv"):
        if row["source"] != row["destination"]:
            ms[number[row["source"]], number[row["destination"]]] = float(row["rtt_ms"])
    at = [(float(row["latitude"]), float(row["longitude"])) for row in rows]
    clients = {BENCHMARK + n: (n, AMAZON) for n in range(len(rows))}
    world = _world(at, [row["country"] for row in rows], (ms, 0.02 * ms), clients, None)
    return world._replace(sites=REGIONS, asns=[()] * len(rows))


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((DATA / name).read_text(encoding="utf-8").splitlines()))


def _world(at: list[tuple[float, float]], countries: Sequence[str], trips: tuple[np.ndarray, np.ndarray],
           clients: Mapping[int, tuple[int, int]], atlas: store.Atlas | None) -> World:
    numbers = np.array(sorted(clients), np.uint64)
    city, asn = (np.array([clients[one][part] for one in numbers.tolist()]) for part in (0, 1))
    names = {name: f"{chr(65 + n // 26)}{chr(65 + n % 26)}".encode() for n, name in enumerate(sorted(set(countries)))}
    country_of = np.array([names[name] for name in countries])
    if atlas is None:
        arrays = _arrays(numbers, np.arange(1, len(numbers) + 1), len(numbers) + 1)
        arrays |= {"place": np.append(0, city + 1).astype(np.uint32), "asn": np.append(0, asn).astype(np.uint32)}
        arrays |= {name: np.append(np.nan, [one[n] for one in at]) for n, name in enumerate(("latitude", "longitude"))}
        arrays |= {"country": np.append(b"", country_of), "region": np.zeros(len(at) + 1, "S2")}
        small = Atlas(arrays, [""])
    else:
        small = _cut(atlas, numbers)
    place = small.arrays["place"][1:]
    where = np.stack((small.arrays["latitude"], small.arrays["longitude"]), axis=1)[place]
    asns = [tuple(np.unique(asn[city == n]).tolist()) for n in range(len(at))]
    if atlas is not None:  # a site's country is that of its blocks, as the atlas spells it
        country = small.arrays["country"][place]
        country_of = np.array([max(set(mine), key=mine.count) if mine else b""
                               for mine in (country[city == n].tolist() for n in range(len(at)))])
    return World(at, asns, country_of, *trips, SITES, city, numbers, where, asn, small.arrays["country"][place], small)


def _cut(atlas: store.Atlas, numbers: np.ndarray) -> Atlas:
    """Only these blocks, each an origin of its own; nothing is known of the rest."""
    origin = positions.origins(atlas, numbers)
    arrays = _arrays(numbers, np.arange(1, len(numbers) + 1), len(numbers) + 1)
    places, place = np.unique(np.append(0, atlas.arrays["place"][origin]), return_inverse=True)
    arrays["place"] = place.astype(np.uint32)
    arrays |= {name: np.append(0, atlas.arrays[name][origin]).astype(atlas.arrays[name].dtype)
               for name in ("asn", "carrier", "provider")}
    arrays |= {name: atlas.arrays[name][places] for name in ("latitude", "longitude", "country", "region")}
    return Atlas(arrays, atlas.texts)


def _arrays(numbers: np.ndarray, origins: np.ndarray, count: int) -> dict[str, Any]:
    """Runs: each block's, and the unknown between; no operator's prefixes, no IPv6."""
    starts = np.unique(np.concatenate((np.zeros(1, np.uint64), numbers, numbers + np.uint64(1))))
    of = np.zeros(len(starts), np.uint32)
    of[np.searchsorted(starts, numbers)] = origins
    none = {name: np.zeros(0, dtype) for name, dtype in (
        ("fine4", np.uint32), ("fine_origins4", np.uint32), ("fine6", np.uint64), ("fine_origins6", np.uint32))}
    return {"starts4": starts.astype(np.uint32), "origins4": of, "starts6": np.zeros(1, np.uint64),
            "origins6": np.zeros(1, np.uint32), "carrier": np.zeros(count, np.uint16),
            "provider": np.zeros(count, np.uint16), **none}


def kilometres(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Great circles between (n, 2) and (m, 2) places in degrees."""
    here, there = np.radians(one)[:, None], np.radians(other)
    half = np.sin((there[:, 0] - here[..., 0]) / 2) ** 2 + np.cos(here[..., 0]) * np.cos(there[:, 0]) * np.sin(
        (there[:, 1] - here[..., 1]) / 2) ** 2
    return np.asarray(2 * 6371.0 * np.arcsin(np.sqrt(np.minimum(1, half))))
