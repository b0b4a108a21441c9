"""What renewing leases costs, through the HTTP API in batches: `python bench/renewals.py`.

Instances' leases are acquired once; then batches of them are renewed at a steady rate, as one agent for many instances
does. Told: renewals a second, the time of a batch, CPU of the control process and of the store per second.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Any, Final

import workloads
from servers import Node, cpu_ns, write_config

EACH: Final = 500
SITE: Final = {"id": "here", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}
ZONE: Final = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 127.0.0.1\nwww A 127.0.0.1\n"
CONNECTIONS: Final = 4


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leases", type=int, default=5000, help="in all; each has one endpoint")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--per-second", type=float, default=33_000.0, help="renewals a second; 0: as many as can be")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder:
        home = Path(folder)
        node = Node(write_config(home / "node", home / "atlas", workers=1, zones={workloads.ZONE: ZONE}))
        try:
            node.start()
            count = (options.leases + EACH - 1) // EACH
            node.apply({"sites": [SITE], "services": [
                {"name": f"s{i}.{workloads.ZONE}", "ttl": 8, "types": ["A"]} for i in range(count)]})
            _run(node, options, _acquire(node, options.leases))
        finally:
            node.stop()
    return 0


def _acquire(node: Node, count: int) -> list[dict[str, Any]]:
    """Leases of five minutes, one endpoint each; what renews them."""
    def one(number: int) -> dict[str, Any]:
        address = str(IPv4Address("198.18.0.1") + number)
        reply = node.api("POST", "/v1/leases", {"holder": f"h{number}", "ttl": 300, "endpoints": [
            {"id": f"h{number}", "service": f"s{number // EACH}.{workloads.ZONE}", "site": SITE["id"], "a": address}]})
        if reply.status != 201:
            raise SystemExit(f"lease {number}: {reply}")
        return {"id": reply.body["id"], "fence": reply.body["fence"]}

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


def _run(node: Node, options: argparse.Namespace, leases: list[dict[str, Any]]) -> None:
    bodies = [json.dumps({"renewals": leases[at : at + options.batch]}) for at in range(0, len(leases), options.batch)]
    headers = {"Authorization": f"Bearer {node.token}", "Content-Type": "application/json"}
    control, store = node.children("dnsd.control.app")[0], node.children("store.sock")[0]
    host = node.admin.removeprefix("http://")
    gap = options.batch / options.per_second if options.per_second else 0.0
    began = time.monotonic()
    end = began + options.seconds
    before = cpu_ns(control), cpu_ns(store)

    def renew(first: int) -> list[float]:
        connection, took, turn = http.client.HTTPConnection(host, timeout=30), [], first
        while (due := began + turn * gap) < end and time.monotonic() < end:
            time.sleep(max(0.0, due - time.monotonic()))
            asked = time.monotonic()
            connection.request("POST", "/v1/leases:renew", bodies[turn % len(bodies)], headers)
            reply = connection.getresponse()
            renewed = json.loads(reply.read())
            if reply.status != 200 or not all(one["ok"] for one in renewed["renewed"]):
                raise SystemExit(f"{reply.status}: {renewed}"[:500])
            took.append(time.monotonic() - asked)
            turn += CONNECTIONS
        connection.close()
        return took

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        took = sorted(one for part in pool.map(renew, range(CONNECTIONS)) for one in part)
    seconds = time.monotonic() - began
    cpu = [(after - was) / 1e7 / seconds for after, was in zip((cpu_ns(control), cpu_ns(store)), before, strict=True)]
    print(f"{len(took) * options.batch / seconds:,.0f} renewals a second in batches of {options.batch}, {len(leases)} "
          f"leases; batch p50 {1000 * median(took):.0f} ms, max {1000 * took[-1]:.0f}; CPU of control {cpu[0]:.0f} %, "
          f"of the store {cpu[1]:.0f} %")


if __name__ == "__main__":
    sys.exit(main())
