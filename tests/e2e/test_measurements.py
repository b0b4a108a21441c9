"""Measured round trips on a real node: what is posted moves the answer, a lost child and a lost table come back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.node import Node, until, write_config

pytestmark = pytest.mark.e2e
CLIENT = "203.0.113.0/24"  # the atlas knows no place for it, so no physics speak against any figure
FLEET = {
    "sites": [
        {"id": "ams", "latitude": 52.4, "longitude": 4.9, "country": "NL", "region": "eu"},
        {"id": "sin", "latitude": 1.35, "longitude": 103.8, "country": "SG", "region": "as"}],
    "services": [{"name": "api.demo.example", "policy": {"preset": "latency"}}],
    "endpoints": [
        {"id": "ams", "service": "api.demo.example", "site": "ams", "a": "192.0.2.1"},
        {"id": "sin", "service": "api.demo.example", "site": "sin", "a": "192.0.2.2"}],
}


@pytest.fixture
def node(tmp_path: Path, atlas_home: Path) -> Any:
    made = Node(write_config(tmp_path / "m", atlas_home, workers=1))
    made.start()
    made.apply(FLEET)
    yield made
    made.stop()


def post(node: Node, ams_ms: float, sin_ms: float, client: str = CLIENT) -> None:
    reply = node.api("POST", "/v1/measurements", {"samples": [
        {"client": client, "site": site, "rtt_ms": ms, "count": 9, "spread_ms": 1}
        for site, ms in (("ams", ams_ms), ("sin", sin_ms))]})
    assert (reply.status, reply.body) == (202, {"accepted": 2, "dropped": {}})


def answer(node: Node, client: str) -> list[str]:
    return node.dig("api.demo.example", "A", f"+subnet={client}", "+short").split()


def told(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.api("GET", "/v1/status").body["measurements"]
    return found


def table(node: Node, number: int, seconds: float = 40.0) -> None:
    until(lambda: told(node)["table"]["number"] >= number, seconds, f"table {number}: {told(node)}")


def deciding(node: Node) -> int | None:
    pid: int | None = told(node)["deciding"]["pid"]
    return pid


def test_measurements_move_the_answer_and_survive_the_child_the_process_and_the_store(node: Node) -> None:
    assert node.children("dnsd.rtt.child") == []  # nobody measures: nothing runs, nothing is kept
    assert not (node.state / "rtt").exists()

    post(node, ams_ms=180, sin_ms=12)
    table(node, 1)
    [pid] = node.children("dnsd.rtt.child")
    assert told(node)["last"]["decided"] == 2
    assert len(list((node.state / "rtt").glob("*.table"))) == 1
    until(lambda: answer(node, CLIENT) == ["192.0.2.2"], 40, "the measured site")

    os.kill(pid, signal.SIGKILL)
    began = last = time.monotonic()
    while told(node)["table"]["number"] < 2:  # the other site is nearer from now on
        assert time.monotonic() - began < 60, told(node)
        if time.monotonic() - last > 2:
            last = time.monotonic()
            post(node, ams_ms=15, sin_ms=220)
        time.sleep(0.2)
    assert deciding(node) not in (None, pid)
    until(lambda: answer(node, CLIENT) == ["192.0.2.1"], 40, "the site that is nearer now")

    metrics = node.api("GET", "/metrics").body
    assert "dnsd_measured_number 2" in metrics
    assert "dnsd_measured_blocks 1" in metrics

    node.stop()
    node.start()
    assert told(node)["table"]["blocks"] == 1  # from the disk, before anything is asked
    until(lambda: told(node)["deciding"]["decides"], 15, "deciding again")
    assert answer(node, CLIENT) == ["192.0.2.1"]
