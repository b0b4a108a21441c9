"""Three real nodes on one store: what they find is everybody's, decided once, and nobody is needed for it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_health import HERE, THERE, ZONE, Service
from tests.e2e.test_store import Store
from tests.node import Node, until, write_config

pytestmark = pytest.mark.needs("redis-server")

NAMES = ("ams", "fra", "lon")
NAME = "api.demo.example"


class Fleet:
    """The nodes, their store, and the service that they watch."""

    def __init__(self, home: Path, atlas: Path, store: Store, service: Service) -> None:
        self.store, self.service = store, service
        self.nodes = [
            Node(write_config(home / name, atlas, zones={"demo.example": ZONE}, redis=store.url, workers=1,
                              more=f'drain_seconds = 0\n[probes]\nallow = ["127.77.0.0/16"]\nregion = "{name}"\n'))
            for name in NAMES]

    def start(self) -> None:
        first, *others = self.nodes
        first.start()
        first.apply({
            "sites": [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
                      {"id": "syd", "latitude": -33.9, "longitude": 151.2, "country": "AU", "region": "oc"}],
            "services": [{"name": NAME, "check": {"kind": "http", "port": self.service.port, "ramp_ms": 0}}],
            "endpoints": [{"id": "here", "service": NAME, "site": "fra", "a": HERE},
                          {"id": "there", "service": NAME, "site": "syd", "a": THERE, "tier": 1}]})
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.start(), others))
        until(lambda: all(self.health(node)["together"] for node in self.nodes), 15, "they judge together")
        until(lambda: all(len(self.health(node)["nodes"]) == len(NAMES) for node in self.nodes), 5, "all are there")

    def health(self, node: Node) -> dict[str, Any]:
        """What a node says of health; its API takes the first node's token."""
        reply = node.api("GET", "/v1/status", token=self.nodes[0].token)
        assert reply.status == 200, reply
        return dict(reply.body["health"])

    def answers(self) -> set[str]:
        """What the nodes that run answer."""
        return {node.dig("+short", NAME).strip() for node in self.nodes if node.process is not None}

    def agree(self, answer: str, seconds: float = 10) -> float:
        """Until all answer this; the seconds it took."""
        began = time.monotonic()
        until(lambda: self.answers() == {answer}, seconds, f"all answer {answer}")
        return time.monotonic() - began

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


@pytest.fixture
def fleet(tmp_path: Path, atlas_home: Path) -> Iterator[Fleet]:
    folder = tmp_path / "redis"
    folder.mkdir()
    store, service = Store(folder), Service()
    store.start()
    service.open(HERE)
    service.open(THERE)
    made = Fleet(tmp_path, atlas_home, store, service)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        service.stop()
        store.kill()


def test_what_dies_is_left_out_by_all_and_each_is_told_why(fleet: Fleet) -> None:
    fleet.agree(HERE)
    assert len({fleet.health(node)["builder"] for node in fleet.nodes}) == 1
    fleet.service.how[HERE] = "500"
    fleet.agree(THERE)
    for node in fleet.nodes:
        until(lambda node=node: {  # type: ignore[misc]
            said["state"] for said in node.api("GET", f"/v1/services/{NAME}/health", token=fleet.nodes[0].token).body[
                "endpoints"][0]["addresses"][0]["vantages"].values()} == {"down"}, 5, "the third has seen it too")
        told = node.api("GET", f"/v1/services/{NAME}/health", token=fleet.nodes[0].token).body
        assert (told["judged"], told["ttl"]) == ("together", 8)
        here, there = told["endpoints"]
        assert (here["answered"], there["answered"]) == ([], ["A"])
        [address] = here["addresses"]
        assert (address["state"], address["why"], address["own"]["state"]) == ("down", "status", "down")
        assert {node: said["state"] for node, said in address["vantages"].items()} == dict.fromkeys(NAMES, "down")
        happened = node.api("GET", "/v1/events", token=fleet.nodes[0].token).body["items"]
        assert {"endpoint": "here", "answered": [], "was": ["A"], "why": "IPv4 down: status"}.items() <= next(
            one for one in happened if one["what"] == "endpoint" and one["endpoint"] == "here").items()
    fleet.service.how[HERE] = "ok"
    fleet.agree(HERE)


def test_the_one_that_decides_may_die(fleet: Fleet) -> None:
    """Another takes over, and what dies in the meantime is left out all the same."""
    builder = fleet.health(fleet.nodes[0])["builder"]
    [one] = [node for node in fleet.nodes if node.config.parent.name == builder]
    if one is fleet.nodes[0]:
        token = one.token
        shutil.copy(one.state / "admin.token", fleet.nodes[1].state / "admin.token")
        assert token
    one.kill()
    one.process = None
    fleet.service.close(HERE)
    fleet.agree(THERE)


def test_without_the_store_each_judges_alone_and_then_together_again(fleet: Fleet) -> None:
    fleet.agree(HERE)
    fleet.store.kill()
    fleet.service.close(HERE)
    fleet.agree(THERE)
    fleet.service.open(HERE)
    fleet.agree(HERE)
    fleet.service.close(HERE)
    fleet.agree(THERE)
    fleet.store.start()
    seen: set[str] = set()

    def together() -> bool:
        seen.update(fleet.answers())
        return all(fleet.health(node)["together"] for node in fleet.nodes)

    until(together, 20, "they judge together")
    assert seen | fleet.answers() == {THERE}, "what was found alone is what was decided"
    fleet.service.open(HERE)
    fleet.agree(HERE)


def test_a_node_that_stops_for_a_while_changes_nothing(fleet: Fleet) -> None:
    fleet.agree(HERE)
    assert fleet.nodes[2].process is not None
    stopped = fleet.nodes[2].children("control.app")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    assert fleet.answers() == {HERE}
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    time.sleep(1)
    assert fleet.answers() == {HERE}
