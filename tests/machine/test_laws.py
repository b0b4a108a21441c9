"""Stories in which one law has something to say: what was good last, stamps that only grow, renewals that count, three
nodes of which two hold another state. What they must notice is listed in `test_mutants`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.holders import TTL_S
from tests.machine.machine import IDS, Machine

LEASED = "c.example.com"


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    made.fleet()
    yield made
    made.teardown()


def addresses(machine: Machine, name: str) -> list[int]:
    """How many addresses each node's first worker answers."""
    machine.world.laws.check()
    return [len(node.workers[0].ask(name)[1]) for node in machine.world.nodes]


def live(machine: Machine, name: str) -> list[int]:
    """How many endpoints each node answers."""
    return [len(node.process.views.resolved[name].view.live) for node in machine.world.nodes]


def test_what_was_good_last_is_answered_when_its_lease_has_ended(machine: Machine) -> None:
    machine.service(LEASED, checked=False, take=3, fallback=False, preset="geo")
    machine.acquire("h3", LEASED)
    machine.go(1.0)
    assert addresses(machine, LEASED) == [1, 1, 1]
    machine.stop(2, gently=True)
    del machine.holders.fences["h3"]  # its instance is gone
    machine.go(TTL_S + 5.0)
    machine.start(2)
    machine.go(3.0)
    assert not any(node.process.fleet.members.get(LEASED) for node in machine.world.nodes)
    assert addresses(machine, LEASED) == [1, 1, 1]
    machine.stop(0, gently=False)
    machine.stop(1, gently=True)
    machine.start(0)
    machine.start(1)
    machine.go(3.0)
    assert addresses(machine, LEASED) == [1, 1, 1]


@pytest.mark.parametrize("gently", [False, True])
def test_no_stamp_goes_back_when_a_process_comes_back(machine: Machine, gently: bool) -> None:
    for number in range(2):  # what ends is seen on each node by its own clock, before the registry says so
        machine.override("a.example.com", f"e{number}", "s0", "endpoint", "down", 1)
        machine.go(3.0)
    assert machine.world.nodes[1].process.publisher.live.stamp.node_seq > 1
    machine.stop(1, gently=gently)
    machine.go(1.0)
    machine.start(1)
    machine.go(3.0)


def test_who_renews_keeps_its_lease_by_whatever_node_it_reaches(machine: Machine) -> None:
    machine.acquire("h3", "a.example.com")
    machine.api((0, 1), away=True)
    machine.go(3 * TTL_S)
    assert len(machine.world.memory.data[b"dnsd:deadline"]) == 3
    machine.api((0, 1, 2), away=True)
    machine.go(TTL_S + 10.0)
    assert len(machine.world.memory.data[b"dnsd:deadline"]) == 3, "all at once: they are held"
    machine.api((0, 1, 2), away=False)
    machine.go(TTL_S)


def test_what_dies_is_seen_by_the_one_node_that_follows(machine: Machine) -> None:
    machine.another("empty", 0)
    machine.clock(1, -1)
    machine.go(0.04)
    machine.stop(0, gently=False)
    machine.go(0.02)
    machine.settle(1, restores=False)
    machine.go(0.02)
    machine.start(0)
    machine.go(0.02)
    machine.back()
    machine.go(0.02)
    machine.dies_alone("b.example.com", "e0", "hole", away=False)


@pytest.mark.parametrize("at", range(3))
def test_a_clock_that_jumps_gives_health_no_room(machine: Machine, at: int) -> None:
    for id_ in IDS[1:]:
        machine.dies("b.example.com", id_, "refused")
    machine.go(5.0)
    machine.clock(at, 3600)
    machine.go(5.0)
    machine.link((0, 1, 2), "away", 0.0)
    machine.go(10.0)
    machine.clock(at, 3600)
    machine.go(5.0)


def test_who_went_with_all_for_the_fallback_is_left_out_though_one_is_forced_up_here(machine: Machine) -> None:
    machine.service("a.example.com", checked=True, take=3, fallback=True, preset="geo")
    machine.go(3.0)
    machine.link((2,), "away", 0.0)
    machine.go(3.0)
    machine.force(2, "a.example.com", "e3", "s0", "endpoint", "up", 30)
    machine.all_die("a.example.com", "refused")
    machine.go(3.0)
    assert addresses(machine, "a.example.com") == [1, 1, 2], "the fallback; who is forced up, and one that is held"
    machine.link((2,), "ok", 0.0)
    machine.go(3.0)
    assert addresses(machine, "a.example.com") == [1, 1, 1], "who is forced up"


