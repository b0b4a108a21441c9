"""What workers, desk and capture say to each other: any octets are a message, or ValueError."""

from __future__ import annotations

from collections.abc import Iterator

from dnsd.image import desk, samples
from tests.hostile.packets import typical


def seeds() -> Iterator[bytes]:
    """A message of each kind; the first octet chooses the codec."""
    for _, packet in typical():
        yield b"\0" + desk.encode(desk.Ask(7, desk.TCP, bytes(4), 53, packet))
        yield b"\0" + desk.encode(desk.Reply(7, True, packet))
        one = samples.Sample(samples.Address(bytes(16), 53), packet, packet)
        origin = samples.Origin(10, 0, samples.UDP, 1, samples.Address(bytes(4), 53))
        yield b"\1" + samples.encode(origin, [one, one._replace(reply=b"")])
    yield b"\0" + desk.encode(desk.Next(7))
    yield b"\0" + desk.encode(desk.Gone(0))


def check(data: bytes) -> None:
    """What was read says the same when it is said and read again."""
    message = data[1:]
    try:
        if data[:1] == b"\1":
            origin, found = samples.decode(message)
            assert sum(map(samples.size, found)) <= len(message)
            assert samples.decode(samples.encode(origin, found)) == (origin, found)
        else:
            word = desk.decode(message)
            assert desk.decode(desk.encode(word)) == word
    except ValueError:
        pass
