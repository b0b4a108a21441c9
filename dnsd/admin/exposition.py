"""The Prometheus text: the workers' counters, and the gauges of what serves them.

Lives here: the API's own counters (`Meter`), the control process's gauges, the text. Does not live here: the workers'
counters and their help texts (`dnsd.metrics`).

Labels are bounded: worker slots, operations of the route table, status codes, kinds. Never a name, a token, an address.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dnsd import metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)
_HEADS: Final = (
    ("dnsd_worker_pid", metrics.PID, "Process that serves in the slot"),
    ("dnsd_worker_epoch", metrics.EPOCH, "Epoch of the image the worker answers from"),
    ("dnsd_worker_version", metrics.VERSION, "Registry version the worker answers from"),
    ("dnsd_worker_node_seq", metrics.NODE_SEQ, "The node's own change the worker answers from"),
)


class Meter:
    """The API's own counters: requests by operation and status, and how long they took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def count(self, operation: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests[operation, status] += 1
        self._buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def lines(self) -> Iterator[str]:
        """The counters as text."""
        yield from head("dnsd_admin_requests_total", "counter", "Requests to the admin API")
        for (operation, status), count in sorted(self._requests.items()):
            yield f'dnsd_admin_requests_total{{operation="{operation}",status="{status}"}} {count}'
        yield from head("dnsd_admin_request_seconds", "histogram", "Time from a request's head to its answer")
        total = 0
        for bound, count in zip((*BUCKETS, "+Inf"), self._buckets, strict=True):
            total += count
            yield f'dnsd_admin_request_seconds_bucket{{le="{bound}"}} {total}'
        yield f"dnsd_admin_request_seconds_sum {self._seconds:.6f}"
        yield f"dnsd_admin_request_seconds_count {total}"


def text(stats: memoryview, ready: bool, details: Mapping[str, Any], status: Mapping[str, Any], meter: Meter) -> str:
    """Everything a scrape gets."""
    lines = [*metrics.exposition(stats), *_workers(stats), *_node(ready, details, status), *meter.lines()]
    return "\n".join(lines) + "\n"


def head(name: str, kind: str, help_text: str) -> Iterator[str]:
    """HELP and TYPE of a metric."""
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"


def _workers(stats: memoryview) -> Iterator[str]:
    heads = [metrics.head(stats, worker) for worker in range(metrics.workers(stats))]
    for name, number, help_text in _HEADS:
        yield from head(name, "gauge", help_text)
        for worker, fields in enumerate(heads):
            yield f'{name}{{worker="{worker}"}} {fields[number]}'
    yield from head("dnsd_worker_starts_total", "counter", "Times the slot's process was started")
    for worker, fields in enumerate(heads):
        yield f'dnsd_worker_starts_total{{worker="{worker}"}} {fields[metrics.STARTS]}'
    yield from head("dnsd_worker_beat_age_seconds", "gauge", "Time since the worker's loop last turned")
    now = time.time() * 1000
    for worker, fields in enumerate(heads):
        if fields[metrics.BEAT_MS]:
            age = max(0.0, now - fields[metrics.BEAT_MS]) / 1000
            yield f'dnsd_worker_beat_age_seconds{{worker="{worker}"}} {age:.3f}'


def _node(ready: bool, details: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    yield from head("dnsd_ready", "gauge", "1 while the node answers and says so at /readyz")
    yield f"dnsd_ready {int(ready)}"
    stale = details.get("stale_for")
    if isinstance(stale, int | float):
        yield from head("dnsd_stale_seconds", "gauge", "How long the registry has been out of reach, 0 while it is not")
        yield f"dnsd_stale_seconds {stale}"
    for name, value in sorted(flat(status)):
        yield from head(f"dnsd_control_{name}", "gauge", f"`{name}` of /v1/status")
        yield f"dnsd_control_{name} {value}"


def flat(status: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested status by joined names; lists and texts are for people."""
    for name, value in status.items():
        joined = prefix + "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
        if isinstance(value, bool | int | float):
            yield joined, value if isinstance(value, float) else int(value)
        elif isinstance(value, Mapping):
            yield from flat(value, joined + "_")
