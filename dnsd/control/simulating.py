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
from dnsd.atlas.estimates import Estimates
from dnsd.control import outcome, reckon, reply, spill
from dnsd.control.maps import open_table
from dnsd.control.outcome import NOBODY, Asked, Tally, Told
from dnsd.control.selfcheck import Asker
from dnsd.dns import names, types
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.image.record import Plan
from dnsd.model import Policy, ServiceView
from dnsd.rtt.table import Table
from dnsd.steer import spread

NICE: Final = 10
CPU_S: Final = 90
SAMPLE: Final = population.CLIENTS
DATA: Final = 3 << 30
"""Octets of memory the child may take."""

_NO_VIEW: Final = ServiceView(b"", Policy(), 1, frozenset())

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
    _spread(task, after, atlas)
    source, clients = _clients(task, atlas)
    told, placed = [], [_groups(atlas, client.address) for client in clients]
    whole = sum(client.weight for client in clients)
    load, said = _load(task)
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
        "load": {"units": load, "from": said},
        "sites": [outcome.filled(site, *(side.get(site["id"], 0.0) / (asked or 1.0) for side in sums), load=load)
                  for site in task["sites"]],
        "moved": _mean(told, "moved", asked), "had_to": _mean(told, "had_to", asked),
        "services": told, "seconds": round(time.monotonic() - began, 2)}


def _load(task: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Units of load of all clients together, and who says so."""
    spilling = [one.get("demand") for one in task["spill"].values()]
    for load, said in ((task["load"], "given"), (task["reported"], "reported")):
        if load:
            return load, said
    if None in spilling or len(spilling) < len(task["services"]) or not spilling:
        return None, None
    return sum(spilling), "policy"


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
            image.set_map(number, open_table(file, len(sites)))
        reckoners[number] = _reckoner(atlas, sites, reckon.estimates_of(file) if file is not None else None)
    return Side(image, services, reckoners)


def _spread(task: Mapping[str, Any], side: Side, atlas: store.Atlas | None) -> None:
    """Solve the shares of sites for services that spill over, as `control.spill` would, and put them into records."""
    blocks = _counted_on(task, atlas) if task["spill"] else []
    for name, given in task["spill"].items():
        node = side.image.get(names.to_wire(name))
        table = side.image.maps.get(side.services[name]["map"])
        if node is None or table is None or "rooms" not in given or not blocks:
            continue
        ranked = spill.rank(base64.b64decode(given["record"]), table, blocks)
        rooms = tuple((site, spread.Room(*room)) for site, *room in given["rooms"])
        demand = given["demand"] or sum(block.weight for block in blocks)
        solved = spill.solve(ranked, spill.Wanted(_NO_VIEW, "", rooms, demand, given["low"], given["high"], ""))
        shares = {room.site: (keep, take)
                  for (_, room), keep, take in zip(rooms, solved.keep, solved.take, strict=True)}
        side.image.apply([(node.record, _dressed(side.image.record(node.record), shares))], side.image.stamp)


def _counted_on(task: Mapping[str, Any], atlas: store.Atlas | None) -> list[spill.Block]:
    """The clients that shares are solved for: the node's, not those who ask here."""
    if task["counted_on"]:
        return spill.fewer(spill.read(Path(task["counted_on"])))
    measured = Table.read(Path(task["rtt"])) if task["rtt"] else None
    if measured is not None and len(measured.blocks) >= population.LEAST:
        return spill.fewer(spill.seen(measured))
    return [] if atlas is None else spill.fewer([
        spill.Block(False, int(network.network_address), weight) for network, weight in population.sample(atlas)])


def _dressed(record: bytes, shares: Mapping[int, tuple[int, int]]) -> bytes:
    """A record with these shares by site."""
    made, at = bytearray(record), layout.RECORD.size + 4 * (layout.LEVELS + layout.MATCHES)
    for number in range(len(Plan(record).candidates)):
        place = at + number * layout.ENDPOINT.size
        one = dict(zip(layout.ENDPOINT.names, layout.ENDPOINT.unpack_from(record, place), strict=True))
        keep, take = shares.get(one["site"], (one["keep"], one["take"]))
        made[place : place + layout.ENDPOINT.size] = layout.ENDPOINT.pack(**one | {"keep": keep, "take": take})
    return bytes(made)


def _reckoner(atlas: store.Atlas | None, sites: Sequence[Mapping[str, Any]], estimates: Estimates | None) -> Reckon:
    """Milliseconds to a map's sites, shifts included: in estimates they are already."""
    places = [reckon.Place(site["id"], site["latitude"], site["longitude"]) for site in sites]
    shifts = {site["id"]: site["shift_ms"] for site in sites if "shift_ms" in site}
    memo: dict[reckon.IPAddress, dict[str, float]] = {}

    def of(address: reckon.IPAddress) -> Mapping[str, float]:
        if atlas is None:
            return {}
        if address not in memo:
            found = (reckon.by_distance(atlas, address, places, shifts) if estimates is None
                     else reckon.by_estimates(estimates, atlas, address))
            memo[address] = {site: one.ms for site, one in found.items()}
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
