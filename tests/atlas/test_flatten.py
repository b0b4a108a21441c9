"""Nesting, cutting and counting against plain-Python ways of doing the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.atlas import flatten, prefixes
from dnsd.atlas.flatten import Runs
from dnsd.atlas.prefixes import V4, V6, Family

pytestmark = pytest.mark.usefixtures("loops")

# Prefixes live in the last 2^12 keys of a family, so that they nest, touch and reach the very end.
ROOM = 12


@st.composite
def nested(draw: st.DrawFn) -> tuple[Family, list[tuple[int, int, int]]]:
    family = draw(st.sampled_from([V4, V6]))
    base = (1 << family.bits) - (1 << ROOM)
    rows = []
    for _ in range(draw(st.integers(0, 25))):
        length = draw(st.integers(family.bits - ROOM, family.bits))
        block = draw(st.integers(0, (1 << (length - family.bits + ROOM)) - 1))
        rows.append((base + (block << (family.bits - length)), length, draw(st.integers(0, 4))))
    if draw(st.booleans()):
        rows.append((0, 0, draw(st.integers(0, 4))))
    return family, rows


def longest(family: Family, rows: list[tuple[int, int, int]], key: int) -> int:
    found = (-1, 0)
    for start, length, value in rows:
        if key >> (family.bits - length) == start >> (family.bits - length) and length >= found[0]:
            found = (length, value)
    return found[1]


def keys(family: Family) -> np.ndarray:
    end = 1 << family.bits
    return np.array([0, 1, end // 2, *range(end - (1 << ROOM) - 2, end)], np.uint64)


@given(nested())
def test_flatten_is_longest_prefix_match(case: tuple[Family, list[tuple[int, int, int]]]) -> None:
    family, rows = case
    runs = flatten.flatten(prefixes.columns(rows), family)
    assert runs.starts[0] == 0
    assert (np.diff(runs.starts.astype(object)) > 0).all()
    assert (runs.values[1:] != runs.values[:-1]).all()
    asked = keys(family)
    assert flatten.at(runs, asked).tolist() == [longest(family, rows, int(key)) for key in asked]


def voted(values: list[int]) -> int:
    """Most addresses; then the lowest; nothing known only where there is nothing else."""
    count = Counter(value for value in values if value)
    return min(count, key=lambda value: (-count[value], values.index(value)), default=0)


@given(nested())
def test_cut_gives_a_unit_what_holds_most_of_it(case: tuple[Family, list[tuple[int, int, int]]]) -> None:
    family, rows = case
    fine = flatten.flatten(prefixes.columns(rows), family)
    runs, units = flatten.cut(fine, family)
    assert not (runs.starts & np.uint64(255)).any()
    assert (runs.values[1:] != runs.values[:-1]).all()
    first = ((1 << family.bits) - (1 << ROOM)) >> 8
    mixed = []
    for unit in range(first - 1, 1 << (family.bits - 8)):
        inside = flatten.at(fine, np.arange(256, dtype=np.uint64) + np.uint64(unit << 8)).tolist()
        if len(set(inside)) > 1:
            mixed.append(unit)
        assert flatten.at(runs, np.array([unit << 8], np.uint64))[0] == voted(inside)
    assert units.tolist() == mixed


@pytest.mark.parametrize(("name", "values", "wins"), [
    ("most addresses", [(0, 1), (100, 2)], 2),
    ("a tie goes to the lowest", [(0, 2), (128, 1)], 2),
    ("several pieces count together", [(0, 1), (60, 2), (160, 1)], 1),
    ("nothing known never outvotes", [(0, 0), (255, 3)], 3),
    ("a tie by pieces goes to the lowest piece", [(0, 3), (64, 1), (192, 3)], 3),
])
def test_a_unit_of_several_values(name: str, values: list[tuple[int, int]], wins: int) -> None:
    runs = Runs(np.array([0, *(4096 + start for start, _ in values), 4096 + 256], np.uint64),
                np.array([9, *(value for _, value in values), 9], np.uint32))
    cut, units = flatten.cut(runs, V4)
    assert units.tolist() == [16], name
    assert cut.values.tolist() == [9, wins, 9], name


@given(st.lists(st.lists(st.integers(1, 500), max_size=10), min_size=1, max_size=4))
def test_overlay_keeps_every_layer(borders: list[list[int]]) -> None:
    layers = [Runs(np.array([0, *sorted(set(found))], np.uint64), np.arange(len(set(found)) + 1, dtype=np.uint32))
              for found in borders]
    starts, values = flatten.overlay(layers)
    assert starts.tolist() == sorted({0, *(key for found in borders for key in found)})
    for layer, value in zip(layers, values, strict=True):
        assert value.tolist() == flatten.at(layer, starts).tolist()


@given(st.lists(st.tuples(*[st.sampled_from([0, 1, 5, 2**31, 2**32 - 1])] * 4), min_size=1, max_size=40))
def test_groups_are_the_distinct_tuples(rows: list[tuple[int, ...]]) -> None:
    first, which = flatten.groups([np.array(column, np.uint32) for column in zip(*rows, strict=True)])
    assert len(first) == len(set(rows))
    assert [rows[first[group]] for group in which] == rows


def cidr_count(low: int, high: int) -> int:
    count = 0
    while low < high:
        size = low & -low or 1 << high.bit_length()
        while low + size > high:
            size >>= 1
        low += size
        count += 1
    return count


@given(st.integers(1, 12).flatmap(lambda bits: st.tuples(st.just(bits), st.sets(st.integers(1, (1 << bits) - 1)))))
def test_blocks_are_the_fewest_prefixes(case: tuple[int, set[int]]) -> None:
    bits, borders = case
    starts = [0, *sorted(borders)]
    expected = sum(cidr_count(low, high) for low, high in zip(starts, [*starts[1:], 1 << bits], strict=True))
    assert flatten.blocks(np.array(starts, np.uint64), bits) == expected
