"""The worker's end of the desk: queries that the control process answers, and their way back to the client.

Lives here: what is asked and not answered yet, its bounds and its time. Does not live here: which queries those are
(`context.Desk`), messages as octets (`image.desk`), answering them (`control.desk`).

The worker owns its sockets and its limits all the time: the control process gives whole messages and never sees a
client. The next message of an answer is asked for when the client's connection has nothing unsent, so of a transfer
this process holds one message. What finds no place here is answered at once and alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import DESK, Context
from dnsd.context import Desk as Takes
from dnsd.image import desk
from dnsd.serve.crowd import prefix_of
from dnsd.serve.mmsg import Channel, Peer
from dnsd.serve.stream import Connection
from dnsd.serve.udp import Serving, servfail

DATAGRAMS: Final = 64
STREAMS: Final = 32
SHARE: Final = 16  # of either, that one IPv4 /24 or IPv6 /56 may have
DATAGRAM_SECONDS: Final = 2.0
STREAM_SECONDS: Final = 10.0  # for the control process to give the next message: as long as it takes to start anew
SWEEP_SECONDS: Final = 0.25
_TURN: Final = 64
_SIGNED: Final = Takes(signed=True)


class _Datagram(NamedTuple):
    """A query over UDP and where its answer goes."""

    channel: Channel
    peer: Peer
    share: bytes
    until: float


class _Stream:
    """A query over TCP or TLS. `failed`: what is said if no answer ever comes, nothing once one has begun."""

    __slots__ = ("connection", "failed", "owed", "share", "until")

    def __init__(self, connection: Connection, failed: bytes, share: bytes, until: float) -> None:
        self.connection, self.failed, self.share, self.until = connection, failed, share, until
        self.owed = False  # there is more, and it has not been asked for


class Desk:
    """One worker's; made inside a running loop. `sock` is a non-blocking packet socket to the control process."""

    def __init__(self, sock: socket.socket, serving: Serving) -> None:
        self._sock = sock
        self._serving = serving
        self._last = int.from_bytes(os.urandom(4), "big")  # a reply meant for our predecessor finds nobody
        self._datagrams: dict[int, _Datagram] = {}  # the oldest first
        self._streams: dict[int, _Stream] = {}
        self._shares: Counter[bytes] = Counter()
        self._sweeping = False
        asyncio.get_running_loop().add_reader(sock, self._readable)
        self._say(desk.Gone(0))

    def udp(self, channel: Channel, replies: Sequence[bytes | None]) -> None:
        """A batch has been answered: see to those of it that got `DESK`."""
        context = self._serving.udp
        for at, (slot, size, (client,)) in enumerate(channel.batch()):
            if replies[at] is None or replies[at]:
                continue
            packet, share, number = slot[:size], b"\0" + prefix_of(client), self._number()
            ask = desk.Ask(number, desk.UDP, client, channel.port(at), packet)
            if len(self._datagrams) < DATAGRAMS and self._shares[share] < SHARE and self._say(ask):
                until = time.monotonic() + DATAGRAM_SECONDS
                self._datagrams[number] = _Datagram(channel, channel.peer(at), share, until)
                self._shares[share] += 1
                self._sweep_soon()
            elif reply := self._alone(packet, client, context):
                channel.send_late(reply, channel.peer(at))

    def stream(self, connection: Connection, packet: bytes) -> bytes | None:
        """Ask for a connection, which is told by `deliver`; the reply at once, or None for none, where that cannot be.

        Nothing (`b""`) means that it was asked.
        """
        share, number, client = b"\1" + prefix_of(connection.client), self._number(), connection.client
        ask = desk.Ask(number, desk.TLS if connection.secure else desk.TCP, client, 0, packet)
        if len(self._streams) < STREAMS and self._shares[share] < SHARE and self._say(ask):
            failed = servfail(packet) or b""
            self._streams[number] = _Stream(connection, failed, share, time.monotonic() + STREAM_SECONDS)
            self._shares[share] += 1
            connection.asked += 1
            self._sweep_soon()
            return b""
        return self._alone(packet, client, self._serving.tls if connection.secure else self._serving.tcp)

    def ready(self, connection: Connection) -> None:
        """The client has taken all it was sent."""
        for number, stream in self._streams.items():
            if stream.owed and stream.connection is connection:
                self._pull(number, stream)

    def gone(self, connection: Connection) -> None:
        """The connection has ended."""
        for number in [number for number, stream in self._streams.items() if stream.connection is connection]:
            self._drop(number)
            self._say(desk.Gone(number))  # lost when full: what nobody asks for ends there by itself

    # --- what comes back ---

    def _readable(self) -> None:
        for _ in range(_TURN):
            try:
                data = self._sock.recv(desk.PACKET_MAX)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # both ends are the supervisor's: it is gone
                asyncio.get_running_loop().remove_reader(self._sock)
                return
            word = desk.decode(data)
            if isinstance(word, desk.Reply):
                self._replied(word)

    def _replied(self, reply: desk.Reply) -> None:
        datagram = self._datagrams.pop(reply.id, None)
        if datagram is not None:
            self._give_back(datagram.share)
            if reply.message:
                datagram.channel.send_late(reply.message, datagram.peer)
            return
        stream = self._streams.get(reply.id)
        if stream is None:
            if reply.more:
                self._say(desk.Gone(reply.id))
        elif not reply.message:  # an answer that cannot go on; half a transfer must not look like a whole one
            self._fail(reply.id, stream)
        else:
            stream.failed = b""
            if reply.more:
                stream.connection.deliver(reply.message, last=False)
                if reply.id in self._streams:
                    self._pull(reply.id, stream)
            else:
                self._drop(reply.id)
                stream.connection.deliver(reply.message, last=True)

    def _pull(self, number: int, stream: _Stream) -> None:
        """Ask for the next message, now or when the connection is ready for it."""
        stream.owed = not (stream.connection.ready and self._say(desk.Next(number)))
        stream.until = time.monotonic() + STREAM_SECONDS

    # --- what does not ---

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Give up what has waited too long, and ask once more for what could not be asked for."""
        now = time.monotonic()
        for number, datagram in list(self._datagrams.items()):
            if datagram.until > now:
                break
            del self._datagrams[number]
            self._give_back(datagram.share)
            self._serving.count[metrics.DESK_LOST] += 1
        for number, stream in list(self._streams.items()):
            if stream.owed:
                if stream.connection.ready:
                    self._pull(number, stream)
            elif stream.until <= now and number in self._streams:
                self._fail(number, stream)
                self._say(desk.Gone(number))
        self._sweeping = False
        if self._datagrams or self._streams:
            self._sweep_soon()

    def _fail(self, number: int, stream: _Stream) -> None:
        """No (further) answer: SERVFAIL while nothing has been sent, else the connection ends."""
        self._serving.count[metrics.DESK_LOST] += 1
        self._drop(number)
        if stream.failed:
            stream.connection.deliver(stream.failed, last=True)
        else:
            stream.connection.abort("error")

    def _alone(self, packet: bytes, client: bytes, context: Context) -> bytes | None:
        """The answer as if there were no desk; SERVFAIL to what is signed, for its key may well be known."""
        self._serving.count[metrics.DESK_FULL] += 1
        kept, context.desk = context.desk, _SIGNED
        try:
            reply = respond(packet, client, self._serving.image, int(time.time()), context)
            return servfail(packet) if reply == DESK else reply
        except Exception:
            return self._serving.failed(packet)
        finally:
            context.desk = kept

    # --- numbers ---

    def _number(self) -> int:
        self._last = self._last % (desk.IDS - 1) + 1
        return self._last

    def _drop(self, number: int) -> None:
        self._give_back(self._streams.pop(number).share)

    def _give_back(self, share: bytes) -> None:
        self._shares[share] -= 1
        if not self._shares[share]:
            del self._shares[share]

    def _say(self, word: desk.Word) -> bool:
        """Whether the control process will hear it."""
        try:
            self._sock.send(desk.encode(word))
        except OSError:  # full: the control process is away, or slow
            return False
        return True
