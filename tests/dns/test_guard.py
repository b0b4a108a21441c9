"""Token buckets: never more than the rate, never less than it, each for itself; and what a full table does."""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from array import array
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.dns.guard import KINDS, PACES, RAISED, UNIT_NS, Guard
from dnsd.dns.prefixes import Prefixes
from tests.node import ROOT

SECOND = 1_000_000_000
WRAP = (1 << 44) * UNIT_NS
CLIENT = bytes((192, 0, 2, 1))
SIZE = 1 << 10


def guard(*, answers: int = 10, others: int = 5, burst_s: float = 1.0, raised_by: int = 20,
          exempt: tuple[str, ...] = (), raised: tuple[str, ...] = (), key: int = 0x0123456789ABCDEF,
          table: array[int] | None = None) -> Guard:
    made = Guard(
        array("Q", bytes(8 * SIZE)) if table is None else table, answers=answers, others=others, burst_s=burst_s,
        raised_by=raised_by, exempt=Prefixes(exempt), raised=Prefixes(raised), key=key)
    made.tick(1000 * SECOND)
    return made


def through(it: Guard, number: int, client: bytes = CLIENT, zone: int = 1, kind: int = 0) -> int:
    return sum(not it.over(client, zone, kind) for _ in range(number))


@pytest.mark.parametrize(("rate", "burst_s", "at_once"), [
    (1, 0.1, 1), (1, 1, 1), (1, 60, 60), (10, 1, 10), (10, 0.55, 5), (100, 0.1, 10), (1000, 1, 1000), (7777, 0.5, 3888),
])
@pytest.mark.parametrize("kind", range(KINDS))
def test_a_burst_and_then_the_rate(rate: int, burst_s: float, at_once: int, kind: int) -> None:
    it = guard(answers=rate if kind == 0 else 99999, others=rate if kind else 99999, burst_s=burst_s)
    assert through(it, at_once + 10, kind=kind) == at_once
    for second in range(1, 4):
        it.tick((1000 + second) * SECOND)
        allowed = through(it, 2 * rate + 10, kind=kind)
        assert min(rate, at_once) - 1 <= allowed <= min(rate, at_once)


