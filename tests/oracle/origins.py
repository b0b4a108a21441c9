"""The oracle's eyes: what the raw data files say of a client, read with nobody's code but the readers' own.

Lives here: geo through maxminddb, AS numbers through pyasn, provider table, carrier lists, operator prefixes; the
majority rule for a /24 (IPv6: /56) that holds several. Does not live here: milliseconds, scores (`scoring`).

Nothing here is fast and nothing is shared with dnsd: an address is looked up in the files as they are.
"""

from __future__ import annotations

import csv
import gzip
import warnings
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final, NamedTuple

import maxminddb
import pyasn

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
UNIT: Final = {4: 24, 6: 56}
"""Prefix length inside which all clients are one, by family."""
CARRIED: Final = [ip_network(text) for text in ("::/64", "64:ff9b::/64", "2002::/16", "2001::/32")]
"""IPv6 that only carries IPv4; without its IPv4 it has no place."""


class Place(NamedTuple):
    """Degrees, ISO country, continent code in lower case; all None or empty where the data say nothing."""

    latitude: float | None
    longitude: float | None
    country: str
    region: str


NOWHERE: Final = Place(None, None, "", "")


class Origin(NamedTuple):
    """All that is known of a client."""

    place: Place
    asn: int
    carrier: str
    provider: str

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return self != UNKNOWN


UNKNOWN: Final = Origin(NOWHERE, 0, "", "")


class Line(NamedTuple):
    """A line of the operator's prefixes; empty strings leave what else is said."""

    network: Network
    fields: dict[str, str]


