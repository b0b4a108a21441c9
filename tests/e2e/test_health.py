"""Health on a real node: endpoints that die are left out within seconds, and nothing is ever left empty."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.e2e import caged
from tests.node import ROOT, Node, free_port, serving, until, write_config

ZONE = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 127.0.0.1\n"
HERE, THERE, DENIED = "127.77.1.1", "127.77.1.2", "127.78.1.1"


class Service:
    """An HTTP service at some loopback addresses, each of which can die in several ways."""

    def __init__(self) -> None:
        self.port = free_port()
        self.how: dict[str, str] = {}
        self.connections: dict[str, int] = {}
        self._servers: dict[str, socketserver.ThreadingTCPServer] = {}

    def open(self, host: str) -> None:
        """Listen, and answer 200."""
        service = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                service.answer(host, self.rfile, self.wfile)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, request_queue_size = True, True, 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A prober that has gone is no news."""

        self.how[host] = "ok"
        self._servers[host] = Server((host, self.port), Handler)
        threading.Thread(target=self._servers[host].serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, host: str, received: BinaryIO, sent: BinaryIO) -> None:
        self.connections[host] = self.connections.get(host, 0) + 1
        while received.readline(1000).strip():
            continue
        if self.how[host] == "hole":
            time.sleep(3)
        status = "500 Broken" if self.how[host] == "500" else "200 OK"
        sent.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())

    def close(self, host: str) -> None:
        """Listen no more: connections are refused."""
        server = self._servers.pop(host)
        server.shutdown()
        server.server_close()

    def stop(self) -> None:
        for host in list(self._servers):
            self.close(host)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.open(HERE)
    made.open(THERE)
    yield made
    made.stop()


@pytest.fixture
def node(tmp_path: Path, atlas_home: Path, service: Service) -> Iterator[Node]:
    """Two sites, the first one the nearer to everybody who asks here; probes may go to 127.77.0.0/16."""
    fleet = {
        "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
                  {"id": "syd", "latitude": -33.9, "longitude": 151.2, "country": "AU", "region": "oc"}],
        "services": [{"name": "api.demo.example", "ttl": 8, "ttl_floor": 2,
                      "check": {"kind": "http", "port": service.port, "path": "/healthz", "text": "ok"}},
                     {"name": "far.demo.example", "check": {"kind": "tcp", "port": service.port}}],
        "endpoints": [{"id": "here", "service": "api.demo.example", "site": "fra", "a": HERE},
                      {"id": "there", "service": "api.demo.example", "site": "syd", "a": THERE, "tier": 1},
                      {"id": "denied", "service": "far.demo.example", "site": "fra", "a": DENIED}],
    }
    config = write_config(tmp_path, atlas_home, zones={"demo.example": ZONE},
                          more='[probes]\nallow = ["127.77.0.0/16"]\n')
    with serving(config, fleet) as made:
        yield made


def answer(node: Node) -> str:
    return node.dig("+short", "api.demo.example").strip()


def health(node: Node) -> dict[str, Any]:
    return dict(json.loads(node.cli("status", "--json").stdout)["health"])


def state(node: Node, host: str) -> dict[str, Any]:
    """What is told of an address that is not up."""
    [found] = [one for one in health(node)["not_up"] if f" {host}:" in one["target"]]
    return dict(found)


@pytest.mark.parametrize("death", ["refused", "500", "hole"])
def test_what_dies_is_left_out_and_what_lives_again_is_back(node: Node, service: Service, death: str) -> None:
    until(lambda: health(node)["up"] == 2, 10, "both are up")
    assert answer(node) == HERE
    began = time.monotonic()
    if death == "refused":
        service.close(HERE)
    else:
        service.how[HERE] = death
    until(lambda: answer(node) == THERE, 10, "the dead one is left out")
    assert time.monotonic() - began < 8
    assert state(node, HERE)["state"] == "down"
    if death == "refused":
        service.open(HERE)
    service.how[HERE] = "ok"
    until(lambda: answer(node) == HERE, 10, "it is back")


