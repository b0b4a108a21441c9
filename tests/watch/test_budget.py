"""Rates and factors: fair shares, nobody's door flooded, sums that come back to nothing."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.watch import own
from dnsd.watch.budget import Budget, Limits

LIMITS = Limits(node=1000, service=100, network=40, address=10)
HERE = b"\1\2\3\4"


def address(i: int) -> bytes:
    """Each in a network of its own."""
    return (i << 8).to_bytes(4, "big")


@pytest.mark.parametrize(("count", "interval_ms", "factor"), [(1, 500, 1), (50, 500, 1), (100, 500, 2), (50, 100, 5)])
def test_a_service_beyond_its_limit(count: int, interval_ms: int, factor: float) -> None:
    budget = Budget(LIMITS, 0)
    for i in range(count):
        budget.add(interval_ms, address(i), "a")
    budget.add(500, address(count), "b")
    assert budget.stretch(address(0), "a", ours=False) == pytest.approx(factor)
    assert budget.stretch(address(count), "b", ours=False) == 1, "others do not pay"
    assert budget.stretched == 1


def test_the_node_counts_a_service_with_its_limit_at_most() -> None:
    budget = Budget(LIMITS, 0)
    for i in range(5000):
        budget.add(500, address(i), "greedy")
    assert budget.stretched == 1
    for i in range(19):
        for j in range(50):
            budget.add(500, address(5000 + 50 * i + j), f"s{i}")
    assert budget.stretched == 2000 / 1000
    assert budget.stretch(address(5000), "s0", ours=False) == 2
    assert budget.stretch(address(0), "greedy", ours=False) == 100 * 2


def test_one_address_and_one_network_whoever_asks() -> None:
    budget = Budget(LIMITS, 0)
    for i in range(20):
        budget.add(500, HERE, f"s{i}")
    assert budget.stretch(HERE, "s0", ours=False) == 4
    assert budget.stretch(HERE, "s0", ours=True) == 1, "the operator's own fleet"
    for i in range(60):
        budget.add(500, b"\1\2\3" + bytes((i + 100,)), f"t{i}")
    assert budget.stretch(b"\1\2\3\x64", "t0", ours=False) == 4
    assert budget.stretch(b"\1\2\4\x64", "t0", ours=False) == 1
    for i in range(40):
        budget.add(500, bytes.fromhex("20010db80001") + bytes(9) + bytes((i,)), "v")
    assert budget.stretch(bytes.fromhex("20010db80001") + bytes(10), "v", ours=False) == 2
    assert budget.stretch(bytes.fromhex("20010db80002") + bytes(10), "v", ours=False) == 1


def test_handshakes_have_a_limit_of_their_own() -> None:
    budget = Budget(Limits(service=10_000, handshakes=50), 0)
    for i in range(100):
        budget.add(500, address(i), "s", tls=True)
    assert budget.stretch(address(0), "s", ours=True, tls=True) == 4
    assert budget.stretch(address(0), "s", ours=True) == 1
    for i in range(100):
        budget.remove(500, address(i), "s", tls=True)
    assert not budget._places


def test_who_has_more_room_pays_for_a_shared_target() -> None:
    budget = Budget(LIMITS, 0)
    for i in range(100):
        budget.add(500, address(i), "greedy")
    assert budget.over("greedy")
    assert budget.better(500, "greedy", "modest")
    budget.move(500, "greedy", "modest")
    assert budget.stretch(address(0), "modest", ours=False) == 1
    assert budget.stretch(address(1), "greedy", ours=False) == 1.98
    assert not budget.better(500, "modest", "other"), "who has room goes on paying"


def test_starts_are_bounded_whatever_was_asked_for() -> None:
    budget = Budget(Limits(node=100), 0)
    assert sum(budget.take(0) for _ in range(1000)) == 10
    assert sum(budget.take(i / 1000) for i in range(10_000)) in (999, 1000, 1001)
    assert sum(budget.take(1e6) for _ in range(1000)) == 10


ASKED = st.tuples(st.integers(100, 3_600_000), st.integers(0, 5), st.sampled_from("abcd"), st.sampled_from("abcd"))


@given(st.lists(ASKED, max_size=30), st.randoms(use_true_random=False))
def test_what_goes_leaves_nothing(asked: list[tuple[int, int, str, str]], chance: object) -> None:
    budget = Budget(Limits(1, 1, 1, 1), 0)
    for interval, i, payer, service in asked:
        budget.add(interval, address(i), payer)
        assert budget.stretched >= 1
        budget.move(interval, payer, service)
    order = list(asked)
    chance.shuffle(order)  # type: ignore[attr-defined]
    for interval, i, _, service in order:
        budget.remove(interval, address(i), service)
    assert not budget._services
    assert not budget._places
    assert budget.stretched == 1


def test_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: now.__setitem__(slice(None), pair))
    assert own.descriptors(100) == 100
    assert now == [1024, 4096]
    assert own.descriptors(2000) == 2000
    assert now == [2512, 4096]
    assert own.descriptors(9000) == 4096 - 512
    assert now == [4096, 4096]