class Origins:
    """The data directory, opened. `unit` answers for a client subnet, `resolver` for a whole address."""

    def __init__(self, data: Path, cidrs: Path | None = None) -> None:
        self._geo = maxminddb.open_database(str(next((data / "geo").glob("*.mmdb"))))
        self._table = table = next((data / "asn").glob("ipasn.dat*"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # pyasn leaves its file open
            self._asn = pyasn.pyasn(str(table))
        self._finer = _finer(table)
        self._provider, self._carrier = _by_asn(data / "providers" / "asn_providers.csv")
        self._listed = _listed(data / "providers")
        self.lines = _lines(cidrs) if cidrs else []

    def unit(self, address: Address) -> Origin:
        """The origin of the /24 or /56 of a client; of the IPv4 inside, where IPv6 only carries one."""
        address = carried(address) or address
        if any(address in network for network in CARRIED):
            return UNKNOWN
        unit = ip_network((address, UNIT[address.version]), strict=False)
        return self._origin(unit, [line for line in self.lines if _inside(unit, line.network)])

    def resolver(self, address: Address) -> Origin:
        """The origin of a resolver's own address, for which the operator's finer prefixes count too."""
        finer = [line for line in self.lines if address in line.network
                 and line.network.prefixlen > UNIT[line.network.version]]
        if not finer:
            return self.unit(address)
        unit = ip_network((address, UNIT[address.version]), strict=False)
        return self._origin(unit, [line for line in self.lines if address in line.network])

    def places(self) -> Counter[Place]:
        """Every place of the data, and how many IPv4 /24s are there (0 where only IPv6 is)."""
        count: Counter[Place] = Counter()
        at, moved = 0, {unit for line in self.lines if line.network.version == 4 and line.network.prefixlen <= 24
                        for unit in line.network.subnets(new_prefix=24)}
        while at < 1 << 32:
            record, length = self._geo.get_with_prefix_len(IPv4Address(at))
            if length > 24:
                count[self._place(IPv4Network((at & 0xFFFFFF00, 24)))] += 1
                count[_place(record)] += 0
                at = (at | 0xFF) + 1
            else:
                count[_place(record)] += 1 << (24 - length)
                at = (at | (1 << (32 - length)) - 1) + 1
        for unit in moved:
            count[self._place(unit)] -= 1
            count[self.unit(unit.network_address).place] += 1
        for line in self.lines:
            for start in self.borders(line.network):
                address = IPv4Address(start) if line.network.version == 4 else IPv6Address(start)
                count[self.unit(address).place] += 0
                count[self.resolver(address).place] += 0
        at = 0x2000 << 112
        while at < 0x4000 << 112:
            record, length = self._geo.get_with_prefix_len(IPv6Address(at))
            if not any(IPv6Address(at) in network for network in CARRIED):
                count[_place(record)] += 0
            at = (at | (1 << (128 - length)) - 1) + 1
        return count

    def borders(self, network: Network) -> list[int]:
        """Addresses inside at which anything may change, the first among them: every border of the data."""
        first, last = int(network.network_address), int(network.broadcast_address)
        found, at = {first}, first
        while at <= last:
            found.add(at)
            address = IPv4Address(at) if network.version == 4 else IPv6Address(at)
            length = self._geo.get_with_prefix_len(address)[1]
            at = (at | (1 << (network.max_prefixlen - length)) - 1) + 1
        edges = self._edges[network.version]
        found.update(edges[bisect_left(edges, first) : bisect_right(edges, last)])
        return sorted(found)

    @cached_property
    def _edges(self) -> dict[int, list[int]]:
        """Where a prefix of the AS table, a carrier list or an operator's line begins, and where the next one would."""
        found: dict[int, set[int]] = {4: set(), 6: set()}
        with gzip.open(self._table, "rt") if self._table.suffix == ".gz" else self._table.open() as file:
            prefixes = [line.partition("\t")[0].partition("/") for line in file if line[0] not in ";#"]
        networks = [network for claims in self._listed.values() for network in claims]
        networks += [line.network for line in self.lines] + CARRIED
        prefixes += [str(network).partition("/") for network in networks]
        for address, _, length in prefixes:
            family = 6 if ":" in address else 4
            first = int.from_bytes(inet_pton(AF_INET6 if family == 6 else AF_INET, address), "big")
            found[family] |= {first, first + (1 << ((128 if family == 6 else 32) - int(length)))}
        return {family: sorted(edges) for family, edges in found.items()}

    # --- layer by layer ---

    def _origin(self, unit: Network, lines: Iterable[Line]) -> Origin:
        """What all layers say together; of the operator's lines the longest that says something about a field."""
        said: dict[str, str] = {}
        for line in sorted(lines, key=lambda line: line.network.prefixlen):
            said.update({name: text for name, text in line.fields.items() if text})
        place = self._place(unit)
        if "country" in said:
            place = place._replace(country=said["country"].upper())
        if "latitude" in said:
            place = place._replace(latitude=float(said["latitude"]), longitude=float(said["longitude"]))
        asn = int(said["asn"]) if "asn" in said else self._as_number(unit)
        carrier = said.get("carrier") or self._carrier_list(unit) or self._carrier.get(asn, "")
        return Origin(place, asn, carrier, said.get("provider") or self._provider.get(asn, ""))

    def _place(self, unit: Network) -> Place:
        pieces: list[tuple[Place, int]] = []
        at, last = int(unit.network_address), int(unit.broadcast_address)
        while at <= last:
            record, length = self._geo.get_with_prefix_len(ip_address(at) if unit.version == 4 else IPv6Address(at))
            size = 1 << (unit.max_prefixlen - length)
            pieces.append((_place(record), size))
            at = (at | size - 1) + 1
        return _most(pieces, NOWHERE)

    def _as_number(self, unit: Network) -> int:
        finer = self._finer.get(int(unit.network_address))
        if finer is None:
            return self._asn.lookup(str(unit.network_address))[0] or 0
        if unit.version == 4:
            return _most([(self._asn.lookup(str(address))[0] or 0, 1) for address in unit], 0)
        parts = unit.subnets(new_prefix=64)
        return _most([(self._as_of_64(int(part.network_address), finer), 1) for part in parts], 0)

    def _as_of_64(self, at: int, finer: dict[tuple[int, int], int]) -> int:
        """The AS number of a /64: its longest prefix; what is deeper counts only where no prefix is the /64 itself."""
        for length in range(64, 56, -1):
            asn = finer.get((at >> (128 - length) << (128 - length), length))
            if asn is None and length == 64:
                deeper = [(deep, order, asn) for order, ((key, deep), asn) in enumerate(finer.items())
                          if deep > 64 and key >> 64 == at >> 64]
                asn = min(deeper)[2] if deeper else None
            if asn is not None:
                return asn
        # Every prefix longer than /56 has been tried; what is left is not finer than the unit.
        unit = at >> 72 << 72
        for offset in range(1 << 8):
            found, prefix = self._asn.lookup(str(IPv6Address(unit | offset << 64 | 0xFFFFFFFFFFFFFFFF)))
            if prefix is None or ip_network(prefix).prefixlen <= 56:
                return found or 0
        raise AssertionError(f"no address of {IPv6Address(unit)}/56 is free of finer prefixes")

    def _carrier_list(self, unit: Network) -> str:
        if not any(_inside(network, unit) and network != unit for network in self._listed.get(_first(unit), ())):
            return _longest(self._listed.get(_first(unit), ()), unit.network_address)
        return _most([(_longest(self._listed[_first(unit)], address), 1) for address in unit], "")


def carried(address: Address) -> IPv4Address | None:
    """The IPv4 address inside an IPv6 address that only carries it (RFC 4291, 6052, 3056, 4380)."""
    if isinstance(address, IPv4Address):
        return None
    number = int(address)
    if number >> 32 in (0xFFFF, 0x64FF9B << 64):
        return IPv4Address(number & 0xFFFFFFFF)
    if number >> 112 == 0x2002:
        return IPv4Address(number >> 80 & 0xFFFFFFFF)
    return IPv4Address(~number & 0xFFFFFFFF) if number >> 96 == 0x20010000 else None


def _most(pieces: Iterable[tuple[Any, int]], nothing: Any) -> Any:
    """What most addresses have; of equals what the lowest has; nothing only where there is nothing else."""
    sizes: dict[Any, int] = {}
    for value, size in pieces:
        sizes[value] = sizes.get(value, 0) + size
    sizes.pop(nothing, None)
    return max(sizes, key=lambda value: sizes[value]) if sizes else nothing


def _place(record: Any) -> Place:
    if record is None:
        return NOWHERE
    location, country = record.get("location", {}), record.get("country") or record.get("registered_country") or {}
    return Place(location.get("latitude"), location.get("longitude"), country.get("iso_code", "").upper(),
                 record.get("continent", {}).get("code", "").lower())


def _inside(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(line for line in file if line.strip() and line[0] not in "#;")


def _finer(table: Path) -> dict[int, dict[tuple[int, int], int]]:
    """Prefixes of the AS table that are finer than a unit, by the unit they lie in."""
    found: dict[int, dict[tuple[int, int], int]] = {}
    with gzip.open(table, "rt") if table.suffix == ".gz" else table.open() as file:
        for line in file:
            prefix, _, asn = line.partition("\t")
            length = int(prefix.rpartition("/")[2]) if asn else 0
            if length > UNIT[6 if ":" in prefix else 4]:
                network = ip_network(prefix)
                unit = network.supernet(new_prefix=UNIT[network.version])
                found.setdefault(int(unit.network_address), {})[int(network.network_address), length] = int(asn)
    return found


def _by_asn(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Provider and carrier by AS number."""
    provider, carrier = {}, {}
    for row in _rows(path):
        (carrier if row["kind"] == "carrier" else provider)[int(row["asn"])] = row["provider"]
    return provider, carrier


def _first(network: Network) -> tuple[int, int]:
    """What the carrier lists are sorted by: family and first 16 bits."""
    return network.version, int(network.network_address) >> (network.max_prefixlen - 16)


def _listed(folder: Path) -> dict[tuple[int, int], dict[Network, str]]:
    """Carrier prefixes, under each first 16 bits that they cover; one that several carriers claim is nobody's."""
    found: dict[tuple[int, int], dict[Network, str]] = {}
    for row in _rows(folder / "carrier_lists.csv"):
        for line in (folder / row["file"]).read_text(encoding="utf-8").splitlines():
            if not line or line[0] in "#;":
                continue
            network = ip_network(line.strip())
            version, first = _first(network)
            for number in range(1 << max(0, 16 - network.prefixlen)):
                claims = found.setdefault((version, first + number), {})
                claims[network] = row["carrier"] if claims.get(network, row["carrier"]) == row["carrier"] else ""
    return found


def _longest(networks: Any, address: Address) -> str:
    """The carrier of the longest prefix that holds the address."""
    inside = [(network.prefixlen, name) for network, name in dict(networks).items() if address in network]
    return str(max(inside)[1]) if inside else ""


def _lines(path: Path) -> list[Line]:
    return [Line(ip_network(row.pop("prefix")), row) for row in _rows(path)]
