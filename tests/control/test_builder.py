"""What is decided for all: votes to verdicts, when, and that deciding comes to rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from dnsd.control import builder
from dnsd.control.builder import cells_of, measured_of, removals_of
from dnsd.control.health import Said
from dnsd.control.standing import Measured
from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.models import Judged, Verdict
from dnsd.steer.health import Rules, State
from dnsd.steer.limits import Removal
from dnsd.steer.quorum import Vote
from tests.control.fleet_samples import SERVICE, endpoint, service
from tests.control.judging import CHECK, Node, World

pytestmark = pytest.mark.asyncio
U, UP, SLOW, DOWN = State.UNKNOWN, State.UP, State.DEGRADED, State.DOWN


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.end()


class Ballots:
    """Votes as they are put in: the same for every target."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.said: dict[str, Said] = {}

    def of(self, name: str) -> Mapping[str, Vote]:
        now_ms = self.node.clock.unix_ms()
        return {node: Vote(one.state, now_ms) for node, one in self.said.items()}

    def told(self, name: str) -> Mapping[str, Said]:
        return self.said


class Stand:
    """One builder that always may, and the votes it is given."""

    def __init__(self, world: World, **more: Any) -> None:
        self.world = world
        world.fleet(1, sites=("s",), **more)
        self.node = world.nodes["n"] = Node(world, "n")
        world.load(self.node)
        self.node.publish()
        self.builder, self.votes = self.node.builder, Ballots(self.node)
        self.builder.votes = self.votes
        self.builder.fence = lambda: 1
        world.store._builder, world.store._fence = "n", 1

    async def decide(self, seconds: float = 0.0, **states: State | Said) -> Judged:
        """One more turn, after so long, with these votes."""
        self.world.clock.passed += seconds
        self.votes.said = {node: Said(one) if isinstance(one, State) else one for node, one in states.items()}
        self.builder.touch((SERVICE,))
        await self.builder.turn()
        [cell] = cells_of(self.world.store.verdicts[SERVICE]).values()
        return cell


@pytest.mark.parametrize(("before", "votes", "after"), [
    (None, (), U), (None, (U, U), U), (None, (UP, U, U), UP), (None, (DOWN, U, U), U), (None, (DOWN, DOWN, U), DOWN),
    (None, (DOWN,), DOWN), (None, (UP, UP, SLOW), UP), (None, (SLOW, SLOW, UP), SLOW),
    ((UP, UP), (), UP), ((UP, UP), (U, U), UP), ((UP, UP), (DOWN, U), UP), ((UP, UP), (DOWN, DOWN), DOWN),
    ((UP, UP), (DOWN, UP), UP), ((UP, UP), (DOWN, DOWN, UP), DOWN), ((UP, UP), (DOWN, UP, UP), UP),
    ((DOWN, DOWN), (), DOWN), ((DOWN, DOWN), (U, U), DOWN), ((DOWN, DOWN), (DOWN, U), DOWN),
    ((DOWN, DOWN), (UP, U), UP), ((DOWN, DOWN), (UP, DOWN, DOWN), DOWN), ((SLOW, SLOW), (), SLOW),
])
async def test_votes_and_what_was_decided_before(
    world: World, before: tuple[State, ...] | None, votes: tuple[State, ...], after: State) -> None:
    stand = Stand(world)
    if before is not None:
        await stand.decide(**{f"n{number}": state for number, state in enumerate(before)})
    found = await stand.decide(**{f"n{number}": state for number, state in enumerate(votes)})
    assert (found.state, found.base) == (after, after)


@pytest.mark.parametrize(("percent", "down", "after"), [
    (50, 1, UP), (50, 2, UP), (50, 3, DOWN), (18, 3, UP), (18, 4, DOWN), (100, 2, DOWN), (100, 1, UP), (0, 4, UP)])
async def test_the_services_share(world: World, percent: int, down: int, after: State) -> None:
    stand = Stand(world, check={**CHECK, "min_up_percent": percent})
    await stand.decide(a=UP, b=UP)
    found = await stand.decide(**{f"n{number}": DOWN if number < down else UP for number in range(4)})
    assert found.state == after


async def test_a_recovery_is_a_ramp_in_eighths_and_all_decided(world: World) -> None:
    stand = Stand(world)
    await stand.decide(a=UP, b=UP)
    await stand.decide(a=DOWN, b=DOWN)
    shares = [(await stand.decide(1.0, a=UP, b=UP)).share for _ in range(12)]
    assert shares == [125, 125, 250, 375, 500, 625, 625, 750, 875, 1000, 1000, 1000]


