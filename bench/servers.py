"""The servers that are compared: starting them, keeping them on their CPU, reading what CPU time they used.

Lives here: dnsd, gdnsd and the limit responder as processes. Does not live here: load (`workloads`), rounds
(`compare`).

All servers stand on CPU 1 and wait; only one at a time is asked. dnsd is a whole `dnsd serve` with one worker: the
worker is measured; its control process and store share CPU 0 with the load generator, so they cost dnsd nothing but
they do not help it either.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import workloads  # noqa: E402

from tests.node import Node, free_port, write_config  # noqa: E402

SERVER_CPU: Final = 1
CLIENT_CPU: Final = 0
PROGRAMS: Final = ("udpblast", "udplimit", "tcpblast")


class Server(NamedTuple):
    """A running server; `pid` is the process whose CPU time counts, `checked` whether its answers mean anything."""

    name: str
    port: int
    pid: int
    version: str
    checked: bool = True


def compile_programs(folder: Path) -> None:
    """Compiles the C programs into a folder, those that are older than their source."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        source, program = ROOT / "bench" / f"{name}.c", folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["cc", "-O2", "-o", program, source], check=True)


def cpu_ns(pid: int) -> int:
    """Nanoseconds that a process's threads have run, from the scheduler's own account."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def pin(pid: int, cpu: int) -> None:
    """Keeps a process and its threads on a CPU, and ahead of other work on the machine where that is allowed.

    A session is a scheduler group of its own, within which niceness counts; the group has a niceness too.
    """
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, int(task.name), -12)
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-12")


@contextmanager
def dnsd(folder: Path) -> Iterator[Server]:
    """A node with the bench zone and fleet, one worker, plain Python; no rate limits, as the others have none."""
    config = write_config(folder, folder / "atlas", workers=1, zones={workloads.ZONE: workloads.zone_text()},
                          more="[rate]\nanswers = 0\n")
    node = Node(config, env={"DNSD_ENGINE": "python"})
    node.cli("data", "build")
    try:
        node.start()
        node.apply(workloads.fleet(), 60)
        settled(node)
        worker = node.children("serve.worker")[0]
        assert node.process is not None
        for pid in [node.process.pid, *node.children()]:
            pin(pid, SERVER_CPU if pid == worker else CLIENT_CPU)
        yield Server("dnsd", node.port, worker, node.cli("version").stdout.strip())
    finally:
        node.stop()


def settled(node: Node, seconds: float = 60) -> None:
    """Waits until the fleet's own map is derived and served; until then map 0 answers, finer but as right."""
    deadline = time.monotonic() + seconds
    last, since = "", time.monotonic()
    while time.monotonic() < deadline:
        now = str(node.api("GET", "/v1/status").body.get("maps"))
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > 6:  # maps are derived at most once in five seconds
            return
        time.sleep(0.2)


@contextmanager
def gdnsd(folder: Path) -> Iterator[Server]:
    """gdnsd with the same zone, the same sixteen places (nearest by distance) and the same location data."""
    port = free_port()
    for name in ("zones", "run", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    places = workloads.sites()
    (folder / "config").write_text(f"""
options => {{
  listen => {{ 127.0.0.1:{port} => {{ udp_threads => 1, tcp_threads => 1 }} }}
  run_dir => {folder}/run, state_dir => {folder}/state
}}
plugins => {{ geoip => {{
  maps => {{ bench => {{
    geoip2_db => {workloads.GEO}
    datacenters => [{", ".join(s.id for s in places)}]
    auto_dc_coords => {{ {", ".join(f"{s.id} => [{s.latitude}, {s.longitude}]" for s in places)} }}
  }} }}
  resources => {{ geo => {{
    map => bench, service_types => up, dcmap => {{ {", ".join(f"{s.id} => {s.address}" for s in places)} }}
  }} }}
}} }}
""", encoding="utf-8")
    (folder / "zones" / workloads.ZONE).write_text(workloads.zone_text() + "geo 8 DYNA geoip!geo\n", encoding="utf-8")
    program = shutil.which("gdnsd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise SystemExit("gdnsd is not installed")
    usage = subprocess.run([program, "-h"], capture_output=True, text=True, check=False)
    with _process([program, "-c", str(folder), "start"], folder / "log") as pid:
        _wait_for(port, folder / "log")
        pin(pid, SERVER_CPU)
        yield Server("gdnsd", port, pid, _version(usage.stdout + usage.stderr))


def _version(text: str) -> str:
    """What gdnsd says of itself, beside telling that it has no such option."""
    return next((line for line in text.splitlines() if line.startswith("gdnsd version")), "gdnsd")


@contextmanager
def limit(folder: Path, programs: Path) -> Iterator[Server]:
    """The responder that does nothing but receive and send."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with _process([str(programs / "udplimit"), str(port), "mmsg"], folder / "log") as pid:
        _wait_for(port, folder / "log")
        pin(pid, SERVER_CPU)
        yield Server("limit", port, pid, "limit: recvmmsg and sendmmsg, 64 at a time", checked=False)


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[int]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def _wait_for(port: int, log: Path, seconds: float = 20) -> None:
    """Until something answers a query on that port."""
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        while time.monotonic() < deadline:
            with suppress(OSError):
                sock.sendto(workloads.packet(f"www.{workloads.ZONE}"), ("127.0.0.1", port))
                sock.recv(4096)
                return
    raise SystemExit(f"port {port} does not answer:\n{log.read_text(errors='replace')}")
