"""A flood of hostile packets, and a canary that goes on asking as if nothing were: none of its questions is lost.

`FLOOD_PACKETS=100000` is the whole flood, half a minute at 3,000 a second; without it there is a sixth of it. The
canary asks the C program that only receives and sends (bench/udplimit.c) under the same flood too, so its latency can
be judged on whatever machine this is: what it waits there is the kernel's, the load's and its own doing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import pytest

from tests.golden.world import wire as wire_name
from tests.hostile.packets import asked
from tests.node import ROOT, ZONE, Node, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.needs("dig", "cc"), pytest.mark.timeout(240)]

PACKETS = int(os.environ.get("FLOOD_PACKETS", "15000"))
RATE = 3000
CANARY_RATE = 200
PATIENCE_S = 3.0
GROWTH = 10 << 20
SLOWER = 12
"""Times the limit's median: a batch of 64 hostile packets costs plain Python 1 ms, and the C program nothing."""
JITTER_S = 0.002
"""What the scheduler of a busy machine may add to a median on its own."""

MORE = """\
*.w TXT "wild"
*.wc CNAME static
sub NS ns.sub
ns.sub A 192.0.2.6
d DNAME t
twice DNAME y.twice
geo CNAME api
huge TXT """ + " ".join(['"' + "y" * 250 + '"'] * 8) + "\n"


class Seen(NamedTuple):
    """What the canary met: seconds each answer took, how many questions were lost."""

    took: list[float]
    lost: int

    @property
    def p99(self) -> float:
        """The 99th percentile."""
        return quantiles(self.took, n=100)[98]


def canary(port: int, busy: Callable[[], bool]) -> Seen:
    """Asks in turn, from an address in another prefix than the flood's, until `busy` is over."""
    questions = [asked(wire_name("static.demo.example")), asked(wire_name("api.demo.example"), b"\0\x1c\0\1", b"")]
    took, lost, number = [], 0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.1.2.3", 0))
        sock.connect(("127.0.0.1", port))
        sock.settimeout(PATIENCE_S)
        while busy():
            number += 1
            question = (number % 65536).to_bytes(2, "big") + questions[number % 2][2:]
            start = time.perf_counter()
            sock.send(question)
            try:
                while sock.recv(4096)[:2] != question[:2]:
                    pass
            except TimeoutError:
                lost += 1
            else:
                took.append(time.perf_counter() - start)
            time.sleep(1 / CANARY_RATE)
    return Seen(took, lost)


def flooded(port: int) -> Seen:
    """What the canary meets during one flood."""
    command = [sys.executable, "-m", "tests.hostile.flood", str(port), str(RATE), str(PACKETS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        seen = canary(port, lambda: process.poll() is None)
        said, _ = process.communicate()
    assert process.returncode == 0
    assert int(said.split()[0]) > 0.99 * PACKETS, said
    return seen


@contextmanager
def limit(folder: Path) -> Iterator[int]:
    """The port of the responder that does nothing but receive and send."""
    program, port = folder / "udplimit", free_port()
    subprocess.run(["cc", "-O2", "-o", program, ROOT / "bench" / "udplimit.c"], check=True)
    with subprocess.Popen([program, str(port), "mmsg"]) as process:
        time.sleep(0.2)
        assert process.poll() is None
        try:
            yield port
        finally:
            process.terminate()


def memory(pid: int) -> int:
    """Octets a process has resident that are its own."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssAnon:")).split()[1])


def test_no_question_of_the_canary_is_lost(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node(workers=2, zones={"demo.example": ZONE + MORE})
    one.apply()
    workers = one.children("serve.worker")
    quiet = canary(one.port, iter([True] * 200 + [False]).__next__)
    before = {pid: memory(pid) for pid in workers}
    seen = flooded(one.port)
    growth = {pid: memory(pid) - before[pid] for pid in workers}
    with limit(tmp_path) as port:
        bare = flooded(port)
    print(f"\n{PACKETS} hostile packets at {RATE}/s: canary asked {len(seen.took)}, lost {seen.lost};",
          f"median {1e6 * median(seen.took):.0f} µs, p99 {1e6 * seen.p99:.0f} µs;",
          f"of the limit {1e6 * median(bare.took):.0f} and {1e6 * bare.p99:.0f} µs;",
          f"without the flood {1e6 * median(quiet.took):.0f} µs;",
          f"ratio {median(seen.took) / median(bare.took):.2f};",
          "workers grew by " + ", ".join(f"{n / 2**20:.1f} MiB" for n in growth.values()))
    assert one.children("serve.worker") == workers, "no worker was replaced"
    assert seen.lost == 0
    assert max(growth.values()) <= GROWTH
    assert median(seen.took) <= SLOWER * median(bare.took) + JITTER_S
    metrics = one.api("GET", "/metrics").body
    assert 'dnsd_internal_errors_total{worker="0"} 0' in metrics
    assert 'dnsd_internal_errors_total{worker="1"} 0' in metrics
