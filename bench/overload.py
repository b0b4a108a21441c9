"""More than one worker can answer, and what becomes of good questions: `python bench/overload.py [--rate N ...]`.

Lives here: one UDP loop with shedding or without, a flood of names that do not exist (udpblast), a canary that asks for
one that does, the table. Does not live here: load (`workloads`), C programs (`servers`), tests of what is shed.

The loop runs alone on CPU 1, as a worker has it but without its process around; flood and canary share CPU 0. The
canary asks 500 times a second whatever comes back; goodput is the share of its questions that were answered within a
second. A flood of good questions cannot be shed: those rows show what is lost when everything has to be answered.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import servers
import uvloop
import workloads

from dnsd import metrics
from dnsd.serve import contexts, mmsg, udp
from dnsd.sockets import UDP_RECEIVE
from tests.golden import world
from tests.node import free_port

PROGRAMS: Final = servers.ROOT / "build" / "bench"
SECONDS: Final = 4.0
CANARY_RATE: Final = 500
SOURCES: Final = 20_000
RATES: Final = (100_000, 200_000, 300_000)
FLOODS: Final = {"NXDOMAIN": "W5", "good": "W1"}


class Outcome(NamedTuple):
    """Share of the canary's questions answered, how long that took; replies to the flood a second; what was dropped."""

    goodput: float
    p50_ms: float
    p99_ms: float
    answered: float
    shed: int
    lost: int


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, nargs="*", default=RATES, help="flood, queries a second")
    parser.add_argument("--serve", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    servers.compile_programs(PROGRAMS)
    with tempfile.TemporaryDirectory() as folder:
        files = workloads.write(Path(folder))
        print("| flood | queries/s | shedding | goodput | p50 ms | p99 ms | flood answered/s | shed | kernel dropped |")
        print("|---|---|---|---|---|---|---|---|---|")
        for kind, name in FLOODS.items():
            for rate in options.rate:
                for most in (0, contexts.SHED_MOST):
                    found = measure(files[name], rate, most)
                    print(f"| {kind} | {rate:,} | {'yes' if most else 'no'} | {found.goodput:.1%} | {found.p50_ms:.2f}",
                          f"{found.p99_ms:.2f} | {found.answered:,.0f} | {found.shed:,}", f"{found.lost:,} |",
                          sep=" | ", flush=True)


def measure(file: Path, rate: int, most: int) -> Outcome:
    """One flood at one server."""
    with _served(most) as (port, process):
        command = [str(PROGRAMS / "udpblast"), "-p", str(port), "-f", str(file), "-t", str(SECONDS), "-r", str(rate),
                   "-S", str(SOURCES), "-W", "0.5"]
        flood = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        os.sched_setaffinity(flood.pid, {servers.CLIENT_CPU})
        took, asked = canary(port, SECONDS)
        said: dict[str, Any] = json.loads(flood.communicate(timeout=30)[0])
        process.send_signal(signal.SIGTERM)
        shed, lost = map(int, process.communicate(timeout=10)[0].split())
    waits = sorted(took) or [0.0]
    p99 = waits[int(0.99 * len(waits))]
    return Outcome(len(took) / asked, 1e3 * median(waits), 1e3 * p99, said["qps"], shed, lost)


def canary(port: int, seconds: float) -> tuple[list[float], int]:
    """Asks at its rate from many ports; how long each answer took, and how many questions there were."""
    question = workloads.packet(f"h00001.{workloads.ZONE}", edns=True)
    took, sent = list[float](), dict[int, float]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.77.7.7", 0))
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        time.sleep(0.6)  # the flood's warm-up
        start, number = time.perf_counter(), 0
        while (now := time.perf_counter()) < start + seconds + 1:
            while number < CANARY_RATE * min(now - start, seconds):
                sent[number] = time.perf_counter()
                sock.send(number.to_bytes(2, "big") + question[2:])
                number += 1
            if select.select([sock], [], [], 0.0005)[0]:
                came = int.from_bytes(sock.recv(4096)[:2], "big")
                after = time.perf_counter() - sent.pop(came, now - 2)
                if after < 1:
                    took.append(after)
        return took, number


@contextmanager
def _served(most: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    port = free_port()
    command = [sys.executable, __file__, "--serve", str(port), str(most)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {servers.SERVER_CPU})
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield port, process
    finally:
        process.kill()
        process.wait()


def serve(port: int, most: int) -> None:
    """The UDP loop of a worker until SIGTERM; then says what was shed, and what the kernel dropped."""
    contexts.SHED_MOST = most  # type: ignore[misc]
    count = metrics.counters(memoryview(bytearray(metrics.REGION)), 0)
    serving = udp.Serving(world.image([world.zone(workloads.ZONE, _hosts())]), count, "bench w0")
    loop = uvloop.new_event_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_RECEIVE)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
        loop.add_reader(sock, udp.Listener(mmsg.channel(sock, count), serving).readable)
        loop.add_signal_handler(signal.SIGTERM, loop.stop)
        print("ready", flush=True)
        loop.run_forever()
        print(count[metrics.SHED], _dropped(port), flush=True)


def _hosts() -> str:
    """The zone's hosts; SOA and NS are the builder's."""
    return "\n".join(line for line in workloads.zone_text().splitlines() if line[0] in "hw")


def _dropped(port: int) -> int:
    """Datagrams the kernel dropped at that port, from /proc/net/udp."""
    lines: Sequence[str] = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    return sum(int(line.split()[-1]) for line in lines if line.split()[1].endswith(f":{port:04X}"))


if __name__ == "__main__":
    main()
