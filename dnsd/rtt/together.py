"""A site whose path has changed for most of its clients at once: seen together where no cell by itself could say.

Lives here: what all medians of a site have been off by in the last seconds, and moving the cells that it holds for.
Does not live here: what one cell makes of its own medians (`rtt.cells`).

A cell that wavers by 100 ms cannot tell a shift of 50. A hundred of them can: the middle of what they are off by
stands still while the path does. When it is off in two windows of ten seconds, one after the other, by more than
chance lets it be, every cell that was heard of and is off to the same side moves by that much.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dnsd.rtt.cells import F64, I64, Cells, Seen, columns_of

WINDOW_S: Final = 10
LOOK_S: Final = 3
BLOCKS: Final = 20
"""Cells of each window that it takes."""

LEAST: Final = 50.0
SURE: Final = 5.0
"""Tenths, and standard errors of the middle, that both windows must be off by."""

WIDER: Final = 1.5
LEARNS: Final = 0.1
KEPT: Final = 1_000_000


def shifted(cells: Cells, now_s: int) -> I64:
    """Moves the cells of sites that have shifted; their numbers. Call it after each fold: it looks now and then."""
    if 0 <= now_s - cells.looked_s < LOOK_S:
        return np.zeros(0, np.int64)
    cells.looked_s = now_s
    cells.seen = [one for one in cells.seen if 0 <= now_s - one.at_s <= 2 * WINDOW_S]
    while sum(len(one.off) for one in cells.seen) > KEPT:
        del cells.seen[0]
    late = [one for one in cells.seen if now_s - one.at_s < WINDOW_S]
    early = [one for one in cells.seen if now_s - one.at_s >= WINDOW_S]
    if not late or not early or now_s - early[0].at_s < 2 * WINDOW_S - 3:
        return np.zeros(0, np.int64)
    first, last = _together(early), _together(late)
    moved = []
    keys = cells.keys
    of_first, of_last = columns_of(keys[first.numbers]), columns_of(keys[last.numbers])
    for column in np.intersect1d(of_first, of_last).tolist():
        before, after = first.off[of_first == column], last.off[of_last == column]
        _learn(cells, column, before, early[0].at_s)
        by = float(np.median(after))
        if min(len(before), len(after)) < BLOCKS:
            continue
        if not (_off(before) * np.sign(by) > 0 and _off(after) * by > 0) or not _usual(cells, column, after):
            continue
        mine = (of_last == column) & (last.off * np.sign(by) >= abs(by) / 2)
        moved.append(_move(cells, last.numbers[mine], last.slots[mine], by, early[0].at_s))
        drop = moved[-1]
        cells.seen = [_without(one, drop) for one in cells.seen]
    return np.concatenate(moved) if moved else np.zeros(0, np.int64)


def _without(one: Seen, numbers: I64) -> Seen:
    left = ~np.isin(one.numbers, numbers)
    return Seen(one.at_s, one.numbers[left], one.slots[left], one.off[left])


def _learn(cells: Cells, column: int, off: F64, at_s: int) -> None:
    """How wide a site's medians usually are, looked at once in each window."""
    usual, seen_s = cells.usual.get(column, (_wide(off), at_s))
    if column not in cells.usual or at_s - seen_s >= WINDOW_S:
        gain = LEARNS if _wide(off) > usual else 2 * LEARNS
        cells.usual[column] = usual + gain * (_wide(off) - usual), at_s


def _usual(cells: Cells, column: int, off: F64) -> bool:
    """Whether medians are as wide around their middle as they are when nothing happens: a path that is longer now only
    adds, who makes values up spreads them."""
    return _wide(off) <= WIDER * cells.usual.get(column, (0.0, 0))[0] + LEAST


def _wide(off: F64) -> float:
    return float(np.median(np.abs(off - np.median(off))))


def _off(off: F64) -> float:
    """The side (-1, 0, 1) that the middle is off to, beyond chance."""
    middle = float(np.median(off))
    error = 1.2533 * 1.4826 * _wide(off) / np.sqrt(len(off))
    return float(np.sign(middle)) if abs(middle) > max(LEAST, SURE * error) else 0.0


def _together(some: list[Seen]) -> Seen:
    """The last of each cell and reporter."""
    numbers = np.concatenate([one.numbers for one in some])[::-1]
    slots, off = np.concatenate([one.slots for one in some])[::-1], np.concatenate([one.off for one in some])[::-1]
    _, first = np.unique(numbers * 4 + slots, return_index=True)
    return Seen(some[0].at_s, numbers[first], slots[first], off[first])


def _move(cells: Cells, numbers: I64, slots: I64, by: float, since_s: int) -> I64:
    at = (numbers, slots)
    cells["rtt"][at] = np.clip(cells["rtt"][at] + np.rint(by), 1, 50_000)
    cells["streak"][at] = 0
    fresh = numbers[~cells["pending"][numbers]]
    cells["since"][fresh] = since_s
    cells["pending"][numbers] = True
    cells["dirty"][numbers] = True
    return np.unique(numbers)
