"""A query's octets as people read it: name, type, flags, client subnet. For the query log and for explanations.

Lives here: `Asked` of a packet that arrived. Does not live here: reading octets (`dns.wire`, with its bounds), replies
(`control.reply`).
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from dnsd.control.reply import IPNetwork
from dnsd.dns import wire
from dnsd.dns.wire import FormError

_FLAGS: Final = (("qr", 15), ("aa", 10), ("tc", 9), ("rd", 8), ("ra", 7), ("ad", 5), ("cd", 4))


class Asked(NamedTuple):
    """One question. `name` is wire, in the case it came in; `tail` the offset behind the question."""

    name: bytes
    type: int
    class_: int
    tail: int


def question(packet: bytes) -> Asked | None:
    """The question of a packet, None where it cannot be read."""
    try:
        end = wire.question_labels(packet)[-1] + 1
    except FormError:
        return None
    type_, class_ = (int.from_bytes(packet[at : at + 2], "big") for at in (end, end + 2))
    return Asked(packet[12:end], type_, class_, end + 4)


def edns(packet: bytes, tail: int) -> wire.Opt | None:
    """The OPT of a packet whose question ends at `tail`; None where there is none, FormError where it is malformed."""
    authority, additional = (int.from_bytes(packet[at : at + 2], "big") for at in (8, 10))
    opt, tsig = wire.tail(packet, tail, authority, additional)
    return wire.parse_opt(packet[: tsig or len(packet)], opt) if opt else None


def network(ecs: wire.Ecs) -> IPNetwork:
    """A client subnet as a network."""
    v6, key, length = ecs[:3]
    if v6:
        return ipaddress.IPv6Network((key, length), strict=False)
    # The parser keeps 24 bits of IPv4: what is longer tells no more.
    return ipaddress.IPv4Network((key << 8, min(length, 24)), strict=False)


def flags(packet: bytes) -> list[str]:
    """The header's flags that are set, lower-case."""
    bits = packet[2] << 8 | packet[3]
    return [name for name, bit in _FLAGS if bits >> bit & 1]
