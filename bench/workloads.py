"""The questions of the comparison, and the fleet and zone that answer them: the same for every server.

Lives here: W1 to W8, their query files, what a right answer to each is. Does not live here: servers (`servers`),
measuring (`compare`).

    W1  one static name, no EDNS                     W5  200,000 names that do not exist
    W2  10,000 static names                          W7  W2 as resolvers send it: 0x20 mixed case, EDNS cookie
    W3  one geo name, 200,000 client subnets (/24)   W8  W3 likewise, the cookie behind the subnet
    W4  the geo name without subnet, from 100,000 addresses of 127.0.0.0/8

A query file is a row of `u16 big-endian length, packet`. Subnets are /24s that the bundled location data place.
W6 is TCP (`tcpblast`) and not part of the comparison.
"""

from __future__ import annotations

import csv
import random
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from math import asin, cos, radians, sin, sqrt
from pathlib import Path
from typing import Any, Final, NamedTuple

import maxminddb

ROOT: Final = Path(__file__).resolve().parent.parent
GEO: Final = ROOT / "data" / "geo" / "geoaffinity-city-lite.mmdb"
ZONE: Final = "bench.example"
SERVICE: Final = f"geo.{ZONE}"
STATIC_NAMES: Final = 10_000
SUBNETS: Final = 200_000
MISSING: Final = 200_000
SOURCES: Final = 100_000
SEED: Final = 20260101
REGIONS: Final = (
    "us-east-1", "us-west-2", "ca-central-1", "sa-east-1", "eu-west-1", "eu-central-1", "eu-north-1", "eu-south-1",
    "af-south-1", "me-south-1", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1", "ap-northeast-2",
    "ap-east-1",
)
_COOKIE: Final = 10
_ECS: Final = 8


class Site(NamedTuple):
    """A region of AWS, its position, and the address the geo name has there."""

    id: str
    latitude: float
    longitude: float
    address: str


class Workload(NamedTuple):
    """One kind of load: how many source addresses, which rcode and whether an answer is right, and what it is about."""

    name: str
    about: str
    sources: int
    rcode: int
    geo: bool


WORKLOADS: Final = {w.name: w for w in (
    Workload("W1", "one static name", 0, 0, False),
    Workload("W2", "10,000 static names", 0, 0, False),
    Workload("W3", "geo name, 200,000 client /24s", 0, 0, True),
    Workload("W4", "geo name, 100,000 resolvers, no subnet", SOURCES, 0, True),
    Workload("W5", "200,000 names that do not exist", 0, 3, False),
    Workload("W7", "W2 with mixed case and cookie", 0, 0, False),
    Workload("W8", "W3 with mixed case and cookie", 0, 0, True),
)}


def sites() -> list[Site]:
    """The sixteen sites, in the order of REGIONS."""
    with (ROOT / "data" / "providers" / "cloud_regions.csv").open(encoding="utf-8", newline="") as file:
        found = {row["region"]: row for row in csv.DictReader(file) if row["provider"] == "aws"}
    return [Site(region, float(found[region]["latitude"]), float(found[region]["longitude"]), f"192.0.2.{i}")
            for i, region in enumerate(REGIONS, 1)]


def static_address(number: int) -> str:
    """The address of `h00000`, `h00001`, …: 198.18.0.0 upwards."""
    return str(IPv4Address("198.18.0.0") + number)


def zone_text() -> str:
    """The zone as a master file, without the geo name."""
    lines = ["$TTL 300", "@ SOA ns1 hostmaster 1 7200 900 1209600 60", "@ NS ns1", "@ NS ns2", "ns1 A 198.51.100.1",
             "ns2 A 198.51.100.2", "www A 198.51.100.80"]
    return "\n".join([*lines, *(f"h{i:05} A {static_address(i)}" for i in range(STATIC_NAMES))]) + "\n"


def fleet() -> dict[str, Any]:
    """The sixteen sites and the geo service with an endpoint at each, for `POST /v1/apply`."""
    places = sites()
    return {
        "sites": [{"id": s.id, "latitude": s.latitude, "longitude": s.longitude, "country": "US", "region": "na"}
                  for s in places],
        "services": [{"name": SERVICE, "policy": {"preset": "geo"}, "ttl": 8}],
        "endpoints": [{"id": s.id, "service": SERVICE, "site": s.id, "a": s.address} for s in places],
    }


def write(folder: Path) -> dict[str, Path]:
    """Query files of all workloads; the same octets every time."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in WORKLOADS:
        found[name] = folder / f"{name}.queries"
        found[name].write_bytes(b"".join(struct.pack(">H", len(q)) + q for q in _QUERIES[name](random.Random(SEED))))
    return found


def read(path: Path) -> list[bytes]:
    """The packets of a query file."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def packet(name: str, *options: bytes, edns: bool = False, mix: random.Random | None = None) -> bytes:
    """A query for A; `mix` gives it 0x20 mixed case, EDNS options or `edns` an OPT record."""
    if mix is not None:
        name = "".join(c.upper() if mix.getrandbits(1) else c for c in name)
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0\0\1\0\1"
    head = struct.pack(">6H", 0, 0, 1, 0, 0, 1 if options or edns else 0)
    if not options and not edns:
        return head + question
    body = b"".join(options)
    return head + question + struct.pack(">BHHIH", 0, 41, 1232, 0, len(body)) + body


