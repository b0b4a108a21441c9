"""A simulation by a real daemon, and then the deed: who was to move has moved, asked by dig."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import DATA, Node, until, write_config

pytestmark = pytest.mark.e2e
NAME, LOST = "api.demo.example", "gcp-europe-west3"
CLIENTS = 40


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Node]:
    one = Node(write_config(tmp_path_factory.mktemp("n"), atlas_home, workers=1))
    try:
        one.start()
        one.cli("apply", str(DATA / "demo" / "fleet.toml"), "--yes")
        # equals are drawn once and for all, so that what was asked a second ago can be compared
        one.apply({"services": [{"name": NAME, "policy": {"split4": 24, "split6": 56}}]})
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="module")
def prefixes() -> list[str]:
    with (DATA / "clients" / "clients_v4.csv").open(encoding="utf-8", newline="") as file:
        rows = [row["prefix"] for row in csv.DictReader(file)]
    return rows[:: len(rows) // CLIENTS][:CLIENTS]


def asked(node: Node, prefixes: list[str]) -> list[str]:
    """The site each client is sent to."""
    sites = {item["value"]["a"]: item["value"]["site"]
             for item in node.api("GET", f"/v1/endpoints?service={NAME}").body["items"]}
    return [sites[node.dig(NAME, "A", f"+subnet={prefix}", "+short").strip()] for prefix in prefixes]


def settled(node: Node, prefixes: list[str]) -> list[str]:
    """As `asked`, when the service's own map is with the worker: answers are what explain says."""
    def agreed() -> list[str]:
        found = asked(node, prefixes)
        told = [node.api("GET", f"/v1/explain?name={NAME}&subnet={prefix}").body for prefix in prefixes]
        first = [next(each["site"] for each in one["candidates"] if each["answered"]) for one in told]
        return found if first == found and all(one["map"]["file"] for one in told) else []

    agree: list[str] = until(agreed, 20.0, "the map is there")
    return agree


def test_what_was_said_comes(node: Node, prefixes: list[str], tmp_path: Path) -> None:
    listed, page = tmp_path / "clients.csv", tmp_path / "page.html"
    listed.write_text("prefix,weight\n" + "".join(f"{prefix},1\n" for prefix in prefixes))
    version = node.api("GET", "/v1/status").body["version"]
    before = settled(node, prefixes)
    told = json.loads(node.cli("simulate", "--service", NAME, "--lose", LOST, "--clients", str(listed), "--html",
                               str(page), "--json").stdout)
    assert node.api("GET", "/v1/status").body["version"] == version
    [one] = told["services"]
    assert one["had_to"] == pytest.approx(before.count(LOST) / CLIENTS, abs=1e-5)
    assert one["had_to"] > 0.05
    assert told["clients"] == {"source": "given", "number": CLIENTS, "weight": CLIENTS}
    assert NAME in page.read_text(encoding="utf-8")
    node.cli("overrides", "set", f"site:{LOST}", "down", "--for", "600", "--reason", "as simulated")
    after = settled(node, prefixes)
    for side, found in (("before", before), ("after", after)):
        for site, share in one[side]["sites"].items():
            assert found.count(site) / CLIENTS == pytest.approx(share, abs=1e-5), (side, site)
    moved = sum(was != now for was, now in zip(before, after, strict=True)) / CLIENTS
    assert one["moved"] == pytest.approx(moved, abs=1e-5)
    node.cli("overrides", "clear", f"site:{LOST}")


def test_the_control_process_goes_on_meanwhile(node: Node) -> None:
    """The work is a child's: others are answered at once, a second simulation is refused."""
    said: list[str] = []
    first = threading.Thread(target=lambda: said.append(node.cli(
        "simulate", "--service", NAME, "--lose", LOST, "--clients", str(DATA / "clients" / "clients_v4.csv"),
        "--column", "weight_population", "--json").stdout))
    first.start()
    slowest, refused = 0.0, 0
    while first.is_alive():
        began = time.monotonic()
        assert node.api("GET", "/healthz").status == 200
        slowest = max(slowest, time.monotonic() - began)
        if node.children("simulating"):
            little = {"lost": [LOST], "services": [NAME], "clients": [{"prefix": "141.20.0.0/24"}]}
            refused += node.api("POST", "/v1/simulate", little).status == 429
        time.sleep(0.05)
    told = json.loads(said[0])
    assert (told["clients"]["number"], told["services"][0]["had_to"] > 0.05) == (5028, True)
    assert refused >= 1
    assert slowest < 2.0  # on a machine that does much else at once
