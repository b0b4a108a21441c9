"""The questions of the comparison, and the fleet and zone that answer them: the same for every server.

Lives here: W1 to W8, their query files, what a right answer to each is. Does not live here: servers (`servers`),
measuring (`compare`).

    W1  one static name, no EDNS                     W5  200,000 names that do not exist
    W2  10,000 static names                          W7  W2 as resolvers send it: 0x20 mixed case, EDNS cookie
    W3  one geo name, 200,000 client subnets (/24)   W8  W3 likewise, the cookie behind the subnet
    W4  the geo name without subnet, from 100,000 addresses of 127.0.0.0/8

    W6  W2 over TCP: a connection for each query, or a few with 64 queries outstanding on each; TLS likewise

A query file is a row of `u16 big-endian length, packet`. Subnets are /24s that the bundled location data place.
"""

from __future__ import annotations

import csv
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from ipaddress import IPv4Address
from math import asin, cos, radians, sin, sqrt
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal, NamedTuple

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
    """One kind of load: what it is about, how many source addresses, which rcode is right, whether the name is the
    service's; how it is sent, and whose queries it has, if not its own."""

    name: str
    about: str
    sources: int = 0
    rcode: int = 0
    geo: bool = False
    transport: Literal["udp", "tcp", "tls"] = "udp"
    short: bool = False
    queries: str = ""


WORKLOADS: Final = {w.name: w for w in (
    Workload("W1", "one static name"),
    Workload("W2", "10,000 static names"),
    Workload("W3", "geo name, 200,000 client /24s", geo=True),
    Workload("W4", "geo name, 100,000 resolvers, no subnet", sources=SOURCES, geo=True),
    Workload("W5", "200,000 names that do not exist", rcode=3),
    Workload("W7", "W2 with mixed case and cookie"),
    Workload("W8", "W3 with mixed case and cookie", geo=True),
)}
STREAMS: Final = {w.name: w for w in (
    Workload("W6-short", "W2 over TCP, a connection each", transport="tcp", short=True, queries="W2"),
    Workload("W6-long", "W2 over TCP, pipelined", transport="tcp", queries="W2"),
    Workload("DoT-short", "W2 over TLS, a handshake each", transport="tls", short=True, queries="W2"),
    Workload("DoT-long", "W2 over TLS, pipelined", transport="tls", queries="W2"),
)}
STATIC: Final = ("W1", "W2", "W5", "W7")
PLACED: Final = ("W3", "W4", "W8")
TCP: Final = ("W6-short", "W6-long")
TLS: Final = ("DoT-short", "DoT-long")


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
        write_file(found[name], _QUERIES[name](random.Random(SEED)))
    return found | {name: found[stream.queries] for name, stream in STREAMS.items()}


def write_file(path: Path, queries: Iterable[bytes]) -> None:
    """A query file."""
    path.write_bytes(b"".join(struct.pack(">H", len(q)) + q for q in queries))


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


def subnet(key: int) -> bytes:
    """An ECS option for a /24, given as address >> 8."""
    return struct.pack(">HHHBB", _ECS, 7, 1, 24, 0) + key.to_bytes(3, "big")


def cookie(rnd: random.Random) -> bytes:
    """A COOKIE option with a client's cookie."""
    return struct.pack(">HH", _COOKIE, 8) + rnd.randbytes(8)


@cache
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


@cache
def countries() -> dict[str, str]:
    """Country -> the address of the site nearest to the middle of its subnets, for servers that choose by country."""
    where = defaultdict[str, list[tuple[float, float]]](list)
    with maxminddb.open_database(str(GEO)) as reader:
        for key in subnets():
            found: Any = reader.get(IPv4Address(key << 8))
            if "country" in found:
                where[found["country"]["iso_code"]].append(
                    (found["location"]["latitude"], found["location"]["longitude"]))
    middle = {country: (median(a for a, _ in at), median(b for _, b in at)) for country, at in sorted(where.items())}
    return {country: min(sites(), key=lambda s: _km(*at, s.latitude, s.longitude)).address
            for country, at in middle.items()}


def _w1(_rnd: random.Random) -> Iterator[bytes]:
    yield packet(f"www.{ZONE}")


def _w2(rnd: random.Random) -> Iterator[bytes]:
    return (packet(f"h{i:05}.{ZONE}") for i in rnd.sample(range(STATIC_NAMES), STATIC_NAMES))


