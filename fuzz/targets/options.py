"""EDNS: a well-formed query whose OPT holds any options, so that nothing but the options can be wrong.

The first octet chooses door and name, the second the OPT's flags; the rest is the OPT's data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from fuzz.targets.respond import DOORS
from tests.golden.holds import check as holds
from tests.golden.packets import SUBNETS
from tests.golden.world import query, wire
from tests.hostile.doors import KNOWN

NAMES: Final = [wire(name) + b"\0\1\0\1" for name in (
    "geo.example.com", "www.example.com", "nothing.example.com", "x.sub.example.com", "example.net")]
_OPTIONS: Final = (
    b"", b"\0\3\0\0", b"\0\x0a\0\x08" + bytes(8), b"\0\x0a\0\x18" + KNOWN, b"\0\x0a\0\x28" + bytes(40),
    b"\0\x0a\0\x07" + bytes(7), b"\0\x0b\0\0", b"\0\x0b\0\2\0\1", b"\0\x0c\0\4" + bytes(4), b"\0\x0f\0\2\0\1",
    b"\0\x0d\0\0", b"\0\x0e\0\2\0\1", b"\0\5\0\3\1\2\3", b"\xfd\xe9\0\1a", b"\0\x08\0\0", b"\0\x08\0\4\0\0\0\0",
)


def seeds() -> Iterator[bytes]:
    """Every option alone and with another, and the golden client subnets."""
    for number, one in enumerate(_OPTIONS):
        yield bytes([number, 0]) + one
        yield bytes([number, 0x80]) + one + _OPTIONS[number - 1]
    for number, subnet in enumerate(SUBNETS):
        yield bytes([number, 0]) + query("a.example", ecs=subnet)[12 + 11 + 4 + 11:]


def check(data: bytes) -> None:
    """FORMERR, or what the name is answered with; whatever is sent holds what holds for all replies."""
    if len(data) < 2:
        return
    choice, flags, options = data[0], data[1], data[2:]
    packet = (struct.pack(">6H", 4711, 0, 1, 0, 0, 1) + NAMES[choice // len(DOORS) % len(NAMES)]
              + b"\0\0\x29\4\xd0\0\0" + bytes([flags]) + b"\0" + struct.pack(">H", len(options)) + options)
    reply = holds(DOORS[choice % len(DOORS)], packet)
    assert not reply or reply[3] & 15 in (0, 1, 3, 5, 7)  # 7: the lower bits of BADCOOKIE
