"""The TCP door: framing, pipelining, and what a connection may cost.

Lives here: connections and their octets. Does not live here: who of them must go (`crowd`), TLS (`tls`), the PROXY
header (`proxy`), accepting (asyncio's, or the engine's), answering a run of queries (`turn`).

Nothing waits without bound: reading pauses while whole queries are unanswered or answers unsent, so a client that
writes and never reads holds one read and one write until it has stalled too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple, cast

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import DESK, Context
from dnsd.dns.prefixes import Prefixes
from dnsd.image.reading import Image
from dnsd.serve import proxy, turn
from dnsd.serve.crowd import Crowd, Member, prefix_of
from dnsd.serve.mmsg import packed
from dnsd.serve.udp import Serving


class Slots(NamedTuple):
    """Where a door counts."""

    queries: int
    responses: int
    octets_in: int
    octets_out: int
    accepted: int
    open: int
    closed: Mapping[str, int]  # by reason


TCP: Final = Slots(
    metrics.QUERIES_TCP, metrics.RESPONSES_TCP, metrics.BYTES_IN_TCP, metrics.BYTES_OUT_TCP,
    metrics.TCP_ACCEPTED, metrics.TCP_OPEN, metrics.TCP_CLOSED)


class Begun(NamedTuple):
    """A connection that another has begun: what it sent that is not answered, what it has not taken, what it asked."""

    pending: bytes
    unsent: bytes
    queries: int


class Door:
    """What the connections of some listening sockets share. `connection` is the protocol factory for asyncio.

    Connections from the peers in `proxied`, and no others, must begin with a PROXY header, which is believed.
    """

    slots = TCP

    def __init__(self, serving: Serving, crowd: Crowd, context: Context | None = None, *,
                 proxied: Prefixes = Prefixes(())) -> None:  # noqa: B008 - a value
        self.serving = serving
        self.crowd = crowd
        self.context = context or serving.tcp
        self.proxied = proxied
        self.open = 0

    def connection(self) -> Connection:
        """A protocol for a connection just accepted."""
        return Connection(self)

    def begun(self, begun: Begun) -> Connection:
        """A protocol for a connection that was accepted, and counted, elsewhere."""
        return Connection(self, begun)

    def count(self, change: int) -> None:
        """A connection more or less."""
        self.open += change
        self.serving.count[self.slots.open] = self.open


class Connection(asyncio.Protocol, Member):
    """One client: octets in, the answers of all whole queries among them out."""

    __slots__ = (
        "_begun", "_blocked", "_closed", "_door", "_eof", "_headless", "_last", "_more", "_opened", "_paused",
        "_pending", "_queries", "_reason", "_scheduled", "_transport", "asked", "client")

    _transport: asyncio.Transport

    def __init__(self, door: Door, begun: Begun | None = None) -> None:
        self._door = door
        self._begun = begun
        self.client = self.prefix = b""
        self.line = None
        self.busy = False
        self.asked = 0  # queries that are with the desk
        self._pending = b""  # octets not answered yet; a part of a query, or whole ones behind a pause
        self._queries = 0
        self._more = False  # a whole query among the pending octets
        self._eof = self._paused = self._scheduled = False
        self._headless = False  # the PROXY header is still to come
        self._opened = self._last = door.crowd.clock()
        self._blocked = 0.0  # since when the client has not taken what we wrote; 0: it does
        self._closed = 0.0  # when we ended it; 0: we have not
        self._reason = ""  # why to end it once `_more` is answered

    # --- what asyncio tells us ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accepted: counted against the limits, refused by a reset."""
        self._transport = cast("asyncio.Transport", transport)
        # 0: told of anything the kernel has not taken, for a connection with unsent answers is not an idle one.
        self._transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before it was accepted, or taken over
            if self._begun is not None:
                self._count("error")
            self._transport.abort()
            return
        door = self._door
        self.client = packed(peer[0])
        self._headless = self.client in door.proxied
        if not self._headless:
            self.prefix = prefix_of(self.client)
        begun = self._begun
        if begun is None:
            door.serving.count[door.slots.accepted] += 1
            if door.serving.trips is not None and not self._headless:  # else it would be the balancer's
                door.serving.trips.look(transport, self.client)
        refused = door.crowd.admit(self)
        if refused:
            self.abort(refused)
            return
        door.count(1)
        if begun is not None:
            self._queries, self._begun = begun.queries, None
            if begun.unsent:
                self._write(begun.unsent)
            if begun.pending:
                self.data_received(begun.pending)

    def data_received(self, data: bytes) -> None:
        """Some octets, however they were cut."""
        self._pending = self._pending + data if self._pending else data
        if self._headless and not self._head_read():
            return
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
        self._blocked = self._door.crowd.clock()
        self._pause(True)
        self._settle()

    def resume_writing(self) -> None:
        """It does again."""
        self._blocked = 0.0
        self._last = self._door.crowd.clock()
        if not self._scheduled:
            self._answer()
        if self.ready and self._door.serving.desk is not None:
            self._door.serving.desk.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by either side."""
        if not self._closed and self.client:
            self._count("error" if exc else "client")
        self._closed = self._closed or self._door.crowd.clock()
        self._forget()

    # --- what the desk does ---

    @property
    def secure(self) -> bool:
        """Whether nobody between can read it."""
        return self._door.context.pad

    @property
    def ready(self) -> bool:
        """Whether the desk's next message is wanted: something is asked, and nothing is unsent."""
        return bool(self.asked) and not self._blocked and not self._closed

    def deliver(self, message: bytes, *, last: bool) -> None:
        """A message of the desk's; `last`: of those that answer one query. After the end it is dropped."""
        if self._closed:
            return
        self.asked -= last
        self._last = self._door.crowd.clock()
        count, slots = self._door.serving.count, self._door.slots
        count[slots.responses] += 1
        count[slots.octets_out] += len(message)
        self._write(len(message).to_bytes(2, "big") + message)
        self._finish_if_done()
        self._settle()

    # --- answering ---

    def _head_read(self) -> bool:
        """Whether the PROXY header is there; it is taken off, and its client stands for the peer."""
        try:
            head = proxy.read(self._pending)
        except ValueError:
            self.abort("proxy")
            return False
        if head is None:
            return False
        self._headless = False
        self._pending = self._pending[head.size :]
        if head.client:
            self.client = head.client
            refused = self._door.crowd.join(self, prefix_of(head.client))
            if refused:
                self.abort(refused)
                return False
        return True

    def _answer(self) -> None:
        """Answer whole queries, a turn's worth; read on when none is left, take another turn when one is."""
        self._scheduled = False
        if self._closed or self._blocked or self._headless:
            if self._eof and self._headless and not self._closed:
                self._close("proxy")
            return
        self._more = self._answer_turn()
        if self._closed:
            return
        if self._more:
            self._pause(True)
            if not self._blocked:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._answer)
        elif not self._finish_if_done() and not self._blocked:
            self._pause(bool(self._reason))
        self._settle()

    def _answer_turn(self) -> bool:
        """Answer a turn's queries and hand the answers over in one write; whether a whole query is left."""
        door, data = self._door, self._pending
        serving, context = door.serving, door.context
        context.keepalive = door.crowd.keepalive
        image, now = serving.image, int(time.time())
        respond_to = partial(self._respond, image, now)
        fast = serving.engine.stream(context) if serving.engine is not None else None
        done = turn.by_engine(data, self.client, now, fast, respond_to) if fast else turn.by_python(data, respond_to)
        self._pending = data[done.at :]
        if done.queries:
            self._account(done)
        if done.out:
            self._write(done.out)
        if serving.tap is not None and done.queries:
            serving.tap.stream(
                self.client, self._transport, data, turn.messages(done.out), done.queries, tls=context.pad)
        if done.malformed:
            self._close("malformed")
        elif self._queries >= door.crowd.limits.queries:
            self._reason, self._pending = self._reason or "queries", b""
            return False
        return done.more

    def _respond(self, image: Image, now: int, packet: bytes) -> bytes | None:
        """Python's answer, or the desk's, which may come later."""
        serving = self._door.serving
        try:
            reply = respond(packet, self.client, image, now, self._door.context)
        except Exception:
            return serving.failed(packet)
        return serving.desk.stream(self, packet) if reply == DESK and serving.desk is not None else reply

    def _account(self, done: turn.Turn) -> None:
        self._queries += done.queries
        self._last = self._door.crowd.clock()
        count, slots = self._door.serving.count, self._door.slots
        count[slots.queries] += done.queries
        count[slots.octets_in] += done.at - 2 * done.queries
        count[slots.responses] += done.answers
        count[slots.octets_out] += len(done.out) - 2 * done.answers

    def _finish_if_done(self) -> bool:
        """Close, if that is wanted and nobody waits for an answer."""
        done = bool(self._eof or self._reason) and not self._more and not self.asked
        if done:
            self._close(self._reason or "client")
        return done

    def _settle(self) -> None:
        self._door.crowd.settle(self, busy=self._more or bool(self._blocked or self.asked))

    def _pause(self, pause: bool) -> None:
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # --- leaving ---

    @property
    def stalled(self) -> bool:
        """Whether the client does not take its answers."""
        return bool(self._blocked)

    def finish(self, reason: str) -> None:
        """Close when the answers to what was asked so far are out."""
        self._reason = self._reason or reason
        if not self._finish_if_done():
            self._pause(True)

    def abort(self, reason: str) -> None:
        """Close now and throw away what was not sent."""
        if not self._closed:
            self._count(reason)
            self._closed = self._door.crowd.clock()
        self._forget()
        self._transport.abort()

    def expire(self, now: float) -> None:
        """Close or abort if a limit says so."""
        limits = self._door.crowd.limits
        since = self._closed or self._blocked
        if since:
            if now - since > limits.stall_seconds:
                self.abort("stalled")
        elif now - self._opened > limits.lifetime_seconds:
            self.finish("lifetime")
        elif not self._queries:
            if now - self._last > limits.first_query_seconds:
                self._close("proxy" if self._headless else "first_query")
        elif now - self._last > self._door.crowd.idle_seconds and not self._more and not self.asked:
            self._close("idle")

    def _close(self, reason: str) -> None:
        """No more queries; what is written still goes out, for as long as a stall may last (`expire`)."""
        if not self._closed:
            self._count(reason)
            self._closed = self._door.crowd.clock()
            self._pending = b""
            self._end()

    def _forget(self) -> None:
        crowd = self._door.crowd
        if self in crowd:
            crowd.forget(self)
            self._door.count(-1)
        if self.asked and self._door.serving.desk is not None:
            self.asked = 0
            self._door.serving.desk.gone(self)

    def _count(self, reason: str) -> None:
        self._door.serving.count[self._door.slots.closed[reason]] += 1

    # --- the transport, which TLS puts something before ---

    def _write(self, data: bytes) -> None:
        self._transport.write(data)

    def _end(self) -> None:
        self._transport.close()
