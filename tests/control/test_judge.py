"""Which finding holds on a node: several real nodes, over a store in memory and on virtual clocks."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dnsd.control import judge
from dnsd.control.standing import Measured
from dnsd.registry.models import Judged, Verdict
from dnsd.steer.health import State
from tests.control.fleet_samples import SERVICE, endpoint, gone, service
from tests.control.judging import CHECK, World

pytestmark = pytest.mark.asyncio
ALL = ("e0", "e1", "e2", "e3")


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.end()


async def three(world: World, endpoints: int = 4, **more: object) -> None:
    world.fleet(endpoints, **more)
    for name in "abc":
        world.add(name, group=name)
    await world.pass_s(3)
    assert all(node.judge.together for node in world.nodes.values())


async def test_what_dies_is_left_out_by_all_at_once_and_comes_back(world: World) -> None:
    await three(world)
    assert world.answers() == ALL
    world.see([1], False)
    await world.pass_s(1.7)
    assert world.answers() == ("e0", "e2", "e3")
    world.see([1], True)
    await world.pass_s(2)
    assert world.answers() == ALL
    assert len({world[name].measured("e1") for name in "abc"}) == 1, "the ramp too"
    assert world["a"].measured("e1").share < 1000
    await world.pass_s(12)
    assert world["a"].measured("e1") == Measured()


async def test_what_one_of_three_does_not_reach_is_up(world: World) -> None:
    await three(world)
    world.see([1], False, "a")
    await world.pass_s(3)
    assert world.answers() == ALL
    assert world["a"].health.measured(SERVICE, "e1", 1).state is State.DOWN
    assert world["a"].judge.vantages(SERVICE, "e1", 1)["vantages"]["a"] == {
        "state": "down", "doubt": False, "why": "timeout"}


async def test_nodes_answer_alike_whatever_they_see_themselves(world: World) -> None:
    await three(world)
    chance = random.Random(4)
    for _ in range(30):
        world.see([chance.randrange(4)], chance.random() < 0.5, chance.choice("abc"))
        await world.pass_s(0.5)
        views = [node.views.resolved[SERVICE].view for node in world.nodes.values()]
        assert views[0] == views[1] == views[2]


async def test_who_does_not_probe_goes_by_what_others_find(world: World) -> None:
    """Together, and when the store is away: it has nothing better to go by."""
    await three(world)
    world.add("d", probes=False)
    world.see([1], False)
    await world.pass_s(3)
    assert world["d"].judge.together
    assert world.answers() == ("e0", "e2", "e3")
    assert world.builder() != "d"
    world.store.away = True
    await world.pass_s(30, 0.25)
    assert not world["d"].judge.together
    assert world["d"].answers()[SERVICE] == ("e0", "e2", "e3")
    await world.remove("d")
    world.store.away = False
    world.add("d", probes=False)
    world["d"].publish()
    assert world["d"].history == [{SERVICE: ("e0", "e2", "e3")}], "from its first answer on"


async def test_without_verdicts_who_does_not_probe_takes_all_to_be_up(world: World) -> None:
    world.fleet(2)
    world.add("d", probes=False)
    await world.pass_s(5)
    assert not world["d"].judge.together
    assert world.answers() == ("e0", "e1")
    assert list(world["d"].judge.conditions()) == []


async def test_the_store_goes_and_what_dies_then_is_gone_in_time(world: World) -> None:
    await three(world)
    world.store.away = True
    await world.pass_s(1)
    world.see([1], False)
    await world.pass_s(1.7)
    assert not world["a"].judge.together
    assert world.answers() == ("e0", "e2", "e3")
    await world.pass_s(5)
    assert list(world["a"].judge.conditions()) == ["health is judged by this node alone"]
    world.see([1], True)
    await world.pass_s(3)
    assert world.answers() == ALL
    world.see([2], False)
    await world.pass_s(2)
    world.store.away = False
    seen = [len(node.history) for node in world.nodes.values()]
    await world.pass_s(4)
    assert world["a"].judge.together
    assert world.answers() == ("e0", "e1", "e3")
    for node, before in zip(world.nodes.values(), seen, strict=True):
        assert all(one[SERVICE] == ("e0", "e1", "e3") for one in node.history[before:]), "nothing worse in between"


@pytest.mark.parametrize("late_s", [0.0, 0.3, 0.9])
async def test_what_died_while_the_store_was_away_is_not_answered_until_that_is_decided(
        world: World, late_s: float) -> None:
    """What was decided before is still in the store: until who builds has heard of it, it says that all is well."""
    await three(world)
    world.late_s = late_s
    world.store.away = True
    await world.pass_s(1)
    world.see([1], False)
    await world.pass_s(3)
    assert world.answers() == ("e0", "e2", "e3")
    seen = [len(node.history) for node in world.nodes.values()]
    world.store.away = False
    await world.pass_s(5)
    assert all(node.judge.together for node in world.nodes.values())
    assert world.answers() == ("e0", "e2", "e3")
    for node, before in zip(world.nodes.values(), seen, strict=True):
        assert all(one[SERVICE] == ("e0", "e2", "e3") for one in node.history[before:])


async def test_what_others_do_not_see_holds_no_node_back_for_long(world: World) -> None:
    await three(world)
    world.store.away = True
    await world.pass_s(1)
    world.see([1], False, "a")
    await world.pass_s(3)
    world.store.away, world["a"].follows = False, False  # or it would decide, before the others' votes are there again
    await world.pass_s(1)
    world["a"].follows = True
    await world.pass_s(1)
    assert [world[name].judge.together for name in "abc"] == [False, True, True]
    await world.pass_s(judge.REJOINS_S)
    assert world["a"].judge.together
    assert world.answers() == ALL


async def test_a_short_absence_of_the_store_does_not_bring_back_what_one_node_saw(world: World) -> None:
    """What was decided against this node's own view stands for some seconds, or each hiccup would show it."""
    await three(world)
    world.see([1], False, "a")  # cut off from it, by itself
    world.see([2], False, "b", "c")  # dead, but a has a way
    await world.pass_s(4)
    assert world.answers() == ("e0", "e1", "e3")
    for _ in range(3):
        world.store.away = True
        await world.pass_s(2)
        assert not world["a"].judge.together
        assert world.answers() == ("e0", "e1", "e3")
        world.store.away = False
        await world.pass_s(3)
        assert world["a"].judge.together
    assert all(one[SERVICE] == ("e0", "e1", "e3") for one in world["a"].history[-5:])
    world.store.away = True
    await world.pass_s(judge.STANDS_S + 1)
    assert world["a"].answers()[SERVICE] == ("e0", "e2", "e3"), "then its own eyes are all there is"


