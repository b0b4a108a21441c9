"""Measured groups between nodes: one client block, one site, one reporter, about a second; and the log's entries.

Lives here: `GROUP` (the array all of it travels in), medians of groups, an entry's octets. Does not live here: where
samples come from and which are believed (`rtt.intake`), what becomes of groups (`rtt.cells`), the log (the
registry's).

A group is the median of its samples by their counts, its spread the median deviation from that as one sigma. So a
thousand samples of a busy block cost the log eighteen octets, and one absurd sample among three moves nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

GROUP: Final = np.dtype([
    ("block", "<u8"), ("rtt", "<u2"), ("spread", "<u2"), ("km", "<u2"), ("count", "<u2"), ("site", "u1"),
    ("reporter", "u1")])
"""rtt and spread in tenths of a millisecond, km between client and site (`FAR` where one of them is not known), site
and reporter numbers of the entry's lists."""

FAR: Final = 0xFFFF
COUNT_MOST: Final = 0xFFFF
NAMES_MOST: Final = 255
GROUPS_MOST: Final = 20_000
BETWEEN_MOST: Final = 6553.5
"""Milliseconds between sites that a table can hold."""

SIGMA: Final = 1.4826
"""What makes a median deviation one sigma of a normal distribution."""

_HEAD: Final = struct.Struct("<4sIQ")  # magic, octets of the JSON, at_ms
_MAGIC: Final = b"RTT1"

Groups = NDArray[Any]
"""Of dtype GROUP."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one node has measured in about a second. `between` is site -> site -> ms, seen by this node's probes; `fast`
    says of reporters how many blocks' samples were dropped for being faster than light."""

    node: str
    at_ms: int
    sites: Sequence[str] = ()
    reporters: Sequence[str] = ()
    groups: Groups = field(default_factory=lambda: np.zeros(0, GROUP))
    between: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fast: Mapping[str, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The entry's octets."""
        head = json.dumps({"node": self.node, "sites": list(self.sites), "reporters": list(self.reporters),
                           "between": self.between, "fast": self.fast}, separators=(",", ":")).encode()
        return _HEAD.pack(_MAGIC, len(head), self.at_ms) + head + self.groups.tobytes()

    @classmethod
    def from_bytes(cls, octets: bytes) -> Entry:
        """An entry; ValueError where it is none."""
        try:
            magic, length, at_ms = _HEAD.unpack_from(octets)
            head = json.loads(octets[_HEAD.size : _HEAD.size + length])
            groups = np.frombuffer(octets, GROUP, offset=_HEAD.size + length)
            entry = cls(str(head["node"]), at_ms, _names(head["sites"]), _names(head["reporters"]), groups,
                        _between(head["between"]), {str(name): int(n) for name, n in head["fast"].items()})
        except (struct.error, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"no entry of measurements: {problem}") from None
        if magic != _MAGIC or (len(groups) and (
                groups["site"].max() >= len(entry.sites) or groups["reporter"].max() >= len(entry.reporters))):
            raise ValueError("no entry of measurements")
        return entry


class Gathered:
    """Rows of many posts, until they are entries. `add` takes rows whose reporter is 0."""

    def __init__(self) -> None:
        self.count = 0
        self._rows: dict[tuple[str, ...], list[Groups]] = {}
        self._reporters: dict[tuple[str, ...], list[str]] = {}
        self._fast: dict[str, int] = {}

    def add(self, reporter: str, sites: tuple[str, ...], rows: Groups, fast: int = 0) -> bool:
        """Rows of one reporter, whose sites are numbers in `sites`; false: there is no room for another reporter."""
        named = self._reporters.setdefault(sites, [])
        if reporter not in named:
            if len(named) >= NAMES_MOST:
                return False
            named.append(reporter)
        rows["reporter"] = named.index(reporter)
        self._rows.setdefault(sites, []).append(rows)
        self.count += len(rows)
        if fast:
            self._fast[reporter] = self._fast.get(reporter, 0) + fast
        return True

    def entries(self, node: str, at_ms: int) -> list[bytes]:
        """The log's entries of all of it."""
        made, fast = [], self._fast
        for sites, some in self._rows.items():
            groups = grouped(np.concatenate(some))
            for at in range(0, max(len(groups), 1), GROUPS_MOST):
                part = groups[at : at + GROUPS_MOST]
                made.append(Entry(node, at_ms, sites, self._reporters[sites], part, fast=fast).to_bytes())
                fast = {}
        return made


def grouped(groups: Groups) -> Groups:
    """The medians: one row for each block, site and reporter, in their order; count is their sum."""
    if not len(groups):
        return groups
    owner = _owners(groups)
    order = np.lexsort((groups["rtt"], owner))
    rows, owner = groups[order], owner[order]
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    counts = np.maximum(rows["count"], 1).astype(np.int64)
    medians = rows["rtt"][_middle(counts, first)].astype(np.int64)
    member = np.cumsum(np.append(0, owner[1:] != owner[:-1]))
    off = np.abs(rows["rtt"].astype(np.int64) - medians[member])
    by_off = np.lexsort((off, owner))
    deviation = off[by_off][_middle(counts[by_off], first)] * SIGMA
    by_told = np.lexsort((rows["spread"], owner))
    told = rows["spread"][by_told][_middle(counts[by_told], first)]
    made = rows[first].copy()
    made["rtt"] = medians
    made["spread"] = np.minimum(np.maximum(deviation, told), 0xFFFF)
    made["count"] = np.minimum(np.add.reduceat(counts, first), COUNT_MOST)
    return made


def _owners(groups: Groups) -> NDArray[np.uint64]:
    """A number for each block, site and reporter."""
    _, block = np.unique(groups["block"], return_inverse=True)
    owner = (block.astype(np.uint64) << np.uint64(16)) | (groups["site"].astype(np.uint64) << np.uint64(8))
    return np.asarray(owner | groups["reporter"].astype(np.uint64), np.uint64)


def _middle(counts: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each group in a sorted run the row where half of its counts are reached."""
    total = np.cumsum(counts)
    ends = np.append(first[1:], len(counts)) - 1
    before = total[first] - counts[first]
    return np.asarray(np.searchsorted(total, before + (total[ends] - before + 1) // 2), np.int64)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > NAMES_MOST or not all(isinstance(one, str) for one in value):
        raise TypeError("names")
    return tuple(value)


def _between(value: Any) -> dict[str, dict[str, float]]:
    found = {str(one): {str(other): float(ms) for other, ms in to.items()} for one, to in value.items()}
    if not all(0 <= ms < BETWEEN_MOST for to in found.values() for ms in to.values()):  # NaN is neither
        raise ValueError("no milliseconds between sites")
    return found
