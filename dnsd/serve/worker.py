"""A worker process: its own sockets, the mapped image, control's feed; it answers, and connects to nothing.

Lives here: start, ticking, draining, leaving. Does not live here: answering (`serve.udp`, `serve.stream`, or over UDP
the compiled engine by `serve.engine`), what is served (`serve.images`), the sockets' making (`supervisor`).

Everything comes by inheritance: descriptors and one JSON argument. Nobody is asked for permission to serve: with an
image on disk a worker answers at once, control or not; without one it leaves queries in the kernel's queue until the
first image arrives. It leaves when the lifeline, a pipe that only the supervisor holds open, ends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import mmap
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from dnsd import metrics
from dnsd.dns.prefixes import Prefixes
from dnsd.engine import finding
from dnsd.image import frames, layout
from dnsd.image.reading import Image
from dnsd.model import Stamp
from dnsd.serve import engine, mmsg
from dnsd.serve.contexts import Answering
from dnsd.serve.crowd import Crowd, Limits
from dnsd.serve.images import Images
from dnsd.serve.stream import Door
from dnsd.serve.tap import Tap
from dnsd.serve.tls import Certificate, SecureDoor
from dnsd.serve.trips import Trips
from dnsd.serve.udp import Listener, Serving

TICK_SECONDS: Final = 0.25
TRIPS_TICKS: Final = 4
STALL_SECONDS: Final = 0.05
LEAVE_SECONDS: Final = 3.0  # how long a draining worker waits for clients to take their answers
BACKLOG: Final = 1024
_SO_MEMINFO: Final = 55  # linux/socket.h; nine u32 counters, the last one the datagrams dropped
_FEED_TURN: Final = 64
NO_IMAGE: Final = Stamp(0, 0, 0)  # acknowledged by a worker that has found none it can read


class Settings(NamedTuple):
    """The worker's JSON argument. `udp`, `tcp`, `tls`, `feed`, `desk`, `tap` and `lifeline` are inherited descriptors,
    -1 where there is none; `stats` is a path. The guard's key comes by standard input: arguments can be read by all.
    """

    slot: int
    node: str
    workers: int
    state: str
    udp: list[int]
    tcp: list[int]
    feed: int
    lifeline: int
    stats: str
    limits: dict[str, Any]
    answering: dict[str, Any]
    tls: Sequence[int] = ()
    certificate: str | None = None
    key: str | None = None
    proxy_from: Sequence[str] = ()
    desk: int = -1
    tap: int = -1
    tap_every: int = 1000
    engine: str = finding.AUTO
    pin: bool = False
    trips: bool = False


def main(argument: str) -> int:
    """Run until told to leave; the exit code (0: left as told)."""
    settings = Settings(**json.loads(argument))
    if settings.answering.get("guard") and "guard_key" not in settings.answering:
        settings.answering["guard_key"] = int(sys.stdin.read())
    for number in (signal.SIGINT, signal.SIGHUP):  # the terminal's, meant for the supervisor
        signal.signal(number, signal.SIG_IGN)
    if settings.pin:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[settings.slot % len(cores)]})
    try:
        door = finding.find(settings.engine).door
    except finding.NoEngineError as error:
        print(f"dnsd worker: {error}", file=sys.stderr, flush=True)
        return 1
    gc.collect()
    gc.freeze()  # modules never become garbage; images do, so they are loaded after this
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(Worker(settings, door).run())


class Worker:
    """One process's state; `run` is its life. `door` is the compiled engine, None: Python answers."""

    def __init__(self, settings: Settings, door: ModuleType | None) -> None:
        self._settings = settings
        with open(settings.stats, "r+b") as file:
            stats = memoryview(mmap.mmap(file.fileno(), 0))
        self._head = metrics.head(stats, settings.slot)
        self._count = metrics.counters(stats, settings.slot)
        self._images = Images(Path(settings.state), self._count)
        self._feed = _socket(settings.feed)
        self._udp = [_socket(fd) for fd in settings.udp]
        self._tcp = [_socket(fd) for fd in settings.tcp]
        self._tls = [_socket(fd) for fd in settings.tls]
        self._drops = [_kernel_drops(sock) for sock in self._udp]
        self._serving: Serving | None = None
        self._crowd = Crowd(Limits(**settings.limits))
        self._certificate: Certificate | None = None
        self._door = door
        self._engine_count = metrics.engine_counters(stats, settings.slot)
        self._engine: engine.Engine | None = None
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._leaving = asyncio.Event()  # told to, or alone
        self._alone = False  # the lifeline has ended
        self._image_or_leaving = asyncio.Event()
        self._due = 0.0
        self._unsent = False

    async def run(self) -> int:
        """Serve until the lifeline ends, or drain after SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        loop.add_reader(self._settings.lifeline, self._lifeline_ended)
        self._begin_head()
        self._images.load()
        self._changed()
        loop.add_reader(self._feed, self._fed)
        self._tick()
        await self._image_or_leaving.wait()
        if self._images.image:
            await self._open(self._images.image)
        await self._leaving.wait()
        if not self._alone:
            await self._drain()
        if self._engine:
            self._engine.close()
        return 0

    async def _open(self, image: Image) -> None:
        """Open the doors."""
        settings = self._settings
        answering = Answering(**settings.answering)
        serving = Serving(image, self._count, f"{settings.node} w{settings.slot}", answering, settings.workers)
        if settings.desk >= 0:
            from dnsd.serve.desk import Desk

            serving.desk = Desk(_socket(settings.desk), serving, settings.workers)
        if settings.tap >= 0:
            serving.tap = Tap(_socket(settings.tap), settings.tap_every, settings.slot, self._count)
        if settings.trips:
            serving.trips = Trips()
        loop = asyncio.get_running_loop()
        door = Door(serving, self._crowd, proxied=Prefixes(settings.proxy_from))
        # New connections are the engine's where nobody asks for more of them than it knows.
        streams = None
        if self._door and self._tcp and not settings.proxy_from and serving.tap is None:
            streams = engine.Streams(self._tcp, door)
        doors: list[tuple[socket.socket, Door]] = [] if streams else [(sock, door) for sock in self._tcp]
        if settings.certificate and settings.key:
            self._certificate = Certificate(settings.certificate, settings.key, self._count)
            secure = SecureDoor(serving, self._crowd, self._certificate)
            doors += [(sock, secure) for sock in self._tls]
        for sock, one in doors:
            self._servers.append(await loop.create_server(one.connection, sock=sock, backlog=BACKLOG))
        self._serving = serving
        self._open_udp(serving, streams)
        self._changed()

    def _open_udp(self, serving: Serving, streams: engine.Streams | None) -> None:
        """And TCP, where the engine has it."""
        if self._door:
            for sock in streams.socks if streams else ():
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have it from here
                sock.listen(BACKLOG)
            self._engine = engine.Engine(self._door, serving, self._udp, self._engine_count, streams)
            serving.engine = self._engine
            self._engine.start()
            self._count[metrics.ENGINE] = 1
            return
        for sock in self._udp:
            listener = Listener(mmsg.channel(sock, self._count), serving)
            self._listeners.append(listener)
            asyncio.get_running_loop().add_reader(sock, listener.readable)

    # --- what happens from outside ---

    def _leave(self) -> None:
        self._leaving.set()
        self._image_or_leaving.set()

    def _lifeline_ended(self) -> None:
        self._alone = True
        self._leave()

    def _fed(self) -> None:
        """Take control's frames and acknowledge where that led."""
        taken = 0
        while taken < _FEED_TURN:
            try:
                packet = self._feed.recv(layout.FRAME_MAX)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:  # both ends are the supervisor's: it is gone
                asyncio.get_running_loop().remove_reader(self._feed)
                return
            self._images.take(packet)
            taken += 1
        if taken:
            self._changed()

    def _changed(self) -> None:
        """Serve the image as it is now, and say so."""
        image = self._images.image
        if image is None:
            return
        self._image_or_leaving.set()
        if self._serving:
            self._serving.image = image
            if self._engine:
                self._engine.publish()
            self._head[metrics.EPOCH], self._head[metrics.VERSION], self._head[metrics.NODE_SEQ] = image.stamp
            try:
                self._feed.send(frames.encode(layout.F_ACK, image.stamp, image.stamp))
                self._unsent = False
            except OSError:
                self._unsent = True  # control does not read just now; the next tick tries again

    # --- time ---

    def _begin_head(self) -> None:
        head = self._head
        head[metrics.EPOCH] = head[metrics.VERSION] = head[metrics.NODE_SEQ] = 0
        head[metrics.STARTED_MS] = time.time_ns() // 1_000_000
        head[metrics.STARTS] += 1
        head[metrics.PID] = os.getpid()
        self._count[metrics.TCP_OPEN] = self._count[metrics.TLS_OPEN] = self._count[metrics.ENGINE] = 0

    def _tick(self, ticks: int = 0) -> None:
        """A few times a second: say that we live, look for stalls, enforce time limits, mend what failed."""
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick, ticks + 1)
        now = time.monotonic()
        if self._due and now - self._due > STALL_SECONDS:
            self._count[metrics.LOOP_STALLS] += 1
        self._due = now + TICK_SECONDS
        self._crowd.sweep()
        if self._certificate:
            self._certificate.reload_if_changed()
        if self._serving:
            self._serving.contexts.tick()
        if self._engine is None or self._engine.tick():
            self._head[metrics.BEAT_MS] = int(now * 1000)
        if self._serving and self._serving.trips is not None and ticks % TRIPS_TICKS == 0:
            self._tell(self._serving.trips.frame())
        for i, sock in enumerate(self._udp):
            drops = _kernel_drops(sock)
            self._count[metrics.UDP_KERNEL_DROPS] += (drops - self._drops[i]) & 0xFFFFFFFF
            self._drops[i] = drops
        self._images.mend()
        # A frame may have gone to our predecessor while its copy was not in the journal yet: look once more.
        if (ticks == 2 or self._images.image is None) and self._images.outdated() and self._images.load():
            self._unsent = True
        if self._images.image is None:  # only control can mend the files
            with suppress(OSError):
                self._feed.send(frames.encode(layout.F_ACK, NO_IMAGE, NO_IMAGE))
        if self._unsent:
            self._changed()

    def _tell(self, frame: bytes | None) -> None:
        """What control may know and need not: it is dropped where control does not read just now."""
        if frame is not None:
            with suppress(OSError):
                self._feed.send(frame)

    async def _drain(self) -> None:
        """Take no new connection, answer what has been asked, give clients a moment to take it."""
        for server in self._servers:
            server.close()
        if self._engine:
            await self._engine.shut()
        self._crowd.drain()
        deadline = time.monotonic() + LEAVE_SECONDS
        while len(self._crowd) and time.monotonic() < deadline and not self._alone:
            await asyncio.sleep(0.01)
        if self._engine:
            await self._engine.drain()
        for listener in self._listeners:
            listener.readable()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: half the cost of a TCP connection, and cheaper waking for UDP."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _socket(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def _kernel_drops(sock: socket.socket) -> int:
    """Datagrams the kernel dropped at this socket, a u32 that wraps; 0 where it does not tell."""
    try:
        counters = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    except OSError:
        return 0
    return int(struct.unpack("=9I", counters)[8]) if len(counters) == 36 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
