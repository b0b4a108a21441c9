"""What is left of the rate when more is asked than can be answered: `python bench/goodput.py [--quick]`.

A steady stream is sent, whatever comes back: as fast as one core can, around what was answered then, and at last at
1.2 times the most that ever was, which is saturation. Goodput is the rate of right answers in that last stream as a
share of saturation. dnsd with its engine and in plain Python, gdnsd beside them; each round finds saturation anew.

Replies to one batch in sixteen are read and checked, the others are dropped by the kernel, in all streams alike: a core
cannot send and read more than a server on another answers. The table says what was really offered.

Lives here: the two loads, the table. Does not live here: what is shed first (`overload`), servers (`nodes`, `peers`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import nodes
import peers
import results
import servers
import workloads
from servers import BUILT, CLIENT_CPU, Missing, Server
from workloads import Workload

TIMES: Final = 1.2
WORKLOADS: Final = ("W2", "W8")
BAR: Final = (0.95, 0.95)
"""Least share of saturation."""
_MOST: Final = 2_000_000
_AROUND: Final = (0.9, 1.0, 1.1)
_SERVERS: Final = {"dnsd": nodes.dnsd, "dnsd-python": partial(nodes.dnsd, name="dnsd-python"), "gdnsd": peers.gdnsd}


class Found(NamedTuple):
    """One round: answers a second at saturation and beyond it, and what was offered then."""

    saturation: float
    answered: float
    offered: float


def main() -> int:
    """The command."""
    parser = results.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="9; quick: 3")
    parser.add_argument("--seconds", type=float, help="of each load: 2; quick: 0.5")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 9)
    seconds = options.seconds or (0.5 if options.quick else 2.0)
    servers.compile_programs()
    files = workloads.write(BUILT)
    found: dict[tuple[str, str], list[Found]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dnsd-bench-")))
        running = []
        for name, start in _SERVERS.items():
            try:
                running.append(stack.enter_context(start(folder / name)))
            except Missing as error:
                print(f"not measured: {error}", file=sys.stderr)
        os.sched_setaffinity(0, {CLIENT_CPU})
        for _ in range(rounds):
            for name in WORKLOADS:
                for server in running:
                    one = measure(workloads.WORKLOADS[name], server, files[name], seconds)
                    found.setdefault((name, server.name), []).append(one)
                    print(name, server.name, one, file=sys.stderr)
    results.put(options.out, "goodput", _report(found, rounds, seconds))
    return 0


def measure(workload: Workload, server: Server, file: Path, seconds: float) -> Found:
    """All the streams, one after the other."""
    port = server.doors[workload.name].port
    stream = partial(_stream, server.name, port, file, seconds)
    first, _ = stream(_MOST)
    saturation = max(first, *(stream(times * first)[0] for times in _AROUND))
    answered, offered = stream(TIMES * saturation)
    return Found(saturation, answered, offered)


def _stream(name: str, port: int, file: Path, seconds: float, rate: float) -> tuple[float, float]:
    """Answers and queries a second of one stream."""
    process = subprocess.Popen(
        [str(BUILT / "udpblast"), "-p", str(port), "-f", str(file), "-t", str(seconds), "-r", str(rate), "-b", "15"],
        stdout=subprocess.PIPE, text=True, start_new_session=True)
    servers.pin(process.pid, CLIENT_CPU)
    seen: dict[str, Any] = json.loads(process.communicate(timeout=seconds + 20)[0])
    if seen["bad"] or seen["noerror"] != seen["answered"]:
        raise SystemExit(f"{name} answers wrongly: {seen}")
    offered = seen["offered"] / seconds
    return offered * seen["answered"] / seen["sent"], offered


def _report(found: dict[tuple[str, str], list[Found]], rounds: int, seconds: float) -> list[str]:
    rows, verdicts = [], []
    for (name, server), ones in found.items():
        share = results.told([one.answered / one.saturation for one in ones])
        offered = results.told([one.offered / one.saturation for one in ones])
        rows.append([name, server, f"{results.told([one.saturation / 1000 for one in ones]):.0f}",
                     f"{offered:.2f}", f"{share:.3f}"])
        if server == "dnsd":
            verdicts.append(f"{name} ≥ {BAR[0]}: {results.verdict(-share.middle, -BAR[0], -BAR[1])}")
    return [
        "## Goodput beyond saturation", "",
        f"{TIMES:g} times saturation is asked for {seconds:g} s, {rounds} rounds. {results.machine()}.",
        *results.table(["", "", "saturation, thousands a second", "offered, to saturation", "goodput, to saturation"],
                       rows), f"{'; '.join(verdicts)}."]


if __name__ == "__main__":
    sys.exit(main())
