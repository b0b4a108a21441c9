"""From the start of a server to its first answer, from files that are there: `python bench/start.py [--quick]`.

dnsd is started with the state that it left behind when it was stopped (image, map tables, store, atlas), as after
a reboot; a query for the geo name, with a client subnet, goes out every millisecond until an endpoint comes
back. gdnsd, with the same zone, for comparison; files are in the page cache for both. Told beside it: how long until
dnsd says that it is ready, and anonymous memory of a worker.

Lives here: starting again and again. Does not live here: nodes (`nodes`), gdnsd's settings (`peers`).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import nodes
import peers
import results
import servers
import workloads
from servers import Missing, Node

BAR: Final = (0.5, 0.2)
"""Seconds to the first answer: what must be, what is aimed at."""


def main() -> int:
    """The command."""
    parser = results.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="15; quick: 3")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 15)
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder:
        rows = []
        for name in nodes.ENGINES:
            with nodes.node_of(Path(folder) / name, name) as node:
                node.apply(workloads.fleet(), 60)
                nodes.settled(node)
                found = [_again(node) for _ in range(rounds)]
                rows.append([name, *(f"{results.told([one[i] for one in found]):.3f}" for i in range(2)),
                             f"{max(one[2] for one in found):.1f}"])
                if name == "dnsd":
                    verdict = results.verdict(results.told([one[0] for one in found]).middle, *BAR)
        with suppress(Missing):
            rows.append(["gdnsd", f"{results.told(_gdnsd(Path(folder), rounds)):.3f}", "", ""])
    results.put(options.out, "start", [
        "## From the start to the first answer", "", f"{rounds} starts from files. {results.machine()}.",
        *results.table(["", "s to the first answer", "s until ready", "anonymous MiB of the worker, at most"], rows),
        f"dnsd ≤ {BAR[0]} s ({BAR[1]}): {verdict}."])
    return 0


def _again(node: Node) -> tuple[float, float, float]:
    """Stops and starts a node: seconds to its first answer, until it is ready; MiB of its worker."""
    node.stop()
    began = time.monotonic()
    node.start(ready=False)
    first = _answered(node.port) - began
    node.wait_ready()
    ready = time.monotonic() - began
    time.sleep(1)
    return first, ready, servers.anonymous_mib(node.children("serve.worker")[0])


def _gdnsd(folder: Path, rounds: int) -> list[float]:
    """The same for gdnsd."""
    with peers.gdnsd(folder / "gdnsd") as server:
        port = server.doors["W3"].port
    found = []
    for _ in range(rounds):
        began = time.monotonic()
        process = subprocess.Popen([servers.find("gdnsd"), "-c", str(folder / "gdnsd"), "start"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found.append(_answered(port) - began)
        finally:
            process.terminate()
            process.wait(10)
    return found


def _answered(port: int, seconds: float = 30) -> float:
    """When the first right answer came."""
    places = {site.address for site in workloads.sites()}
    query = workloads.packet(workloads.SERVICE, workloads.subnet(workloads.subnets()[0]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.001)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(OSError):
                sock.sendto(query, ("127.0.0.1", port))
                if workloads.address_in(sock.recv(4096)) in places:
                    return time.monotonic()
            time.sleep(0.0005)  # a closed port refuses at once
    raise SystemExit("no answer")


if __name__ == "__main__":
    sys.exit(main())
