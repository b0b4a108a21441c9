"""Real listeners on loopback that answer with given octets, in every way a target can fail.

Lives here: TCP, TLS and UDP listeners, and how many connections each saw. Does not live here: any test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

Answer = Callable[[bytes], list[bytes | float | None]]
"""What was read to what happens: octets are sent, a number is slept, None resets the connection."""


class Seen:
    """Where a listener is, and what came."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.connections = 0


@asynccontextmanager
async def tcp(
    answer: Answer | None = None, *, secure: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0,
) -> AsyncIterator[Seen]:
    """Answers each connection's first octets; without `answer` it reads and says nothing."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        seen.connections += 1
        try:
            data = await reader.read(65_536)
            seen.requests.append(data)
            for step in answer(data) if answer and data else [3600.0]:
                if step is None:
                    writer.transport.abort()
                elif isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    writer.write(step)
                    await writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, host, port, ssl=secure)
    seen = Seen(server.sockets[0].getsockname()[1])
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)


class Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram with datagrams."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self.answer, self.seen = answer, Seen(0)
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.seen.requests.append(data)
        assert self.transport
        for reply in self.answer(data):
            self.transport.sendto(reply, addr)


@asynccontextmanager
async def udp(answer: Callable[[bytes], list[bytes]]) -> AsyncIterator[Seen]:
    """A UDP listener."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Datagrams(answer), ("127.0.0.1", 0))
    protocol.seen.port = transport.get_extra_info("sockname")[1]
    try:
        yield protocol.seen
    finally:
        transport.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """A port whose queue of connections is full: nobody there takes one more, and nobody says so."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        filling = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            filling.append(one)
        await asyncio.sleep(0.05)
        try:
            yield port
        finally:
            for one in filling:
                one.close()
