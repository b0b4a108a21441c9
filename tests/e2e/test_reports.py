"""Reports and rules on real nodes: what users and holders say changes everybody's answers, without a probe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.e2e.test_health import HERE, THERE, ZONE, Service
from tests.e2e.test_store import Store
from tests.e2e.test_together import NAME, Fleet
from tests.node import Node, until, write_config

FLEET = {
    "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
              {"id": "syd", "latitude": -33.9, "longitude": 151.2, "country": "AU", "region": "oc"}],
    "services": [{"name": NAME, "rule": {"query": "up", "below": 0.5, "for_ms": 0, "interval_ms": 1000}}],
    "endpoints": [{"id": "there", "service": NAME, "site": "syd", "a": THERE, "tier": 1}]}


class Metrics:
    """A Prometheus that says of `here` what is set."""

    def __init__(self) -> None:
        self.value = "1"
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                sample = {"metric": {"endpoint": "here"}, "value": [time.time(), metrics.value]}
                body = json.dumps(
                    {"status": "success", "data": {"resultType": "vector", "result": [sample]}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Not into the tests' output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_holder_its_users_and_a_rule(tmp_path: Path, atlas_home: Path, metrics: Metrics) -> None:
    url = f"http://127.0.0.1:{metrics.server.server_port}"
    node = Node(write_config(tmp_path / "node", atlas_home, zones={"demo.example": ZONE}, workers=1,
                             more=f'drain_seconds = 0\n[prometheus]\nurl = "{url}"\n'))
    try:
        node.start()
        node.apply(FLEET)
        lease = node.api("POST", "/v1/leases", {
            "holder": "here", "ttl": 60, "endpoints": [{"id": "here", "service": NAME, "site": "fra", "a": HERE}]}).body
        key = f"{NAME}/here"

        def answered(address: str) -> float:
            began = time.monotonic()
            until(lambda: node.dig("+short", NAME).strip() == address, 10, f"{address} is answered")
            return time.monotonic() - began

        def say(**report: Any) -> None:
            reply = node.api("PUT", "/v1/leases/here", {"fence": lease["fence"], "reports": {key: report}})
            assert reply.status == 200, reply

        answered(HERE)
        say(healthy=False)
        assert answered(THERE) < 2
        say(healthy=True)
        assert answered(HERE) < 2
        metrics.value = "0"
        answered(THERE)
        metrics.value = "1"
        answered(HERE)
        reply = node.api("POST", "/v1/reports", {"reports": [{"endpoint": key, "failed": 25}]})
        assert reply.body == {"taken": 1, "unknown": []}
        assert answered(THERE) < 2
        health = node.api("GET", "/v1/status").body["health"]
        assert (health["reports"]["open"], health["rules"]["rules"]) == (1, 1)
    finally:
        node.kill()


@pytest.mark.needs("redis-server")
def test_all_nodes_answer_alike_and_each_alone_without_the_store(tmp_path: Path, atlas_home: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    store, service = Store(folder), Service()
    store.start()
    for host in (HERE, THERE):
        service.open(host)
    fleet = Fleet(tmp_path, atlas_home, store, service)
    try:
        fleet.start()
        fleet.agree(HERE)
        token = fleet.nodes[0].token

        def report(node: Node, **said: int) -> None:
            body = {"reports": [{"endpoint": f"{NAME}/here", **said}]}
            assert node.api("POST", "/v1/reports", body, token=token).body["taken"] == 1

        report(fleet.nodes[2], failed=25)
        assert fleet.agree(THERE) < 3
        [why] = {address["why"] for node in fleet.nodes for address in node.api(
            "GET", f"/v1/services/{NAME}/health", token=token).body["endpoints"][0]["addresses"]}
        assert why == "100 % of its users' requests failed"
        report(fleet.nodes[0], ok=10)  # while it is open that changes nothing
        store.kill()
        time.sleep(2)
        assert fleet.answers() == {THERE}, "each knows by itself"
    finally:
        fleet.stop()
        service.stop()
        store.kill()
