"""Samples to groups: addresses, bounds, physics; medians by counts; entries that say what they held."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.rtt import blocks, intake
from dnsd.rtt.intake import Place, nowhere, sift
from dnsd.rtt.items import FAR, GROUP, Entry, Gathered, grouped
from tests.rtt.measuring import entry

PLACES = {"fra": Place(0, 50.1, 8.7), "syd": Place(1, -33.9, 151.2)}


@dataclass(frozen=True)
class Told:
    client: str
    rtt_ms: float = 20.0
    count: int = 1
    spread_ms: float | None = None
    site: str | None = None


def berlin(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.full(len(numbers), 52.5), np.full(len(numbers), 13.4)


@pytest.mark.parametrize(("client", "block"), [
    ("192.0.2.77", "192.0.2.0"), ("192.0.2.0/24", "192.0.2.0"), ("192.0.2.128/25", "192.0.2.0"),
    ("10.1.2.3", "10.1.2.0"),
    ("2001:db8:1:2::3", "2001:db8:1::"), ("2001:db8:1::/48", "2001:db8:1::"), ("2001:db8:1:2::/64", "2001:db8:1::"),
    ("::ffff:192.0.2.7", "192.0.2.0")])
def test_a_client_is_its_block(client: str, block: str) -> None:
    found = sift([Told(client)], "fra", PLACES, nowhere)
    assert found.rows["block"].tolist() == [blocks.of(ip_address(block))]


@pytest.mark.parametrize("client", [
    "", "x", "192.0.2", "192.0.2.256", "192.0.2.0/23", "2001:db8::/47", "0.0.0.0", "127.0.0.1", "224.0.0.1",
    "255.255.255.255", "240.0.0.1/32", "::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "1.2.3.4 ",
    "192.0.2.1/33", "2001:db8::/64%eth0", "0x7f.1", "1" * 50])
def test_what_is_no_client(client: str) -> None:
    found = sift([Told(client), Told("192.0.2.1")], "fra", PLACES, nowhere)
    assert (found.dropped, len(found.rows)) == ({"address": 1}, 1)


@pytest.mark.parametrize(("ms", "taken"), [
    (0.05, True), (0.049, False), (5000.0, True), (5000.1, False), (-1.0, False), (float("nan"), False),
    (float("inf"), False)])
def test_the_range(ms: float, taken: bool) -> None:
    found = sift([Told("192.0.2.1", ms)], "fra", PLACES, nowhere)
    assert (len(found.rows), found.dropped) == ((1, {}) if taken else (0, {"range": 1}))


@pytest.mark.parametrize(("site", "ms", "taken"), [("syd", 79.0, False), ("syd", 81.0, True), ("fra", 2.0, False),
                                                   ("fra", 2.2, True)])
def test_nothing_is_faster_than_light(site: str, ms: float, taken: bool) -> None:
    """Berlin to Sydney is 16,097 km, to Frankfurt 421 km."""
    found = sift([Told("192.0.2.1", ms, count=7)], site, PLACES, berlin)
    assert (len(found.rows), found.dropped, found.fast) == ((1, {}, 0) if taken else (0, {"physics": 1}, 1))
    assert len(sift([Told("192.0.2.1", ms)], site, PLACES, nowhere).rows) == 1  # of an unknown place: no physics
    if taken:
        assert int(found.rows["km"][0]) == pytest.approx(16_094 if site == "syd" else 422, abs=4)


def test_a_block_is_too_fast_once_however_busy_it_is() -> None:
    told = [Told("192.0.2.1", 1, count=60_000), Told("192.0.2.9", 2), Told("192.0.3.1", 1),
            Told("192.0.2.1", 1, site="fra")]
    assert sift(told, "syd", PLACES, berlin).fast == 3


def test_each_sample_may_have_its_site() -> None:
    told = [Told("192.0.2.1", 90, site="syd"), Told("192.0.2.2", 9), Told("192.0.2.3", site="none"),
            Told("192.0.2.4", site="")]
    found = sift(told, "fra", PLACES, nowhere)
    assert (found.rows["site"].tolist(), found.dropped) == ([1, 0], {"site": 2})
    assert sift(told, None, PLACES, nowhere).dropped == {"site": 3}
    assert sift([], "fra", PLACES, nowhere).rows.tolist() == []


samples = st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 50_000), st.integers(1, 9))


@given(st.lists(samples, max_size=60))
def test_groups_are_medians_by_count(told: list[tuple[int, int, int, int]]) -> None:
    rows = np.array([(block, rtt, 0, FAR, count, site, 0) for block, site, rtt, count in told], GROUP)
    found = grouped(rows)
    cells: dict[tuple[int, int], list[int]] = {}
    for block, site, rtt, count in told:
        cells.setdefault((block, site), []).extend([rtt] * count)
    assert {(int(one["block"]), int(one["site"])) for one in found} == set(cells)
    for one in found:
        values = sorted(cells[int(one["block"]), int(one["site"])])
        assert one["rtt"] == values[(len(values) - 1) // 2]
        assert one["count"] == len(values)
        off = sorted(abs(value - int(one["rtt"])) for value in values)
        assert abs(int(one["spread"]) - 1.4826 * off[(len(off) - 1) // 2]) <= 1


def test_what_was_told_of_the_spread_counts_where_there_is_but_one() -> None:
    found = grouped(np.array([(1, 200, 35, FAR, 50, 0, 0)], GROUP))
    assert found["spread"].tolist() == [35]


def test_a_node_gathers_many_posts_into_few_entries() -> None:
    gathered = Gathered()
    for number in range(6):
        found = sift([Told("192.0.2.1", 10.0 + number)], "fra", PLACES, nowhere)
        assert gathered.add(f"agent-{number % 2}", ("fra", "syd"), found.rows, fast=number)
    [octets] = gathered.entries("n", 123)
    made = Entry.from_bytes(octets)
    assert (made.node, made.at_ms, made.sites, made.reporters) == ("n", 123, ("fra", "syd"), ("agent-0", "agent-1"))
    assert made.groups[["rtt", "count", "reporter"]].tolist() == [(120, 3, 0), (130, 3, 1)]
    assert (made.fast, median([100, 120, 140])) == ({"agent-0": 6, "agent-1": 9}, 120)
    for number in range(300):
        took = gathered.add(f"r{number}", ("fra", "syd"), found.rows)
    assert not took  # an entry holds 255 reporters
    assert Gathered().entries("n", 1) == []


@given(st.data())
def test_damaged_entries_are_refused(data: st.DataObject) -> None:
    octets = entry(5, [(1, 0, 20.0), (2, 3, 30.0)], between={"a": {"b": 1.5}}).to_bytes()
    assert Entry.from_bytes(octets).between == {"a": {"b": 1.5}}
    cut = data.draw(st.integers(0, len(octets) - 1))
    try:
        Entry.from_bytes(octets[:cut])
    except ValueError:
        pass
    else:
        assert (len(octets) - cut) % GROUP.itemsize == 0  # whole groups may be missing
    bad = bytearray(octets)
    bad[data.draw(st.integers(0, len(octets) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Entry.from_bytes(bytes(bad))
    except ValueError:
        return
    assert not len(found.groups) or found.groups["site"].max() < len(found.sites)


def test_reasons_are_those_that_are_told() -> None:
    assert set(intake.REASONS) == {"address", "range", "site", "physics", "quota"}
