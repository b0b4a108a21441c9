"""What all measured servers have in common: a process on its CPU, the CPU time it used, the doors it answers at.

Lives here: `Server`, starting and ending processes, keeping them on their CPU, the limit responder, our C programs.
Does not live here: dnsd (`nodes`), other servers (`peers`), load (`workloads`), rounds (`compare`).

All servers stand on CPU 1 and wait; only one at a time is asked, from CPU 0.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import workloads  # noqa: E402

from tests.node import Node, free_port, write_config  # noqa: E402, F401

SERVER_CPU: Final = 1
CLIENT_CPU: Final = 0
BUILT: Final = ROOT / "build" / "bench"
_PROGRAMS: Final = ("udpblast", "udplimit", "tcpblast")
_MORE: Final = {16: ("W1", "W2", "W3", "W4"), 77: ("W5",), 32: ("W7", "W8")}
"""How many octets an answer has more than its query: a record of an address; SOA; the record and a server cookie."""
_PATH: Final = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Missing(Exception):
    """A server that is not installed, or cannot be measured here; says why."""


class Door(NamedTuple):
    """Where a server answers a workload, and the processes whose CPU time counts for it."""

    port: int
    pids: tuple[int, ...]


class Server(NamedTuple):
    """A running server. `doors` by workload: what is not there it cannot do. `checked`: whether its answers mean
    anything. `by_country`: whether it chooses by country, not by distance."""

    name: str
    version: str
    doors: Mapping[str, Door]
    checked: bool = True
    by_country: bool = False


def doors(names: Iterable[str], port: int, *pids: int) -> dict[str, Door]:
    """The same door for several workloads."""
    return dict.fromkeys(names, Door(port, pids))


def compile_programs(folder: Path = BUILT) -> None:
    """Compiles the C programs into a folder, those that are older than their source."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PROGRAMS:
        source, program = ROOT / "bench" / f"{name}.c", folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-o", program, source], check=True)


def find(program: str) -> str:
    """The path of a program; Missing when it is not installed."""
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise Missing(f"{program} is not installed")
    return path


def said(*command: str) -> str:
    """What a program prints, wherever it prints it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def cpu_ns(*pids: int) -> int:
    """Nanoseconds that processes have run, with threads that have ended: their clocks (clock_getcpuclockid(3)), which
    are the scheduler's own account, as is /proc/PID/task/*/schedstat."""
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids)


def anonymous_mib(pid: int) -> float:
    """MiB of a process's memory that no file is behind, and that it shares with nobody who was forked from it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def pin(pid: int, cpu: int) -> None:
    """Keeps a process and its threads on a CPU, and ahead of other work on the machine where that is allowed.

    A session is a scheduler group of its own, within which niceness counts; the group has a niceness too. Threads are
    moved one by one, for knotd has put its own on a CPU already.
    """
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {cpu})
            with suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, int(task.name), -12)
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-12")


def children(pid: int) -> list[int]:
    """All processes below one."""
    below = [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
             for child in (task / "children").read_text().split()]
    return below + [one for child in below for one in children(child)]


@contextmanager
def process(command: list[str], log: Path, ready: Callable[[], bool]) -> Iterator[tuple[int, ...]]:
    """A server as a process with all its children, on its CPU, from when it is ready."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not ready():
            if started.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not answer:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)
        pids = (started.pid, *children(started.pid))
        for pid in pids:
            pin(pid, SERVER_CPU)
        yield pids
    finally:
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(5)
        started.kill()
        started.wait()


def answers(port: int, name: str = f"www.{workloads.ZONE}") -> Callable[[], bool]:
    """Whether something answers a query for a name at that port, with an address."""
    def ask() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.1)
            with suppress(OSError):
                sock.sendto(workloads.packet(name), ("127.0.0.1", port))
                reply = sock.recv(4096)
                return reply[3] & 15 == 0 and reply[7] > 0
        return False

    return ask


@contextmanager
def limit(folder: Path) -> Iterator[Server]:
    """The responder that does nothing but receive and send; its answers have the size of dnsd's."""
    with ExitStack() as stack:
        found = {}
        for octets, names in _MORE.items():
            port = free_port()
            command = [str(BUILT / "udplimit"), str(port), "mmsg", str(octets)]
            found |= doors(names, port, *stack.enter_context(
                process(command, folder / f"log{octets}", answers(port))))
        yield Server("limit", "recvmmsg and sendmmsg, 64 at a time, answers of dnsd's size", found, checked=False)