async def test_what_changes_while_alone_holds_at_once_whatever_was_decided(world: World) -> None:
    await three(world)
    world.see([1], False)
    await world.pass_s(3)
    world.store.away = True
    await world.pass_s(1)
    world.see([1], True)
    world.see([0], False)
    await world.pass_s(2.5)
    assert world.answers() == ("e1", "e2", "e3")


async def test_doubt_shows_while_alone(world: World) -> None:
    await three(world)
    ttl = world["a"].views.resolved[SERVICE].view.ttl
    world.store.away = True
    await world.pass_s(1)
    world.see([1], False)
    await world.pass_s(0.7)
    assert world["a"].views.resolved[SERVICE].view.ttl < ttl


async def test_one_that_is_cut_off_abstains_and_leaves_all_as_it_was(world: World) -> None:
    await three(world)
    world["a"].cut_off = True
    await world.pass_s(4)
    assert world["a"].votes.blind
    assert world.answers() == ALL
    assert "cut off" in next(iter(world["a"].judge.conditions()))
    world.store.away = True
    await world.pass_s(30, 0.25)
    assert world.answers() == ALL, "also alone: there were others"
    world["a"].cut_off = False
    await world.pass_s(3)
    assert not world["a"].votes.blind
    world.store.away = False
    await world.pass_s(3)
    assert world.answers() == ALL


