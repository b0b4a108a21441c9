"""What measured round trips cost: `python bench/measurements.py ingest|memory|deciding`.

`ingest` posts batches of 5,000 samples to a running node over its HTTP API, by ten tokens, and tells samples a second
and the processor time of the control process, the deciding child and the store. `memory` fills a store of its own
with the cells and the decided table of a million blocks at sixteen sites and tells what it says it uses. `deciding`
tells how long a round, a fold and taking over take the child at that size.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import workloads
from servers import Node, cpu_ns, write_config

from dnsd.registry.link import Link
from dnsd.registry.measurements import Measurements
from dnsd.registry.store import Registry
from dnsd.rtt import decide, rows, shards
from dnsd.rtt.cells import EPOCH_S, Cells, blocks_of
from dnsd.rtt.items import GROUP, Entry
from dnsd.rtt.table import Table

BATCH: Final = 5000
TOKENS: Final = 10
ZONE: Final = "$TTL 300\n@ SOA ns1 hostmaster 1 7200 900 1209600 60\n@ NS ns1\nns1 A 127.0.0.1\nwww A 127.0.0.1\n"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ingest", "memory", "deciding"))
    parser.add_argument("--samples", type=int, default=400_000)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--sites", type=int, default=16)
    parser.add_argument("--reporters", type=int, default=3, help="of each cell, 1 to 3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as folder:
        {"ingest": ingest, "memory": memory, "deciding": deciding}[options.what](Path(folder), options)
    return 0


# --- ingest ---

def ingest(home: Path, options: argparse.Namespace) -> None:
    """Samples a second through the API."""
    node = Node(write_config(home / "node", home / "atlas", workers=1, zones={workloads.ZONE: ZONE}))
    node.cli("data", "build")
    try:
        node.start()
        sites = [f"s{number:02}" for number in range(options.sites)]
        node.apply({"sites": [{"id": site, "latitude": 50.0, "longitude": 8.0 + number / 10, "country": "DE",
                               "region": "eu"} for number, site in enumerate(sites)]})
        secrets = [node.api("PUT", f"/v1/tokens/t{number}", {"role": "agent"}).body["token"]
                   for number in range(TOKENS)]
        bodies = _bodies(options, sites)
        pids = {"control": node.children("control.app")[0], "store": node.children("store.sock")[0]}
        _post(node, secrets, bodies[:1])
        time.sleep(4)
        pids["child"] = node.children("dnsd.rtt.child")[0]
        before, began = {name: cpu_ns(pid) for name, pid in pids.items()}, time.monotonic()
        taken = _post(node, secrets, bodies)
        posted_s = time.monotonic() - began
        time.sleep(8)
        used = {name: (cpu_ns(pid) - before[name]) / 1e9 for name, pid in pids.items()}
        sent = len(bodies) * BATCH
        print(f"{sent:,} samples, {taken:,} accepted, in {posted_s:.2f} s: {sent / posted_s:,.0f} a second")
        print(", ".join(f"{name} {seconds:.2f} s of CPU" for name, seconds in used.items()),
              f"in all {sent / sum(used.values()):,.0f} samples a second of one core")
        print(json.dumps(node.api("GET", "/v1/status").body["measurements"]["last"]))
    finally:
        node.stop()


def _bodies(options: argparse.Namespace, sites: list[str]) -> list[bytes]:
    """Batches as agents send them: each of one site, of many blocks of Europe's and America's addresses."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(options.samples // BATCH):
        blocks = rng.integers(0x500000, 0x5FFFFF, BATCH)
        ms = rng.uniform(90, 250, BATCH)
        found.append(json.dumps({"site": sites[number % len(sites)], "samples": [
            {"client": f"{block >> 16}.{block >> 8 & 255}.{block & 255}.{number % 200 + 1}", "rtt_ms": round(one, 2)}
            for block, one in zip(blocks.tolist(), ms.tolist(), strict=True)]}).encode())
    return found


def _post(node: Node, secrets: list[str], bodies: list[bytes]) -> int:
    host, _, port = node.admin.removeprefix("http://").partition(":")

    def one(share: tuple[str, list[bytes]]) -> int:
        secret, mine = share
        connection, taken = http.client.HTTPConnection(host, int(port), timeout=30), 0
        for body in mine:
            connection.request("POST", "/v1/measurements", body, {
                "Authorization": f"Bearer {secret}", "Content-Type": "application/json"})
            answer = connection.getresponse()
            told = json.loads(answer.read())
            if answer.status != 202:
                raise SystemExit(f"{answer.status} {told}")
            taken += told["accepted"]
        connection.close()
        return taken

    shares = [(secret, bodies[number :: len(secrets)]) for number, secret in enumerate(secrets)]
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(one, shares))


# --- memory ---

