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
# metric, kind, where it is in the control process's status, help
_STATUS: Final = (
    ("dnsd_image_epoch", "gauge", "epoch", "Epoch of the image that was published last"),
    ("dnsd_image_version", "gauge", "version", "Registry version of the image that was published last"),
    ("dnsd_image_node_seq", "gauge", "node_seq", "The node's own change of the image that was published last"),
    ("dnsd_control_uptime_seconds", "gauge", "uptime_s", "How long the control process has been there"),
    ("dnsd_registry_up", "gauge", "registry.up", "1 while the registry answers"),
    ("dnsd_registry_held", "gauge", "registry.is_held", "1 while what the registry offers is not taken"),
    ("dnsd_registry_alarm", "gauge", "registry.alarmed", "1 while a loss was adopted that nobody has seen yet"),
    ("dnsd_registry_version", "gauge", "registry.version", "Registry version this node has read"),
    ("dnsd_registry_corrupt_values", "gauge", "registry.corrupt", "Values of the store that cannot be read"),
    ("dnsd_registry_events_total", "counter", "registry.events", "Events read from the registry"),
    ("dnsd_registry_loads_total", "counter", "registry.loads", "Times the whole state was read from the registry"),
    ("dnsd_sites", "gauge", "fleet.sites", "Sites in the fleet"),
    ("dnsd_services", "gauge", "fleet.services", "Services in the fleet"),
    ("dnsd_endpoints", "gauge", "fleet.endpoints", "Endpoints in the fleet, leased and permanent"),
    ("dnsd_leases", "gauge", "fleet.leases", "Leases in the fleet"),
    ("dnsd_overrides", "gauge", "fleet.overrides", "Forced states in the fleet"),
    ("dnsd_services_last_good", "gauge", "fleet.last_good", "Services that answer last good addresses"),
    ("dnsd_services_left_out", "gauge", "fleet.left_out", "Services that are not served, as they conflict with a zone"),
    ("dnsd_services_refused", "gauge", "fleet.refused", "Services whose change the self-check refused"),
    ("dnsd_leases_held", "gauge", "leases.held", "Leases that ended all at once and are held"),
    ("dnsd_leases_expired_total", "counter", "leases.expired", "Leases this node's clock has ended"),
    ("dnsd_lease_shifted_seconds_total", "counter", "leases.shifted_ms", "Time that did not count against leases"),
    ("dnsd_lease_ticks_failed_total", "counter", "leases.ticks_failed", "Steps of the lease clock the registry missed"),
    ("dnsd_published_deltas_total", "counter", "published.deltas", "Delta frames sent to workers"),
    ("dnsd_published_records_total", "counter", "published.records", "Records sent in deltas"),
    ("dnsd_published_images_total", "counter", "published.images", "Whole images published for a change of structure"),
    ("dnsd_published_rewrites_total", "counter", "published.rewrites", "Images written to fold the journal in"),
    ("dnsd_publish_refused_total", "counter", "published.refused", "Records the self-check refused"),
    ("dnsd_publish_failures_total", "counter", "published.failures", "Publications that failed"),
    ("dnsd_journal_bytes", "gauge", "journal_bytes", "Size of the image's journal"),
    ("dnsd_capture_log_total", "counter", "capture.log.taken", "Samples written to the query log"),
    ("dnsd_capture_log_dropped_total", "counter", "capture.log.dropped", "Samples the query log had no room for"),
    ("dnsd_capture_dnstap_total", "counter", "capture.dnstap.taken", "Samples written as dnstap"),
    ("dnsd_capture_dnstap_dropped_total", "counter", "capture.dnstap.dropped", "Samples dnstap had no room for"),
    ("dnsd_health_targets", "gauge", "health.targets", "Addresses that are probed"),
    ("dnsd_health_down", "gauge", "health.down", "Probed addresses that are down"),
    ("dnsd_health_unknown", "gauge", "health.unknown", "Probed addresses without a result yet"),
    ("dnsd_health_held", "gauge", "health.held", "Services with endpoints that are down and answered all the same"),
    ("dnsd_health_panic", "gauge", "health.panic", "Services whose health is ignored, for too little is up"),
    ("dnsd_health_together", "gauge", "health.together", "1 while the nodes judge together, 0 while this one is alone"),
    ("dnsd_health_blind", "gauge", "health.blind", "1 while this node seems to be cut off and has no vote"),
    ("dnsd_health_nodes", "gauge", "health.nodes", "Nodes that are there to judge, this one among them"),
    ("dnsd_health_verdicts_total", "counter", "health.decided", "Verdicts on services that this node has written"),
    ("dnsd_health_stretched_ratio", "gauge", "health.stretched", "By how much the node's rate lengthens all intervals"),
    ("dnsd_probes_total", "counter", "health.probes", "Probes that ended with a verdict"),
    ("dnsd_health_changes_total", "counter", "health.changes", "Changes of an address's state"),
    ("dnsd_reports_total", "counter", "health.reports.taken", "Reports of endpoints' health, of all nodes"),
    ("dnsd_reports_refused_total", "counter", "health.reports.refused", "Reports over their reporter's quota"),
    ("dnsd_reports_untold_total", "counter", "health.reports.untold", "Reports that other nodes were not told"),
    ("dnsd_breakers_open", "gauge", "health.reports.open", "Endpoints whose circuit breaker is open"),
    ("dnsd_endpoints_unhealthy", "gauge", "health.reports.unhealthy", "Endpoints whose holder says they are unhealthy"),
    ("dnsd_rules_bad", "gauge", "health.rules.bad", "Endpoints that a rule holds something against"),
    ("dnsd_rules_failed_total", "counter", "health.rules.failed", "Questions to Prometheus without an answer"),
    ("dnsd_measurements_total", "counter", "measurements.intake.accepted", "Measured round trips accepted here"),
    ("dnsd_measurements_tcp_total", "counter", "measurements.intake.tcp",
     "Of these, those of connections that resolvers made to this node"),
    ("dnsd_measurements_waiting", "gauge", "measurements.intake.waiting", "Entries that wait for the store"),
    ("dnsd_measurements_lost_total", "counter", "measurements.intake.lost", "Entries lost while the store was away"),
    ("dnsd_measured_number", "gauge", "measurements.table.number", "Number of the decided table in use"),
    ("dnsd_measured_blocks", "gauge", "measurements.table.blocks", "Client blocks in the decided table in use"),
    ("dnsd_measured_age_seconds", "gauge", "measurements.table.age_s", "Age of the decided table in use"),
    ("dnsd_measured_corrupt", "gauge", "measurements.table.corrupt", "Parts of the decided table that cannot be read"),
    ("dnsd_measured_churn_ratio", "gauge", "measurements.last.round.churn",
     "Share of the measured weight whose best site changed with the last table"),
    ("dnsd_measured_maps", "gauge", "measurements.maps.measured", "Maps that measured round trips went into"),
    ("dnsd_map_churn_ratio", "gauge", "measurements.maps.churn",
     "Share of the clients' weight whose best site the last measured map changed, the most of all maps"),
    ("dnsd_measured_deferred", "gauge", "measurements.last.round.deferred", "Blocks that must wait for the next round"),
    ("dnsd_measured_damaged_total", "counter", "measurements.last.damaged", "Kept measurements that cannot be read"),
    ("dnsd_reporters_distrusted", "gauge", "measurements.distrusted", "Reporters of round trips that are not believed"),
    ("dnsd_deciding", "gauge", "measurements.deciding.decides", "1 on the node that decides on round trips"),
    ("dnsd_deciding_starts_total", "counter", "measurements.deciding.starts", "Times its child was started"),
    ("dnsd_spill_services", "gauge", "spill.services", "Services that spill over and have shares"),
    ("dnsd_spill_solved_total", "counter", "spill.solved", "Times shares of sites were solved"),
    ("dnsd_spill_overfull", "gauge", "spill.overfull", "Services with more clients than their sites carry"),
    ("dnsd_spill_fullest_ratio", "gauge", "spill.fullest", "Load of the fullest site, as a part of its capacity"),
    ("dnsd_zones", "gauge", "zones", "Zones served"),
    ("dnsd_maps", "gauge", "maps", "Maps from client prefixes to sites"),
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
    now = time.monotonic() * 1000  # as the workers' beats: one clock for all processes of a machine
    for worker, fields in enumerate(heads):
        if fields[metrics.BEAT_MS]:
            age = max(0.0, now - fields[metrics.BEAT_MS]) / 1000
            yield f'dnsd_worker_beat_age_seconds{{worker="{worker}"}} {age:.3f}'


def _node(ready: bool, details: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    yield from _value("dnsd_ready", "gauge", "1 while the node answers and says so at /readyz", ready)
    yield from _value(
        "dnsd_stale_seconds", "gauge", "How long the registry has been out of reach", details.get("stale_for"))
    conditions = len(details.get("conditions", ()))
    yield from _value("dnsd_conditions", "gauge", "Things at /readyz that somebody should look at", conditions)
    yield from _labelled(
        "dnsd_measurements_dropped_total", "counter", "Measured round trips dropped here, by reason",
        "reason", status.get("measurements", {}).get("intake", {}).get("dropped", {}))
    for name, kind, path, help_text in _STATUS:
        value: Any = status
        for step in path.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if isinstance(value, list | Mapping):
            value = len(value)
        elif name.endswith("_seconds_total") and value is not None:
            value = value / 1000
        yield from _value(name, kind, help_text, value)


def _labelled(name: str, kind: str, help_text: str, label: str, values: Mapping[str, Any]) -> Iterator[str]:
    if values:
        yield from head(name, kind, help_text)
        yield from (f'{name}{{{label}="{key}"}} {value}' for key, value in values.items())


def _value(name: str, kind: str, help_text: str, value: float | None) -> Iterator[str]:
    if value is not None:
        yield from head(name, kind, help_text)
        yield f"{name} {int(value) if isinstance(value, bool) else value}"