def test_explain_says_why_one_is_out(node: Node, service: Service) -> None:
    until(lambda: health(node)["up"] == 2, 10, "both are up")
    service.how[HERE] = "500"
    until(lambda: answer(node) == THERE, 10, "the dead one is left out")
    told = json.loads(node.cli("explain", "api.demo.example", "--json").stdout)
    assert told["removed"] == [{"endpoint": "here", "site": "fra", "why": "IPv4 down: status"}]


def test_when_all_are_down_all_are_answered_as_if_up(node: Node, service: Service) -> None:
    until(lambda: health(node)["up"] == 2, 10, "both are up")
    service.close(HERE)
    service.close(THERE)
    until(lambda: health(node)["panic"] == ["api.demo.example"], 10, "panic")
    assert answer(node) == HERE, "in the order of the policy"
    assert "panic" in node.dig("api.demo.example")


def test_what_may_not_be_probed_is_not_and_is_answered(node: Node, service: Service) -> None:
    """The policy lets nobody make this machine connect to its own loopback; who asks for it is told why."""
    service.open(DENIED)
    until(lambda: health(node)["up"] == 2, 10, "the others are up")
    time.sleep(1.5)
    assert service.connections.get(DENIED, 0) == 0
    assert node.dig("+short", "far.demo.example").strip() == DENIED
    assert state(node, DENIED)["result"].startswith("not probed: ")


def test_states_survive_a_restart(node: Node, service: Service) -> None:
    until(lambda: health(node)["up"] == 2, 10, "both are up")
    service.how[HERE] = "500"
    until(lambda: answer(node) == THERE, 10, "the dead one is left out")
    until(lambda: HERE not in answer(node) and (node.state / "health.json").exists(), 10, "it is written down")
    node.stop()
    node.start()
    seen = {answer(node) for _ in range(20)}
    assert seen == {THERE}


def test_a_socket_of_its_own_is_never_probed(tmp_path: Path, atlas_home: Path) -> None:
    """Not even where the operator allows the network."""
    config = write_config(tmp_path, atlas_home, zones={"demo.example": ZONE},
                          more='[probes]\nallow = ["127.0.0.0/8"]\n')
    admin = int(tomllib.loads(config.read_text(encoding="utf-8"))["admin"]["listen"][0].rpartition(":")[2])
    fleet = {
        "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
        "services": [{"name": "api.demo.example", "check": {"kind": "http", "port": admin}}],
        "endpoints": [{"id": "me", "service": "api.demo.example", "site": "fra", "a": "127.0.0.1"}]}
    with serving(config, fleet) as node:
        until(lambda: health(node)["not_up"], 10, "it is looked at")
        assert state(node, "127.0.0.1")["result"] == "not probed: a socket of our own"


def test_nothing_secret_is_ever_connected(tmp_path: Path, atlas_home: Path) -> None:
    """A node that sees a packet of its own leave for anywhere it may not go, or to loopback, has been talked into it:
    by an endpoint's address, a check's, a disguise in IPv6, a redirect or a name that changes what it means.
    """
    ran = subprocess.run([sys.executable, "-m", "tests.e2e.caged", tmp_path / "node", atlas_home], cwd=ROOT, timeout=55,
                         capture_output=True, text=True, check=False)
    if ran.returncode == 3 and os.environ.get("CI") != "true":
        pytest.skip(f"no network namespace: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["left"].keys() == {*caged.ALLOWED, *caged.PUBLIC}, "what may be probed is, and nothing else"
    assert (seen["canaries"], seen["asked"]) == (0, 0)
    assert seen["front"] > 6, "who redirects is asked again and again"
    assert seen["refused"].keys() >= {caged.METADATA, "127.0.0.1", "::1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1"}
    told = {result for results in seen["refused"].values() for result in results}
    assert all(result.startswith("not probed: ") for result in told)
    assert "not probed: a socket of our own" in told
