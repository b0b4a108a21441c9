"""A small zone as image files at any stamp, queries for it, and a worker's counters without a file."""

from __future__ import annotations

from pathlib import Path

import dns.edns
import dns.message
import dns.rdatatype

from dnsd import metrics
from dnsd.compile import image
from dnsd.compile.service import record
from dnsd.model import MapView, Stamp
from tests.golden import world

FIRST = Stamp(7, 1, 0)
MAP_FILE = "map-0"
ZONE = "www A 192.0.2.80\nbig TXT " + " ".join(f'"{letter * 250}"' for letter in "abcdef")


def counters() -> memoryview:
    """A worker's slots in plain memory."""
    return metrics.counters(memoryview(bytearray(metrics.REGION)), 0)


def _map(file: str) -> MapView:
    return MapView(0, file, ("s0", "s1"), {"s0": 0, "s1": 1})


def image_bytes(stamp: Stamp = FIRST, endpoint: int = 1, *, names: int = 0, map_file: str = MAP_FILE) -> bytes:
    """demo.example with www, a large TXT, `names` more names, and api at 198.51.100.<endpoint>."""
    zone = world.zone("demo.example.", ZONE + "".join(f"\nn{i} A 192.0.2.9" for i in range(names)))
    service = world.service("api.demo.example", world.endpoint(endpoint))
    return image.build([zone], [service], [_map(map_file)], stamp, 0).data


def delta(endpoint: int) -> list[tuple[int, bytes]]:
    """What a frame carries to move api to 198.51.100.<endpoint>."""
    return [(0, record(world.service("api.demo.example", world.endpoint(endpoint)), {0: _map(MAP_FILE)}))]


def two_sites() -> list[tuple[int, bytes]]:
    """What a frame carries to have api at s0 (198.51.100.1) and s1 (198.51.100.2)."""
    service = world.service("api.demo.example", world.endpoint(1, "s0"), world.endpoint(2, "s1"))
    return [(0, record(service, {0: _map(MAP_FILE)}))]


def table(near: int) -> bytes:
    """A map table in which every client is at that site, and the other one 250 ms away."""
    levels = [(0, 0), (15, 0)] if near == 0 else [(15, 0), (0, 0)]
    return world.table_bytes(2, [[(0, 0), (0, 0)], levels], [(0, 1)])


def put(path: Path, data: bytes) -> None:
    """Replace a file in one step, as control does; folders are made."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def state(folder: Path, stamp: Stamp = FIRST, endpoint: int = 1, *, names: int = 0) -> Path:
    """A state directory with an image and its map table."""
    put(folder / "maps" / MAP_FILE, table(0))
    put(folder / "image", image_bytes(stamp, endpoint, names=names))
    return folder


def query(name: str, kind: str = "A", number: int = 1, *, nsid: bool = False) -> bytes:
    """A query as a resolver sends it, OPT included."""
    options = [dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")] if nsid else []
    message = dns.message.make_query(name, kind, use_edns=0, options=options)
    message.flags = 0
    message.id = number
    return message.to_wire()


def addresses(reply: bytes) -> list[str]:
    """The A records of a reply."""
    return sorted(item.address for rrset in dns.message.from_wire(reply).answer for item in rrset
                  if item.rdtype == dns.rdatatype.A)


def nsid(reply: bytes) -> str:
    """The name server's id in a reply; empty without one."""
    return next((option.to_wire().decode() for option in dns.message.from_wire(reply).options
                 if option.otype == dns.edns.OptionType.NSID), "")
