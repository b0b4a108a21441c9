"""Spill-over on a real node: a site dies under its probes, and real queries before and after say who went where."""

from __future__ import annotations

import csv
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import pytest

from dnsd.control import reply
from dnsd.dns import names, types
from tests.node import DATA, Node, free_port, until, write_config

pytestmark = pytest.mark.e2e
NAME = "api.demo.example"
SITES = {"fra": (50.1, 8.7, "DE", "eu"), "iad": (39.0, -77.5, "US", "na"), "sin": (1.4, 103.8, "SG", "as"),
         "gru": (-23.5, -46.6, "BR", "sa"), "jnb": (-26.2, 28.0, "ZA", "af")}
EVERY = 10


class Listeners:
    """Something that accepts at an address of each site."""

    def __init__(self) -> None:
        self.port = free_port()
        self._sockets: dict[str, socket.socket] = {}
        for id_ in SITES:
            self.open(id_)

    def open(self, id_: str) -> None:
        self._sockets[id_] = made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host(id_), self.port))
        made.listen(1024)

    def close(self, id_: str) -> None:
        self._sockets.pop(id_).close()

    def stop(self) -> None:
        for id_ in list(self._sockets):
            self.close(id_)


def host(id_: str) -> str:
    return f"127.77.9.{list(SITES).index(id_) + 1}"


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    made = Listeners()
    yield made
    made.stop()


@pytest.fixture
def clients() -> list[ipaddress.IPv4Network]:
    with (DATA / "clients" / "clients_v4.csv").open(newline="") as lines:
        return [ipaddress.IPv4Network(row["prefix"]) for row in csv.DictReader(lines)][::EVERY]


@pytest.fixture
def node(tmp_path: Path, atlas_home: Path, clients: list[ipaddress.IPv4Network]) -> Iterator[Node]:
    (tmp_path / "clients.csv").write_text("".join(f"{prefix},100\n" for prefix in clients))
    made = Node(write_config(tmp_path / "s", atlas_home, workers=1, more=(
        f'clients = "{tmp_path}/clients.csv"\n[probes]\nallow = ["127.77.0.0/16"]')))
    made.start()
    yield made
    made.stop()


def fleet(port: int, capacity: dict[str, int]) -> dict[str, Any]:
    return {
        "sites": [{"id": id_, "latitude": latitude, "longitude": longitude, "country": country, "region": region,
                   **({"capacity": capacity[id_]} if capacity else {})}
                  for id_, (latitude, longitude, country, region) in SITES.items()],
        "services": [{"name": NAME, "policy": {"preset": "geo", "spill": {}}, "check": {"kind": "tcp", "port": port}}],
        "endpoints": [{"id": id_, "service": NAME, "site": id_, "a": host(id_)} for id_ in SITES]}


def ask(node: Node, clients: list[ipaddress.IPv4Network]) -> list[str]:
    """The site each client is answered with, over UDP."""
    found: dict[int, str] = {}
    packets = [reply.query(names.to_wire(NAME), types.A, client) for client in clients]
    deadline = time.monotonic() + 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.connect((node.address, node.port))
        door.settimeout(0.5)
        while len(found) < len(packets):
            assert time.monotonic() < deadline, f"{len(found)} answers of {len(packets)}"
            due = [number for number in range(len(packets)) if number not in found][:50]
            for number in due:
                door.send(number.to_bytes(2, "big") + packets[number][2:])
            for _ in due:
                try:
                    message = dns.message.from_wire(door.recv(4096))
                except TimeoutError:
                    break
                found[message.id] = list(SITES)[int(str(message.answer[0][0]).rpartition(".")[2]) - 1]
    return [found[number] for number in range(len(packets))]


def spilled(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.api("GET", "/v1/status").body["spill"]
    return found


def test_a_sites_death_is_spread_within_capacity(
        node: Node, listeners: Listeners, clients: list[ipaddress.IPv4Network]) -> None:
    node.apply(fleet(listeners.port, {}))
    until(lambda: node.api("GET", "/v1/status").body["health"]["up"] == len(SITES), 15, "all are up")
    until(lambda: len(set(ask(node, clients))) == len(SITES), 30, "the map is derived")
    until(lambda: spilled(node)["services"], 15, "shares are solved")
    natives = Counter(ask(node, clients))
    capacity = {id_: round(natives[id_] * 100 / 0.6) for id_ in SITES}
    node.apply(fleet(listeners.port, capacity))
    until(lambda: all(one["capacity"] for one in spilled(node)["services"][0]["sites"]), 10, "capacities are known")
    before = ask(node, clients)
    assert Counter(before) == natives

    solved = spilled(node)["solved"]
    listeners.close("iad")
    until(lambda: spilled(node)["solved"] > solved, 10, "shares after the death")
    until(lambda: "iad" not in ask(node, clients), 5, "the dead site is out")
    after = ask(node, clients)
    assert {was for was, now in zip(before, after, strict=True) if was != now} == {"iad"}
    load = {id_: count * 100 / capacity[id_] for id_, count in Counter(after).items()}
    assert max(load.values()) <= 0.95, load
    [told] = spilled(node)["services"]
    assert told["fits"]
    assert {one["site"]: one["load"] for one in told["sites"] if one["alive"]} == pytest.approx(load, abs=0.001)
    assert "dnsd_spill_services 1" in node.api("GET", "/metrics").body
    moved = next(client for client, site in zip(clients, before, strict=True) if site == "iad")
    why = node.cli("explain", NAME, "--subnet", str(moved)).stdout
    assert "its native site iad cannot be answered" in why

    listeners.open("iad")
    until(lambda: ask(node, clients) == before, 30, "all are back after the ramp")
