"""Drills in real fleets: five nodes in namespaces, a resolver with users, and faults; a rehearsal on a running node.

Lives here: what `dnsd drill` does as its users see it. Does not live here: its parts (`tests/drill`).

`TEST_EVERYTHING=1` runs all faults, at both TTLs that have a promise (about ten minutes).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.node import ROOT, Node

EVERYTHING = os.environ.get("TEST_EVERYTHING") == "1"
SERVICE = "api.demo.example"
PUBLISH_S = 4.0
"""On a machine that runs other tests too; a quiet one keeps the 2 s of `dnsd drill`."""

REFUSED = [
    (f"endpoint:{SERVICE}/nobody", 5, "is answered with here, there"),
    ("endpoint:alone.demo.example/one", 5, "nobody else"),
    ("site:fra", 2, "--service"),
    ("service:api", 2, "endpoint:SERVICE/ID"),
]


def drill(*words: str, folder: Path, seconds: float = 170) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dnsd", "drill", *words], cwd=ROOT, capture_output=True, text=True, timeout=seconds,
        check=False, env=os.environ | {"TMPDIR": str(folder)})
    if done.returncode == 5 and os.environ.get("CI") != "true":
        pytest.skip(done.stdout + done.stderr)
    return done


@pytest.mark.needs("unbound", "redis-server")
def test_what_dies_is_left_out_in_time_with_the_store_and_without(tmp_path: Path) -> None:
    done = drill("hole", "500", "store-endpoint", "--ttl", "2", "--at-once", "2", "--seed", "4", "--json",
                 "--picture", str(tmp_path / "line.svg"), folder=tmp_path)
    found = json.loads(done.stdout)
    assert found["seed"] == 4
    for run in found["runs"]:
        assert set(run["missed"]) <= {"published after 2 s"}, run
        assert 0 < run["detect"] <= run["publish"] <= PUBLISH_S, run
        assert 0 < run["last_failed"] < 2 + PUBLISH_S, run
        assert (run["wrong"], run["lost"], run["left"], run["unanswered"]) == ([], [], [], 0), run
    assert done.returncode == any(run["missed"] for run in found["runs"]), done.stderr
    assert {run["fault"] for run in found["runs"]} == {"hole", "500", "store-endpoint"}
    pictures = sorted(path.name for path in tmp_path.iterdir())
    assert pictures == ["line-500-2.svg", "line-hole-1.svg", "line-store-endpoint-3.svg"], "nothing else is left"
    for name in pictures:
        ET.parse(tmp_path / name)


if EVERYTHING:
    @pytest.mark.needs("unbound", "redis-server", "cc")
    @pytest.mark.timeout(1200)
    def test_all_faults(tmp_path: Path) -> None:
        done = drill("all", "--ttl", "8", "--ttl", "5", folder=tmp_path, seconds=1100)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_rehearsal_forces_one_down_and_does_no_harm(node: Callable[..., Node]) -> None:
    server = node(workers=1)
    server.apply(fleet())
    for words, hit in ((("site:fra", "--service", SERVICE), "site"), ((f"endpoint:{SERVICE}/here",), "endpoint")):
        found = json.loads(server.cli("drill", "--live", *words, "--for", "1", "--json").stdout)
        assert (found["answered_before"], found["answered"]) == (["here", "there"], ["there"]), hit
        assert (found["left_out"], found["back"], found["always_answered"]) == (True, True, True), hit
        assert 0 < found["published_s"] < 5, hit
        assert server.dig("+short", SERVICE).strip() == "192.0.2.1", hit
        assert overrides(server) == [], hit
    for target, code, says in REFUSED:
        done = server.cli("drill", "--live", target, "--for", "1", check=False)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
        assert overrides(server) == []
    mine = {"target": "endpoint", "name": f"{SERVICE}/here", "state": "up", "seconds": 60, "reason": "mine"}
    assert server.api("PUT", f"/v1/overrides/endpoint:{SERVICE}/here", mine).status == 201
    assert server.cli("drill", "--live", f"endpoint:{SERVICE}/here", "--for", "1", check=False).returncode == 5
    assert [one["value"]["reason"] for one in overrides(server)] == ["mine"]


def overrides(server: Node) -> list[dict[str, Any]]:
    """Those that there are."""
    return list(server.api("GET", "/v1/overrides").body["items"])


def fleet() -> dict[str, Any]:
    sites = [{"id": "fra", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"},
             {"id": "syd", "latitude": -33.9, "longitude": 151.2, "country": "AU", "region": "oc"}]
    return {
        "sites": sites, "services": [{"name": SERVICE}, {"name": "alone.demo.example"}],
        "endpoints": [{"id": "here", "service": SERVICE, "site": "fra", "a": "192.0.2.1"},
                      {"id": "there", "service": SERVICE, "site": "syd", "a": "192.0.2.2", "tier": 1},
                      {"id": "one", "service": "alone.demo.example", "site": "fra", "a": "192.0.2.3"}]}
