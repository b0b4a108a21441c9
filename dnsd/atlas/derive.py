"""A map's table from the atlas and the map's sites: each client prefix to its row.

`derive(atlas_dir, sites, out) -> MapReport`, or as a niced child of its own:
`python -m dnsd.atlas.derive '{"atlas": dir, "sites": [site, ...], "out": path}'` prints one line, the report as JSON,
or `{"error": text, "faults": [[place, message], ...]}` with exit code 1; the file at `out` is whole or as it was.
`"rtt"`, the file of a measured table (`rtt.table`), makes milliseconds of what was measured and of what follows from
it, and a file of estimates beside `out` (`atlas.estimates`); `"before"`, the table that this one replaces, has the
report say how much of the clients' weight gets another best site; `"verified"`, the stamp of an atlas that the caller
has verified itself, spares the time to do it again for every map.
A site is an object with `id`, `latitude`, `longitude` and, where it has them, `country`, `region`, `provider`,
`carriers`, `asns`; other keys are not looked at, so a stored site may be given as it is. Their order is the columns'.

Lives here: match bits, who gets which row, the report. Does not live here: extra milliseconds by distance and their
levels (`atlas.levels`), the file (`atlas.tablefile`), milliseconds where there are measured ones (`atlas.vectors`),
what moved (`atlas.churn`).

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

from dnsd.atlas import affinity, churn, compiled, estimates, flatten, levels, store, tablefile, vectors
from dnsd.atlas.prefixes import U8, U32
from dnsd.image import layout
from dnsd.model import Fault, Match
from dnsd.rtt import infer
from dnsd.rtt.table import Table as Measured

MAX_SITES: Final = layout.NO_COLUMN - 1
NICE: Final = 10
MOST_BITS: Final = 1 << 22
"""Bits of networks up to here are made for all that sites could tell apart, more only for what there is."""


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
           verified: Sequence[int] = ()) -> MapReport:
    """Derives and writes a map table; AtlasError, SiteError, OSError or ValueError (`rtt` is no measured table) leave
    `out` as it was. `verified`: the stamp of an atlas that need not be verified again, as the caller has done it."""
    began = time.monotonic()
    if len(sites) > MAX_SITES:
        raise SiteError([Fault("/sites", f"{len(sites)} sites, a map holds {MAX_SITES}")])
    atlas = store.open_atlas(atlas_dir, verify=False)
    with ThreadPoolExecutor(1) as beside:
        sound = beside.submit(atlas.verify) if atlas.stamp != tuple(verified) else None
        try:
            measured = Measured.read(rtt) if rtt is not None else None
            table, found = fill(atlas, sites, measured)
        finally:
            if sound is not None:
                sound.result()  # whatever went wrong with a damaged atlas, that it is damaged is what to tell
    names = tuple(site.id for site in sites)
    if measured is not None and found is not None:
        estimates.write(out.with_suffix(estimates.SUFFIX), names, found, measured)
    with ThreadPoolExecutor(1) as beside:
        counted = beside.submit(table.blocks)
        size = tablefile.write(out, table, atlas=atlas.digest, made_ms=int(time.time() * 1000))
        blocks4, blocks6 = counted.result()
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
    kinds = levels.kinds(extra, bits, weights)
    networks = _networks(atlas, sites)
    unknown = _unknown(atlas)[origins] & (vector < found.first_block)
    rows, row_of = levels.paired(kinds, parts.of, networks._replace(of=networks.of[origins]), unknown)
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
    arrays = atlas.arrays
    with ThreadPoolExecutor(1) as beside:
        homes = affinity.homes(atlas, sites)
        parts = affinity.part(len(arrays["latitude"]), arrays["place"], homes.of_origin)
        weights, networks = beside.submit(_weights, atlas, parts), beside.submit(_networks, atlas, sites)
        bits, extra = _place_bits(atlas, sites), levels.extra_ms(arrays["latitude"], arrays["longitude"], sites)
        if len(parts.vector) > len(extra):
            bits, extra, home = bits[parts.vector], extra[parts.vector], homes.kinds[parts.kind]
            extra = affinity.kept(extra, home, np.zeros_like(home))
        kinds = levels.kinds(extra, bits, weights.result())
        return levels.paired(kinds, parts.of, networks.result(), _unknown(atlas))


def _weights(atlas: store.Atlas, parts: affinity.Parts) -> NDArray[np.float64]:
    """How many IPv4 units each place, or part of it, has, and one, lest a place of IPv6 alone have no say."""
    weights = np.ones(len(parts.vector))
    units = flatten.weighed(atlas.arrays["starts4"], atlas.arrays["origins4"], parts.of, 1 << layout.KEY4_BITS)
    weights[: len(units)] += units
    return weights


def _place_bits(atlas: store.Atlas, sites: Sequence[SiteSpec]) -> U8:
    """(places, sites) COUNTRY and REGION bits."""
    texts = [np.ascontiguousarray(atlas.arrays[name]) for name in ("country", "region")]
    words = texts[0].view(np.uint16).astype(np.uint64) << np.uint64(16) | texts[1].view(np.uint16)
    which, found = flatten.number(words)
    country, region = ((found >> np.uint64(shift)).astype(np.uint16).view("S2") for shift in (16, 0))
    bits = np.zeros((len(found), len(sites)), np.uint8)
    for column, site in enumerate(sites):
        if site.country:
            bits[country == site.country.upper().encode(), column] |= np.uint8(Match.COUNTRY)
        if site.region:
            bits[region == site.region.lower().encode(), column] |= np.uint8(Match.REGION)
    return bits[which]


def _unknown(atlas: store.Atlas) -> NDArray[np.bool_]:
    """Origins that say nothing: no place, AS number, carrier or provider. A tag alone moves no answer."""
    unknown = np.ones(len(atlas.arrays["place"]), np.bool_)
    for name in ("place", "asn", "carrier", "provider"):
        unknown &= atlas.arrays[name] == 0
    return unknown


def _networks(atlas: store.Atlas, sites: Sequence[SiteSpec]) -> levels.Kinds:
    """Distinct (sites) vectors of PROVIDER, CARRIER and ASN bits, and which of them each origin has."""
    arrays = atlas.arrays
    number: dict[str | None, int] = {text: i for i, text in enumerate(atlas.texts) if text}
    asns = np.array(sorted({0, *(asn for site in sites for asn in site.asns)}), np.uint32)
    carriers = np.array(sorted({0, *(number.get(name, 0) for site in sites for name in site.carriers)}))
    providers = np.array(sorted({0, *(number.get(site.provider, 0) for site in sites)}))
    steps = np.zeros((2, len(atlas.texts)), np.uint32)
    steps[0, carriers], steps[1, providers] = np.arange(len(carriers)) * len(providers), np.arange(len(providers))
    step = len(carriers) * len(providers)
    ways, of = len(asns) * step, None
    if compiled.rows is None or ways * len(sites) > MOST_BITS:
        at = np.minimum(np.searchsorted(asns, arrays["asn"]), len(asns) - 1)
        at[asns[at] != arrays["asn"]] = 0
        words, of = levels.present(at * step + steps[0, arrays["carrier"]] + steps[1, arrays["provider"]], ways)
    else:
        words = np.arange(ways)
    rest = words % step
    kinds = levels.distinct(_network_bits(
        sites, number, asns[words // step], carriers[rest // len(providers)], providers[rest % len(providers)]))
    return kinds._replace(of=kinds.of[of] if of is not None else compiled.rows.networks(
        arrays["asn"], arrays["carrier"], arrays["provider"], asns, *steps, kinds.of, step))


def _network_bits(sites: Sequence[SiteSpec], number: Mapping[str | None, int], asn: NDArray[Any],
                  carrier: NDArray[Any], provider: NDArray[Any]) -> U8:
    """(networks, sites) PROVIDER, CARRIER and ASN bits."""
    bits = np.zeros((len(asn), len(sites)), np.uint8)
    for column, site in enumerate(sites):
        bits[np.isin(asn, [asn for asn in site.asns if asn]), column] |= np.uint8(Match.ASN)
        named = [number[name] for name in site.carriers if name in number]
        bits[np.isin(carrier, named), column] |= np.uint8(Match.CARRIER)
        if site.provider in number:
            bits[provider == number[site.provider], column] |= np.uint8(Match.PROVIDER)
    return bits


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
        report = derive(Path(task["atlas"]), sites, Path(task["out"]), rtt, before, task.get("verified") or ())
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
