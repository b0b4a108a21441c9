"""The compiled engine in a worker: what it serves now, and what it leaves to Python.

Lives here: Context -> Door and Image -> Sight, queries passed on as a `mmsg.Channel`, TCP connections that are not new
any more, the thread's beginning and end.
Does not live here: the thread (`engine/loop.pxi`), whether there is one (`engine.finding`), which image there is
(`serve.images`), answering (`serve.udp`, which takes what is passed on as if it came from a socket).

The engine gives the octets that `answer.respond` gives, or passes the query on; so what it cannot use costs speed and
nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple

from dnsd import metrics
from dnsd.context import Context
from dnsd.image import samples
from dnsd.image.reading import Image
from dnsd.image.samples import Address, Sample
from dnsd.model import Stamp
from dnsd.serve import mmsg
from dnsd.serve.stream import Begun
from dnsd.serve.stream import Door as StreamDoor
from dnsd.serve.udp import Listener, Serving

if TYPE_CHECKING:
    from dnsd.engine.door import Door, Loop, Sight
    from dnsd.image.table import MapTable

RUNS: Final = 8  # sockets' runs of passed-on queries in one turn of the event loop
STUCK_TICKS: Final = 8  # for which a batch may last
_PROGRESS: Final = (metrics.UDP_BATCHES, metrics.TCP_ACCEPTED, metrics.QUERIES_TCP)
END_SECONDS: Final = 1.0  # for the thread to end, which it does in a fifth of that


class Engine:
    """One worker's: the thread that answers `socks`, and this side of it. Made inside a running loop.

    `count` are the engine's own slots (`metrics.engine_counters`); what is passed on is counted by `serving`.
    """

    def __init__(self, door: ModuleType, serving: Serving, socks: Sequence[socket.socket], count: memoryview,
                 streams: Streams | None = None) -> None:
        self._module, self._serving, self._count, self._streams = door, serving, count, streams
        contexts = serving.contexts
        count[metrics.TCP_OPEN] = 0
        self._loop: Loop = door.Loop(
            [(sock.fileno(), sock.family == socket.AF_INET6) for sock in socks],
            free=contexts.free if contexts.guard is not None else -1, every=serving.tap.every if serving.tap else 0,
            streams=[(sock.fileno(), sock.family == socket.AF_INET6) for sock in streams.socks] if streams else (),
            queries=streams.door.crowd.limits.queries if streams else 1,
            places=streams.door.crowd.limits.connections if streams else 1, trips=serving.trips is not None)
        contexts.engine = self._loop
        self._channels = [Passed(sock, self._loop, lane, serving.count) for lane, sock in enumerate(socks)]
        self._listeners = [Listener(channel, serving) for channel in self._channels]
        self._door: Door | None = None
        self._fresh: Door | None = None  # of the thread's own connections
        self._moving: set[asyncio.Task[None]] = set()
        self._doors: dict[bool, Door] = {}
        self._made_for: object = None  # the cookies the door has
        self._sight: Sight | None = None
        self._image: Image | None = None
        self._stamp: Stamp | None = None
        self._maps: dict[int, MapTable] = {}
        self._complaint = ""
        self._stuck = 0
        self._batches = -1
        self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self.publish()
        asyncio.get_running_loop().add_reader(self._loop.bell, self._heard)
        self._thread.start()

    def publish(self) -> None:
        """Serve what `serving` has now: what arrives from here on is answered from it. Nothing to do costs nothing."""
        context, image = self._serving.udp, self._serving.image
        state = (image, image.stamp, image.maps, context.cookies)
        if self._door is not None and not image.replaced and state == (
                self._image, self._stamp, self._maps, self._made_for):
            return
        if self._door is None or self._made_for is not context.cookies:
            self._door, self._made_for = _door(self._module, context, self._count), context.cookies
            self._fresh = _door(self._module, self._serving.tcp, self._count)
            self._doors = {other.pad: _door(self._module, other, self._serving.count) for other in (
                self._serving.tcp, self._serving.tls)}
        try:
            self._sight = self._seen(image, context.identity(image.stamp))
        except (ValueError, MemoryError) as error:
            self._sight = None
            if str(error) != self._complaint:
                self._complaint = str(error)
                print(f"dnsd worker: the engine cannot use the image, Python answers: {error}",
                      file=sys.stderr, flush=True)
        self._loop.publish(self._sight, self._door, self._fresh)

    def stream(self, context: Context) -> tuple[Door, Sight] | None:
        """What answers in a stream's context; None while the engine cannot use the image."""
        if self._sight is None:
            return None
        door = self._doors[context.pad]
        door.keepalive = context.keepalive
        return door, self._sight

    def tick(self) -> bool:
        """A quarter of a second has passed; whether the thread goes on. One that does not is stuck for good."""
        self.publish()  # cookies and map tables change without a word
        self._loop.reclaim()
        if self._streams is not None:
            self._loop.keepalive(self._streams.door.crowd.keepalive)
            if self._serving.trips is not None:
                self._serving.trips.add(self._loop.trips())
        batches = sum(self._count[slot] for slot in _PROGRESS)
        self._stuck = self._stuck + 1 if self._loop.busy and batches == self._batches else 0
        self._batches = batches
        return self._stuck < STUCK_TICKS

    async def shut(self) -> None:
        """Take no more TCP connections; those that the thread had are Python's when this returns."""
        self._loop.shut()
        while not self._loop.is_shut and self._thread.is_alive():
            await asyncio.sleep(0.002)
        self._take_over()
        while self._moving:
            await asyncio.wait(self._moving)

    async def drain(self) -> None:
        """Have the thread empty the sockets' queues and end, and answer all that it left."""
        self._loop.stop()
        while self._thread.is_alive():
            self._answer_passed()
            await asyncio.sleep(0.002)
        while self._answer_passed():
            pass
        self._hand_samples()

    def close(self) -> None:
        """The thread ends, before what it uses does."""
        asyncio.get_running_loop().remove_reader(self._loop.bell)
        self._loop.stop()
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)

    # --- what is served ---

    def _seen(self, image: Image, identity: bytes) -> Sight:
        """The image as a Sight, by way of the one before where that is of the same file."""
        tables = {number: table.buffer for number, table in image.maps.items()}
        replaced = [(index, image.patched[index]) for index in sorted(image.replaced)]
        sight, anew, moved = self._sight, image is not self._image, image.maps != self._maps
        self._image, self._stamp, self._maps = image, image.stamp, dict(image.maps)
        image.replaced.clear()
        if sight is None or anew:
            made: Sight = self._module.Sight(image.buffer, image.patched, tables, identity)
            return made
        return (sight.mapped(tables, identity) if moved else sight).patched(replaced, identity)

    # --- what is left to Python ---

    def _heard(self) -> None:
        """Something was. No more than a few batches of it at a time, so that nothing else waits long."""
        self._loop.hear()
        self._take_over()
        self._hand_samples()
        if self._answer_passed():
            asyncio.get_running_loop().call_soon(self._heard)

    def _answer_passed(self) -> bool:
        """Answer some; whether there are more."""
        for _ in range(RUNS):
            lane = self._loop.waiting()
            if lane < 0:
                return False
            self._listeners[lane].readable()
        return True

    def _take_over(self) -> None:
        """Connections that have become Python's."""
        for descriptor, pending, unsent, queries in self._loop.handed():
            task = asyncio.get_running_loop().create_task(
                self._go_on(socket.socket(fileno=descriptor), Begun(pending, unsent, queries)))
            self._moving.add(task)
            task.add_done_callback(self._moving.discard)

    async def _go_on(self, sock: socket.socket, begun: Begun) -> None:
        streams = self._streams
        if streams is None:
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(partial(streams.door.begun, begun), sock)
        except OSError:  # gone meanwhile
            self._serving.count[metrics.TCP_CLOSED["error"]] += 1
            sock.close()

    def _hand_samples(self) -> None:
        tap = self._serving.tap
        if tap is None:
            return
        for lane, found in groupby(self._loop.samples(), key=lambda sample: sample[0]):
            channel = self._channels[lane]
            tap.hand(samples.UDP, channel.local, [
                Sample(Address(channel.client(name), _port(name)), query, reply)
                for _, (query, name, reply) in found])


