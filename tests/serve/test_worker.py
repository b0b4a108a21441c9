"""A real worker process: what it loads, holds and answers, how it follows control and how it leaves."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnsd import metrics, sockets
from dnsd.engine import finding
from dnsd.image import frames, layout
from dnsd.model import Stamp
from dnsd.serve.crowd import Limits
from dnsd.serve.worker import NO_IMAGE
from tests.node import until
from tests.serve import samples
from tests.serve.samples import FIRST

pytestmark = pytest.mark.e2e  # real processes

ROOT = Path(__file__).parent.parent.parent
NEVER_IN_A_WORKER = (
    "redis", "aiohttp", "pydantic", "numpy", "dns", "dnslib", "maxminddb", "pyasn", "typer", "rich")
LISTING = """
import sys
from dnsd.serve import worker
code = worker.main(sys.argv[1])
open(sys.argv[2], "w").write("\\n".join(sys.modules))
sys.exit(code)
"""
PLAIN = """
import sys
sys.modules["uvloop"] = None
from dnsd.serve import worker
sys.exit(worker.main(sys.argv[1]))
"""


class Rig:
    """What the supervisor gives a worker, and the worker."""

    def __init__(self, state: Path) -> None:
        self.state = state
        state.mkdir(mode=0o700, exist_ok=True)
        self.addresses = sockets.claim([("127.0.0.1", 0)])
        self.bound = sockets.bind(self.addresses)
        self.feed, self.workers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.feed.settimeout(5)
        self.lifeline, self.lifeline_end = os.pipe()
        (state / "stats").write_bytes(bytes(metrics.REGION))
        with (state / "stats").open("r+b") as file:
            self.stats = memoryview(mmap.mmap(file.fileno(), 0))
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(self.addresses[0])
        self.client.settimeout(5)
        self.process: subprocess.Popen[bytes] | None = None
        self.more: dict[str, object] = {}

    def start(self, command: tuple[str, ...] = ("-m", "dnsd.serve.worker"), *more: str) -> subprocess.Popen[bytes]:
        settings = {
            "slot": 0, "node": "n1", "workers": 1, "state": str(self.state),
            "udp": [s.fileno() for s in self.bound.udp], "tcp": [s.fileno() for s in self.bound.tcp],
            "feed": self.workers_end.fileno(), "lifeline": self.lifeline, "stats": str(self.state / "stats"),
            "limits": Limits()._asdict(), "answering": {}, **self.more,
        }
        self.process = subprocess.Popen(
            [sys.executable, *command, json.dumps(settings), *more], cwd=ROOT,
            pass_fds=[*settings["udp"], *settings["tcp"], settings["feed"], self.lifeline])  # type: ignore[misc]
        return self.process

    def send(self, frame: bytes) -> Stamp:
        """A frame to the worker; the stamp it acknowledges."""
        self.feed.send(frame)
        return self.acknowledged()

    def acknowledged(self) -> Stamp:
        """The next acknowledgement."""
        frame, _ = frames.decode(self.feed.recv(layout.FRAME_MAX))
        assert frame.kind == layout.F_ACK
        return frame.stamp

    def ask(self, name: str = "api.demo.example") -> bytes:
        self.client.send(samples.query(name, nsid=True))
        return self.client.recv(4096)

    def head(self, field: int) -> int:
        return metrics.head(self.stats, 0)[field]

    def counted(self, slot: int) -> int:
        """By the worker and its engine together."""
        return metrics.counters(self.stats, 0)[slot] + metrics.engine_counters(self.stats, 0)[slot]

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.bound.close()
        for end in (self.feed, self.workers_end, self.client):
            end.close()
        for descriptor in (self.lifeline, self.lifeline_end):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "state")
    yield rig
    rig.close()


@pytest.fixture
def rig(empty: Rig) -> Rig:
    """With an image on disk."""
    samples.state(empty.state)
    return empty


@pytest.fixture(params=[finding.REQUIRE, finding.PYTHON])
def either(rig: Rig, request: pytest.FixtureRequest) -> Rig:
    """With the compiled engine, and without."""
    rig.more["engine"] = request.param
    return rig


def test_it_answers_follows_and_leaves(either: Rig) -> None:
    rig = either
    process = rig.start()
    assert rig.acknowledged() == FIRST
    reply = rig.ask()
    assert samples.addresses(reply) == ["198.51.100.1"]
    assert samples.nsid(reply) == "n1 w0 0000000000000007.1.0"
    second = Stamp(7, 2, 0)
    assert rig.send(frames.encode(layout.F_RECORDS, second, FIRST, samples.delta(2))) == second
    assert samples.addresses(rig.ask()) == ["198.51.100.2"]
    samples.state(rig.state, Stamp(7, 5, 0), 5)
    assert rig.send(frames.encode(layout.F_RECORDS, Stamp(7, 4, 0), Stamp(7, 3, 0), samples.delta(4))).version == 5
    assert samples.nsid(rig.ask()).endswith(".5.0")
    assert (rig.head(metrics.PID), rig.head(metrics.EPOCH), rig.head(metrics.VERSION)) == (process.pid, 7, 5)
    assert rig.counted(metrics.QUERIES_UDP) == 3
    compiled = rig.more["engine"] == finding.REQUIRE
    assert rig.counted(metrics.ENGINE) == compiled
    until(lambda: metrics.engine_counters(rig.stats, 0)[metrics.RESPONSES_UDP] == 3 * compiled, 5,
          "a reply is counted after it is sent")
    process.terminate()
    assert process.wait(5) == 0


def test_a_burst_of_frames_is_followed_to_its_end(rig: Rig) -> None:
    rig.start()
    assert rig.acknowledged() == FIRST
    last = FIRST
    for version in range(2, 62):
        to = Stamp(7, version, 0)
        rig.feed.send(frames.encode(layout.F_RECORDS, to, last, samples.delta(version)))
        last = to
    until(lambda: rig.acknowledged() == last, 10, "the last frame")
    assert samples.addresses(rig.ask()) == ["198.51.100.61"]


def test_without_an_image_queries_wait_for_the_first(empty: Rig) -> None:
    process = empty.start()
    until(lambda: empty.head(metrics.PID) == process.pid, 10, "started")
    assert empty.acknowledged() == NO_IMAGE, "control is told"
    empty.client.send(samples.query("api.demo.example"))
    assert not select.select([empty.client], [], [], 0.1)[0]
    samples.state(empty.state)
    empty.feed.send(frames.encode(layout.F_REMAP, FIRST, FIRST))
    assert samples.addresses(empty.client.recv(4096)) == ["198.51.100.1"]
    until(lambda: empty.acknowledged() == FIRST, 10, "acknowledged")


def test_the_lifelines_end_is_its_end(rig: Rig) -> None:
    process = rig.start()
    rig.acknowledged()
    os.close(rig.lifeline_end)
    rig.lifeline_end = -1
    assert process.wait(5) == 0


def test_draining_answers_what_waits_and_closes_connections(either: Rig) -> None:
    rig = either
    process = rig.start()
    rig.acknowledged()
    with socket.create_connection(rig.addresses[0], timeout=5) as stream:
        until(lambda: metrics.counters(rig.stats, 0)[metrics.TCP_OPEN] == 1, 5, "accepted")
        os.kill(process.pid, signal.SIGSTOP)
        for number in range(100):
            rig.client.send(samples.query("www.demo.example", number=number))
        process.terminate()
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(5) == 0
        assert stream.recv(10) == b""
    for _ in range(100):
        assert samples.addresses(rig.client.recv(4096)) == ["192.0.2.80"]


def test_the_lifelines_end_under_a_flood_is_its_end_too(either: Rig) -> None:
    process = either.start()
    either.acknowledged()
    deadline = time.monotonic() + 5
    os.close(either.lifeline_end)
    either.lifeline_end = -1
    while process.poll() is None and time.monotonic() < deadline:
        either.client.send(samples.query("www.demo.example"))
    assert process.wait(1) == 0


def test_it_keeps_to_its_core_where_it_is_told_to(rig: Rig) -> None:
    rig.more["pin"] = True
    process = rig.start()
    rig.acknowledged()
    rig.ask()
    tasks = [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]
    assert len(tasks) >= 2, "the engine has a thread"
    assert {frozenset(os.sched_getaffinity(task)) for task in tasks} == {
        frozenset(sorted(os.sched_getaffinity(0))[:1])}


def test_an_engine_that_is_required_and_missing_is_an_end(rig: Rig) -> None:
    rig.more["engine"] = finding.REQUIRE
    process = rig.start(("-c", PLAIN.replace("uvloop", "dnsd.engine.door")))
    assert process.wait(10) == 1


def test_signals_of_the_terminal_are_not_for_it(rig: Rig) -> None:
    process = rig.start()
    rig.acknowledged()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    assert samples.addresses(rig.ask()) == ["198.51.100.1"]
    assert process.poll() is None


def test_it_loads_nothing_foreign(rig: Rig, tmp_path: Path) -> None:
    listing = tmp_path / "modules"
    process = rig.start(("-c", LISTING), str(listing))
    rig.ask()
    process.terminate()
    assert process.wait(5) == 0
    loaded = set(listing.read_text().split("\n"))
    assert not loaded & set(NEVER_IN_A_WORKER)
    ours = {name for name in loaded if name.startswith("dnsd.")}
    assert {name.split(".")[1] for name in ours} == {
        "answer", "chase", "choose", "context", "cookiefile", "disk", "dns", "engine", "image", "metrics", "model",
        "odd", "serve", "steer"}
    known = set(sys.stdlib_module_names) | {
        "dnsd", "uvloop", "siphash24", "cython_runtime", "sitecustomize", "usercustomize"}
    assert not [name for name in loaded if name.split(".")[0] not in known and not name.startswith("_")]


def test_it_holds_little_memory_and_only_its_own_descriptors(rig: Rig) -> None:
    samples.state(rig.state, names=10_000)
    process = rig.start()
    rig.acknowledged()
    for i in range(0, 10_000, 20):
        rig.client.send(samples.query(f"n{i}.demo.example"))
        rig.client.recv(4096)
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    anonymous = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))
    assert anonymous <= 40 * 1024, f"{anonymous} KiB"
    links = {os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
    for end, given in ((rig.feed, False), (rig.client, False), (rig.workers_end, True), (rig.bound.udp[0], True)):
        assert (f"socket:[{os.fstat(end.fileno()).st_ino}]" in links) is given


def test_it_beats_and_counts_kernel_drops(rig: Rig) -> None:
    rig.bound.udp[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    process = rig.start()
    rig.acknowledged()
    first = rig.head(metrics.BEAT_MS)
    assert abs(first / 1000 - time.monotonic()) < 5
    until(lambda: rig.head(metrics.BEAT_MS) > first, 5, "a beat")
    os.kill(process.pid, signal.SIGSTOP)
    for _ in range(200):
        rig.client.send(samples.query("www.demo.example"))
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: rig.counted(metrics.UDP_KERNEL_DROPS) > 100, 5, "drops counted")
    until(lambda: rig.counted(metrics.UDP_KERNEL_DROPS) + rig.counted(metrics.QUERIES_UDP) == 200, 5, "all")


def test_a_second_start_goes_on_counting(rig: Rig) -> None:
    for starts in (1, 2):
        process = rig.start()
        rig.acknowledged()
        rig.ask()
        assert rig.head(metrics.STARTS) == starts
        assert rig.counted(metrics.QUERIES_UDP) == starts
        process.kill()
        process.wait()


def test_a_frame_its_predecessor_took_to_its_grave_is_found(rig: Rig) -> None:
    """Control sends to workers first and writes the journal then; in between a worker may have died."""
    rig.start()
    assert rig.acknowledged() == FIRST
    lost = frames.encode(layout.F_RECORDS, Stamp(7, 2, 0), FIRST, samples.delta(2))
    samples.put(rig.state / "image.journal", lost)
    assert rig.acknowledged() == Stamp(7, 2, 0)
    assert samples.addresses(rig.ask()) == ["198.51.100.2"]


@pytest.mark.parametrize("command", [("-m", "dnsd.serve.worker"), ("-c", PLAIN)], ids=["uvloop", "asyncio"])
def test_udp_and_tcp_on_either_loop(rig: Rig, command: tuple[str, ...]) -> None:
    process = rig.start(command)
    assert samples.addresses(rig.ask("www.demo.example")) == ["192.0.2.80"]
    packet = samples.query("www.demo.example")
    with socket.create_connection(rig.addresses[0], timeout=5) as stream:
        stream.sendall(len(packet).to_bytes(2, "big") + packet)
        stream.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: stream.recv(4096), b""))
    assert samples.addresses(received[2:]) == ["192.0.2.80"]
    process.terminate()
    assert process.wait(5) == 0


