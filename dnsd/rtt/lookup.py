"""Many keys to their numbers at once: an open-addressing table in two arrays.

Lives here: finding and adding u64 keys. Does not live here: what the numbers number (`rtt.cells`).

Numbers are handed out in order, 0, 1, 2, …, so whatever belongs to a key is an array indexed by its number. A
dictionary of ten million keys takes a gigabyte and asks one by one; this takes sixteen octets a key, and all of a
batch go through the table together, a few steps for the unluckiest. Nothing is ever taken out: who lets keys go makes
a new table.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

LEAST: Final = 1 << 10
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_ABSENT: Final = -1


class Lookup:
    """Keys and their numbers; `keys[number]` is the key."""

    def __init__(self, keys: U64 | None = None) -> None:
        self._keys = np.zeros(LEAST, np.uint64)
        self.count = 0
        self._table = np.full(2 * LEAST, _ABSENT, np.int32)
        if keys is not None:
            self.add(keys)

    def __len__(self) -> int:
        return self.count

    @property
    def keys(self) -> U64:
        """All keys by number."""
        return self._keys[: self.count]

    def find(self, keys: U64) -> I64:
        """Each key's number; -1 where it has none."""
        found = np.full(len(keys), _ABSENT, np.int64)
        places, mask = self._places(keys), len(self._table) - 1
        left = np.arange(len(keys))
        while len(left):
            numbers = self._table[places[left]]
            hit = (numbers != _ABSENT) & (self._keys[numbers] == keys[left])
            found[left[hit]] = numbers[hit]
            left = left[(numbers != _ABSENT) & ~hit]
            places[left] = (places[left] + 1) & mask
        return found

    def add(self, keys: U64) -> I64:
        """Each key's number, a new one for each key that had none."""
        found = self.find(keys)
        absent = found == _ABSENT
        if absent.any():
            new, which = np.unique(keys[absent], return_inverse=True)
            found[absent] = self._insert(new)[which]
        return found

    def _insert(self, new: U64) -> I64:
        """Distinct keys that are not there."""
        numbers = np.arange(self.count, self.count + len(new), dtype=np.int64)
        self.count += len(new)
        if self.count > len(self._keys):
            self._keys = np.resize(self._keys, max(self.count, len(self._keys) * 3 // 2))
        self._keys[numbers] = new
        if self.count * 2 > len(self._table):
            size = len(self._table)
            while self.count * 2 > size:
                size *= 2
            self._table = np.full(size, _ABSENT, np.int32)
            self._settle(np.arange(self.count, dtype=np.int64))
        else:
            self._settle(numbers)
        return numbers

    def _settle(self, numbers: I64) -> None:
        """Give each number a free place, that of its key or the next."""
        places, mask = self._places(self._keys[numbers]), len(self._table) - 1
        left = np.arange(len(numbers))
        while len(left):
            at = places[left]
            free = self._table[at] == _ABSENT
            self._table[at[free]] = numbers[left[free]]  # of several for one place the last has it
            left = left[self._table[at] != numbers[left]]
            places[left] = (places[left] + 1) & mask

    def _places(self, keys: U64) -> I64:
        mixed = keys * _ODD
        shift = np.uint64(64 - (len(self._table) - 1).bit_length())
        return ((mixed ^ (mixed >> np.uint64(29))) * _ODD >> shift).astype(np.int64)
