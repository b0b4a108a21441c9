"""The PROXY header in front of a TCP stream: any octets, arriving in any pieces, are a header, too few yet, or none."""

from __future__ import annotations

from collections.abc import Iterator

from dnsd.serve import proxy


def seeds() -> Iterator[bytes]:
    """Headers of every family, with and without more behind them."""
    for command in (0x20, 0x21, 0x22):
        for family, size in ((0, 0), (0x11, 12), (0x21, 36), (0x31, 216), (0x12, 12), (0x22, 40), (0x99, 4)):
            yield proxy.SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + bytes(size) + b"query"
    yield proxy.SIGNATURE + b"\x21\x21\0\x24" + bytes(10) + b"\xff\xff\xc0\0\2\1" + bytes(20)
    yield b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


def check(data: bytes) -> None:
    """What is read from all octets is read from the header's alone, and nothing before it is whole."""
    try:
        head = proxy.read(data)
    except ValueError:
        return
    if head is None:
        assert len(data) < proxy.LARGEST
        return
    assert proxy.FIXED <= head.size <= min(len(data), proxy.LARGEST)
    assert len(head.client) in (0, 4, 16)
    assert proxy.read(data[: head.size]) == head
    assert proxy.read(data[: head.size - 1]) is None
