"""The counter table: unique, well formed, and laid out so that workers cannot touch each other's."""

from __future__ import annotations

import re

import pytest

from dnsd import metrics


def stats(workers: int) -> memoryview:
    return memoryview(bytearray(workers * metrics.REGION))


def test_slots_are_numbered_in_order_and_unique() -> None:
    assert [slot.number for slot in metrics.TABLE] == list(range(metrics.SLOTS))
    assert len({(slot.metric, slot.labels) for slot in metrics.TABLE}) == metrics.SLOTS


@pytest.mark.parametrize("slot", metrics.TABLE, ids=lambda slot: f"{slot.metric}-{slot.number}")
def test_names_follow_the_conventions(slot: metrics.Slot) -> None:
    assert re.fullmatch(r"dnsd_[a-z_]+", slot.metric)
    assert slot.metric.endswith("_total") != (slot.metric in metrics.GAUGES)
    assert slot.help
    assert not slot.help.endswith(".")
    for name, value in slot.labels:
        assert re.fullmatch(r"[a-z_]+", name)
        assert name != "worker"
        assert re.fullmatch(r"[A-Za-z0-9_]+", value)


def test_one_help_and_one_set_of_labels_per_metric() -> None:
    seen: dict[str, tuple[str, tuple[str, ...]]] = {}
    for slot in metrics.TABLE:
        shape = (slot.help, tuple(name for name, _ in slot.labels))
        assert seen.setdefault(slot.metric, shape) == shape


def test_rcode_slots_are_the_rcode_apart() -> None:
    assert metrics.TABLE[metrics.RCODE + 3].labels == (("rcode", "NXDOMAIN"),)
    assert metrics.TABLE[metrics.RCODE + 16].labels == (("rcode", "BADVERS"),)


def test_close_reasons_have_their_own_slots() -> None:
    for reason, number in metrics.TCP_CLOSED.items():
        assert metrics.TABLE[number].labels == (("reason", reason),)


def test_a_region_holds_head_and_slots_apart_from_its_neighbours() -> None:
    whole = stats(3)
    assert metrics.workers(whole) == 3
    metrics.counters(whole, 1)[metrics.SLOTS - 1] = 7
    metrics.counters(whole, 1)[0] = 5
    metrics.head(whole, 2)[metrics.PID] = 42
    assert [metrics.head(whole, worker)[metrics.PID] for worker in range(3)] == [0, 0, 42]
    assert [sum(metrics.counters(whole, worker)) for worker in range(3)] == [0, 12, 0]
    metrics.engine_counters(whole, 0)[metrics.SLOTS - 1] = 3
    assert [sum(metrics.counters(whole, worker)) for worker in range(3)] == [0, 12, 0]
    assert [sum(metrics.engine_counters(whole, worker)) for worker in range(3)] == [3, 0, 0]
    assert metrics.REGION % 64 == 0
    assert metrics.HEAD.size == 64


def test_what_a_worker_and_its_engine_counted_is_told_as_one_number() -> None:
    whole = stats(2)
    metrics.counters(whole, 1)[metrics.QUERIES_UDP] = 5
    metrics.engine_counters(whole, 1)[metrics.QUERIES_UDP] = 37
    assert 'dnsd_queries_total{transport="udp",worker="1"} 42' in list(metrics.exposition(whole))


def test_every_reason_to_pass_a_query_on_has_its_slot() -> None:
    for at, reason in enumerate(metrics.PASS_REASONS):
        assert metrics.TABLE[metrics.PASSED + at].labels == (("reason", reason),)


def test_exposition_is_grouped_typed_and_complete() -> None:
    whole = stats(2)
    metrics.counters(whole, 1)[metrics.QUERIES_TCP] = 9
    lines = list(metrics.exposition(whole))
    assert 'dnsd_queries_total{transport="tcp",worker="1"} 9' in lines
    assert 'dnsd_queries_total{transport="tcp",worker="0"} 0' in lines
    assert lines.count("# TYPE dnsd_queries_total counter") == 1
    assert "# TYPE dnsd_tcp_connections_open gauge" in lines
    assert len([line for line in lines if not line.startswith("#")]) == 2 * metrics.SLOTS
    order = [line.split("{")[0] for line in lines if not line.startswith("#")]
    assert [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name] == sorted(set(order))
