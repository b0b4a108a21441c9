"""dnsd as it is measured: whole nodes with one worker, everything on that is on by default, limits that count.

Lives here: dnsd with its engine and in plain Python, waiting until it has what it needs. Does not live here: other
servers (`peers`), processes (`servers`), fleets (`workloads`, `fleet`).

Cookies are answered and metrics counted. Every answer pays its bucket: nobody is exempt, and the limit that is *not*
asked for is low, for below the lowest limit nobody counts (`serve.contexts`); the one that is asked for is above any
load. So there are two nodes, one for answers and one for names that do not exist. The worker is measured; control and
store share CPU 0 with the load generator, so they cost dnsd nothing but they do not help it either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import servers
import workloads
from servers import BUILT, CLIENT_CPU, SERVER_CPU, Node, Server

from tests import certificates

ATLAS: Final = BUILT / "atlas"
ENGINES: Final = {"dnsd": "require", "dnsd-python": "python"}
"""Server -> DNSD_ENGINE."""
_LIMITS: Final = {True: "answers = 1000000\nothers = 1000", False: "answers = 1000\nothers = 1000000"}
_COUNTED: Final = (
    "dnsd_rate_limited_total", "dnsd_shed_total", "dnsd_engine_full_total", "dnsd_internal_errors_total",
    "dnsd_udp_send_errors_total", "dnsd_udp_send_full_total")
"""What has to be nothing at the end of a measurement."""
_PASSED: Final = 0.001
"""Share of queries that the engine may have left to Python at most: else it is Python that was measured."""


@contextmanager
def dnsd(folder: Path, name: str = "dnsd") -> Iterator[Server]:
    """Both nodes of dnsd with its engine, or of `dnsd-python`."""
    with ExitStack() as stack:
        found, about = {}, ""
        for answers, names in ((True, {**workloads.WORKLOADS, **workloads.STREAMS}), (False, ["W5"])):
            node = stack.enter_context(node_of(folder / str(answers), name, answers=answers))
            node.apply(workloads.fleet(), 60)
            settled(node)
            pids = place(node)
            found |= servers.doors(names, node.port, *pids)
            found |= servers.doors(workloads.TLS if answers else (), _tls_port(node), *pids)
            about = f"{node.cli('version').stdout.strip()}, DNSD_ENGINE={ENGINES[name]}"
        yield Server(name, about, found)


@contextmanager
def node_of(folder: Path, name: str = "dnsd", *, answers: bool = True, workers: int = 1,
            zone: str | None = None) -> Iterator[Node]:
    """A node of one of ENGINES, started, with the bench zone (or another's text) and no fleet."""
    folder.mkdir(parents=True)
    certificate, key = certificates.write(folder)
    more = (f'[rate]\n{_LIMITS[answers]}\nexempt = []\n'
            f'[tls]\nlisten = ["127.0.0.1:{servers.free_port()}"]\ncertificate = "{certificate}"\nkey = "{key}"\n')
    config = servers.write_config(
        folder, ATLAS, workers=workers, zones={workloads.ZONE: zone or workloads.zone_text()}, more=more)
    node = Node(config, env={"DNSD_ENGINE": ENGINES[name]})
    node.cli("data", "build", "--if-stale")
    try:
        node.start()
        yield node
        check(node)
    finally:
        node.stop()


def place(node: Node) -> tuple[int, ...]:
    """Puts a node's workers on the server's CPU and all else on the other; the workers."""
    workers = node.children("serve.worker")
    assert node.process is not None
    for pid in [node.process.pid, *node.children()]:
        servers.pin(pid, SERVER_CPU if pid in workers else CLIENT_CPU)
    return tuple(workers)


def settled(node: Node, seconds: float = 60) -> None:
    """Waits until the fleet's own map is derived and served; until then map 0 answers, finer but as right."""
    deadline = time.monotonic() + seconds
    last, since = "", time.monotonic()
    while time.monotonic() < deadline:
        now = str(node.api("GET", "/v1/status").body.get("maps"))
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > 6:  # maps are derived at most once in five seconds
            return
        time.sleep(0.2)


def check(node: Node) -> None:
    """Ends the run when something was dropped, limited or answered by the other engine: then it means nothing."""
    counts = metrics(node)
    found = {name: value for name, value in counts.items() if value and name.partition("{")[0] in _COUNTED}
    queries, passed = _sum(counts, "dnsd_queries_total"), _sum(counts, "dnsd_engine_passed_total")
    compiled = _sum(counts, "dnsd_engine") > 0
    if found or compiled != (node.env["DNSD_ENGINE"] == "require") or passed > max(1000, _PASSED * queries):
        raise SystemExit(f"{node.config}: {found}, {passed:.0f} of {queries:.0f} queries left to Python")


def metrics(node: Node) -> Mapping[str, float]:
    """The node's metrics, by name with labels."""
    text: Any = node.api("GET", "/metrics").body
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines() if line and not line.startswith("#")}


def _sum(counts: Mapping[str, float], metric: str) -> float:
    return sum(value for name, value in counts.items() if name.partition("{")[0] == metric)


def _tls_port(node: Node) -> int:
    return int(node.settings["tls"]["listen"][0].rpartition(":")[2])
