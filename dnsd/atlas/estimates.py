"""What a map's milliseconds are, site by site, and how they are known: the file beside a map table.

`Estimates(path).of(address, atlas)` tells of one address, for `explain` and `simulate`; workers never see the file.

Lives here: the file, confidence. Does not live here: how an estimate comes about (`rtt.infer`, `atlas.vectors`), what
ranking makes of it (`atlas.derive`).

Only a map that was derived with measured round trips has one. It lies beside `<name>.map` as `<name>.rtt`, is written
before it, and goes with it. Its vectors are those of `atlas.vectors`: classes of origins, prefixes, measured blocks.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dnsd import disk
from dnsd.atlas import positions
from dnsd.atlas.store import Atlas, unwrapped
from dnsd.atlas.vectors import Vectors, pair
from dnsd.rtt import blocks, infer
from dnsd.rtt.table import COUNT_SCALE, EPOCH_MINUTES, TENTHS, Table

SUFFIX: Final = ".rtt"
MODE: Final = 0o644
FORM: Final = 1
SOURCES: Final = infer.SOURCES
"""Names of sources, in order of trust."""

DOUBT_MS: Final = 20.0
"""An error of so many milliseconds leaves a confidence of a half."""

_ARRAYS: Final = ("ms", "error", "source", "of_origin", "pairs", "prefixes", "blocks", "count", "seen", "head")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Round trip to a site: milliseconds, one sigma, where it is from (SOURCES); of a measured one also how many
    samples still weigh and how many minutes before `now` the newest came. `confidence` is 0 to 1."""

    site: str
    ms: float
    error_ms: float
    source: str
    count: int
    age_min: float | None
    confidence: float


class Lookup(NamedTuple):
    """Which vector is an address's, and which row of the measured blocks, if it is one."""

    vector: int
    block: int | None


class Estimates:
    """A map's estimates; `sites` are its columns, `number` the measured table's, `check` as `MapReport.rtt`'s."""

    def __init__(self, path: Path) -> None:
        """FileNotFoundError where the map has none, ValueError where the file is damaged."""
        self._arrays = _read(path)
        head = json.loads(self._arrays["head"].tobytes())
        self.sites: tuple[str, ...] = tuple(head["sites"])
        self.number: int = head["number"]
        self.at_ms: int = head["at_ms"]
        self.check: Mapping[str, Any] = head["check"]

    def of(self, address: IPv4Address | IPv6Address, atlas: Atlas, now_ms: int | None = None) -> list[Estimate]:
        """What is known of an address at each site, in the sites' order; empty where nothing is. `now_ms` is what ages
        are told for, the time of the table if it is not given."""
        vector, row = self.lookup(address, atlas)
        ms, error, source = (self._arrays[name][vector] for name in ("ms", "error", "source"))
        minute = (self.at_ms if now_ms is None else now_ms) / 60_000 - EPOCH_MINUTES
        found = []
        for column, site in enumerate(self.sites):
            if not ms[column]:
                return []
            name, count, age = SOURCES[source[column]], 0, None
            if row is not None and name == SOURCES[infer.MEASURED]:
                count = round(2 ** (int(self._arrays["count"][row, column]) / COUNT_SCALE) - 1)
                age = max(0.0, round(minute - int(self._arrays["seen"][row, column]), 1))
            error_ms = float(error[column])
            found.append(Estimate(site, float(ms[column]) / TENTHS, error_ms, name, count, age, confidence(error_ms)))
        return found

    def matrix(self, numbers: NDArray[np.uint64], atlas: Atlas) -> NDArray[np.float64]:
        """(blocks, sites) milliseconds of many blocks (`rtt.blocks`) at once; NaN where nothing is known."""
        ms = self._arrays["ms"][self._vectors(numbers, atlas)[0]]
        return np.where(ms > 0, ms / TENTHS, np.nan)

    def lookup(self, address: IPv4Address | IPv6Address, atlas: Atlas) -> Lookup:
        """The vector of one address."""
        number = np.array([blocks.of(unwrapped(address))], np.uint64)
        vector, row = self._vectors(number, atlas)
        return Lookup(int(vector[0]), int(row[0]) if row[0] >= 0 else None)

    def _vectors(self, numbers: NDArray[np.uint64], atlas: Atlas) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The vector of each block, and its row among the measured ones (-1: none)."""
        arrays = self._arrays
        origin = np.minimum(positions.origins(atlas, numbers), len(arrays["of_origin"]) - 1)
        vector = arrays["of_origin"][origin].astype(np.int64)
        prefix = _found(arrays["prefixes"], infer.prefix_of(numbers))
        at = _found(arrays["pairs"], pair(vector, np.maximum(prefix, 0)))
        first = len(arrays["ms"]) - len(arrays["blocks"])
        vector = np.where((prefix >= 0) & (at >= 0), first - len(arrays["pairs"]) + at, vector)
        row = _found(arrays["blocks"], numbers)
        return np.where(row >= 0, first + row, vector), row


def confidence(error_ms: float) -> float:
    """1 for what is certain, a half at DOUBT_MS of error."""
    return round(1.0 / (1.0 + (error_ms / DOUBT_MS) ** 2), 3)


def write(path: Path, sites: tuple[str, ...], found: Vectors, measured: Table) -> int:
    """Writes the file whole; returns its octets."""
    tenths = np.nan_to_num(np.clip(np.rint(found.ms * TENTHS), 1, 65535)).astype(np.uint16)
    error = np.nan_to_num(np.clip(np.ceil(found.error_ms), 1, 255), nan=255).astype(np.uint8)
    column = np.array([measured.sites.index(site) if site in measured.sites else -1 for site in sites], np.int64)
    head = {"form": FORM, "sites": sites, "number": measured.number, "at_ms": measured.at_ms,
            "check": {**found.check._asdict(), "steps": list(found.check.steps)}}
    arrays: dict[str, NDArray[Any]] = {
        "ms": tenths, "error": error, "source": found.source, "of_origin": found.of_origin.astype(np.uint32),
        "pairs": found.pairs, "prefixes": found.prefixes, "blocks": found.blocks,
        "head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
    for name in ("count", "seen"):
        values = getattr(measured, name)[found.rows]
        arrays[name] = np.where(column >= 0, values[:, column], 0).astype(values.dtype)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    octets = buffer.getvalue()
    disk.replace(path, octets, mode=MODE)
    return len(octets)


def sites_of(path: Path) -> tuple[str, ...]:
    """The columns of the map beside it; empty where there is no such file. ValueError where it is damaged."""
    try:
        return Estimates(path).sites
    except FileNotFoundError:
        return ()


def _read(path: Path) -> dict[str, NDArray[Any]]:
    octets = disk.read(path)
    if octets is None:
        raise FileNotFoundError(f"{path}: this map has no estimates")
    try:
        with np.load(io.BytesIO(octets), allow_pickle=False) as file:
            return {name: file[name] for name in _ARRAYS}
    except (BadZipFile, KeyError, EOFError, OSError) as problem:
        raise ValueError(f"{path}: is no file of estimates: {problem}") from None


def _found(keys: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """Where each wanted key is among sorted ones; -1 where it is not."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)
