"""The door: any octets over UDP and TCP, from IPv4 and IPv6, over an image with every kind of name and a map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.golden.holds import check as holds
from tests.golden.packets import door, questions
from tests.golden.world import Door

_WORLD: Final = door()
DOORS: Final = [
    _WORLD, Door(_WORLD.image, tcp=True), Door(_WORLD.image, client=bytes(15) + b"\1"),
    Door(_WORLD.image, client=bytes.fromhex("20010db8000000000000000000000001"), tcp=True),
]


def seeds() -> Iterator[bytes]:
    """The golden questions; the first octet chooses the door."""
    for number, (_, packet) in enumerate(questions()):
        yield bytes([number % len(DOORS)]) + packet


def check(data: bytes) -> None:
    """What holds for any packet holds."""
    if data:
        holds(DOORS[data[0] % len(DOORS)], data[1:])
