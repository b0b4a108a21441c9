"""One running node with the oracle's fleet, and the oracle beside it, for all tests of this folder."""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.node import DATA, Node, until, write_config
from tests.oracle import fleet, scoring
from tests.oracle.ask import Question
from tests.oracle.origins import NOWHERE, Origin, Origins
from tests.oracle.scoring import Expected, Map

ZONE_FILE = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 192.0.2.53\n"


@dataclass
class World:
    """A node, what was registered there, and what the oracle makes of it."""

    node: Node
    origins: Origins
    endpoints: list[dict[str, Any]]
    sites: list[dict[str, Any]]
    services: Mapping[str, Mapping[str, Any]]
    _maps: dict[str, Map] = field(default_factory=dict)

    @cached_property
    def places(self) -> Any:
        """How much of IPv4 each place of the data has."""
        return self.origins.places()

    def map(self, service: str) -> Map:
        """The map of a service: the sites its endpoints are at."""
        if service not in self._maps:
            used = {endpoint["site"] for endpoint in self.endpoints if endpoint["service"] == service}
            self._maps[service] = Map([site for site in self.sites if site["id"] in used], self.places)
        return self._maps[service]

    def of(self, question: Question) -> Origin:
        """The origin that decides: the subnet's unless there is none or it says nothing, else the resolver's."""
        if question.subnet is None or not question.subnet.prefixlen:
            return self.origins.resolver(ip_address(question.source))
        return self.origins.unit(question.subnet.network_address)

    def expect(self, question: Question) -> Expected:
        """What may be answered to a question."""
        origin = self.of(question)
        row = self.map(question.name).row(origin)
        unknown = origin.place == NOWHERE and not any(column.bits for column in row.values())
        mine = [endpoint for endpoint in self.endpoints if endpoint["service"] == question.name]
        return scoring.expect(
            self.services[question.name], mine, row, question.type.lower(), unknown=unknown,
            no_ecs=question.subnet is None or not question.subnet.prefixlen)

    def client(self, rnd: random.Random, version: int) -> IPv4Address | IPv6Address:
        """A client's address: mostly of networks that have users, some of anywhere, some of the operator's prefixes."""
        draw = rnd.random()
        if version == 4:
            if draw < 0.15:
                return IPv4Address(rnd.getrandbits(32))
            pool = self.pools[4] if draw < 0.9 else [n for n in self.operator if n.version == 4]
        else:
            pool = self.pools[6] if draw < 0.85 else [n for n in self.operator if n.version == 6]
        network = rnd.choice(pool)
        offset = rnd.getrandbits(network.max_prefixlen - network.prefixlen) if network.num_addresses > 1 else 0
        return network.network_address + offset

    @cached_property
    def operator(self) -> list[Any]:
        """The operator's prefixes."""
        return [line.network for line in self.origins.lines]

    @cached_property
    def pools(self) -> dict[int, list[Any]]:
        """Networks to draw clients from, by family: the bundled clients', and all that is routed."""
        pools: dict[int, list[Any]] = {4: [], 6: []}
        for version in (4, 6):
            with (DATA / "clients" / f"clients_v{version}.csv").open(encoding="utf-8", newline="") as file:
                pools[version] += [ip_network(row["prefix"]) for row in csv.DictReader(file)]
        with gzip.open(DATA / "asn" / "ipasn.dat.gz", "rt") as file:
            lines = [line.partition("\t")[0] for line in file if line[0] not in ";#"]
        rnd = random.Random(4)
        pools[4] += [ip_network(text) for text in rnd.sample([t for t in lines if ":" not in t], 3000)]
        pools[6] += [ip_network(text) for text in rnd.sample([t for t in lines if ":" in t], 3000)]
        return pools


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A node with two workers, the fleet registered and served, every service's own map derived."""
    home = tmp_path_factory.mktemp("oracle")
    cidrs = home / "cidrs.csv"
    cidrs.write_text(fleet.CIDRS, encoding="utf-8")
    config = write_config(home / "node", home / "atlas", workers=2, zones={fleet.ZONE: ZONE_FILE})
    node = Node(config, env={"DNSD_DATA__CIDRS": str(cidrs)})
    node.cli("data", "build")
    try:
        node.start()
        yield _populate(node, cidrs)
    finally:
        node.stop()


def _populate(node: Node, cidrs: Path) -> World:
    places = fleet.sites(DATA)
    permanent = fleet.endpoints(places)
    node.apply({"sites": places, "services": list(fleet.SERVICES), "endpoints": permanent})
    requests = fleet.leases(places)
    leased = [endpoint for request in requests for endpoint in request["endpoints"]]
    granted = []
    for request in requests:
        reply = node.api("POST", "/v1/leases", request)
        assert reply.status == 201, reply
        granted.append(reply.body)
    renewals = [
        {"id": lease["id"], "fence": lease["fence"], "loads": {lease["endpoints"][0]: fleet.load_of(number)}}
        for number, lease in enumerate(granted)]
    reply = node.api("POST", "/v1/leases:renew", {"renewals": renewals})
    assert reply.status == 200, reply
    assert all(one["ok"] for one in reply.body["renewed"]), reply
    for endpoint in leased:
        # Load is the registry's decision (levels with hysteresis), so it is read back, not predicted.
        path = f"/v1/endpoints/{endpoint['service']}/{endpoint['id']}"
        endpoint["load"] = node.api("GET", path).body["load"]
    assert len({endpoint["load"] for endpoint in leased}) > 4
    world = World(node, Origins(DATA, cidrs), permanent + leased, places, {s["name"]: s for s in fleet.SERVICES})
    until(lambda: _mapped(node, world), 60, "every service has its own map")
    return world


def _mapped(node: Node, world: World) -> bool:
    """Whether each service is ranked by the sites that its own endpoints are at."""
    for name in world.services:
        used = {endpoint["site"] for endpoint in world.endpoints if endpoint["service"] == name}
        body = node.api("GET", f"/v1/explain?name={name}&type=A&subnet=8.8.8.0/24").body
        if set(body["map"]["sites"]) != used:
            return False
    return True
