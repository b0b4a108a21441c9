"""The API's sockets: plain HTTP on this machine, TLS everywhere else, and bounds on connections.

Lives here: `start`, which address is this machine's. Does not live here: binding (the supervisor does it), requests.

A connection costs a descriptor, and the control process needs some for its store and files: at the limit a new
connection is closed at once. A client that stops reading is dropped by the kernel (TCP_USER_TIMEOUT), one that is idle
or slow with a head by aiohttp after KEEPALIVE_SECONDS.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
import ssl
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from aiohttp import http_exceptions, web

KEEPALIVE_SECONDS: Final = 75.0
SHUTDOWN_SECONDS: Final = 1.0  # calls that wait, and streams, are cut off then
UNREAD_MS: Final = 30_000
CONNECTIONS_MAX: Final = 4096
DESCRIPTORS_SPARED: Final = 256
_log = logging.getLogger("dnsd.admin.http")


async def start(
    app: web.Application, sockets: Iterable[socket.socket], *, certificate: Path | None = None, key: Path | None = None,
) -> web.AppRunner:
    """Serves the application on sockets that listen already: HTTP on loopback, TLS on every other address.

    `cleanup()` of what is returned ends it. Raises ValueError for an address that needs TLS while no certificate is
    given, OSError (`ssl.SSLError` is one) for files that are none.
    """
    sockets = list(sockets)
    plain = [sock for sock in sockets if sock.family == socket.AF_UNIX or is_loopback(sock.getsockname()[0])]
    tls = None
    if len(plain) < len(sockets):
        if certificate is None or key is None:
            raise ValueError("the admin API leaves this machine only with TLS: certificate and key are missing")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
    listening: list[asyncio.Server] = []

    async def stop(_: web.Application) -> None:
        for server in listening:
            server.close()

    app.on_shutdown.append(stop)
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, handle_signals=False, logger=_log,
        shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    for sock in sockets:
        listening.append(await _listen(runner, sock, None if sock in plain else tls))
    return runner


def is_loopback(text: str) -> bool:
    """Whether an address is one that only this machine can use."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def peer_uid(transport: asyncio.BaseTransport | None) -> int | None:
    """The user at the other end of a unix socket (SO_PEERCRED, unix(7)); None for any other connection."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


async def _listen(runner: web.AppRunner, sock: socket.socket, tls: ssl.SSLContext | None) -> asyncio.Server:
    server = runner.server
    assert server is not None  # noqa: S101 - the runner has just been set up
    with contextlib.suppress(OSError):  # a unix socket has no such option; accepted sockets inherit it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
    most = connections_max()

    def accept() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < most else _Refused()

    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_server(accept, sock=sock, backlog=128)
    return await loop.create_server(accept, sock=sock, ssl=tls, backlog=128)


def connections_max() -> int:
    """Connections the API may hold: CONNECTIONS_MAX, or what the process' descriptor limit leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(16, min(CONNECTIONS_MAX, soft - DESCRIPTORS_SPARED))


def _ours(record: logging.LogRecord) -> bool:
    """Whether the log is to have it: a head that is no HTTP gets its 400, and could fill a disk with tracebacks."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError)


_log.addFilter(_ours)


class _Refused(asyncio.Protocol):
    """One connection too many: closed before anything is read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
