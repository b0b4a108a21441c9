"""The engine's thread with sockets and clients of its own, and packets that it answers, passes on or drops."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from dnsd import metrics
from dnsd.engine import door
from tests.serve.samples import counters, image_bytes, nsid, query

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
DESCRIBED = b"identity"


def until(done: Callable[[], Any], what: str = "") -> None:
    """Until it is so, which takes the thread a moment; fails after five seconds."""
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.0005)


def plain(number: int) -> bytes:
    """What the engine answers itself."""
    return query("www.demo.example", number=number & 0xFFFF)


def odd(number: int) -> bytes:
    """What it passes on: a STATUS query."""
    return number.to_bytes(2, "big") + b"\x10\0\0\1\0\0\0\0\0\0\3www\0\0\1\0\1"


def silent(number: int) -> bytes:
    """What nobody answers: a response."""
    return number.to_bytes(2, "big") + b"\x80\0\0\1\0\0\0\0\0\0\3www\0\0\1\0\1"


def malformed(number: int) -> bytes:
    """What gets FORMERR: a name that does not end."""
    return number.to_bytes(2, "big") + b"\0\0\0\1\0\0\0\0\0\0\3www\7example"


def bound(family: int, host: str = "") -> socket.socket:
    """A server's socket, as the supervisor makes them but for its size."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((host or HOSTS[socket.AddressFamily(family)], 0))
    sock.setblocking(False)
    return sock


def client_of(server: socket.socket) -> socket.socket:
    """A client that takes answers from that server's address only."""
    sock = socket.socket(server.family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.connect(server.getsockname())
    sock.settimeout(5)
    return sock


def sight(identity: bytes = DESCRIBED, buffer: Any = None) -> door.Sight:
    """The sample zone."""
    return door.Sight(image_bytes() if buffer is None else buffer, {}, {}, identity)


class Rig:
    """A loop over one socket for each family, which serves the sample zone; `start` has it run."""

    def __init__(self, *families: int, free: int = -1, every: int = 0) -> None:
        self.servers = [bound(family) for family in families or (socket.AF_INET,)]
        self.clients = [client_of(server) for server in self.servers]
        self.count = counters()
        self.loop = door.Loop(
            [(sock.fileno(), sock.family == socket.AF_INET6) for sock in self.servers], free=free, every=every)
        self.door = door.Door(self.count)
        self.loop.publish(sight(), self.door)
        self.thread = threading.Thread(target=self.loop.run, daemon=True)

    def start(self) -> Rig:
        """Begin to answer."""
        self.thread.start()
        return self

    def ask(self, packets: list[bytes], lane: int = 0) -> None:
        """Send them, and wait until the thread has received them."""
        wanted = self.count[metrics.QUERIES_UDP]
        for at in range(0, len(packets), 64):
            for packet in packets[at : at + 64]:
                self.clients[lane].send(packet)
                wanted += 1
            until(lambda: self.count[metrics.QUERIES_UDP] >= wanted, "received")  # noqa: B023 - called in this turn

    def told(self, lane: int = 0) -> str:
        """The identity an answer tells."""
        self.clients[lane].send(query("www.demo.example", nsid=True))
        return nsid(self.clients[lane].recv(4096))

    def heard(self, seconds: float = 5) -> bool:
        """Whether the bell rings within that time."""
        return bool(select.select([self.loop.bell], [], [], seconds)[0])

    def passed(self, lane: int = 0, most: int = 64) -> list[bytes]:
        """Queries passed on, as many as there are in one go."""
        return [packet for packet, _, _ in self.loop.take(lane, most)]

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, if it began."""
        if self.thread.ident is not None:
            self.loop.stop()
            self.thread.join(5)
            assert not self.thread.is_alive()
        for sock in (*self.servers, *self.clients):
            sock.close()
