"""Three nodes, their machines' clocks, the network that they probe, and one store, in one process and in virtual time.

Lives here: control processes as they are (`control.app.Process`), started, stopped and killed; workers at the other end
of their feeds; targets. Does not live here: what must hold (`laws`), what happens (`test_machine`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from dnsd import metrics
from dnsd.control import app, watching
from dnsd.control.app import Process, Settings
from dnsd.registry import store as registry_store
from dnsd.registry.store import Registry
from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.target import Check
from tests.control.rig import ZONE, Worker
from tests.machine.laws import Laws
from tests.machine.links import Link
from tests.machine.loops import BEGAN_MS, Loop, NodeClock
from tests.machine.memory import Memory

NODES = ("ams", "fra", "lon")
SKEWS_MS = (0, 700, -400)
NEAR_MS, FAR_MS = 5.0, 900.0
T = TypeVar("T")


class Network:
    """What answers probes. `how`: address -> live, refused, hole, slow; `cut`: what a node cannot reach at all."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.how: dict[str, str] = {}
        self.cut: dict[str, set[str]] = {node: set() for node in NODES}
        self.since: dict[str, float] = {}

    def set(self, address: str, how: str) -> None:
        if self.how.get(address, "live") != how:
            self.how[address] = how
            self.since[address] = self.loop.time()

    def begin(self, node: str) -> Callable[[Check, bytes, float, Callable[[Outcome], None], float | None], _Probe]:
        """`watch.probe.begin` for a node."""
        def begin(check: Check, packed: bytes, timeout_s: float, tell: Callable[[Outcome], None],
                  connect_s: float | None) -> _Probe:
            address = str(ip_address(packed))
            how = "hole" if {address, "*"} & self.cut[node] else self.how.get(address, "live")
            ms = FAR_MS if how == "slow" else NEAR_MS
            outcome = Outcome(True, Reason.OK, ms, ms, ms)
            if how == "refused":
                outcome = Outcome(False, Reason.REFUSED, total_ms=ms)
            elif how == "hole":
                ms = (timeout_s if connect_s is None else connect_s) * 1000
                outcome = Outcome(False, Reason.TIMEOUT, total_ms=ms)
            elif ms > timeout_s * 1000:
                outcome, ms = Outcome(False, Reason.TIMEOUT, total_ms=timeout_s * 1000), timeout_s * 1000
            return _Probe(self.loop.call_later(ms / 1000, tell, outcome), connected=how != "hole")
        return begin


@dataclass
class _Probe:
    handle: asyncio.TimerHandle
    connected: bool

    def stop(self) -> None:
        self.handle.cancel()


@dataclass
class Run:
    """One life of a node's control process."""

    process: Process
    task: asyncio.Task[int]
    end: int
    began_s: float


@dataclass
class Node:
    """One machine: its directory, its workers, and its control process while that runs."""

    name: str
    state: Path
    clock: NodeClock
    link: Link
    workers: list[Worker]
    pairs: list[tuple[socket.socket, socket.socket]]
    run: Run | None = None
    watched: dict[str, Any] = field(default_factory=dict)

    @property
    def process(self) -> Process:
        assert self.run is not None
        return self.run.process


