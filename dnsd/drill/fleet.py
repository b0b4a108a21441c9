"""The fleet a drill happens to: five nodes at three sites, endpoints there, one store, a resolver with users.

Lives here: hosts, distances, processes and how to talk to them. Does not live here: faults (`faults`), what is
measured (`trial`).

Every host is a namespace: a node each, a site's endpoints together, the store, the users with their resolver. The store
is at none of the sites, so that a site can be lost without it. Nodes have no atlas: tiers decide who is answered.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dnsd.drill import web
from dnsd.drill.asking import Asker
from dnsd.drill.clock import Clocks
from dnsd.drill.network import WHERE, Network

ZONE: Final = "drill.example"
SITES: Final[tuple[dict[str, Any], ...]] = (
    {"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
    {"id": "iad", "latitude": 39.0, "longitude": -77.5, "country": "US", "region": "na"},
    {"id": "syd", "latitude": -33.9, "longitude": 151.2, "country": "AU", "region": "oc"})
NODES: Final = {"fra-1": "fra", "fra-2": "fra", "iad-1": "iad", "iad-2": "iad", "syd-1": "syd"}
DELAYS_MS: Final = {
    ("fra", "iad"): 45.0, ("fra", "syd"): 140.0, ("iad", "syd"): 100.0, ("core", "fra"): 5.0, ("core", "iad"): 42.0,
    ("core", "syd"): 140.0, ("users", "core"): 10.0, ("users", "fra"): 8.0, ("users", "iad"): 48.0,
    ("users", "syd"): 145.0}
"""One way. Store and users are where no site is."""

STORE, USERS = "store", "users"
WORKERS: Final = 2
START_S: Final = 60.0
_STORE_PORT: Final = 6379
_ADMIN: Final = ("127.0.0.1", 8053)
_SERVERS: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin"


class NotReadyError(Exception):
    """The fleet did not come to where a drill can begin; the text says what was missing."""


@dataclass
class Process:
    """A command on a host; its output goes to a file."""

    words: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. From the thread that stays: it is killed when that ends."""
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | WHERE | self.environment,
                start_new_session=True)

    def kill(self) -> None:
        """SIGKILL."""
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running = None

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:] if self.log.exists() else ""


