"""Sentinel fails a store over: to a replica that has nearly all, and to one that has nothing.

Lives here: a master, a replica and three sentinels, a node that follows them. Does not live here: judging what a store
offers (`tests/control/test_holding.py`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.node import Node, free_port, until, write_config

RUNS = int(os.environ.get("TEST_SENTINEL_RUNS", "1"))
SERVER = shutil.which("redis-server")
LEASES = 20
FLEET: dict[str, Any] = {
    "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}],
    "services": [{"name": f"s{i}.demo.example", "ttl": 5, "policy": {"preset": "all"}} for i in range(3)],
    "endpoints": [{"id": "one", "service": f"s{i}.demo.example", "site": "fra", "a": f"192.0.2.{i + 1}"}
                  for i in range(3)],
}

pytestmark = [
    pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.parametrize("run", range(RUNS)),
    pytest.mark.skipif(not SERVER and os.environ.get("CI") != "true", reason="redis-server is not installed"),
]


class Stores:
    """Two stores and three sentinels over the first, each a process on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("a", "b", "s1", "s2", "s3")}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{self.ports[name]}" for name in ("s1", "s2", "s3"))
        return f"redis+sentinel://{hosts}/main"

    def client(self, name: str) -> redis.Redis:
        return redis.Redis(port=self.ports[name], socket_timeout=5)

    def run(self, name: str, text: str, *more: str) -> None:
        home = self.folder / name
        home.mkdir(parents=True)
        (home / "conf").write_text(f"port {self.ports[name]}\nbind 127.0.0.1\ndir {home}\n{text}\n", encoding="utf-8")
        self.running[name] = subprocess.Popen(
            [str(SERVER), str(home / "conf"), *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with suppress(redis.RedisError), self.client(name) as client:
                return bool(client.ping())
            return False

        until(answers, 20, f"{name} answers")

    def start(self) -> None:
        self.run("a", 'save ""\nappendonly yes\nappendfsync always')
        self.run("b", f'save ""\nreplicaof 127.0.0.1 {self.ports["a"]}\nrepl-diskless-sync-delay 0')
        until(lambda: self.link() == "up", 30, "the replica is in step")
        for name in ("s1", "s2", "s3"):
            text = (f"sentinel monitor main 127.0.0.1 {self.ports['a']} 2\nsentinel failover-timeout main 6000\n"
                    "sentinel down-after-milliseconds main 1000")
            self.run(name, text, "--sentinel")
        until(self.watched, 30, "the sentinels know one another and the replica")

    def link(self) -> Any:
        with self.client("b") as client:
            return client.info("replication").get("master_link_status")

    def cut_link(self) -> None:
        """The replica hears nothing of its master any more."""
        with self.client("b") as client:
            client.config_set("masterauth", "wrong")
            client.execute_command("CLIENT", "KILL", "TYPE", "master")
        until(lambda: self.link() == "down", 10, "the link is down")

    def watched(self) -> bool:
        for name in ("s1", "s2", "s3"):
            with self.client(name) as client:
                main = client.info("sentinel")["master0"]
                if (main["slaves"], main["sentinels"], main["status"]) != (1, 3, "ok"):
                    return False
        return True

    def promoted(self) -> bool:
        with suppress(redis.RedisError), self.client("b") as client:
            return str(client.info("replication")["role"]) == "master"
        return False

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def close(self) -> None:
        for name in self.running:
            self.kill(name)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with ExitStack() as stack:
        made = Stores(tmp_path / "stores")
        stack.callback(made.close)
        made.start()
        yield made


@pytest.fixture
def node(stores: Stores, tmp_path: Path, atlas_home: Path) -> Iterator[Node]:
    made = Node(write_config(tmp_path / "node", atlas_home, workers=1, redis=stores.url))
    try:
        made.start()
        made.apply(FLEET)
        yield made
    finally:
        made.stop()


def acquire(node: Node, number: int) -> None:
    reply = node.api("POST", "/v1/leases", {"holder": f"h{number}", "ttl": 60, "endpoints": [
        {"id": f"h{number}", "service": "s0.demo.example", "site": "fra", "a": f"198.51.100.{number + 1}"}]})
    assert reply.status == 201, reply
    node.wait_version(reply.body["version"])


def answers(node: Node) -> list[list[str]]:
    return [sorted(node.dig("+short", "+tcp", f"s{i}.demo.example").split()) for i in range(3)]


def status(node: Node) -> dict[str, Any]:
    reply = node.api("GET", "/v1/status")
    return dict(reply.body) if reply.status == 200 else {}


def conditions(node: Node) -> list[str]:
    return list(node.api("GET", "/readyz").body["conditions"])


def test_a_replica_that_lacks_a_little_is_adopted_and_told(stores: Stores, node: Node, run: int) -> None:
    """The last write did not reach it: what it has is followed, nothing else is gone, and somebody is told."""
    for number in range(LEASES):
        acquire(node, number)
    with stores.client("a") as client:
        assert client.wait(1, 5000) == 1
    before = answers(node)[0]
    stores.cut_link()
    acquire(node, LEASES)  # which only the master has
    stores.kill("a")
    began = time.monotonic()
    until(stores.promoted, 40, "the replica is promoted")
    until(lambda: (status(node).get("registry") or {}).get("up"), 40, "the node follows the new master")
    until(lambda: any("lost" in one or "lacks" in one for one in conditions(node)), 20, f"an alarm: {conditions(node)}")
    with stores.client("b") as client:
        assert client.hlen("dnsd:lease") == LEASES
    assert status(node)["fleet"]["leases"] >= LEASES
    assert status(node)["registry"]["held"] is None
    until(lambda: answers(node)[0] == before, 10, "the one that is lost is answered no more, all others are")
    print(f"run {run}: adopted after {time.monotonic() - began:.1f} s: {conditions(node)}")


def test_an_empty_replica_is_held(stores: Stores, node: Node, run: int) -> None:
    """It was emptied and promoted: a sound store without anything. Answers stay, it is held, somebody is told."""
    for number in range(LEASES):
        acquire(node, number)
    before = answers(node)
    stores.cut_link()
    with stores.client("b") as client:
        client.config_set("replica-read-only", "no")
        client.flushall()
    stores.kill("a")
    until(stores.promoted, 40, "the replica is promoted")
    until(lambda: any(one.startswith("held:") for one in conditions(node)), 60, "the state is held")
    for _ in range(5):
        assert answers(node) == before
        time.sleep(0.5)
    assert status(node)["registry"]["held"]
    print(f"run {run}: {conditions(node)}")
