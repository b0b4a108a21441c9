"""The worker's end of the desk: queries that the control process answers, and their way back to the client.

Lives here: what is asked and not answered yet, its bounds and its time. Does not live here: which queries those are
(`context.Desk`), messages as octets (`image.desk`), answering them (`control.desk`).

The worker owns its sockets and its limits all the time: the control process gives whole messages and never sees a
client. The next message of an answer is asked for when the client's connection has nothing unsent, so of a transfer
this process holds one message. What finds no place here is answered at once and alone.

Anybody can send what looks signed, and only the control process finds out. So strangers, clients that are not listed as
neighbours and have not shown a right signature, have half of the places and of the rate at most: whatever they send,
there is room for a secondary.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence, Sized
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
STRANGERS: Final = 2  # all strangers together have at most this part of either, and of them
STRANGE_SHARE: Final = 4  # one IPv4 /24 or IPv6 /56 at most this part of either
STRANGERS_RATE: Final = 150.0  # asks a second of all strangers, half of what the control process takes of a worker
STRANGERS_OF_ALL: Final = 1000.0  # the same for all workers together
SHARE_RATE: Final = 50.0  # asks a second of the strangers of one IPv4 /24 or IPv6 /56
SPELL_SECONDS: Final = 1.0  # over which these are counted
KNOWN: Final = 256  # clients with a right signature that are remembered
DATAGRAM_SECONDS: Final = 2.0
STREAM_SECONDS: Final = 10.0  # for the control process to give the next message: as long as it takes to start anew
SWEEP_SECONDS: Final = 0.25
_TURN: Final = 64
_SIGNED: Final = Takes(signed=True)


Shares = tuple[bytes, ...]
"""What a query counts against: its client's network, and strangers; each by door, datagrams or streams."""


class _Datagram(NamedTuple):
    """A query over UDP and where its answer goes."""

    channel: Channel
    peer: Peer
    shares: Shares
    until: float


class _Stream:
    """A query over TCP or TLS. `failed`: what is said if no answer ever comes, nothing once one has begun."""

    __slots__ = ("connection", "failed", "owed", "shares", "until")

    def __init__(self, connection: Connection, failed: bytes, shares: Shares, until: float) -> None:
        self.connection, self.failed, self.shares, self.until = connection, failed, shares, until
        self.owed = False  # there is more, and it has not been asked for


class Desk:
    """One worker's; made inside a running loop. `sock` is a non-blocking packet socket to the control process,
    `workers` how many ask it."""

    def __init__(self, sock: socket.socket, serving: Serving, workers: int = 1) -> None:
        self._sock = sock
        self._serving = serving
        self._last = int.from_bytes(os.urandom(4), "big")  # a reply meant for our predecessor finds nobody
        self._datagrams: dict[int, _Datagram] = {}  # the oldest first
        self._streams: dict[int, _Stream] = {}
        self._shares: Counter[bytes] = Counter()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._rate = min(STRANGERS_RATE, STRANGERS_OF_ALL / workers) * SPELL_SECONDS
        self._spent: Counter[bytes] = Counter()  # in this spell, by the same
        self._spell = 0.0  # when it ends
        self._sweeping = False
        asyncio.get_running_loop().add_reader(sock, self._readable)
        self._say(desk.Gone(0))

    def udp(self, channel: Channel, replies: Sequence[bytes | None]) -> None:
        """A batch has been answered: see to those of it that got `DESK`."""
        context = self._serving.udp
        for at, (slot, size, (client,)) in enumerate(channel.batch()):
            if replies[at] is None or replies[at]:
                continue
            packet, number = slot[:size], self._number()
            ask = desk.Ask(number, desk.UDP, client, channel.port(at), packet)
            shares = self._place(b"\0", client, self._datagrams, DATAGRAMS)
            if shares and self._say(ask):
                until = time.monotonic() + DATAGRAM_SECONDS
                self._datagrams[number] = _Datagram(channel, channel.peer(at), shares, until)
                self._take(shares)
            elif reply := self._alone(packet, client, context):
                channel.send_late(reply, channel.peer(at))

    def stream(self, connection: Connection, packet: bytes) -> bytes | None:
        """Ask for a connection, which is told by `deliver`; the reply at once, or None for none, where that cannot be.

        Nothing (`b""`) means that it was asked.
        """
        number, client = self._number(), connection.client
        ask = desk.Ask(number, desk.TLS if connection.secure else desk.TCP, client, 0, packet)
        shares = self._place(b"\1", client, self._streams, STREAMS)
        if shares and self._say(ask):
            failed = servfail(packet) or b""
            self._streams[number] = _Stream(connection, failed, shares, time.monotonic() + STREAM_SECONDS)
            self._take(shares)
            connection.asked += 1
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
            self._give_back(datagram.shares)
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
            if reply.known:
                self._remember(stream.connection.client)
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
            self._give_back(datagram.shares)
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
        self._give_back(self._streams.pop(number).shares)

    # --- places ---

    def _place(self, door: bytes, client: bytes, taken: Sized, places: int) -> Shares:
        """What a query of that client counts against, if there is a place for it; else nothing."""
        network, held = door + prefix_of(client), self._shares
        if len(taken) >= places or held[network] >= SHARE:
            return ()
        takes = self._serving.tcp.desk
        if client in self._known or (takes is not None and client in takes.neighbours):
            return (network,)
        if held[door] >= places // STRANGERS or held[network] >= places // STRANGE_SHARE or not self._paced(network):
            return ()
        return network, door

    def _paced(self, network: bytes) -> bool:
        """Whether strangers, and those of one network, have not asked too much lately; one more is counted if not."""
        now, spent, door = time.monotonic(), self._spent, network[:1]
        if now >= self._spell:
            self._spell = now + SPELL_SECONDS
            spent.clear()
        if spent[door] >= self._rate or spent[network] >= SHARE_RATE * SPELL_SECONDS:
            return False
        spent[door] += 1
        spent[network] += 1
        return True

    def _remember(self, client: bytes) -> None:
        """Who has shown a right signature is no stranger, for as long as it is among the last `KNOWN`."""
        self._known[client] = None
        self._known.move_to_end(client)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _take(self, shares: Shares) -> None:
        self._shares.update(shares)
        self._sweep_soon()

    def _give_back(self, shares: Shares) -> None:
        for share in shares:
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
