"""Images, map tables and records: what is damaged is refused by the error that says so, whatever the damage.

The first octet chooses what is read. A file is damaged by the rest: four octets each of position and one of value, or
cut where there are fewer; its checksum has to notice. A record comes without one: the rest is the record, or damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dnsd.image import layout
from dnsd.image.reading import Image, ImageError
from dnsd.image.table import MapTable
from tests.golden.world import standard_bytes, table_bytes, v4

_IMAGE: Final = standard_bytes()
_TABLE: Final = table_bytes(2, [[(0, 0)] * 2, [(0, 1), (3, 0)]], [(0, 0), (v4("10.0.0.0"), 1), (v4("11.0.0.0"), 0)])
_HELD: Final = Image(_IMAGE)
_RECORD: Final = _HELD.record(0)


def seeds() -> Iterator[bytes]:
    """No damage, some to each field of the heads, whole records."""
    for kind in range(3):
        for at in range(0, 120, 3):
            yield bytes([kind]) + at.to_bytes(4, "big") + b"\xff"
    for number in range(_HELD.records):
        yield b"\3" + _HELD.record(number)


def check(data: bytes) -> None:
    """Refused, or as good as the sound one."""
    kind, rest = data[:1], data[1:]
    if kind == b"\0":
        damaged = _damaged(_IMAGE, rest)
        try:
            Image(damaged)
        except ImageError:
            assert damaged != _IMAGE
        else:
            assert damaged == _IMAGE
    elif kind == b"\1":
        damaged = _damaged(_TABLE, rest)
        try:
            MapTable(damaged)
        except ValueError:
            assert damaged != _TABLE
        else:  # its checksum is of what stands behind the head; sizes in the head have to fit
            assert damaged[layout.MAP_HEADER.size :] == _TABLE[layout.MAP_HEADER.size :]
    else:
        _record(_damaged(_RECORD, rest) if kind == b"\2" else rest)


def _record(data: bytes) -> None:
    """A record that cannot be read changes nothing; one that can is what stands there now."""
    before = _HELD.record(0)
    try:
        _HELD.apply([(0, data)], _HELD.stamp)
    except ImageError:
        assert _HELD.record(0) == before
    else:
        assert _HELD.record(0) == data


def _damaged(sound: bytes, damage: bytes) -> bytes:
    out = bytearray(sound)
    if len(damage) < 5:
        return sound[: int.from_bytes(damage, "big") % (len(sound) + 1)]
    for at in range(0, len(damage) - 4, 5):
        out[int.from_bytes(damage[at : at + 4], "big") % len(out)] = damage[at + 4]
    return bytes(out)
