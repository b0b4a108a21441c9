"""MaxMind DB trees, read whole: every network of a file and the record it points to.

Lives here: the walk over the tree, decoding records into places and AS numbers. Does not live here: finding the files
(`atlas.sources`), nesting and cutting (`atlas.flatten`).

Two million networks one by one cost eight seconds, so the search tree is walked by compiled code (`walk.pyx`) or, where
there is none, level by level with numpy. A record is decoded once however many networks share it: what an atlas needs
of it by compiled code, the whole through maxminddb where there is none or a record is unusual. The IPv6 part of a file
repeats the IPv4 tree under ::ffff:0:0/96, 2002::/16 and 2001::/32: those branches are not followed, an address there is
looked up by the IPv4 inside it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final, NamedTuple

import maxminddb
import numpy as np
from maxminddb import MODE_AUTO, MODE_MMAP
from numpy.typing import NDArray

from dnsd.atlas import compiled, flatten
from dnsd.atlas.prefixes import U8, U32, U64, V4, V6, Family, Prefixes, SourceError, bounded, clamp, columns, distinct
from dnsd.model import Fault

DAMAGED: Final = (maxminddb.InvalidDatabaseError, ValueError, EOFError, LookupError, TypeError, AttributeError,
                  RecursionError, struct.error)
"""What maxminddb raises for a file that is none."""


class Place(NamedTuple):
    """Where a client is, as far as known: degrees (NaN: unknown), ISO country and continent code ("" unknown)."""

    latitude: float
    longitude: float
    country: str
    region: str


NOWHERE = Place(math.nan, math.nan, "", "")


class Places:
    """Places as columns: degrees, and two capitals each (octets); read one by one they are `Place`s."""

    def __init__(self, places: Sequence[Place] = (NOWHERE,)) -> None:
        self.latitude = np.array([place.latitude for place in places])
        self.longitude = np.array([place.longitude for place in places])
        self.country = np.array([place.country.encode() for place in places], "S2")
        self.region = np.array([place.region.encode() for place in places], "S2")

    def __len__(self) -> int:
        return len(self.latitude)

    def __getitem__(self, number: int) -> Place:
        latitude, longitude = float(self.latitude[number]), float(self.longitude[number])
        if latitude != latitude:
            latitude = longitude = math.nan  # one object, so that places without position compare equal
        return Place(latitude, longitude, self.country[number].decode(), self.region[number].decode())

    def __setitem__(self, number: int, place: Place) -> None:
        self.latitude[number], self.longitude[number] = place.latitude, place.longitude
        self.country[number], self.region[number] = place.country.encode(), place.region.encode()

    def taken(self, numbers: NDArray[Any]) -> Places:
        """Only these places, in this order."""
        found = Places()
        found.latitude, found.longitude = self.latitude[numbers], self.longitude[numbers]
        found.country, found.region = self.country[numbers], self.region[numbers]
        return found


class Networks(NamedTuple):
    """A file's networks of both families (their values index `records`), its kind and build time."""

    prefixes: dict[int, Prefixes]
    records: Records
    kind: str
    built: int


class Leaves(NamedTuple):
    """Leaves of a tree as columns: key, the 64 address bits behind an IPv6 key, true length, pointer to the record."""

    keys: U64
    low: U64
    lengths: U8
    pointers: U32


class Records(Sequence[Any]):
    """A file's records, decoded when asked for; number 0 is None. SourceError for a damaged one.

    `data` is the file, `offsets` those of records 1 and on in its data section, which begins at octet `section`.
    """

    def __init__(self, path: Path, reader: maxminddb.Reader, data: U8, leaves: Mapping[int, Leaves]) -> None:
        """Puts the numbers of records in the place of the pointers in `leaves`."""
        meta = reader.metadata()
        nodes = meta.node_count
        self.path, self.data, self.section = path, data, nodes * meta.record_size // 4 + 16
        self._reader, self._leaves = reader, leaves
        columns = [found.pointers for found in leaves.values()]
        highest = max((int(column.max(initial=0)) for column in columns), default=0)
        if highest - nodes - 16 >= len(data) - self.section:
            raise ValueError("a record would lie behind its end")
        if compiled.walk:
            pointers = compiled.walk.number(columns, nodes + 1, max(highest, nodes + 1))
        else:
            pointers = distinct(np.concatenate(columns))
            for column in columns:
                column[:] = np.searchsorted(pointers, column) + 1
        self.offsets: U32 = pointers - np.uint32(nodes + 16)

    def __len__(self) -> int:
        return len(self.offsets) + 1

    def __getitem__(self, number: Any) -> Any:
        if not 0 < number < len(self):
            if number == 0:
                return None
            raise IndexError(number)
        version = 4 if self._some_leaf[4][number] >= 0 else 6
        leaves, at = self._leaves[version], self._some_leaf[version][number]
        try:
            return self._reader.get(_address(version, int(leaves.keys[at]), int(leaves.low[at])))
        except DAMAGED as problem:
            raise _unsound(self.path, problem) from None

    @cached_property
    def _some_leaf(self) -> dict[int, NDArray[np.int32]]:
        """For each family and record the number of a leaf that has it, or -1."""
        some = {}
        for version, leaves in self._leaves.items():
            some[version] = np.full(len(self), -1, np.int32)
            some[version][leaves.pointers] = np.arange(len(leaves.pointers), dtype=np.int32)
        return some