async def test_the_ramp_goes_on_without_anybody_touching_it(world: World) -> None:
    stand = Stand(world)
    for votes in ({"a": UP}, {"a": DOWN}, {"a": UP}):
        await stand.decide(1.0, **votes)
    writes = world.writes
    for _ in range(300):
        world.clock.passed += 0.05
        await stand.builder.turn()
    assert world.writes - writes == 7, "one for each eighth, and not one more"
    assert stand.builder._due == {}


async def test_a_first_answer_is_no_ramp(world: World) -> None:
    stand = Stand(world)
    await stand.decide(a=U)
    assert (await stand.decide(a=UP)).share == 1000


async def test_doubt_and_reasons(world: World) -> None:
    stand = Stand(world)
    await stand.decide(a=UP, b=UP)
    found = await stand.decide(a=Said(UP, doubt=True, why="reset"), b=UP)
    assert (found.state, found.doubt, found.why) == (UP, True, "reset")
    found = await stand.decide(a=Said(DOWN, why="timeout"), b=Said(DOWN, why="timeout"), c=Said(DOWN, why="refused"))
    assert (found.state, found.doubt, found.why) == (DOWN, False, "timeout")
    found = await stand.decide(a=UP, b=UP, c=Said(DOWN, why="refused"))
    assert (found.state, found.doubt, found.why) == (UP, False, "")


@pytest.mark.parametrize(("states", "proven"), [((DOWN,), False), ((UP, DOWN), True), ((SLOW, DOWN), True),
                                                ((U, DOWN), False), ((DOWN, UP, DOWN), True)])
async def test_whether_it_was_ever_up(world: World, states: tuple[State, ...], proven: bool) -> None:
    stand = Stand(world)
    found = [await stand.decide(a=state) for state in states][-1]
    assert (found.state, found.proven) == (DOWN, proven)


async def test_what_is_decided_twice_is_written_once(world: World) -> None:
    stand = Stand(world)
    await stand.decide(a=UP)
    for _ in range(5):
        await stand.decide(1.0, a=UP)
    assert (world.writes, stand.builder.decided) == (1, 1)


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
async def test_a_clock_that_jumps_neither_stops_a_ramp_nor_writes_for_ever(world: World, jump: float) -> None:
    stand = Stand(world)
    for votes in ({"a": UP}, {"a": DOWN}, {"a": UP}):
        await stand.decide(1.0, **votes)
    stand.node.clock.off = jump
    writes = world.writes
    for _ in range(300):
        world.clock.passed += 0.05
        await stand.builder.turn()
    [cell] = cells_of(world.store.verdicts[SERVICE]).values()
    assert cell.share == 1000
    assert world.writes - writes <= 9


async def test_removals_of_a_clock_that_was_ahead_are_written_once(world: World) -> None:
    """The former builder's clock was ahead: what it removed lies in the future."""
    world.fleet(4)
    world.add("a")
    await world.pass_s(2)
    node = world["a"]
    node.clock.off = 5
    world.see([1], False)
    await world.pass_s(2)
    node.clock.off = 0
    writes = world.writes
    await world.pass_s(10)
    assert world.writes - writes <= 2
    removed = removals_of(world.store.verdicts[SERVICE])[1]
    assert [one.id for one in removed] == ["e1"]
    assert removed[0].at_ms <= node.clock.unix_ms()


async def test_deciding_comes_to_rest(world: World) -> None:
    """Each decision is an event, which is resolved, which is looked at again: and that must be all."""
    world.fleet(6)
    world.add("a", "b", "c")
    await world.pass_s(3)
    world.see([1, 2], False)
    world.see([3], False, "a")
    await world.pass_s(6)
    writes, published = world.writes, world["a"].published
    await world.pass_s(20)
    assert (world.writes, world["a"].published) == (writes, published)


async def test_a_builder_that_stops_between_deciding_and_writing_is_refused(world: World) -> None:
    world.fleet(3)
    world.add("a", "b", "c")
    await world.pass_s(3)
    old = world.builder()
    fence = world[old].votes.presence.fence  # type: ignore[union-attr]
    world[old].stopped = True
    for task in world[old]._tasks:
        task.cancel()
    world.see([1], False)
    await world.pass_s(5)
    new = next(node.votes.presence.builder for name, node in world.nodes.items()  # type: ignore[union-attr]
               if name != old)
    assert new != old
    assert world[new].answers()[SERVICE] == ("e0", "e2")
    world[old].builder.fence = lambda: fence
    writes = world.writes
    with pytest.raises(Conflict):
        await world.store.decide(old, fence, [(SERVICE, None)])
    await world[old].builder.turn()
    assert world.writes == writes
    world[old].start()
    world[old].stopped = False
    await world.pass_s(3)
    assert world.answers() == ("e0", "e2")


