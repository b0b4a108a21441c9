"""Rungs: what clients of one country, carrier, AS, place have beyond what the field says.

Lives here: a group's effect from its measured blocks, shrunk as far as it is uncertain; the same without one block; the
sizes of effects, from the data. Does not live here: which groups there are and which rungs are used (`rtt.infer`).

An effect has a part that is common to all sites and one for each site. The split is what decides: a network measured
at one site only, and slow there, is most likely slow to all, and must not be sent away from that site. Both parts are
the best linear prediction for their sizes, which are found by moments: products of two sites' means know nothing but
the common part.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

COMMON_SHARE: Final = 0.7
"""Of an effect's variance, where no group is measured at two sites, so that the data cannot say."""

TINY: Final = 1e-9

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Sizes(NamedTuple):
    """Variances: of the common part, of each site's part, of blocks around their group's effect."""

    common: float
    own: float
    noise: float


class Sums(NamedTuple):
    """(groups, sites): how many blocks, the sum of their residuals."""

    cells: F64
    total: F64


class Effects(NamedTuple):
    """(groups, sites): the effect, its error's variance, how many blocks measured it there."""

    value: F64
    variance: F64
    cells: F64


def sums(residual: F64, group: I64, groups: int) -> Sums:
    """Of (blocks, sites) residuals, NaN where none."""
    count, total = np.zeros((groups, residual.shape[1])), np.zeros((groups, residual.shape[1]))
    for column, values in enumerate(np.ascontiguousarray(residual.T)):
        has = np.isfinite(values)
        mine, values = (group, values) if has.all() else (group[has], values[has])
        count[:, column] = np.bincount(mine, minlength=groups)
        total[:, column] = np.bincount(mine, values, groups)
    return Sums(count, total)


def sizes(residual: F64, group: I64, found: Sums) -> Sizes:
    """The variances by moments; group 0 holds what belongs to none and is left out."""
    count, total = found.cells[1:], found.total[1:]
    mean = total / np.maximum(count, 1)
    mine = np.nan_to_num(residual if group.all() else residual[group > 0])
    squares = float(np.vdot(mine, mine))
    within = max(0.0, squares - float(np.vdot(total, mean)))
    spare = float(np.maximum(count - 1, 0).sum())
    noise = within / spare if spare else squares / max(1.0, float(count.sum())) / 2
    cells = max(1.0, float((count > 0).sum()))
    both = max(0.0, float((np.where(count > 0, mean**2 - noise / np.maximum(count, 1), 0.0)).sum()) / cells)
    sites = (count > 0).sum(axis=1)
    pairs = float((sites * (sites - 1)).sum())
    if not pairs:
        return Sizes(both * COMMON_SHARE, both * (1 - COMMON_SHARE), noise + TINY)
    common = (float((mean.sum(axis=1) ** 2 - (mean**2).sum(axis=1)).sum())) / pairs
    common = min(max(0.0, common), both)
    return Sizes(common, both - common, noise + TINY)


def effects(found: Sums, size: Sizes) -> Effects:
    """Best linear predictions of each group's effect at each site, measured there or not."""
    common, own, noise = size
    count = found.cells
    mean = found.total / np.maximum(count, 1)
    weight = np.where(count > 0, 1.0 / (own + noise / np.maximum(count, 1) + TINY), 0.0)
    sum_of = weight.sum(axis=1, keepdims=True)
    shared = (weight * mean).sum(axis=1, keepdims=True) / (sum_of + 1.0 / (common + TINY))
    part = np.where(count > 0, own / (own + noise / np.maximum(count, 1) + TINY), 0.0)
    value = shared + part * (mean - shared) * (count > 0)
    left = 1.0 / (sum_of + 1.0 / (common + TINY))
    variance = own * (1 - part) + left * (1 - part) ** 2 + noise
    return Effects(value, variance, count)


def without_own(residual: F64, group: I64, found: Sums, size: Sizes) -> F64:
    """(blocks, sites): the effect of each block's group as its other blocks tell it."""
    mine = np.isfinite(residual)
    return of_rest(Sums(found.cells[group] - mine, found.total[group] - np.where(mine, residual, 0.0)), group, size)


def of_rest(rest: Sums, group: I64, size: Sizes) -> F64:
    """(blocks, sites): the effect of each block's group by what is left of it."""
    value = effects(rest, size).value
    value[group == 0] = 0.0
    return value
