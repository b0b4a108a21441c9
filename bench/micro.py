"""CPU time of `answer.respond` alone, by workload: `python bench/micro.py [WORKLOAD ...] [--profile]`.

No sockets, no processes: an image and a map in memory, the queries of `bench/workloads.py`, one loop. For looking at
one change; what counts is `bench/compare.py`.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import workloads  # noqa: E402

from dnsd import answer, metrics  # noqa: E402
from dnsd.atlas import build, derive, tablefile  # noqa: E402
from dnsd.atlas import store as atlas_store  # noqa: E402
from dnsd.compile import image as compile_image  # noqa: E402
from dnsd.control import zonefile  # noqa: E402
from dnsd.dns import names, types  # noqa: E402
from dnsd.image.reading import Image  # noqa: E402
from dnsd.image.table import MapTable  # noqa: E402
from dnsd.model import EndpointView, MapView, ServiceView, Stamp  # noqa: E402
from dnsd.steer import policy  # noqa: E402

CACHE: Final = ROOT / "build" / "bench"
LOOPBACK: Final = b"\x7f\0\0\1"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=list(workloads.WORKLOADS))
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    image = bench_image()
    files = workloads.write(CACHE)
    for name in options.workloads:
        packets = workloads.read(files[name])
        queries = list(itertools.islice(itertools.cycle(packets), options.queries))
        clients = _clients(workloads.WORKLOADS[name].sources, len(queries))
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(_run, queries, clients, image)
            profile.print_stats("tottime")
            continue
        best = min(_run(queries, clients, image) for _ in range(options.repeat))
        print(f"{name}  {best / len(queries) / 1000:.3f} µs   {workloads.WORKLOADS[name].about}", flush=True)
    return 0


def bench_image() -> Image:
    """The bench zone and service, and the service's map from the bundled data (the atlas is kept in build/bench)."""
    if not (CACHE / "atlas" / atlas_store.FILE).exists():
        build.build(ROOT / "data", CACHE / "atlas")
    places = workloads.sites()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "map"
        tablefile.write(file, derive.make(
            atlas_store.open_atlas(CACHE / "atlas"),
            [derive.SiteSpec(s.id, s.latitude, s.longitude, "US", "na") for s in places]), atlas=0, made_ms=0)
        table = MapTable(file.read_bytes())
        master = Path(folder) / "zone"
        master.write_text(workloads.zone_text(), encoding="utf-8")
        zone = zonefile.read(master, workloads.ZONE)
    service = ServiceView(
        names.to_wire(workloads.SERVICE), policy.resolve("geo", {}), 8, frozenset({types.A}),
        tuple(EndpointView(s.id, s.id, bytes(map(int, s.address.split("."))), None) for s in places))
    maps = [MapView(0, "map", tuple(s.id for s in places))]
    image = Image(compile_image.build([zone], [service], maps, Stamp(1, 1, 0), 0).data)
    image.maps[0] = table
    return image


def _clients(sources: int, count: int) -> list[bytes]:
    if not sources:
        return [LOOPBACK] * count
    rnd = random.Random(workloads.SEED)
    return [b"\x7f" + rnd.randbytes(3) for _ in range(count)]


def _run(queries: Sequence[bytes], clients: Sequence[bytes], image: Image) -> int:
    """Nanoseconds of CPU for all the queries."""
    ctx = answer.Context(memoryview(bytearray(8 * metrics.SLOTS)).cast("Q"), node="bench")
    now, respond = int(time.time()), answer.respond
    begin = time.process_time_ns()
    for query, client in zip(queries, clients, strict=True):
        respond(query, client, image, now, ctx)
    return time.process_time_ns() - begin


if __name__ == "__main__":
    sys.exit(main())
