"""The query parser: labels and OPT of any octets, at any offset, raise FormError or nothing."""

from __future__ import annotations

from collections.abc import Iterator

from dnsd.dns import wire
from tests.golden.packets import questions


def seeds() -> Iterator[bytes]:
    """The golden questions; the first octet is where an OPT is looked for."""
    for _, packet in questions():
        yield bytes([min(len(packet), 40)]) + packet
        end = packet.find(0, 12) + 5
        yield bytes([end]) + packet


def check(data: bytes) -> None:
    """What comes back lies inside the packet."""
    at, packet = data[:1], data[1:]
    try:
        starts = wire.question_labels(packet)
        assert starts[0] == 12
        assert starts == sorted(set(starts))
        assert starts[-1] - 11 <= 255
        assert packet[starts[-1]] == 0
        assert starts[-1] + 5 <= len(packet)
    except wire.FormError:
        pass
    try:
        opt = wire.parse_opt(packet, int.from_bytes(at, "big"))
    except wire.FormError:
        pass
    else:
        assert 0 <= opt[0] <= 0xFFFF
