"""CPU time of probes: `python bench/probes.py [--kinds tcp,http] [--rate 1000] [--seconds 8] [--loop uvloop]`.

A schedule with as many targets as the rate takes, all on loopback, in this process; the listeners in another one. What
is printed is this process's CPU time: as a share of one core, and for each probe. 2 probes a second for each target.

`--endpoints 200` looks at a whole node from outside instead: an HTTP server that many endpoints lead to notes when
probes come, how they are spread over the interval, and after how long the node lets go of an endpoint that accepts and
never answers; DNS questions are asked all the while, before there is a probe and then.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dnsd.control.clock import Clock  # noqa: E402
from dnsd.dns.prefixes import Prefixes  # noqa: E402
from dnsd.watch import probe  # noqa: E402
from dnsd.watch.budget import Limits  # noqa: E402
from dnsd.watch.outcome import Outcome  # noqa: E402
from dnsd.watch.schedule import Schedule, Target  # noqa: E402
from dnsd.watch.target import Check, Policy  # noqa: E402

KINDS: Final = ("tcp", "http", "https", "grpc", "dns")
GRPC: Final = b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\4\0\0\0\1\x88" + b"\0\0\7\0\0\0\0\0\1\0\0\0\0\2\x08\1"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="uvloop")
    parser.add_argument("--endpoints", type=int, default=0)
    options = parser.parse_args()
    if options.endpoints:
        with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder:
            print(asyncio.run(_node(options.endpoints, options.seconds, Path(folder))))
        return 0
    mine, theirs = multiprocessing.Pipe()
    listeners = multiprocessing.get_context("spawn").Process(target=_listen, args=(theirs,), daemon=True)
    listeners.start()
    ports: dict[str, int] = mine.recv()
    for kind in options.kinds.split(","):
        running = _measure(kind, ports[kind], options.rate, options.seconds)
        if options.loop == "uvloop":
            import uvloop

            print(uvloop.run(running), flush=True)
        else:
            print(asyncio.run(running), flush=True)
    listeners.terminate()
    return 0


async def _measure(kind: str, port: int, rate: int, seconds: float) -> str:
    starts: defaultdict[Target, list[float]] = defaultdict(list)
    good = bad = 0

    def begin(check: Check, address: bytes, timeout_s: float, done: Callable[[Outcome], None],
              connect_s: float | None) -> probe.Exchange:
        starts[Target(check, address)].append(time.monotonic())
        return probe.begin(check, address, timeout_s, done, connect_s)

    def result(_: Target, outcome: Outcome, __: int) -> None:
        nonlocal good, bad
        good, bad = good + outcome.ok, bad + (not outcome.ok)

    policy = Policy(allow=Prefixes(["127.0.0.0/8"]))
    schedule = Schedule(begin, result, policy, clock=Clock(), node="bench", limits=Limits(service=rate * 2))
    check = Check(kind, port, verify=False)  # type: ignore[arg-type]
    for i in range(rate // 2):
        host = (1, 0) if kind == "dns" else (i & 255, i >> 8)  # a datagram's reply must come from where it was sent to
        target = Target(check._replace(qname=f"e{i}.example"), bytes((127, 0, host[1], host[0])))
        schedule.watch(target, f"e{i}", "s")
    running = asyncio.create_task(schedule.run())
    await asyncio.sleep(2)
    starts.clear()
    good = bad = 0
    cpu, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    gaps = [after - before for times in starts.values() for before, after in pairwise(times)]
    p99 = statistics.quantiles(gaps, n=100)[98] * 1000
    return (f"{kind:6} {good / wall:6.0f} probes/s ({bad} failed)  {cpu / wall:6.1%} of a core  "
            f"{cpu / max(1, good + bad) * 1e6:5.0f} µs a probe  interval p99 {p99:.0f} ms")


# --- a whole node ---


class _Seen(asyncio.Protocol):
    """A probe as the server sees it: when it came to which address, and when it was let go of unanswered."""

    def __init__(self, came: defaultdict[str, list[float]], held: list[float], holes: set[str]) -> None:
        self.came, self.held, self.holes = came, held, holes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.at, self.host = time.monotonic(), transport.get_extra_info("sockname")[0]
        self.came[self.host].append(self.at)

    def data_received(self, data: bytes) -> None:
        if self.host not in self.holes:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self.host in self.holes:
            self.held.append((time.monotonic() - self.at) * 1000)


async def _node(endpoints: int, seconds: float, folder: Path) -> str:
    import workloads
    from failover import ZONE, Asker, _asker
    from servers import Node, free_port, write_config

    async def asked(asker: Asker, seconds: float) -> list[float]:
        found, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            await asker.ask(workloads.packet(f"ns1.{workloads.ZONE}"))
            found.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(0.002)
        return found

    came: defaultdict[str, list[float]] = defaultdict(list)
    held: list[float] = []
    holes: set[str] = set()
    port, hosts = free_port(), [f"127.77.1.{i}" if i < 250 else f"127.77.{2 + i // 250}.{i % 250}"
                                for i in range(1, endpoints + 1)]
    server = await asyncio.get_running_loop().create_server(lambda: _Seen(came, held, holes), "0.0.0.0", port)
    node = Node(write_config(folder / "bench", folder / "atlas", zones={workloads.ZONE: ZONE},
                             more='[probes]\nallow = ["127.77.0.0/16"]\n[rate]\nanswers = 0\n'))
    try:
        await asyncio.to_thread(node.start)
        asker = await _asker(node.port)
        await asked(asker, 2)
        quiet = await asked(asker, seconds)
        await asyncio.to_thread(node.apply, {
            "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
            "services": [{"name": f"s.{workloads.ZONE}", "check": {"kind": "http", "port": port}}],
            "endpoints": [{"id": f"e{i}", "service": f"s.{workloads.ZONE}", "site": "fra", "a": host}
                          for i, host in enumerate(hosts)]})
        await asyncio.sleep(8)
        came.clear()
        since = time.monotonic()
        probed = await asked(asker, seconds)
        gaps = sorted((after - before) * 1000 for times in came.values() for before, after in pairwise(times))
        rate = sum(map(len, came.values())) / (time.monotonic() - since)
        places = [times[-1] % 0.5 for times in came.values() if times]
        tenths = [sum(int(place * 20) == i for place in places) for i in range(10)]
        holes.update(hosts[:5])
        held.clear()
        await asyncio.sleep(2)  # three timeouts, before the path may be longer and gets the whole second
        waited = sorted(held[: 3 * 5])
    finally:
        await asyncio.to_thread(node.stop)
        server.close()
    return "\n".join((
        f"{len(came)} endpoints, {rate:.0f} probes/s",
        f"start to start: p50 {statistics.median(gaps):.0f} ms, p99 {_p99(gaps):.0f} ms, max {gaps[-1]:.0f} ms",
        f"endpoints by tenth of the interval: {' '.join(map(str, tenths))}",
        f"let go of unanswered after: {waited[0]:.0f} to {waited[-1]:.0f} ms ({len(waited)})",
        f"DNS p50, p99: {statistics.median(quiet):.2f}, {_p99(quiet):.2f} ms without, "
        f"{statistics.median(probed):.2f}, {_p99(probed):.2f} ms with probes"))


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _listen(parent: Connection) -> None:
    import uvloop

    uvloop.run(_serve(parent))


class _Stream(asyncio.Protocol):
    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer)
        self.transport.close()


class _Datagram(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data[:2] + b"\x81" + data[3:], addr)


async def _serve(parent: Connection) -> None:
    import ssl

    from tests import certificates

    with tempfile.TemporaryDirectory() as folder:
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secure.load_cert_chain(*certificates.write(Path(folder)))
    loop = asyncio.get_running_loop()
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ports = {}
    answers = (("tcp", b"", None), ("http", page, None), ("https", page, secure), ("grpc", GRPC, None))
    for kind, answer, layer in answers:
        server = await loop.create_server(lambda answer=answer: _Stream(answer), "0.0.0.0", 0, ssl=layer, backlog=1024)
        ports[kind] = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_datagram_endpoint(_Datagram, ("0.0.0.0", 0))
    ports["dns"] = transport.get_extra_info("sockname")[1]
    parent.send(ports)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
