"""The built atlas on disk: prefix -> origin, one file, mapped by whoever reads it.

Lives here: the file's form, writing it whole, reading it, an address's origin. Does not live here: making it
(`atlas.build`), what becomes of it (`atlas.derive`). Workers never see this file.

    HEAD | JSON (sources and whatever `about` holds, array names -> offset, count) | arrays, each aligned to 8

A file is never changed: a new one is written beside it and renamed over it, so a reader's mapping stays whole. Runs
have an origin number, origins have columns; place, carrier, provider and tag are numbers into tables of their own.
"""

from __future__ import annotations

import json
import mmap
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnsd import disk
from dnsd.atlas.prefixes import V4, V6, Family
from dnsd.image.layout import Flat
from dnsd.steer import scope

FILE: Final = "atlas"
"""The file's name inside the atlas directory."""

MODE: Final = 0o644
"""What is made of public data; whoever builds it need not be the daemon's user."""

MAGIC: Final = b"DNSDATL\0"
LAYOUT: Final = 2
HEAD: Final = Flat(
    "8s magic", "u32 layout", "u32 json", "u64 size", "u64 digest", "u64 made", "u32 crc", "u32 sum")
# json: octets of the JSON, crc: its checksum; digest: of the arrays alone, so equal data have equal digests;
# made: seconds since 1970; sum: a checksum of digest and arrays, verified in half the time of the digest

ARRAYS: Final = {
    "starts4": "<u4", "origins4": "<u4", "starts6": "<u8", "origins6": "<u4",
    "fine4": "<u4", "fine_origins4": "<u4", "fine6": "<u8", "fine_origins6": "<u4",
    "place": "<u4", "asn": "<u4", "carrier": "<u2", "provider": "<u2", "tag": "<u2",
    "latitude": "<f8", "longitude": "<f8", "country": "S2", "region": "S2",
    "name_asn": "<u4", "name_at": "<u4", "names": "u1", "texts": "u1",
}
"""Array -> element type. starts4 are address >> 8, starts6 upper 64 bits; fine4 (low, high) addresses and fine6
(low, high) upper 64 bits of operator prefixes finer than /24 and /56; place to tag one per origin (0: unknown; carrier,
provider and tag number `texts`); latitude to region one per place; name_* the names of the AS numbers that occur
(name_at: where each begins in `names`, and the end); texts one a line, the first empty."""


class AtlasError(Exception):
    """The atlas is missing or damaged: it must be built (again)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the data say of a client; None where they say nothing. `network` is the largest aligned block around the
    address that has this origin."""

    network: str
    latitude: float | None = None
    longitude: float | None = None
    country: str | None = None
    region: str | None = None
    asn: int | None = None
    as_name: str | None = None
    carrier: str | None = None
    provider: str | None = None
    tag: str | None = None


