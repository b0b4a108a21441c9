"""Client blocks: as much of an address as is measured together, and its number.

Lives here: address to block and back. Does not live here: what is known of a block (`rtt.table`).

An IPv4 /24 or an IPv6 /48. The number is a u64, `address >> 8` for IPv4 and `(address >> 80) | 1 << 62` for IPv6:
sorted numbers are sorted prefixes, IPv4 first, and both kinds fit into one array.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

BITS4: Final = 8
BITS6: Final = 80
SIX: Final = 1 << 62


def of(address: IPv4Address | IPv6Address) -> int:
    """The block an address is in; an IPv4 address that is written as IPv6 is its IPv4 block's."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return int(address) >> BITS6 | SIX
        address = address.ipv4_mapped
    return int(address) >> BITS4


def network_of(block: int) -> IPv4Network | IPv6Network:
    """A block's prefix; ValueError where the number is none."""
    if block & SIX:
        return IPv6Network(((block ^ SIX) << BITS6, 128 - BITS6))
    return IPv4Network((block << BITS4, 32 - BITS4))
