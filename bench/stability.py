"""How calm answers stay on noisy measurements, and how soon they follow what is true: `python bench/stability.py`.

The measurements are 120 slices of round trips between 99 personal devices (Seattle, NetLatency-Data, read from
`../shared/data/rtt` or `DNSD_SHARED_DATA`); slices are taken 15 s apart, and a value that is the same in the next
slice as one that was not measured anew. Ten devices at random are sites, the others client blocks; each slice is one
sample of each. Told: how often an hour a block's best site changes when each slice is believed, when a smoothed value
is, and as it is decided; what each costs over the site that was best in the middle of all slices. Then 50 ms are
added to one site for good: how long until its cells are decided so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import numpy as np
from results import arguments, machine, put, table, told
from servers import ROOT

from dnsd.rtt import decide, together
from dnsd.rtt.cells import EPOCH_S, Cells, key_of
from dnsd.rtt.items import FAR, GROUP, Entry

DATA: Final = Path(os.environ.get("DNSD_SHARED_DATA", ROOT.parent / "shared" / "data")) / "rtt"
SLICE_S: Final = 15
SITES: Final = 10
WARM: Final = 20
"""Slices before counting begins: every kind knows something by then."""

SHIFT_MS: Final = 50.0
NOISE_MS: Final = (1.0, 10.0, 50.0, float("inf"))
CALM: Final = 120
AFTER: Final = 40
"""Measurements of a block before and after the shift."""


def main() -> int:
    """The command."""
    parser = arguments(__doc__)
    options = parser.parse_args()
    file = DATA / "seattle_120x99x99.npz"
    if not file.exists():
        print(f"{file} is not here", file=sys.stderr)
        return 1
    slices = np.load(file)["rtt_ms"].astype(np.float64)
    kinds: dict[str, list[tuple[float, float]]] = {}
    shifts: dict[str, list[float]] = {}
    for seed in range(4 if options.quick else 20):
        rng = np.random.default_rng(seed)
        sites = rng.choice(slices.shape[1], SITES, replace=False)
        clients = np.setdiff1d(np.arange(slices.shape[1]), sites)
        seen = slices[:, clients][:, :, sites]
        for kind, best in _choices(seen).items():
            kinds.setdefault(kind, []).append(_cost(seen, best))
        for name, some in _shift(seen).items():
            shifts.setdefault(name, []).extend(some)
    put(options.out, "stability", _section(kinds, shifts))
    return 0


def _choices(seen: np.ndarray) -> dict[str, np.ndarray]:
    """(slices, clients) the best site by each way of believing."""
    values = np.where(np.isfinite(seen) & (seen > 0), seen, np.nan)
    values[1:][values[1:] == values[:-1]] = np.nan  # what stands still was not measured anew
    smooth, last = np.full(values.shape, np.nan), np.full(values.shape[1:], np.nan)
    for number, one in enumerate(values):
        last = np.where(np.isnan(one), last, np.where(np.isnan(last), one, last + (one - last) / 8))
        smooth[number] = last
    return {"each slice": _best(_filled(values)), "smoothed, 1/8": _best(smooth), "decided": _best(_decided(values))}


def _decided(values: np.ndarray, rounds: int = 3) -> np.ndarray:
    """(slices, clients, sites) what is decided after each slice; rounds each 5 s."""
    cells, clients, sites = Cells(), values.shape[1], values.shape[2]
    names, found = [f"s{number}" for number in range(sites)], np.full(values.shape, np.nan)
    client, site = np.indices((clients, sites))
    keys = key_of(client.ravel(), site.ravel())
    for number, one in enumerate(values):
        now_s = 1000 + number * SLICE_S
        there = np.isfinite(one) & (one > 0) & (one < 5000)
        groups = np.zeros(int(there.sum()), GROUP)
        groups["block"], groups["site"], groups["km"] = client[there], site[there], FAR
        groups["rtt"], groups["count"] = np.maximum(np.rint(one[there] * 10), 1), 1
        touched = cells.fold(Entry("n", (EPOCH_S + now_s) * 1000, names, ["r"], groups), now_s)
        decide.watch(cells, touched, now_s)
        decide.watch(cells, together.shifted(cells, now_s), now_s)
        for late in range(rounds):
            at_s = now_s + 5 * late
            decide.settle(cells, at_s, lambda at_s=at_s: decide.weight(cells, at_s))
        numbers = cells.lookup.find(keys)
        ms = np.where(numbers >= 0, cells["ms"][np.maximum(numbers, 0)], 0).reshape(clients, sites) / 10
        found[number] = np.where(ms > 0, ms, np.nan)
    return found


def _filled(values: np.ndarray) -> np.ndarray:
    """What was not measured in a slice is as it was."""
    found, last = values.copy(), np.full(values.shape[1:], np.nan)
    for one in found:
        one[:] = last = np.where(np.isnan(one), last, one)
    return found


def _best(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values).argmin(axis=2)


def _cost(seen: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """Changes of a block's best site an hour; ms over the site that is best in the middle of all slices."""
    middle = np.nanmedian(np.where(seen > 0, seen, np.nan), axis=0)
    middle = np.where(np.isnan(middle), np.inf, middle)
    counted = best[WARM:]
    hours = (len(counted) - 1) * SLICE_S / 3600
    changes = (counted[1:] != counted[:-1]).sum() / best.shape[1] / hours
    chosen = np.take_along_axis(np.broadcast_to(middle, (len(counted), *middle.shape)), counted[:, :, None], 2)[:, :, 0]
    extra = chosen - middle.min(axis=1)
    return float(changes), float(extra[np.isfinite(extra)].mean())


