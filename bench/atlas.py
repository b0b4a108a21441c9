"""An atlas of GeoLite2 City's size: `python bench/atlas.py [--quick]`.

Files as `cityset` makes them (once, in `build/bench/city`), built by the command as a node does, each time by a
process of its own; maps of 4, 10 and 64 random sites derived from it, likewise; a node that serves with both.

Lives here: rounds, the report. Does not live here: the files (`cityset`), nodes (`nodes`).
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import cityset
import nodes
import results
import servers
import workloads
from servers import BUILT, Node

from dnsd.atlas import store

CITY: Final = BUILT / "city"
BUILD: Final = (1.5, 1.0)
PEAK_MIB: Final = 500
MAP: Final = (0.1, 0.1)
WORKER_MIB: Final = 40
SITES: Final = (4, 10, 64)
WITHOUT: Final = "from dnsd.atlas import compiled as c; c.lines = c.rows = c.runs = c.walk = None; "
MAKE: Final = (
    "import json, sys; from dataclasses import asdict; from pathlib import Path; from dnsd.atlas import build; "
    "print(json.dumps(asdict(build.build(Path(sys.argv[1]), Path(sys.argv[2])))))")


def main() -> int:
    """The command."""
    parser = results.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="9; quick: 2")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 9)
    if not (CITY / "geo" / "city.mmdb").exists():
        # by another process: the memory that this one took would be told of its children
        subprocess.run([sys.executable, cityset.__file__, str(CITY)], check=True)
    with tempfile.TemporaryDirectory(prefix="dnsd-bench-") as name:
        folder = Path(name)
        builds = [_python(MAKE, CITY, folder / "atlas") for _ in range(rounds)]
        slow = _python(WITHOUT + MAKE, CITY, folder / "slow")
        maps = {count: [_map(folder, count, number) for number in range(rounds)] for count in SITES}
        with _node(folder) as node:
            worker = servers.anonymous_mib(node.children("serve.worker")[0])
    if slow["digest"] != builds[0]["digest"]:
        raise SystemExit("the compiled loops and numpy made different atlases")
    seconds = results.told([one["seconds"] for one in builds])
    peak = max(one["peak_mib"] for one in builds)
    rows = [("building the atlas", f"{seconds:.2f} s", results.verdict(seconds.middle, *BUILD)),
            ("its peak memory", f"{peak} MiB", results.verdict(peak, PEAK_MIB, PEAK_MIB)),
            ("building it without compiled loops", f"{slow['seconds']:.2f} s, {slow['peak_mib']} MiB", "")]
    for count, some in maps.items():
        told = results.told([one["seconds"] for one in some])
        runs = some[0]["runs4"] + some[0]["runs6"]
        rows.append((f"a map of {count} sites, {runs:,} runs", f"{told:.3f} s", results.verdict(told.middle, *MAP)))
    rows.append(("anonymous memory of a worker that serves with it", f"{worker:.1f} MiB",
                 results.verdict(worker, WORKER_MIB, WORKER_MIB)))
    results.put(options.out, "atlas", [
        "## An atlas of GeoLite2 City's size", "",
        f"{rounds} rounds, a process each. {results.machine()}. "
        f"{builds[0]['runs4']:,} and {builds[0]['runs6']:,} runs.",
        *results.table(("", "", f"must: {BUILD[0]} s, {PEAK_MIB} MiB, {MAP[0]} s, {WORKER_MIB} MiB"), rows)])
    return 0


def _python(code: str, *arguments: object) -> Any:
    return json.loads(subprocess.check_output([sys.executable, "-c", code, *map(str, arguments)]))


def _map(folder: Path, count: int, number: int) -> Any:
    """The report of a map of so many sites, the same ones each time, in a file of its own as every map is."""
    draw = random.Random(count)
    sites = [{"id": f"s{i}", "latitude": draw.uniform(-50, 60), "longitude": draw.uniform(-180, 180), "country": "US",
              "region": "na", "provider": "aws"} for i in range(count)]
    verified = store.open_atlas(folder / "atlas").stamp  # as control does, when it opens the atlas
    out = folder / f"{count}.{number}.map"
    task = {"atlas": str(folder / "atlas"), "sites": sites, "out": str(out), "verified": verified}
    return json.loads(subprocess.check_output([sys.executable, "-m", "dnsd.atlas.derive", json.dumps(task)]))


@contextmanager
def _node(folder: Path) -> Iterator[Node]:
    """A node that serves the bench's fleet by this atlas."""
    (folder / "node").mkdir()
    node = Node(servers.write_config(
        folder / "node", folder / "atlas", workers=1, zones={workloads.ZONE: workloads.zone_text()}))
    try:
        node.start()
        node.apply(workloads.fleet(), 60)
        nodes.settled(node)
        yield node
    finally:
        node.stop()


if __name__ == "__main__":
    sys.exit(main())
