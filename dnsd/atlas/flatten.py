"""From nested prefixes to sorted, disjoint runs, cut to the blocks a scope may name.

Lives here: nesting, cutting to /24 and /56, laying layers over one another, counting scope blocks. Does not live here:
reading files (`atlas.prefixes`, `atlas.mmdb`), what values mean (`atlas.build`).

A run goes from its start to the next run's; the first starts at 0, so every key is in exactly one. A unit (/24 or /56)
that holds several values gets the one that holds most of its addresses, among equals the one with the lowest address;
nothing known (0) never outvotes something known. Scopes may not be finer than a unit, so a unit has one origin.

What millions of runs go through is done by `runs.pyx` where that is compiled; the numpy beside each call is the same
for machines without a compiler, and what tests hold the compiled to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import compiled
from dnsd.atlas.prefixes import U32, U64, Family, Key, Prefixes, distinct

UNIT: Final = np.uint64(8)
"""A unit is `key >> 8` in both families."""
_INSIDE: Final = np.uint64(255)
_ONE: Final = np.uint64(1)
JOINED: Final = 15
"""Layers that `runs.join` takes at once."""


class Cells(NamedTuple):
    """Layers laid over one another: sorted first keys (the first is 0), the combination of values each cell has, and of
    each combination every layer's value."""

    starts: U64
    which: U32
    layers: list[U32]


class Runs(NamedTuple):
    """Sorted first keys (the first is 0) and the value of each run; neighbours differ."""

    starts: U64
    values: U32


def last_key(family: Family) -> np.uint64:
    """The family's greatest key."""
    return np.uint64((1 << family.bits) - 1)


def flatten(prefixes: Prefixes, family: Family) -> Runs:
    """Disjoint runs of nested prefixes: the more specific wins, of equal ones the later."""
    if compiled.runs:
        return _compiled(prefixes, family, whole=False)[0]
    prefixes = _in_order(prefixes)
    span = last_key(family) >> np.minimum(prefixes.lengths, family.bits - 1).astype(np.uint64)
    span[prefixes.lengths == family.bits] = 0
    ends = prefixes.keys | span
    after = ends[ends < last_key(family)] + _ONE
    starts = distinct(np.concatenate((np.zeros(1, np.uint64), prefixes.keys, after)))
    values = np.zeros(len(starts), np.uint32)
    low = np.searchsorted(starts, prefixes.keys)
    high = np.searchsorted(starts, ends, "right")
    for length in np.unique(prefixes.lengths):
        chosen = np.flatnonzero(prefixes.lengths == length)
        counts = high[chosen] - low[chosen]
        values[ranges(low[chosen], counts)] = np.repeat(prefixes.values[chosen], counts)
    return merge(starts, values)


def units(prefixes: Prefixes, family: Family) -> tuple[Runs, U64]:
    """Disjoint runs of nested prefixes that begin at units only, and the units in which a vote was needed."""
    if compiled.runs:
        return _compiled(prefixes, family, whole=True)
    return cut(flatten(prefixes, family), family)


def _compiled(prefixes: Prefixes, family: Family, *, whole: bool) -> tuple[Runs, U64]:
    found = compiled.runs.flatten(prefixes.keys, prefixes.lengths, prefixes.values, family.bits, whole)
    if found is None:
        order = np.lexsort((prefixes.lengths, prefixes.keys))
        found = compiled.runs.flatten(
            prefixes.keys[order], prefixes.lengths[order], prefixes.values[order], family.bits, whole)
    starts, values, voted = found
    return Runs(starts, values), voted


def _in_order(prefixes: Prefixes) -> Prefixes:
    """Sorted by key, entries of one key as they were: out of order, bisecting a large table is twenty times slower."""
    order = np.argsort(prefixes.keys, kind="stable")
    return Prefixes(prefixes.keys[order], prefixes.lengths[order], prefixes.values[order])


