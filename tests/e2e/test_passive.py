"""Round trips nobody asks for, over a network with distances: of a resolver's connections to a node, and of clients'
connections to a server that `dnsd agent` stands beside."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dns.message
import pytest

from dnsd.drill.network import WHERE, Network, UnavailableError
from tests.node import ROOT, free_port, until, write_config

pytestmark = pytest.mark.e2e
HOSTS = {"near": "10.1.0.0/16", "far": "10.2.0.0/16", "clients": "10.3.0.0/16"}
NAME = "api.demo.example"
ADDRESSES = {"ams": "192.0.2.1", "sin": "192.0.2.2"}
FLEET = {
    "sites": [
        {"id": "ams", "latitude": 52.4, "longitude": 4.9, "country": "NL", "region": "eu"},
        {"id": "sin", "latitude": 1.35, "longitude": 103.8, "country": "SG", "region": "as"}],
    "services": [{"name": NAME, "policy": {"preset": "latency"}}],
    "endpoints": [{"id": site, "service": NAME, "site": site, "a": a} for site, a in ADDRESSES.items()],
}


class Inside:
    """A node on the host `near`, and how to talk to it."""

    def __init__(self, net: Network, folder: Path, atlas: Path, more: str = "") -> None:
        self.net, self.port, self.admin = net, free_port(), free_port()
        self.config = write_config(folder / "m", atlas, workers=1, more=more)
        text = self.config.read_text(encoding="utf-8").splitlines()
        listens = iter([f'listen = ["{net.address("near")}:{self.port}"]', f'listen = ["127.0.0.1:{self.admin}"]'])
        self.config.write_text(
            "\n".join(next(listens) if line.startswith("listen") else line for line in text) + "\n", encoding="utf-8")
        self.state, self.log = self.config.parent / "state", self.config.parent / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*net.inside("near"), sys.executable, "-m", "dnsd", "serve", "--config", str(self.config)], cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | WHERE, start_new_session=True)

    def ready(self) -> None:
        def asked() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(OSError, http.client.HTTPException):
                return self.api("GET", "/readyz")[0] == 200
            return False

        until(asked, 30, self.log.read_text())
        status, body = self.api("POST", "/v1/apply", FLEET)
        assert status == 200, body
        until(lambda: self.answer() in ADDRESSES.values(), 20, "served")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def token(self) -> str:
        return (self.state / "admin.token").read_text(encoding="ascii").strip()

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """From the node's own host."""
        call = http.client.HTTPConnection("127.0.0.1", self.admin)
        with self.net.socket("near") as call.sock:
            call.sock.settimeout(10)
            call.sock.connect(("127.0.0.1", self.admin))
            headers = {"Content-Type": "application/json"}
            with suppress(OSError):
                headers["Authorization"] = f"Bearer {self.token}"
            call.request(method, path, json.dumps(body) if body is not None else None, headers)
            reply = call.getresponse()
            data = reply.read()
            as_json = "json" in (reply.getheader("Content-Type") or "")
            return reply.status, json.loads(data) if as_json else data.decode()

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", "/v1/status")[1]["measurements"]
        return found

    def answer(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> str:
        """What the clients' resolver is told; "" where it is told nothing."""
        wire = dns.message.make_query(NAME, "A").to_wire()
        with self.net.socket("clients", kind) as sock:
            sock.settimeout(5)
            sock.connect((self.net.address("near"), self.port))
            if kind == socket.SOCK_DGRAM:
                sock.send(wire)
                reply = sock.recv(4096)
            else:
                sock.sendall(struct.pack(">H", len(wire)) + wire)
                reply = sock.recv(4096)[2:]
        found = dns.message.from_wire(reply).answer
        return str(found[0][0]) if found else ""


@pytest.fixture
def net() -> Iterator[Network]:
    try:
        made = Network(HOSTS)
    except UnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no namespaces here: {error}")
    with made:
        made.way("clients", "near", delay_ms=6)
        made.way("clients", "far", delay_ms=60)
        yield made


@pytest.mark.parametrize("engine", ["auto", "python"])
def test_a_resolvers_connections_say_how_far_it_is_from_this_nodes_site(
        net: Network, tmp_path: Path, atlas_home: Path, engine: str) -> None:
    node = Inside(net, tmp_path, atlas_home, f'site = "ams"\nengine = "{engine}"')
    try:
        node.ready()
        for _ in range(6):
            assert node.answer(socket.SOCK_STREAM) in ADDRESSES.values()
        until(lambda: node.told()["intake"]["tcp"], 10, f"{node.told()}")
        assert "dnsd_measurements_tcp_total 0" not in node.api("GET", "/metrics")[1]
        until(lambda: node.told()["table"]["blocks"] == 1, 40, f"{node.told()}")
        assert list(node.told()["last"]["reporters"]) == ["tcp:m"]
        explain = f"/v1/explain?name={NAME}&type=A&client=10.3.0.1"
        until(lambda: '"rtt_source": "measured"' in json.dumps(node.api("GET", explain)[1]), 30, "a map with it")
    finally:
        node.stop()


def test_agents_move_a_decided_table(net: Network, tmp_path: Path, atlas_home: Path) -> None:
    pytest.importorskip("pyroute2")
    node = Inside(net, tmp_path, atlas_home)
    try:
        node.ready()
        before = node.answer()
        best, other = ("sin", "ams") if before == ADDRESSES["ams"] else ("ams", "sin")
        with ExitStack() as stack:
            for host, site, more in (
                    ("near", best, ["--url", f"http://127.0.0.1:{node.admin}", "--token", node.token]),
                    ("far", other, ["--socket", str(node.state / "control.sock")])):
                port = served(net, host, stack)
                done = agent(net, host, "--site", site, "--port", str(port), "--private", "--once", "--json", *more)
                assert done.returncode == 0, done.stderr
                assert json.loads(done.stdout) == {
                    "blocks": 1, "accepted": 1, "dropped": {}, "waiting": 0, "forgotten": 0, "problem": None}
        until(lambda: node.told()["table"]["blocks"] == 1, 40, f"{node.told()}")
        until(lambda: node.answer() == ADDRESSES[best] != before, 40, "the site that is nearer")
        assert node.told()["intake"]["tcp"] == 0  # its own site is not set: nothing is read
    finally:
        node.stop()


def served(net: Network, host: str, stack: ExitStack) -> int:
    """A port of a host with six connections from the clients."""
    listening = stack.enter_context(net.socket(host))
    listening.bind((net.address(host), 0))
    listening.listen(10)
    for _ in range(6):
        client = stack.enter_context(net.socket("clients"))
        client.settimeout(5)
        client.connect(listening.getsockname())
        stack.enter_context(listening.accept()[0])
    return int(listening.getsockname()[1])


def agent(net: Network, host: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*net.inside(host), sys.executable, "-m", "dnsd", "agent", *words], cwd=ROOT, env=os.environ | WHERE,
        capture_output=True, text=True, timeout=30, check=False)
