"""The header of the PROXY protocol, version 2: whom a load balancer's connection is really from.

Lives here: reading the header, bounded and without I/O. Does not live here: whose header is believed (`stream`).

After haproxy's doc/proxy-protocol.txt, section 2.2. The text form, version 1, is not spoken. What follows the addresses
(TLVs) is passed over, a checksum among them too: TCP has its own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED: Final = 16
LARGEST: Final = 536  # octets of a header: what the specification promises to fit into one segment
_LOCAL, _PROXIED = 0x20, 0x21
# Family and transport -> octets of addresses, and of the source among them; of a stream or a datagram alike, for a
# balancer may send over TCP what came to it over UDP. Unknown families and UNIX sockets tell no address.
_KINDS: Final = {
    0x00: (0, 0), 0x11: (12, 4), 0x12: (12, 4), 0x21: (36, 16), 0x22: (36, 16), 0x31: (216, 0), 0x32: (216, 0)}
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Head(NamedTuple):
    """A header: how many octets it is, and the client's packed address; empty: the peer's own stands."""

    size: int
    client: bytes


def read(data: bytes) -> Head | None:
    """The header that `data` begins with, None while more octets of it must come. ValueError: it is none."""
    if data[:12] != SIGNATURE[: len(data)]:
        raise ValueError("not a PROXY header of version 2")
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXIED):
        raise ValueError(f"version and command 0x{data[12]:02x}")
    if len(data) < FIXED:
        return None
    size = FIXED + (data[14] << 8 | data[15])
    if size > LARGEST:
        raise ValueError(f"{size} octets")
    kind = _KINDS.get(data[13])
    if data[12] == _PROXIED and (kind is None or size < FIXED + kind[0]):
        raise ValueError(f"family and transport 0x{data[13]:02x} with {size - FIXED} octets")
    if len(data) < size:
        return None
    if data[12] == _LOCAL or kind is None:  # a health check of the balancer itself; its family is of no account
        return Head(size, b"")
    client = data[FIXED : FIXED + kind[1]]
    return Head(size, client[12:] if client[:12] == _MAPPED else client)
