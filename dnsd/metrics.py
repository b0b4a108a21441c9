"""Counters as slots of a shared array: what each slot means and where each worker's array lies in the `stats` file.

Lives here: slot numbers, their names, labels and help for the exposition, the layout of the `stats` file.
Does not live here: counting (whoever does the thing counts it), HTTP, gauges of the control process.

A count is `count[metrics.X] += 1` on a worker's own memoryview: no lock, no label look-up, no call. One process writes
a region, any process may read it. Transports count messages and bytes, once a batch; `answer.respond` counts what an
answer was. Counters go on over a worker's restart, because the supervisor makes the file and a worker only adds.

A worker may have two threads that count, its own and the compiled engine's, and each has slots of its own, so that no
addition needs a lock; the exposition adds them.

    stats file   region x workers
    region       HEAD (64 octets) | u64 x SLOTS | u64 x SLOTS of the engine, each padded to a multiple of 64
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple


class Slot(NamedTuple):
    """One counter as the exposition shows it; `labels` are (name, value) pairs."""

    number: int
    metric: str
    labels: tuple[tuple[str, str], ...]
    help: str


_table: list[Slot] = []


def _one(metric: str, text: str, **labels: str) -> int:
    """The next free slot. The help text of a metric is that of its first slot."""
    number = len(_table)
    _table.append(Slot(number, metric, tuple(labels.items()), text))
    return number


def _many(metric: str, text: str, label: str, values: Sequence[str]) -> int:
    """One slot for each label value, next to each other; the number of the first."""
    first = len(_table)
    for value in values:
        _one(metric, text, **{label: value})
    return first


# --- transports: counted by serve/ ------------------------------------------------------------------------------------

_QUERIES = "Messages that clients sent"
QUERIES_UDP: Final = _one("dnsd_queries_total", _QUERIES, transport="udp")
QUERIES_TCP: Final = _one("dnsd_queries_total", _QUERIES, transport="tcp")
QUERIES_TLS: Final = _one("dnsd_queries_total", _QUERIES, transport="tls")
_RESPONSES = "Messages handed to the kernel"
RESPONSES_UDP: Final = _one("dnsd_responses_total", _RESPONSES, transport="udp")
RESPONSES_TCP: Final = _one("dnsd_responses_total", _RESPONSES, transport="tcp")
RESPONSES_TLS: Final = _one("dnsd_responses_total", _RESPONSES, transport="tls")
BYTES_IN_UDP: Final = _one("dnsd_received_bytes_total", "Octets of DNS messages received", transport="udp")
BYTES_IN_TCP: Final = _one("dnsd_received_bytes_total", "Octets of DNS messages received", transport="tcp")
BYTES_IN_TLS: Final = _one("dnsd_received_bytes_total", "Octets of DNS messages received", transport="tls")
BYTES_OUT_UDP: Final = _one("dnsd_sent_bytes_total", "Octets of DNS messages sent", transport="udp")
BYTES_OUT_TCP: Final = _one("dnsd_sent_bytes_total", "Octets of DNS messages sent", transport="tcp")
BYTES_OUT_TLS: Final = _one("dnsd_sent_bytes_total", "Octets of DNS messages sent", transport="tls")
UDP_BATCHES: Final = _one("dnsd_udp_batches_total", "Receive calls that brought at least one datagram")
UDP_SEND_ERRORS: Final = _one("dnsd_udp_send_errors_total", "Replies the kernel refused")
UDP_SEND_FULL: Final = _one("dnsd_udp_send_full_total", "Replies dropped because the socket's send buffer was full")
UDP_KERNEL_DROPS: Final = _one("dnsd_udp_kernel_drops_total", "Datagrams the kernel dropped before they were read")
INTERNAL_ERRORS: Final = _one(
    "dnsd_internal_errors_total", "Queries that made the answering code raise: a bug, answered SERVFAIL")
LOOP_STALLS: Final = _one("dnsd_loop_stalls_total", "Times a worker's event loop was late by more than 50 ms")
_CAPTURE: Final = "Queries sampled for capture, by what became of them"
CAPTURE_TAKEN: Final = _one("dnsd_capture_total", _CAPTURE, outcome="taken")
CAPTURE_DROPPED: Final = _one("dnsd_capture_total", _CAPTURE, outcome="dropped")

TCP_ACCEPTED: Final = _one("dnsd_tcp_connections_total", "TCP connections accepted")
TCP_OPEN: Final = _one("dnsd_tcp_connections_open", "TCP connections open now")
TCP_CLOSE_REASONS: Final = (
    "client", "error", "idle", "first_query", "stalled", "lifetime", "queries", "limit", "prefix_limit", "malformed",
    "drain", "proxy",
)
_TCP_CLOSED: Final = _many("dnsd_tcp_closed_total", "TCP connections closed, by reason", "reason", TCP_CLOSE_REASONS)
TCP_CLOSED: Final = {reason: _TCP_CLOSED + i for i, reason in enumerate(TCP_CLOSE_REASONS)}

TLS_ACCEPTED: Final = _one("dnsd_tls_connections_total", "Connections accepted for DNS over TLS")
TLS_OPEN: Final = _one("dnsd_tls_connections_open", "Connections of DNS over TLS open now")
TLS_CLOSE_REASONS: Final = (*TCP_CLOSE_REASONS[:-1], "handshake")
_TLS_CLOSED: Final = _many(
    "dnsd_tls_closed_total", "Connections of DNS over TLS closed, by reason", "reason", TLS_CLOSE_REASONS)
TLS_CLOSED: Final = {reason: _TLS_CLOSED + i for i, reason in enumerate(TLS_CLOSE_REASONS)}
TLS_HANDSHAKES: Final = _one("dnsd_tls_handshakes_total", "TLS handshakes done, by kind", kind="full")
TLS_RESUMED: Final = _one("dnsd_tls_handshakes_total", "TLS handshakes done, by kind", kind="resumed")
CERTIFICATE_LOADS: Final = _one("dnsd_certificate_reads_total", "Times certificate and key were read", outcome="used")
CERTIFICATE_ERRORS: Final = _one("dnsd_certificate_reads_total", "Times certificate and key were read", outcome="bad")

# --- answers: counted by answer.respond -------------------------------------------------------------------------------

RCODES: Final = (
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
    "NOTZONE", "DSOTYPENI", "RCODE12", "RCODE13", "RCODE14", "RCODE15", "BADVERS", "RCODE17", "RCODE18", "RCODE19",
    "RCODE20", "RCODE21", "RCODE22", "BADCOOKIE",
)
RCODE: Final = _many("dnsd_answers_total", "Answers by response code", "rcode", RCODES)  # + the rcode, 0..23

_KIND = "Answers by what they were made of"
KIND_STATIC: Final = _one("dnsd_answer_kind_total", _KIND, kind="static")
KIND_SERVICE: Final = _one("dnsd_answer_kind_total", _KIND, kind="service")
KIND_NODATA: Final = _one("dnsd_answer_kind_total", _KIND, kind="nodata")
KIND_NXDOMAIN: Final = _one("dnsd_answer_kind_total", _KIND, kind="nxdomain")
KIND_REFERRAL: Final = _one("dnsd_answer_kind_total", _KIND, kind="referral")
KIND_CNAME: Final = _one("dnsd_answer_kind_total", _KIND, kind="cname")
KIND_DNAME: Final = _one("dnsd_answer_kind_total", _KIND, kind="dname")
KIND_WILDCARD: Final = _one("dnsd_answer_kind_total", _KIND, kind="wildcard")
KIND_ANY: Final = _one("dnsd_answer_kind_total", _KIND, kind="any")
KIND_SERVFAIL: Final = _one("dnsd_answer_kind_total", _KIND, kind="servfail")
KIND_REFUSED: Final = _one("dnsd_answer_kind_total", _KIND, kind="refused")
KIND_FORMERR: Final = _one("dnsd_answer_kind_total", _KIND, kind="formerr")
KIND_NOTIMP: Final = _one("dnsd_answer_kind_total", _KIND, kind="notimp")
KIND_BADVERS: Final = _one("dnsd_answer_kind_total", _KIND, kind="badvers")
KIND_CHAOS: Final = _one("dnsd_answer_kind_total", _KIND, kind="chaos")
KIND_COOKIE: Final = _one("dnsd_answer_kind_total", _KIND, kind="cookie")

_LIMITED = "Queries over the rate of their prefix, zone and kind, by what became of them"
LIMITED_DROPPED: Final = _one("dnsd_rate_limited_total", _LIMITED, action="dropped")
LIMITED_TRUNCATED: Final = _one("dnsd_rate_limited_total", _LIMITED, action="truncated")
LIMITED_BADCOOKIE: Final = _one("dnsd_rate_limited_total", _LIMITED, action="badcookie")
LIMITED_EXCUSED: Final = _one("dnsd_rate_limited_total", _LIMITED, action="valid_cookie")
SHED: Final = _one("dnsd_shed_total", "Queries dropped because more came than can be answered, the least useful first")
DESK: Final = _one("dnsd_desk_total", "Queries left to the control process: transfers, signed ones, explanations")
DESK_FULL: Final = _one("dnsd_desk_full_total", "Queries answered without the control process: too many were with it")
DESK_LOST: Final = _one("dnsd_desk_lost_total", "Queries the control process did not answer, or not to the end")
COOKIES: Final = _one("dnsd_cookie_queries_total", "Queries with a DNS cookie")

DROPPED: Final = _one("dnsd_dropped_total", "Messages that get no answer: too short, or themselves an answer")
TRUNCATED: Final = _one("dnsd_truncated_total", "Answers sent with TC, for the client to ask again over TCP")
EDNS: Final = _one("dnsd_edns_queries_total", "Queries with an OPT record")
DNSSEC_OK: Final = _one("dnsd_do_queries_total", "Queries with the DO bit")
NSID: Final = _one("dnsd_nsid_queries_total", "Queries that asked for the name server's id")
ECS_IGNORED: Final = _one("dnsd_ecs_ignored_total", "Queries whose client subnet was passed over: resolver not listed")
ECS_V4: Final = _one("dnsd_ecs_queries_total", "Queries with a client subnet, by family", family="4")
ECS_V6: Final = _one("dnsd_ecs_queries_total", "Queries with a client subnet, by family", family="6")
ECS_OPT_OUT: Final = _one("dnsd_ecs_opt_out_total", "Queries with a client subnet of source length 0")
NO_PLACE: Final = _one("dnsd_no_place_total", "Service answers for a client the map does not know")
LADDER_FALLBACK: Final = _one("dnsd_ladder_total", "Service answers from below the live rung", rung="fallback")
LADDER_LAST_GOOD: Final = _one("dnsd_ladder_total", "Service answers from below the live rung", rung="last_good")
LADDER_EMPTY: Final = _one("dnsd_ladder_total", "Service answers from below the live rung", rung="empty")
DECLARED_FALLBACK: Final = _one(
    "dnsd_declared_fallback_total", "Service answers the policy gives from the fallback: no subnet, or client unknown")
PANIC: Final = _one("dnsd_panic_total", "Service answers given while health is ignored")

# --- the image: counted by serve/worker -------------------------------------------------------------------------------

IMAGE_LOADS: Final = _one("dnsd_image_loads_total", "Times the whole image was mapped")
IMAGE_LOAD_ERRORS: Final = _one(
    "dnsd_image_load_errors_total", "Images or map tables on disk that could not be used; the old one stays")
DELTAS_APPLIED: Final = _one("dnsd_deltas_total", "Frames from control, by what became of them", outcome="applied")
DELTAS_IGNORED: Final = _one("dnsd_deltas_total", "Frames from control, by what became of them", outcome="ignored")
DELTAS_GAP: Final = _one("dnsd_deltas_total", "Frames from control, by what became of them", outcome="gap")
DELTAS_BAD: Final = _one("dnsd_deltas_total", "Frames from control, by what became of them", outcome="bad")
MAPS_LOADED: Final = _one("dnsd_map_loads_total", "Map tables mapped")

# --- the compiled engine: counted by dnsd/engine ---------------------------------------------------------------------

PASS_REASONS: Final = ("odd", "class", "desk", "dname", "large", "image")
"""Why the engine passes a query on to `respond`: no plain query (another opcode, signed, of several records); another
class than IN; what may be the control process's; a DNAME; more than the engine's buffers hold; an image that it
cannot use."""
PASSED: Final = _many(
    "dnsd_engine_passed_total", "Queries the compiled engine left to Python, by reason", "reason", PASS_REASONS)
PASS_FULL: Final = _one(
    "dnsd_engine_full_total", "Queries dropped because Python had not yet answered those passed on before")
ENGINE: Final = _one("dnsd_engine", "1 where the compiled engine answers over UDP, 0 where Python does")

SLOTS: Final = len(_table)
TABLE: Final[tuple[Slot, ...]] = tuple(_table)
GAUGES: Final = frozenset({"dnsd_engine", "dnsd_tcp_connections_open", "dnsd_tls_connections_open"})

# --- the stats file ---------------------------------------------------------------------------------------------------

HEAD: Final = struct.Struct("<8Q")
# pid, started_ms: of the present process; epoch, version, node_seq: the stamp it serves; starts: how often the slot was
# started; beat_ms: CLOCK_MONOTONIC of its loop's last tick (a stuck worker stops beating); one is spare
PID, EPOCH, VERSION, NODE_SEQ, STARTED_MS, STARTS, BEAT_MS = range(7)
_PART: Final = (8 * SLOTS + 63) & ~63
REGION: Final = HEAD.size + 2 * _PART


def head(stats: memoryview, worker: int) -> memoryview:
    """The head of a worker's region as u64 fields: index it with PID, EPOCH, …"""
    start = worker * REGION
    return stats[start : start + HEAD.size].cast("Q")


