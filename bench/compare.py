"""CPU time per answer of dnsd, with its engine and in plain Python, of other servers and of the kernel alone, in one
interleaved run: `python bench/compare.py [--quick]`.

Needs cc, two CPUs and what `scripts/bench-tools` installs; without a server the others are measured.

Lives here: rounds, checks, the report. Does not live here: workloads (`workloads`), servers (`nodes`, `peers`,
`servers`), statistics (`results`), pictures (`plots`).

Server on CPU 1, generator on CPU 0. Over UDP 192 queries are outstanding, so that nothing is lost. Server CPU per
answer is the CPU time of its processes over all answers of the run. Rounds are interleaved and the ratio is taken round
by round, for the machine may be slow for minutes. Answers are checked: a sample in full before each measurement, during
it every reply's id, question, rcode and whether it has an answer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import maxminddb
import nodes
import peers
import plots
import results
import servers
import streams
import workloads
from results import Told
from servers import BUILT, CLIENT_CPU, SERVER_CPU, Missing, Server
from workloads import Workload

SAMPLE: Final = 200
KINDS: Final = workloads.WORKLOADS | workloads.STREAMS
SERVERS: Final[dict[str, Callable[[Path], AbstractContextManager[Server]]]] = {
    "dnsd-python": partial(nodes.dnsd, name="dnsd-python"), "dnsd": nodes.dnsd, **peers.ALL, "limit": servers.limit}
BARS: Final[dict[tuple[str, str], dict[str, tuple[float, float]]]] = {
    ("dnsd", "gdnsd"): {
        **dict.fromkeys(("W1", "W5", "W7"), (1.05, 1.0)), **dict.fromkeys(("W2", "W3", "W4", "W8"), (1.05, 0.97)),
        "W6-short": (1.2, 1.2), "W6-long": (0.2, 0.2)},
    ("dnsd", "knot"): dict.fromkeys(workloads.WORKLOADS, (0.92, 0.85)),
    ("dnsd", "limit"): {"W3": (1.12, 1.06)},
    ("dnsd-python", "gdnsd"): {
        **dict.fromkeys(("W1", "W2", "W5", "W7"), (1.9, 1.7)), **dict.fromkeys(("W3", "W8"), (2.3, 2.0))},
}
"""Who is to stay under which ratio to whom: what must be, what is aimed at."""
QUICK: Final = ("dnsd-python", "dnsd", "gdnsd", "limit")


class Measured(NamedTuple):
    """One measurement: CPU µs per answer, answers a second, median latency in µs, octets of an answer."""

    cpu_us: float
    qps: float
    p50_us: float
    octets: float


Results = dict[tuple[str, str], list[Measured]]
"""(workload, server) -> one measurement for each round."""


def main() -> int:
    """The command."""
    options = _arguments()
    if {SERVER_CPU, CLIENT_CPU} - os.sched_getaffinity(0):
        raise SystemExit("two CPUs are needed: one for the server, one for the load")
    servers.compile_programs()
    files = workloads.write(BUILT)
    with ExitStack() as stack, maxminddb.open_database(str(workloads.GEO)) as reader:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dnsd-bench-")))
        running, missing = _start(options.servers, folder, stack)
        os.sched_setaffinity(0, {CLIENT_CPU})
        found = _rounds(options, running, files, reader)
    report = _Report(options, running, found)
    if options.out is not None:
        report.draw(options.out.parent / "plots")
    results.put(options.out, "compare", report.lines(missing))
    return 0


def _arguments() -> argparse.Namespace:
    parser = results.arguments(__doc__)
    parser.add_argument("--rounds", type=int, help="15; quick: 3")
    parser.add_argument("--seconds", type=float, help="of each measurement: 1; quick: 0.4")
    parser.add_argument("--workloads", default=",".join(KINDS))
    parser.add_argument("--servers", help=f"{','.join(SERVERS)}; quick: {','.join(QUICK)}")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.seconds = options.seconds or (0.4 if options.quick else 1.0)
    options.workloads = options.workloads.split(",")
    options.servers = options.servers.split(",") if options.servers else list(QUICK if options.quick else SERVERS)
    return options


def _start(names: Sequence[str], folder: Path, stack: ExitStack) -> tuple[list[Server], list[str]]:
    """All servers at once, and why some are not there."""
    running, missing = [], []
    managers = [SERVERS[name](folder / name) for name in names]
    with ThreadPoolExecutor(len(names)) as pool:
        print(f"starting {', '.join(names)}", file=sys.stderr)
        futures = [(manager, pool.submit(manager.__enter__)) for manager in managers]
    failure: BaseException | None = None
    for manager, future in futures:
        error = future.exception()
        if error is None:
            stack.push(manager)
            running.append(future.result())
        elif isinstance(error, Missing):
            print(f"not measured: {error}", file=sys.stderr)
            missing.append(str(error))
        else:
            failure = error
    if failure is not None:
        raise failure
    return running, missing


def _rounds(options: argparse.Namespace, running: Sequence[Server], files: Mapping[str, Path],
            reader: maxminddb.Reader) -> Results:
    found: Results = {}
    queries = {name: workloads.read(files[name]) for name in options.workloads}
    rnd = random.Random(workloads.SEED)
    for number in range(options.rounds):
        order = list(running) if number % 2 else list(reversed(running))
        for name in options.workloads:
            for server in order:
                if name not in server.doors:
                    continue
                if server.checked:
                    _check(KINDS[name], server, rnd.choices(queries[name], k=SAMPLE), reader)
                one = measure(KINDS[name], server, files[name], options.seconds)
                found.setdefault((name, server.name), []).append(one)
                print(f"round {number + 1}/{options.rounds} {name:9} {server.name:11} {one.cpu_us:7.3f} µs "
                      f"{one.qps:8.0f}/s", file=sys.stderr)
        (BUILT / "compare.json").write_text(json.dumps({" ".join(key): value for key, value in found.items()}))
    return found


def _check(workload: Workload, server: Server, queries: Sequence[bytes], reader: maxminddb.Reader) -> None:
    """Asks a sample and compares; ends the run when an answer is wrong, for then its cost means nothing."""
    port = server.doors[workload.name].port
    ask = _ask_datagrams if workload.transport == "udp" else partial(_ask_stream, secret=workload.transport == "tls")
    for query, reply in zip(queries, ask(port, queries), strict=True):
        fault = workloads.wrong(workload, reply[:2] + query[2:], reply, reader, server.by_country)
        if fault:
            raise SystemExit(f"{server.name} answers {workload.name} wrongly: {fault}")


def _ask_datagrams(port: int, queries: Sequence[bytes]) -> list[bytes]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", port))
        for number, query in enumerate(queries):
            for _ in range(5):
                sock.send(number.to_bytes(2, "big") + query[2:])
                with suppress(TimeoutError):
                    found.append(sock.recv(4096))
                    break
            else:
                raise SystemExit(f"port {port} does not answer {query.hex()}")
    return found


def _ask_stream(port: int, queries: Sequence[bytes], secret: bool) -> list[bytes]:
    found = []
    for at in range(0, len(queries), 10):
        stream = streams.Stream(port, secret)
        part = queries[at : at + 10]
        stream.send(part)
        found += sorted(stream.receive(len(part)), key=lambda reply: reply[:2])
        stream.close()
    return found


def measure(workload: Workload, server: Server, file: Path, seconds: float) -> Measured:
    """Load on one server, and what it cost."""
    door = server.doors[workload.name]
    time.sleep(0.1)
    before = servers.cpu_ns(*door.pids)
    process = subprocess.Popen(_load(workload, door.port, file, seconds), stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    servers.pin(process.pid, CLIENT_CPU)
    output, _ = process.communicate(timeout=seconds + 20)
    used = servers.cpu_ns(*door.pids) - before
    seen: dict[str, Any] = json.loads(output)
    if server.checked:
        right = seen["nxdomain" if workload.rcode == 3 else "noerror"]
        with_answer = 0 if workload.rcode else seen["answered"]
        if seen["bad"] or right != seen["answered"] or seen["with_answer"] != with_answer or not right:
            raise SystemExit(f"{server.name} answers {workload.name} wrongly under load: {seen}")
    if seen.get("lost", 0) > seen.get("sent", 0) // 200:
        print(f"{server.name} {workload.name}: {seen['lost']} of {seen['sent']} lost", file=sys.stderr)
    return Measured(used / 1000 / seen["all"], seen["qps"], seen["p50_us"], seen["octets"])


def _load(workload: Workload, port: int, file: Path, seconds: float) -> list[str]:
    """The command that makes this load."""
    common = ["-p", str(port), "-f", str(file), "-t", str(seconds)]
    if workload.transport == "tls":
        return [sys.executable, str(servers.ROOT / "bench" / "streams.py"), *common, *["--short"] * workload.short]
    if workload.transport == "tcp":
        return [str(BUILT / "tcpblast"), *common, *(
            ["-c", "32", "-k", "1"] if workload.short else ["-c", "8", "-k", "1000000", "-d", "64"])]
    return [str(BUILT / "udpblast"), *common, *(["-S", str(workload.sources)] if workload.sources else [])]


# --- the report -------------------------------------------------------------------------------------------------------

class _Report:
    """The results as Markdown and as pictures."""

    def __init__(self, options: argparse.Namespace, running: Sequence[Server], found: Results) -> None:
        self._options, self._running, self._found = options, running, found
        self._names = [server.name for server in running]

    def draw(self, folder: Path) -> None:
        """The pictures."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = [name for name in self._options.workloads if name in workloads.WORKLOADS]
        if "gdnsd" in self._names:
            groups = {name: self._series(name, partial(self._ratio, other="gdnsd")) for name in plain}
            text = plots.bars("CPU per answer, gdnsd = 1 (shorter is better)", groups, most=5, line=1)
            (folder / "ratio.svg").write_text(text, encoding="utf-8")
        groups = {name: self._series(name, partial(self._of, what="qps", by=1e-3)) for name in plain}
        most = max((told.middle for group in groups.values() for told in group.values()), default=1) * 1.05
        text = plots.bars("Thousands of answers a second, one worker on one CPU", groups, most=most)
        (folder / "rate.svg").write_text(text, encoding="utf-8")

    def lines(self, missing: Sequence[str]) -> list[str]:
        """The section."""
        options = self._options
        lines = ["## CPU per answer against other servers", "",
                 f"`{' '.join(['python bench/compare.py', *sys.argv[1:]])}`: {options.rounds} rounds of "
                 f"{options.seconds:g} s, interleaved. {results.machine()}.", ""]
        lines += [f"- {server.name}: {server.version}" for server in self._running]
        lines += [f"- not measured: {text}" for text in missing]
        lines += ["", *(f"    {name:9}  {KINDS[name].about}" for name in options.workloads)]
        if options.out is not None:
            lines += ["", *(["![CPU per answer, gdnsd = 1](plots/ratio.svg)", ""] if "gdnsd" in self._names else []),
                      "![Answers a second](plots/rate.svg)"]
        lines.append("")
        for mine in ("dnsd", "dnsd-python"):
            if mine in self._names and len(self._names) > 1:
                lines += [f"### CPU of {mine} as a ratio", *self._ratios(mine)]
        lines += ["### CPU µs per answer", *self._table("{:.2f}", "cpu_us"),
                  "### Thousands of answers a second", *self._table("{:.3g}", "qps", 1e-3),
                  "### Median latency with all those queries waiting, µs", *self._table("{.middle:.0f}", "p50_us"),
                  "### Octets of an answer", *self._table("{.middle:.0f}", "octets")]
        return lines

    def _ratios(self, mine: str) -> list[str]:
        others = [name for name in self._names if not name.startswith("dnsd")]
        bars = [other for other in others if (mine, other) in BARS]
        rows = []
        for name in self._options.workloads:
            cells = [f"{self._ratio(name, mine, other):.2f}" if (name, other) in self._found else ""
                     for other in others]
            told = [self._bar(name, mine, other) for other in bars if name in BARS[mine, other]]
            rows.append([name, *cells, "; ".join(filter(None, told))])
        return results.table(["", *others, "must (aim)"], rows)

    def _bar(self, name: str, mine: str, other: str) -> str:
        """What the ratio has to be, and whether it is: its median."""
        must, aim = BARS[mine, other][name]
        if (name, other) not in self._found:
            return ""
        return f"{other} ≤ {must:g} ({aim:g}): {results.verdict(self._ratio(name, mine, other).middle, must, aim)}"

    def _table(self, form: str, what: str, by: float = 1.0) -> list[str]:
        return results.table(["", *self._names], [
            [name, *(form.format(self._of(name, server, what, by)) if self._has(name, server, what) else ""
                     for server in self._names)] for name in self._options.workloads])

    def _has(self, name: str, server: str, what: str) -> bool:
        """Whether there is such a figure: connections that never end have no latency."""
        return any(getattr(one, what) for one in self._found.get((name, server), []))

    def _series(self, name: str, value: Callable[[str, str], Told]) -> dict[str, Told]:
        return {server: value(name, server) for server in self._names if (name, server) in self._found}

    def _of(self, name: str, server: str, what: str, by: float = 1.0) -> Told:
        return results.told([getattr(one, what) * by for one in self._found[name, server]])

    def _ratio(self, name: str, mine: str, other: str) -> Told:
        return results.ratios(*([one.cpu_us for one in self._found[name, server]] for server in (mine, other)))


if __name__ == "__main__":
    sys.exit(main())
