"""HTTP as far as a drill speaks it: endpoints that die in several ways, and single requests over a given socket.

Lives here: `Endpoint`, `get`, `call`. Does not live here: whose they are (`fleet`), when they die (`faults`).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final, NamedTuple

PORT: Final = 8080
SLOW_S: Final = 1.2
_BACKLOG: Final = 256


class Reply(NamedTuple):
    """Status and decoded JSON, or text where it is none."""

    status: int
    body: Any


class Endpoint:
    """An HTTP server at one address. `make` gives a new socket at its host."""

    def __init__(self, address: str, make: Callable[[], socket.socket]) -> None:
        self.address, self.death = address, ""
        self._make = make
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        sock = self._make()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.address, PORT))
        self._server = await asyncio.start_server(self._serve, sock=sock, backlog=_BACKLOG)

    def stop(self) -> None:
        """Close the socket: who connects gets a RST."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def become(self, death: str) -> None:
        """`rst`, `500`, `slow`, or alive again (``)."""
        before, self.death = self.death, death
        if death == "rst":
            self.stop()
        elif before == "rst":
            await self.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.death == "slow":
                await asyncio.sleep(SLOW_S)
            status = "500 Broken" if self.death == "500" else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            return  # a prober or user that has gone is no news, and asyncio makes a traceback of one cut off at the end
        finally:
            writer.close()


async def get(sock: socket.socket, address: str, seconds: float) -> bool:
    """Whether an endpoint answers 200 within that time."""
    try:
        async with asyncio.timeout(seconds):
            return (await _exchange(sock, (address, PORT), "GET / HTTP/1.1", {}, b"")).status == 200
    except (OSError, ValueError):
        return False


async def call(
    sock: socket.socket, target: tuple[str, int], what: tuple[str, str], *, token: str = "", body: Any = None,
    seconds: float = 10.0,
) -> Reply:
    """One request to an admin API, `what` being method and path; OSError (TimeoutError too) when nobody answers."""
    method, path = what
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = b"" if body is None else json.dumps(body).encode()
    if data:
        headers["Content-Type"] = "application/json"
    try:
        async with asyncio.timeout(seconds):
            return await _exchange(sock, target, f"{method} {path} HTTP/1.1", headers, data)
    except ValueError as error:
        raise ConnectionError(f"{target[0]} answers no HTTP: {error}") from error


async def _exchange(
    sock: socket.socket, target: tuple[str, int], first: str, headers: dict[str, str], data: bytes,
) -> Reply:
    sock.setblocking(False)
    writer = None
    try:
        await asyncio.get_running_loop().sock_connect(sock, target)
        reader, writer = await asyncio.open_connection(sock=sock)
        fields = {"Host": target[0], "Connection": "close", "Content-Length": str(len(data)), **headers}
        lines = [first, *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        head, _, text = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        if writer is not None:
            writer.close()
        sock.close()
    status = int(head.split(None, 2)[1]) if head else 0
    if not status:
        raise ConnectionResetError("closed without an answer")
    return Reply(status, json.loads(text) if b"json" in head.lower() and text else text.decode("utf-8", "replace"))