class Atlas:
    """A mapped atlas. `arrays` by name as in ARRAYS, `about` the JSON head, `digest` names this very content, `stamp`
    this very file, which is never changed in place."""

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        """Without `verify` that is left to the caller, who may do it meanwhile; numbers may then be out of range."""
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            raise AtlasError(f"{path}: no atlas here; build one with `dnsd data build`") from None
        except (OSError, ValueError) as problem:
            raise AtlasError(f"{path}: cannot be mapped: {problem}") from None
        self.stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        view = memoryview(self._map)
        if len(view) < HEAD.size:
            raise AtlasError(f"{path}: is shorter than its head")
        magic, version, length, size, self.digest, self.made, crc, self._sum = HEAD.unpack_from(view, 0)
        if magic != MAGIC or version != LAYOUT:
            raise AtlasError(f"{path}: is no atlas of layout {LAYOUT}; build it again")
        start = _aligned(HEAD.size + length)
        text = bytes(view[HEAD.size : HEAD.size + length])
        if size != len(view) or zlib.crc32(text) != crc:
            raise AtlasError(f"{path}: is damaged, size or checksum differ; build it again")
        self._body = view[start:]
        if verify:
            self.verify()
        self.about: dict[str, Any] = json.loads(text)
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.frombuffer(view, ARRAYS[name], count, start + offset)
            for name, (offset, count) in self.about.pop("arrays").items()}
        self.texts: list[str] = self.arrays["texts"].tobytes().decode().split("\n")

    def verify(self) -> None:
        """Raises AtlasError where the arrays are not what was written."""
        if _sum(self.digest, [self._body]) != self._sum:
            raise AtlasError(f"{self.path}: is damaged, its checksum differs; build it again")

    def origin(self, address: IPv4Address | IPv6Address) -> Origin:
        """The origin of an address. IPv6 that only carries IPv4 is judged by the IPv4 inside."""
        inside = unwrapped(address)
        family = V4 if inside.version == 4 else V6
        key = int(inside) >> (family.address_bits - family.bits)
        fine = self.arrays[f"fine{inside.version}"]
        at = int(np.searchsorted(fine[::2], np.array(key, fine.dtype), "right")) - 1
        if at >= 0 and key <= fine[2 * at + 1]:
            number = int(self.arrays[f"fine_origins{inside.version}"][at])
            return self._origin(number, family, key, (int(fine[2 * at]), int(fine[2 * at + 1])))
        starts = self.arrays[f"starts{inside.version}"]
        shift = 8 if family is V4 else 0
        at = int(np.searchsorted(starts, np.array(key >> shift, starts.dtype), "right")) - 1
        end = int(starts[at + 1]) << shift if at + 1 < len(starts) else 1 << family.bits
        number = int(self.arrays[f"origins{inside.version}"][at])
        return self._origin(number, family, key, (int(starts[at]) << shift, end - 1))

    def numbers(self, version: int, keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The origin number at each key of a family (`atlas.prefixes`), as a client's subnet is judged: fine operator
        prefixes left out."""
        starts: NDArray[Any] = self.arrays[f"starts{version}"]
        at = np.searchsorted(starts, (keys >> np.uint64(8 if version == 4 else 0)).astype(starts.dtype), "right") - 1
        found: NDArray[np.uint32] = self.arrays[f"origins{version}"][at]
        return found

    def _origin(self, number: int, family: Family, key: int, run: tuple[int, int]) -> Origin:
        arrays = self.arrays
        place = int(arrays["place"][number])
        latitude, longitude = float(arrays["latitude"][place]), float(arrays["longitude"][place])
        known = latitude == latitude  # not NaN
        asn = int(arrays["asn"][number])
        text = [self.texts[int(arrays[column][number])] or None for column in ("carrier", "provider", "tag")]
        return Origin(
            _network(family, key, scope.block_length(key, *run, family.bits)),
            latitude if known else None, longitude if known else None,
            arrays["country"][place].decode() or None, arrays["region"][place].decode() or None,
            asn or None, self._as_name(asn), *text)

    def _as_name(self, asn: int) -> str | None:
        numbers, ends = self.arrays["name_asn"], self.arrays["name_at"]
        at = int(np.searchsorted(numbers, np.uint32(asn)))
        if not asn or at == len(numbers) or numbers[at] != asn:
            return None
        return self.arrays["names"][int(ends[at]) : int(ends[at + 1])].tobytes().decode()


def open_atlas(directory: Path, *, verify: bool = True) -> Atlas:
    """The atlas in a directory, mapped and checked; AtlasError where there is none or it is damaged."""
    return Atlas(directory / FILE, verify=verify)


def write(path: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> int:
    """Writes an atlas file, whole or not at all; returns its size. `about` is kept in its head."""
    data = {name: np.ascontiguousarray(arrays[name], kind) for name, kind in ARRAYS.items()}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name, array in data.items():
        places[name] = (end, len(array))
        end = _aligned(end + array.nbytes)
    body: list[bytes | memoryview] = []
    for array in data.values():
        body += [array.view(np.uint8).data, bytes(_aligned(array.nbytes) - array.nbytes)]
    text = json.dumps({**about, "arrays": places}).encode()
    start = _aligned(HEAD.size + len(text))
    digest = _digest(body)
    head = HEAD.pack(magic=MAGIC, layout=LAYOUT, json=len(text), size=start + end, digest=digest,
                     made=int(time.time()), crc=zlib.crc32(text), sum=_sum(digest, body))
    disk.replace(path, (head + text).ljust(start, b"\0"), *body, mode=MODE)
    return start + end


def unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside a mapped, NAT64, 6to4 or Teredo address, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if int(address) >> 32 == 0x0064FF9B << 64:  # 64:ff9b::/96, RFC 6052 §2.1
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, address))[1]


def _network(family: Family, key: int, length: int) -> str:
    if family is V4:
        return str(IPv4Network((key, length), strict=False))
    return str(IPv6Network((key << 64, length), strict=False))


def _aligned(offset: int) -> int:
    return (offset + 7) & ~7


def _digest(parts: Sequence[bytes | memoryview]) -> int:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def _sum(digest: int, parts: Sequence[bytes | memoryview]) -> int:
    found = zlib.crc32(digest.to_bytes(8, "little"))
    for part in parts:
        found = zlib.crc32(part, found)
    return found
