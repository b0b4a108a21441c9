"""What a large fleet costs: 100,000 endpoints, 10,000 services, 64 sites against the small fleet of `compare`.

    python bench/fleet.py [--quick] [--out bench/RESULTS.md]

CPU per answer of W8 (client subnets, mixed case, cookies), round by round on both nodes: at the small one for its one
service, at the large one for one service and for all of them in turn. Anonymous memory of each node's worker. Answers
are checked: a sample against the distance to the service's own ten sites.

Lives here: the large fleet, registering it, its queries. Does not live here: measuring (`compare`), nodes (`nodes`).
"""

from __future__ import annotations

import csv
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import compare
import maxminddb
import nodes
import results
import servers
import workloads
from servers import BUILT, Node, Server
from workloads import SLACK_KM, Site, Workload

from dnsd.steer import distance
from dnsd.steer.row import level_of

SITES: Final = 64
SERVICES: Final = 10_000
EACH: Final = 10
"""Endpoints of a service, each at another site."""
_AT_ONCE: Final = 5000
"""Changes that one request may have."""
BARS: Final = {"ratio": (1.3, 1.1), "mib": (100, 50)}
"""CPU to the small fleet and MiB of a worker: what must be, what is aimed at."""


def main() -> int:
    """The command."""
    parser = results.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="15; quick: 3")
    parser.add_argument("--seconds", type=float, help="of each measurement: 1; quick: 0.4")
    parser.add_argument("--services", type=int, help=f"{SERVICES}; quick: 1000")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 15)
    seconds = options.seconds or (0.4 if options.quick else 1.0)
    services = options.services or (1000 if options.quick else SERVICES)
    servers.compile_programs()
    files = {"small": workloads.write(BUILT)["W8"], "one": BUILT / "one.queries", "all": BUILT / "all.queries"}
    workloads.write_file(files["one"], queries(1))
    workloads.write_file(files["all"], queries(services))
    kind = workloads.WORKLOADS["W8"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dnsd-bench-")))
        small = stack.enter_context(nodes.node_of(folder / "small"))
        small.apply(workloads.fleet(), 60)
        large = stack.enter_context(nodes.node_of(folder / "large"))
        took = register(large, services)
        nodes.settled(small)
        nodes.settled(large)
        at = {name: Server(name, "", servers.doors(["W8"], node.port, *nodes.place(node)))
              for name, node in (("small", small), ("one", large), ("all", large))}
        check(large.port, services)
        found = _rounds(at, kind, files, rounds, seconds)
        memory = {name: servers.anonymous_mib(at[name].doors["W8"].pids[0]) for name in ("small", "all")}
    results.put(options.out, "fleet", _report(found, memory, services, took, rounds, seconds))
    return 0


@cache
def sites() -> list[Site]:
    """SITES regions of clouds, no two at one place."""
    found: dict[tuple[str, str], Site] = {}
    with (workloads.ROOT / "data" / "providers" / "cloud_regions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            at = (row["latitude"], row["longitude"])
            found.setdefault(at, Site(f"{row['provider']}-{row['region']}", float(at[0]), float(at[1]), ""))
    return list(found.values())[:SITES]


def service(number: int) -> str:
    """The name of a service."""
    return f"s{number:05}.{workloads.ZONE}"


def endpoints(number: int) -> list[tuple[Site, str]]:
    """The endpoints of a service: ten of the sites, each with an address that nobody else has."""
    chosen = random.Random(number).sample(sites(), EACH)
    return [(site, str(IPv4Address("10.0.0.0") + number * EACH + i)) for i, site in enumerate(chosen)]


def changes(services: int) -> Iterator[dict[str, Any]]:
    """The fleet, in requests that are not too large."""
    yield {"sites": [{"id": s.id, "latitude": s.latitude, "longitude": s.longitude, "country": "US", "region": "na"}
                     for s in sites()]}
    each = _AT_ONCE // (EACH + 1)
    for start in range(0, services, each):
        numbers = range(start, min(start + each, services))
        yield {
            "services": [{"name": service(n), "policy": {"preset": "geo"}, "ttl": 8, "types": ["A"]} for n in numbers],
            "endpoints": [{"id": f"e{i}", "service": service(n), "site": site.id, "a": address}
                          for n in numbers for i, (site, address) in enumerate(endpoints(n))],
        }


def register(node: Node, services: int = SERVICES) -> float:
    """Registers the fleet and waits until the worker has it; the seconds that took."""
    began, version = time.monotonic(), 0
    for change in changes(services):
        reply = node.api("POST", "/v1/apply", change, timeout=120)
        if reply.status >= 300:
            raise SystemExit(f"apply: {reply.status} {str(reply.body)[:1000]}")
        version = reply.body["version"]
    node.wait_version(version, 60)
    return time.monotonic() - began


def queries(services: int) -> Iterator[bytes]:
    """W8 for that many services, in turn; each client subnet once."""
    rnd = random.Random(workloads.SEED)
    for number, key in enumerate(workloads.subnets()):
        yield workloads.packet(service(number % services), workloads.subnet(key), workloads.cookie(rnd), mix=rnd)


def check(port: int, services: int) -> None:
    """Asks a sample and compares with distances; ends the run when an answer is wrong."""
    rnd = random.Random(workloads.SEED)
    with maxminddb.open_database(str(workloads.GEO)) as reader, socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect(("127.0.0.1", port))
        for key in rnd.sample(workloads.subnets(), 500):
            number = rnd.randrange(services)
            sock.send(workloads.packet(service(number), workloads.subnet(key)))
            client, address = IPv4Address(key << 8), workloads.address_in(sock.recv(4096))
            far = workloads.distances(client, [site for site, _ in endpoints(number)] + sites(), reader)
            own = {one: km for (_, one), km in zip(endpoints(number), far, strict=False)}
            best = min(far)
            if address not in own or _level(own[address] - SLACK_KM - best) > _level(min(own.values()) - best) + 1:
                raise SystemExit(f"{service(number)} is answered wrongly: {client} gets {address} of {own}")


def _level(km: float) -> int:
    """The step that so much more distance than to the best site is rounded to; regions share one, so it may be the
    next. Sites far away from a client are as far when they are within some hundred kilometres."""
    return level_of(max(0.0, km) * distance.MS_PER_KM)


def _rounds(at: dict[str, Server], kind: Workload, files: dict[str, Path], rounds: int, seconds: float,
            ) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in at}
    for number in range(rounds):
        for name in at if number % 2 else reversed(at):
            found[name].append(compare.measure(kind, at[name], files[name], seconds).cpu_us)
            print(f"round {number + 1}/{rounds} {name:6} {found[name][-1]:6.3f} µs", file=sys.stderr)
    return found


def _report(found: dict[str, list[float]], memory: dict[str, float], services: int, took: float, rounds: int,
            seconds: float) -> list[str]:
    ratio = {name: results.ratios(found[name], found["small"]) for name in found}
    names = {"small": "16 sites, one service", "one": "64 sites, one service asked",
             "all": "64 sites, all services asked"}
    rows = [[names[name], f"{results.told(found[name]):.2f}", f"{ratio[name]:.2f}",
             f"{memory[name]:.1f}" if name in memory else ""] for name in found]
    return [
        "## A large fleet", "",
        f"{services * EACH:,} endpoints, {services:,} services, {SITES} sites, registered through the API in "
        f"{took:.0f} s; W8, one worker with the engine, {rounds} rounds of {seconds:g} s. {results.machine()}.",
        *results.table(["", "CPU µs per answer", "to the small fleet", "anonymous MiB of the worker"], rows),
        f"CPU to the small fleet ≤ {BARS['ratio'][0]} ({BARS['ratio'][1]}): "
        f"{results.verdict(ratio['all'].middle, *BARS['ratio'])}; memory ≤ {BARS['mib'][0]} MiB ({BARS['mib'][1]}): "
        f"{results.verdict(memory['all'], *BARS['mib'])}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
