"""When a cell's estimate becomes what answers go by: past a margin, for a time, and never too much at once.

Lives here: the margin, how long it must hold, what is enough for a new cell, the bound on what moves in a round. Does
not live here: estimates (`rtt.cells`), the table's form (`rtt.table`, `rtt.shards`), inference.

Hysteresis stands here, on the inputs, and is decided once for all nodes: whatever follows from a decided table is a
pure function of it. A cell that wavers inside its margin (3 ms, a tenth, its own error) never moves an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt.cells import F64, I64, U64, Cells, blocks_of, key_of

MARGIN: Final = 30
"""Tenths of a millisecond."""

MARGIN_PART: Final = 0.1
HOLD_S: Final = 10
ENOUGH: Final = 4.5
TWICE: Final = 1.5
"""Samples that are evidence at once: five; two are if they are `HOLD_S` apart. Each a little faded."""

UNSURE_MS: Final = 15.0
UNSURE_PART: Final = 0.4
"""A new cell whose error is beyond both is not decided yet."""

CHURN_MOST: Final = 0.2
"""Of the measured weight so much may get another best site in one round."""


class Round(NamedTuple):
    """What a round has moved: numbers of cells that were decided anew or for the first time, the share of the measured
    weight whose best site changed, the blocks that must wait for the next round."""

    moved: I64
    new: int
    churn: float
    deferred: int


def watch(cells: Cells, touched: I64, now_s: int) -> None:
    """Notes which of these cells are beyond their margin, and since when; call it after each fold."""
    found = cells.estimate(touched, now_s)
    decided = cells["ms"][touched]
    beyond = (found.samples > 0) & (np.abs(found.tenths - decided) > margin(decided, found.error))
    pending, since = cells["pending"], cells["since"]
    begins = beyond & (~pending[touched] | (since[touched] > now_s))  # a clock set back begins anew
    since[touched[begins]] = found.last_s[begins]
    pending[touched] = beyond


def margin(decided: NDArray[np.uint16], error_ms: F64) -> F64:
    """Tenths by which an estimate must be off; 0 for a cell that was not decided yet."""
    part = np.maximum(np.maximum(MARGIN, MARGIN_PART * decided), 10 * error_ms)
    return np.where(decided == 0, 0.0, part)


def settle(cells: Cells, now_s: int, total: Callable[[], float]) -> Round:
    """Decides on what is due. `total` gives the weight of all measured blocks (`weight`), where it is needed."""
    waiting = np.flatnonzero(cells["pending"])
    found = cells.estimate(waiting, now_s)
    decided = cells["ms"][waiting]
    held = found.last_s - cells["since"][waiting] >= HOLD_S
    sure = found.error <= np.maximum(UNSURE_MS, UNSURE_PART * found.tenths / 10)
    enough = (found.samples >= ENOUGH) | (held & (found.samples >= TWICE))
    due = np.where(decided == 0, enough & sure, held) & (found.samples > 0)
    numbers, tenths = waiting[due], np.maximum(np.rint(found.tenths[due]), 1)
    moving, churn, deferred = _bounded(cells, numbers, tenths, now_s, total)
    numbers, tenths = numbers[moving], tenths[moving]
    new = int(np.count_nonzero(cells["ms"][numbers] == 0))
    cells["ms"][numbers] = tenths
    cells["pending"][numbers] = False
    return Round(numbers, new, churn, deferred)


def withdraw(cells: Cells, numbers: I64, now_s: int) -> I64:
    """Decided cells of these for which nobody's word is left: they are not decided any more; which they are."""
    decided = numbers[cells["ms"][numbers] > 0]
    gone = decided[cells.estimate(decided, now_s).samples <= 0]
    cells["ms"][gone] = 0
    return gone


def weight(cells: Cells, now_s: int) -> float:
    """Decayed samples of all decided cells."""
    decided = np.flatnonzero(cells["ms"])
    return float(cells.decayed(decided, now_s).sum())


def _bounded(cells: Cells, numbers: I64, tenths: F64, now_s: int, total: Callable[[], float],
             ) -> tuple[NDArray[np.bool_], float, int]:
    """Which of these cells may move now: those with the most to gain, as long as not too much gets another best site.

    What a cell says for the first time is no churn: nothing measured is contradicted.
    """
    if not len(numbers):
        return np.zeros(0, np.bool_), 0.0, 0
    blocks, member = np.unique(blocks_of(cells.keys[numbers]), return_inverse=True)
    before, after, weights = _rows(cells, blocks, now_s)
    columns = (cells.keys[numbers] & np.uint64(0xFF)).astype(np.int64)
    again = before[member, columns] < _NEVER
    after[member, columns] = tenths
    rows = np.arange(len(blocks))
    was, now = before.argmin(axis=1), after.argmin(axis=1)
    gain = after[rows, was] - after[rows, now]
    # the only measured site of a block: whether another is better now nobody has measured
    only = (np.count_nonzero(before < _NEVER, axis=1) == 1) & np.isin(rows, member[again])
    moves = ((was != now) | only) & (before[rows, was] < _NEVER)
    gain[only] = np.abs(after[rows, was] - before[rows, was])[only]
    if not moves.any():
        return np.ones(len(numbers), np.bool_), 0.0, 0
    order, whole = np.argsort(-gain[moves], kind="stable"), max(total(), 1e-9)
    spent = np.cumsum(weights[moves][order])
    allowed = spent <= CHURN_MOST * whole
    allowed[0] = True
    waits = np.zeros(len(blocks), np.bool_)
    waits[np.flatnonzero(moves)[order[~allowed]]] = True
    return ~waits[member], min(float(spent[allowed][-1]) / whole, 1.0), int(np.count_nonzero(waits))


_NEVER: Final = 1e9


def _rows(cells: Cells, blocks: U64, now_s: int) -> tuple[F64, F64, F64]:
    """(blocks, columns) decided tenths, twice, `_NEVER` where there are none; the weight of each block."""
    columns = max(len(cells.sites), 1)
    numbers = cells.lookup.find(key_of(np.repeat(blocks, columns), np.tile(np.arange(columns), len(blocks))))
    there = numbers >= 0
    rows = np.full(len(numbers), _NEVER)
    rows[there] = cells["ms"][numbers[there]]
    rows[rows == 0] = _NEVER
    weights = np.zeros(len(numbers))
    weights[there] = cells.decayed(numbers[there], now_s).sum(axis=1)
    decided = rows.reshape(len(blocks), columns)
    return decided, decided.copy(), weights.reshape(len(blocks), columns).sum(axis=1)
