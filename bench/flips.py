"""How soon every worker answers as an override wants it, in a large fleet under load: `python bench/flips.py`.

The fleet of `fleet` (10,000 services of ten endpoints, 64 sites), two workers, W8 over all services at half of what
saturates them. Again and again some service's answer for one client subnet is looked up, the endpoint that is answered
is forced down over the API, and from when that was accepted each worker is asked until it answers with another. The
time of a flip is that of the last worker; beside it, from when the request was sent.

Lives here: the load, the flips. Does not live here: telling workers apart (`registrations`), the fleet (`fleet`).
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import fleet
import nodes
import registrations
import results
import servers
import workloads
from servers import BUILT, Node

WORKERS: Final = 2
SOCKETS: Final = 8
"""The load's, so that the kernel gives both workers a share."""
SHARE: Final = 0.5
PATIENCE_S: Final = 10.0
BAR: Final = (100.0, 20.0)
"""Milliseconds until the last worker, 99th percentile."""

Sockets = Mapping[str, Sequence[socket.socket]]


class Flip(NamedTuple):
    """Milliseconds from the acceptance to the last worker, and from the request to it."""

    accepted_ms: float
    asked_ms: float


def main() -> int:
    """The command."""
    parser = results.arguments(__doc__)
    parser.add_argument("--flips", type=int, help="300; quick: 40")
    parser.add_argument("--services", type=int, help=f"{fleet.SERVICES}; quick: 1000")
    options = parser.parse_args()
    flips = options.flips or (40 if options.quick else 300)
    services = options.services or (1000 if options.quick else fleet.SERVICES)
    servers.compile_programs()
    file = BUILT / "all.queries"
    workloads.write_file(file, fleet.queries(services))
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder, nodes.node_of(
            Path(folder) / "node", workers=WORKERS) as node:
        fleet.register(node, services)
        nodes.settled(node)
        sockets = registrations.by_worker(node.port, WORKERS)
        saturation = _blast(node.port, file, 2.0, [])["qps"]
        rate = SHARE * saturation
        print(f"saturation {saturation:.0f}/s", file=sys.stderr)
        with loaded(node.port, file, rate) as seen:
            rnd = random.Random(workloads.SEED)
            found = [flip(node, sockets, rnd, number) for number in rnd.sample(range(services), flips)]
    results.put(options.out, "flips", _report(found, services, saturation, rate, seen))
    return 0


def flip(node: Node, sockets: Sockets, rnd: random.Random, number: int) -> Flip:
    """Forces down what one client subnet gets of a service, and waits for all workers."""
    name, key = fleet.service(number), rnd.choice(workloads.subnets())
    query = workloads.packet(name, workloads.subnet(key))
    first = _ask(next(iter(sockets.values()))[0], query)
    endpoint = next(i for i, (_, address) in enumerate(fleet.endpoints(number)) if address == first)
    asked = time.monotonic()
    reply = node.api("PUT", f"/v1/overrides/endpoint:{name}/e{endpoint}",
                     {"state": "down", "seconds": 3600, "reason": "bench"})
    accepted = time.monotonic()
    if reply.status >= 300:
        raise SystemExit(f"override: {reply}")
    done = _followed(sockets, query, first)
    time.sleep(rnd.uniform(0.05, 0.15))
    return Flip(1000 * (done - accepted), 1000 * (done - asked))


def _followed(sockets: Sockets, query: bytes, before: str) -> float:
    """When the last worker answered with another address; all are asked each half millisecond."""
    left = {worker: socks[0] for worker, socks in sockets.items()}
    deadline = time.monotonic() + PATIENCE_S
    for sock in left.values():
        _drain(sock)
    while time.monotonic() < deadline:
        for sock in left.values():
            sock.send(query)
        ready, _, _ = select.select(list(left.values()), [], [], 0.0005)
        for worker, sock in list(left.items()):
            if sock in ready and workloads.address_in(sock.recv(4096)) not in ("", before):
                del left[worker]
        if not left:
            return time.monotonic()
        time.sleep(0.0005)
    raise SystemExit(f"{sorted(left)} did not follow within {PATIENCE_S:g} s")


def _ask(sock: socket.socket, query: bytes) -> str:
    _drain(sock)
    for _ in range(10):
        sock.send(query)
        if select.select([sock], [], [], 1)[0]:
            return workloads.address_in(sock.recv(4096))
    raise SystemExit("no answer")


def _drain(sock: socket.socket) -> None:
    while select.select([sock], [], [], 0)[0]:
        sock.recv(4096)


@contextmanager
def loaded(port: int, file: Path, rate: float) -> Iterator[list[dict[str, Any]]]:
    """A steady load as long as this lasts; what came back of it, run by run."""
    seen: list[dict[str, Any]] = []
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            seen.append(_blast(port, file, 5.0, ["-r", str(rate)]))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(1)
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _blast(port: int, file: Path, seconds: float, how: Sequence[str]) -> dict[str, Any]:
    command = [str(BUILT / "udpblast"), "-p", str(port), "-f", str(file), "-t", str(seconds), "-c", str(SOCKETS), *how]
    said: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    if said["bad"] or said["noerror"] != said["answered"]:
        raise SystemExit(f"wrong answers: {said}")
    return said


def _report(found: Sequence[Flip], services: int, saturation: float, rate: float, seen: Sequence[dict[str, Any]],
            ) -> list[str]:
    rows = []
    for name, values in (("from the acceptance", [one.accepted_ms for one in found]),
                         ("from the request", [one.asked_ms for one in found])):
        rows.append([name, *(f"{results.percentile(values, share):.1f}" for share in (0.5, 0.95, 0.99, 1))])
    p99 = results.percentile([one.accepted_ms for one in found], 0.99)
    sent, lost = sum(one["sent"] for one in seen), sum(one["lost"] for one in seen)
    return [
        "## An override, to the last worker", "",
        f"{len(found)} flips of one endpoint each among {services:,} services, {WORKERS} workers with the engine; load "
        f"{rate:,.0f} a second, half of the {saturation:,.0f} that saturate them beside the generator; {lost} of "
        f"{sent:,} queries lost. {results.machine()}.",
        *results.table(["ms", "p50", "p95", "p99", "most"], rows),
        f"p99 from the acceptance ≤ {BAR[0]:g} ms ({BAR[1]:g}): {results.verdict(p99, *BAR)}."]


if __name__ == "__main__":
    sys.exit(main())
