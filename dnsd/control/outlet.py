"""Where captures go: a file that is appended to, or a collector's socket. Nothing here waits or grows without bound.

Lives here: opening, opening again, the bounded buffer, what is dropped. Does not live here: what is written
(`control.querylog`, `control.dnstap`), the thread that does it (`control.tap`).

What the other side does not take at once stands in a buffer; what finds it full is dropped whole and counted, so lines
and frames stay whole whatever happens. An outlet that fails says why once and is tried again every `RETRY_S`.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

BUFFER: Final = 1 << 20
RETRY_S: Final = 1.0
HELLO_S: Final = 5.0  # for a collector to answer the handshake
_CHUNK: Final = 1 << 16
_log = logging.getLogger("dnsd.control")


class Handshake(Protocol):
    """A collector's answer, as it comes in: whether it has accepted, ValueError where it has not."""

    def take(self, data: bytes) -> bool:
        """Some octets of it."""


class Outlet(ABC):
    """What both kinds share: the buffer, the counters, and what is wrong. `turn` is called now and then, and by need.

    `taken` and `dropped` are samples; one that was taken and found no way out later becomes a dropped one.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.taken = self.dropped = 0
        self.problem = ""
        self.fd = -1
        self._buffer = bytearray()
        self._waiting = 0  # samples since the buffer was last empty
        self._retry_at = 0.0

    def put(self, data: bytes) -> None:
        """Take what is written of a sample, or drop it."""
        if not self.ready or len(self._buffer) + len(data) > BUFFER:
            self.dropped += 1
        else:
            self._buffer += data
            self._waiting += 1
            self.taken += 1
            if len(self._buffer) >= _CHUNK:
                self._hand_over()

    @property
    def ready(self) -> bool:
        """Whether there is somebody to write to."""
        return self.fd >= 0

    @property
    def wants(self) -> int:
        """What to poll `fd` for. A file: nothing, for a full disk is always writable."""
        return 0

    def turn(self, now: float) -> None:
        """Open what is not open, hand over what is there. `now` is monotonic, in seconds."""
        if self.fd < 0 and now >= self._retry_at:
            self._retry_at = now + RETRY_S
            try:
                self._open(now)
            except OSError as error:
                self._failed(error.strerror or str(error))
        self._hand_over()

    def close(self) -> None:
        """Write out what goes out at once, and leave."""
        self._hand_over()
        self._shut()

    def described(self) -> dict[str, Any]:
        """For people."""
        return {
            "to": self.what, "taken": self.taken, "dropped": self.dropped, "problem": self.problem or None}

    @abstractmethod
    def reopen(self) -> None:
        """Whoever rotates files has moved the old one away."""

    @abstractmethod
    def _open(self, now: float) -> None:
        """Open it, or begin to; OSError."""

    @abstractmethod
    def _release(self) -> None:
        """Close what is open."""

    def _hand_over(self) -> None:
        try:
            while self._buffer and self.ready:
                del self._buffer[: os.write(self.fd, self._buffer[:_CHUNK])]
                if self.problem:  # a file is open all the time: only this shows that there is room again
                    self._works()
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken(error.strerror or str(error), error.errno)
        if not self._buffer:
            self._waiting = 0

    def _broken(self, why: str, number: int | None = None) -> None:
        """Writing or reading failed."""
        self._failed(why)
        self._shut()

    def _shut(self) -> None:
        if self.fd >= 0:
            self._release()
            self.fd = -1
        self._buffer.clear()
        self.taken -= self._waiting
        self.dropped += self._waiting
        self._waiting = 0

    def _failed(self, why: str) -> None:
        if why != self.problem:
            _log.error("capture: %s: %s", self.what, why)
        self.problem = why

    def _works(self) -> None:
        if self.problem:
            _log.info("capture: %s is written again", self.what)
        self.problem = ""


class File(Outlet):
    """A file, made where there is none. With `begin` every file is a whole of its own, from `begin` to `end`: one that
    is not empty is put aside under its name and the time of its last change."""

    def __init__(self, path: Path, *, begin: bytes = b"", end: bytes = b"") -> None:
        super().__init__(str(path))
        self._path, self._begin, self._end = path, begin, end

    def reopen(self) -> None:
        """See `Outlet`: go on in a file of that name."""
        self.close()
        self._retry_at = 0.0

    def close(self) -> None:
        """See `Outlet`."""
        if self._end and self.ready:
            self._buffer += self._end
        super().close()

    def _open(self, now: float) -> None:
        if self._begin:
            self._put_aside()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        self.fd = os.open(self._path, flags, 0o640)
        self._buffer += self._begin
        self._works()

    def _put_aside(self) -> None:
        try:
            status = os.lstat(self._path)
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode) and status.st_size:
            changed = status.st_mtime_ns // 1_000_000
            while os.path.lexists(f"{self._path}.{changed}"):
                changed += 1
            os.rename(self._path, f"{self._path}.{changed}")

    def _release(self) -> None:
        os.close(self.fd)

    def _broken(self, why: str, number: int | None = None) -> None:
        if number == errno.EPIPE:
            super()._broken(why)
        else:  # a full disk: what is half written is finished first when there is room again
            self._failed(why)


class Collector(Outlet):
    """A Frame Streams collector behind a unix socket: READY, its ACCEPT, START, then frames, at the end STOP."""

    def __init__(
        self, path: str, *, ready: bytes, start: bytes, stop: bytes, handshake: Callable[[], Handshake],
    ) -> None:
        super().__init__(f"unix:{path}")
        self._path, self._hello, self._start, self._stop = path, ready, start, stop
        self._handshake = handshake
        self._greeting: Handshake | None = None
        self._greeted_by = 0.0
        self._sock: socket.socket | None = None

    @property
    def ready(self) -> bool:
        """See `Outlet`."""
        return self.fd >= 0 and self._greeting is None

    @property
    def wants(self) -> int:
        """See `Outlet`."""
        return select.POLLIN | (select.POLLOUT if self._buffer else 0)  # it says nothing after ACCEPT, but it may go

    def turn(self, now: float) -> None:
        """See `Outlet`."""
        if self.fd >= 0:
            self._read()
        if self._greeting is not None and now > self._greeted_by:
            self._broken("the collector does not answer the handshake")
        super().turn(now)

    def reopen(self) -> None:
        """See `Outlet`: a collector is no file."""

    def close(self) -> None:
        """See `Outlet`."""
        if self.ready:
            self._buffer += self._stop
        super().close()

    def _open(self, now: float) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
            sock.send(self._hello)
        except OSError as error:
            sock.close()
            nobody = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            raise OSError(error.errno, "no collector listens there" if nobody else str(error)) from None
        self._sock, self.fd = sock, sock.fileno()
        self._greeting, self._greeted_by = self._handshake(), now + HELLO_S

    def _read(self) -> None:
        try:
            data = os.read(self.fd, _CHUNK)
            if not data:
                self._broken("the collector has left")
            elif self._greeting is not None and self._greeting.take(data):
                self._greeting = None
                self._buffer += self._start
                self._works()
        except BlockingIOError:
            pass
        except (OSError, ValueError) as error:
            self._broken(str(error))

    def _release(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = self._greeting = None