class World:
    """Everything there is; `go` lets time pass."""

    def __init__(self, nodes: int = len(NODES)) -> None:
        random.seed(1)
        self._stack = contextlib.ExitStack()
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.shift_ms = 0
        self.memory = Memory(lambda: BEGAN_MS + round(self.loop.time() * 1000) + self.shift_ms)
        self.network = Network(self.loop)
        self.home = Path(tempfile.mkdtemp(prefix="dnsd-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.faults: list[str] = []
        self.names: dict[str, str] = {}  # what is asked -> the service that it is
        self.ended: set[str] = set()  # names whose owner may have ended what they had
        self.removed: dict[tuple[str, str], float] = {}  # when an operator last took an endpoint away
        self._quiet()
        self.nodes = [self._node(number) for number in range(nodes)]
        self.link = Link(self.memory)  # the operators' own
        self.registry: Any = Registry(self.link)  # type: ignore[arg-type]
        self.memory.wrote = self._wrote
        self.laws = Laws(self)
        for node in self.nodes:
            self.start(node)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Until it is done."""
        return self.loop.run_until_complete(work)

    def go(self, seconds: float) -> None:
        """Time passes."""
        self.do(asyncio.sleep(seconds))
        assert not self.faults, self.faults[:3]
        for node in self.nodes:
            if node.run is not None and node.run.task.done():
                raise AssertionError(f"control of {node.name} ended: {node.run.task!r}") from (
                    node.run.task.exception())

    def close(self) -> None:
        """Everything ends, also where a process has ended by a fault."""
        with contextlib.ExitStack() as ending:
            ending.callback(self._close)
            for node in self.nodes:
                if node.run is not None:
                    ending.callback(self.kill, node)

    def _close(self) -> None:
        for node in self.nodes:
            for worker in node.workers:
                self.loop.remove_reader(worker.sock)
            for pair in node.pairs:
                for sock in pair:
                    sock.close()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        asyncio.set_event_loop(None)
        shutil.rmtree(self.home)
        self._stack.close()

    # --- nodes ---

    def start(self, node: Node) -> None:
        """A control process begins."""
        reading, end = os.pipe()
        settings = Settings(
            node=node.name, state=node.state, feeds=[os.dup(ours.fileno()) for ours, _ in node.pairs],
            lifeline=reading, store_url="unix:///nowhere", stats=node.state / "stats", atlas=node.state / "atlas",
            zones=[{"name": "example.com", "file": self.home / "zone"}],
            probes={"allow": ["192.0.2.0/24", "2001:db8::/32"]})
        with mock.patch.object(app, "Link", return_value=node.link), \
                mock.patch.object(watching.probe, "begin", self.network.begin(node.name)):
            process = Process(settings, node.clock)
        self.laws.attach(node, process)
        task = self.loop.create_task(process.run())
        node.run = Run(process, task, end, self.loop.time())

    def stop(self, node: Node) -> None:
        """It is told to leave, and does."""
        assert node.run is not None
        node.process.leave.set()
        self._ended(node)

    def kill(self, node: Node) -> None:
        """It is gone, with all it did not write down."""
        assert node.run is not None
        process = node.process
        for part in (process, process.watching):
            for name in ("_save", "save"):
                if hasattr(part, name):
                    setattr(part, name, lambda: None)
        node.run.task.cancel()
        self._ended(node)

    def _ended(self, node: Node) -> None:
        assert node.run is not None
        run, node.run = node.run, None
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self.do(asyncio.wait_for(run.task, 30))
        finally:
            self._release(run)

    def _release(self, run: Run) -> None:
        """A process that ends has nothing open."""
        self.loop.remove_reader(run.process.settings.lifeline)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.loop.remove_signal_handler(number)
        os.close(run.process.settings.lifeline)
        os.close(run.end)
        run.process.keeping.close()
        run.process.publisher.files.close()
        for feed in run.process.feeds.feeds:
            feed.sock.close()

    def _node(self, number: int) -> Node:
        name = NODES[number]
        state = self.home / name
        state.mkdir()
        workers = 2 if number == 0 else 1
        (state / "stats").write_bytes(bytes(workers * metrics.REGION))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        node = Node(
            name, state, NodeClock(self.loop, SKEWS_MS[number]), Link(self.memory),
            [Worker(slot, theirs, state) for slot, (_, theirs) in enumerate(pairs)], pairs)
        for worker in node.workers:
            self.loop.add_reader(worker.sock, self._turn, node, worker)
        return node

    def _turn(self, node: Node, worker: Worker) -> None:
        worker.turn()
        worker.frames.clear()
        self.laws.served(node, worker)

    def _wrote(self) -> None:
        for link in (self.link, *(node.link for node in self.nodes)):
            link.wake()

    # --- noise ---

    def _quiet(self) -> None:
        """No lines of logs; but what is logged with a traceback was not foreseen, and so is a fault."""
        (self.home / "zone").write_text(ZONE)
        handler = _Faults(self.faults)
        log = logging.getLogger("dnsd")
        level, passes = log.level, log.propagate
        log.setLevel(logging.ERROR)
        log.propagate = False
        log.addHandler(handler)
        self._stack.callback(log.removeHandler, handler)
        self._stack.callback(setattr, log, "propagate", passes)
        self._stack.callback(log.setLevel, level)
        self._stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        epochs = range(1, 1 << 20)
        self._stack.enter_context(mock.patch.object(registry_store.secrets, "randbits", side_effect=epochs))


class _Faults(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")
