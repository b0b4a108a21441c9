"""A real dnsd for tests: its settings, its processes, its DNS and HTTP faces.

Lives here: `Node` and what starts it. Does not live here: fixtures (`conftest`), what is tested.

Everything is asked from outside: dig over sockets, the admin API by the standard library. Waiting is polling with a
deadline; a node that does not come up shows its log.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
READY_S = 30.0
ZONE = """\
$TTL 300
@ SOA ns1 hostmaster 1 7200 900 1209600 60
@ NS ns1
ns1 A 192.0.2.53
static A 192.0.2.81
"""


class Reply(NamedTuple):
    """An HTTP answer: status, decoded JSON (text where it is none), headers with lower-case names."""

    status: int
    body: Any
    headers: dict[str, str]


def free_port() -> int:
    """A port of 127.0.0.1 that is free for UDP and TCP now; below the range the kernel hands out by itself."""
    for _ in range(200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream, socket.socket(
                socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            number = 10000 + int.from_bytes(os.urandom(2), "big") % 20000
            with suppress(OSError):
                stream.bind(("127.0.0.1", number))
                datagram.bind(("127.0.0.1", number))
                return number
    raise RuntimeError("no free port")


def until(done: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first truthy result of `done`; fails with `what` when it takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = done()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def write_config(
    home: Path, atlas: Path, *,
    workers: int = 2, zones: Mapping[str, str] | None = None, redis: str = "", more: str = "",
) -> Path:
    """Settings of a node under `home`: its own ports and state, zones by name -> master file text. `more` is TOML."""
    home.mkdir(parents=True, exist_ok=True)
    dns, admin = free_port(), free_port()
    lines = [
        f'node = "{home.name.replace("_", "-").lower()}"', f'state = "{home / "state"}"', f"workers = {workers}",
        f'listen = ["127.0.0.1:{dns}", "[::1]:{dns}"]', more,
        "[admin]", f'listen = ["127.0.0.1:{admin}"]',
        "[data]", f'directory = "{DATA}"', f'atlas = "{atlas}"',
    ]
    if redis:
        lines += ["[registry]", f'url = "{redis}"']
    for name, text in (zones or {"demo.example": ZONE}).items():
        file = home / f"{name}.zone"
        file.write_text(text, encoding="utf-8")
        lines += ["[[zones]]", f'name = "{name}"', f'file = "{file}"']
    path = home / "dnsd.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass
class Node:
    """One `dnsd serve`. `start` returns when it is ready; `stop` is SIGTERM, `kill` ends it and all its children."""

    config: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.settings = tomllib.loads(self.config.read_text(encoding="utf-8"))
        self.state = Path(self.settings["state"])
        self.address, port = self.settings["listen"][0].rsplit(":", 1)
        self.port = int(port)
        self.admin = "http://" + self.settings["admin"]["listen"][0]
        self.log = self.config.parent / "log"

    def start(self, *, ready: bool = True) -> None:
        """Starts the daemon; with `ready` waits until it says so itself and answers DNS."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dnsd", "serve", "--config", str(self.config)], cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.env, start_new_session=True)
        if ready:
            self.wait_ready()

    def wait_ready(self, seconds: float = READY_S) -> None:
        """Until /readyz says 200; fails with the log when the daemon ends or takes too long."""
        def state() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"dnsd ended with {self.process.returncode}:\n{self.tail()}"
            with suppress(OSError):
                return self.api("GET", "/readyz").status == 200
            return False

        try:
            until(state, seconds, "ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def stop(self, seconds: float = 20.0) -> int | None:
        """Drains it (SIGTERM) and returns its exit code; what is still there after `seconds` is killed."""
        if self.process is None or self.process.poll() is not None:
            return self.process.returncode if self.process else None
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"dnsd did not drain within {seconds:g} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """SIGKILL to the daemon and everything it started."""
        if self.process is None:
            return
        for pid in [self.process.pid, *self.children()]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def children(self, role: str = "") -> list[int]:
        """Process ids of its descendants; `role` keeps those with it in their command line (`serve.worker`)."""
        assert self.process is not None
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, IndexError, ValueError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        found, generation = [], [self.process.pid]
        while generation:
            generation = sorted(pid for pid, parent in parents.items() if parent in generation)
            found += generation
        return [pid for pid in found if role in _command_line(pid)]

    @property
    def token(self) -> str:
        """The first admin token, as the daemon left it."""
        path = self.state / "admin.token"
        return path.read_text(encoding="ascii").strip() if path.exists() else ""

    def api(self, method: str, path: str, body: Any = None, *, token: str | None = None,
            headers: Mapping[str, str] | None = None, timeout: float = 10.0) -> Reply:
        """One request to the admin API with the first admin token, or another; OSError when nobody answers."""
        request = urllib.request.Request(self.admin + path, method=method, headers=dict(headers or {}))
        secret = self.token if token is None else token
        if secret:
            request.add_header("Authorization", f"Bearer {secret}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return _reply(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _reply(error.code, error.headers, error.read())

    def apply(self, fleet: Mapping[str, Any] | Path | None = None, seconds: float = 20.0) -> int:
        """Applies a fleet (the demo's, if none is given), waits until all workers serve it; returns its version."""
        if fleet is None or isinstance(fleet, Path):
            fleet = tomllib.loads((fleet or DATA / "demo" / "fleet.toml").read_text(encoding="utf-8"))
        reply = self.api("POST", "/v1/apply", fleet)
        assert reply.status < 300, reply
        self.wait_version(reply.body["version"], seconds)
        return int(reply.body["version"])

    def wait_version(self, version: int, seconds: float = 10.0) -> None:
        """Until every worker serves at least `version`."""
        reply = self.api("GET", f"/v1/status?wait_version={version}&timeout={seconds}", timeout=seconds + 5)
        assert reply.status == 200, reply
        assert reply.body["reached"], f"version {version} not on every worker after {seconds:g} s:\n{self.tail()}"

    def dig(self, *words: str, check: bool = True) -> str:
        """What dig prints for these words; asked of this node's first address, once, without retries."""
        command = ["dig", f"@{self.address}", "-p", str(self.port), "+tries=1", "+time=3", "+norec", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}{done.stderr}\n{self.tail()}"
        return done.stdout

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`dnsd WORDS` with this node's settings."""
        command = [sys.executable, "-m", "dnsd", *words]
        env = os.environ | self.env | {"DNSD_CONFIG": str(self.config)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=env)
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def tail(self, size: int = 6000) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-size:] if self.log.exists() else ""


@contextmanager
def serving(config: Path, fleet: Mapping[str, Any]) -> Iterator[Node]:
    """A node with these settings and this fleet, gone afterwards."""
    node = Node(config)
    try:
        node.start()
        node.apply(fleet)
        yield node
    finally:
        node.stop()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _reply(status: int, headers: Any, data: bytes) -> Reply:
    text = data.decode("utf-8", "replace")
    names = {name.lower(): value for name, value in headers.items()}
    return Reply(status, json.loads(text) if "json" in names.get("content-type", "") and text else text, names)
