"""What rows cost and lose: `python bench/rows.py ATLAS`, the table of docs/data.md, "What it costs".

For the eight cloud regions of data/demo on an atlas of the bundled data: IPv4 scope blocks (largest aligned blocks of
equal rows) for several ways to make rows, and what the clients of data/clients (by population) lose on the mean, in
milliseconds over their best living site, with none to four of their nearest sites dead (the mean, and what one in a
hundred loses at least); equals are drawn evenly.

Lives here: other ways than the product's. Does not live here: the product's own (`atlas.derive`).
"""

from __future__ import annotations

import csv
import ipaddress
import sys
import tomllib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from dnsd.atlas import derive, flatten, levels, store
from dnsd.steer.row import LEVEL_MS

ROOT = Path(__file__).resolve().parent.parent
SITES = 8
DEAD = 5
NEAR_AND_TWO = (*LEVEL_MS[:7], 60, 120)

F64 = NDArray[np.float64]


def main(folder: Path) -> None:
    atlas = store.open_atlas(folder)
    fleet = tomllib.loads((ROOT / "data" / "demo" / "fleet.toml").read_text(encoding="utf-8"))
    sites = derive.site_specs(fleet["sites"][:SITES])
    extra = levels.extra_ms(atlas.arrays["latitude"], atlas.arrays["longitude"], sites)
    place, weight = _clients(atlas)
    built = derive.make(atlas, sites)
    row = built.rows4[np.searchsorted(built.starts4, _keys(), "right") - 1]
    print(f"{len(sites)} sites, {len(extra) - 1} places; loses with 0 to {DEAD - 1} dead")
    own = _bounded(extra, LEVEL_MS)
    few = _bounded(extra, NEAR_AND_TWO)
    order = np.argsort(np.argsort(extra, axis=1, kind="stable"), axis=1)
    for name, told_apart in (
            ("each place", None), (f"{len(LEVEL_MS)} levels, by own place", own), ("the full order", order),
            (f"{len(NEAR_AND_TWO) - 2} near levels, 60 and 120 ms, by own place", few),
            ("the best site only", (order > 0).astype(np.int64))):
        rows = np.arange(len(extra))
        if told_apart is not None:
            rows = np.unique(told_apart, axis=0, return_inverse=True)[1].reshape(-1)
        told = f"{name:48} {_blocks(atlas, rows) / 1e6:.2f} M"
        if told_apart is own or told_apart is few:
            told += "  " + _lost(extra[place], told_apart[place], weight)
        print(told)
    as_built = built.rows[row][:, : len(sites)].astype(np.int64)
    print(f"{'as built':48} {built.blocks()[0] / 1e6:.2f} M  {_lost(extra[place], as_built, weight)}")


def _bounded(extra: F64, bounds: tuple[int, ...]) -> NDArray[np.int64]:
    return np.searchsorted(np.array(bounds), extra, "right") - 1


def _blocks(atlas: store.Atlas, of_place: NDArray[np.int64]) -> int:
    arrays = atlas.arrays
    starts, rows = flatten.merged(arrays["starts4"], arrays["origins4"], of_place[arrays["place"]].astype(np.uint32))
    none = np.zeros(0, np.uint32)
    return derive.tablefile.Table(
        np.zeros((int(rows.max()) + 1, 2), np.uint8), starts, rows, np.zeros(1, np.uint64), np.zeros(1, np.uint32),
        none, none, none.astype(np.uint64), none).blocks()[0]


def _clients(atlas: store.Atlas) -> tuple[NDArray[np.int64], F64]:
    """Place and weight of each client."""
    arrays = atlas.arrays
    origin = arrays["origins4"][np.searchsorted(arrays["starts4"], _keys(), "right") - 1]
    with (ROOT / "data" / "clients" / "clients_v4.csv").open(newline="", encoding="utf-8") as file:
        weight = np.array([float(line["weight_population"]) for line in csv.DictReader(file)])
    return arrays["place"][origin].astype(np.int64), weight


def _keys() -> NDArray[np.uint32]:
    with (ROOT / "data" / "clients" / "clients_v4.csv").open(newline="", encoding="utf-8") as file:
        return np.array([int(ipaddress.ip_network(line["prefix"]).network_address) >> 8
                         for line in csv.DictReader(file)], np.uint32)


def _lost(extra: F64, levels: NDArray[np.int64], weight: F64) -> str:
    """Mean milliseconds lost, with more and more of the nearest sites dead."""
    rank = np.argsort(np.argsort(extra, axis=1, kind="stable"), axis=1)
    found = []
    for dead in range(DEAD):
        living = rank >= dead
        level = np.where(living, levels, 1 << 30)
        chosen = level == level.min(axis=1, keepdims=True)
        given = np.where(chosen, extra, 0.0).sum(axis=1) / chosen.sum(axis=1)
        lost = given - np.where(living, extra, np.inf).min(axis=1)
        order = np.argsort(lost)
        late = order[np.searchsorted(np.cumsum(weight[order]), 0.99 * weight.sum())]
        found.append((float((lost * weight).sum() / weight.sum()), float(lost[late])))
    return "; one in a hundred ".join(" · ".join(f"{ms:.1f}" for ms in row) for row in zip(*found, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
