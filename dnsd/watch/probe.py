"""One probe of one address: the socket, the clock and the bounds, whatever is spoken over it.

Lives here: connecting, reading, the deadline, what an errno means. Does not live here: protocols (`watch.probe_*`),
whether the address may be probed (`watch.target`; ask first), how long it may take (`watch.baseline`).

It connects to exactly the packed address it was given: numbers go to the kernel, there is no name to look up and no
second address to be sent to. Raw non-blocking sockets with callbacks: a stream or a task costs more than the probe.
What is wrong on this side (no descriptors, no route, a loop that stood still) is told apart from a target's failure.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from dnsd.watch.outcome import READ, Dialogue, Outcome, Reason
from dnsd.watch.probe_dns import Dns
from dnsd.watch.probe_grpc import Grpc
from dnsd.watch.probe_http import Http
from dnsd.watch.probe_tls import Tls
from dnsd.watch.target import Check

_LATE_S: Final = 0.05
"""A deadline that comes so late tells of a busy prober: the reply may lie unread in the socket."""

_CHUNK: Final = 16_384
_READS: Final = 128
"""System calls to read one reply: octets that come one by one must not cost more than a reply does."""

_ERRORS: Final = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.ECONNRESET: Reason.RESET,
    errno.EPIPE: Reason.RESET,
    errno.ECONNABORTED: Reason.RESET,
    errno.ETIMEDOUT: Reason.TIMEOUT,
    errno.EHOSTUNREACH: Reason.UNREACHABLE,
    errno.ENETUNREACH: Reason.UNREACHABLE,
    errno.EHOSTDOWN: Reason.UNREACHABLE,
    errno.ENOPROTOOPT: Reason.UNREACHABLE,  # ICMP: protocol unreachable
    errno.EPROTO: Reason.UNREACHABLE,
    errno.EMSGSIZE: Reason.UNREACHABLE,
}


async def probe(check: Check, address: bytes, timeout_s: float) -> Outcome:
    """Probes a packed address once, in `timeout_s` at most. Raises nothing but CancelledError, and then lets go."""
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    running = begin(check, address, timeout_s, lambda outcome: None if done.done() else done.set_result(outcome))
    try:
        return await done
    finally:
        running.stop()


def begin(
    check: Check, address: bytes, timeout_s: float, done: Callable[[Outcome], None], connect_s: float | None = None,
) -> Exchange:
    """Starts a probe in the running loop; `done` is called with its outcome once, never before this returns.

    It ends sooner, also as a timeout, where the connection does not stand after `connect_s`.
    """
    exchange = Exchange(asyncio.get_running_loop(), done)
    exchange.start(check, address, timeout_s, timeout_s if connect_s is None else connect_s)
    return exchange


class Exchange:
    """A probe under way."""

    __slots__ = ("_began", "_connected", "_dialogue", "_done", "_due", "_end", "_left", "_loop", "_peer", "_reads",
                 "_shaken", "_sock", "_timer", "_udp")  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Callable[[Outcome], None]) -> None:
        self._loop, self._done = loop, done
        self._sock: socket.socket | None = None
        self._dialogue: Dialogue | None = None
        self._began = self._due = self._end = loop.time()
        self._connected = self._shaken = 0.0
        self._left, self._reads = 0, _READS
        self._peer, self._udp = ("", 0), False
        self._timer: asyncio.Handle | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection stands; never over UDP."""
        return self._connected > 0

    def start(self, check: Check, address: bytes, timeout_s: float, connect_s: float) -> None:
        """Makes the dialogue and the socket, and connects."""
        try:
            self._udp = check.kind == "dns"
            family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
            text = socket.inet_ntop(family, address)
            self._peer = (text, check.port)
            self._dialogue = _dialogue(check, text)
            self._left = self._dialogue.most if self._dialogue else 0
            kind = socket.SOCK_DGRAM if self._udp else socket.SOCK_STREAM
            self._sock = sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self._began = self._loop.time()
            self._end = self._began + timeout_s
            self._due = min(self._end, self._began + connect_s)
            failed = sock.connect_ex(self._peer)
            self._timer = self._loop.call_at(self._due, self._expired)
            if failed and failed != errno.EINPROGRESS:
                self._soon(_at_once(failed))
            elif failed:
                self._loop.add_writer(sock.fileno(), self._connectable)
            else:
                self._loop.call_soon(self._stands)
        except Exception:  # no descriptor; a host that is no server name; a check that was never looked at
            self._soon(Reason.LOCAL)

    def stop(self) -> None:
        """Lets go of everything; `done` is not called any more. Any number of times."""
        if self._timer is not None:
            self._timer.cancel()
        sock, self._sock = self._sock, None
        if sock is not None:
            fd = sock.fileno()
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            sock.close()

    def _soon(self, reason: Reason) -> None:
        """Ends with the loop's next turn."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_soon(self._finish, reason)

    def _connectable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._finish(_ERRORS.get(failed, Reason.LOCAL))
            return
        self._loop.remove_writer(sock.fileno())
        self._stands()

    def _stands(self) -> None:
        """There is a connection: say what is to be said."""
        sock, dialogue = self._sock, self._dialogue
        if sock is None:
            return
        if not self._udp:
            self._connected = self._loop.time()
            if sock.getsockname()[:2] == self._peer:  # two open ends of one socket: nobody listens, it met itself
                self._finish(Reason.REFUSED)
                return
        if dialogue is None:
            self._finish(Reason.OK)
            return
        if self._due < self._end and self._timer is not None:
            self._timer.cancel()
            self._due = self._end
            self._timer = self._loop.call_at(self._due, self._expired)
        if not (self._udp or isinstance(dialogue, Tls)):
            self._shaken = self._connected
        try:
            if self._say(sock, dialogue.opening()):
                self._loop.add_reader(sock.fileno(), self._readable)
        except OSError as error:
            self._finish(_reason(error))
        except Exception:
            self._finish(Reason.LOCAL)

    def _say(self, sock: socket.socket, data: bytes) -> bool:
        """Sends; a few hundred octets into an empty buffer go at once or something is wrong on this side."""
        if sock.send(data) == len(data):
            return True
        self._finish(Reason.LOCAL)
        return False

    def _readable(self) -> None:
        sock, dialogue = self._sock, self._dialogue
        if sock is None or dialogue is None:
            return
        try:
            data = sock.recv(READ if self._udp else min(self._left, _CHUNK))
            if not data and not self._udp:
                self._finish(dialogue.ended(Reason.CLOSED))
                return
            self._left -= len(data)
            self._reads -= 1
            reason, reply = dialogue.received(data)
            if not self._shaken and isinstance(dialogue, Tls) and dialogue.stands:
                self._shaken = self._loop.time()
            if reply:
                self._reply(sock, reply, last=reason is not None)
            if reason is None and (self._left <= 0 or not self._reads):
                reason = dialogue.ended(Reason.TOO_LONG)
            if reason is not None:
                self._finish(reason)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._finish(_reason(error))
        except Exception:  # a reply that a dialogue is not up to
            self._finish(Reason.PROTOCOL)

    def _reply(self, sock: socket.socket, data: bytes, *, last: bool) -> None:
        """Sends an answer; the last words need not arrive."""
        try:
            self._say(sock, data)
        except OSError:
            if not last:
                raise

    def _expired(self) -> None:
        late = self._loop.time() - self._due > _LATE_S
        self._finish(Reason.BUSY if late else Reason.TIMEOUT)

    def _finish(self, reason: Reason) -> None:
        if self._done is _nobody:
            return
        done, self._done = self._done, _nobody
        total = (self._loop.time() - self._began) * 1000
        connect = (self._connected - self._began) * 1000 if self._connected else 0.0
        shaken = (self._shaken - self._began) * 1000 if self._shaken else 0.0
        ok = reason is Reason.OK
        if ok and self._udp:
            connect = shaken = total
        elif ok and self._dialogue is None:
            shaken = connect
        self.stop()
        done(Outcome(ok, reason, shaken, total, connect))


def _nobody(_: Outcome) -> None:
    """Stands where `done` was, once it was called."""


def _dialogue(check: Check, address: str) -> Dialogue | None:
    """What is said after the connection stands; None: nothing, it was all that was asked."""
    host = check.host or address
    match check.kind:
        case "tcp":
            return None
        case "http":
            return Http(check, address)
        case "https":
            return Tls(Http(check, address), host, verify=check.verify)
        case "tls":
            return Tls(None, host, verify=check.verify)
        case "grpc":
            inner = Grpc(check, address)
            return Tls(inner, host, verify=check.verify, alpn="h2") if check.tls else inner
        case "dns":
            return Dns(check)


def _at_once(failed: int) -> Reason:
    """What an error of connect() itself means: without a route nothing was sent."""
    return Reason.NO_ROUTE if failed == errno.ENETUNREACH else _ERRORS.get(failed, Reason.LOCAL)


def _reason(error: OSError) -> Reason:
    return _ERRORS.get(error.errno or 0, Reason.LOCAL)