def _w3(_rnd: random.Random) -> Iterator[bytes]:
    return (packet(SERVICE, subnet(key)) for key in subnets())


def _w4(_rnd: random.Random) -> Iterator[bytes]:
    yield packet(SERVICE)


def _w5(rnd: random.Random) -> Iterator[bytes]:
    return (packet(f"{rnd.getrandbits(48):012x}.{ZONE}") for _ in range(MISSING))


def _w7(rnd: random.Random) -> Iterator[bytes]:
    for i in range(SUBNETS):
        yield packet(f"h{i % STATIC_NAMES:05}.{ZONE}", cookie(rnd), mix=rnd)


def _w8(rnd: random.Random) -> Iterator[bytes]:
    return (packet(SERVICE, subnet(key), cookie(rnd), mix=rnd) for key in subnets())


_QUERIES: Final[dict[str, Callable[[random.Random], Iterator[bytes]]]] = {
    "W1": _w1, "W2": _w2, "W3": _w3, "W4": _w4, "W5": _w5, "W7": _w7, "W8": _w8,
}

# --- what is right ----------------------------------------------------------------------------------------------------

SLACK_KM: Final = 200
"""Kilometres beyond the nearest site that an answer may lie: sites within 2 ms of each other count as equally near."""


def wrong(workload: Workload, query: bytes, reply: bytes, reader: maxminddb.Reader, by_country: bool = False) -> str:
    """What is wrong with a reply, as far as every server must agree; empty when nothing is. `by_country`: the server
    chooses by country, as `countries` has it."""
    end = query.index(b"\0", 12) + 5
    if len(reply) < end or reply[:2] != query[:2] or reply[2] & 0xFA != 0x80 or reply[12:end] != query[12:end]:
        return f"is no reply to the question: {reply.hex()}"
    if reply[3] & 15 != workload.rcode:
        return f"rcode {reply[3] & 15}"
    answers = int.from_bytes(reply[6:8], "big")
    if workload.rcode:
        return f"{answers} answers" if answers else ""
    address = _address(reply, end) if answers == 1 else ""
    name = query[13 : 13 + query[12]].decode().lower()
    if not workload.geo:
        right = "198.51.100.80" if name == "www" else static_address(int(name[1:]))
        return "" if address == right else f"{name}: {address}, not {right}"
    if workload.sources:
        return "" if address in {site.address for site in sites()} else f"{address!r} is no endpoint"
    client = IPv4Address(int.from_bytes(query[end + 11 + 8 : end + 11 + 11], "big") << 8)
    if by_country:
        found: Any = reader.get(client) or {}
        right = countries().get(found.get("country", {}).get("iso_code", ""), sites()[0].address)
        return "" if address == right else f"{client}: {address}, not {right}"
    distance = dict(zip((site.address for site in sites()), distances(client, sites(), reader), strict=True))
    if address not in distance:
        return f"{address!r} is no endpoint"
    beyond = distance[address] - min(distance.values())
    return "" if beyond <= SLACK_KM else f"{client}: {address} is {beyond:.0f} km beyond the nearest"


def address_in(reply: bytes) -> str:
    """The address that a reply answers its question with; empty when there is none, or several."""
    return _address(reply, reply.index(b"\0", 12) + 5) if reply[6:8] == b"\0\1" else ""


def _address(reply: bytes, at: int) -> str:
    """The address in the record there; empty when it has none."""
    while 0 < reply[at] < 0xC0:  # BIND spells the owner out where its case is another than the question's
        at += 1 + reply[at]
    at += 1 if reply[at] == 0 else 2
    return str(IPv4Address(reply[at + 10 : at + 14])) if reply[at : at + 4] == b"\0\1\0\1" else ""


def distances(client: IPv4Address, places: Sequence[Site], reader: maxminddb.Reader) -> list[float]:
    """Kilometres from a client to each place."""
    found: Any = reader.get(client)
    at = found["location"]
    return [_km(at["latitude"], at["longitude"], site.latitude, site.longitude) for site in places]


def _km(latitude: float, longitude: float, to_latitude: float, to_longitude: float) -> float:
    here, there = radians(latitude), radians(to_latitude)
    half = sin((there - here) / 2) ** 2 + cos(here) * cos(there) * sin(radians(to_longitude - longitude) / 2) ** 2
    return 2 * 6371 * asin(sqrt(min(1.0, half)))
