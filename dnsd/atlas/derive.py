"""A map's table from the atlas and the map's sites: each client prefix to its row.

`derive(atlas_dir, sites, out) -> MapReport`, or as a niced child of its own:
`python -m dnsd.atlas.derive '{"atlas": dir, "sites": [site, ...], "out": path}'` prints one line, the report as JSON,
or `{"error": text, "faults": [[place, message], ...]}` with exit code 1; the file at `out` is whole or as it was.
`"rtt"`, the file of a measured table (`rtt.table`), makes milliseconds of what was measured and of what follows from
it, and a file of estimates beside `out` (`atlas.estimates`); `"before"`, the table that this one replaces, has the
report say how much of the clients' weight gets another best site.
A site is an object with `id`, `latitude`, `longitude` and, where it has them, `country`, `region`, `provider`,
`carriers`, `asns`; other keys are not looked at, so a stored site may be given as it is. Their order is the columns'.

Lives here: extra milliseconds by distance, levels, match bits, equal rows made one. Does not live here: the formula's
constants (`steer.distance`), levels (`steer.row`), the file (`atlas.tablefile`), milliseconds where there are measured
ones (`atlas.vectors`), what moved (`atlas.churn`).

Levels below FAR_MS are a place's own. A far site's level is that of the mean over all places which agree in every near
level, country and region bit, so far sites never split a row: they keep a full order for the day the near ones die and
cost no scope block. (Eight cloud regions, IPv4: levels of the place's own throughout 1.95 M blocks; so 1.13 M.)

Work is done for each distinct place and each distinct network kind (AS, carrier, provider as far as the sites ask),
never for each run: what millions of runs get is one look-up in an array. Row 0 is the unknown client's and no other's,
also where a known client has nothing but zeros, for a policy may treat the unknown apart.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import affinity, churn, estimates, flatten, store, tablefile, vectors
from dnsd.atlas.prefixes import U8, U32
from dnsd.image import layout
from dnsd.model import Fault, Match
from dnsd.rtt import infer
from dnsd.rtt.table import Table as Measured
from dnsd.steer import distance
from dnsd.steer.row import LEVEL_MS, ROW_UNKNOWN, level_of

MAX_SITES: Final = layout.NO_COLUMN - 1
FAR_MS: Final = 60
"""From so many extra milliseconds on a site is far: a lower bound of `steer.row.LEVEL_MS`."""

NICE: Final = 10
_LEVEL_OF: Final = np.array([level_of(ms) for ms in range(LEVEL_MS[-1] + 1)], np.uint8)


class SiteSpec(NamedTuple):
    """What a map asks of a site: place in degrees, ISO country, continent code, provider, carriers, AS numbers."""

    id: str
    latitude: float
    longitude: float
    country: str = ""
    region: str = ""
    provider: str | None = None
    carriers: tuple[str, ...] = ()
    asns: tuple[int, ...] = ()
    shift_ms: float = 0.0
    """Milliseconds more from everywhere, where it is asked what would be (`control.simulate`)."""


@dataclass(frozen=True, slots=True)
class MapReport:
    """What was written: columns, distinct rows, runs, scope blocks (largest aligned blocks), octets, seconds.

    `rtt`: whether inference is used, which steps of it or why not, measured cells, and their mean error in ms predicted
    without themselves (`held_back`). `churn`: the share of the clients' weight whose best site is another than in the
    table before; None where there is none.
    """

    out: str
    atlas: str
    sites: tuple[str, ...]
    rows: int
    runs4: int
    runs6: int
    blocks4: int
    blocks6: int
    size: int
    seconds: float
    rtt: Mapping[str, Any]
    churn: float | None


class SiteError(ValueError):
    """Sites that cannot be columns; `faults` names all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


def derive(atlas_dir: Path, sites: Sequence[SiteSpec], out: Path, rtt: Path | None = None, before: Path | None = None,
           ) -> MapReport:
    """Derives and writes a map table; AtlasError, SiteError, OSError or ValueError (`rtt` is no measured table) leave
    `out` as it was."""
    began = time.monotonic()
    if len(sites) > MAX_SITES:
        raise SiteError([Fault("/sites", f"{len(sites)} sites, a map holds {MAX_SITES}")])
    atlas = store.open_atlas(atlas_dir, verify=False)
    with ThreadPoolExecutor(1) as beside:
        sound = beside.submit(atlas.verify)
        try:
            measured = Measured.read(rtt) if rtt is not None else None
            table, found = fill(atlas, sites, measured)
        finally:
            sound.result()  # whatever went wrong with a damaged atlas, that it is damaged is what to tell
    names = tuple(site.id for site in sites)
    if measured is not None and found is not None:
        estimates.write(out.with_suffix(estimates.SUFFIX), names, found, measured)
    size = tablefile.write(out, table, atlas=atlas.digest, made_ms=int(time.time() * 1000))
    blocks4, blocks6 = table.blocks()
    return MapReport(
        str(out), f"{atlas.digest:016x}", names, len(table.rows), len(table.starts4), len(table.starts6), blocks4,
        blocks6, size, round(time.monotonic() - began, 3), told(found),
        churn.share(before, table, names, measured) if before is not None else None)


