"""What this machine has: the addresses that the policy takes for its own, and descriptors for probes.

Lives here: asking the kernel. Does not live here: the policy (`watch.target`), what our processes listen on.

Addresses by route netlink, the one interface that tells IPv4 and IPv6 alike and needs no file system.
"""

from __future__ import annotations

import resource
import socket
import struct
from typing import Final

_GETADDR: Final = 22  # RTM_GETADDR; rtnetlink(7)
_NEWADDR: Final = 20
_DONE: Final = 3
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ADDRESS, _LOCAL, _BROADCAST, _ANYCAST = 1, 2, 4, 5  # IFA_*
_OTHERS: Final = 512
"""Descriptors of this process that are not for probes."""

_WIDTH: Final[dict[int, int]] = {socket.AF_INET: 4, socket.AF_INET6: 16}


def addresses() -> frozenset[bytes]:
    """Every packed address of every interface, broadcast addresses included. OSError if the kernel does not tell."""
    found: set[bytes] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(1)
        kernel.send(struct.pack("=IHHIIB7x", 24, _GETADDR, _REQUEST_DUMP, 1, 0, socket.AF_UNSPEC))
        while _read(kernel.recv(1 << 16), found):
            pass
    return frozenset(found)


def descriptors(wanted: int) -> int:
    """How many sockets may be open for probes: `wanted`, or what the hard limit leaves. Raises this process's limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + _OTHERS:
        soft = wanted + _OTHERS if hard == resource.RLIM_INFINITY else min(wanted + _OTHERS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHERS))


def _read(data: bytes, found: set[bytes]) -> bool:
    """Takes one datagram's messages in; whether there are more to come."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == _DONE or length < 16:
            return False
        if kind == _NEWADDR:
            _one(data[at + 16 : at + length], found)
        at += (length + 3) & ~3
    return True


def _one(body: bytes, found: set[bytes]) -> None:
    width = _WIDTH.get(body[0], 0)
    at = 8
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            return
        if kind in (_ADDRESS, _LOCAL, _BROADCAST, _ANYCAST) and length == 4 + width:
            found.add(body[at + 4 : at + length])
        at += (length + 3) & ~3
