"""How soon nobody is sent to an endpoint that has died, and how soon again when it lives: `python bench/failover.py`.

Every run is a service of its own, with two endpoints in two tiers: what fell lately has to succeed more often, so no
endpoint dies twice. What is back is answered at once, without a ramp. The first one dies at a random moment. Each
worker is asked every 10 ms until it answers with the other one; a while later the first lives again, and is waited for
likewise. The time of a run is its last worker's.

    refused   nobody listens: RST                    500     HTTP 500
    silent    SYNs are dropped: the queue is full    slow    200, after 1.2 s
    hole      accepts and never answers

`--resolver` measures what clients behind unbound see: one question every 50 ms from a random while before the death,
and the time of the last answer with the dead address. Deaths take turns.

`--delay MS` puts that many milliseconds, each way, between the node and its endpoints: in two network namespaces that
`dnsd.drill` joins. A death counts from its moment at the endpoint.

All the while every service that nothing has happened to is asked too: it must be answered with its first endpoint. The
node's log must tell of one fall for each death, and of no other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median
from typing import Any, Final

import workloads
from servers import Node, free_port, write_config

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dnsd.drill import netns, network

DEATHS: Final = ("refused", "silent", "hole", "500", "slow")
SITES: Final = (
    {"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
    {"id": "syd", "latitude": -33.9, "longitude": 151.2, "country": "AU", "region": "oc"})
CHECK: Final = {"kind": "http", "path": "/healthz", "text": "ok", "interval_ms": 500, "timeout_ms": 300, "fall": 3,
                "rise": 2, "ramp_ms": 0}
TCP: Final = {"kind": "tcp"} | {key: CHECK[key] for key in ("interval_ms", "timeout_ms", "fall", "rise", "ramp_ms")}
ZONE: Final = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 127.0.0.1\n"
NSID: Final = b"\0\3\0\0"
SLOW_S: Final = 1.2
POLL_S: Final = 0.01
CLIENT_S: Final = 0.05
DEAD_S: Final = 1.0
"""How long an endpoint stays dead after everybody knows, and up to a second more."""

AFTER_S: Final = 6.0
"""How much longer than the TTL clients go on asking after a death."""

PATIENCE_S: Final = 30.0
TTLS: Final = (8, 5)


class Endpoint(asyncio.Protocol):
    """One connection of a prober."""

    def __init__(self, of: Host) -> None:
        self.of, self.got = of, b""

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self.got += data
        if self.got.endswith(b"\r\n\r\n") and self.of.death != "hole":
            status = "500 Broken" if self.of.death == "500" else "200 OK"
            asyncio.get_running_loop().call_later(SLOW_S * (self.of.death == "slow"), self.reply, status)

    def reply(self, status: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
            self.transport.close()


class Place:
    """Where endpoints are: in another network namespace, or here."""

    def __init__(self, namespace: str = "") -> None:
        self.prefix = "10.2.0.0/16" if namespace else "127.77.0.0/16"
        self._there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if namespace else -1
        self._here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def __getitem__(self, number: int) -> IPv4Address:
        return IPv4Network(self.prefix)[number]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that are made meanwhile are at home there."""
        if self._there >= 0:
            netns.enter(self._there, netns.NEW_NET)
        try:
            yield
        finally:
            netns.enter(self._here, netns.NEW_NET)


class Host:
    """An HTTP server at an address, which dies and lives again."""

    def __init__(self, address: IPv4Address, port: int, place: Place) -> None:
        self.at, self.death, self.place = (str(address), port), "", place
        self._fill: list[socket.socket] = []
        self._listen()

    def become(self, death: str) -> None:
        """Die, or live again ("")."""
        before, self.death = self.death, death
        if death in ("refused", "silent"):
            asyncio.get_running_loop().remove_reader(self._sock)
        if death == "refused":
            self._sock.close()
        elif death == "silent":
            self._sock.listen(0)
            for _ in range(3):  # one fits in the queue; while it is full Linux drops SYNs
                with self.place.inside():
                    sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(self.at)
                self._fill.append(sock)
        elif before == "refused":
            self._listen()
        elif before == "silent":
            while self._fill:
                self._fill.pop().close()
            self._sock.listen(64)
            asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _listen(self) -> None:
        with self.place.inside():
            self._sock = socket.create_server(self.at, backlog=64)
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._sock.accept()
            loop = asyncio.get_running_loop()
            task = loop.create_task(loop.connect_accepted_socket(lambda: Endpoint(self), connection))
            task.add_done_callback(lambda done: done.exception())  # a prober that has gone is no news


