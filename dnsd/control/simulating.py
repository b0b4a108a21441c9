"""The child that simulates: clients ask two images through the one door, and what they get is added up.

`python -m dnsd.control.simulating` reads one JSON task from standard input (`simulate.Simulator.task` makes it) and
prints one line, the result as JSON, or `{"error": text}` with exit code 1.

Lives here: deriving the maps that are not there, asking. Does not live here: the states that are asked (`simulate`),
figures (`outcome`).

All ask at the moment 0, so the draws among equals are of one window for every TTL: what moves, moves because of the
change, and the same question has the same answer.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd.atlas import population, store
from dnsd.control import outcome, reckon, reply
from dnsd.control.maps import open_table
from dnsd.control.outcome import NOBODY, Asked, Tally, Told
from dnsd.control.selfcheck import Asker
from dnsd.dns import names, types
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.image.table import MapTable

NICE: Final = 10
CPU_S: Final = 90
SAMPLE: Final = population.CLIENTS
DATA: Final = 3 << 30
"""Octets of memory the child may take."""

Reckon = Callable[[reckon.IPAddress], Mapping[str, float]]


class Client(NamedTuple):
    """Who asks: the prefix, an address in it, its weight, the one service it asks for, whether ECS tells of it."""

    prefix: reply.IPNetwork
    address: reckon.IPAddress
    weight: float
    service: str | None
    ecs: bool


class Side(NamedTuple):
    """One state: its image with its maps, what is known of each service, and milliseconds by map."""

    image: Image
    services: Mapping[str, Mapping[str, Any]]
    reckon: Mapping[int, Reckon]


def simulate(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The result of a task; what is derived goes into `folder`."""
    began = time.monotonic()
    atlas = store.open_atlas(Path(task["atlas"])) if task["atlas"] else None
    files = [_file(task, number, folder) for number in range(len(task["maps"]))]
    before, after = (_side(task, side, files, atlas) for side in ("before", "after"))
    source, clients = _clients(task, atlas)
    told, placed = [], [_groups(atlas, client.address) for client in clients]
    load, whole = task["load"] or task["reported"], sum(client.weight for client in clients)
    sums: tuple[dict[str, float], dict[str, float]] = ({}, {})
    asker = Asker("simulate")
    for name in task["services"]:
        tally = Tally(after.services.get(name, {}).get("alive", ()))
        for client, groups in zip(clients, placed, strict=True):
            if client.service in (None, name):
                tally.add(Asked(client.weight, groups, _ask(asker, before, name, client),
                                _ask(asker, after, name, client)))
        for side, sites in zip(sums, tally.sites, strict=True):
            for site, weight in sites.items():
                side[site] = side.get(site, 0.0) + weight
        told.append({"service": name, **tally.told()})
    asked = sum(one["clients_weight"] for one in told)
    return {
        "table": task["table"], "clients": {"source": source, "number": len(clients), "weight": round(whole, 3)},
        "load": {"units": load, "from": "given" if task["load"] else "reported" if load else None},
        "sites": [outcome.filled(site, *(side.get(site["id"], 0.0) / (asked or 1.0) for side in sums), load=load)
                  for site in task["sites"]],
        "moved": _mean(told, "moved", asked), "had_to": _mean(told, "had_to", asked),
        "services": told, "seconds": round(time.monotonic() - began, 2)}


def _mean(told: Sequence[Mapping[str, Any]], name: str, whole: float) -> float:
    return round(sum(one[name] * one["clients_weight"] for one in told) / whole, 6) if whole else 0.0


# --- states ---


def _file(task: Mapping[str, Any], number: int, folder: Path) -> Path | None:
    """A map's table: the file there is, else one that is derived now; None where there is nothing to derive."""
    layer = task["maps"][number]
    if layer["file"] and Path(layer["file"]).exists():
        return Path(layer["file"])
    if not layer["sites"] or not task["atlas"]:
        return None
    path = folder / f"{number}.map"
    _derive({"atlas": task["atlas"], "sites": layer["sites"], "out": str(path), "rtt": task["rtt"], "before": None})
    return path


