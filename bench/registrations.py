"""How soon every worker answers with what was just registered: `python bench/registrations.py`.

Instances acquire leases over HTTP at a steady rate. From the moment one is accepted (its 201 has come back) each worker
is asked until it answers with the new address; workers are told apart by NSID, which also tells which local ports the
kernel hashes to which worker. All questions together keep a fixed rate. The time of a registration is that of the last
worker.
"""

from __future__ import annotations

import argparse
import platform
import select
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from typing import Any, Final

import workloads
from servers import Node, write_config

EACH: Final = 20
"""Instances of a service: all are answered at once, and 20 addresses fit a datagram."""
SITE: Final = {"id": "here", "latitude": 50.1, "longitude": 8.7, "country": "DE", "region": "eu"}
NSID: Final = struct.pack(">HH", 3, 0)
PATIENCE_S: Final = 10.0


class Pending:
    """A registration that was accepted and the workers that have not answered with it yet."""

    def __init__(self, name: str, address: bytes, workers: Sequence[str]) -> None:
        self.query = workloads.packet(name, edns=True)
        self.address = address
        self.accepted = time.monotonic()
        self.seen: dict[str, float] = {}
        self.left = set(workers)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registrations", type=int, default=1000)
    parser.add_argument("--per-second", type=float, default=100.0, help="registrations a second")
    parser.add_argument("--queries", type=float, default=1000.0, help="DNS questions a second, in all")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder:
        node = Node(write_config(
            Path(folder), Path(folder) / "atlas", workers=options.workers, zones={workloads.ZONE: ZONE}))
        try:
            node.start()
            node.apply(_fleet(options.registrations))
            sockets = by_worker(node.port, options.workers)
            done = _run(node, options, sockets)
        finally:
            node.stop()
    _report(options, done)
    return 0


ZONE: Final = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 127.0.0.1\nwww A 127.0.0.1\n"


def _fleet(count: int) -> dict[str, Any]:
    services = [{"name": f"s{i}.{workloads.ZONE}", "ttl": 8, "types": ["A"], "policy": {"preset": "all"}}
                for i in range((count + EACH - 1) // EACH)]
    return {"sites": [SITE], "services": services}


def by_worker(port: int, workers: int) -> dict[str, list[socket.socket]]:
    """Connected sockets for each worker, found by asking from new ports until there are some for all."""
    found: dict[str, list[socket.socket]] = {}
    query = workloads.packet(f"www.{workloads.ZONE}", NSID)
    for _ in range(1000):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(2)
        sock.connect(("127.0.0.1", port))
        sock.send(query)
        reply = sock.recv(4096)
        worker = reply[reply.rindex(NSID[:2]) + 4 :].decode("ascii", "replace").split()[1]
        sock.setblocking(False)
        found.setdefault(worker, []).append(sock)
        if len(found) == workers and min(len(socks) for socks in found.values()) >= 4:
            return found
    raise SystemExit(f"only {sorted(found)} of {workers} workers answer")


def _run(node: Node, options: argparse.Namespace, sockets: dict[str, list[socket.socket]]) -> list[Pending]:
    """All registrations at their rate, each watched until every worker has it."""
    pending: list[Pending] = []
    done: list[Pending] = []
    lock, over = threading.Lock(), threading.Event()

    def register(number: int) -> None:
        name, address = f"s{number // EACH}.{workloads.ZONE}", IPv4Address("198.18.0.1") + number
        reply = node.api("POST", "/v1/leases", {"holder": f"h{number}", "ttl": 600, "endpoints": [
            {"id": f"h{number}", "service": name, "site": SITE["id"], "a": str(address)}]})
        one = Pending(name, address.packed, list(sockets))
        if reply.status != 201:
            raise SystemExit(f"registration {number}: {reply}")
        with lock:
            pending.append(one)

    watcher = threading.Thread(target=_watch, args=(options.queries, sockets, pending, done, lock, over))
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        began, futures = time.monotonic(), []
        for number in range(options.registrations):
            time.sleep(max(0.0, began + number / options.per_second - time.monotonic()))
            futures.append(pool.submit(register, number))
        for future in futures:
            future.result()
    over.set()
    watcher.join()
    if pending:
        raise SystemExit(f"{len(pending)} registrations were not on every worker after {PATIENCE_S:g} s")
    return done


def _watch(rate: float, sockets: dict[str, list[socket.socket]], pending: list[Pending], done: list[Pending],
           lock: threading.Lock, over: threading.Event) -> None:
    poll = select.epoll()
    socks = {sock.fileno(): (worker, sock) for worker, of in sockets.items() for sock in of}
    for number in socks:
        poll.register(number, select.EPOLLIN)
    idle = workloads.packet(f"www.{workloads.ZONE}", edns=True)
    asked: dict[int, Pending] = {}
    turn, due, deadline = 0, time.monotonic(), float("inf")
    while not over.is_set() or (pending and time.monotonic() < deadline):
        now = time.monotonic()
        if over.is_set():
            deadline = min(deadline, now + PATIENCE_S)
        if now >= due:
            due = max(due + 1 / rate, now - 0.05)
            turn += 1
            with lock:
                goals = [(one, worker) for one in pending for worker in one.left]
            one, worker = goals[turn % len(goals)] if goals else (None, list(sockets)[turn % len(sockets)])
            sock = sockets[worker][turn // len(sockets) % len(sockets[worker])]
            if one is not None:
                asked[turn & 0xFFFF] = one
            sock.send((turn & 0xFFFF).to_bytes(2, "big") + (one.query if one else idle)[2:])
        for number, _ in poll.poll(max(0.0, due - time.monotonic())):
            worker, sock = socks[number]
            reply = sock.recv(4096)
            found = asked.pop(int.from_bytes(reply[:2], "big"), None)
            if found and found.address in reply and worker in found.left:
                found.seen[worker] = time.monotonic() - found.accepted
                found.left.discard(worker)
                if not found.left:
                    with lock:
                        pending.remove(found)
                        done.append(found)
    poll.close()


def _report(options: argparse.Namespace, done: Sequence[Pending]) -> None:
    print(f"{len(done)} registrations at {options.per_second:g} a second, {options.queries:g} questions a second, "
          f"{options.workers} workers, CPython {platform.python_version()}")
    rows = [("every worker", [max(one.seen.values()) for one in done])]
    rows += [(f"worker {worker}", [one.seen[worker] for one in done]) for worker in sorted(done[0].seen)]
    for name, seconds in rows:
        ms = sorted(1000 * s for s in seconds)
        at = {p: ms[min(len(ms) - 1, int(len(ms) * p / 100))] for p in (95, 99)}
        print(f"{name:14} p50 {median(ms):6.1f} ms  p95 {at[95]:6.1f}  p99 {at[99]:6.1f}  max {ms[-1]:6.1f}")


if __name__ == "__main__":
    sys.exit(main())
