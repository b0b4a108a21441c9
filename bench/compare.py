"""CPU time per answer of dnsd, of gdnsd and of the kernel alone, in one interleaved run: `python bench/compare.py`.

Needs gdnsd, cc and two CPUs. Writes bench/RESULTS.md, unless only some workloads or servers are asked for.

Lives here: rounds, checks, medians, the report. Does not live here: workloads (`workloads`), servers (`servers`).

Server on CPU 1, generator on CPU 0, 192 queries outstanding, so that nothing is lost. Server CPU per answer is the run
time of its threads in /proc/PID/task/*/schedstat over all answers of the run. Rounds are interleaved and the ratio is
taken round by round, for the machine may be slow for minutes. Answers are checked: a sample in full before each
measurement, during it every reply's id, question, rcode and whether it has an answer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import maxminddb
import servers
import workloads
from servers import Server
from workloads import Workload

PROGRAMS: Final = servers.ROOT / "build" / "bench"
RESULTS: Final = servers.ROOT / "bench" / "RESULTS.md"
SAMPLE: Final = 200
AIMS: Final = {"W1": 1.9, "W2": 1.9, "W5": 1.9, "W7": 1.9, "W3": 2.3, "W8": 2.3}
"""What plain Python is to stay under, as a ratio to gdnsd."""


class Measured(NamedTuple):
    """One measurement: CPU µs per answer, answers a second, median latency in µs."""

    cpu_us: float
    qps: float
    p50_us: float


Results = dict[tuple[str, str], list[Measured]]
"""(workload, server) -> one measurement for each round."""


def main() -> int:
    """The command."""
    options = _arguments()
    if {servers.SERVER_CPU, servers.CLIENT_CPU} - os.sched_getaffinity(0):
        raise SystemExit("two CPUs are needed: one for the server, one for the load")
    servers.compile_programs(PROGRAMS)
    files = workloads.write(PROGRAMS)
    with ExitStack() as stack, maxminddb.open_database(str(workloads.GEO)) as reader:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dnsd-bench-")))
        running = []
        for name in options.servers:
            print(f"starting {name}", file=sys.stderr)
            running.append(stack.enter_context(
                servers.limit(folder / name, PROGRAMS) if name == "limit"
                else {"dnsd": servers.dnsd, "gdnsd": servers.gdnsd}[name](folder / name)))
        os.sched_setaffinity(0, {servers.CLIENT_CPU})
        results = _rounds(options, running, files, reader)
    report = _report(options, running, results)
    print(report)
    if options.out is not None:
        options.out.write_text(report, encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--workloads", default=",".join(workloads.WORKLOADS))
    parser.add_argument("--servers", default="dnsd,gdnsd,limit")
    parser.add_argument("--out", type=Path, help="file for the report; a full run writes bench/RESULTS.md by itself")
    options = parser.parse_args()
    options.workloads = options.workloads.split(",")
    options.servers = options.servers.split(",")
    full = options.workloads == list(workloads.WORKLOADS) and len(options.servers) == 3 and options.rounds >= 3
    if options.out is None and full:
        options.out = RESULTS
    return options


def _rounds(options: argparse.Namespace, running: Sequence[Server], files: dict[str, Path],
            reader: maxminddb.Reader) -> Results:
    results: Results = {}
    queries = {name: workloads.read(files[name]) for name in options.workloads}
    rnd = random.Random(workloads.SEED)
    for number in range(options.rounds):
        order = list(running) if number % 2 else list(reversed(running))
        for name in options.workloads:
            workload = workloads.WORKLOADS[name]
            for server in order:
                if server.checked:
                    _check(workload, server, rnd.choices(queries[name], k=SAMPLE), reader)
                one = _measure(workload, server, files[name], options.seconds)
                results.setdefault((name, server.name), []).append(one)
                print(f"round {number + 1}/{options.rounds} {name} {server.name:6} {one.cpu_us:6.3f} µs "
                      f"{one.qps:8.0f}/s", file=sys.stderr)
    return results


def _check(workload: Workload, server: Server, queries: Sequence[bytes], reader: maxminddb.Reader) -> None:
    """Asks a sample and compares; ends the run when an answer is wrong, for then its cost means nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect(("127.0.0.1", server.port))
        for number, query in enumerate(queries):
            asked = number.to_bytes(2, "big") + query[2:]
            sock.send(asked)
            fault = workloads.wrong(workload, asked, sock.recv(4096), reader)
            if fault:
                raise SystemExit(f"{server.name} answers {workload.name} wrongly: {fault}")


