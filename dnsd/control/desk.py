"""The desk: queries that workers leave to this process, because they take secrets, a whole zone, or explaining.

Lives here: each worker's socket, what one worker may ask for, which answer is whose. Does not live here: signatures
(`control.tsig`), transfers (`control.transfer`), explanations (`control.why`), messages as octets (`image.desk`).

Whatever comes here is hostile until its signature holds, and this process has other work: so the asks of a worker are
counted against a rate, an answer of many messages is made one by one as the worker pulls it, and what raises costs its
sender a SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import WHY, Context
from dnsd.control import asked, transfer, tsig, why
from dnsd.control.face import Control
from dnsd.control.transfer import Allowed, Transfers
from dnsd.dns import types, wire
from dnsd.dns.wire import FormError
from dnsd.image import desk

RATE: Final = 300.0  # asks a second of one worker, over UDP, and as many over TCP and TLS; up to 0.3 ms each
RATE_OF_ALL: Final = 2000.0  # of all workers together; a signature that does not hold takes 0.1 ms
KNOWN: Final = 256  # clients that have shown a right signature; only so many are remembered
STREAMS: Final = 64  # of one worker; more than it ever has, unless it is a new one
BACKLOG: Final = 256
REPORT_S: Final = 60.0
_TURN: Final = 16
_log = logging.getLogger("dnsd.control")
Messages = Iterator[bytes]


class Answers:
    """The answer to a query: its messages, signed where it was. `why` says who may be told why."""

    def __init__(self, control: Control, keys: tsig.Keys, transfers: Transfers, why: Allowed) -> None:
        self.counts: Counter[str] = Counter()
        self._control, self._keys, self._transfers, self._why = control, keys, transfers, why
        self._contexts = {udp: Context([0] * metrics.SLOTS, tcp=not udp, node=control.node) for udp in (True, False)}
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._reported = float("-inf")

    def knows(self, client: bytes) -> bool:
        """Whether a signature of that client has held, over TCP or TLS: over UDP its address could be forged."""
        return client in self._known

    def described(self) -> dict[str, Any]:
        """For people."""
        return {"transfers": self.counts["transfers"], "bad_signatures": {
            error: self.counts[error] for error in ("BADKEY", "BADSIG", "BADTIME", "BADTRUNC")}}

    def messages(self, ask: desk.Ask) -> Messages:
        """One or more messages, made when they are asked for. Nothing is raised."""
        try:
            yield from self._messages(ask)
        except FormError:
            yield _error(ask.packet, types.FORMERR)
        except tsig.Refused as refused:
            self.counts[str(refused)] += 1
            yield refused.reply
        except Exception as error:
            now = self._control.clock.monotonic()
            if now - self._reported >= REPORT_S:
                self._reported = now
                _log.error("a query raised, answered SERVFAIL: query %s", ask.packet[:512].hex(), exc_info=error)
            yield _error(ask.packet, types.SERVFAIL)

    def _messages(self, ask: desk.Ask) -> Messages:
        clock, udp = self._control.clock, ask.transport == desk.UDP
        query = self._keys.read(ask.packet, clock.unix_ms() // 1000)
        if query.signer is not None and not udp:
            self._known[ask.client] = None
            self._known.move_to_end(ask.client)
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        for message in self._unsigned(ask, query, udp):
            yield message if query.signer is None else query.signer.sign(message, clock.unix_ms() // 1000)

    def _unsigned(self, ask: desk.Ask, query: tsig.Query, udp: bool) -> Messages:
        try:
            question = transfer.question(query.packet)
            if question is None:
                return iter((self._plain(ask, query, udp),))
        except FormError:
            return iter((_error(query.packet, types.FORMERR),))
        self.counts["transfers"] += 1
        return self._transfers.answer(question, query, ask.client, udp=udp)

    def _plain(self, ask: desk.Ask, query: tsig.Query, udp: bool) -> bytes:
        """The answer to what is no transfer, short enough to be signed."""
        reply: bytes | None
        image, now = self._control.publisher.live.image, self._control.clock.unix_ms() // 1000
        room = _room(query.packet, udp) - (query.signer.size if query.signer is not None else 0)
        context = self._contexts[udp]
        context.ecs_from, context.limit = self._control.ecs_from, room
        if (ask.client, query.key) in self._why and query.packet[12:17].lower().startswith(WHY):
            reply = why.answer(self._control, query.packet, ask.client, context)
        else:
            reply = None if image is None else respond(query.packet, ask.client, image, now, context)
        if not reply:
            return _error(query.packet, types.SERVFAIL)
        return reply if len(reply) <= room else _truncated(query.packet, reply)


def _room(packet: bytes, udp: bool) -> int:
    """The octets a reply may have (RFC 6891 §6.2.3)."""
    if not udp:
        return 65535
    question = asked.question(packet)
    opt = asked.edns(packet, question.tail) if question is not None else None
    return wire.PLAIN_SIZE if opt is None else max(wire.PLAIN_SIZE, min(opt[0], wire.UDP_SIZE))


def _truncated(packet: bytes, reply: bytes) -> bytes:
    """The reply's head and question with TC, for one that its signature makes too long (RFC 8945 §5.3)."""
    question = asked.question(packet)
    tail = question.tail if question is not None else 12
    heads = wire.heads(reply[3] & 15, bool(reply[2] & 4), tc=True)
    record = wire.asked_opt(packet, tail)
    return packet[:2] + heads[packet[2] & 1 | 2 * bool(record)] + packet[12:tail] + record


