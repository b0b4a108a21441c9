"""The supervisor with real workers, control and store played: what ends comes back, and it leaves in order."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.node import free_port, until
from tests.serve import samples

pytestmark = pytest.mark.e2e  # real processes

ROOT = Path(__file__).parent.parent
RUN = """
import json, sys
from dnsd import config, supervisor
given = json.loads(sys.argv[1])
for name, value in given["constants"].items():
    setattr(supervisor, name, value)
store = [sys.executable, "-c", given["store"], given["config"]["state"]]
commands = supervisor.Commands(control=[sys.executable, "-c", given["control"]], store=lambda state: store)
if given["worker"]:
    commands = commands._replace(worker=[sys.executable, "-c", given["worker"]])
sys.exit(supervisor.run(config.Config(**given["config"]), commands))
"""
CONTROL = """
import json, os, select, signal, sys
settings = json.load(sys.stdin)
def say(text):
    with open(settings["state"] + "/events", "a") as file:
        file.write(f"control {text} {os.getpid()}\\n")
for number, name in ((signal.SIGTERM, "told"), (signal.SIGHUP, "reload")):
    signal.signal(number, lambda *_, name=name: say(name))
with open(settings["state"] + "/settings", "w") as file:
    json.dump(settings, file)
say("starts")
select.select([settings["lifeline"]], [], [])
say("leaves")
"""
STORE = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def say(text):
    with open(sys.argv[1] + "/events", "a") as file:
        file.write(f"store {text} {os.getpid()}\\n")
say("starts")
signal.sigwait([signal.SIGTERM])
say("leaves")
"""
BROKEN_SLOT_1 = """
import json, os, sys
settings = json.loads(sys.argv[1])
if settings["slot"] == 1 and os.path.exists(settings["state"] + "/broken"):
    sys.exit("slot 1 is broken")
from dnsd.serve import worker
sys.exit(worker.main(sys.argv[1]))
"""