def make(atlas: store.Atlas, sites: Sequence[SiteSpec], measured: Measured | None = None) -> tablefile.Table:
    """The table in memory."""
    return fill(atlas, sites, measured)[0]


def fill(atlas: store.Atlas, sites: Sequence[SiteSpec], measured: Measured | None,
         ) -> tuple[tablefile.Table, vectors.Vectors | None]:
    """The table in memory and, where something was measured at these sites, the milliseconds it is made of."""
    found = vectors.of(atlas, sites, measured) if measured is not None else None
    if found is not None:
        return _measured(atlas, sites, found), found
    rows, row_of = _rows(atlas, sites)
    arrays = atlas.arrays
    with ThreadPoolExecutor(1) as beside:
        six = beside.submit(flatten.merged, arrays["starts6"], arrays["origins6"], row_of)
        four = flatten.merged(arrays["starts4"], arrays["origins4"], row_of)
    return tablefile.Table(
        rows, *four, *six.result(),
        arrays["fine4"], row_of[arrays["fine_origins4"]], arrays["fine6"], row_of[arrays["fine_origins6"]]), None


def _measured(atlas: store.Atlas, sites: Sequence[SiteSpec], found: vectors.Vectors) -> tablefile.Table:
    """The table of measured and inferred milliseconds: as `fill` makes one, but rows are of vectors, not of places."""
    arrays = atlas.arrays
    cells = four, six = vectors.cut4(atlas, found), vectors.cut6(atlas, found)
    origins, own = (np.concatenate([getattr(one, name) for one in cells]) for name in ("origins", "vectors"))
    everywhere = np.arange(len(arrays["place"]))
    vector = np.concatenate((np.where(own >= 0, own, found.of_origin[origins]), found.of_origin))
    origins = np.concatenate((origins, everywhere))
    homes = affinity.homes(atlas, sites)
    parts = affinity.part(len(found.ms), vector, homes.of_origin[origins])
    bits = _place_bits(atlas, sites)[arrays["place"][found.origin]][parts.vector]
    extra = np.nan_to_num(found.ms - found.ms.min(axis=1, keepdims=True))
    extra = affinity.kept(extra[parts.vector], homes.kinds[parts.kind], found.source[parts.vector] == infer.MEASURED)
    units = np.diff(four.starts.astype(np.int64), append=1 << layout.KEY4_BITS)
    weights = np.bincount(parts.of[: len(units)], units, len(parts.vector)).astype(np.float64) + 1.0
    kinds, kind_of = _distinct(np.hstack((_levels(extra, bits, weights), bits)))
    net_kinds, kind_of_net = _networks(atlas, sites)
    pairs = kind_of[parts.of] * len(net_kinds) + kind_of_net[origins] + 1
    pairs[_unknown(atlas)[origins] & (vector < found.first_block)] = ROW_UNKNOWN
    rows, row_of = _paired(pairs, kinds, net_kinds)
    of_origin = row_of[len(own):]
    merged4 = flatten.merge(four.starts, row_of[: len(four.starts)])
    merged6 = flatten.merge(six.starts, row_of[len(four.starts) : len(own)])
    return tablefile.Table(
        rows, merged4.starts.astype(np.uint32), merged4.values, merged6.starts, merged6.values,
        arrays["fine4"], of_origin[arrays["fine_origins4"]], arrays["fine6"], of_origin[arrays["fine_origins6"]])


def told(found: vectors.Vectors | None) -> dict[str, Any]:
    """What is said of a table's inference."""
    if found is None:
        return {"used": False, "why": "nothing is measured at these sites", "cells": 0, "steps": [], "held_back": None}
    check = found.check
    held_back = {"cells": check.asked, "distance_ms": round(check.distance_ms, 2),
                 "inferred_ms": round(check.inferred_ms, 2)}
    return {"used": bool(check.steps), "why": check.why, "cells": check.cells, "steps": list(check.steps),
            "held_back": held_back}