@pytest.mark.parametrize("nodes", [1, 2, 4])
async def test_most_of_a_fleet_that_dies_is_left_out_as_far_as_the_limits_go(world: World, nodes: int) -> None:
    """Three of four at two sites: each node takes itself to be cut off, but all of them see the same."""
    world.fleet(4)
    world.add(*(f"n{number}" for number in range(nodes)))
    await world.pass_s(3)
    world.see([1, 2, 3], False)
    await world.pass_s(6)
    left = world.answers()
    assert "e0" in left
    assert len(left) < 4
    await world.pass_s(70, 0.25)
    assert world.answers() == ("e0",)


async def test_one_of_two_is_cut_off_and_the_other_still_sees_what_dies(world: World) -> None:
    """But what only the one that is cut off misses, stays."""
    world.fleet(6)
    world.add("a", "b")
    await world.pass_s(3)
    world["a"].cut_off = True
    await world.pass_s(4)
    assert world["a"].votes.blind
    assert len(world.answers()) == 6
    world.see([1], False)
    await world.pass_s(3)
    assert world.answers() == ("e0", "e2", "e3", "e4", "e5")


async def test_nine_of_ten_are_cut_off(world: World) -> None:
    """Those nine agree with each other on everything, and are not believed."""
    world.fleet(6)
    world.add(*(f"n{number}" for number in range(10)))
    await world.pass_s(3, 0.1)
    for number in range(9):
        world[f"n{number}"].cut_off = True
    await world.pass_s(8, 0.1)
    assert len(world.answers()) == 6


async def test_a_lone_node_believes_its_eyes(world: World) -> None:
    world.fleet(4)
    world.add("a")
    await world.pass_s(2)
    assert world["a"].judge.together
    world.see([0], False)
    await world.pass_s(2)
    assert world.answers() == ("e1", "e2", "e3")
    world.store.away = True
    await world.pass_s(1)
    world.see([0], True)
    await world.pass_s(3)
    assert world.answers() == ALL


async def test_what_limits_hold_is_let_go_in_time_when_the_store_goes(world: World) -> None:
    """Together the builder knows when there is room; alone each node must, though nothing it sees has changed."""
    world.fleet(6, sites=("s0", "s1", "s2", "s3", "s4", "s5"))
    world.add("a")
    await world.pass_s(3)
    world.see([0, 1, 2], False)
    await world.pass_s(3)
    assert len(world.answers()) == 4, "two of six in a minute"
    world.store.away = True
    await world.pass_s(70, 0.25)
    assert world.answers() == ("e3", "e4", "e5")


async def test_nothing_is_kept_of_endpoints_that_are_gone(world: World) -> None:
    world.fleet(2)
    world.add("a")
    await world.pass_s(2)
    for number in range(20, 60):
        new = endpoint(f"x{number}", f"192.0.2.{number}")
        world.put(new)
        await world.pass_s(0.6)
        world.drop(new)
        await world.pass_s(0.2)
    node = world["a"]
    assert {id_ for id_, _ in node.judge._last[SERVICE]} == {"e0", "e1"}
    assert len(node.votes.own) == len(node.health._asked) == 2
    verdict = node.fleet.verdicts[SERVICE]
    assert len(verdict.up) + len(verdict.cells) == 2
    world.drop(endpoint("e0", "192.0.2.0"), endpoint("e1", "192.0.2.1"), service())
    await world.pass_s(1)
    for kept in (node.judge._last, node.judge._cells, node.builder._due, node.votes.own, node.fleet.verdicts,
                 world.store.verdicts, node.health._assumed, node.health._removed.dump(), node.builder.arrivals._met):
        assert not kept


async def test_what_is_not_decided_yet_goes_by_what_is_seen_here(world: World) -> None:
    await three(world)
    world.nodes["a"].builder.advisers = []
    for node in world.nodes.values():
        node.follows = False  # nobody can build
    await world.pass_s(0.3)
    world.put(endpoint("new", "192.0.2.9"))
    await world.pass_s(1.1)
    assert "new" in world["a"].answers()[SERVICE]