def _measure(workload: Workload, server: Server, file: Path, seconds: float) -> Measured:
    command = [str(PROGRAMS / "udpblast"), "-p", str(server.port), "-f", str(file), "-t", str(seconds),
               *(["-S", str(workload.sources)] if workload.sources else [])]
    time.sleep(0.1)
    before = servers.cpu_ns(server.pid)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    servers.pin(process.pid, servers.CLIENT_CPU)
    output, _ = process.communicate(timeout=seconds + 20)
    used = servers.cpu_ns(server.pid) - before
    seen: dict[str, Any] = json.loads(output)
    if server.checked:
        right = seen["nxdomain" if workload.rcode == 3 else "noerror"]
        with_answer = 0 if workload.rcode else seen["answered"]
        if seen["bad"] or right != seen["answered"] or seen["with_answer"] != with_answer:
            raise SystemExit(f"{server.name} answers {workload.name} wrongly under load: {seen}")
    if seen["lost"] > seen["sent"] // 200:
        print(f"{server.name} {workload.name}: {seen['lost']} of {seen['sent']} lost", file=sys.stderr)
    return Measured(used / 1000 / seen["all"], seen["qps"], seen["p50_us"])


# --- the report -------------------------------------------------------------------------------------------------------

_HEAD: Final = """\
# CPU time per answer against gdnsd

Plain Python, one worker, one run, rounds interleaved; how it is measured stands in `bench/compare.py`. Compare the
ratios, never microseconds of different runs. Both answer EDNS cookies (W7, W8). `limit` is a C
program that does nothing but receive and send.
"""


def _report(options: argparse.Namespace, running: Sequence[Server], results: Results) -> str:
    lines = [_HEAD, f"    python bench/compare.py {' '.join(sys.argv[1:])}".rstrip(), ""]
    lines += [f"- {text}" for text in _machine(options)]
    lines += [f"- {server.version}" for server in running]
    names = [server.name for server in running]
    lines += ["", "## CPU µs per answer: median (least, most)", "", _row("", names), _row("---", ["---"] * len(names))]
    for workload in options.workloads:
        cells = [_spread([m.cpu_us for m in results[workload, name]], "{:.2f}") for name in names]
        lines.append(_row(f"{workload} {workloads.WORKLOADS[workload].about}", cells))
    if "dnsd" in names:
        others = [name for name in names if name != "dnsd"]
        heads = [*(f"to {name}" for name in others), "aim to gdnsd"]
        lines += ["", "## dnsd as a ratio, round by round: median (least, most)", "", _row("", heads),
                  _row("---", ["---"] * len(heads))]
        for workload in options.workloads:
            cells = [_spread(_ratios(results, workload, name), "{:.2f}") for name in others]
            lines.append(_row(workload, [*cells, f"≤ {AIMS[workload]}" if workload in AIMS else ""]))
    lines += ["", "## Answers a second, thousands, and median latency with 192 outstanding", "", _row("", names),
              _row("---", ["---"] * len(names))]
    for workload in options.workloads:
        found = [results[workload, name] for name in names]
        cells = [f"{median(m.qps for m in ms) / 1000:.0f}, {median(m.p50_us for m in ms):.0f} µs" for ms in found]
        lines.append(_row(workload, cells))
    return "\n".join(lines) + "\n"


def _ratios(results: Results, workload: str, other: str) -> list[float]:
    pairs = zip(results[workload, "dnsd"], results[workload, other], strict=True)
    return [mine.cpu_us / theirs.cpu_us for mine, theirs in pairs]


def _spread(values: Sequence[float], form: str) -> str:
    return f"{form.format(median(values))} ({form.format(min(values))}, {form.format(max(values))})"


def _row(head: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([head, *cells])} |"


def _machine(options: argparse.Namespace) -> list[str]:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return [
        f"{os.cpu_count()} CPUs, {model}, Linux {platform.release()}, CPython {platform.python_version()}",
        f"{options.rounds} rounds of {options.seconds:g} s, {time.strftime('%Y-%m-%d')}",
    ]


if __name__ == "__main__":
    sys.exit(main())
