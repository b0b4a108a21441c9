"""The door: any octets over UDP and TCP, from IPv4 and IPv6, over an image with every kind of name and a map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.golden.holds import check as holds
from tests.golden.packets import questions
from tests.golden.world import wire
from tests.hostile.doors import KNOWN, doors
from tests.hostile.packets import asked, header, opt, option

DOORS: Final = list(doors().values())
_WWW: Final = wire("www.example.com") + b"\0\1\0\1"
_TSIG: Final = (b"\3key\0\0\xfa\0\xff\0\0\0\0\0\x2d\x0bhmac-sha256\0" + bytes(6) + b"\1\x2c\0\x10" + bytes(16)
               + b"\x12\x67\0\0\0\0")
_SOA: Final = b"\xc0\x0c\0\6\0\1\0\0\0\0\0\x16" + bytes(22)
_APEX: Final = wire("example.com")
_OTHER: Final = (
    header(extra=1) + _WWW + _TSIG, header(extra=2) + _WWW + opt() + _TSIG, header(0x2400) + _APEX + b"\0\6\0\1",
    header(authority=1) + _APEX + b"\0\xfb\0\1" + _SOA, asked(_APEX, b"\0\xfc\0\1"),
    header(questions=0, extra=1) + opt(option(10, bytes(8))), header(questions=0, extra=1) + opt(option(10, KNOWN)),
    header(0x2800, authority=1) + _APEX + b"\0\6\0\1" + _SOA, asked(wire("id.server"), b"\0\x10\0\3", b""),
    asked(wire("_why.geo.example.com"), b"\0\x10\0\1", option(11) + option(12)),
)


def seeds() -> Iterator[bytes]:
    """The golden questions, and what is no question; the first octet chooses the door."""
    for number, (_, packet) in enumerate(questions()):
        yield bytes([number % len(DOORS)]) + packet
    for number in range(len(DOORS)):
        for packet in _OTHER:
            yield bytes([number]) + packet


def check(data: bytes) -> None:
    """What holds for any packet holds."""
    if data:
        holds(DOORS[data[0] % len(DOORS)], data[1:])