async def test_a_store_that_fails_loses_no_decision(world: World) -> None:
    stand = Stand(world)
    await stand.decide(a=UP)
    world.store.away = True
    stand.votes.said = {"a": Said(DOWN)}
    stand.builder.touch((SERVICE,))
    await stand.builder.turn()
    assert list(stand.builder._touched) == [SERVICE]
    world.store.away = False
    await stand.builder.turn()
    [cell] = cells_of(world.store.verdicts[SERVICE]).values()
    assert cell.state == DOWN


async def test_all_is_decided_anew_by_who_begins_to_build_and_only_then_is_it_ready(world: World) -> None:
    stand = Stand(world)
    stand.votes.said = {"a": Said(UP)}
    stand.builder.fence = lambda: None
    stand.builder.touch((SERVICE,))
    await stand.builder.turn()
    assert (world.writes, stand.builder.ready) == (0, False)
    stand.builder.fence = lambda: 1
    world.store.away = True
    await stand.builder.turn()
    assert not stand.builder.ready
    world.store.away = False
    await stand.builder.turn()
    assert stand.builder.ready
    assert world.writes == 1
    stand.builder.fence = lambda: None
    await stand.builder.turn()
    assert not stand.builder.ready


async def test_a_verdict_of_what_is_gone_or_has_no_check_goes(world: World) -> None:
    stand = Stand(world)
    await stand.decide(a=UP)
    world.store.verdicts["gone.example.com"] = left = Verdict(service="gone.example.com", at_ms=1)
    stand.node.fleet.verdicts["gone.example.com"] = left
    stand.builder.fence = lambda: 2
    world.store._fence = 2
    await stand.builder.turn()
    assert set(world.store.verdicts) == {SERVICE}
    world.put(service(check="none"))
    stand.builder.touch((SERVICE,))
    await stand.builder.turn()
    assert world.store.verdicts == {}


async def test_a_service_that_was_never_resolved_here_is_decided_on_all_the_same(world: World) -> None:
    """A node whose zone files are faulty publishes nothing, and may build."""
    world.fleet(2)
    world.add("a", "b")
    world["a"].publish = lambda: None  # type: ignore[method-assign]
    await world.remove("b")
    await world.pass_s(3)
    assert world.builder() == "a"
    assert all("@" in place and not place.endswith("@") for place in world.store.verdicts[SERVICE].up)
    world.see([1], False)
    await world.pass_s(3)
    assert [cell.state for cell in world.store.verdicts[SERVICE].cells.values()] == [DOWN]


class Adviser:
    """Says that one endpoint is worse than it looks, or breaks."""

    def __init__(self, *, broken: str = "", silent: bool = False) -> None:
        self.broken, self.silent = broken, silent

    def speaks(self, service: str) -> bool:
        return not self.silent

    def advise(self, service: str, id_: str, type_: int, measured: Measured, now_ms: int) -> Measured:
        if service == self.broken:
            raise RuntimeError("broken")
        return measured._replace(state=DOWN, result="reports") if id_ == "e1" else measured


async def test_who_else_speaks_is_heard_once_for_all(world: World) -> None:
    world.fleet(3)
    for name in "ab":
        world.add(name)
        world[name].builder.advisers = [Adviser(silent=name == "b")]
    await world.pass_s(3)
    world[world.builder()].builder.advisers = [Adviser()]
    world[world.builder()].builder.touch((SERVICE,))
    await world.pass_s(1)
    assert world.answers() == ("e0", "e2")
    [cell] = world.store.verdicts[SERVICE].cells.values()
    assert (cell.state, cell.base, cell.why) == (DOWN, UP, "reports")


async def test_a_service_that_only_others_speak_of(world: World) -> None:
    world.fleet(3, check="none")
    world.add("a")
    world["a"].builder.advisers = [Adviser()]
    await world.pass_s(2)
    assert world.answers() == ("e0", "e2")
    world["a"].builder.advisers = []
    world["a"].builder.touch((SERVICE,))
    await world.pass_s(1)
    assert world.answers() == ("e0", "e1", "e2")
    assert world.store.verdicts == {}