def test_who_went_with_all_is_left_out_by_one_that_comes_when_another_is_back(machine: Machine) -> None:
    machine.link((2,), "away", 0.0)
    machine.go(3.0)
    machine.service("a.example.com", checked=True, take=3, fallback=True, preset="all")
    machine.all_die("a.example.com", "refused")
    machine.go(3.0)
    assert live(machine, "a.example.com") == [0, 0, 4], "the fallback; one does not know of it"
    machine.dies("a.example.com", "e0", "live")
    machine.go(2.0)
    machine.link((2,), "ok", 0.0)
    machine.go(3.0)
    machine.world.laws.check()
    assert live(machine, "a.example.com") == [1, 1, 1]


def test_what_was_decided_while_a_node_judged_alone_is_by_what_endpoints_weighed_then(machine: Machine) -> None:
    """Three of a hundred each may go; one weighs three hundred by the time the third node follows."""
    machine.go(5.0)
    machine.cut(2, "b.example.com", "e0", every=True)
    machine.link((2,), "away", 0.0)
    machine.go(3.0)
    for id_ in ("e0", "e1", "e2"):
        machine.dies("b.example.com", id_, "refused")
    machine.go(3.0)
    machine.add("b.example.com", "e1", "s0", tier=1, weight=300, six=False)
    machine.add("b.example.com", "e0", "s1", tier=0, weight=0, six=False)
    machine.go(1.0)
    machine.link((2,), "ok", 0.0)
    machine.go(3.0)
    machine.world.laws.check()
    assert live(machine, "b.example.com") == [3, 3, 3]


@pytest.mark.parametrize("far", [(0.28, 0.0, 0.0), (0.0, 0.28, 0.0), (0.0, 0.0, 0.28), (0.28, 0.28, 0.28)])
def test_what_is_back_has_all_its_weight_also_where_who_builds_is_far_from_the_store(far: tuple[float, ...]) -> None:
    """What is decided comes back to it late: a ramp began anew with each decision, for ever."""
    machine = Machine()
    machine.fleet(far)
    for id_ in ("e0", "e3"):
        machine.dies("b.example.com", id_, "refused")
    machine.go(6.0)
    assert live(machine, "b.example.com") == [4, 4, 4]
    machine.teardown()


def test_what_is_decided_before_its_new_weight_is_known_is_by_the_old() -> None:
    """Two of a hundred each may go; one weighs three hundred just before who builds says so, and does not know it."""
    written_s = _decides(heavy_s=1e9)
    assert _decides(heavy_s=written_s - 0.05) == written_s


def _decides(*, heavy_s: float) -> float:
    """When it is written that the second is down, with all far from the store, and it heavy from some moment on."""
    machine, name = Machine(), "a.example.com"
    machine.fleet((0.28, 0.28, 0.28))
    machine.dies(name, "e3", "refused")
    machine.go(3.0)
    machine.dies(name, "e1", "refused")
    world, events = machine.world, machine.world.memory.data[b"dnsd:events"]
    heavy, verdict = False, b'["verdict","a.example.com"'
    while not any(verdict in text and b'[["e1",' in text for text in map(b"".join, events.fields)):
        machine.go(0.01)
        if not heavy and world.loop.time() >= heavy_s:
            machine.add(name, "e1", "s1", tier=0, weight=300, six=False)
            heavy = True
    written_s = world.loop.time()
    machine.go(1.0)
    world.laws.check()
    assert heavy == (heavy_s < written_s)
    assert live(machine, name) == [2, 2, 2]
    machine.teardown()
    return written_s


def test_where_but_the_drained_is_up_all_others_go_though_where_it_is_decided_the_drain_has_ended(
        machine: Machine) -> None:
    """By two clocks that are an hour ahead one is not drained any more, so of the others one is held."""
    machine.stop(0, gently=True)
    machine.go(5.0)
    machine.start(0)
    machine.go(5.0)
    for at in (1, 2):
        machine.clock(at, 3600)
    machine.override("a.example.com", "e2", "s2", "endpoint", "drain", 30)
    machine.go(3.0)
    for id_ in ("e0", "e1", "e3"):
        machine.dies("a.example.com", id_, "refused")
    machine.go(3.0)
    machine.world.laws.check()
    assert live(machine, "a.example.com") == [1, 2, 2]
