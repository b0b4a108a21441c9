"""How much of the clients' weight a new map table sends to another best site than the one before.

Lives here: comparing two tables. Does not live here: keeping it low, which is done on the inputs (`rtt.decide`).

Clients weigh what was measured of them; where nothing was, every IPv4 /24 weighs the same. Sites that share the lowest
level are all best, so only what loses its place among them has moved; so has a client whose best site is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import estimates, tablefile
from dnsd.atlas.tablefile import Table
from dnsd.image import layout
from dnsd.rtt import blocks
from dnsd.rtt.table import Table as Measured

F64 = NDArray[np.float64]


def share(before: Path, after: Table, sites: Sequence[str], measured: Measured | None) -> float | None:
    """The share that moved, 0 to 1; None where the table before cannot be read or nobody says what its columns are."""
    try:
        _, old = tablefile.read(before)
        told = estimates.sites_of(before.with_suffix(estimates.SUFFIX))
    except (OSError, ValueError):
        return None
    names = told or (tuple(sites) if old.rows.shape[1] == 2 * len(sites) else ())
    if not names or not sites:
        return None
    keys, weight = _clients(measured) if measured is not None and measured.weight.sum() > 0 else _space(old, after)
    was, now = (_best(table, keys, len(columns)) for table, columns in ((old, names), (after, sites)))
    column = np.array([names.index(site) if site in names else -1 for site in sites])
    kept = ((was[:, column] & (column >= 0)) & now).any(axis=1)
    return float(weight[~kept].sum() / max(weight.sum(), 1e-30))


def _clients(measured: Measured) -> tuple[NDArray[np.uint64], F64]:
    return measured.blocks, measured.weight.astype(np.float64)


def _space(old: Table, after: Table) -> tuple[NDArray[np.uint64], F64]:
    """The joint IPv4 runs of both tables, and how long they are."""
    starts = np.union1d(old.starts4, after.starts4).astype(np.int64)
    return starts.astype(np.uint64), np.diff(starts, append=1 << layout.KEY4_BITS).astype(np.float64)


def _best(table: Table, keys: NDArray[np.uint64], sites: int) -> NDArray[np.bool_]:
    """(blocks, sites): whether a site has the block's lowest level."""
    six = (keys & np.uint64(blocks.SIX)) > 0
    row = np.zeros(len(keys), np.uint32)
    row[~six] = _at(table.starts4, table.rows4, keys[~six].astype(np.uint32))
    row[six] = _at(table.starts6, table.rows6, (keys[six] ^ np.uint64(blocks.SIX)) << np.uint64(16))
    levels = table.rows[:, :sites]
    lowest: NDArray[np.bool_] = levels == levels.min(axis=1, keepdims=True)
    return lowest[row]


def _at(starts: NDArray[Any], rows: NDArray[np.uint32], keys: NDArray[Any]) -> NDArray[np.uint32]:
    return rows[np.searchsorted(starts, keys, "right") - 1]
