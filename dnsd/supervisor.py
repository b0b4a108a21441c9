"""The parent process: binds the sockets, starts store, control and workers, restarts what ends, drains on SIGTERM.

Lives here: sockets, children, signals, the lock on the state directory. Does not live here: DNS, HTTP, the store's
protocol; nothing here parses anything from outside.

It keeps a duplicate of every socket, so a worker that dies loses no query: what arrives meanwhile waits in the queue
its successor reads. For the same reason a slot that cannot be started gives its sockets up: as long as anybody holds
them, the kernel hashes that worker's share of the queries to nobody.
"""

from __future__ import annotations

import base64
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from dnsd import cookiefile, disk, metrics, sockets
from dnsd.children import Child, log
from dnsd.option_types import KEY, address
from dnsd.options import Config
from dnsd.registry import embedded

FAILED, LOCKED = 1, 5  # exit codes
HANG_SECONDS: Final = 20.0  # a worker whose event loop has not turned for so long is killed
LEAVE_SECONDS: Final = 5.0  # for workers, then control, to leave by themselves
STORE_LEAVE_SECONDS: Final = 10.0
FEED_BUFFER: Final = 1 << 20
GUARD_SLOTS: Final = 1 << 17  # of eight octets
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_NO_SOCKETS: Final = sockets.Bound([], [], [])


class Commands(NamedTuple):
    """What is started; tests put in their own. `worker` gets its JSON as an argument.

    `control` reads its JSON from standard input: the store's URL may hold a password, and anybody can see arguments.
    """

    worker: Sequence[str] = (sys.executable, "-m", "dnsd.serve.worker")
    control: Sequence[str] = (
        sys.executable, "-c", "import sys, dnsd.control.app as app; sys.exit(app.main(sys.stdin.read()))")
    store: Callable[[Path], list[str]] = embedded.command


def run(config: Config, commands: Commands = Commands()) -> int:  # noqa: B008 - immutable
    """Serve until told to stop; the exit code. Says on stderr why it does not start."""
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(config.state / disk.LOCK)
    except OSError as error:
        return _refuse(f"state directory {config.state}: {error.strerror or error}", FAILED)
    if lock is None:
        return _refuse(f"another dnsd serves from {config.state}: stop it first, or choose another `state`", LOCKED)
    with lock:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            supervisor = Supervisor(config, commands)
        except sockets.BindError as error:
            return _refuse(str(error), FAILED)
        except (OSError, ValueError) as error:
            return _refuse(str(error), FAILED)
        return supervisor.run()


