"""A store that is not the supervisor's: killed under load, away at start, gone for a while, corrupted."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.prober import Prober
from tests.node import Node, free_port, serving, until, write_config
from tests.oracle.ask import Question

pytestmark = pytest.mark.needs("redis-server")

ZONE = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 127.0.0.1\nstatic A 192.0.2.81\n"
FLEET: dict[str, Any] = {
    "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
    "services": [{"name": f"s{i}.demo.example", "ttl": 5} for i in range(5)],
    "endpoints": [{"id": "one", "service": f"s{i}.demo.example", "site": "fra", "a": f"192.0.2.{i + 1}"}
                  for i in range(5)],
}
QUESTIONS = [Question(f"s{i}.demo.example", "A") for i in range(5)]
LEASES = 5000
LEASE_TTL = 8
OUTAGE_S = float(os.environ.get("TEST_OUTAGE_S", "11"))


class Store:
    """A Redis of its own that can be killed and started again on the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        program = shutil.which("redis-server")
        assert program is not None
        self.process = subprocess.Popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
             "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL)

        def up() -> bool:
            with suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError), self.client() as client:
                return bool(client.ping())
            return False

        until(up, 10, "redis-server answers")

    def client(self) -> Any:
        """A connection to it."""
        return redis.Redis(port=self.port)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A running store."""
    folder = tmp_path / "redis"
    folder.mkdir()
    one = Store(folder)
    one.start()
    yield one
    one.kill()


@pytest.fixture
def server(tmp_path: Path, atlas_home: Path, store: Store) -> Iterator[Node]:
    """A node on that store, its fleet applied."""
    config = write_config(tmp_path / "node", atlas_home, zones={"demo.example": ZONE}, redis=store.url,
                          more="drain_seconds = 0")
    with serving(config, FLEET) as node:
        yield node


def test_store_away_and_back_then_all_started_without_it(server: Node, store: Store) -> None:
    with Prober(server.port, QUESTIONS, rate=1000) as prober:
        time.sleep(0.5)
        store.kill()
        stale = until(lambda: server.api("GET", "/readyz").body.get("stale_for"), 10, "stale_for is told")
        assert stale > 0
        write = server.api("POST", "/v1/apply", FLEET, timeout=20)
        assert write.status == 503
        assert write.headers["content-type"].startswith("application/problem+json")
        time.sleep(1.0)
        ready = server.api("GET", "/readyz")
        assert ready.status == 200
        assert ready.body["stale_for"] > stale
        store.start()
        until(lambda: not server.api("GET", "/readyz").body.get("stale_for"), 15, "in touch with the store again")
        asked = prober.finish()
    expected = {question: (f"192.0.2.{i + 1}",) for i, question in enumerate(QUESTIONS)}
    wrong = [one for one in asked if not one.answer or one.answer.addresses != expected[one.question]]
    assert not wrong, f"{len(wrong)} of {len(asked)}, the first {wrong[0].at - asked[0].at:.3f} s in: {wrong[0]}"
    assert len(server.api("GET", "/v1/endpoints").body["items"]) == len(FLEET["endpoints"])
    more = {"id": "two", "service": "s0.demo.example", "site": "fra", "aaaa": "2001:db8::1"}
    server.apply({**FLEET, "endpoints": [*FLEET["endpoints"], more]})
    assert server.dig("+short", "s0.demo.example", "AAAA").split() == ["2001:db8::1"]

    # Everything killed, and started where no store can be reached: the last image serves.
    server.kill()
    store.kill()
    server.start(ready=False)
    until(lambda: server.dig("+short", "s3.demo.example", check=False).split() == ["192.0.2.4"], 10, "the last image")
    assert server.dig("+short", "s0.demo.example", "AAAA").split() == ["2001:db8::1"]
    until(lambda: _ready(server) == 200, 10, "ready without a store")
    assert server.api("POST", "/v1/apply", FLEET, timeout=20).status in (401, 503)
    store.start()
    until(lambda: _write(server), 20, "writes are taken again")
    assert server.dig("+short", "s3.demo.example").split() == ["192.0.2.4"]


def test_corrupted_values_take_nothing_down(server: Node, store: Store) -> None:
    with store.client() as client:
        client.hset("dnsd:endpoint", "s0.demo.example/one", b"7 {\"id\": \"one\", \"service\": 5")
        client.hset("dnsd:endpoint", "s1.demo.example/one", b"\xff\xfe\0" * 100)
        client.hset("dnsd:service", "s2.demo.example", b"9 []")
        client.hset("dnsd:site", "nonsense", b"")
        client.xadd("dnsd:events", {"body": b"[1,2", "chain": b"zz"}, id=f"{10**9}-0")
    write = server.api("PUT", "/v1/endpoints/s4.demo.example/one",
                       {"service": "s4.demo.example", "id": "one", "site": "fra", "a": "192.0.2.44"},
                       headers={"If-Match": "*"})
    assert write.status in (200, 409, 412, 500, 503), write
    time.sleep(1.0)
    for i in range(4):
        assert server.dig("+short", f"s{i}.demo.example").split() == [f"192.0.2.{i + 1}"]
    assert _ready(server) == 200
    # Also from nothing but the store and the last image.
    server.kill()
    server.start()
    for i in (0, 1, 2, 3):
        assert "status: NOERROR" in server.dig(f"s{i}.demo.example"), server.tail()
    assert server.dig("+short", "s3.demo.example").split() == ["192.0.2.4"]


def test_five_thousand_leases_survive_an_outage_longer_than_they_live(server: Node, store: Store) -> None:
    held = _hold(server)
    server.kill()
    store.kill()
    time.sleep(OUTAGE_S)
    store.start()
    server.start()
    with store.client() as client:
        assert client.hlen("dnsd:lease") == LEASES
    began = time.monotonic()
    _renew(server, held)
    with store.client() as client:
        assert client.hlen("dnsd:lease") == LEASES
        assert client.hlen("dnsd:endpoint") == LEASES + len(FLEET["endpoints"])
    assert time.monotonic() - began < LEASE_TTL

    # With the registry there and nobody renewing, they are held: so many do not die at once.
    until(lambda: server.api("GET", "/v1/status").body["leases"]["held"] == LEASES, LEASE_TTL + 8, "leases are held")
    assert _lease_count(store) == LEASES
    assert any(text.startswith("leases held: 5000 ") for text in server.api("GET", "/readyz").body["conditions"])


def _hold(server: Node) -> list[dict[str, Any]]:
    """LEASES leases, all with their whole life before them."""
    local = threading.local()
    connections: list[http.client.HTTPConnection] = []
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}

    def acquire(number: int) -> dict[str, Any]:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(server.admin.removeprefix("http://"), timeout=30)
            connections.append(local.connection)
        endpoint = {"id": f"i{number}", "service": f"s{number % 5}.demo.example", "site": "fra",
                    "a": f"198.18.{number >> 8}.{number & 255}"}
        body = json.dumps({"holder": f"h{number}", "ttl": LEASE_TTL, "endpoints": [endpoint]})
        local.connection.request("POST", "/v1/leases", body, headers)
        reply = local.connection.getresponse()
        granted = json.loads(reply.read())
        assert reply.status == 201, granted
        return {"id": granted["id"], "fence": granted["fence"]}

    held: list[dict[str, Any]] = []
    with ThreadPoolExecutor(8) as pool:
        renewed = time.monotonic()
        for lease in pool.map(acquire, range(LEASES)):
            held.append(lease)
            if time.monotonic() - renewed > LEASE_TTL / 4:
                _renew(server, held)
                renewed = time.monotonic()
    for connection in connections:
        connection.close()
    _renew(server, held)
    return held


def _renew(server: Node, held: list[dict[str, Any]]) -> None:
    for first in range(0, len(held), 1000):
        batch = [{**lease, "loads": {}} for lease in held[first : first + 1000]]
        reply = server.api("POST", "/v1/leases:renew", {"renewals": batch}, timeout=30)
        assert reply.status == 200, reply
        gone = [one for one in reply.body["renewed"] if not one["ok"]]
        assert not gone, f"{len(gone)} leases are gone, the first: {gone[0]}"


def _lease_count(store: Store) -> int:
    with store.client() as client:
        return int(client.hlen("dnsd:lease"))


def _ready(server: Node) -> int:
    with suppress(OSError):
        return server.api("GET", "/readyz").status
    return 0


def _write(server: Node) -> bool:
    with suppress(OSError):
        return server.api("POST", "/v1/apply", FLEET, timeout=20).status < 300
    return False
