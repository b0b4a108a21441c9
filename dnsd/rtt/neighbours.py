"""Which reporters contradict what sites measure of each other: clients next to a site are about as far as it is.

Lives here: that judgement. Does not live here: reporters against each other and against distance (`rtt.trust`), who
measures sites (nodes whose option `site` is set, by their probes).

The only reporter of a site has nobody who could contradict it, and what it adds to all its clients may as well be its
access link. But another site's node measures the same link. Of a hundred real cities as sites two in a thousand are
further off in each direction than the bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from dnsd.rtt.cells import F64, GONE, I64, SLOTS, Cells, blocks_of, key_of
from dnsd.rtt.trust import TIGHTER

LOOKED_AT: Final = 100_000
"""Cells that are looked at, of blocks spread over all there are."""

NEAR: Final = 300.0
"""Tenths of a millisecond up to which a client lives next to a site."""

SOFT: Final = 100.0
"""Tenths added to both sides of the ratio: the last mile of a near client is no lie."""

CLIENTS: Final = 3
SITES: Final = 4
"""Blocks next to a site, and such sites, for a judgement."""

LEAST: Final = 3
"""Reporters from which on one is judged beside what is usual; of two nobody knows which."""

MORE: Final = (300.0, 0.1)
LESS: Final = (-100.0, -0.25)
"""Tenths, and natural logarithm of the ratio, past both of which a reporter is not believed."""

AGREE: Final = 0.7
"""So well its words go along with what nodes measure from site to site, as a correlation: else that is something else,
an address that is answered everywhere perhaps."""

MOST: Final = 1 / 3
"""Where so many are off it is not they."""


def judged(cells: Cells, now_s: int, between: Mapping[tuple[str, str], float]) -> dict[str, str]:
    """Reporters that are not to be believed, and why. `between`: milliseconds from a site to another."""
    columns = {site: column for column, site in enumerate(cells.sites) if site is not None}
    if len(columns) <= SITES or not between:
        return {}
    apart = np.full((len(cells.sites), len(cells.sites)), np.nan)
    for (one, other), ms in between.items():
        if one in columns and other in columns:
            apart[columns[one], columns[other]] = 10 * ms
    numbers = _numbers(cells)
    near, beside = _nearest(cells, numbers, now_s)
    asked = [one for column in columns.values() for one in _off(
        cells, now_s, numbers[:, column], near[:, column], apart[:, column][beside[:, column]], beside[:, column])]
    if len(asked) < LEAST:
        return {}
    said = np.array([one[1:] for one in asked])
    beyond = said - np.median(said, axis=0)  # clients have a last mile that nodes have not
    found: dict[str, str] = {}
    for (reporter, *_), (tenths, ratio) in zip(asked, beyond.tolist(), strict=True):
        scale = 1.0 if cells.trusted[reporter] else TIGHTER
        why = ""
        if tenths > MORE[0] * scale and ratio > MORE[1] * scale:
            why = f"{tenths / 10:.0f} ms farther"
        elif tenths < LESS[0] * scale and ratio < LESS[1] * scale:
            why = f"{100 * (1 - np.exp(ratio)):.0f} % nearer"
        if why:
            found[cells.named(reporter)] = f"its clients are {why} than the sites next to them"
    return found if len(found) <= max(1, int(len(asked) * MOST)) else {}


def _numbers(cells: Cells) -> I64:
    """(blocks, columns) numbers of some blocks' cells, -1 where there is none."""
    count = len(cells.sites)
    step = max(1, len(cells) // max(1, LOOKED_AT // count))
    blocks = np.unique(blocks_of(cells.keys[::step]))
    keys = key_of(np.repeat(blocks, count), np.tile(np.arange(count), len(blocks)))
    return cells.lookup.find(keys).reshape(-1, count)


def _nearest(cells: Cells, numbers: I64, now_s: int) -> tuple[F64, I64]:
    """For each block and column: tenths to the nearest other site, and which that is."""
    there = numbers >= 0
    tenths: F64 = np.full(numbers.shape, np.inf)
    said = cells.estimate(numbers[there], now_s).tenths
    tenths[there] = np.where(said > 0, said, np.inf)
    order, rows = np.argsort(tenths, axis=1), np.arange(len(numbers))
    other = np.where(order[:, :1] == np.arange(numbers.shape[1]), order[:, 1:2], order[:, :1])
    return tenths[rows[:, None], other], other


def _off(cells: Cells, now_s: int, numbers: I64, near: F64, away: F64, beside: I64,
         ) -> Iterator[tuple[int, float, float]]:
    """Of one site's cells each reporter that can be judged: tenths farther than expected, and the ratio's logarithm.

    Each next-by site says the middle of its clients, and the middle of these counts: one site that is said to be where
    it is not changes nothing.
    """
    rows = np.flatnonzero((numbers >= 0) & (near <= NEAR) & np.isfinite(away))
    numbers, away, beside = numbers[rows], away[rows], beside[rows]
    who = np.where(cells.decayed(numbers, now_s) >= GONE, cells["reporter"][numbers], 0).ravel()
    said = cells["rtt"][numbers].astype(np.float64)
    parts = np.stack([said - away[:, None], np.log((said + SOFT) / (away + SOFT)[:, None]), said,
                      np.broadcast_to(away[:, None], said.shape)]).reshape(4, -1)
    beside = np.repeat(beside, SLOTS)
    for reporter in np.unique(who[who > 0]).tolist():
        own = who == reporter
        sites = [own & (beside == site) for site in np.unique(beside[own]).tolist()]
        middles = np.array([np.median(parts[:, some], axis=1) for some in sites if some.sum() >= CLIENTS])
        if len(middles) < SITES:
            continue
        tenths, ratio = np.median(middles[:, :2], axis=0).tolist()
        if (np.std(middles[:, 2:], axis=0) > 0).all() and np.corrcoef(middles[:, 2:].T)[0, 1] > AGREE:
            yield reporter, tenths, ratio