def counters(stats: memoryview, worker: int) -> memoryview:
    """A worker's slots as u64: index it with the slot numbers above."""
    start = worker * REGION + HEAD.size
    return stats[start : start + 8 * SLOTS].cast("Q")


def engine_counters(stats: memoryview, worker: int) -> memoryview:
    """The slots of a worker's compiled engine, likewise."""
    start = worker * REGION + HEAD.size + _PART
    return stats[start : start + 8 * SLOTS].cast("Q")


def workers(stats: memoryview) -> int:
    """How many regions the mapped file holds."""
    return len(stats) // REGION


def exposition(stats: memoryview) -> Iterator[str]:
    """The counters of all workers in the Prometheus text format, line by line; the label `worker` tells them apart."""
    regions = [(counters(stats, worker), engine_counters(stats, worker)) for worker in range(workers(stats))]
    done: set[str] = set()
    for slot in sorted(TABLE, key=lambda s: s.metric):
        if slot.metric not in done:
            done.add(slot.metric)
            yield f"# HELP {slot.metric} {slot.help}"
            yield f"# TYPE {slot.metric} {'gauge' if slot.metric in GAUGES else 'counter'}"
        for worker, (own, engine) in enumerate(regions):
            labels = ",".join(f'{name}="{value}"' for name, value in (*slot.labels, ("worker", str(worker))))
            yield f"{slot.metric}{{{labels}}} {own[slot.number] + engine[slot.number]}"