class Run:
    """A service that is there for one death. `steady`: nothing has happened to it, or it is over."""

    def __init__(self, number: int, port: int, place: Place, *, ttl: int, death: str) -> None:
        self.name, self.ttl, self.death = f"r{number}.{workloads.ZONE}", ttl, death
        self.first, self.second = place[256 + number], place[32768 + number]
        self.hosts = Host(self.first, port, place), Host(self.second, port, place)
        self.steady = True
        self.seconds: list[float] = []

    def fleet(self, port: int, check: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The service and its endpoints."""
        service = {"name": self.name, "ttl": self.ttl, "check": dict(check) | {"port": port}}
        return service, [
            {"id": site["id"], "service": self.name, "site": site["id"], "a": str(address), "tier": tier}
            for tier, (site, address) in enumerate(zip(SITES, (self.first, self.second), strict=True))]


class Asker(asyncio.DatagramProtocol):
    """A socket that is connected to a DNS server; over loopback it always reaches the same worker."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        future = self._waiting.pop(int.from_bytes(data[:2], "big"), None)
        if future is not None and not future.done():
            future.set_result(data)

    async def ask(self, query: bytes) -> bytes:
        """The reply; TimeoutError."""
        self._number = (self._number + 1) & 0xFFFF
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        self.transport.sendto(self._number.to_bytes(2, "big") + b"\1" + query[3:])  # recursion desired
        async with asyncio.timeout(2):
            return await future

    async def address(self, name: str) -> IPv4Address:
        """The one address of a name."""
        query = workloads.packet(name, edns=True)
        reply = await self.ask(query)
        end = query.index(b"\0", 12) + 5
        if reply[3] & 15 or reply[6:8] != b"\0\1":
            raise RuntimeError(f"{name}: {reply.hex()}")
        return IPv4Address(reply[end + 12 : end + 16])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each death, or with --resolver of each TTL")
    parser.add_argument("--resolver", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=0, help="runs at the same time (4; with --resolver 10)")
    parser.add_argument("--seed", type=int, default=random.getrandbits(32))
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="one way between node and endpoints")
    parser.add_argument("--tcp", action="store_true", help="check by TCP alone; only the deaths that it can see")
    parser.add_argument("--far", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.delay and not options.far:
        return _apart(options.delay)
    print(f"CPython {platform.python_version()}, {options.workers} workers, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder:
        return asyncio.run(_main(options, Path(folder)))


def _apart(delay_ms: float) -> int:
    """This command again, on a host that is so far from another, where endpoints will be."""
    with network.Network({"near": "10.1.0.0/16", "far": "10.2.0.0/16"}) as joined:
        joined.way("near", "far", delay_ms=delay_ms)
        *_, far, _ = joined.inside("far")  # the path of its namespace, and "--"
        words = [*joined.inside("near"), sys.executable, *sys.argv, "--far", far]
        return subprocess.run(words, check=False).returncode


async def _main(options: argparse.Namespace, folder: Path) -> int:
    random.seed(options.seed)
    place, deaths = Place(options.far), DEATHS[:2] if options.tcp else DEATHS
    port = free_port()
    kinds = ([(TTLS[i % 2], DEATHS[i // 2 % len(DEATHS)]) for i in range(2 * options.runs)] if options.resolver
             else [(8, death) for death in deaths for _ in range(options.runs)])
    runs = [Run(i, port, place, ttl=ttl, death=death) for i, (ttl, death) in enumerate(kinds)]
    node = Node(write_config(
        folder / "bench", folder / "atlas", workers=options.workers, zones={workloads.ZONE: ZONE},
        more=f'[probes]\nallow = ["{place.prefix}"]\n[rate]\nanswers = 0\n'))
    try:
        await asyncio.to_thread(node.start)
        await _declare(node, runs, port, TCP if options.tcp else CHECK)
        workers = await _by_worker(node.port, options.workers)
        watching = asyncio.create_task(_watch(runs, workers))
        await (_through(node, runs, options.at_once or 10, folder) if options.resolver
               else _each(runs, workers, options.at_once or 4))
        watching.cancel()
        wrong = [f"{n} answers without {name}'s first endpoint" for name, n in (await watching).items()]
        wrong += _falls(node, runs, port)
    finally:
        await asyncio.to_thread(node.stop)
    _report(runs, resolver=options.resolver)
    print("\n".join(wrong) or "nothing healthy was removed")
    return 1 if wrong else 0


async def _declare(node: Node, runs: Sequence[Run], port: int, check: Mapping[str, Any]) -> None:
    """All services, and wait until everybody is up."""
    parts = [run.fleet(port, check) for run in runs]
    await asyncio.to_thread(node.apply, {
        "sites": list(SITES), "services": [service for service, _ in parts],
        "endpoints": [endpoint for _, endpoints in parts for endpoint in endpoints]})
    deadline = time.monotonic() + PATIENCE_S
    while (await asyncio.to_thread(node.api, "GET", "/v1/status")).body["health"]["up"] < 2 * len(runs):
        if time.monotonic() > deadline:
            raise RuntimeError("not all endpoints came up")
        await asyncio.sleep(0.2)
    await asyncio.sleep(6)  # maps are derived, the image is written


async def _asker(port: int) -> Asker:
    _, asker = await asyncio.get_running_loop().create_datagram_endpoint(Asker, remote_addr=("127.0.0.1", port))
    return asker


async def _by_worker(port: int, workers: int) -> list[Asker]:
    """One socket for each worker: NSID tells whom a new one reaches."""
    found: dict[str, Asker] = {}
    for _ in range(1000):
        asker = await _asker(port)
        reply = await asker.ask(workloads.packet(workloads.ZONE, NSID))
        worker = reply[reply.rindex(NSID[:2]) + 4 :].decode("ascii", "replace").split()[1]
        if worker in found:
            asker.transport.close()
        found.setdefault(worker, asker)
        if len(found) == workers:
            return list(found.values())
    raise SystemExit(f"only {sorted(found)} of {workers} workers answer")


async def _each(runs: Sequence[Run], workers: Sequence[Asker], at_once: int) -> None:
    """Every run: its seconds until it is left out, and until it is back."""
    turns = asyncio.Semaphore(at_once)

    async def one(run: Run) -> None:
        async with turns:
            await asyncio.sleep(random.random())
            run.steady = False
            for death, goal in ((run.death, run.second), ("", run.first)):
                began = time.monotonic()
                run.hosts[0].become(death)
                run.seconds.append(max(await asyncio.gather(*(_until(w, run.name, goal) for w in workers))) - began)
                await asyncio.sleep(DEAD_S + random.random())  # not at a fixed time after a probe
            run.steady = True

    async with asyncio.TaskGroup() as tasks:
        for run in random.sample(runs, len(runs)):
            tasks.create_task(one(run))


async def _until(worker: Asker, name: str, goal: IPv4Address) -> float:
    """When a worker answered with that address."""
    deadline = time.monotonic() + PATIENCE_S
    while await worker.address(name) != goal:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name}: not {goal} within {PATIENCE_S:g} s")
        await asyncio.sleep(POLL_S)
    return time.monotonic()


# --- a resolver ---


async def _through(node: Node, runs: Sequence[Run], at_once: int, folder: Path) -> None:
    """Every run: its seconds until the last answer with the dead address that a client gets of unbound."""
    turns = asyncio.Semaphore(at_once)
    async with _unbound(node, folder) as asker:
        async def one(run: Run) -> None:
            async with turns:
                await asyncio.sleep(random.random())
                run.seconds.append(await _last(asker, run))

        async with asyncio.TaskGroup() as tasks:
            for run in random.sample(runs, len(runs)):
                tasks.create_task(one(run))


async def _last(asker: Asker, run: Run) -> float:
    primed = time.monotonic()
    death = primed + random.uniform(0, run.ttl)
    last, now, address = death, primed, run.first
    while now < death + run.ttl + AFTER_S:
        if run.steady and now >= death:
            run.steady, death = False, now
            run.hosts[0].become(run.death)
        address = await asker.address(run.name)
        if address == run.first and not run.steady:
            last = time.monotonic()
        await asyncio.sleep(CLIENT_S)
        now = time.monotonic()
    if address != run.second:
        raise RuntimeError(f"{run.name}: still {address} {now - death:.1f} s after its death")
    return max(0.0, last - death)


@asynccontextmanager
async def _unbound(node: Node, folder: Path) -> AsyncIterator[Asker]:
    """unbound as it comes, but for where the zone is; it answers nobody but this machine."""
    config, port = folder / "unbound.conf", free_port()
    config.write_text(f"""
server:
  interface: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  do-not-query-localhost: no
  module-config: "iterator"
remote-control:
  control-enable: no
stub-zone:
  name: "{workloads.ZONE}"
  stub-addr: 127.0.0.1@{node.port}
""", encoding="utf-8")
    program = shutil.which("unbound", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        raise SystemExit("unbound is not installed")
    process = subprocess.Popen([program, "-d", "-p", "-c", str(config)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        asker = await _asker(port)
        while process.poll() is None:
            with suppress(TimeoutError):
                await asker.ask(workloads.packet(f"ns1.{workloads.ZONE}"))
                break
        yield asker
    finally:
        process.terminate()
        process.wait(10)


# --- what must not happen, and the table ---


async def _watch(runs: Sequence[Run], workers: Sequence[Asker]) -> Counter[str]:
    """Ask for steady services until cancelled; how often each was not answered with its first endpoint."""
    wrong: Counter[str] = Counter()
    with suppress(asyncio.CancelledError):
        while True:
            for run in runs:
                for worker in workers:
                    steady = run.steady
                    wrong[run.name] += await worker.address(run.name) != run.first and steady and run.steady
                await asyncio.sleep(POLL_S)
    return +wrong


def _falls(node: Node, runs: Sequence[Run], port: int) -> list[str]:
    """What the node's log tells of falls beyond one for each run's first endpoint, or less."""
    told = Counter(re.findall(rf"(?:http|tcp) ([0-9.]+):{port} is down", node.log.read_text(encoding="utf-8")))
    due = Counter(str(run.first) for run in runs)
    return [f"{address} fell {told[address]} times, not {due[address]}"
            for address in sorted(told.keys() | due.keys()) if told[address] != due[address]]


def _report(runs: Sequence[Run], *, resolver: bool) -> None:
    rows: dict[str, list[list[float]]] = {}
    for run in sorted(runs, key=lambda run: (-run.ttl, DEATHS.index(run.death))):
        rows.setdefault(f"TTL {run.ttl}" if resolver else run.death, []).append(run.seconds)
    heads = ["last dead answer"] if resolver else ["left out", "back"]
    print(f"|  | runs | {' | '.join(f'{head}: p50 | p95 | max' for head in heads)} |")
    print("| --- |" + " --- |" * (1 + 3 * len(heads)))
    for name, of in rows.items():
        cells = [cell for column in zip(*of, strict=True) for cell in _spread(column)]
        print(f"| {name} | {len(of)} | {' | '.join(cells)} |")


def _spread(seconds: Sequence[float]) -> list[str]:
    found = sorted(seconds)
    return [f"{s:.2f} s" for s in (median(found), found[min(len(found) - 1, int(len(found) * 0.95))], found[-1])]


if __name__ == "__main__":
    sys.exit(main())