def _rows(atlas: store.Atlas, sites: Sequence[SiteSpec]) -> tuple[U8, U32]:
    """Distinct rows (levels, then match bits) and the row of each origin."""
    homes = affinity.homes(atlas, sites)
    parts = affinity.part(len(atlas.arrays["latitude"]), atlas.arrays["place"], homes.of_origin)
    bits, home = _place_bits(atlas, sites)[parts.vector], homes.kinds[parts.kind]
    extra = affinity.kept(_extra_ms(atlas, sites)[parts.vector], home, np.zeros_like(home))
    place_kinds, kind_of = _distinct(np.hstack((_levels(extra, bits, _weights(atlas, parts)), bits)))
    net_kinds, kind_of_net = _networks(atlas, sites)
    pairs = kind_of[parts.of] * len(net_kinds) + kind_of_net + 1
    pairs[_unknown(atlas)] = ROW_UNKNOWN
    return _paired(pairs, place_kinds, net_kinds)


def _paired(pairs: NDArray[np.int64], place_kinds: U8, net_kinds: U8) -> tuple[U8, U32]:
    """Distinct rows of pairs (place kind x network kinds + network kind + 1; 0: unknown), and the row of each."""
    there = np.zeros(len(place_kinds) * len(net_kinds) + 1, np.bool_)
    there[pairs] = there[ROW_UNKNOWN] = True
    of = pairs
    pairs = np.flatnonzero(there)
    row_of = np.searchsorted(pairs, of) if len(there) > 1 << 24 else (np.cumsum(there, dtype=np.uint32) - 1)[of]
    place, net = place_kinds[(pairs - 1) // len(net_kinds)], net_kinds[(pairs - 1) % len(net_kinds)]
    count = net_kinds.shape[1]
    rows = np.hstack((place[:, :count], place[:, count:] | net))
    rows[ROW_UNKNOWN] = 0
    return rows, row_of.astype(np.uint32)


def _extra_ms(atlas: store.Atlas, sites: Sequence[SiteSpec]) -> NDArray[np.float64]:
    """(places, sites) milliseconds over the place's best site; 0 where the position is unknown."""
    if not sites:
        return np.zeros((len(atlas.arrays["latitude"]), 0))
    here = _vectors(atlas.arrays["latitude"], atlas.arrays["longitude"])
    there = _vectors(np.array([site.latitude for site in sites]), np.array([site.longitude for site in sites]))
    ms = np.clip((1.0 - here @ there.T) / 2, 0.0, 1.0)  # the haversine of the angle between two unit vectors
    np.arcsin(np.sqrt(ms, out=ms), out=ms)
    ms *= 2 * distance.EARTH_KM * distance.MS_PER_KM
    ms += distance.BASE_MS + np.array([site.shift_ms for site in sites])
    ms -= ms.min(axis=1, keepdims=True)
    return np.nan_to_num(ms, copy=False)


def _vectors(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """(places, 3) unit vectors of places in degrees."""
    north, east = np.radians(latitude), np.radians(longitude)
    flat = np.cos(north)
    return np.stack((flat * np.cos(east), flat * np.sin(east), np.sin(north)), axis=1)


def _levels(extra: NDArray[np.float64], bits: U8, weights: NDArray[np.float64]) -> U8:
    """(places, sites) levels: below FAR_MS of the place's own milliseconds, from there on of the mean of its like."""
    near = np.minimum(_level(extra), np.uint8(level_of(FAR_MS)))
    alike, like = _distinct(np.hstack((near, bits)))
    total = np.bincount(like, weights, len(alike))
    mean = np.zeros_like(extra)
    for column in range(extra.shape[1]):
        mean[:, column] = (np.bincount(like, weights * extra[:, column], len(alike)) / total)[like]
    return np.where(near < level_of(FAR_MS), near, _level(np.maximum(mean, FAR_MS)))


def _level(ms: NDArray[np.float64]) -> U8:
    """`row.level_of` of many: levels begin at whole milliseconds."""
    return _LEVEL_OF[np.minimum(ms, LEVEL_MS[-1]).astype(np.intp)]


def _weights(atlas: store.Atlas, parts: affinity.Parts) -> NDArray[np.float64]:
    """How many IPv4 units each place, or part of it, has, and one, lest a place of IPv6 alone have no say."""
    weights = np.ones(len(parts.vector))
    units = flatten.weighed(atlas.arrays["starts4"], atlas.arrays["origins4"], parts.of.astype(np.uint32),
                            1 << layout.KEY4_BITS)
    weights[: len(units)] += units
    return weights


def _place_bits(atlas: store.Atlas, sites: Sequence[SiteSpec]) -> U8:
    """(places, sites) COUNTRY and REGION bits."""
    bits = np.zeros((len(atlas.arrays["country"]), len(sites)), np.uint8)
    for column, site in enumerate(sites):
        if site.country:
            bits[atlas.arrays["country"] == site.country.upper().encode(), column] |= np.uint8(Match.COUNTRY)
        if site.region:
            bits[atlas.arrays["region"] == site.region.lower().encode(), column] |= np.uint8(Match.REGION)
    return bits


def _unknown(atlas: store.Atlas) -> NDArray[np.bool_]:
    """Origins that say nothing: no place, AS number, carrier or provider. A tag alone moves no answer."""
    unknown = np.ones(len(atlas.arrays["place"]), np.bool_)
    for name in ("place", "asn", "carrier", "provider"):
        unknown &= atlas.arrays[name] == 0
    return unknown


def _networks(atlas: store.Atlas, sites: Sequence[SiteSpec]) -> tuple[U8, NDArray[np.int64]]:
    """Distinct (sites) vectors of PROVIDER, CARRIER and ASN bits, and which of them each origin has."""
    arrays, number = atlas.arrays, {text: i for i, text in enumerate(atlas.texts) if text}
    asns = np.unique(np.array([0] + [asn for site in sites for asn in site.asns], np.uint32))
    at = np.minimum(np.searchsorted(asns, arrays["asn"]), len(asns) - 1)
    at[asns[at] != arrays["asn"]] = 0
    texts = len(atlas.texts)
    words = (at.astype(np.uint64) * np.uint64(texts) + arrays["carrier"]) * np.uint64(texts) + arrays["provider"]
    words, key_of = flatten.ranked(words)
    keys = words.astype(np.int64)
    asn, carrier, provider = asns[keys // texts // texts], keys // texts % texts, keys % texts
    bits = np.zeros((len(keys), len(sites)), np.uint8)
    for column, site in enumerate(sites):
        carriers = [number[name] for name in site.carriers if name in number]
        bits[np.isin(asn, [asn for asn in site.asns if asn]), column] |= np.uint8(Match.ASN)
        bits[np.isin(carrier, carriers), column] |= np.uint8(Match.CARRIER)
        if site.provider in number:
            bits[provider == number[site.provider], column] |= np.uint8(Match.PROVIDER)
    kinds, kind_of = _distinct(bits)
    return kinds, kind_of[key_of]


def _distinct(vectors: U8) -> tuple[U8, NDArray[np.int64]]:
    """Distinct rows of a matrix, sorted, and the number of each row's."""
    if not vectors.shape[1]:
        return vectors[:1], np.zeros(len(vectors), np.int64)
    room = -vectors.shape[1] % 8  # as big-endian words rows sort as octets do
    words = np.pad(vectors, ((0, 0), (0, room))).view(">u8").astype(np.uint64)
    which = flatten.ranked(np.ascontiguousarray(words[:, 0]))[1]
    for column in range(1, words.shape[1]):
        rank = flatten.ranked(np.ascontiguousarray(words[:, column]))[1]
        which = flatten.ranked(which.astype(np.uint64) << np.uint64(32) | rank)[1]
    some = np.zeros(int(which.max(initial=0)) + 1, np.int64)
    some[which] = np.arange(len(which))
    return vectors[some], which.astype(np.int64)


def site_specs(items: Sequence[Mapping[str, Any]]) -> list[SiteSpec]:
    """Sites from JSON objects; SiteError names every one that lacks something."""
    sites, faults = [], []
    for i, item in enumerate(items):
        try:
            sites.append(SiteSpec(
                str(item["id"]), float(item["latitude"]), float(item["longitude"]), str(item.get("country") or ""),
                str(item.get("region") or ""), item.get("provider"), tuple(item.get("carriers") or ()),
                tuple(int(asn) for asn in item.get("asns") or ()), float(item.get("shift_ms") or 0.0)))
        except KeyError as missing:
            faults.append(Fault(f"/sites/{i}", f"{missing.args[0]} is missing"))
        except (TypeError, ValueError, AttributeError) as problem:
            faults.append(Fault(f"/sites/{i}", str(problem)))
    if faults:
        raise SiteError(faults)
    return sites


def main(arguments: Sequence[str]) -> int:
    """The niced child: one JSON argument in, one JSON line out."""
    os.nice(NICE)
    try:
        task = json.loads(arguments[0])
        sites = site_specs(task["sites"])
        rtt, before = (Path(task[name]) if task.get(name) else None for name in ("rtt", "before"))
        report = derive(Path(task["atlas"]), sites, Path(task["out"]), rtt, before)
    except SiteError as problem:
        print(json.dumps({"error": str(problem), "faults": problem.faults}))
        return 1
    except (store.AtlasError, OSError, LookupError, TypeError, ValueError) as problem:
        print(json.dumps({"error": f"{type(problem).__name__}: {problem}", "faults": []}))
        return 1
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
