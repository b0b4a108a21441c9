"""The UDP door: a readable socket is drained batch by batch through `answer.respond`.

Lives here: the loop, what happens when the answering code raises. Does not live here: system calls (`serve.mmsg`),
which image is served (`Serving`, kept by `serve.worker`), anything about DNS but the last-resort SERVFAIL.

The clock and the image are read once a batch: that is what makes one response one image state, and it costs nothing
per query. After a bounded number of batches the event loop gets its turn, so TCP and deltas never starve.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Final, cast

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import DESK
from dnsd.image.reading import Image
from dnsd.serve import mmsg
from dnsd.serve.contexts import Answering, Contexts
from dnsd.serve.tap import Tap

if TYPE_CHECKING:
    from dnsd.serve.desk import Desk
    from dnsd.serve.engine import Engine
    from dnsd.serve.trips import Trips

ROUNDS: Final = 8  # batches in one turn of the event loop, about 2 ms of work
_REPORT_SECONDS: Final = 60


class Serving:
    """What a worker serves now: an image, which the worker replaces, and the contexts all its doors answer in.

    `desk`, `tap` and `trips`, where there are any, take what is the control process's to answer, samples, and how far
    who connects is; `engine` answers what it can.
    """

    __slots__ = ("_reported", "contexts", "count", "desk", "engine", "image", "tap", "tcp", "tls", "trips", "udp")

    def __init__(self, image: Image, count: memoryview, node: str, answering: Answering | None = None,
                 workers: int = 1) -> None:
        self.image = image
        self.count = count
        slots = cast("MutableSequence[int]", count)  # all of it that is used: [i] and [i] = n
        self.contexts = Contexts(slots, node, answering, workers)
        self.udp, self.tcp, self.tls = self.contexts.all()
        self.desk: Desk | None = None
        self.tap: Tap | None = None
        self.trips: Trips | None = None
        self.engine: Engine | None = None
        self._reported = -float(_REPORT_SECONDS)

    def failed(self, packet: bytes) -> bytes | None:
        """To be called when `respond` raised, which is a bug: it costs this client a SERVFAIL and nobody else anything.

        One line a minute goes to stderr, with the query, so that it can be tried again.
        """
        self.count[metrics.INTERNAL_ERRORS] += 1
        if time.monotonic() - self._reported >= _REPORT_SECONDS:
            self._reported = time.monotonic()
            trace = traceback.format_exc().strip().replace("\n", " | ")
            print(f"dnsd worker: a query raised, answered SERVFAIL: query {packet[:512].hex()}: {trace}",
                  file=sys.stderr, flush=True)
        return servfail(packet)


class Listener:
    """One UDP socket's loop; give `readable` to the event loop's `add_reader`."""

    def __init__(self, channel: mmsg.Channel, serving: Serving) -> None:
        self._channel = channel
        self._serving = serving
        self._shed = self._turned = 0  # how much, and the tick of the last turn

    def readable(self) -> None:
        """Answer what has arrived, at most `ROUNDS` batches of it."""
        channel, serving = self._channel, self._serving
        context, contexts = serving.udp, serving.contexts
        if self._shed or context.shed:
            contexts.begin(self._shed if contexts.ticks - self._turned < 2 else 0)
        full = False
        for _ in range(ROUNDS):
            number = channel.receive()
            full = number == mmsg.BATCH
            if number <= 0:
                break
            contexts.arrived(number)
            image, now = serving.image, int(time.time())
            try:
                replies = [
                    respond(slot[:size], client, image, now, context) for slot, size, (client,) in channel.batch()]
            except Exception:
                replies = self._one_by_one(image, now)
            channel.send(replies)
            if serving.desk is not None and DESK in replies:
                serving.desk.udp(channel, replies)
            if serving.tap is not None:
                serving.tap.udp(channel, replies)
            if not full:
                break
        if full or context.shed:
            contexts.turned(full and channel.crowded())
        self._shed, self._turned = context.shed, contexts.ticks

    def _one_by_one(self, image: Image, now: int) -> list[bytes | None]:
        """The batch again, each query on its own, after one of it raised."""
        serving, replies = self._serving, list[bytes | None]()
        for slot, size, (client,) in self._channel.batch():
            packet = slot[:size]
            try:
                replies.append(respond(packet, client, image, now, serving.udp))
            except Exception:
                replies.append(serving.failed(packet))
        return replies


def servfail(packet: bytes) -> bytes | None:
    """The least SERVFAIL there is: id, opcode and RD kept, the question copied when it is one whole plain name."""
    if len(packet) < 12 or packet[2] & 0x80:
        return None
    end = 12
    while end < len(packet) and 0 < packet[end] < 64:
        end += packet[end] + 1
    whole = packet[4:6] == b"\0\1" and end + 5 <= len(packet) and packet[end] == 0 and end < 12 + 255
    question = packet[12 : end + 5] if whole else b""
    return packet[:2] + bytes((0x80 | packet[2] & 0x79, 2, 0, bool(question))) + bytes(6) + question
