"""Each of ten sites dies at 70 % load: where real queries of 5,028 real clients go: `python bench/spill.py [--quick]`.

A node with its engine has ten sites; each has the capacity that its own clients, as they are answered, fill to 70 %.
Every client (data/clients, one unit each) asks over UDP with its subnet. Then one site after the other is forced down,
all ask again, it comes back, all ask again. Told: who moved, who had to (those who were answered with the dead site),
the fullest site, scopes, and how long until the solved shares were served. Beside it the same without `spill`: then all
of a site's clients go to their next best, as full as that may be.

Lives here: asking and counting. Does not live here: nodes (`nodes`).
"""

from __future__ import annotations

import csv
import ipaddress
import json
import select
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import dns.edns
import dns.message
import nodes
import results
from servers import Node, write_config

from dnsd.control import reply
from dnsd.dns import names, types
from dnsd.steer import distance

LOAD, HIGH, UNIT = 0.7, 0.95, 100
BATCH: Final = 64
NAME: Final = "api.demo.example"
SITES: Final = [
    ("ams", 52.37, 4.9, "NL", "eu"), ("iad", 38.95, -77.45, "US", "na"), ("sjc", 37.34, -121.9, "US", "na"),
    ("gru", -23.5, -46.6, "BR", "sa"), ("jnb", -26.2, 28.0, "ZA", "af"), ("sin", 1.35, 103.8, "SG", "as"),
    ("nrt", 35.7, 139.7, "JP", "as"), ("bom", 19.1, 72.9, "IN", "as"), ("mad", 40.4, -3.7, "ES", "eu"),
    ("ist", 41.0, 28.97, "TR", "eu")]

Answers = list[tuple[str, int]]
"""Of each client: the site it is answered with, and the scope."""


def main() -> int:
    """The command."""
    parser = results.arguments(__doc__)
    parser.add_argument("--preset", default="geo", choices=["geo", "latency"])
    parser.add_argument("--low", type=int, default=80, help="the policy's `low`")
    options = parser.parse_args()
    with (results.ROOT / "data" / "clients" / "clients_v4.csv").open(newline="") as lines:
        known = list(csv.DictReader(lines))
    clients = [ipaddress.IPv4Network(row["prefix"]) for row in known]
    places = [(float(row["latitude"]), float(row["longitude"])) for row in known]
    with tempfile.TemporaryDirectory(prefix="dnsd-spill-") as folder:
        home = Path(folder)
        (home / "clients.csv").write_text("".join(f"{prefix},{UNIT}\n" for prefix in clients))
        node = Node(write_config(home / "n", nodes.ATLAS, workers=1, more=f'clients = "{home}/clients.csv"'),
                    env={"DNSD_ENGINE": "require"})
        node.cli("data", "build", "--if-stale")
        try:
            node.start()
            dying = SITES[:3] if options.quick else SITES
            rows, summary = run(node, clients, dying, options.preset, options.low, places)
        finally:
            node.stop()
    print(json.dumps({"rows": rows, **summary}, indent=1))
    results.put(options.out, "spill", [
        "## A site dies", "",
        f"{len(clients)} clients of data/clients, ten sites at 70 % load, `{options.preset}`, `low` {options.low}, one "
        "after the other "
        f"forced down, asked over UDP. {results.machine()}.",
        *results.table(
            ["site", "clients", "moved", "had to", "others moved", "heirs", "fullest after", "next best alone",
             "ms by distance", "ms next best", "back as before", "solved after, s"],
            [[row["site"], str(row["clients"]), f"{row['moved']:.2%}", f"{row['had_to']:.2%}", str(row["others"]),
              str(row["heirs"]), f"{row['fullest']:.1%}", f"{row['alone']:.1%}", f"{row['ms']:.0f}",
              f"{row['ms_alone']:.0f}", str(row["back"]),
              f"{row['seconds']:.2f}"] for row in rows]),
        f"Fullest site before: {summary['before']:.1%}. Scopes under /20: {summary['wide']}. Blocks of one scope "
        f"with different answers: {summary['apart']}."])
    return 0 if all(row["others"] == 0 and row["fullest"] <= HIGH and row["back"] for row in rows) else 1