async def test_one_service_that_cannot_be_decided_on_stops_no_other(
    world: World, caplog: pytest.LogCaptureFixture) -> None:
    other = "other.example.com"
    world.fleet(2)
    world.put(service(other, check=CHECK), endpoint("o", "192.0.2.77", service=other))
    stand = Stand(world)
    stand.votes.said = {"a": Said(UP)}
    stand.builder.advisers = [Adviser(broken=SERVICE)]
    stand.builder.touch((SERVICE, other))
    await stand.builder.turn()
    stand.builder.touch((SERVICE, other))
    await stand.builder.turn()
    assert set(world.store.verdicts) == {other}
    assert caplog.text.count("cannot be decided on") == 1
    assert stand.builder.ready


async def test_it_runs_and_looks_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(world)
    stand.votes.said = {"a": Said(UP)}
    monkeypatch.setattr(builder, "LOOK_S", 0.001)
    turns = 0
    turn = stand.builder.turn

    async def counted() -> None:
        nonlocal turns
        turns += 1
        await turn()

    monkeypatch.setattr(stand.builder, "turn", counted)
    task = asyncio.create_task(stand.builder.run())
    for _ in range(50):
        await asyncio.sleep(0.001)
        world.clock.passed += 0.1
        stand.builder.touch((SERVICE,))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert turns > 3
    assert world.writes == 1


async def test_many_services_leave_others_their_turns(world: World) -> None:
    stand = Stand(world)
    names = [f"s{number}.example.com" for number in range(450)]
    world.put(*(service(name, check=CHECK) for name in names),
              *(endpoint("e", "192.0.2.50", service=name) for name in names))
    stand.builder.touch(names)
    others = 0
    turning = asyncio.create_task(stand.builder.turn())
    while not turning.done():
        others += 1
        await asyncio.sleep(0)
    assert others > 450 / builder.BREATH
    assert set(world.store.verdicts) >= set(names)


@pytest.mark.parametrize(("judged", "now_ms", "measured"), [
    (Judged(1, 1), 5, Measured()),
    (Judged(3, 3, why="timeout"), 5, Measured(DOWN, result="timeout")),
    (Judged(3, 3, proven=False), 5, Measured(DOWN, proven=False)),
    (Judged(3, 1, share=125), 5, Measured()),
    (Judged(1, 1, back_ms=1000), 1000, Measured(share=125, step_ms=2250)),
    (Judged(1, 1, back_ms=1000), 11_000, Measured()),
    (Judged(0, 0, proven=False), 5, Measured(U)),
])
async def test_what_was_decided_as_a_measurement(judged: Judged, now_ms: int, measured: Measured) -> None:
    assert measured_of(judged, Rules(), now_ms) == measured


async def test_verdicts_taken_apart() -> None:
    assert (cells_of(None), removals_of(None)) == ({}, {})
    verdict = Verdict(service="s", at_ms=1, up=("a/A@x",), cells={"b/A@y": Judged(3, 3)}, removals={"1": (("b", 7),)})
    assert cells_of(verdict) == {"a/A@x": Judged(1, 1), "b/A@y": Judged(3, 3)}
    assert removals_of(verdict) == {1: (Removal("b", 7),)}


async def test_unavailable_is_no_fault_of_the_builder(world: World) -> None:
    stand = Stand(world)
    stand.votes.said = {"a": Said(UP)}
    world.store.away = True
    with pytest.raises(Unavailable):
        await world.store.decide("n", 1, [])
    await stand.builder.turn()
    assert not stand.builder.ready


@pytest.mark.parametrize("late_s", [0.0, 0.3, 0.6, 1.5])
async def test_a_builder_far_from_the_store_decides_as_one_beside_it(world: World, late_s: float) -> None:
    """What it decides comes back to it late. A drill's ramp of 2 s was at its first eighth after 60, decided again and
    again by itself."""
    world.fleet(1, check={**CHECK, "ramp_ms": 2000})
    world.add("a")
    await world.pass_s(3)
    world.late_s = late_s
    world.see([0], False)
    await world.pass_s(5)
    assert world["a"].measured("e0").state is DOWN
    world.see([0], True)
    writes = world.writes
    await world.pass_s(2 + 2 * late_s)
    assert world["a"].measured("e0").state is UP
    await world.pass_s(2.2)
    assert world["a"].measured("e0").share == 1000
    assert world.writes - writes <= 10, "no more than the eighths and the two changes"