class Rig:
    """One supervisor process; its events file says what the stand-ins saw."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.state = samples.state(folder / "state")
        self.port = options.pop("port", None) or free_port()
        self.log = folder / "log"
        self.given: dict[str, Any] = {
            "constants": options.pop("constants", {}), "worker": options.pop("worker", ""), "control": CONTROL,
            "store": STORE, "config": {
                "node": "n1", "state": str(self.state), "workers": 2, "listen": [f"127.0.0.1:{self.port}"],
                "admin": {"listen": ["127.0.0.1:0"]}, "drain_seconds": 0.3, **options}}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, serving: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, json.dumps(self.given)], cwd=ROOT, stderr=log,
                env=os.environ | environment)
        if serving:
            process = self.process
            until(lambda: "all workers serve" in self.said() or process.poll() is not None, 15, "serving")
            assert process.poll() is None, self.said()
        return self.process

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def events(self) -> list[str]:
        """What the stand-ins saw, without process ids."""
        path = self.state / "events"
        return [line.rpartition(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, event: str) -> int:
        """The process that last said so."""
        lines = (self.state / "events").read_text().splitlines()
        return int([line.rpartition(" ")[2] for line in lines if line.startswith(event + " ")][-1])

    def workers(self) -> dict[int, int]:
        """Slot -> process id of the workers that run now."""
        assert self.process is not None
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with suppress(OSError, LookupError, ValueError):
                argument = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[3]
                found[json.loads(argument)["slot"]] = int(pid)
        return found

    def ask(self, timeout: float = 5.0) -> str:
        """One query from a port of its own; which worker answered, empty when none did."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", self.port))
            client.settimeout(timeout)
            client.send(samples.query("www.demo.example", nsid=True))
            try:
                return samples.nsid(client.recv(4096)).split()[1]
            except TimeoutError:
                return ""

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Any]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(tmp_path / f"rig{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


class Flood:
    """Queries at a steady pace, each from a port of its own; all sockets stay open for late answers."""

    def __init__(self, port: int, pace: float = 0.004) -> None:
        self.port, self.pace = port, pace
        self.sent: dict[int, float] = {}
        self.took: dict[int, float] = {}
        self.sockets: dict[int, socket.socket] = {}
        self.poll = select.epoll()

    def run(self, seconds: float) -> None:
        """Send for that long; answers are taken in between."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.connect(("127.0.0.1", self.port))
            self.sockets[client.fileno()] = client
            self.poll.register(client, select.EPOLLIN)
            self.sent[client.fileno()] = time.monotonic()
            client.send(samples.query("www.demo.example"))
            self.take(self.pace)

    def take(self, seconds: float) -> None:
        """Take answers for that long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for descriptor, _ in self.poll.poll(left):
                self.sockets[descriptor].recv(4096)
                self.took[descriptor] = time.monotonic() - self.sent[descriptor]

    def close(self) -> None:
        for client in self.sockets.values():
            client.close()
        self.poll.close()


def test_a_killed_worker_is_back_at_once_and_no_query_is_lost(rig: Any) -> None:
    one = rig()
    one.start()
    before = one.workers()
    flood = Flood(one.port)
    flood.run(0.3)
    os.kill(before[1], signal.SIGKILL)
    flood.run(1.0)
    until(lambda: flood.take(0.05) or len(flood.took) == len(flood.sent), 3, "every answer")
    assert max(flood.took.values()) < 1.0, "what waited was answered within a second"
    flood.close()
    after = one.workers()
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert {one.ask() for _ in range(30)} == {"w0", "w1"}


def test_shared_memory_is_there_for_its_owner_before_it_is_used(rig: Any) -> None:
    """A page that the disk has no room for any more would end a worker in the middle of a flood (mmap(2), SIGBUS)."""
    one = rig()
    one.start()
    for name in ("stats", "guard"):
        status = (one.state / name).stat()
        assert status.st_blocks * 512 >= status.st_size > 0
        assert status.st_mode & 0o777 == 0o600
    assert (one.state / "cookies").stat().st_mode & 0o777 == 0o600


def test_shared_memory_outlives_its_files(rig: Any) -> None:
    """Somebody tidies up the state directory; then a worker dies."""
    one = rig()
    one.start()
    before = one.workers()
    for name in ("stats", "guard"):
        (one.state / name).unlink()
    os.kill(before[1], signal.SIGKILL)
    until(lambda: {one.ask() for _ in range(20)} == {"w0", "w1"}, 10, "both answer")
    assert one.workers()[1] != before[1]


def test_a_second_daemon_on_the_same_state_is_refused(rig: Any, tmp_path: Path) -> None:
    one = rig()
    one.start()
    assert int((one.state / "lock").read_text()) == one.process.pid
    other = Rig(tmp_path / "rig0")
    other.log = tmp_path / "other"
    assert other.start(serving=False).wait(10) == 5
    assert other.said() == (
        f"dnsd supervisor: another dnsd serves from {one.state}: stop it first, or choose another `state`\n")
    assert one.ask() in ("w0", "w1")


def test_a_port_somebody_has_is_not_shared(rig: Any) -> None:
    one = rig()
    one.start()
    other = rig(port=one.port, admin={"listen": ["127.0.0.1:0"]}, listen=[f"127.0.0.1:{one.port}", "192.0.2.254:53"])
    assert other.start(serving=False).wait(10) == 1
    assert f"127.0.0.1:{one.port}: somebody else listens there already; 192.0.2.254:53: not an address" in other.said()
    assert {one.ask() for _ in range(20)} == {"w0", "w1"}


def test_control_comes_back_and_workers_do_not_care(rig: Any) -> None:
    one = rig()
    one.start()
    workers = one.workers()
    one.process.send_signal(signal.SIGHUP)
    until(lambda: "control reload" in one.events(), 5, "SIGHUP reaches control")
    os.kill(one.pid("control starts"), signal.SIGKILL)
    os.kill(one.pid("store starts"), signal.SIGKILL)
    for _ in range(50):
        assert one.ask()
    until(lambda: one.events().count("control starts") == one.events().count("store starts") == 2, 5, "both are back")
    assert one.workers() == workers
    settings = json.loads((one.state / "settings").read_text())
    assert settings["node"] == "n1"
    assert len(settings["feeds"]) == 2
    assert len(settings["admin"]) == 2  # and the socket in the state directory
    assert settings["store_url"] == f"unix://{one.state}/store/store.sock"


@pytest.fixture
def notified() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        yield sock


def test_sigterm_drains_in_order(rig: Any, tmp_path: Path, notified: socket.socket) -> None:
    notified.bind(str(tmp_path / "notify"))
    notified.settimeout(10)
    one = rig()
    process = one.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
    received: list[bytes] = []
    while b"READY=1" not in received or received.count(b"WATCHDOG=1") < 3:
        received.append(notified.recv(100))
    assert received.count(b"READY=1") == 1
    process.terminate()
    until(lambda: "control told" in one.events(), 5, "control knows")
    answered = 0
    started = time.monotonic()
    while "control leaves" not in one.events() and process.poll() is None:
        answered += bool(one.ask(0.2))
    assert answered > 10, "queries are answered while draining"
    assert process.wait(5) == 0
    assert time.monotonic() - started > 0.2
    assert [event for event in one.events() if not event.endswith("starts")] == [
        "control told", "control leaves", "store leaves"]
    notified.settimeout(0)
    with suppress(BlockingIOError):
        while True:
            received.append(notified.recv(100))
    assert b"STOPPING=1" in received


@pytest.mark.parametrize("signals", [
    (signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_in_a_hurry(rig: Any, signals: tuple[int, ...]) -> None:
    one = rig(drain_seconds=60.0)
    process = one.start()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    assert process.wait(5) == 0
    with pytest.raises(ConnectionRefusedError):
        one.ask()


def test_a_slot_that_cannot_start_leaves_its_queries_to_the_others(rig: Any) -> None:
    one = rig(worker=BROKEN_SLOT_1)
    (one.state / "broken").touch()
    one.start(serving=False)
    until(lambda: one.said().count("worker 1 ended") >= 2, 10, "given up")
    assert {one.ask() for _ in range(40)} == {"w0"}
    until(lambda: one.said().count("worker 1 ended") >= 3, 10, "tried again")
    assert {one.ask() for _ in range(40)} == {"w0"}, "trying again takes no queries"
    (one.state / "broken").unlink()
    until(lambda: "all workers serve" in one.said(), 20, f"back: {one.said()}")
    assert {one.ask() for _ in range(40)} == {"w0", "w1"}


def test_when_every_slot_fails_the_port_stays_open(rig: Any) -> None:
    one = rig(worker=BROKEN_SLOT_1.replace('settings["slot"] == 1 and ', ""))
    (one.state / "broken").touch()
    one.start(serving=False)
    until(lambda: all(one.said().count(f"worker {slot} ended") >= 3 for slot in (0, 1)), 10, "both failed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", one.port))
        client.settimeout(20)
        client.send(samples.query("www.demo.example"))
        (one.state / "broken").unlink()
        assert client.recv(4096), "asked while nobody ran"
    until(lambda: "all workers serve" in one.said(), 20, f"back: {one.said()}")


def test_a_stuck_worker_is_replaced(rig: Any) -> None:
    one = rig(constants={"HANG_SECONDS": 2.5})
    one.start()
    before = one.workers()
    os.kill(before[0], signal.SIGSTOP)
    until(lambda: one.workers().get(0, before[0]) != before[0], 10, "replaced")
    assert "worker 0 has been stuck" in one.said()
    until(lambda: {one.ask() for _ in range(20)} == {"w0", "w1"}, 5, "both answer")


def test_children_do_not_outlive_it_and_it_starts_again_at_once(rig: Any) -> None:
    one = rig()
    process = one.start()
    pids = [*one.workers().values(), one.pid("control starts"), one.pid("store starts")]
    os.kill(pids[0], signal.SIGSTOP)  # cannot see the lifeline
    process.kill()
    process.wait()
    one.log.unlink()
    one.start()
    assert {one.ask() for _ in range(20)} == {"w0", "w1"}
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and _state(pid) != "Z"]


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def test_with_a_store_of_the_operators_there_is_none_of_ours(rig: Any) -> None:
    one = rig(registry={"url": "redis://:secret@127.0.0.1:1/0"}, workers=1)
    one.start()
    until(lambda: "control starts" in one.events(), 5, "control")
    assert "store starts" not in one.events()
    assert json.loads((one.state / "settings").read_text())["store_url"] == "redis://:secret@127.0.0.1:1/0"
    arguments = Path(f"/proc/{one.pid('control starts')}/cmdline").read_bytes()
    assert b"secret" not in arguments


def test_a_state_directory_that_cannot_be_used(rig: Any) -> None:
    one = rig()
    one.given["config"]["state"] = "/proc/nowhere"
    assert one.start(serving=False).wait(10) == 1
    assert "state directory /proc/nowhere: " in one.said()
