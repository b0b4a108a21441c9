"""MaxMind DB trees, read whole: every network of a file and the record it points to.

Lives here: the walk over the tree, decoding records into places and AS numbers. Does not live here: finding the files
(`atlas.sources`), nesting and cutting (`atlas.flatten`).

The search tree is walked level by level with numpy, a whole level at once, since two million networks one by one cost
eight seconds; a record is decoded once however many networks share it, through maxminddb. The IPv6 part of a file
repeats the IPv4 tree under ::ffff:0:0/96, 2002::/16 and 2001::/32: those branches are not followed, an address there is
looked up by the IPv4 inside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

import maxminddb
import numpy as np
from numpy.typing import NDArray

from dnsd.atlas.prefixes import U8, U32, U64, V4, V6, Family, Prefixes, SourceError, bounded, clamp, columns, distinct
from dnsd.model import Fault


class Place(NamedTuple):
    """Where a client is, as far as known: degrees (NaN: unknown), ISO country and continent code ("" unknown)."""

    latitude: float
    longitude: float
    country: str
    region: str


NOWHERE = Place(math.nan, math.nan, "", "")


class Networks(NamedTuple):
    """A file's networks of both families (their values index `records`, 0 is none), its kind and build time."""

    prefixes: dict[int, Prefixes]
    records: list[Any]
    kind: str
    built: int


class Leaves(NamedTuple):
    """Leaves of a tree as columns: key, the 64 address bits behind an IPv6 key, true length, pointer to the record."""

    keys: U64
    low: U64
    lengths: U8
    pointers: U32


def read(path: Path) -> Networks:
    """All networks and records of a file; SourceError where it is no sound MaxMind DB."""
    try:
        with maxminddb.open_database(str(path)) as reader:
            return _read(path, reader)
    except (OSError, maxminddb.InvalidDatabaseError, ValueError, EOFError) as problem:
        raise SourceError([Fault(str(path), f"is no sound MaxMind DB: {problem}")]) from None


def _read(path: Path, reader: maxminddb.Reader) -> Networks:
    meta = reader.metadata()
    children = _children(path, meta.node_count, meta.record_size)
    root4 = 0
    if meta.ip_version == 6:
        for _ in range(96):
            if root4 >= meta.node_count:
                break
            root4 = int(children[root4, 0])
    walked = {4: _walk(children, root4, V4, skip=-1)}
    if meta.ip_version == 6:
        walked[6] = _walk(children, 0, V6, skip=root4)
    pointers = distinct(np.concatenate([leaves.pointers for leaves in walked.values()]))
    prefixes: dict[int, Prefixes] = {6: columns([])}
    records: list[Any] = [None] * (len(pointers) + 1)
    for version, leaves in walked.items():
        values = (np.searchsorted(pointers, leaves.pointers) + 1).astype(np.uint32)
        sample = np.zeros(len(records), np.intp)
        sample[values] = np.arange(len(values))
        for value in np.flatnonzero(np.bincount(values, minlength=len(records))):
            if records[value] is None:
                at = sample[value]
                records[value] = reader.get(_address(version, int(leaves.keys[at]), int(leaves.low[at])))
        prefixes[version] = clamp(leaves.keys, leaves.lengths, values)
    return Networks(prefixes, records, meta.database_type, meta.build_epoch)


def _address(version: int, key: int, low: int = 0) -> IPv4Address | IPv6Address:
    return IPv4Address(key) if version == 4 else IPv6Address(key << 64 | low)


def _children(path: Path, nodes: int, record_bits: int) -> NDArray[np.int64]:
    """The tree as an array of [left, right] per node (MaxMind DB format 2.0, "Node Layout")."""
    if record_bits not in (24, 28, 32):
        raise ValueError(f"records of {record_bits} bits")
    width = record_bits // 4
    data = np.fromfile(path, np.uint8, nodes * width)
    if len(data) < nodes * width:
        raise ValueError("the file ends inside its tree")
    octets = data.reshape(nodes, width)
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


def _walk(children: NDArray[np.int64], root: int, family: Family, *, skip: int) -> Leaves:
    """All leaves under `root`; branches that lead to node `skip` are left out.

    ValueError where more nodes are reached than there are: a sound file is a tree.
    """
    nodes = len(children)
    if root >= nodes:  # the whole family is one leaf, or empty
        found = [root] if root > nodes else []
        none = np.zeros(len(found), np.uint64)
        return Leaves(none, none, none.astype(np.uint8), np.array(found, np.uint32))
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


def places(path: Path, networks: Networks, faults: list[Fault]) -> tuple[dict[int, Prefixes], list[Place]]:
    """The networks with places as values, and the places (0: nowhere); equal places of different records are one."""
    known: dict[Place, int] = {NOWHERE: 0}
    translate = np.zeros(len(networks.records), np.uint32)
    mine: list[Fault] = []
    for value, record in enumerate(networks.records):
        if record is None:
            continue
        try:
            place = _place(record)
        except ValueError as problem:
            mine.append(Fault(f"{path} at {_where(networks, value)}", str(problem)))
            continue
        translate[value] = known.setdefault(place, len(known))
    faults += bounded(path, mine)
    return _translated(networks, translate), list(known)


def as_numbers(path: Path, networks: Networks, faults: list[Fault]) -> dict[int, Prefixes]:
    """The networks with AS numbers as values, of a file whose records carry `autonomous_system_number`."""
    translate = np.zeros(len(networks.records), np.uint32)
    mine: list[Fault] = []
    for value, record in enumerate(networks.records):
        number = record.get("autonomous_system_number") if isinstance(record, Mapping) else None
        if number is None:
            continue
        if not isinstance(number, int) or not 0 <= number <= 0xFFFFFFFF:
            mine.append(Fault(f"{path} at {_where(networks, value)}", f"autonomous_system_number is {number!r}"))
            continue
        translate[value] = number
    faults += bounded(path, mine)
    return _translated(networks, translate)


def _translated(networks: Networks, translate: U32) -> dict[int, Prefixes]:
    return {version: Prefixes(found.keys, found.lengths, translate[found.values], found.clamped)
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
    if math.isnan(latitude):
        latitude = longitude = math.nan  # one object, so that places without position compare equal
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