class Fleet:
    """All of it, under a folder. `redis`: the store's program."""

    def __init__(self, folder: Path, redis: Path, *, seed: int, workers: int = WORKERS) -> None:
        self.folder, self.workers = folder, workers
        self.clocks = Clocks(folder / "clocks")
        self.endpoints: dict[str, web.Endpoint] = {}
        self.network = Network(_hosts(), seed=seed)
        for host in self.network.hosts:
            self.cut(host, list(self.network.hosts), False)
        self.store = self._process(STORE, _store_words(redis, folder, self.network.address(STORE)), clock=STORE)
        self.nodes = {name: self._node(name) for name in NODES}
        self.resolver = self._process(USERS, [_program("unbound"), "-d", "-p", "-c", str(self._unbound())])

    async def start(self) -> None:
        """Everything, until all nodes are ready; NotReadyError."""
        try:
            async with asyncio.timeout(START_S):
                self.store.start()
                await self._until(self.store_answers)
                first, *others = NODES
                for names in ([first], others):  # the first one makes the token
                    for name in names:
                        self.nodes[name].start()
                    for name in names:
                        await self._until(lambda name=name: self.is_ready(name))  # type: ignore[misc]
                self.resolver.start()
        except TimeoutError as error:
            tails = "\n".join(process.tail() for process in (self.store, *self.nodes.values()))
            raise NotReadyError(f"the fleet did not start within {START_S:g} s\n{tails}") from error

    def stop(self) -> None:
        """All processes and the network."""
        for endpoint in self.endpoints.values():
            endpoint.stop()
        for process in (*self.nodes.values(), self.resolver):
            process.kill()
        self.store.kill()
        self.network.close()

    # --- talking to it ---

    @property
    def token(self) -> str:
        """The fleet's admin token."""
        return (self.folder / next(iter(NODES)) / "admin.token").read_text(encoding="ascii").strip()

    async def api(self, node: str, method: str, path: str, body: Any = None, *, seconds: float = 10.0) -> web.Reply:
        """One request to a node's admin API, from its own host; OSError."""
        return await web.call(self.network.socket(node), _ADMIN, (method, path), token=self.token, body=body,
                              seconds=seconds)

    async def is_ready(self, node: str) -> bool:
        """Whether a node says that it is."""
        with suppress(OSError):
            return (await web.call(self.network.socket(node), _ADMIN, ("GET", "/readyz"), seconds=2)).status == 200
        return False

    async def store_answers(self) -> bool:
        """Whether the store does."""
        with suppress(OSError, ValueError):
            return await self.store_ms() > 0
        return False

    async def store_ms(self) -> int:
        """The store's own clock, ms since 1970; OSError, ValueError."""
        sock = self.network.socket(STORE)
        sock.setblocking(False)
        with sock:
            async with asyncio.timeout(2):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(sock, (self.network.address(STORE), _STORE_PORT))
                await loop.sock_sendall(sock, b"TIME\r\n")
                lines = (await loop.sock_recv(sock, 200)).split(b"\r\n")
        if len(lines) < 5:
            raise ValueError("the store does not tell the time")
        return int(lines[2]) * 1000 + int(lines[4]) // 1000

    async def workers_of(self, node: str) -> dict[str, Asker]:
        """A socket for each worker of a node, on the node's own host: NSID tells whom a new one reaches."""
        found: dict[str, Asker] = {}
        for _ in range(500):
            sock = self.network.socket(node, socket.SOCK_DGRAM)
            asker = await Asker.open(sock, (self.network.address(node), 53))
            worker = (await asker.ask(ZONE, 2)).server.split()[1]
            if worker in found:
                asker.close()
            found.setdefault(worker, asker)
            if len(found) == self.workers:
                return dict(sorted(found.items()))
        raise NotReadyError(f"only {sorted(found)} answer at {node}")

    async def asker(self) -> Asker:
        """A user's way to the resolver."""
        return await Asker.open(self.network.socket(USERS, socket.SOCK_DGRAM), (self.network.address(USERS), 53))

    async def open(self, site: str, number: int) -> web.Endpoint:
        """A new endpoint at a site, listening, by its number there."""
        host = f"app-{site}"
        made = web.Endpoint(self.network.address(host, number), lambda: self.network.socket(host))
        await made.start()
        self.endpoints[made.address] = made
        return made

    def cut(self, host: str, others: Iterable[str], cut: bool) -> None:
        """No packet goes between a host and others, or they do again, as far as they are apart."""
        for other in others:
            self.network.way(host, other, delay_ms=delay_ms(place(host), place(other)), cut=cut)

    def control_of(self, node: str) -> list[int]:
        """Process ids of a node's control."""
        process = self.nodes[node].running
        return _descendants(process.pid, b"control.app") if process is not None else []

    def kill_control(self) -> None:
        """SIGKILL to every node's control, all at once."""
        for pid in [pid for name in NODES for pid in self.control_of(name)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- making it ---

    async def _until(self, done: Callable[[], Any]) -> None:
        while not await done():
            await asyncio.sleep(0.05)

    def _process(self, host: str, words: list[str], *, clock: str = "") -> Process:
        environment = self.clocks.environment(clock) if clock else {}
        return Process(self.network.inside(host) + words, self.folder / f"{host}.log", environment)

    def _node(self, name: str) -> Process:
        for folder in (name, "data"):
            (self.folder / folder).mkdir(exist_ok=True, mode=0o700)
        zone, config = self.folder / "zone", self.folder / f"{name}.toml"
        zone.write_text("$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\n@ NS ns2\n"
                        + "".join(f"ns{i} A {self.network.address(node)}\n" for i, node in enumerate(NODES, 1)),
                        encoding="ascii")
        config.write_text(f"""
node = "{name}"
state = "{self.folder / name}"
workers = {self.workers}
listen = ["{self.network.address(name)}:53"]
drain_seconds = 0
[admin]
listen = ["{_ADMIN[0]}:{_ADMIN[1]}"]
[registry]
url = "redis://{self.network.address(STORE)}:{_STORE_PORT}/0"
[data]
directory = "{self.folder / "data"}"
[probes]
allow = ["10.0.0.0/8"]
region = "{NODES[name]}"
[rate]
answers = 0
[[zones]]
name = "{ZONE}"
file = "{zone}"
""", encoding="ascii")
        return self._process(name, [sys.executable, "-m", "dnsd", "serve", "-c", str(config)], clock=name)

    def _unbound(self) -> Path:
        """unbound as it comes, but for where the zone is."""
        config = self.folder / "unbound.conf"
        stubs = "".join(f"  stub-addr: {self.network.address(node)}\n" for node in NODES)
        config.write_text(f"""
server:
  interface: {self.network.address(USERS)}
  access-control: 10.0.0.0/8 allow
  username: ""
  chroot: ""
  directory: "{self.folder}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
remote-control:
  control-enable: no
stub-zone:
  name: "{ZONE}"
{stubs}""", encoding="ascii")
        return config


def place(host: str) -> str:
    """Where a host is: a site, `core` (the store) or `users`."""
    return {STORE: "core", USERS: USERS}.get(host) or NODES.get(host) or host.removeprefix("app-")


def delay_ms(one: str, other: str) -> float:
    """One way between two places."""
    return DELAYS_MS.get((one, other)) or DELAYS_MS.get((other, one), 0.0)


def missing() -> str:
    """What a drill needs and this machine has not; empty if nothing."""
    return "" if shutil.which("unbound", path=_SERVERS) else "unbound is not installed"


def _hosts() -> dict[str, str]:
    """Host -> prefix. A site's endpoints have a prefix with room for those of many runs."""
    hosts = {STORE: "10.9.0.0/24", USERS: "10.8.0.0/24"}
    hosts |= {name: f"10.{100 + number}.0.0/24" for number, name in enumerate(NODES)}
    return hosts | {f"app-{site['id']}": f"10.{20 + number}.0.0/16" for number, site in enumerate(SITES)}


def _program(name: str) -> str:
    return shutil.which(name, path=_SERVERS) or name


def _store_words(redis: Path, folder: Path, address: str) -> list[str]:
    (folder / STORE).mkdir()
    return [str(redis), "--bind", address, "--port", str(_STORE_PORT), "--protected-mode", "no", "--dir",
            str(folder / STORE), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]


def _descendants(pid: int, words: bytes) -> list[int]:
    """Processes below one that have these words in their command line."""
    found, generation = [], {pid}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        found += sorted(generation)
    return [child for child in found if words in _command_line(child)]


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def now() -> float:
    """The clock of all that is measured, in seconds."""
    return time.monotonic()