def _derive(order: Mapping[str, Any]) -> None:
    """As maps are derived: by the same child."""
    done = subprocess.run([sys.executable, "-m", "dnsd.atlas.derive", json.dumps(order)], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise ValueError(f"a map cannot be derived: {(done.stdout or done.stderr).strip()[-300:]}")


def _side(task: Mapping[str, Any], side: str, files: Sequence[Path | None], atlas: store.Atlas | None) -> Side:
    image = Image(base64.b64decode(task[side]["image"]))
    services, reckoners = task[side]["services"], {}
    for number in {service["map"] for service in services.values()}:
        file, sites = files[number], task["maps"][number]["sites"]
        if file is not None:
            image.set_map(number, _table(file, len(sites)))
        reckoners[number] = _reckoner(atlas, sites)
    return Side(image, services, reckoners)


def _table(file: Path, sites: int) -> MapTable:
    return open_table(file, sites)


def _reckoner(atlas: store.Atlas | None, sites: Sequence[Mapping[str, Any]]) -> Reckon:
    """Milliseconds to a map's sites, shifts included."""
    places = [reckon.Place(site["id"], site["latitude"], site["longitude"]) for site in sites]
    shifts = {site["id"]: site["shift_ms"] for site in sites if "shift_ms" in site}
    memo: dict[reckon.IPAddress, dict[str, float]] = {}

    def of(address: reckon.IPAddress) -> Mapping[str, float]:
        if atlas is None:
            return {}
        if address not in memo:
            memo[address] = {site: one.ms for site, one in
                             reckon.by_distance(atlas, address, places, shifts).items()}
        return memo[address]
    return of


# --- clients ---


def _clients(task: Mapping[str, Any], atlas: store.Atlas | None) -> tuple[str, list[Client]]:
    """Where clients come from, and they."""
    if task["clients"]:
        return "given", list(_given(task["clients"]))
    if atlas is None:
        raise ValueError("there is no atlas to take clients from; name some")
    return "the atlas's IPv4 addresses", [
        Client(network, network.network_address + 1, weight, None, True)
        for network, weight in population.sample(atlas, SAMPLE)]


def _given(rows: Sequence[tuple[str, float, str | None, bool]]) -> Iterator[Client]:
    """As resolvers send them: at most /24 and /56 of a client."""
    for text, weight, service, ecs in rows:
        network = ipaddress.ip_network(text)
        longest = layout.ECS_MAX6 if network.version == 6 else layout.ECS_MAX4
        address = network.network_address + (network.num_addresses > 1)
        if network.prefixlen > longest:
            network = network.supernet(new_prefix=longest)
        yield Client(network, address, weight, service, ecs)


def _groups(atlas: store.Atlas | None, address: reckon.IPAddress) -> dict[str, str]:
    """What a client is a part of."""
    if atlas is None:
        return {}
    origin = atlas.origin(address)
    network = f"AS{origin.asn} {origin.as_name or ''}".strip() if origin.asn else "-"
    return {"countries": origin.country or "-", "networks": network, "carriers": origin.carrier or "-"}


def _ask(asker: Asker, side: Side, name: str, client: Client) -> Told:
    """Where the client is sent."""
    service = side.services.get(name)
    if service is None or not service["types"]:
        return Told({NOBODY: 1.0}, {})
    preferred = types.AAAA if client.address.version == 6 else types.A
    type_ = preferred if preferred in service["types"] else service["types"][0]
    packet = reply.query(names.to_wire(name), type_, client.prefix if client.ecs else None)
    answer = asker.ask(side.image, packet, 0, client.address.packed)
    sites = [service["sites"].get(str(ipaddress.ip_address(rr.rdata)), "?") for rr in answer.answer if rr.type == type_]
    shares: dict[str, float] = {}
    for site in sites or [NOBODY]:
        shares[site] = shares.get(site, 0.0) + 1 / max(1, len(sites))
    return Told(shares, side.reckon[service["map"]](client.address))


def main() -> int:
    """The niced child."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (DATA, DATA))
    try:
        task = json.load(sys.stdin)
        with tempfile.TemporaryDirectory(prefix="dnsd-simulate-") as folder:
            found = simulate(task, Path(folder))
    except (store.AtlasError, OSError, LookupError, TypeError, ValueError) as problem:
        print(json.dumps({"error": f"{problem}" or type(problem).__name__}))
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
