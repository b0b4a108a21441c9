"""The TCP door: framing, pipelining and the limits that keep one client from costing the others anything.

Lives here: connections and who of them must go. Does not live here: accepting (asyncio's), TLS, answering.

All queries of one read are answered by one write: a pipelining client costs a system call per read, not per answer.
Nothing waits without bound: reading pauses while whole queries are unanswered or answers unsent, so a client that
writes and never reads holds one read and one write buffer until it has stalled too long. Deadlines are looked at by one
sweep over all connections, not by a timer each: a short connection sets none up.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from dnsd import metrics
from dnsd.answer import respond
from dnsd.serve.mmsg import packed
from dnsd.serve.udp import Serving

TURN: Final = 256  # queries answered before other connections get their turn
WRITE_AT: Final = 32 * 1024  # octets of answers gathered before they are handed to the kernel
HIGH_WATER: Final = 64 * 1024


class Limits(NamedTuple):
    """What a worker grants; seconds and numbers, see docs/config.md [tcp]."""

    connections: int = 512
    per_prefix: int = 128
    queries: int = 1_000_000
    first_query_seconds: float = 5.0
    idle_seconds: float = 10.0
    stall_seconds: float = 5.0
    lifetime_seconds: float = 600.0


class Door:
    """All TCP connections of a worker, the longest inactive first. `connection` is the protocol factory for asyncio."""

    def __init__(self, serving: Serving, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.serving = serving
        self.limits = limits
        self.clock = clock
        self.open: OrderedDict[Connection, None] = OrderedDict()
        self.prefixes: dict[bytes, int] = {}  # open connections by prefix
        self._draining = False

    def connection(self) -> Connection:
        """A protocol for a connection just accepted."""
        return Connection(self)

    def admit(self, connection: Connection) -> str | None:
        """Take a connection in, if need be in place of the longest inactive one; else why it has to go."""
        count = self.serving.count
        count[metrics.TCP_ACCEPTED] += 1
        if self._draining:
            return "drain"
        same = self.prefixes.get(connection.prefix, 0)
        if same >= self.limits.per_prefix:
            return "prefix_limit"
        if len(self.open) >= self.limits.connections:
            next(iter(self.open)).abort("limit")
            same = self.prefixes.get(connection.prefix, 0)
        self.open[connection] = None
        self.prefixes[connection.prefix] = same + 1
        count[metrics.TCP_OPEN] = len(self.open)
        return None

    def forget(self, connection: Connection) -> None:
        """A connection is gone, or on its way; does nothing the second time."""
        if connection in self.open:
            del self.open[connection]
            left = self.prefixes.pop(connection.prefix) - 1
            if left:
                self.prefixes[connection.prefix] = left
            self.serving.count[metrics.TCP_OPEN] = len(self.open)

    def sweep(self) -> None:
        """Close what is over a time limit; to be called a few times a second."""
        now = self.clock()
        for connection in list(self.open):
            connection.expire(now)

    def drain(self) -> None:
        """Answer what has been asked, take nothing new: every connection closes as soon as its answers are out."""
        self._draining = True
        for connection in list(self.open):
            connection.finish("drain")


class Connection(asyncio.Protocol):
    """One client: octets in, the answers of all whole queries among them out."""

    __slots__ = (
        "_blocked", "_closed", "_door", "_eof", "_last", "_more", "_opened", "_paused", "_pending", "_queries",
        "_reason", "_scheduled", "_transport", "client", "prefix")

    _transport: asyncio.Transport

    def __init__(self, door: Door) -> None:
        self._door = door
        self.client = self.prefix = b""
        self._pending = b""  # octets not answered yet; a part of a query, or whole ones behind a pause
        self._queries = 0
        self._more = False  # a whole query among the pending octets
        self._eof = self._paused = self._scheduled = False
        self._opened = self._last = door.clock()
        self._blocked = 0.0  # since when the client has not taken what we wrote; 0: it does
        self._closed = 0.0  # when we ended it; 0: we have not
        self._reason = ""  # why to end it once `_more` is answered

    # --- what asyncio tells us ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: counted against the limits, refused by a reset."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before it was accepted
            self._transport.abort()
            return
        self.client = packed(peer[0])
        self.prefix = self.client[:3] if len(self.client) == 4 else self.client[:7]
        refused = self._door.admit(self)
        if refused:
            self.abort(refused)

    def data_received(self, data: bytes) -> None:
        """Some octets, however they were cut."""
        self._pending = self._pending + data if self._pending else data
        if not self._scheduled:
            self._answer()

    def eof_received(self) -> bool:
        """The client has asked all it wants: it still gets its answers (RFC 7766 §6.2.4)."""
        self._eof = True
        if not self._scheduled:
            self._answer()
        return True

    def pause_writing(self) -> None:
        """The client does not take its answers: no more of its queries until it does."""
        self._blocked = self._door.clock()
        self._pause(True)

    def resume_writing(self) -> None:
        """It does again."""
        self._blocked = 0.0
        if not self._scheduled:
            self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by either side."""
        if not self._closed and self.client:
            self._count("error" if exc else "client")
        self._closed = self._closed or self._door.clock()
        self._door.forget(self)

    # --- answering ---

    def _answer(self) -> None:
        """Answer whole queries, a turn's worth; read on when none is left, take another turn when one is."""
        self._scheduled = False
        if self._closed or self._blocked:
            return
        self._more = self._answer_turn()
        if self._closed:
            return
        if self._more:
            self._pause(True)
            if not self._blocked:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._answer)
        elif self._eof or self._reason:
            self._close(self._reason or "client")
        elif not self._blocked:
            self._pause(False)

    def _answer_turn(self) -> bool:
        """Answer up to `TURN` queries and hand the answers over in one write; whether a whole query is left."""
        serving, client, data = self._door.serving, self.client, self._pending
        image, context, now = serving.image, serving.tcp, int(time.time())
        out: list[bytes] = []
        at = number = gathered = 0
        more = malformed = False
        while len(data) >= at + 2:
            end = at + 2 + (data[at] << 8 | data[at + 1])
            if end > len(data):
                break
            if number == TURN or gathered >= WRITE_AT:
                more = True
                break
            if end - at < 14:  # no header: nothing to answer to, and nothing to keep in step with
                malformed = True
                break
            try:
                reply = respond(data[at + 2 : end], client, image, now, context)
            except Exception:
                reply = serving.failed(data[at + 2 : end])
            at = end
            number += 1
            if reply:
                out += (len(reply).to_bytes(2, "big"), reply)
                gathered += len(reply)
        self._pending = data[at:]
        if number:
            self._account(number, at, len(out) // 2, gathered)
        if out:
            self._transport.write(b"".join(out))
        if malformed:
            self._close("malformed")
        elif self._queries >= self._door.limits.queries:
            self._close("queries")
        return more

    def _account(self, queries: int, octets: int, answers: int, gathered: int) -> None:
        self._queries += queries
        self._last = self._door.clock()
        if self in self._door.open:
            self._door.open.move_to_end(self)
        count = self._door.serving.count
        count[metrics.QUERIES_TCP] += queries
        count[metrics.BYTES_IN_TCP] += octets - 2 * queries
        count[metrics.RESPONSES_TCP] += answers
        count[metrics.BYTES_OUT_TCP] += gathered

    def _pause(self, pause: bool) -> None:
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # --- leaving ---

    def finish(self, reason: str) -> None:
        """Close when the answers to what was asked so far are out."""
        if self._more:
            self._reason = reason
        else:
            self._close(reason)

    def abort(self, reason: str) -> None:
        """Close now and throw away what was not sent."""
        if not self._closed:
            self._count(reason)
            self._closed = self._door.clock()
        self._door.forget(self)
        self._transport.abort()

    def expire(self, now: float) -> None:
        """Close or abort if a limit says so."""
        limits = self._door.limits
        since = self._closed or self._blocked
        if since:
            if now - since > limits.stall_seconds:
                self.abort("stalled")
        elif now - self._opened > limits.lifetime_seconds:
            self._close("lifetime")
        elif not self._queries:
            if now - self._opened > limits.first_query_seconds:
                self._close("first_query")
        elif now - self._last > limits.idle_seconds:
            self._close("idle")

    def _close(self, reason: str) -> None:
        """No more queries; what is written still goes out, for as long as a stall may last (`expire`)."""
        if not self._closed:
            self._count(reason)
            self._closed = self._door.clock()
            self._pending = b""
            self._transport.close()

    def _count(self, reason: str) -> None:
        self._door.serving.count[metrics.TCP_CLOSED[reason]] += 1
