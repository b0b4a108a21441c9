"""Samples: queries with their answers, as a worker hands them to the control process for capture.

Lives here: `Sample` to bytes and back. Does not live here: which queries are sampled (`serve.tap`), what is written of
them (`control.tap`).

One packet carries what one batch, or one turn of a connection, had sampled: the door and the time are told once.

    HEAD   every u32 | slot u16 | transport u8 | spare u8 | time u64 (unix ns) | local address 16s | size u8 | port u16
    ITEM   client address 16s | its size u8 | port u16 | query's length u16 | reply's length u16, then both
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

UDP, TCP, TLS = range(3)
TRANSPORTS: Final = ("udp", "tcp", "tls")
PACKET_MAX: Final = 1 << 18  # one sample with the longest query and reply of TCP, and room
_HEAD: Final = struct.Struct("<IHBxQ16sBH")
_ITEM: Final = struct.Struct("<16sBHHH")


class Address(NamedTuple):
    """A packed address (4 or 16 octets; none where it is not known) and a port."""

    host: bytes
    port: int


class Origin(NamedTuple):
    """What all samples of a packet share: one in `every` queries of worker `slot` was taken, at `time` (unix ns)."""

    every: int
    slot: int
    transport: int
    time: int
    local: Address


class Sample(NamedTuple):
    """One query and its reply, whole messages; an empty reply where the worker gave none."""

    client: Address
    query: bytes
    reply: bytes


def encode(origin: Origin, samples: Sequence[Sample]) -> bytes:
    """One packet."""
    parts = [_HEAD.pack(*origin[:4], origin.local.host, len(origin.local.host), origin.local.port)]
    for (host, port), query, reply in samples:
        parts += (_ITEM.pack(host, len(host), port, len(query), len(reply)), query, reply)
    return b"".join(parts)


def size(sample: Sample) -> int:
    """How much of a packet a sample takes."""
    return _ITEM.size + len(sample.query) + len(sample.reply)


def decode(packet: bytes) -> tuple[Origin, list[Sample]]:
    """A packet taken apart; ValueError where its lengths do not add up."""
    found: list[Sample] = []
    try:
        every, slot, transport, time, host, length, port = _HEAD.unpack_from(packet)
        origin = Origin(every, slot, transport, time, Address(host[:length], port))
        at = _HEAD.size
        while at < len(packet):
            host, length, port, query, reply = _ITEM.unpack_from(packet, at)
            at += _ITEM.size
            end = at + query + reply
            if end > len(packet):
                raise ValueError("a sample ends behind its packet")
            found.append(Sample(Address(host[:length], port), packet[at : at + query], packet[at + query : end]))
            at = end
    except struct.error as error:
        raise ValueError(f"a sample ends too early: {error}") from None
    return origin, found
