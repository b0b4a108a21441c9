"""A publisher with its feeds, files and workers, but no store and no real time.

The workers here are the real `serve.images` behind one end of a socketpair, driven by the test instead of a process.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from dnsd import metrics
from dnsd.control import reply
from dnsd.control.clock import Clock
from dnsd.control.feeds import Feeds
from dnsd.control.files import ImageFiles
from dnsd.control.publish import Publisher
from dnsd.control.selfcheck import Asker
from dnsd.control.state import Fleet
from dnsd.control.views import Views
from dnsd.control.zonefile import read
from dnsd.dns import names, types
from dnsd.image import frames, layout
from dnsd.image.frames import Frame
from dnsd.model import Stamp, ZoneView
from dnsd.registry.fields import Model
from dnsd.serve.images import Images
from tests.control.fleet_samples import NOW, events, gone

ZONE = """$TTL 300
@ SOA ns1 hostmaster 1 3600 600 86400 60
@ NS ns1
@ NS ns2
ns1 A 192.0.2.53
ns2 AAAA 2001:db8::53
static A 192.0.2.81
"""
EPOCH = 7


class FakeClock(Clock):
    """Time that only passes when something sleeps, or when the test says so."""

    def __init__(self) -> None:
        self.ms = NOW
        self.slept: list[float] = []

    def unix_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.ms += round(seconds * 1000)
        await asyncio.sleep(0)


class Worker:
    """One worker slot: takes frames from its end of the feed, answers from its image."""

    def __init__(self, slot: int, sock: socket.socket, state: Path) -> None:
        self.sock = sock
        self.sock.setblocking(False)
        self.count = memoryview(bytearray(8 * metrics.SLOTS)).cast("Q")
        self.images = Images(state, self.count)
        self.images.load()
        self.asker = Asker(f"w{slot}")
        self.frames: list[Frame] = []

    def turn(self) -> list[Frame]:
        """Take what has come, acknowledge, and give back the frames."""
        taken = []
        while True:
            try:
                packet = self.sock.recv(layout.FRAME_MAX)
            except BlockingIOError:
                break
            taken.append(frames.decode(packet)[0])
            self.images.take(packet)
        self.frames += taken
        if taken and self.stamp is not None:
            self.sock.send(frames.encode(layout.F_ACK, self.stamp, self.stamp))
        return taken

    @property
    def stamp(self) -> Stamp | None:
        return self.images.stamp

    def ask(self, name: str, type_: int = types.A) -> tuple[int, list[bytes]]:
        """Rcode and rdatas of an answer."""
        assert self.images.image is not None
        answer = self.asker.ask(self.images.image, reply.query(names.to_wire(name), type_), NOW // 1000)
        return answer.rcode, [rr.rdata for rr in answer.answer]


class Rig:
    """A node without processes; use inside a running loop."""

    def __init__(self, state: Path, *objects: Model, workers: int = 2, maps: Mapping[str, int] | None = None) -> None:
        self.state = state
        self.clock = FakeClock()
        self.fleet = Fleet()
        self.map_of = dict(maps or {})
        self.views = Views(self.fleet, lambda name: self.map_of.get(name, 0))
        self.files = ImageFiles(state)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        self.feeds = Feeds([ours for ours, _ in pairs], lambda: self.publisher.remap_frame())
        self.publisher = Publisher(self.views, self.files, self.feeds, node="test", clock=self.clock)
        self.publisher.zones = (zone(state),)
        self.workers = [Worker(slot, theirs, state) for slot, (_, theirs) in enumerate(pairs)]
        self._sockets = [sock for pair in pairs for sock in pair]
        self.publisher.live.start()
        self.versions = itertools.count(max(self.publisher.live.stamp.version, 0) + 1)
        if objects:
            self.put(*objects)

    def put(self, *objects: Model) -> int:
        """One write of the registry, taken in as intake does."""
        return self._apply(lambda version: events(version, *objects))

    def drop(self, *objects: Model) -> int:
        return self._apply(lambda version: gone(version, *objects))

    def _apply(self, make: object) -> int:
        version = next(self.versions)
        touched = self.fleet.apply(make(version), self.clock.ms)  # type: ignore[operator]
        self.publisher.mark(touched.services)
        return version

    async def open(self) -> None:
        """Adopt the fleet and publish it."""
        self.feeds.start()
        self.publisher.adopt(EPOCH)
        await self.publish()

    async def publish(self) -> None:
        assert await self.publisher.publish()
        await self.settle()

    async def settle(self) -> None:
        """Let workers take what was sent, and control their acknowledgements."""
        for worker in self.workers:
            worker.turn()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.feeds.close()
        self.files.close()
        for sock in self._sockets:
            sock.close()


def zone(folder: Path, text: str = ZONE, origin: str = "example.com") -> ZoneView:
    path = folder / f"{origin}.zone"
    path.write_text(text)
    return read(path, origin)


def kinds(taken: Sequence[Frame]) -> list[int]:
    return [frame.kind for frame in taken]