class Streams(NamedTuple):
    """Listening TCP sockets, and the door of the connections that do not stay with the thread."""

    socks: Sequence[socket.socket]
    door: StreamDoor


class Passed:
    """`mmsg.Channel` of one socket's queries that the engine passed on. They were counted when they were received."""

    def __init__(self, sock: socket.socket, loop: Loop, lane: int, count: memoryview) -> None:
        self.local = mmsg.local(sock)
        self._sock, self._loop, self._lane, self._count = sock, loop, lane, count
        self._host = slice(8, 24) if sock.family == socket.AF_INET6 else slice(4, 8)
        self._taken: list[tuple[bytes, bytes, bytes]] = []

    def receive(self) -> int:
        """See `mmsg.Channel`."""
        self._taken = self._loop.take(self._lane, mmsg.BATCH)
        return len(self._taken)

    def batch(self) -> Iterator[tuple[bytes, int, tuple[bytes]]]:
        """See `mmsg.Channel`."""
        for query, name, _ in self._taken:
            yield query, len(query), (name[self._host],)

    def client(self, name: bytes) -> bytes:
        """The host in a socket address of this socket's family."""
        return name[self._host]

    def port(self, at: int) -> int:
        """See `mmsg.Channel`."""
        return _port(self._taken[at][1])

    def crowded(self) -> bool:
        """See `mmsg.Channel`; the engine's thread looks after the socket's queue."""
        return False

    def send(self, replies: Sequence[bytes | None]) -> None:
        """See `mmsg.Channel`."""
        for at, reply in enumerate(replies):
            if reply:
                self.send_late(reply, self.peer(at))

    def peer(self, at: int) -> mmsg.Peer:
        """See `mmsg.Channel`."""
        return mmsg.peer_of(self._sock.family, self._taken[at][1])

    def send_late(self, reply: bytes, peer: mmsg.Peer) -> None:
        """See `mmsg.Channel`."""
        mmsg.send_one(self._sock, self._count, reply, peer)


def _door(module: ModuleType, context: Context, count: memoryview) -> Door:
    """A context as the engine has it."""
    door: Door = module.Door(
        count, tcp=context.tcp, limit=context.limit, keepalive=context.keepalive, pad=context.pad)
    door.cookies(context.cookies.secrets if context.cookies is not None else ())
    door.guard(context.guard.flat() if context.guard is not None else None)
    door.ecs_from(context.ecs_from.ranges() if context.ecs_from is not None else None)
    door.why(context.desk is not None)
    return door


def _port(name: bytes) -> int:
    return int.from_bytes(name[2:4], "big")
