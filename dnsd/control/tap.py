"""Capture: what workers sampled becomes a query log and dnstap, in a thread of its own.

Lives here: reading the workers' packets, the pace, the thread. Does not live here: sampling (`serve.tap`), lines and
frames (`control.querylog`, `control.dnstap`), files and collectors (`control.outlet`).

Nothing here holds up anybody: workers drop what their socket does not take, and this thread reads no faster than
`RATE`, so that however many samples there are the event loop keeps the interpreter for itself most of the time.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel

from dnsd import __version__
from dnsd.control import querylog
from dnsd.control.outlet import Collector, File, Outlet
from dnsd.image import samples
from dnsd.image.samples import Origin, Sample

RATE: Final = 2000  # samples a second
BURST: Final = 1000
TICK_S: Final = 0.25
LEAVE_S: Final = 2.0
UNIX: Final = "unix:"
_log = logging.getLogger("dnsd.control")

Writer = Callable[[Origin, Sample], bytes]
"""What an outlet is to be given of a sample."""


class CaptureSettings(BaseModel):
    """[capture], see docs/config.md."""

    dnstap: str | None = None
    log: Path | None = None
    clients: Literal["full", "prefix"] = "prefix"


def opened(settings: CaptureSettings, node: str, tap: int) -> Capture | None:
    """What takes the samples of an inherited socket to where it was asked for; None where that cannot be."""
    try:
        written = outlets(settings, node)
    except ImportError as error:  # `check` says so too; here it must not cost the rest
        _log.error("nothing is captured: %s", error)
        return None
    return Capture(socket.socket(fileno=tap), written)


def outlets(settings: CaptureSettings, node: str) -> dict[str, tuple[Outlet, Writer]]:
    """What is asked for, by its option's name; ImportError where a library for it is missing."""
    whole = settings.clients == "full"
    found: dict[str, tuple[Outlet, Writer]] = {}
    if settings.log is not None:
        found["log"] = (
            File(settings.log), lambda origin, sample: querylog.line(origin, sample, node=node, whole=whole))
    if settings.dnstap is not None:
        from dnsd.control import dnstap  # an extra: only who asks for it needs its libraries

        frames = dnstap.Frames(node, __version__, whole=whole)
        if settings.dnstap.startswith(UNIX):
            outlet: Outlet = Collector(
                settings.dnstap.removeprefix(UNIX), ready=dnstap.READY, start=dnstap.START, stop=dnstap.STOP,
                handshake=dnstap.Accepting)
        else:
            outlet = File(Path(settings.dnstap), begin=dnstap.START, end=dnstap.STOP)
        found["dnstap"] = outlet, frames.frames
    return found


class Capture:
    """Reads the workers' socket and writes to the outlets until it is closed. `reopen` and `close` may be called from
    another thread, as may `described`."""

    def __init__(self, sock: socket.socket, written: Mapping[str, tuple[Outlet, Writer]]) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._named = written
        self._outlets = list(written.values())
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._closing = self._reopening = False
        self._ended = False  # nobody can send any more
        self._complained = False
        self._left, self._filled = float(BURST), time.monotonic()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def reopen(self) -> None:
        """Files are opened anew."""
        self._reopening = True
        self._rouse()

    def close(self) -> None:
        """Write what can be written at once, and end. Does nothing the second time."""
        if self._closing:
            return
        self._closing = True
        self._rouse()
        self._thread.join(LEAVE_S)
        if not self._thread.is_alive():
            os.close(self._wake)
            os.close(self._waker)
            self._sock.close()

    def described(self) -> dict[str, dict[str, Any]]:
        """Every outlet by name, for people."""
        return {name: outlet.described() for name, (outlet, _) in self._named.items()}

    def _rouse(self) -> None:
        with suppress(BlockingIOError):
            os.write(self._waker, b"\0")

    # --- in the thread ---

    def _run(self) -> None:
        while not self._closing:
            if self._reopening:
                self._reopening = False
                for outlet, _ in self._outlets:
                    outlet.reopen()
            self._turn()
        self._read()
        for outlet, _ in self._outlets:
            outlet.close()

    def _turn(self) -> None:
        """Give every outlet its turn, wait until there is something to do, and do it."""
        now = time.monotonic()
        for outlet, _ in self._outlets:
            outlet.turn(now)
        self._left = min(float(BURST), self._left + RATE * (now - self._filled))
        self._filled = now
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        listening = self._left > 0 and not self._ended
        if listening:
            poll.register(self._sock, select.POLLIN)
        for outlet, _ in self._outlets:
            if outlet.fd >= 0 and outlet.wants:
                poll.register(outlet.fd, outlet.wants)
        wait = TICK_S if listening or self._ended else min(TICK_S, (1 - self._left) / RATE)
        ready = dict(poll.poll(wait * 1000))
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 64)
        if self._sock.fileno() in ready:
            self._read()

    def _read(self) -> None:
        """Take packets while there are any and the pace allows."""
        while self._left > 0:
            try:
                packet = self._sock.recv(samples.PACKET_MAX)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._ended = True
                return
            try:
                self._take(packet)
            except Exception:  # a bug, or a foreign packet: it must not end the capture
                if not self._complained:
                    _log.exception("a sample could not be captured: %s", packet[:512].hex())
                self._complained = True

    def _take(self, packet: bytes) -> None:
        origin, found = samples.decode(packet)
        self._left -= len(found)
        for sample in found:
            for outlet, written in self._outlets:
                outlet.put(written(origin, sample))
