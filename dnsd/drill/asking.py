"""Asking a DNS server for addresses over one socket.

Lives here: questions, and as much of replies as a drill looks at. Does not live here: dnsd's own parser, on purpose:
what watches it shares nothing with it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from typing import Any, Final, NamedTuple, Self

NSID: Final = 3
_HEAD: Final = struct.Struct(">6H")
_RECORD: Final = struct.Struct(">HHIH")
_A: Final = 1


class Answer(NamedTuple):
    """What came back: response code, addresses in order, the least TTL (0 if there is none), who answered (NSID)."""

    rcode: int
    addresses: tuple[str, ...]
    ttl: int
    server: str


class Asker(asyncio.DatagramProtocol):
    """Questions from one socket; a server with a socket per worker always answers it with the same one."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0

    @classmethod
    async def open(cls, sock: socket.socket, server: tuple[str, int]) -> Self:
        """An asker of that server; the socket is its own from now on."""
        sock.setblocking(False)
        sock.connect(server)
        _, asker = await asyncio.get_running_loop().create_datagram_endpoint(cls, sock=sock)
        return asker

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        future = self._waiting.pop(int.from_bytes(data[:2], "big"), None)
        if future is not None and not future.done():
            future.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """The server's host says that nobody listens: whoever waits goes on to do so, and gives up."""

    def close(self) -> None:
        """No more questions."""
        self._transport.close()

    async def ask(self, name: str, seconds: float) -> Answer:
        """The A records of a name, recursion desired; TimeoutError, ValueError if the reply makes no sense."""
        self._number = (self._number + 1) & 0xFFFF
        number, future = self._number, asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._transport.sendto(question(name, number))
        try:
            async with asyncio.timeout(seconds):
                return answer(await future)
        finally:
            self._waiting.pop(number, None)


def question(name: str, number: int) -> bytes:
    """A question for A with an OPT record that asks who answers."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.rstrip(".").split("."))
    option = struct.pack(">HH", NSID, 0)
    return (_HEAD.pack(number, 0x0100, 1, 0, 0, 1) + labels + b"\0" + struct.pack(">HH", _A, 1)
            + b"\0" + struct.pack(">HHIH", 41, 1232, 0, len(option)) + option)


def answer(data: bytes) -> Answer:
    """A reply taken apart; ValueError."""
    try:
        _, flags, questions, *counts = _HEAD.unpack_from(data)
        at = _HEAD.size
        for _ in range(questions):
            at = _past_name(data, at) + 4
        addresses, ttls, server = [], [], ""
        for place in range(sum(counts)):
            at = _past_name(data, at)
            kind, _, ttl, size = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            if place < counts[0] and kind == _A:
                addresses.append(str(ipaddress.IPv4Address(data[at : at + size])))
                ttls.append(ttl)
            elif kind == 41:
                server = _option(data[at : at + size])
            at += size
        if at > len(data):
            raise IndexError("cut off")
    except (struct.error, IndexError, ipaddress.AddressValueError) as error:
        raise ValueError(f"no reply: {data.hex()}") from error
    return Answer(flags & 15, tuple(addresses), min(ttls, default=0), server)


def _past_name(data: bytes, at: int) -> int:
    while data[at]:
        if data[at] >= 0xC0:
            return at + 2
        at += data[at] + 1
    return at + 1


def _option(data: bytes) -> str:
    at = 0
    while at < len(data):
        code, size = struct.unpack_from(">HH", data, at)
        if code == NSID:
            return data[at + 4 : at + 4 + size].decode("ascii", "replace")
        at += 4 + size
    return ""
