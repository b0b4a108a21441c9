"""Cells as the store keeps them: one short string for each block, thirteen octets for each reporter of each site.

Lives here: that form, both ways. Does not live here: the store (the registry's), cells (`rtt.cells`).

A weight is kept as 64 times its root, the second of the newest sample as a minute, both in 16 bits; the decided value
is not here but in the decided shards. Names of sites and reporters are kept once, by number. What cannot be read is
left out and counted: evidence that is lost comes again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt.cells import SLOTS, U64, Cells, blocks_of, columns_of, key_of
from dnsd.rtt.table import SITES_MOST

WORD: Final = np.dtype([
    ("site", "u1"), ("reporter", "<u2"), ("km", "<u2"), ("rtt", "<u2"), ("spread", "<u2"), ("weight", "<u2"),
    ("minute", "<u2")])
KEY_OCTETS: Final = 8
_ROOT: Final = 64.0


class Names(NamedTuple):
    """What numbers in rows mean: columns, reporters from 0 on ("" is none), None where there was one; reporters that
    are not believed; as of when (seconds since `cells.EPOCH_S`)."""

    sites: Sequence[str | None]
    reporters: Sequence[str | None]
    distrusted: Sequence[str]
    now_s: int


def names_of(cells: Cells, now_s: int) -> bytes:
    """The names, as JSON."""
    distrusted = [name for name, trusted in zip(cells.reporters, cells.trusted, strict=True) if not trusted]
    return json.dumps({"sites": cells.sites, "reporters": cells.reporters, "distrusted": distrusted, "now_s": now_s},
                      separators=(",", ":")).encode()


def names_from(octets: bytes) -> Names:
    """The names; ValueError where they are none."""
    try:
        body = json.loads(octets)
        names = Names(body["sites"], body["reporters"], body["distrusted"], int(body["now_s"]))
        sites, reporters = ([one for one in some if one is not None] for some in (names.sites, names.reporters))
        if not all(isinstance(one, str) for one in (*sites, *reporters, *names.distrusted)) or (
                names.reporters[:1] != [""] or len(names.sites) > SITES_MOST or any(
                    len(set(some)) < len(some) for some in (sites, reporters))):
            raise TypeError("names")
    except (KeyError, TypeError) as problem:
        raise ValueError(f"names of measurements: {problem}") from None
    return names


def pack(cells: Cells, blocks: U64) -> list[tuple[bytes, bytes]]:
    """The rows of these blocks: key and words; no words where a block has no cell any more."""
    columns = max(len(cells.sites), 1)
    numbers = cells.lookup.find(key_of(np.repeat(blocks, columns), np.tile(np.arange(columns), len(blocks))))
    member = np.repeat(np.arange(len(blocks)), columns)[numbers >= 0]
    numbers = numbers[numbers >= 0]
    said, slot = np.nonzero(cells["reporter"][numbers])
    cell, at = numbers[said], (numbers[said], slot)
    words = np.zeros(len(cell), WORD)
    words["site"], words["reporter"] = columns_of(cells.keys[cell]), cells["reporter"][at]
    words["km"], words["rtt"], words["spread"] = cells["km"][cell], cells["rtt"][at], cells["spread"][at]
    words["weight"] = np.minimum(np.ceil(np.sqrt(cells["weight"][at]) * _ROOT), 0xFFFF)
    words["minute"] = (cells["at"][at] // 60) & 0xFFFF
    ends = np.searchsorted(member[said], np.arange(len(blocks) + 1)) * WORD.itemsize
    octets, keys = words.tobytes(), np.asarray(blocks, ">u8").tobytes()
    return [(keys[KEY_OCTETS * i : KEY_OCTETS * (i + 1)], octets[ends[i] : ends[i + 1]]) for i in range(len(blocks))]


def named(cells: Cells, names: Names) -> None:
    """Gives sites and reporters the numbers that they have in rows: of these only those that change are kept anew."""
    cells.sites, cells.reporters = list(names.sites), list(names.reporters)
    cells.resting = {column for column, site in enumerate(names.sites) if site is None}
    cells.trusted = np.array([name not in names.distrusted for name in names.reporters])
    cells.opened = np.zeros(len(names.reporters), np.int64)


def silent(cells: Cells) -> set[int]:
    """Reporters of whom no word is left in any cell."""
    there = np.bincount(cells["reporter"].ravel(), minlength=len(cells.reporters)) > 0
    return {number for number, name in enumerate(cells.reporters) if name and not there[number]}


def unpack(cells: Cells, rows: Sequence[tuple[bytes, bytes]], names: Names) -> tuple[int, U64]:
    """Puts rows into cells that have none of these blocks; how many rows were damaged, and the blocks that words of a
    site that is gone, or damaged ones, were left out of: what is kept of these is to be written anew."""
    good = [(key, words) for key, words in rows if len(key) == KEY_OCTETS and not len(words) % WORD.itemsize]
    words = np.frombuffer(b"".join(octets for _, octets in good), WORD)
    block = np.repeat(np.frombuffer(b"".join(key for key, _ in good), ">u8").astype(np.uint64),
                      [len(octets) // WORD.itemsize for _, octets in good])
    columns = np.array([-1 if site is None else cells.column(site) for site in names.sites] or [-1], np.int64)
    reporters = np.array([cells.reporter(name) if name else 0 for name in names.reporters], np.int64)
    sound = (words["site"] < len(names.sites)) & (words["reporter"] < len(reporters)) & (words["rtt"] > 0)
    damaged = len(rows) - len(good) + len(np.unique(block[~sound]))
    left_out = block[~sound]
    words, block = words[sound], block[sound]
    sound = (columns[words["site"]] >= 0) & (reporters[words["reporter"]] > 0)
    left_out = np.union1d(left_out, block[~sound])
    words, block = words[sound], block[sound]
    _put(cells, words, key_of(block, columns[words["site"]]), reporters[words["reporter"]], names.now_s)
    return damaged, left_out


def _put(cells: Cells, words: NDArray[Any], keys: U64, reporters: NDArray[np.int64], now_s: int) -> None:
    numbers = cells.put(keys)
    order = np.argsort(numbers, kind="stable")
    first = np.append(True, numbers[order][1:] != numbers[order][:-1]) if len(order) else np.zeros(0, np.bool_)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    order, rank = order[rank < SLOTS], rank[rank < SLOTS]
    at, words = (numbers[order], rank), words[order]
    cells["reporter"][at] = reporters[order]
    cells["km"][numbers[order]] = words["km"]
    cells["rtt"][at], cells["spread"][at] = words["rtt"], words["spread"]
    cells["weight"][at] = (words["weight"] / _ROOT) ** 2
    age = ((now_s // 60) - words["minute"].astype(np.int64)) & 0xFFFF  # of 45 days at most
    cells["at"][at] = np.maximum(now_s - 60 * age, 0)


def blocks_with(cells: Cells, numbers: NDArray[np.int64]) -> U64:
    """The distinct blocks of these cells."""
    return np.unique(blocks_of(cells.keys[numbers]))