def _subnet(key: int) -> bytes:
    """An ECS option for a /24, given as address >> 8."""
    return struct.pack(">HHHBB", _ECS, 7, 1, 24, 0) + key.to_bytes(3, "big")


def _cookie(rnd: random.Random) -> bytes:
    return struct.pack(">HH", _COOKIE, 8) + rnd.randbytes(8)


def subnets() -> list[int]:
    """SUBNETS distinct /24s (address >> 8) that the location data place, the bundled clients' among them."""
    rnd = random.Random(SEED)
    with (ROOT / "data" / "clients" / "clients_v4.csv").open(encoding="utf-8", newline="") as file:
        keys = {int(IPv4Address(row["prefix"].partition("/")[0])) >> 8 for row in csv.DictReader(file)}
    with maxminddb.open_database(str(GEO)) as reader:
        while len(keys) < SUBNETS:
            key = rnd.randrange(1 << 16, 224 << 16)
            if "location" in (reader.get(IPv4Address(key << 8)) or {}):
                keys.add(key)
    found = sorted(keys)
    rnd.shuffle(found)
    return found


def _w1(_rnd: random.Random) -> Iterator[bytes]:
    yield packet(f"www.{ZONE}")


def _w2(rnd: random.Random) -> Iterator[bytes]:
    return (packet(f"h{i:05}.{ZONE}") for i in rnd.sample(range(STATIC_NAMES), STATIC_NAMES))


def _w3(_rnd: random.Random) -> Iterator[bytes]:
    return (packet(SERVICE, _subnet(key)) for key in subnets())


def _w4(_rnd: random.Random) -> Iterator[bytes]:
    yield packet(SERVICE)


def _w5(rnd: random.Random) -> Iterator[bytes]:
    return (packet(f"{rnd.getrandbits(48):012x}.{ZONE}") for _ in range(MISSING))


def _w7(rnd: random.Random) -> Iterator[bytes]:
    for i in range(SUBNETS):
        yield packet(f"h{i % STATIC_NAMES:05}.{ZONE}", _cookie(rnd), mix=rnd)


def _w8(rnd: random.Random) -> Iterator[bytes]:
    return (packet(SERVICE, _subnet(key), _cookie(rnd), mix=rnd) for key in subnets())


_QUERIES: Final[dict[str, Callable[[random.Random], Iterator[bytes]]]] = {
    "W1": _w1, "W2": _w2, "W3": _w3, "W4": _w4, "W5": _w5, "W7": _w7, "W8": _w8,
}

# --- what is right ----------------------------------------------------------------------------------------------------

SLACK_KM: Final = 200
"""Kilometres beyond the nearest site that an answer may lie: sites within 2 ms of each other count as equally near."""


def wrong(workload: Workload, query: bytes, reply: bytes, reader: maxminddb.Reader) -> str:
    """What is wrong with a reply, as far as every server must agree; empty when nothing is."""
    end = query.index(b"\0", 12) + 5
    if len(reply) < end or reply[:2] != query[:2] or reply[2] & 0xFA != 0x80 or reply[12:end] != query[12:end]:
        return f"is no reply to the question: {reply.hex()}"
    if reply[3] & 15 != workload.rcode:
        return f"rcode {reply[3] & 15}"
    answers = int.from_bytes(reply[6:8], "big")
    if workload.rcode:
        return f"{answers} answers" if answers else ""
    address = str(IPv4Address(reply[end + 12 : end + 16])) if answers == 1 and len(reply) >= end + 16 else ""
    name = query[13 : 13 + query[12]].decode().lower()
    if not workload.geo:
        right = "198.51.100.80" if name == "www" else static_address(int(name[1:]))
        return "" if address == right else f"{name}: {address}, not {right}"
    places = {site.address: site for site in sites()}
    if address not in places:
        return f"{address!r} is no endpoint"
    if workload.sources:
        return ""
    key = int.from_bytes(query[end + 11 + 8 : end + 11 + 11], "big")
    at = (reader.get(IPv4Address(key << 8)) or {})["location"]
    distance = {a: _km(at["latitude"], at["longitude"], s.latitude, s.longitude) for a, s in places.items()}
    beyond = distance[address] - min(distance.values())
    return "" if beyond <= SLACK_KM else f"{IPv4Address(key << 8)}: {address} is {beyond:.0f} km beyond the nearest"


def _km(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    here, there = radians(latitude), radians(to_latitude)
    half = sin((there - here) / 2) ** 2 + cos(here) * cos(there) * sin(radians(to_longitude - longitude) / 2) ** 2
    return 2 * 6371 * asin(sqrt(min(1.0, half)))
