"""DNS over TLS (RFC 7858): the TCP door with a TLS session between the socket and the framing, and its certificate.

Lives here: sessions, handshakes, the certificate's files. Does not live here: what is inside (`stream`), who has to go
(`crowd`).

The session is the ssl module's over two memory buffers, not asyncio's TLS: that shows a connection only when its
handshake is done, so nobody could count or end the others, and it sets aside a quarter of a megabyte for each. A
handshake is by far the dearest thing a stranger can ask for, so only a few are done before UDP gets its turn.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import stat
import sys
from collections import deque
from contextlib import suppress
from typing import Final

from dnsd import metrics
from dnsd.serve.crowd import Crowd
from dnsd.serve.stream import Connection, Door, Slots
from dnsd.serve.udp import Serving

HANDSHAKES: Final = 4  # steps of handshakes in one turn of the event loop; with RSA keys each takes about a millisecond
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: forward secret and authenticated (RFC 9325 §4.2)
_READ: Final = 16384  # the most a record holds
TLS: Final = Slots(
    metrics.QUERIES_TLS, metrics.RESPONSES_TLS, metrics.BYTES_IN_TLS, metrics.BYTES_OUT_TLS,
    metrics.TLS_ACCEPTED, metrics.TLS_OPEN, metrics.TLS_CLOSED)


class Certificate:
    """A certificate chain and its key, PEM files. `context` is for new sessions; None while no pair could be used."""

    def __init__(self, chain: str, key: str, count: memoryview) -> None:
        self._files = chain, key
        self._count = count
        self.context: ssl.SSLContext | None = None
        self._seen = self._tried = self._state()
        self._load()

    def reload_if_changed(self) -> None:
        """Read the files when they have changed and not changed again since the last call, a tick ago.

        A pair that cannot be used is said once, and the old one stays.
        """
        state = self._state()
        if state != self._seen:
            self._seen = state  # somebody may be about to replace the second file
        elif state != self._tried:
            self._tried = state
            self._load()

    def _load(self) -> None:
        try:
            self.context = _context(*self._files)
        except (OSError, ValueError) as error:
            self._count[metrics.CERTIFICATE_ERRORS] += 1
            print(f"dnsd worker: certificate {self._files[0]} and key {self._files[1]} cannot be used: {error}; "
                  f"{'DNS over TLS waits for better ones' if self.context is None else 'the old ones stay'}",
                  file=sys.stderr, flush=True)
        else:
            self._count[metrics.CERTIFICATE_LOADS] += 1

    def _state(self) -> list[tuple[int, ...] | None]:
        return [_state(path) for path in self._files]


class SecureDoor(Door):
    """The door of DNS over TLS. PROXY headers are not spoken here: a balancer can pass TLS through only blindly."""

    slots = TLS

    def __init__(self, serving: Serving, crowd: Crowd, certificate: Certificate) -> None:
        super().__init__(serving, crowd, serving.tls)
        self.certificate = certificate
        self._shaking: deque[SecureConnection] = deque()

    def connection(self) -> Connection:
        """A protocol for a connection just accepted."""
        return SecureConnection(self)

    def shake(self, connection: SecureConnection) -> None:
        """Take a connection's handshake a step further when it is its turn."""
        self._shaking.append(connection)
        if len(self._shaking) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        turn = [self._shaking.popleft() for _ in range(min(HANDSHAKES, len(self._shaking)))]
        if self._shaking:
            asyncio.get_running_loop().call_soon(self._turn)
        for connection in turn:
            connection.shake()


class SecureConnection(Connection):
    """One client's session: records in, records out. It exists from the first octet on, not from accepting."""

    __slots__ = ("_in", "_out", "_session", "_shaken", "_waiting")

    _door: SecureDoor
    _in: ssl.MemoryBIO
    _out: ssl.MemoryBIO

    def __init__(self, door: SecureDoor) -> None:
        super().__init__(door)
        self._session: ssl.SSLObject | None = None
        self._shaken = False  # the handshake is done
        self._waiting = False  # for a turn to take it further

    def data_received(self, data: bytes) -> None:
        """Some octets of records, however they were cut."""
        if self._closed:
            return
        if self._session is None:
            context = self._door.certificate.context
            if context is None:
                self.abort("handshake")
                return
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._session = context.wrap_bio(self._in, self._out, server_side=True)
        self._in.write(data)
        if self._shaken:
            self._read()
        elif not self._waiting:
            self._waiting = True
            self._pause(True)
            self._door.shake(self)

    def eof_received(self) -> bool:
        """No more octets: without a word of TLS before it (an alert that says so) too."""
        if self._shaken:
            return super().eof_received()
        self._close("client" if self._session is None else "handshake")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by either side."""
        if self._session is not None and not self._shaken and not self._closed:
            self._count("handshake")
            self._closed = self._door.crowd.clock()
        super().connection_lost(exc)
        self._session = None

    def shake(self) -> None:
        """A step of the handshake: called by the door when it is this connection's turn."""
        self._waiting = False
        if self._closed or self._session is None:
            return
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            self._pause(False)
            self._flush()
        except ssl.SSLError:
            self._flush()  # an alert that says what is wrong
            self._close("handshake")
        else:
            self._shaken = True
            self._last = self._door.crowd.clock()  # from here on the first query may take its time
            self._door.serving.count[
                metrics.TLS_RESUMED if self._session.session_reused else metrics.TLS_HANDSHAKES] += 1
            self._pause(False)
            self._flush()
            self._read()

    def expire(self, now: float) -> None:
        """Close or abort if a limit says so; the handshake has as long as a first query."""
        if self._session is None or self._shaken or self._closed:
            super().expire(now)
        elif now - self._last > self._door.crowd.limits.first_query_seconds:
            self.abort("handshake")

    def _read(self) -> None:
        """Take out what the records hold and answer it: one write a read, here too."""
        session = self._session
        if session is None:
            return
        parts: list[bytes] = []
        try:
            while part := session.read(_READ):
                parts.append(part)
            self._eof = True  # the client has said that it sends no more
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._flush()
            self._close("error")
            return
        self._flush()
        if parts:
            super().data_received(b"".join(parts))
        elif self._eof:
            super().eof_received()

    def _write(self, data: bytes) -> None:
        if self._session is not None:
            try:
                self._session.write(data)
            except ssl.SSLError:
                self.abort("error")
                return
            self._flush()

    def _end(self) -> None:
        if self._session is not None and self._shaken:
            with suppress(ssl.SSLError):
                self._session.unwrap()  # says goodbye; the client's is not waited for
            self._flush()
        super()._end()

    def _flush(self) -> None:
        if self._out.pending:
            self._transport.write(self._out.read())


def _context(chain: str, key: str) -> ssl.SSLContext:
    """What a session needs; OSError or ValueError when the files are not a certificate and its key."""
    for path in (chain, key):
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would hold up the worker
            raise ValueError(f"{path} is no file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["dot"])  # a client that names none, or others, is served all the same
    context.load_cert_chain(chain, key, password="")  # an encrypted key is refused instead of asked for
    return context


def _state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