def ranges(low: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers low[i] .. low[i] + counts[i] - 1, one after another."""
    before = np.cumsum(counts) - counts
    return np.repeat(low - before, counts) + np.arange(counts.sum())


def merge(starts: U64, values: U32) -> Runs:
    """Runs without equal neighbours."""
    keep = np.ones(len(starts), bool)
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return Runs(starts[keep], values[keep])


def merged(starts: NDArray[Key], which: U32, values: U32) -> tuple[NDArray[Key], U32]:
    """Runs of `values[which]` without equal neighbours."""
    if compiled.runs:
        if int(which.max(initial=0)) >= len(values):
            raise IndexError("runs of values that are not there")
        found: tuple[NDArray[Key], U32] = compiled.runs.merge(starts, which, values)
        return found
    of_run = values[which]
    keep = np.ones(len(starts), bool)
    np.not_equal(of_run[1:], of_run[:-1], out=keep[1:])
    return starts[keep], of_run[keep]


def translate(values: U32, numbers: U32) -> U32:
    """`numbers[values]`, where possible in the place of `values`."""
    if compiled.runs:
        compiled.runs.translate(values, numbers)
        return values
    return numbers[values]


def at(runs: Runs, keys: U64) -> U32:
    """The value at each key."""
    return runs.values[np.searchsorted(runs.starts, keys, "right") - 1]


def cut(runs: Runs, family: Family) -> tuple[Runs, U64]:
    """Runs that begin at units only, and the units (`key >> 8`) in which a vote was needed."""
    units = distinct(runs.starts[(runs.starts & _INSIDE) != 0] >> UNIT)
    if not len(units):
        return runs, units
    winners = _vote(runs, units)
    plain = (runs.starts & _INSIDE) == 0
    plain &= ~np.isin(runs.starts >> UNIT, units)
    following = units[units < last_key(family) >> UNIT] + _ONE
    following = following[~np.isin(following, units)] << UNIT
    starts = np.concatenate((runs.starts[plain], units << UNIT, following))
    values = np.concatenate((runs.values[plain], winners, at(runs, following)))
    starts, first = np.unique(starts, return_index=True)
    return merge(starts, values[first]), units


def _vote(runs: Runs, units: U64) -> U32:
    """The value each unit gets: most addresses, then the lowest address; 0 only where there is nothing else."""
    low = np.searchsorted(runs.starts, units << UNIT, "right") - 1
    counts = np.searchsorted(runs.starts, units << UNIT | _INSIDE, "right") - low
    piece, unit = ranges(low, counts), np.repeat(np.arange(len(units)), counts)
    begin = np.maximum(runs.starts[piece], units[unit] << UNIT)
    end = units[unit] << UNIT | _INSIDE
    end[:-1] = np.where(unit[1:] == unit[:-1], begin[1:] - _ONE, end[:-1])
    value = runs.values[piece]
    size = np.where(value == 0, 0, (end - begin).astype(np.int64) + 1)
    order = np.lexsort((value, unit))  # stable: the first of a group has its lowest address
    first = np.ones(len(order), bool)
    first[1:] = (unit[order][1:] != unit[order][:-1]) | (value[order][1:] != value[order][:-1])
    head = np.flatnonzero(first)
    total = np.add.reduceat(size[order], head)
    group = order[head]
    best = np.lexsort((begin[group], -total, unit[group]))
    leads = np.ones(len(best), bool)
    leads[1:] = unit[group][best][1:] != unit[group][best][:-1]
    return value[group][best][leads]


def overlay(layers: Sequence[Runs]) -> tuple[U64, list[U32]]:
    """The joint borders of several layers, and each layer's value for each run between them."""
    starts = distinct(np.concatenate([layer.starts for layer in layers]))
    return starts, [at(layer, starts) for layer in layers]


def cells(layers: Sequence[Runs], mask: Runs) -> Cells:
    """Several layers as cells; every layer is 0 where `mask` is not. Combinations are in no order, and some may be
    equal to one another."""
    found = _packed(layers, mask) if compiled.runs else None
    if found is not None:
        return found
    starts, values = overlay([*layers, mask])
    hidden = values.pop() != 0
    for layer in values:
        layer[hidden] = 0
    first, which = groups(values)
    return Cells(starts, which.astype(np.uint32), [layer[first] for layer in values])


def _packed(layers: Sequence[Runs], mask: Runs) -> Cells | None:
    """The same with every combination as a word of 64 bits; None where one does not fit."""
    said = [layer for layer in layers if len(layer.starts) > 1 or layer.values[0]]
    widths = [int(layer.values.max()).bit_length() for layer in said]
    if sum(widths) > 64 or len(said) > JOINED:
        return None
    shifts = [sum(widths[:i]) for i in range(len(widths))]
    starts, words = compiled.runs.join(said, shifts, mask)
    which, words = number(words)
    columns = {id(layer): (words >> np.uint64(shift) & np.uint64((1 << width) - 1)).astype(np.uint32)
               for layer, shift, width in zip(said, shifts, widths, strict=True)}
    silent = np.zeros(len(words), np.uint32)
    return Cells(starts, which, [columns.get(id(layer), silent) for layer in layers])


def number(words: U64) -> tuple[U32, U64]:
    """The number of each word among the distinct ones, and those, in the order they are first met."""
    if compiled.runs:
        found: tuple[U32, U64] = compiled.runs.number(words)
        return found
    distinct_words, first, which = np.unique(words, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return rank[which], distinct_words[order]


def ranked(words: U64) -> tuple[U64, U32]:
    """The distinct words, sorted, and which of them each is: `numpy.unique` for words of which few are distinct."""
    which, found = number(words)
    order = np.argsort(found)
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return found[order], rank[which]


def weighed(starts: U32, which: U32, values: U32, end: int) -> NDArray[np.float64]:
    """For each number up to the greatest how many keys have it: runs of `values[which]`, the last up to `end`."""
    count = int(values.max(initial=0)) + 1
    if compiled.runs:
        if int(which.max(initial=0)) >= len(values):
            raise IndexError("runs of values that are not there")
        found: NDArray[np.uint64] = compiled.runs.weigh(starts, which, values, end, count)
        return found.astype(np.float64)
    keys = np.diff(starts.astype(np.int64), append=end)
    return np.bincount(values[which], keys, count).astype(np.float64)


def groups(layers: Sequence[U32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct tuples across columns: where each is found, and which of them each position has.

    The columns' bits are packed into as few words as hold them, so that one sort of numbers does it.
    """
    words, room = [np.zeros(len(layers[0]), np.uint64)], 64
    for layer in layers:
        width = int(layer.max(initial=0)).bit_length()
        if width > room:
            words, room = [*words, np.zeros(len(layer), np.uint64)], 64
        words[-1] = words[-1] << np.uint64(width) | layer
        room -= width
    order = np.lexsort(words) if len(words) > 1 else np.argsort(words[0])
    new = np.zeros(len(order), bool)
    for word in words:
        new[1:] |= word[order][1:] != word[order][:-1]
    new[:1] = True
    which = np.empty(len(order), np.int64)
    which[order] = np.cumsum(new) - 1
    return order[new], which


def blocks(starts: NDArray[Key], bits: int, shift: int = 0) -> int:
    """How many largest aligned blocks the runs fall into: what a cache that holds every scope would hold.

    `starts >> shift` are keys of `bits` (at most 63) bits, the first 0.
    """
    if compiled.runs:
        return int(compiled.runs.blocks(starts, shift, bits))
    low = starts.astype(np.uint64) >> np.uint64(shift)
    high = np.append(low[1:], np.uint64(1 << bits))
    count = 0
    for _ in range(bits):
        count += int(np.count_nonzero(low & _ONE)) + int(np.count_nonzero(high & _ONE))
        low, high = (low + (low & _ONE)) >> _ONE, high >> _ONE
        open_ = low < high
        low, high = low[open_], high[open_]
    return count + len(low)