def read(path: Path) -> Networks:
    """All networks and records of a file; SourceError where it is no sound MaxMind DB."""
    try:
        # maxminddb's own extension can be made to crash by a file; where few records are read by it, its Python does
        return _read(path, maxminddb.open_database(str(path), MODE_MMAP if compiled.walk else MODE_AUTO))
    except (OSError, *DAMAGED) as problem:
        raise _unsound(path, problem) from None


def _unsound(path: Path, problem: Exception) -> SourceError:
    return SourceError([Fault(str(path), f"is no sound MaxMind DB: {problem}")])


def _read(path: Path, reader: maxminddb.Reader) -> Networks:
    meta = reader.metadata()
    nodes, bits = meta.node_count, meta.record_size
    if bits not in (24, 28, 32):
        raise ValueError(f"records of {bits} bits")
    with path.open("rb") as file:
        data = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_READ), np.uint8)
    if len(data) < nodes * bits // 4:
        raise ValueError("the file ends inside its tree")
    root4 = 0
    if meta.ip_version == 6:
        for _ in range(96):
            if root4 >= nodes:
                break
            root4 = int(_children(data[root4 * bits // 4 :], 1, bits)[0, 0])
    with ThreadPoolExecutor(2) as both:
        walks = {4: both.submit(_leaves, data, (nodes, bits), root4, V4, skip=-1)}
        if meta.ip_version == 6:
            walks[6] = both.submit(_leaves, data, (nodes, bits), 0, V6, skip=root4)
    leaves = {version: walk.result() for version, walk in walks.items()}
    records = Records(path, reader, data, leaves)
    prefixes: dict[int, Prefixes] = {6: columns([])}
    for version, found in leaves.items():
        prefixes[version] = clamp(found.keys, found.lengths, found.pointers)
    return Networks(prefixes, records, meta.database_type, meta.build_epoch)


def _address(version: int, key: int, low: int = 0) -> IPv4Address | IPv6Address:
    return IPv4Address(key) if version == 4 else IPv6Address(key << 64 | low)


def _children(data: U8, nodes: int, record_bits: int) -> NDArray[np.int64]:
    """The first nodes of a tree as an array of [left, right] (MaxMind DB format 2.0, "Node Layout")."""
    width = record_bits // 4
    octets = data[: nodes * width].reshape(nodes, width)
    half = width // 2
    left = np.zeros(nodes, np.int64)
    right = np.zeros(nodes, np.int64)
    for i in range(record_bits // 8):
        left = left << 8 | octets[:, i]
        right = right << 8 | octets[:, width - record_bits // 8 + i]
    if record_bits == 28:
        left |= (octets[:, half].astype(np.int64) >> 4) << 24
        right |= (octets[:, half].astype(np.int64) & 15) << 24
    return np.stack((left, right), axis=1)


def _leaves(data: U8, tree: tuple[int, int], root: int, family: Family, *, skip: int) -> Leaves:
    """All leaves under `root`; branches that lead to node `skip` are left out. `tree`: its nodes, bits of a record.

    ValueError where more nodes are reached than there are: a sound file is a tree.
    """
    nodes, bits = tree
    if root >= nodes:  # the whole family is one leaf, or empty
        found = [root] if root > nodes else []
        none = np.zeros(len(found), np.uint64)
        return Leaves(none, none, none.astype(np.uint8), np.array(found, np.uint32))
    if compiled.walk:
        return Leaves(*compiled.walk.leaves(data, nodes, bits, root, skip=skip, bits=family.bits,
                                            address_bits=family.address_bits))
    return _walk(_children(data, nodes, bits), root, family, skip=skip)


def _walk(children: NDArray[np.int64], root: int, family: Family, *, skip: int) -> Leaves:
    """The leaves by length, a level of the tree at a time."""
    nodes = len(children)
    frontier, path, low = np.array([root], np.int64), np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    levels: list[Leaves] = []
    visited = 1
    for depth in range(1, family.address_bits + 1):
        below = children[frontier].reshape(-1)
        path, low = np.repeat(path, 2), np.repeat(low, 2)
        if depth <= family.bits:
            path[1::2] |= np.uint64(1 << (family.bits - depth))
        else:
            low[1::2] |= np.uint64(1 << (family.address_bits - depth))
        leaf = below > nodes
        levels.append(Leaves(path[leaf], low[leaf], np.full(np.count_nonzero(leaf), depth, np.uint8),
                            below[leaf].astype(np.uint32)))
        inner = (below < nodes) & (below != skip)
        frontier, path, low = below[inner], path[inner], low[inner]
        visited += len(frontier)
        if visited > nodes:
            raise ValueError("its tree has a loop")
    if len(frontier):
        raise ValueError("its tree is deeper than an address")
    return Leaves(*(np.concatenate(column) for column in zip(*levels, strict=True)))


def places(path: Path, networks: Networks, faults: list[Fault]) -> tuple[dict[int, Prefixes], Places]:
    """The networks with places as values, and the places (0: nowhere); equal places of different records are one.

    Takes the networks' values: they are what is put in their place.
    """
    records = networks.records
    found = Places([NOWHERE]).taken(np.zeros(len(records), np.intp))
    unread = np.ones(len(records), bool)
    if compiled.walk:
        degrees, countries, regions, sound = compiled.walk.places(records.data, records.section, records.offsets)
        found.latitude[1:], found.longitude[1:] = degrees.T
        found.country[1:] = countries.view("S2")[:, 0]
        found.region[1:] = (regions | (regions >> 1 & 32)).view("S2")[:, 0]  # in small letters
        unread[1:] = sound == 0
    mine: list[Fault] = []
    for value in (np.flatnonzero(unread[1:]) + 1).tolist():
        try:
            found[value] = NOWHERE  # the compiled loop may have got half of it
            found[value] = _place(records[value])
        except ValueError as problem:
            mine.append(Fault(f"{path} at {_where(networks, value)}", str(problem)))
    faults += bounded(path, mine)
    translate, first = _same(found)
    return _translated(networks, translate), found.taken(first)


def _same(found: Places) -> tuple[U32, NDArray[np.int64]]:
    """The number of each place among the distinct ones, and where each is first met."""
    found.latitude += 0.0  # -0.0 is the same place as 0.0
    found.longitude += 0.0
    words: list[U64] = [found.latitude.view(np.uint64), found.longitude.view(np.uint64),
                        found.country.view("<u2").astype(np.uint64) << np.uint64(16) | found.region.view("<u2")]
    which = flatten.number(words[0])[0]
    for word in words[1:]:
        which = flatten.number(which.astype(np.uint64) << np.uint64(32) | flatten.number(word)[0])[0]
    first = np.zeros(int(which.max()) + 1, np.int64)
    first[which[::-1]] = np.arange(len(which))[::-1]
    return which, first


def as_numbers(path: Path, networks: Networks, faults: list[Fault]) -> dict[int, Prefixes]:
    """The networks with AS numbers as values, of a file whose records carry `autonomous_system_number`.

    Takes the networks' values: they are what is put in their place.
    """
    records = networks.records
    translate = np.zeros(len(records), np.uint32)
    unread = np.ones(len(records), bool)
    if compiled.walk:
        translate[1:], sound = compiled.walk.as_numbers(records.data, records.section, records.offsets)
        unread[1:] = sound == 0
    mine: list[Fault] = []
    for value in (np.flatnonzero(unread[1:]) + 1).tolist():
        record = records[value]
        number = record.get("autonomous_system_number", 0) if isinstance(record, Mapping) else 0
        if not isinstance(number, int) or not 0 <= number <= 0xFFFFFFFF:
            mine.append(Fault(f"{path} at {_where(networks, value)}", f"autonomous_system_number is {number!r}"))
            continue
        translate[value] = number
    faults += bounded(path, mine)
    return _translated(networks, translate)


def _translated(networks: Networks, numbers: U32) -> dict[int, Prefixes]:
    return {version: Prefixes(found.keys, found.lengths, flatten.translate(found.values, numbers), found.clamped)
            for version, found in networks.prefixes.items()}


def _where(networks: Networks, value: int) -> str:
    """A network that has this record, for a fault's place."""
    for version, found in networks.prefixes.items():
        at = np.flatnonzero(found.values == value)
        if len(at):
            return f"{_address(version, int(found.keys[at[0]]))}/{found.lengths[at[0]]}"
    return f"record {value}"


def _place(record: object) -> Place:
    """A place of the GeoIP2 City or Country schema; ValueError names the field that is wrong."""
    if not isinstance(record, Mapping):
        raise ValueError(f"the record is {record!r}")
    location = _part(record, "location")
    country = _part(record, "country") or _part(record, "registered_country")
    latitude, longitude = _degrees(location, "latitude", 90), _degrees(location, "longitude", 180)
    if math.isnan(latitude) != math.isnan(longitude):
        raise ValueError("location has only one of latitude and longitude")
    return Place(latitude, longitude, _code(country, "iso_code"), _code(_part(record, "continent"), "code").lower())


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name, {})
    if not isinstance(part, Mapping):
        raise ValueError(f"{name} is {part!r}")
    return part


def _degrees(location: Mapping[str, Any], name: str, limit: int) -> float:
    value = location.get(name, math.nan)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > limit:
        raise ValueError(f"location.{name} is {value!r}")
    return float(value)


def _code(part: Mapping[str, Any], name: str) -> str:
    value = part.get(name, "")
    if not isinstance(value, str) or (value and not (len(value) == 2 and value.isascii() and value.isalpha())):
        raise ValueError(f"{name} is {value!r}, not two letters")
    return value.upper()
