"""The workers' feeds: frames to each worker slot, acknowledgements back, and who waits for them.

Lives here: sending without ever waiting, who is behind, what each slot serves. Does not live here: what is sent
(`control.publish`), frames as bytes (`image.frames`).

A worker that does not keep up is not queued for: it is marked behind, and as soon as its socket takes anything again it
is told to read the files anew, which hold everything. So a slow or dead worker costs one flag, never another worker.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from dnsd.image import frames, layout
from dnsd.model import Stamp


class Feed:
    """One worker slot's socket. `stamp` is what its worker last acknowledged, None before."""

    def __init__(self, slot: int, sock: socket.socket) -> None:
        self.slot = slot
        self.sock = sock
        self.stamp: Stamp | None = None
        self.behind = False
        self.closed = False
        self.remaps = 0
        sock.setblocking(False)


class Feeds:
    """All worker slots. `remap` gives the frame that tells a worker that was behind to read the files.

    `bare` is set when a worker says that it has found no image it can read (it acknowledges epoch 0). `trips` is given
    the items of `layout.F_TRIPS`.
    """

    def __init__(self, sockets: Sequence[socket.socket], remap: Callable[[], bytes]) -> None:
        self.feeds = [Feed(slot, sock) for slot, sock in enumerate(sockets)]
        self._remap = remap
        self.bare = asyncio.Event()
        self.trips: Callable[[Sequence[tuple[int, bytes]]], None] = lambda _: None
        self._waiters: set[asyncio.Event] = set()

    def start(self) -> None:
        """Listen for acknowledgements on the running loop."""
        loop = asyncio.get_running_loop()
        for feed in self.feeds:
            loop.add_reader(feed.sock, self._readable, feed)

    def close(self) -> None:
        """Stop listening; the sockets stay open, they are the supervisor's."""
        loop = asyncio.get_running_loop()
        for feed in self.feeds:
            loop.remove_reader(feed.sock)
            loop.remove_writer(feed.sock)

    def know(self, slot: int, stamp: Stamp) -> None:
        """What a worker served before this process started; it says so itself only with the next change."""
        self.feeds[slot].stamp = stamp

    def send(self, frame: bytes) -> None:
        """A delta to every worker that is not behind."""
        for feed in self.feeds:
            if not feed.behind and not feed.closed:
                self._send(feed, frame)

    def remap(self) -> None:
        """Tell every worker to read the files; one that is behind will be told when it can be."""
        for feed in self.feeds:
            if not feed.behind and not feed.closed:
                feed.remaps += 1
                self._send(feed, self._remap())

    def reached(self, epoch: int, version: int) -> bool:
        """Whether every worker serves at least this version of this epoch."""
        return all(f.stamp is not None and f.stamp.epoch == epoch and f.stamp.version >= version for f in self.feeds)

    def serve(self, stamp: Stamp) -> bool:
        """Whether every worker serves that state, or a later one of its epoch."""
        return all(f.stamp is not None and f.stamp.epoch == stamp.epoch and f.stamp >= stamp for f in self.feeds)

    async def wait(self, reached: Callable[[], bool], timeout: float) -> bool:
        """True as soon as `reached()` holds after an acknowledgement; False when `timeout` seconds have passed."""
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            async with asyncio.timeout(timeout):
                while not reached():
                    await changed.wait()
                    changed.clear()
            return True
        except TimeoutError:
            return reached()
        finally:
            self._waiters.discard(changed)

    def wake(self) -> None:
        """Let those who wait look again: something else they may wait for has changed."""
        for waiter in self._waiters:
            waiter.set()

    def status(self) -> list[dict[str, Any]]:
        """What each slot serves, for people."""
        return [{
            "slot": feed.slot, "behind": feed.behind or feed.closed, "remaps": feed.remaps,
            **(feed.stamp._asdict() if feed.stamp is not None else dict.fromkeys(Stamp._fields)),
        } for feed in self.feeds]

    def _send(self, feed: Feed, frame: bytes) -> None:
        try:
            feed.sock.send(frame)
        except BlockingIOError:
            feed.behind = True
            asyncio.get_running_loop().add_writer(feed.sock, self._writable, feed)
        except OSError:
            self._lost(feed)

    def _writable(self, feed: Feed) -> None:
        asyncio.get_running_loop().remove_writer(feed.sock)
        feed.behind = False
        feed.remaps += 1
        self._send(feed, self._remap())

    def _readable(self, feed: Feed) -> None:
        """Take in what the worker acknowledged; foreign or torn packets are passed over."""
        for _ in range(64):
            try:
                data = feed.sock.recv(layout.FRAME_MAX)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._lost(feed)
                break
            with suppress(ValueError):
                frame, _ = frames.decode(data)
                if frame.kind == layout.F_ACK:
                    feed.stamp = frame.stamp if frame.stamp.epoch else None
                    if not frame.stamp.epoch:
                        self.bare.set()
                elif frame.kind == layout.F_TRIPS:
                    self.trips(frame.items)
        self.wake()

    def _lost(self, feed: Feed) -> None:
        """The other end is gone for good: the supervisor ended, which ends this process too."""
        feed.closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(feed.sock)
        loop.remove_writer(feed.sock)
