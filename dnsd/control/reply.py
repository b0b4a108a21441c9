"""Reply bytes taken apart again: what self-check and `explain` read of an answer, independent of what assembled it.

Lives here: queries as a resolver sends them, and a small decoder for our own replies. Does not live here: hostile bytes
(`dns.wire` is the only parser of those), rdata as text (`control.zonefile`).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import Final

from dnsd.dns import names, types

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
RCODES: Final = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 9: "NOTAUTH",
    16: "BADVERS"}


@dataclass(frozen=True, slots=True)
class RR:
    """One resource record of a reply; owner and rdata are wire, rdata as it stands there."""

    owner: bytes
    type: int
    ttl: int
    rdata: bytes


@dataclass(slots=True)
class Reply:
    """A reply. `scope` is that of its client subnet option, None without one; `errors` are (code, text) of RFC 8914."""

    rcode: int
    flags: int
    answer: list[RR] = field(default_factory=list)
    authority: list[RR] = field(default_factory=list)
    additional: list[RR] = field(default_factory=list)
    scope: int | None = None
    errors: list[tuple[int, str]] = field(default_factory=list)


def query(name: bytes, type_: int, subnet: IPNetwork | None = None) -> bytes:
    """A query with EDNS, with a client subnet where one is given (RFC 7871 §6: address cut to its length)."""
    option = b""
    if subnet is not None:
        address = subnet.network_address.packed[: (subnet.prefixlen + 7) // 8]
        body = struct.pack(">HBB", 1 if subnet.version == 4 else 2, subnet.prefixlen, 0) + address
        option = struct.pack(">HH", types.OPTION_ECS, len(body)) + body
    return (
        b"\0\0\0\0\0\1\0\0\0\0\0\1" + name + struct.pack(">HH", type_, types.IN)
        + b"\0" + struct.pack(">HHIH", types.OPT, 65535, 0, len(option)) + option)


def parse(data: bytes) -> Reply:
    """Take a reply apart; ValueError where its counts, names or lengths do not add up to its octets."""
    try:
        _, flags, questions, *counts = struct.unpack_from(">6H", data)
        at = 12
        for _ in range(questions):
            _, at = _name(data, at)
            at += 4
        reply = Reply(flags & 15, flags)
        for section, count in zip((reply.answer, reply.authority, reply.additional), counts, strict=True):
            for _ in range(count):
                at = _record(data, at, reply, section)
    except (struct.error, IndexError) as error:
        raise ValueError(f"reply ends too early: {error}") from None
    if at != len(data):
        raise ValueError(f"{len(data) - at} octets behind the reply")
    return reply


def hints(rdata: bytes) -> list[bytes]:
    """The addresses in the hints of an HTTPS record with an uncompressed target (RFC 9460 §7.3)."""
    found: list[bytes] = []
    _, at = _name(rdata, 2)
    while at < len(rdata):
        key, length = struct.unpack_from(">HH", rdata, at)
        size = {4: 4, 6: 16}.get(key)
        if size:
            found += [rdata[i : i + size] for i in range(at + 4, at + 4 + length, size)]
        at += 4 + length
    return found


def _record(data: bytes, at: int, reply: Reply, section: list[RR]) -> int:
    owner, at = _name(data, at)
    type_, class_, ttl, length = struct.unpack_from(">HHIH", data, at)
    at, end = at + 10, at + 10 + int(length)
    rdata = data[at:end]
    if end > len(data):
        raise ValueError("rdata ends behind the reply")
    if type_ == types.OPT:
        reply.rcode |= ttl >> 24 << 4
        _options(rdata, reply)
    else:
        if class_ != types.IN:
            raise ValueError(f"record of class {class_}")
        section.append(RR(owner, type_, ttl, rdata))
    return end


def _options(data: bytes, reply: Reply) -> None:
    at = 0
    while at < len(data):
        code, length = struct.unpack_from(">HH", data, at)
        body = data[at + 4 : at + 4 + length]
        if len(body) != length:
            raise ValueError("option ends behind its record")
        if code == types.OPTION_ECS:
            reply.scope = body[3]
        elif code == types.OPTION_EDE:
            reply.errors.append((int.from_bytes(body[:2], "big"), body[2:].decode(errors="replace")))
        at += 4 + length


def _name(data: bytes, at: int) -> tuple[bytes, int]:
    """A name at an offset, pointers followed backwards only, and where reading goes on."""
    labels: list[bytes] = []
    after: int | None = None
    limit = at
    while data[at]:
        length = data[at]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[at + 1]
            if target >= limit:
                raise ValueError("pointer that does not lead back")
            after = at + 2 if after is None else after
            at = limit = target
        else:
            labels.append(data[at : at + 1 + length])
            at += 1 + length
    name = b"".join(labels) + b"\0"
    names.split(name)
    return name, at + 1 if after is None else after
