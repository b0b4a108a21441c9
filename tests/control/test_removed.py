"""A minute of the limits is a minute, whatever the clocks of those who decide say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dnsd.control import healthfile
from dnsd.control.removed import Arrivals, Removed, carried, moved
from dnsd.control.resolve import PAST
from dnsd.registry.models import Verdict
from dnsd.steer.limits import Removal
from tests.control.fleet_samples import NOW, endpoint
from tests.control.judging import World
from tests.control.rig import FakeClock

HOUR_S = 3600


class Jumping(FakeClock):
    """A wall clock that may be off by `off_ms`."""

    off_ms = 0

    def unix_ms(self) -> int:
        return self.ms + self.off_ms


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.add("x", "y", "z")
    made.fleet(9, sites=("one", "two", "three"))
    await made.pass_s(4)
    yield made
    await made.end()


def out(world: World, *names: str) -> int:
    """How many of the nine nodes leave out; all these agree."""
    [found] = {9 - len(world[name].answers()["api.example.com"]) for name in names or world.nodes}
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 45, -45])
async def test_the_builders_clock_jumps(world: World, off_s: float) -> None:
    world.see(range(3), False)
    await world.pass_s(5)
    assert out(world) == 3
    world[world.builder()].clock.off = off_s
    world.see(range(6), False)
    await world.pass_s(50)
    assert out(world) == 3, "a minute has not passed"
    await world.pass_s(8)
    assert out(world) == 6, "it has"


@pytest.mark.asyncio
@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 45, -45])
async def test_another_clock_goes_on_from_what_was_decided(world: World, off_s: float) -> None:
    for name in world.nodes.keys() - {world.builder()}:
        world[name].clock.off = off_s
    world.see(range(3), False)
    await world.pass_s(5)
    assert out(world) == 3
    await world.remove(world.builder())
    world.see(range(6), False)
    await world.pass_s(50)
    assert out(world) == 3, "a minute has not passed"
    await world.pass_s(8)
    assert out(world) == 6, "it has"


@pytest.mark.asyncio
@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 45, -45])
@pytest.mark.parametrize("before", [False, True])
async def test_a_node_that_is_alone_has_no_more_room_by_its_clock(world: World, off_s: float, before: bool) -> None:
    node = world[sorted(world.nodes.keys() - {world.builder()})[0]]
    node.clock.off = off_s if before else 0
    world.see(range(3), False)
    await world.pass_s(5)
    world.store.away = True
    await world.pass_s(3)
    node.clock.off = off_s
    world.see(range(6), False)
    await world.pass_s(45)
    assert out(world, node.name) == 3, "a minute has not passed"
    await world.pass_s(12)
    assert out(world, node.name) == 6, "it has"


@pytest.mark.asyncio
async def test_what_is_not_decided_yet_was_taken_when_it_was_seen_here(world: World) -> None:
    """The last decision is old, and what this node takes away of what is new is not as old as that."""
    for node in world.nodes.values():
        node.builder.fence = lambda: None  # somebody builds, but comes to nothing
    await world.pass_s(65)
    world.put(endpoint("new", "192.0.2.9", site="one"))
    await world.pass_s(2)
    world.see([9], False)
    await world.pass_s(3)
    assert all(node.judge.together for node in world.nodes.values())
    assert {len(node.answers()["api.example.com"]) for node in world.nodes.values()} == {9}
    world.store.away = True
    world.see(range(6), False)
    await world.pass_s(5)
    assert {len(node.answers()["api.example.com"]) for node in world.nodes.values()} == {6}, "one and three of ten"


def test_what_is_remembered_while_others_decide() -> None:
    old, new = NOW - 61_000, NOW - 10_000
    decided = {1: (Removal("d", 100),), 1 | PAST: (Removal("p", 90),)}
    found = {1: (Removal("d", 100), Removal("here", 100), Removal("now", 100)), 1 | PAST: (Removal("p", 90),)}
    mine = {1: (Removal("here", new), Removal("back", new), Removal("long", old)), 28 | PAST: (Removal("six", new),)}
    kept = carried(found, decided, mine, ahead_ms=7, now_ms=NOW)
    assert {key: some for key, some in kept.items() if some} == {
        1: (Removal("d", 107), Removal("here", new), Removal("now", NOW)),
        1 | PAST: (Removal("p", 97), Removal("back", new)), 28 | PAST: (Removal("six", new),)}
    assert carried({}, {}, {}, ahead_ms=7, now_ms=NOW) == {}


def test_times_move_with_the_clock_that_they_are_by() -> None:
    clock = Jumping()
    kept, found = Removed(clock), {1: (Removal("a", NOW - 5),), 28: ()}
    assert kept.keep("s", found)
    assert not kept.keep("s", found)
    assert kept.of("s") == {1: (Removal("a", NOW - 5),)}
    clock.off_ms = 3_600_000
    assert kept.of("s") == {1: (Removal("a", NOW - 5 + 3_600_000),)} == kept.dump()["s"]
    assert not kept.keep("s", kept.of("s"))
    clock.off_ms = 300  # what is set back by less than that is noise
    assert kept.of("s") == {1: (Removal("a", NOW - 5 + 300),)}
    clock.off_ms = 0
    assert kept.of("s") == {1: (Removal("a", NOW - 5 + 300),)}
    assert kept.keep("s", {})
    assert kept.of("s") == {}
    assert not kept.keep("s", {1: ()})


def test_a_successor_does_not_know_how_long_it_was_away() -> None:
    clock = Jumping()
    clock.off_ms = 45_000
    kept = Removed(clock)
    kept.restore({"s": {1: (Removal("a", NOW - 5),)}}, NOW)
    assert kept.of("s") == {1: (Removal("a", clock.unix_ms() - 5),)}
    kept.drop("s")
    assert kept.dump() == {}


def test_when_a_verdict_came_here() -> None:
    clock = Jumping()
    arrivals = Arrivals(clock)
    near, far = (Verdict(service=name, at_ms=NOW + ms) for name, ms in (("near", -400), ("far", 7_000)))
    assert arrivals.ahead_ms(near) == 0
    assert arrivals.ahead_ms(far) == -7_000
    clock.ms += 60_000
    assert arrivals.ahead_ms(near) == 0
    assert arrivals.ahead_ms(far.model_copy()) == -7_000, "it is the same one"
    clock.off_ms = 30_000
    assert arrivals.ahead_ms(near) == 30_400
    arrivals.forget("near")
    arrivals.wrote(near.model_copy(), clock.monotonic() - 90)  # its own, known since it was decided
    assert arrivals.ahead_ms(near) == 0, "the clock is right, and a minute and a half has passed"
    arrivals.forget("near")
    assert arrivals.ahead_ms(near) == 90_400


def test_what_this_node_decides_takes_a_while_to_come_back() -> None:
    """Until then what held before is as old as it is; it was taken for new, and ramps began anew each time."""
    clock = Jumping()
    arrivals = Arrivals(clock)
    before = Verdict(service="s", at_ms=NOW)
    assert arrivals.ahead_ms(before) == 0
    clock.ms += 3_000
    for number in range(1, 4):  # several on their way
        arrivals.wrote(Verdict(service="s", at_ms=clock.unix_ms()), clock.monotonic())
        clock.ms += 600
        assert arrivals.ahead_ms(before) == 0, number
    mine = Verdict(service="s", at_ms=NOW + 3_000)
    assert arrivals.ahead_ms(mine) == 0, "come back at last, by way of the store"
    clock.off_ms = 20_000
    assert arrivals.ahead_ms(mine) == arrivals.ahead_ms(before) == 20_000


def test_nothing_is_moved_by_nothing() -> None:
    removals = {1: (Removal("a", 1),)}
    assert moved(removals, 0) is removals
    assert moved(removals, -1) == {1: (Removal("a", 0),)}


def test_the_file_has_them_by_the_clock_of_its_time(tmp_path: Path) -> None:
    clock = Jumping()
    kept = Removed(clock)
    kept.keep("s", {1: (Removal("a", NOW),)})
    clock.off_ms = 90_000
    path = tmp_path / healthfile.FILE
    path.write_bytes(healthfile.octets(clock.unix_ms(), (), kept.dump(), {}))
    found = healthfile.read(path)
    assert found is not None
    assert found.removals == {"s": {1: (Removal("a", found.at_ms),)}}