def memory(home: Path, options: argparse.Namespace) -> None:
    """What a store says it uses for all cells and the decided table."""
    from tests.registry.conftest import BINARIES, Server

    server = Server(BINARIES["redis"] or BINARIES["valkey"], "--maxmemory", "4gb", "--appendonly", "no")
    try:
        asyncio.run(_fill(server.url, options))
    finally:
        server.close()


async def _fill(url: str, options: argparse.Namespace) -> None:
    registry = await Registry.open(url)
    store: Measurements = registry.measurements
    presence = await registry.sightings.observe("bench", "", builds=1)
    empty = await _used(url)
    cells = _cells(options, 50_000)
    template = rows.pack(cells, np.unique(blocks_of(cells.keys)))
    names = rows.names_of(cells, 1000)
    for first in range(0, options.blocks, len(template)):
        shifted = [((int.from_bytes(key) + first).to_bytes(8), words) for key, words in template]
        await store.keep("bench", presence.fence, names, shifted[: options.blocks - first])
    kept = await _used(url)
    decided = _table(options)
    parts = {}
    member = shards.shard_of(decided.blocks)
    for shard in range(shards.SHARDS):
        mine = shards.without(decided, set(range(shards.SHARDS)) - {shard})
        parts[f"{shard}:1"] = _packed(mine)
    del member
    await store.decide("bench", presence.fence, parts, {"number": 1, "sites": [], "parts": {}})
    full = await _used(url)
    await registry.close()
    cells_of, table_of = kept - empty, full - kept
    print(f"{options.blocks:,} blocks x {options.sites} sites x {options.reporters} reporters: cells "
          f"{cells_of / 2**20:,.0f} MiB ({cells_of / options.blocks:.0f} octets a block), decided table "
          f"{table_of / 2**20:,.0f} MiB, together {(full - empty) / 2**30:.3f} GiB")


def _packed(table: Table) -> bytes:
    import zlib

    return zlib.compress(table.to_bytes(), 1)


async def _used(url: str) -> int:
    link = Link(url, "x")
    [text] = await link.together(("INFO", "memory"))
    await link.close()
    return int(next(line.split(b":")[1] for line in text.splitlines() if line.startswith(b"used_memory:")))


def _table(options: argparse.Namespace) -> Table:
    """As noisy as a real one: nothing in it compresses for being the same."""
    rng = np.random.default_rng(2)
    table = Table.zeros(tuple(f"s{n:02}" for n in range(options.sites)), np.arange(options.blocks, dtype=np.uint64))
    shape = table.ms.shape
    table.ms[:] = rng.integers(50, 3000, shape)
    table.error[:], table.count[:] = rng.integers(1, 12, shape), rng.integers(10, 60, shape)
    table.seen[:], table.reporters[:] = 470_000 - rng.integers(0, 300, shape), options.reporters
    table.weight[:] = rng.exponential(10, options.blocks)
    return table


def _cells(options: argparse.Namespace, blocks: int) -> Cells:
    cells, rng = Cells(), np.random.default_rng(3)
    names = [f"s{number:02}" for number in range(options.sites)]
    for reporter in range(options.reporters):
        for site in range(options.sites):
            groups = np.zeros(blocks, GROUP)
            groups["block"], groups["site"] = np.arange(blocks), site
            groups["rtt"], groups["spread"] = rng.integers(50, 3000, blocks), rng.integers(1, 200, blocks)
            groups["count"], groups["km"] = rng.integers(1, 100, blocks), rng.integers(0, 15_000, blocks)
            cells.fold(Entry("n", (EPOCH_S + 1000) * 1000, names, [f"r{reporter}"], groups), 1000)
    return cells


# --- deciding ---

def deciding(home: Path, options: argparse.Namespace) -> None:
    """Times of the child's steps at full size."""
    began = time.monotonic()
    cells = _cells(options, options.blocks)
    folded = options.blocks * options.sites * options.reporters
    print(f"folding {folded:,} groups: {time.monotonic() - began:.1f} s")
    everything = np.arange(len(cells))
    began = time.monotonic()
    for at in range(0, len(cells), 1_000_000):
        decide.watch(cells, everything[at : at + 1_000_000], 1001)
    print(f"watching {len(cells):,} cells: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    found = decide.settle(cells, 1010, lambda: decide.weight(cells, 1010))
    print(f"first round, {found.new:,} new: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    decide.settle(cells, 1010, lambda: decide.weight(cells, 1010))
    print(f"a round without news: {time.monotonic() - began:.2f} s")
    began = time.monotonic()
    parts = shards.made(cells, range(shards.SHARDS), 1, 1010)
    print(f"all parts: {time.monotonic() - began:.1f} s, {sum(map(len, parts.values())) / 2**20:.0f} MiB")
    began = time.monotonic()
    joined = shards.joined([shards.read(part) for part in parts.values() if part], [
        str(site) for site in cells.sites], {}, number=1, at_ms=1)
    print(f"joined, {len(joined.blocks):,} blocks: {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    print(f"{len(cells.forget(1020))} forgotten: {time.monotonic() - began:.1f} s")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    sys.exit(main())