def _error(packet: bytes, rcode: int) -> bytes:
    """A reply without data."""
    question = asked.question(packet) if packet[4:6] == b"\0\1" else None
    heads = wire.heads(rcode, aa=False, questions=question is not None)
    return packet[:2] + heads[packet[2] & 1] + (packet[12 : question.tail] if question is not None else b"")


class _Line:
    """One worker's socket, and its answers that are not whole yet: each with its next message."""

    def __init__(self, sock: socket.socket, rate: float) -> None:
        self.sock = sock
        self.streams: dict[int, tuple[bytes, Messages]] = {}  # the one pulled last at the end
        self.unsent: deque[bytes] = deque(maxlen=BACKLOG)
        self.rate = rate
        self.left = {True: rate, False: rate}  # by whether it came over UDP, where senders can be forged
        self.since = float("-inf")
        sock.setblocking(False)


class Desk:
    """All workers' sockets. `answer` gives a query's messages; `now` is monotonic, in seconds; `knows` a client."""

    def __init__(self, sockets: Sequence[socket.socket], answer: Callable[[desk.Ask], Messages],
                 now: Callable[[], float], knows: Callable[[bytes], bool]) -> None:
        self.counts: Counter[str] = Counter()
        self._lines = [_Line(sock, min(RATE, RATE_OF_ALL / len(sockets))) for sock in sockets]
        self._answer, self._now, self._knows = answer, now, knows

    def start(self) -> None:
        """Listen on the running loop."""
        for line in self._lines:
            asyncio.get_running_loop().add_reader(line.sock, self._readable, line)

    def close(self) -> None:
        """Stop listening; the sockets stay open, they are the supervisor's."""
        for line in self._lines:
            self._leave(line)

    def described(self) -> dict[str, Any]:
        """For people."""
        return {"asked": self.counts["asked"], "over_rate": self.counts["over"],
                "open": sum(len(line.streams) for line in self._lines)}

    def _readable(self, line: _Line) -> None:
        """A few words of one worker; then others have their turn."""
        for _ in range(_TURN):
            try:
                data = line.sock.recv(desk.PACKET_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # the supervisor is gone, which ends this process too
                self._leave(line)
                return
            word = desk.decode(data)
            if isinstance(word, desk.Ask):
                self._asked(line, word)
            elif isinstance(word, desk.Next):
                self._pull(line, word.id)
            elif isinstance(word, desk.Gone) and word.id:
                line.streams.pop(word.id, None)
            else:
                line.streams.clear()
                line.unsent.clear()

    def _asked(self, line: _Line, ask: desk.Ask) -> None:
        self.counts["asked"] += 1
        now, udp = self._now(), ask.transport == desk.UDP
        line.left = {kind: min(line.rate, left + (now - line.since) * line.rate) for kind, left in line.left.items()}
        line.since = now
        if line.left[udp] < 1:
            self.counts["over"] += 1
            self._say(line, desk.Reply(ask.id, False, b""))
            return
        line.left[udp] -= 1
        messages = self._answer(ask)
        first = next(messages, b"")
        known = self._knows(ask.client)
        if udp:
            self._say(line, desk.Reply(ask.id, False, first, known))
        else:
            self._give(line, ask.id, first, messages, known)

    def _pull(self, line: _Line, number: int) -> None:
        """The message after the last one; nothing where this process knows of no such answer."""
        self._give(line, number, *line.streams.pop(number, (b"", iter(()))))

    def _give(self, line: _Line, number: int, message: bytes, messages: Messages, known: bool = False) -> None:
        following = next(messages, b"")
        if following:
            line.streams[number] = following, messages
            if len(line.streams) > STREAMS:
                del line.streams[next(iter(line.streams))]
        self._say(line, desk.Reply(number, bool(following), message, known))

    # --- sending ---

    def _say(self, line: _Line, reply: desk.Reply) -> None:
        data = desk.encode(reply)
        if not line.unsent:
            try:
                line.sock.send(data)
                return
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(line.sock, self._writable, line)
            except OSError:
                return  # it ends, and reading will tell
        line.unsent.append(data)

    def _writable(self, line: _Line) -> None:
        try:
            while line.unsent:
                line.sock.send(line.unsent[0])
                line.unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            line.unsent.clear()
        asyncio.get_running_loop().remove_writer(line.sock)

    def _leave(self, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(line.sock)
        loop.remove_writer(line.sock)