async def test_nobody_builds_for_long_and_each_judges_alone(world: World) -> None:
    await three(world)
    for node in world.nodes.values():
        node.health.schedule, node.wanted = None, {}  # as if their probers had been taken from them
    await world.pass_s(1.5)
    assert world["a"].judge.together, "another may take over"
    await world.pass_s(4)
    assert not any(node.judge.together for node in world.nodes.values())


async def test_an_epoch_that_is_not_followed_is_not_judged_by(world: World) -> None:
    await three(world)
    world["a"].follows = False
    await world.pass_s(1)
    assert [world[name].judge.together for name in "abc"] == [False, True, True]
    world["a"].follows = True
    await world.pass_s(1)
    assert world["a"].judge.together


async def test_nothing_is_waited_for_of_nodes_that_serve_another_state(world: World) -> None:
    """Two of three hold off what the registry has, and know nothing of what is in it: the third sees for itself."""
    await three(world)
    things = [one.value for one in world.objects.values() if one.value is not None]
    for name in "bc":
        world[name].follows = False
        world[name].votes.elsewhere = lambda: True
        world[name].told(*gone(world.store.version, *things))
    await world.pass_s(2)
    world.see([0], False, "a")
    await world.pass_s(2.1)
    assert "e0" not in world["a"].answers()[SERVICE]


async def test_an_emptied_store_takes_nothing_away(world: World) -> None:
    await three(world)
    world.see([1], False)
    await world.pass_s(3)
    services = world.store.services
    world.store.empty(8)
    world.store.decided, world.store.services = world._decided, services
    before = {name: len(world[name].history) for name in "abc"}
    await world.pass_s(5)
    assert world.answers() == ("e0", "e2", "e3")
    for name in "abc":
        assert {one[SERVICE] for one in world[name].history[before[name]:]} <= {("e0", "e2", "e3")}


async def test_a_store_that_lags_or_flaps_shows_nothing_worse(world: World) -> None:
    await three(world)
    world.see([1], False)
    await world.pass_s(3)
    chance = random.Random(5)
    before = {name: len(world[name].history) for name in "abc"}
    for _ in range(60):
        world.store.away = not world.store.away
        await world.pass_s(chance.choice([0.1, 0.3, 0.6, 1.2, 2.5]))
    for name in "abc":
        assert {one[SERVICE] for one in world[name].history[before[name]:]} <= {("e0", "e2", "e3")}


@pytest.mark.parametrize("off", [15.0, -15.0, 120.0, -120.0])
async def test_a_jump_of_the_stores_clock_changes_no_answer(world: World, off: float) -> None:
    await three(world)
    world.see([1], False, "b", "c")
    world.see([2], False, "a")
    await world.pass_s(4)
    before = {name: len(world[name].history) for name in "abc"}
    world.store_off = off
    await world.pass_s(6)
    for name in "abc":
        assert {one[SERVICE] for one in world[name].history[before[name]:]} <= {("e0", "e2", "e3")}
    assert all(node.judge.together for node in world.nodes.values())


async def test_nodes_come_and_go_among_many_and_nothing_flaps(world: World) -> None:
    """Who watches what moves all the time; what is dead stays dead, what lives stays."""
    world.fleet(8, sites=("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"))
    for number in range(6):
        world.add(f"n{number}", group=f"g{number % 2}")
    await world.pass_s(4)
    world.see([3], False)
    await world.pass_s(3)
    left = tuple(f"e{number}" for number in range(8) if number != 3)
    assert world.answers() == left
    chance = random.Random(6)
    for number in range(6, 22):
        await world.remove(chance.choice(list(world.nodes)))
        world.add(f"n{number}", group=f"g{number % 2}")
        world.see([3], False)
        before = {name: len(node.history) for name, node in world.nodes.items()}
        await world.pass_s(chance.choice([0.3, 1.0, 3.0, 11.0]))
        for name, node in world.nodes.items():
            assert {one[SERVICE] for one in node.history[before[name]:]} <= {left}, (number, name)
    await world.pass_s(12)
    assert all(len(node.wanted) < 8 for node in world.nodes.values()), "three of six watch each"