class Supervisor:
    """Everything bound and planned; `run` does the rest. OSError, ValueError or BindError where that is impossible."""

    def __init__(self, config: Config, commands: Commands) -> None:
        self._config = config
        self._commands = commands
        workers = config.worker_count
        _raise_file_limit(config.tcp.connections + 128)
        self._addresses = sockets.claim([address(text) for text in config.listen])
        self._admin = sockets.listen([address(text) for text in config.admin.listen])
        self._beside = sockets.listen_beside(config.state, disk.CONTROL)
        self._tls = sockets.claim([address(text) for text in config.tls.listen]) if config.tls.listen else []
        self._bound: list[sockets.Bound | None] = [sockets.bind(self._addresses, self._tls) for _ in range(workers)]
        self._lifeline, self._lifeline_end = os.pipe()
        os.set_blocking(self._lifeline, False)  # children watch it in their event loops, and share the flag
        self._feeds = [_pair() for _ in range(workers)]
        self._desks = [_pair() for _ in range(workers)] if _has_desk(config) else []
        self._tap = _pair() if config.capture.dnstap or config.capture.log else None
        self._stats_file = _new_shared(config.state / disk.STATS, workers * metrics.REGION)
        self._stats = memoryview(mmap.mmap(self._stats_file.fileno(), 0))
        self._guard_file = _new_shared(config.state / disk.GUARD, 8 * GUARD_SLOTS) if config.rate.answers else None
        self._guard_key = int.from_bytes(os.urandom(8), "big")
        if config.cookie_file:
            cookiefile.ensure(config.cookie_file)

        self._workers = [
            Child(f"worker {slot}", lambda slot=slot: self._worker_argv(slot),  # type: ignore[misc]
                  lambda slot=slot: self._worker_descriptors(slot),  # type: ignore[misc]
                  told=lambda: str(self._guard_key)) for slot in range(workers)]  # no argument: all may read those
        self._control = Child("control", lambda: list(commands.control), self._control_descriptors,
                              death=signal.SIGTERM, told=self._control_settings)
        self._store: Child | None = None
        if config.registry.url is None:
            argv = commands.store(config.state)
            embedded.folder_of(config.state).mkdir(mode=0o700, exist_ok=True)
            self._store = Child("store", lambda: argv, list, death=signal.SIGTERM)
        self._children = [*self._workers, *([self._store] if self._store else []), self._control]
        self._stopping: int | None = None  # the signal that asked for it
        self._hurry = False
        self._ready = False
        self._looked = time.monotonic()
        self._trust_beats = self._looked + HANG_SECONDS
        self._watchdog = _watchdog_seconds()

    def run(self) -> int:
        """Start everything, keep it running, and leave in order when told to."""
        dns = " ".join(sockets.text(host, port) for host, port in self._addresses)
        admin = " ".join(sockets.text(*sock.getsockname()[:2]) for sock in self._admin)
        self._say(f"{len(self._workers)} workers, DNS on {dns}, admin API on {admin}")
        while self._stopping is None:
            self._turn(self._children)
        self._leave()
        return 0

    # --- the loop ---

    def _turn(self, kept: Sequence[Child]) -> None:
        """Wait for a signal or the next thing due, note what ended, start again what is kept."""
        now = time.monotonic()
        dues = [child.due for child in kept if child.due is not None]
        wait = min([0.5 if self._ready else 0.05, *(due - now for due in dues)])
        info = signal.sigtimedwait(_SIGNALS, max(wait, 0.0))
        if info:
            self._signalled(info.si_signo)
        now = time.monotonic()
        for child in self._children:
            why = child.ended()
            if why and child in kept:
                planned = child.replacing
                child.again(now, why)
                if child.failures >= 2 and child in self._workers and not planned:
                    self._give_up_sockets(self._workers.index(child))
        for child in kept:
            if child.due is not None and child.due <= now and not self._hurry:
                self._start(child, now)
        self._look(now)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._control.signal(signal.SIGHUP)
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stopping is None:
                self._stopping = number
            else:
                self._hurry = True

    def _start(self, child: Child, now: float) -> None:
        if child in self._workers:
            head = metrics.head(self._stats, self._workers.index(child))
            head[metrics.PID] = head[metrics.EPOCH] = 0
        child.start(now)

    def _give_up_sockets(self, slot: int) -> None:
        """Let the kernel give this slot's share of the queries to the others, until it has started without sockets.

        The last sockets stay: what waits in them is answered by the next start, a closed port answers nobody.
        """
        bound = self._bound[slot]
        if bound and sum(other is not None for other in self._bound) > 1:
            bound.close()
            self._bound[slot] = None

    def _give_sockets(self, slot: int) -> None:
        """The worker has started, so it is worth having sockets again: end it and start it with them."""
        try:
            self._bound[slot] = sockets.bind(self._addresses, self._tls)
        except sockets.BindError as error:
            log(f"{self._workers[slot].name} has no sockets: {error}")
            return
        self._workers[slot].replacing = True
        self._workers[slot].signal(signal.SIGTERM)

    def _look(self, now: float) -> None:
        """Ready for the first time? A worker stuck? Tell the service manager that we turn."""
        if now - self._looked > HANG_SECONDS / 4:  # we were stopped ourselves: their beats are as old as our sleep
            self._trust_beats = now + HANG_SECONDS
        self._looked = now
        serving = 0
        for slot, child in enumerate(self._workers):
            head = metrics.head(self._stats, slot)
            up = bool(child.process and head[metrics.PID] == child.process.pid and head[metrics.EPOCH])
            if up and self._bound[slot] is None and self._stopping is None:
                self._give_sockets(slot)
            serving += up and not child.replacing
            beat = max(head[metrics.BEAT_MS] / 1000, child.started)
            if child.process and now > self._trust_beats and now - beat > HANG_SECONDS:
                log(f"{child.name} has been stuck for {now - beat:.0f} s, killing it")
                child.signal(signal.SIGKILL)
        if not self._ready and serving == len(self._workers):
            self._ready = True
            self._say("all workers serve")
            _notify("READY=1")
        if self._watchdog and now >= self._watchdog[1]:
            self._watchdog = (self._watchdog[0], now + self._watchdog[0])
            _notify("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if self._config.log_level in ("debug", "info"):
            log(text)

    # --- leaving ---

    def _leave(self) -> None:
        """Not ready, still answering; then workers, control and last the store end. A second signal cuts it short."""
        _notify("STOPPING=1")
        self._say("draining" if self._stopping == signal.SIGTERM else "stopping")
        self._control.signal(signal.SIGTERM)  # from now on /readyz says no; it leaves when the lifeline ends
        if self._stopping == signal.SIGTERM:
            kept = [*self._workers, *([self._store] if self._store else [])]
            until = time.monotonic() + self._config.drain_seconds
            while time.monotonic() < until and not self._hurry:
                self._turn(kept)
        self._end(self._workers, signal.SIGTERM, LEAVE_SECONDS)
        os.close(self._lifeline_end)
        self._end([self._control], None, LEAVE_SECONDS)
        if self._store:
            self._end([self._store], signal.SIGTERM, STORE_LEAVE_SECONDS)

    def _end(self, children: Sequence[Child], number: int | None, seconds: float) -> None:
        """Ask children to leave and wait; kill who has not in time, or all at once in a hurry."""
        for child in children:
            if number is not None:
                child.signal(number)
        until = time.monotonic() + seconds
        while any(child.process for child in children):
            if self._hurry or time.monotonic() > until:
                for child in children:
                    child.signal(signal.SIGKILL)
            self._turn([])

    # --- what children are given ---

    def _worker_argv(self, slot: int) -> list[str]:
        bound, config = self._bound[slot] or _NO_SOCKETS, self._config
        return [*self._commands.worker, json.dumps({
            "slot": slot, "node": config.node, "workers": len(self._workers), "state": str(config.state),
            "udp": [s.fileno() for s in bound.udp], "tcp": [s.fileno() for s in bound.tcp],
            "tls": [s.fileno() for s in bound.tls], "feed": self._feeds[slot][1].fileno(),
            "desk": self._desks[slot][1].fileno() if self._desks else -1,
            "tap": self._tap[1].fileno() if self._tap else -1, "tap_every": config.capture.every,
            "engine": config.engine, "pin": config.pin, "trips": config.site is not None,
            "lifeline": self._lifeline, "stats": _inherited(self._stats_file),
            "limits": config.tcp.model_dump(exclude={"proxy_from"}), "proxy_from": config.tcp.proxy_from,
            "certificate": _path(config.tls.certificate), "key": _path(config.tls.key), "answering": self._answering(),
        })]

    def _answering(self) -> dict[str, Any]:
        """What workers must know beside the image: whom to believe, whom to limit, what to tell of themselves."""
        config = self._config
        zones = [each for zone in config.zones for each in zone.transfer]
        return {
            "resolvers": config.ecs.resolvers, "identity": config.identity.server, "version": config.identity.version,
            "rate": config.rate.model_dump() if config.rate.answers else None,
            "guard": _inherited(self._guard_file) if self._guard_file else "",
            "cookies": _path(config.cookie_file), "signed": bool(config.keys),
            "neighbours": [each for each in zones if not each.startswith(KEY)],
            "why": [each for each in config.why.allow if not each.startswith(KEY)],
        }

    def _worker_descriptors(self, slot: int) -> list[int]:
        bound = self._bound[slot] or _NO_SOCKETS
        pairs = [self._feeds[slot], *self._desks[slot : slot + 1], *([self._tap] if self._tap else [])]
        files = [file.fileno() for file in (self._stats_file, self._guard_file) if file]
        return [*(s.fileno() for s in bound.all()), *(theirs.fileno() for _, theirs in pairs), *files, self._lifeline]

    def _control_settings(self) -> str:
        config = self._config
        settings: dict[str, Any] = config.model_dump(mode="json")
        settings |= {
            "feeds": [ours.fileno() for ours, _ in self._feeds], "lifeline": self._lifeline,
            "admin": [s.fileno() for s in (*self._admin, self._beside)],
            "store_url": config.registry.url or embedded.url(config.state),
            "stats": str(config.state / disk.STATS), "atlas": str(config.atlas), "maps": str(config.maps),
            "certificate": settings["admin"]["certificate"], "key": settings["admin"]["key"],
            "admin_listen": list(config.admin.listen),
            "desks": [ours.fileno() for ours, _ in self._desks], "tap": self._tap[0].fileno() if self._tap else -1,
            "keys": [{"name": key.name, "algorithm": key.algorithm, "secret": base64.b64encode(key.octets()).decode()}
                     for key in config.keys],
        }
        return json.dumps(settings)

    def _control_descriptors(self) -> list[int]:
        pairs = [*self._feeds, *self._desks, *([self._tap] if self._tap else [])]
        listening = [*self._admin, self._beside]
        return [*(ours.fileno() for ours, _ in pairs), *(s.fileno() for s in listening), self._lifeline]


# --- the process's surroundings ---------------------------------------------------------------------------------------


def _lock(path: Path) -> Any:
    """The open, locked file with our pid in it; None when another process holds it."""
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate()
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    return file


def _new_shared(path: Path, size: int) -> BinaryIO:
    """Memory that workers share, all zero, in a new file: processes that are still leaving keep the old one."""
    path.unlink(missing_ok=True)
    file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b")  # noqa: SIM115 - is kept
    os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would be noticed by a SIGBUS in the workers
    return file


def _inherited(file: BinaryIO) -> str:
    """A path to a file that a child has inherited, whatever has become of its name."""
    return f"/proc/self/fd/{file.fileno()}"


def _has_desk(config: Config) -> bool:
    """Whether anything is configured that workers leave to control: transfers, signed queries, explanations."""
    return bool(config.keys or config.why.allow or any(zone.transfer for zone in config.zones))


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _pair() -> tuple[socket.socket, socket.socket]:
    """Control's end and the worker's; both stay open here, so that neither side's restart loses a frame."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FEED_BUFFER)
        end.setblocking(False)
    return pair


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        goal = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # a service manager's filter may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
            log(f"too few open files are allowed, {goal} at most; tcp.connections wants {wanted}")


def _notify(state: str) -> None:
    """sd_notify(3): one datagram to the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def _watchdog_seconds() -> tuple[float, float] | None:
    """How often to tell the service manager that we turn, and when next; None when it does not ask."""
    asked = os.environ.get("WATCHDOG_USEC", "")
    return (int(asked) / 2e6, 0.0) if asked.isdigit() and int(asked) else None


def _refuse(text: str, code: int) -> int:
    log(text)
    return code