def _shift(seen: np.ndarray) -> dict[str, list[float]]:
    """Seconds from the shift of one site until what is decided of a cell is at least half of it more, by how noisy the
    cell is; infinite where that never comes. Each block is measured once in 10 s, as in one of its slices.
    """
    values = np.where(seen > 0, seen, np.nan)
    middle = np.nanmedian(values, axis=0)[:, 0]
    noise = np.nanmedian(np.abs(values[:, :, 0] - middle), axis=0)
    rng = np.random.default_rng(1)
    cells, clients = Cells(), values.shape[1]
    names = [f"s{number}" for number in range(values.shape[2])]
    known = np.isfinite(middle)
    follows_s, before = np.full(clients, np.inf), np.zeros(clients)
    for step in range(CALM + AFTER):
        for phase in range(2):  # half of the blocks are heard of 5 s after the others
            now_s = 1000 + step * 10 + 5 * phase
            mine = known & (np.arange(clients) % 2 == phase)
            one = values[rng.integers(0, len(values)), :, 0]
            one = np.where(np.isfinite(one), one, middle) + (SHIFT_MS if step >= CALM else 0.0)
            groups = np.zeros(int(mine.sum()), GROUP)
            groups["block"], groups["km"], groups["count"] = np.flatnonzero(mine), FAR, 1
            groups["rtt"] = np.clip(np.rint(one[mine] * 10), 1, 50_000)
            touched = cells.fold(Entry("n", (EPOCH_S + now_s) * 1000, names, ["r"], groups), now_s)
            decide.watch(cells, touched, now_s)
            decide.watch(cells, together.shifted(cells, now_s), now_s)
            decide.settle(cells, now_s, lambda now_s=now_s: decide.weight(cells, now_s))
            numbers = cells.lookup.find(key_of(np.arange(clients), np.zeros(clients, np.int64)))
            ms = np.where(numbers >= 0, cells["ms"][np.maximum(numbers, 0)], 0) / 10
            if step < CALM:
                before = ms
            else:
                moved = ms >= before + SHIFT_MS / 2
                follows_s = np.where(moved & np.isinf(follows_s), now_s - 1000 - CALM * 10, follows_s)
    found, low = {}, -1.0
    for high in NOISE_MS:
        found[f"up to {high:g} ms" if np.isfinite(high) else "more"] = follows_s[
            known & (before > 0) & (noise > low) & (noise <= high)].tolist()
        low = high
    return found


def _section(kinds: dict[str, list[tuple[float, float]]], shifts: dict[str, list[float]]) -> list[str]:
    lines = ["## Stability on noisy measurements", "", machine(), "", (
        "Round trips between 99 devices in Seattle, 120 slices taken 15 s apart, ten devices at random as sites; "
        "changes of a block's best site an hour, and the cost over the site that is best in the middle of all slices.")]
    lines += table(("what is believed", "changes an hour", "ms over the best"), [
        (kind, f"{told([one[0] for one in some]):.2f}", f"{told([one[1] for one in some]):.2f}")
        for kind, some in kinds.items()])
    lines.append(
        f"{SHIFT_MS:.0f} ms more at one site for good, each block measured once in 10 s: when what is decided follows, "
        "by a cell's median deviation. A table is on all nodes 2 s later.")
    lines += table(("deviation", "cells", "follow within 60 s", "half", "90 %"), [
        (name, str(len(some)), f"{100 * np.mean(np.array(some) <= 60):.1f} %", *(
            f"{np.sort(some)[int(share * (len(some) - 1))]:.0f} s" for share in (0.5, 0.9)))
        for name, some in shifts.items() if some])
    return lines


if __name__ == "__main__":
    sys.exit(main())