def run(node: Node, clients: Sequence[ipaddress.IPv4Network], dying: Sequence[Any], preset: str, low: int,
        places: Sequence[tuple[float, float]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of all deaths, and what holds for all."""
    apply(node, {}, preset, None)
    nodes.settled(node)
    calm = ask(node, clients)
    natives = Counter(site for site, _ in calm)
    capacity = {site[0]: round(natives[site[0]] * UNIT / LOAD) or 1 for site in SITES}
    alone = {site[0]: deaths(node, clients, site[0], settle=0.5) for site in dying}
    apply(node, capacity, preset, low)
    wait(node, lambda told: told["services"] and told["services"][0]["fits"])
    before = ask(node, clients)
    rows = []
    for id_, *_ in dying:
        began = told(node)["solved"]
        force(node, id_, "down")
        since = time.monotonic()
        wait(node, lambda now, began=began: now["solved"] > began)
        seconds = time.monotonic() - since
        time.sleep(0.3)
        after = ask(node, clients)
        moved = [(was, now) for (was, _), (now, _) in zip(before, after, strict=True) if was != now]
        had = sum(1 for site, _ in before if site == id_)
        began = told(node)["solved"]
        free(node, id_)
        wait(node, lambda now, began=began: now["solved"] > began)
        time.sleep(0.3)
        rows.append({
            "site": id_, "clients": had, "moved": len(moved) / len(clients), "had_to": had / len(clients),
            "others": sum(1 for was, _ in moved if was != id_), "heirs": len({now for _, now in moved}),
            "fullest": fullest(after, capacity), "alone": fullest(alone[id_], capacity),
            "ms": far(before, after, id_, places), "ms_alone": far(before, alone[id_], id_, places), "seconds": seconds,
            "back": ask(node, clients) == before})
        print(rows[-1], file=sys.stderr, flush=True)
    split: dict[tuple[int, int], set[str]] = {}
    for client, (site, scope) in zip(clients, before, strict=True):
        key = int(client.network_address) >> (32 - scope), scope
        split.setdefault(key, set()).add(site)
    return rows, {
        "before": fullest(before, capacity), "wide": sum(1 for _, scope in before if scope < 20),
        "apart": sum(1 for sites in split.values() if len(sites) > 1)}


def far(before: Answers, after: Answers, dead: str, places: Sequence[tuple[float, float]]) -> float:
    """Mean milliseconds by distance of the dead site's clients to where they went."""
    at = {site[0]: (site[1], site[2]) for site in SITES}
    found = [distance.rtt_ms(distance.km(*place, *at[now]))
             for (was, _), (now, _), place in zip(before, after, places, strict=True) if was == dead != now]
    return sum(found) / len(found)


def deaths(node: Node, clients: Sequence[ipaddress.IPv4Network], site: str, settle: float) -> Answers:
    """What all are answered while a site is down."""
    force(node, site, "down")
    time.sleep(settle)
    found = ask(node, clients)
    free(node, site)
    return found


def fullest(answers: Answers, capacity: dict[str, int]) -> float:
    """Load of the fullest site, of its capacity."""
    return max(count * UNIT / capacity[site] for site, count in Counter(site for site, _ in answers).items())


def apply(node: Node, capacity: dict[str, int], preset: str, low: int | None) -> None:
    """The fleet: an endpoint at each site."""
    policy: dict[str, Any] = {"preset": preset}
    node.apply({
        "sites": [{"id": id_, "latitude": latitude, "longitude": longitude, "country": country, "region": region}
                  | ({"capacity": capacity[id_]} if capacity else {})
                  for id_, latitude, longitude, country, region in SITES],
        "services": [{"name": NAME, "policy": policy | ({"spill": {"low": low}} if low else {})}],
        "endpoints": [{"id": site[0], "service": NAME, "site": site[0], "a": f"192.0.2.{number}"}
                      for number, site in enumerate(SITES, 1)]}, 60)


def force(node: Node, site: str, state: str) -> None:
    """An override on a site, served."""
    answer = node.api("PUT", f"/v1/overrides/site:{site}", {
        "target": "site", "name": site, "state": state, "seconds": 600, "reason": "bench"})
    served(node, answer)


def free(node: Node, site: str) -> None:
    """Without it again."""
    path = f"/v1/overrides/site:{site}"
    tag = node.api("GET", path).headers["etag"]
    served(node, node.api("DELETE", path, headers={"If-Match": tag}))


def served(node: Node, answer: Any) -> None:
    if answer.status >= 300:
        raise SystemExit(f"{answer}")
    version = answer.body.get("version") if isinstance(answer.body, dict) else None
    if version:
        node.wait_version(version)


def told(node: Node) -> dict[str, Any]:
    """The status's part."""
    found: dict[str, Any] = node.api("GET", "/v1/status").body["spill"]
    return found


def wait(node: Node, done: Any, seconds: float = 30.0) -> None:
    """Until the status's part is so."""
    deadline = time.monotonic() + seconds
    while not done(told(node)):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds} s: {told(node)}")
        time.sleep(0.02)


def ask(node: Node, clients: Sequence[ipaddress.IPv4Network]) -> Answers:
    """Everybody asks over UDP: site and scope of each."""
    packets = [reply.query(names.to_wire(NAME), types.A, client) for client in clients]
    found: dict[int, tuple[str, int]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.connect((node.address, node.port))
        for at in range(0, len(packets), BATCH):
            numbers = range(at, min(at + BATCH, len(packets)))
            for _ in range(5):
                due = [number for number in numbers if number not in found]
                for number in due:
                    door.send(number.to_bytes(2, "big") + packets[number][2:])
                while len(due) > sum(1 for number in due if number in found) and select.select([door], [], [], 0.5)[0]:
                    message = dns.message.from_wire(door.recv(4096))
                    scope = next(o.scopelen for o in message.options if isinstance(o, dns.edns.ECSOption))
                    found[message.id] = SITES[int(str(message.answer[0][0]).rpartition(".")[2]) - 1][0], scope
    return [found[number] for number in range(len(packets))]


if __name__ == "__main__":
    sys.exit(main())
