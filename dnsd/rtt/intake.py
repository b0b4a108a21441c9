"""Samples as somebody sends them, to rows of a group array: what is believed of them, and why the others are not.

Lives here: parsing client addresses, bounds, physics. Does not live here: who may send what and how much (`admin`,
`control.measurements`), medians (`rtt.items`), where a client is (the atlas, as `locate`).

Nothing travels faster than light in glass, 200 km a millisecond: a sample that would need more for the way there
alone is dropped. That is half of what a round trip really needs, for the atlas knows a region, not a house; where it
knows nothing there are no physics. A batch is taken as columns: five thousand samples cost a few milliseconds.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt import blocks
from dnsd.rtt.items import COUNT_MOST, FAR, GROUP, Groups
from dnsd.steer import distance

LEAST_MS: Final = 0.05
MOST_MS: Final = 5000.0
KM_PER_MS: Final = 200.0
REASONS: Final = ("address", "range", "site", "physics", "quota")
"""Why samples are dropped: no unicast client, beyond 0.05 to 5000 ms, no such site, faster than light, too many."""

F64 = NDArray[np.float64]
Locate = Callable[[NDArray[np.uint64]], tuple[F64, F64]]
"""Blocks to latitudes and longitudes in degrees, NaN where they are not known."""


class Sample(Protocol):
    """One measurement: a client's address or a prefix in one block, the median of `count` round trips to a site and
    their spread (one sigma)."""

    @property
    def client(self) -> str:
        """Address or prefix."""

    @property
    def rtt_ms(self) -> float:
        """Milliseconds."""

    @property
    def count(self) -> int:
        """At least 1."""

    @property
    def spread_ms(self) -> float | None:
        """Milliseconds, where it is known."""

    @property
    def site(self) -> str | None:
        """Where it is not the batch's."""


class Place(NamedTuple):
    """A site: its number among an entry's sites, where it is."""

    number: int
    latitude: float
    longitude: float


class Sifted(NamedTuple):
    """Rows that are believed, by reporter 0; how many samples of each reason were dropped; how many blocks were too
    near to a site, each site by itself: one block at a wrong place, however busy, is one."""

    rows: Groups
    dropped: dict[str, int]
    fast: int


def sift(samples: Sequence[Sample], site: str | None, sites: Mapping[str, Place], locate: Locate) -> Sifted:
    """Takes a batch of samples; `site` is that of those that name none."""
    dropped: dict[str, int] = {}
    count = len(samples)
    numbers = np.fromiter((_block(one.client) for one in samples), np.uint64, count)
    rtt = np.fromiter((one.rtt_ms for one in samples), np.float64, count)
    spread = np.fromiter((one.spread_ms or 0.0 for one in samples), np.float64, count)
    counts = np.fromiter((one.count for one in samples), np.int64, count)
    nowhere = Place(FAR, 0.0, 0.0)
    default = sites.get(site or "", nowhere)
    places = [default if one.site is None else sites.get(one.site, nowhere) for one in samples]
    column = np.fromiter((place.number for place in places), np.int64, count)
    kept = np.ones(count, np.bool_)

    def drop(reason: str, wrong: NDArray[np.bool_]) -> None:
        nonlocal kept
        if number := int(np.count_nonzero(wrong & kept)):
            dropped[reason] = number
        kept = kept & ~wrong

    drop("address", numbers == _NONE)
    drop("range", ~((rtt >= LEAST_MS) & (rtt <= MOST_MS)))  # NaN is neither
    drop("site", column == FAR)
    km = np.full(count, np.nan)
    if kept.any():
        km[kept] = _km(numbers[kept], [place for place, keep in zip(places, kept, strict=True) if keep], locate)
    fast = km / KM_PER_MS > rtt
    drop("physics", fast)
    rows = np.zeros(int(np.count_nonzero(kept)), GROUP)
    rows["block"], rows["site"] = numbers[kept], column[kept]
    rows["rtt"] = np.maximum(np.rint(rtt[kept] * 10), 1)
    rows["spread"] = 10 * np.clip(np.nan_to_num(spread[kept]), 0, MOST_MS)
    rows["count"] = np.clip(counts[kept], 1, COUNT_MOST)
    rows["km"] = np.where(np.isnan(km[kept]), FAR, np.minimum(km[kept], FAR - 1))
    return Sifted(rows, dropped, len(set(zip(numbers[fast].tolist(), column[fast].tolist(), strict=True))))


_NONE: Final = (1 << 64) - 1
_SPECIAL4: Final = {0, 127, *range(224, 256)}  # this network, loopback, multicast and reserved: nobody's clients


def _block(text: str) -> int:
    """A client's block; no block's number where it is no address or prefix of a client."""
    try:
        if ":" not in text and "/" not in text:
            packed = socket.inet_pton(socket.AF_INET, text)
            return _NONE if packed[0] in _SPECIAL4 else int.from_bytes(packed[:3])
        network = ip_network(text, strict=False)
    except (OSError, ValueError):
        return _NONE
    address = network.network_address
    least = 24 if network.version == 4 else 48  # a wider prefix is several blocks
    if network.prefixlen < least or address.is_loopback or address.is_multicast or address.is_unspecified \
            or address.is_link_local:
        return _NONE
    number = blocks.of(address)
    return _NONE if not number & blocks.SIX and number >> 16 in _SPECIAL4 else number


def _km(numbers: NDArray[np.uint64], places: Sequence[Place], locate: Locate) -> F64:
    """Great-circle kilometres between clients and sites; NaN where a client's place is not known."""
    latitude, longitude = (np.radians(degrees) for degrees in locate(numbers))
    there = np.radians([(place.latitude, place.longitude) for place in places]).reshape(-1, 2)
    half = np.sin((there[:, 0] - latitude) / 2) ** 2 + (
        np.cos(latitude) * np.cos(there[:, 0]) * np.sin((there[:, 1] - longitude) / 2) ** 2)
    return np.asarray(2 * distance.EARTH_KM * np.arcsin(np.sqrt(np.minimum(1.0, half))), np.float64)


def nowhere(numbers: NDArray[np.uint64]) -> tuple[F64, F64]:
    """`Locate` without an atlas."""
    unknown = np.full(len(numbers), np.nan)
    return unknown, unknown