def test_tokens_come_evenly() -> None:
    it = guard(answers=10, burst_s=0.1)
    seen = []
    for step in range(100):
        it.tick(1000 * SECOND + step * SECOND // 50)
        seen.append(through(it, 3))
    assert sum(seen) == 20
    assert all(sum(seen[i : i + 5]) == 1 for i in range(0, 100, 5))


@pytest.mark.parametrize(("one", "other", "shared"), [
    ("192.0.2.1", "192.0.2.255", True), ("192.0.2.1", "192.0.3.1", False),
    ("2001:db8::1", "2001:db8:0:ff:ffff::", True), ("2001:db8::1", "2001:db8:0:100::1", False),
    ("0.0.2.1", "0:0:0:200::", False),  # the same number, of another length
])
def test_what_is_one_network(one: str, other: str, shared: bool) -> None:
    it = guard()
    first, second = ip_address(one).packed, ip_address(other).packed
    assert through(it, 20, first) == 10
    assert through(it, 20, second) == (0 if shared else 10)
    assert through(it, 20, first) == 0


def test_zones_and_kinds_have_their_own() -> None:
    it = guard()
    for zone in range(20):
        for kind in range(KINDS):
            assert through(it, 20, zone=zone, kind=kind) == (5 if kind else 10)


def test_what_is_remembered_of_buckets_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnsd.dns.guard.BUCKETS", 3)
    it = guard(exempt=("192.0.2.9",), raised=("192.0.2.53",), raised_by=2)
    clients = [bytes((192, 0, 2, last)) for last in (1, 9, 53, 2)]
    for _ in range(3):
        for client in clients:
            it.over(client, 1, 0)
    assert [through(it, 50, client) for client in clients] == [10 - 6, 50, 20 - 3, 0]
    assert len(it._buckets) <= 3


@pytest.mark.parametrize("kind", range(KINDS))
@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1"])
def test_exempt_clients_are_never_over_and_take_nothing_from_their_neighbours(kind: int, text: str) -> None:
    client = ip_address(text).packed
    neighbour = client[:-1] + b"\7"
    it = guard(exempt=(text,), raised=("192.0.2.0/24",))
    assert through(it, 5000, client, kind=kind) == 5000
    assert it.over(neighbour, 1, kind) is False
    it = guard(exempt=(text,))
    assert through(it, 50, neighbour, kind=kind) == (5 if kind else 10)
    assert through(it, 50, client, kind=kind) == 50


@pytest.mark.parametrize(("prefix", "inside", "outside"), [
    ("127.0.0.0/8", "127.9.9.9", "128.0.0.1"), ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
    ("192.0.2.0/25", "192.0.2.127", "192.0.2.128"), ("2001:db8::/56", "2001:db8:0:ff::", "2001:db8:0:100::"),
    ("2001:db8::/57", "2001:db8:0:7f::", "2001:db8:0:80::")])
def test_prefixes_that_are_exempt(prefix: str, inside: str, outside: str) -> None:
    """Those longer than a bucket's are looked at first, the others when a bucket is empty; nobody sees which."""
    it = guard(exempt=(prefix,))
    for _ in range(2):
        assert through(it, 50, ip_address(inside).packed) == 50
    assert through(it, 50, ip_address(outside).packed) == 10
    assert through(it, 50, ip_address(inside).packed) == 50


@pytest.mark.parametrize("kind", range(KINDS))
def test_raised_clients_get_that_much_more_and_beside_their_neighbours(kind: int) -> None:
    it = guard(raised=("192.0.2.53", "2001:db8::/32"), raised_by=20)
    more, usual = (100, 5) if kind else (200, 10)
    assert through(it, 500, bytes((192, 0, 2, 53)), kind=kind) == more
    assert through(it, 500, bytes((192, 0, 2, 54)), kind=kind) == usual
    assert through(it, 500, ip_address("2001:db8::1").packed, kind=kind) == more
    it.tick(1000 * SECOND + SECOND // 2)
    assert through(it, 500, bytes((192, 0, 2, 53)), kind=kind) == more // 2
    assert through(it, 500, bytes((192, 0, 2, 54)), kind=kind) == usual // 2


events = st.lists(st.tuples(st.integers(-2 * SECOND, 4 * SECOND), st.integers(1, 40)), min_size=1, max_size=40)
starts = st.integers(0, 4 * WRAP) | st.sampled_from(
    [0, 1, SECOND, WRAP - SECOND, WRAP - 1, WRAP, 3 * WRAP - SECOND // 2])


@given(events, starts, st.integers(1, 2000), st.floats(0.1, 60), st.integers(0, 4))
def test_never_more_than_the_burst_and_the_rate(
        moves: list[tuple[int, int]], start: int, rate: int, burst_s: float, kind: int) -> None:
    """Of one bucket, whatever its clock does: leaps ahead, back (a worker that is late), and the field's wrap."""
    it = guard(answers=rate, others=rate, burst_s=burst_s)
    now, times, allowed = start + 200 * SECOND, [], 0
    for step, number in moves:
        now = max(now + step, start + 160 * SECOND)
        times.append(now)
        it.tick(now)
        allowed += through(it, number, kind=kind)
    assert allowed <= max(1, int(rate * burst_s)) + rate * (max(times) - min(times)) / SECOND + 1


@given(st.lists(st.tuples(st.integers(1, 3 * SECOND), st.integers(0, 60)), min_size=1, max_size=30), starts,
       st.integers(1, 500), st.floats(0.1, 20))
def test_never_less_than_the_rate(moves: list[tuple[int, int]], start: int, rate: int, burst_s: float) -> None:
    """A model with fractions of tokens and no table gives the same, but for the rounding of one token."""
    it = guard(answers=rate, burst_s=burst_s)
    most = max(1, int(rate * burst_s))
    tokens, now = float(most), start
    it.tick(now)
    for step, number in moves:
        now += step
        it.tick(now)
        tokens = min(most, tokens + step * rate / SECOND)
        allowed = through(it, number)
        assert abs(allowed - min(number, math.floor(tokens))) <= 1
        tokens = max(0.0, tokens - allowed)


@given(st.integers(1, 1000), st.floats(0.1, 60), starts, st.integers(61, 13 * 86400))
def test_a_quiet_bucket_lets_a_burst_through(rate: int, burst_s: float, start: int, quiet_s: int) -> None:
    it = guard(answers=rate, burst_s=burst_s)
    at_once = max(1, int(rate * burst_s))
    it.tick(start)
    assert through(it, min(at_once, 300)) == min(at_once, 300)
    it.tick(start + min(quiet_s * SECOND, WRAP - 129 * SECOND))
    assert through(it, min(at_once, 300)) == min(at_once, 300)


def test_workers_share_buckets_and_a_restarted_one_finds_them() -> None:
    table = array("Q", bytes(8 * SIZE))
    one, other = guard(table=table), guard(table=table)
    assert through(one, 6) + through(other, 6) == 10
    other.tick(999 * SECOND)  # its batch began earlier
    assert other.over(CLIENT, 1, 0)
    assert one.over(CLIENT, 1, 0)
    assert guard(table=table).over(CLIENT, 1, 0)


def test_a_clock_a_minute_late_frees_nobody() -> None:
    it = guard(answers=1, burst_s=60)
    assert through(it, 100) == 60
    it.tick(940 * SECOND)
    assert through(it, 100) == 0
    it.tick(1000 * SECOND)
    assert through(it, 100) == 0


def test_every_process_hashes_alike() -> None:
    program = ("from array import array; from tests.dns.test_guard import guard, through; "
               "t = array('Q', bytes(8192)); through(guard(table=t), 3); print(t.tobytes().hex())")
    outputs = {subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True,
                              env=os.environ | {"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(outputs) == 1


def test_the_key_decides_who_shares_slots() -> None:
    tables = []
    for key in (1, 2, (1 << 64) - 1):
        tables.append(array("Q", bytes(8 * SIZE)))
        through(guard(key=key, table=tables[-1]), 1)
    used = [[i for i, word in enumerate(table) if word] for table in tables]
    assert all(len(slots) == 1 for slots in used)
    assert len({slots[0] for slots in used}) > 1


def test_strangers_share_a_bucket_only_where_slots_and_tags_collide() -> None:
    """20 bits of tag: even where all meet in two slots, one in half a million is taken for another."""
    clients = [struct.pack(">I", n << 8) for n in range(1 << 23, (1 << 23) + 4000)]
    it = guard(answers=1, burst_s=60, table=array("Q", bytes(8 << 16)))
    assert not any(it.over(client, 0, 0) for client in clients)
    assert [client for client in clients if through(it, 60, client) < 59] == []
    it = guard(answers=1, burst_s=1, table=array("Q", bytes(16)))
    assert sum(it.over(client, 0, 0) for client in clients) <= 1


def test_a_newcomer_takes_the_emptier_slot() -> None:
    table = array("Q", bytes(16))
    it = guard(answers=100, table=table)
    clients = [struct.pack(">I", n << 8) for n in range(3)]
    assert through(it, 200, clients[0]) == 100
    assert through(it, 50, clients[1]) == 50
    before = list(table)
    assert through(it, 10, clients[2]) == 10  # in place of the second
    assert len(set(before) & set(table)) == 1
    assert through(it, 10, clients[0]) == 0
    it.tick(1000 * SECOND + SECOND // 2)
    assert through(it, 200, clients[2]) == 90 + 10
    it.tick(1002 * SECOND)
    assert through(it, 200, clients[1]) == 100
    assert through(it, 200, clients[0]) + through(it, 200, clients[2]) == 200  # all were quiet


def test_a_flood_of_networks_does_not_free_the_one_that_is_over() -> None:
    it = guard(answers=1000, table=array("Q", bytes(8 * 64)))
    assert through(it, 2000) == 1000
    for n in range(50_000):
        it.over(struct.pack(">I", (n + 7) << 8), 1, 0)
    assert through(it, 100) == 0


@pytest.mark.parametrize("size", [0, 1, 3, 1000])
def test_a_table_is_a_power_of_two(size: int) -> None:
    with pytest.raises(ValueError, match=f"^{size} slots"):
        guard(table=array("Q", bytes(8 * size)))


def test_every_second_slips() -> None:
    it = guard()
    assert [it.slip() for _ in range(6)] == [False, True, False, True, False, True]
    shared = it.flat().slipped
    shared[0] ^= 1  # the engine's turn
    assert [it.slip() for _ in range(2)] == [True, False]
    assert shared == it.flat().slipped == b"\0"


@pytest.mark.parametrize(("exempt", "raised", "apart"), [
    ((), (), (False, False, False)), (("127.0.0.0/8", "2001:db8::/56"), (), (False, False, True)),
    (("192.0.2.0/25",), (), (True, False, True)), (("2001:db8::/57",), (), (False, True, True)),
    ((), ("10.0.0.0/8",), (True, True, False))])
def test_what_a_compiled_engine_takes_over(
        exempt: tuple[str, ...], raised: tuple[str, ...], apart: tuple[bool, bool, bool]) -> None:
    table = array("Q", bytes(8 * SIZE))
    parts = guard(table=table, exempt=exempt, raised=raised, key=(1 << 64) - 1).flat()
    assert parts.table is table
    assert (parts.mask, parts.key) == (SIZE - 1, hash((1 << 64) - 1))
    assert (parts.apart4, parts.apart6, parts.some_exempt) == apart
    assert (parts.exempt, parts.raised) == (Prefixes(exempt).ranges(), Prefixes(raised).ranges())
    assert len(parts.costs) == len(parts.mosts) == PACES
    second = SECOND // UNIT_NS
    for kind, rate in ((0, 10), (KINDS - 1, 5), (RAISED, 200), (RAISED + KINDS - 1, 100)):
        assert second <= parts.costs[kind] * rate < second + rate
        assert parts.mosts[kind] == parts.costs[kind] * rate
    assert set(parts.costs[KINDS:RAISED] + parts.mosts[RAISED + KINDS :]) == {0}


@given(st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4), st.integers(0, 2**64 - 1), st.integers(0, 2 * WRAP))
def test_any_table_may_be_found(words: list[int], key: int, now: int) -> None:
    """Whatever is in it, a rate is kept and comes back within a burst (and the minute that a clock may be late)."""
    it = guard(table=array("Q", words), key=key)
    it.tick(now)
    assert through(it, 30) <= 10
    it.tick(now + 200 * SECOND)
    assert through(it, 30) == 10