async def test_a_check_that_is_changed_keeps_what_was_found(world: World) -> None:
    await three(world)
    world.see([1], False)
    await world.pass_s(3)
    before = {name: len(world[name].history) for name in "abc"}
    world.put(service(check={**CHECK, "path": "/other"}))
    await world.pass_s(3)
    for name in "abc":
        assert {one[SERVICE] for one in world[name].history[before[name]:]} == {("e0", "e2", "e3")}
    world.put(service(check="none"))
    await world.pass_s(1)
    assert world.answers() == ALL
    assert world.store.verdicts == {}
    world.put(service(check=CHECK))
    await world.pass_s(3)
    assert world.answers() == ("e0", "e2", "e3")


async def test_a_restart_goes_by_what_was_decided(world: World) -> None:
    """Not by what it knew ten minutes ago, nor by knowing nothing."""
    await three(world)
    world.see([1], False)
    await world.pass_s(3)
    for name in "abc":
        await world.remove(name)
        world.add(name, group=name)
        world.see([1], False, name)
        await world.pass_s(4)
        assert {one[SERVICE] for one in world[name].history} == {("e0", "e2", "e3")}
        assert world.answers() == ("e0", "e2", "e3")


async def test_two_nodes_and_one_restarts(world: World) -> None:
    """The other's word alone must not be undone by who has just come and assumes that all is well."""
    world.fleet(3, check={**CHECK, "initial": "up"})
    world.add("a", "b")
    await world.pass_s(3)
    world.see([1], False)
    await world.pass_s(3)
    assert world.answers() == ("e0", "e2")
    await world.remove("b")
    world.add("b")
    world.see([1], False)
    before = len(world["a"].history)
    await world.pass_s(4)
    assert {one[SERVICE] for one in (*world["a"].history[before:], *world["b"].history)} == {("e0", "e2")}


async def test_many_in_one_region_and_one_in_another(world: World) -> None:
    """Each region has one vote: the many do not outvote the one, nor does the one alone take anything away."""
    world.fleet(4)
    for name in "abc":
        world.add(name, group="eu")
    world.add("far", group="oc")
    await world.pass_s(4)
    world.see([1], False, "a", "b", "c")
    world.see([2], False, "far")
    await world.pass_s(4)
    both = [name for name in ALL if name in world.answers()]
    assert {"e0", "e2", "e3"} <= set(both)
    world.see([1], False)
    await world.pass_s(4)
    assert "e1" not in world.answers()


async def test_a_target_that_one_of_two_may_not_probe_is_judged_by_the_other(world: World) -> None:
    world.fleet(3, check={**CHECK, "initial": "up"})
    world.add("a", "b")
    world["a"].refused = {f"http 192.0.2.{number}:8080" for number in range(3)}
    for target in list(world["a"].wanted):
        world["a"].forget(target, SERVICE)
    world.put(service(check={**CHECK, "initial": "up", "path": "/x"}))
    await world.pass_s(3)
    world.see([1], False)
    await world.pass_s(3)
    assert world.answers() == ("e0", "e2")


async def test_a_verdict_that_nobody_can_place_is_not_gone_by(world: World) -> None:
    """Left over from another check: its places are not those of today."""
    world.fleet(2)
    world.add("a")
    await world.pass_s(2)
    node = world["a"]
    node.fleet.verdicts[SERVICE] = Verdict(
        service=SERVICE, at_ms=1, cells={"e0/A@0123.4567": Judged(3, 3), "e0/A@": Judged(3, 3)})
    assert node.measured("e0").state is State.UP


async def test_described(world: World) -> None:
    await three(world)
    told = world["a"].judge.described()
    assert (told["together"], told["blind"], told["verdicts"]) == (True, False, 1)
    assert told["builder"] in "abc"
    assert set(told["nodes"]) == {"a", "b", "c"}
    assert world["a"].judge.vantages("nothing.example", "e", 1)["vantages"] == {}
    world.store.away = True
    await world.pass_s(1)
    assert world["a"].judge.described()["builder"] == ""
