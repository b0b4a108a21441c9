"""The worker's tap: one in N queries with its answer, copied to the control process when nobody has to wait for it.

Lives here: which queries are taken, handing them over. Does not live here: what becomes of them (`control.tap`), their
form on the way (`image.samples`).

Sampling is counting: of each worker's queries, over all its doors together, every Nth is taken, so what was taken times
N is what there was. A batch without a sample costs one subtraction, a worker without a tap nothing. The socket is
never waited for: what it does not take at once is dropped, and counted.
"""

from __future__ import annotations

import socket
import time
from asyncio import BaseTransport
from collections.abc import Sequence
from itertools import islice
from typing import Final

from dnsd import metrics
from dnsd.image import samples
from dnsd.image.samples import Address, Origin, Sample
from dnsd.serve.mmsg import Channel, packed

PACKET: Final = 32 * 1024  # octets after which another packet is begun; a larger one is harder to find memory for


class Tap:
    """One worker's. `sock` is a non-blocking packet socket to the control process, one in `every` queries is taken."""

    def __init__(self, sock: socket.socket, every: int, slot: int, count: memoryview) -> None:
        self.every = every
        self._sock = sock
        self._slot = slot
        self._count = count
        self._left = every - 1  # queries to pass over before the next is taken

    def udp(self, channel: Channel, replies: Sequence[bytes | None]) -> None:
        """A batch has been answered: `replies` stand in the order of `channel.batch()`."""
        chosen = self._chosen(len(replies))
        if chosen:
            batch = islice(channel.batch(), chosen.start, None, self.every)
            self.hand(samples.UDP, channel.local, [
                Sample(Address(client, channel.port(at)), slot[:size], replies[at] or b"")
                for at, (slot, size, (client,)) in zip(chosen, batch, strict=True)])

    def stream(self, client: bytes, transport: BaseTransport, data: bytes, replies: Sequence[bytes],
               number: int, *, tls: bool = False) -> None:
        """A connection's turn: `data` begins with `number` framed queries, and these replies were given to them.

        A query without a reply has none among them; whose a reply is tells its id, and that no query is itself a reply.
        """
        chosen = self._chosen(number)
        if not chosen:
            return
        kind, source, local = _ends(client, transport, tls)
        found: list[Sample] = []
        at = given = 0
        for i in range(chosen[-1] + 1):
            end = at + 2 + (data[at] << 8 | data[at + 1])
            query, at = data[at + 2 : end], end
            reply = b""
            if given < len(replies) and replies[given][:2] == query[:2] and not query[2] & 0x80:
                reply = replies[given]
                given += 1
            if i in chosen:
                found.append(Sample(source, query, reply))
        self.hand(kind, local, found)

    def hand(self, transport: int, local: Address, found: list[Sample]) -> None:
        """Hand over what was taken already, by `udp` or `stream` or by the compiled engine."""
        origin = Origin(self.every, self._slot, transport, time.time_ns(), local)
        packet: list[Sample] = []
        size = 0
        for sample in found:
            size += samples.size(sample)
            if packet and size > PACKET:
                self._send(origin, packet)
                packet, size = [], samples.size(sample)
            packet.append(sample)
        self._send(origin, packet)

    def _chosen(self, number: int) -> range:
        """Which of the next `number` queries are taken."""
        chosen = range(self._left, number, self.every)
        self._left = chosen[-1] + self.every - number if chosen else self._left - number
        return chosen

    def _send(self, origin: Origin, packet: list[Sample]) -> None:
        try:
            self._sock.send(samples.encode(origin, packet))
            self._count[metrics.CAPTURE_TAKEN] += len(packet)
        except OSError:  # full, nobody there, or too large
            self._count[metrics.CAPTURE_DROPPED] += len(packet)


def _ends(client: bytes, transport: BaseTransport, tls: bool) -> tuple[int, Address, Address]:
    """Kind of the connection, the client and its port (0 where a proxy speaks for it), our end."""
    kind = samples.TLS if tls else samples.TCP
    peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    port = peer[1] if peer and packed(peer[0]) == client else 0
    return kind, Address(client, port), Address(packed(here[0]), here[1]) if here else Address(b"", 0)
