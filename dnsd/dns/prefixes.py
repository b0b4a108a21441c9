"""A set of address prefixes, asked with packed addresses.

Lives here: parsing, and membership. Does not live here: what being in one means.

Kept by length: an address is in the set when, cut to one of the lengths there are, it is among the networks of that
length. Lists in use have few lengths, so this is a few set look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

_ByLength = tuple[tuple[int, frozenset[int]], ...]
"""(Bits to cut off, networks without them), the most networks first."""

Ranges = list[tuple[int, int]]
"""First and last addresses as whole numbers."""


class Prefixes:
    """Prefixes in CIDR notation, or bare addresses. ValueError names each text that is neither."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, texts: Iterable[str]) -> None:
        found: dict[int, dict[int, set[int]]] = {32: {}, 128: {}}
        wrong = []
        for text in texts:
            try:
                network = ip_network(text)
            except ValueError as error:
                wrong.append(str(error))
                continue
            shift = network.max_prefixlen - network.prefixlen
            found[network.max_prefixlen].setdefault(shift, set()).add(int(network.network_address) >> shift)
        if wrong:
            raise ValueError("; ".join(wrong))
        self._v4, self._v6 = _by_length(found[32]), _by_length(found[128])

    def __contains__(self, packed: bytes) -> bool:
        """Whether an address of 4 or 16 octets is in one of the prefixes."""
        address = int.from_bytes(packed, "big")
        for shift, networks in self._v4 if len(packed) == 4 else self._v6:  # noqa: SIM110 - `any` costs twice as much
            if address >> shift in networks:
                return True
        return False

    def longest(self) -> tuple[int, int]:
        """The longest IPv4 and IPv6 prefix in bits; 0 also where there is none."""
        shifts4, shifts6 = [shift for shift, _ in self._v4], [shift for shift, _ in self._v6]
        return 32 - min(shifts4, default=32), 128 - min(shifts6, default=128)

    def ranges(self) -> tuple[Ranges, Ranges]:
        """The same as disjoint ranges in order, of IPv4 and of IPv6 addresses: what a compiled engine bisects."""
        return _ranges(self._v4), _ranges(self._v6)

    def __bool__(self) -> bool:
        """Whether there is any prefix."""
        return bool(self._v4 or self._v6)


def _by_length(networks: dict[int, set[int]]) -> _ByLength:
    most_first = sorted(networks.items(), key=lambda item: -len(item[1]))
    return tuple((shift, frozenset(numbers)) for shift, numbers in most_first)


def _ranges(by_length: _ByLength) -> Ranges:
    found: Ranges = []
    for first, last in sorted(
            (number << shift, (number + 1 << shift) - 1) for shift, numbers in by_length for number in numbers):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found
