"""A door of either kind behind a real listening socket, with a clock of its own, and clients for it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from dnsd import metrics, sockets
from dnsd.dns.prefixes import Prefixes
from dnsd.engine import door
from dnsd.image.reading import Image
from dnsd.serve import engine, stream, udp
from dnsd.serve.crowd import Crowd, Limits
from dnsd.serve.stream import Connection, Door
from dnsd.serve.tls import Certificate, SecureDoor
from tests.serve.samples import counters, image_bytes

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
HANDED = "handed"  # uvloop, and the engine accepts: it has no image, so all that its clients say comes from its hands
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(message)) + message for message in messages)


def numbered(number: int) -> bytes:
    """A message of 14 octets that is its number."""
    return struct.pack(">H12x", number)


class Rig:
    """The door, its crowd and its clients; DNS over TLS with that certificate and key, if there are any."""

    def __init__(self, limits: Limits, proxied: Iterable[str] = (), pair: tuple[str, str] | None = None) -> None:
        self.now = 1000.0
        self.count, self.engine_count = counters(), counters()
        self.crowd = Crowd(limits, lambda: self.now)
        serving = udp.Serving(Image(image_bytes()), self.count, "n1")
        if pair:
            self.certificate = Certificate(*pair, self.count)
            self.door: Door = SecureDoor(serving, self.crowd, self.certificate)
        else:
            self.door = Door(serving, self.crowd, proxied=Prefixes(proxied))
        [udp_socket], [self.listening], _ = sockets.bind([("127.0.0.1", 0)])
        udp_socket.close()
        self.open: list[asyncio.StreamWriter] = []

    async def connect(self, source: str = "127.0.0.1", receive: int = 0, **named: Any) -> Streams:
        """A client; `receive` is its kernel's buffer, the rest is for `asyncio.open_connection`."""
        sock = socket.socket()
        if receive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        sock.bind((source, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.listening.getsockname())
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 22, **named)
        self.open.append(writer)
        return reader, writer

    def closed(self) -> dict[str, int]:
        """How many connections were closed for which reason."""
        counts = {reason: self.count[slot] for reason, slot in self.door.slots.closed.items()}
        for reason in metrics.TCP_CLOSED:
            counts[reason] = counts.get(reason, 0) + self.engine_count[metrics.TCP_CLOSED[reason]]
        return {reason: count for reason, count in counts.items() if count}

    @property
    def accepted(self) -> int:
        """Connections taken, by whoever takes them."""
        return self.count[self.door.slots.accepted] + self.engine_count[metrics.TCP_ACCEPTED]

    async def serve(self, handed: bool) -> Server:
        """Take connections, by asyncio or by the engine."""
        if not handed:
            server = await asyncio.get_running_loop().create_server(self.door.connection, sock=self.listening)
            return Server(server.close)
        self.listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.listening.listen(100)
        streams = engine.Streams([self.listening], self.door)
        front = engine.Engine(door, self.door.serving, [], self.engine_count, streams)
        front.start()
        front._loop.publish(None, front._door, front._fresh)
        ticking = asyncio.create_task(ticks(front))
        return Server(front.close, self.listening.close, ticking.cancel)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.crowd.sweep()

    def connections(self) -> list[Connection]:
        return [member for member in self.crowd if isinstance(member, Connection)]

    def blocked(self) -> bool:
        return any(connection.stalled for connection in self.crowd)


def run(loop: str, scenario: Callable[[Rig], Coroutine[Any, Any, None]], limits: Limits = Limits(),  # noqa: B008
        proxied: Iterable[str] = (), pair: tuple[str, str] | None = None) -> Rig:
    """Play a scenario against a door; afterwards nothing is left of it."""
    rig = Rig(limits, proxied, pair)

    async def play() -> None:
        server = await rig.serve(loop == HANDED and not proxied and not pair)
        try:
            async with asyncio.timeout(20):
                await scenario(rig)
        finally:
            for writer in rig.open:
                writer.transport.abort()
            await server.close()
            await until(lambda: not len(rig.crowd))
        assert rig.count[rig.door.slots.open] == rig.door.open == 0
        assert not rig.crowd.shares
        assert sum(rig.closed().values()) == rig.accepted

    with asyncio.Runner(loop_factory=LOOPS[loop if loop in LOOPS else "uvloop"]) as runner:
        runner.run(play())
    return rig


class Server:
    """What takes connections."""

    def __init__(self, *ends: Callable[[], Any]) -> None:
        self._ends = ends

    async def close(self) -> None:
        for end in self._ends:
            end()


async def ticks(front: engine.Engine) -> None:
    """Quicker than a worker's, so that what is silent is handed over soon."""
    while True:
        await asyncio.sleep(0.003)
        front._loop.tick()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.002)


async def reply(reader: asyncio.StreamReader) -> bytes:
    size = struct.unpack(">H", await reader.readexactly(2))[0]
    return await reader.readexactly(size)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server closed, or reset, without sending anything more."""
    with suppress(ConnectionResetError):
        return await reader.read() == b""
    return True


def large(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Every reply is the query's first two octets, filled up to a size."""
    monkeypatch.setattr(stream, "respond", lambda packet, *rest: packet[:2] + bytes(size - 2))
