"""Readings of connections to what is sent: a median for each block of clients.

Lives here: blocks, who is left out, medians, batches. Does not live here: where readings come from
(`agent.connections`), sending.

A block is an IPv4 /24 or an IPv6 /48: single addresses do not leave the machine. Its value is the median of its
connections, its spread their median deviation as one sigma.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

BATCH: Final = 5000
"""Samples of one message, which is as many as are taken."""

LEAST_MS, MOST_MS = 0.05, 5000.0
_SIGMA: Final = 1.4826


def gathered(readings: Iterable[tuple[str, float]], *, private: bool = False) -> list[dict[str, Any]]:
    """The samples, as `POST /v1/measurements` takes them. `private`: also of addresses that are not on the internet."""
    heard: dict[str, list[float]] = {}
    for address, rtt_ms in readings:
        block = _block(address, private)
        if block is not None and LEAST_MS <= rtt_ms <= MOST_MS:
            heard.setdefault(block, []).append(rtt_ms)
    return [_sample(block, sorted(found)) for block, found in sorted(heard.items())]


def batches(samples: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As many at a time as may be sent."""
    for at in range(0, len(samples), BATCH):
        yield samples[at : at + BATCH]


@lru_cache(maxsize=65536)
def _block(text: str, private: bool) -> str | None:
    """An address's block; None: it is left out."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not private and not address.is_global:
        return None
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 48), strict=False))
    return str(IPv4Network((address, 24), strict=False))


def _sample(block: str, found: list[float]) -> dict[str, Any]:
    middle = (len(found) - 1) // 2
    median = found[middle]
    deviation = sorted(abs(one - median) for one in found)[middle]
    return {"client": block, "rtt_ms": round(median, 3), "count": len(found),
            "spread_ms": round(deviation * _SIGMA, 3)}
