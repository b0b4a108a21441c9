"""What nodes say and hear of each other, over a store in memory and on virtual clocks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest

from dnsd.control import targets, votes
from dnsd.control.clock import Clock
from dnsd.control.health import Said
from dnsd.control.votes import UNSEEING, Votes
from dnsd.registry.errors import Unavailable
from dnsd.registry.sightings import News, Presence
from dnsd.steer.health import State
from dnsd.watch.schedule import Target
from dnsd.watch.target import Check
from tests.registry.sightings_double import Sightings

pytestmark = pytest.mark.asyncio
NOW = 1_900_000_000_000
UP, DOWN, DOUBT = Said(State.UP), Said(State.DOWN, why="timeout"), Said(State.UP, doubt=True, why="timeout")


class Time(Clock):
    """One clock for all; sleeping lasts until the test has moved it."""

    def __init__(self) -> None:
        self.passed, self.jumped = 0.0, 0.0

    def unix_ms(self) -> int:
        return NOW + round((self.passed + self.jumped) * 1000)

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        end = self.passed + seconds
        while self.passed < end - 1e-9:
            await asyncio.sleep(0)


class Nodes:
    """Some nodes on one store. `store_jumps` is how far its clock is off, in seconds."""

    def __init__(self, *names: str, group: str = "") -> None:
        self.clock, self.store_jumps = Time(), 0.0
        self.store = Sightings(lambda: self.clock.unix_ms() + round(self.store_jumps * 1000))
        self.told: dict[str, list[set[str]]] = {}
        self.divided: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.nodes = {name: self.make(name, group) for name in names}

    def make(self, name: str, group: str = "") -> Votes:
        made = Votes(self.store, node=name, group=group, clock=self.clock)
        self.told[name] = []
        made.changed = lambda names: self.told[name].append(set(names))
        made.watching = lambda: self.divided.append(name)
        return made

    def __getitem__(self, name: str) -> Votes:
        return self.nodes[name]

    async def start(self, *names: str) -> None:
        for name in names or self.nodes:
            self.tasks[name] = asyncio.create_task(self.nodes[name].run())
        await self.pass_s(1)

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self.tasks):
            task = self.tasks.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.passed += 0.05
            for _ in range(12):
                await asyncio.sleep(0)

    def states(self, node: str, name: str = "x") -> dict[str, State]:
        return {by: vote.state for by, vote in self[node].of(name).items()}


async def test_what_one_says_all_know() -> None:
    nodes = Nodes("a", "b", "c")
    await nodes.start()
    nodes["a"].say({"x": DOWN})
    nodes["b"].say({"x": DOUBT})
    await nodes.pass_s(0.1)
    for node in "abc":
        assert nodes.states(node) == {"a": State.DOWN, "b": State.UP, "c": State.UNKNOWN}
        assert nodes[node].told("x") == {"a": DOWN, "b": DOUBT}
    assert {"x"} in nodes.told["c"]
    nodes["a"].say({"x": Said(State.UNKNOWN)})
    await nodes.pass_s(0.1)
    assert nodes["c"].told("x") == {"b": DOUBT}
    assert nodes["a"].own == {}
    await nodes.stop()


async def test_who_has_nothing_new_to_say_only_says_that_it_is_there() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    await nodes.pass_s(1)
    before, calls = len(nodes.store.stream), nodes.store.calls.copy()
    nodes["a"].say({"x": Said(State.UNKNOWN)})
    await nodes.pass_s(4)
    assert len(nodes.store.stream) == before
    assert (nodes.store.calls - calls)["observe"] <= 2 * 4 / votes.BEAT_S + 4
    assert nodes["a"].of("x").keys() == {"a", "b"}
    await nodes.stop()


async def test_who_watches_nothing_is_no_observer() -> None:
    nodes = Nodes("a")
    nodes.nodes["blind"] = nodes.make("blind", UNSEEING)
    await nodes.start()
    nodes["a"].say({"x": DOWN})
    await nodes.pass_s(2)
    assert nodes["blind"].told("x") == {"a": DOWN}
    assert nodes.states("a") == {"a": State.DOWN}
    assert set(nodes.store.fields) == {"a"}, "nor does it leave anything in the store"
    assert nodes["a"].lonely
    await nodes.stop()


async def test_who_is_silent_is_gone_with_its_votes_and_comes_back_with_them() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["b"].say({"x": DOWN})
    await nodes.pass_s(1)
    await nodes.stop("b")
    nodes.told["a"].clear()
    await nodes.pass_s(2.5)
    assert nodes.states("a") == {"a": State.UNKNOWN, "b": State.DOWN}
    await nodes.pass_s(1)
    assert nodes.states("a") == {"a": State.UNKNOWN}
    assert {"x"} in nodes.told["a"]
    assert nodes["a"].watchers == ("a", "b"), "a restart moves nothing"
    await nodes.pass_s(7)
    assert (nodes["a"].watchers, nodes.divided[-1]) == (("a",), "a")
    assert not nodes["a"].lonely, "it may come back"
    await nodes.start("b")
    assert nodes.states("a") == {"a": State.UNKNOWN, "b": State.DOWN}
    await nodes.stop()


async def test_who_stood_still_for_a_minute_says_everything_again() -> None:
    """The store has forgotten its votes, and all the others have: it had no failed call to tell it."""
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["b"].say({"x": DOWN})
    await nodes.pass_s(3)
    await nodes.stop("b")
    await nodes.pass_s(65)
    assert "b" not in nodes.store.fields
    assert nodes["a"].described().keys() == {"a"}
    assert not nodes["a"]._others.keys() | nodes["a"]._places.keys() | nodes["a"]._taken_s.keys(), "nothing is left"
    await nodes.start("b")
    assert nodes.states("a") == {"a": State.UNKNOWN, "b": State.DOWN}
    assert "b" in nodes.store.fields
    await nodes.stop()


async def test_who_comes_between_a_word_and_its_keeping_hears_it() -> None:
    """Votes are kept whole once a second; what was said since then must not be lost on who starts just then."""
    nodes = Nodes("a")
    await nodes.start()
    await nodes.pass_s(2)
    nodes["a"].say({"y": UP})
    await nodes.pass_s(0.1)
    nodes["a"].say({"x": DOWN})
    await nodes.pass_s(0.1)
    nodes.nodes["late"] = nodes.make("late")
    await nodes.stop("a")  # and it does not get to keep them
    task = asyncio.create_task(nodes["late"].run())
    nodes.tasks["late"] = task
    await nodes.pass_s(0.2)
    assert nodes["late"].told("x") == {"a": DOWN}
    await nodes.stop()


async def test_a_word_that_is_lost_is_noticed() -> None:
    """The stream may be cut while a node stands still."""
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"y": UP})
    await nodes.pass_s(2)
    await nodes.stop("b")
    nodes["a"].say({"x": DOWN})
    await nodes.pass_s(2)
    nodes.store.stream.clear()
    await nodes.start("b")
    assert nodes["b"].told("x") == {}, "so far it cannot know"
    nodes["a"].say({"z": UP})
    await nodes.pass_s(2)
    assert nodes["b"].told("x") == {"a": DOWN}
    assert nodes["b"].told("z") == {"a": UP}
    assert nodes["b"].synced
    await nodes.stop()


async def test_a_word_comes_but_once() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": DOWN})
    await nodes.pass_s(0.2)
    nodes["a"].say({"x": UP})
    await nodes.pass_s(2)
    nodes["b"]._cursor = "0-0"  # everything once more
    seen = []
    nodes["b"].changed = lambda _: seen.append(nodes["b"].told("x").get("a"))
    await nodes.pass_s(1)
    assert set(seen) <= {UP}, "nothing old is believed again"
    await nodes.stop()


async def test_two_nodes_of_one_name_do_not_drive_others_mad() -> None:
    """Somebody's mistake: they speak as one, with two mouths."""
    nodes = Nodes("a", "b")
    nodes.nodes["twin"] = twin = nodes.make("a")
    await nodes.start()
    calls = nodes.store.calls.copy()
    for number in range(40):
        nodes["a"].say({"x": DOWN if number % 2 else UP})
        twin.say({"x": UP if number % 2 else DOWN})
        await nodes.pass_s(0.1)
    assert (nodes.store.calls - calls)["votes"] < 4 / votes.RETRY_S + 3
    await nodes.stop("twin")
    await nodes.pass_s(4)
    nodes["a"].say({"x": Said(State.DEGRADED)})
    await nodes.pass_s(3)
    assert nodes["b"].told("x")["a"].state is State.DEGRADED
    await nodes.stop()


@pytest.mark.parametrize("jump", [15.0, -15.0, 3600.0, -50.0])
async def test_a_jump_of_the_stores_clock_makes_nobody_old(jump: float) -> None:
    """All seem to have been silent for so long, until each has spoken again: a builder would decide alone meanwhile."""
    nodes = Nodes("a", "b", "c")
    await nodes.start()
    for node in "abc":
        nodes[node].say({"x": UP})
    await nodes.pass_s(1.05)
    for node in "abc":
        nodes.told[node].clear()
    nodes.store_jumps = jump
    for _ in range(20):
        await nodes["a"].beat()
        nodes["a"]._look()
        if jump < 60:  # who seems to have been away for a minute is forgotten by the store until it speaks
            assert set(nodes.states("a")) == {"a", "b", "c"}
        await nodes.pass_s(0.05)
    await nodes.pass_s(1)
    assert set(nodes.states("a").values()) == {State.UP}
    assert len(nodes.states("a")) == 3
    await nodes.stop()


async def test_the_dead_stay_dead_when_the_stores_clock_is_set_back() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    await nodes.stop("b")
    await nodes.pass_s(4)
    nodes.store_jumps = -15
    await nodes.pass_s(1)
    assert set(nodes.states("a")) == {"a"}
    await nodes.stop()


async def test_a_jump_of_the_nodes_own_clock_makes_nobody_old() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    for jump in (3600.0, -7200.0):
        nodes.clock.jumped = jump
        nodes.store_jumps = -jump
        votes_ = nodes["a"].of("x")
        assert all(abs(vote.at_ms - nodes.clock.unix_ms()) < 1000 for vote in votes_.values())
        assert len(votes_) == 2
    await nodes.stop()


async def test_alone_from_the_first_failure_on_and_together_again() -> None:
    nodes = Nodes("a", "b", "c", "d")
    await nodes.start()
    nodes["b"].say({"x": DOWN})
    await nodes.pass_s(1)
    assert (nodes["a"].alone, nodes["a"].watchers) == (False, ("a", "b", "c", "d"))
    nodes.store.away = True
    await nodes.pass_s(0.5)
    assert nodes["a"].alone
    assert not nodes["a"].synced
    assert nodes["a"].watchers == ("a",)
    assert set(nodes.states("a")) == {"a"}
    assert not nodes["a"].lonely, "there were others"
    calls = nodes.store.calls.copy()
    nodes["a"].say({"y": DOWN})
    await nodes.pass_s(3)
    assert (nodes.store.calls - calls).total() < 4 * 2 * 3 / votes.RETRY_S + 20, "asked now and then"
    nodes["b"].say({"x": UP})
    nodes.store.away = False
    await nodes.pass_s(1)
    assert (nodes["a"].alone, nodes["a"].synced, nodes["a"].watchers) == (False, True, ("a", "b", "c", "d"))
    assert nodes["a"].told("x") == {"b": UP}, "what was said in the meantime is told"
    assert nodes["d"].told("y") == {"a": DOWN}
    await nodes.stop()


async def test_a_store_that_hangs_leaves_a_node_alone_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes("a", "b")
    await nodes.start()

    async def never(*_args: object, **_more: object) -> Presence:
        await nodes.clock.sleep(1000)
        raise AssertionError

    monkeypatch.setattr(nodes.store, "observe", never)
    await nodes.pass_s(1.5)
    assert nodes["a"].alone
    assert nodes["a"].described().keys() == {"a"}
    await nodes.stop()


async def test_a_store_that_was_emptied_is_told_everything() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": DOWN})
    await nodes.pass_s(2)
    nodes.store.empty(9)
    await nodes.pass_s(2)
    assert nodes["b"].presence is not None
    assert nodes["b"].presence.epoch == 9
    assert nodes["b"].told("x") == {"a": DOWN}
    assert set(nodes.store.fields) == {"a", "b"}
    await nodes.stop()


async def test_a_restart_begins_anew() -> None:
    """What the former process has said counts no more once the new one has spoken."""
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": DOWN, "y": UP})
    await nodes.pass_s(2)
    await nodes.stop("a")
    nodes.nodes["a"] = nodes.make("a")
    nodes["a"].say({"y": DOWN})
    await nodes.start("a")
    assert (nodes["b"].told("x"), nodes["b"].told("y")) == ({}, {"a": DOWN})
    await nodes.stop()


async def test_one_that_serves_another_state_is_waited_for_no_more() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": DOWN, "y": DOWN})
    nodes["b"].say({"y": UP})
    await nodes.pass_s(0.5)
    assert (set(nodes["a"].of("x")), nodes["a"].watchers) == ({"a", "b"}, ("a", "b"))
    nodes.told["a"].clear()
    nodes["b"].elsewhere = lambda: True
    await nodes.pass_s(1)
    assert (set(nodes["a"].of("x")), set(nodes["a"].of("y"))) == ({"a"}, {"a", "b"}), "what it does see counts"
    assert (nodes["a"].watchers, nodes["b"].watchers) == (("a",), ("b",)), "each sees for itself"
    assert {"x", "y"} in nodes.told["a"]
    nodes.nodes["late"] = nodes.make("late")
    await nodes.start("late")
    assert nodes["late"].watchers == ("a", "late"), "whoever comes later knows it too"
    nodes["b"].elsewhere = lambda: False
    await nodes.pass_s(1)
    assert nodes["a"].watchers == nodes["b"].watchers == ("a", "b", "late")
    await nodes.stop()


async def test_one_that_does_not_trust_its_eyes_abstains() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": DOWN})
    nodes["b"].say({"x": UP})
    await nodes.pass_s(0.5)
    nodes.told["b"].clear()
    nodes["a"].blind = True
    nodes["a"].wake()
    await nodes.pass_s(0.5)
    assert {node: vote.abstains for node, vote in nodes["b"].of("x").items()} == {"a": True, "b": False}
    assert nodes.told["b"] == [{"x"}]
    assert nodes["b"].described()["a"]["abstains"]
    nodes.nodes["late"] = nodes.make("late")
    await nodes.start("late")
    assert nodes["late"].of("x")["a"].abstains, "whoever comes later knows it too"
    nodes["a"].blind = False
    await nodes.pass_s(0.5)
    assert not any(vote.abstains for vote in nodes["late"].of("x").values())
    await nodes.stop()


async def test_where_all_see_the_same_it_is_not_their_eyes() -> None:
    """Else what has really died, most of a fleet, would be answered for ever."""
    nodes = Nodes("a", "b", "c")
    await nodes.start()
    for node in "abc":
        nodes[node].say({"x": DOWN})
        nodes[node].blind = True
        await nodes.pass_s(0.5)
        abstaining = {by for by, vote in nodes["a"].of("x").items() if vote.abstains}
        assert abstaining == {"a": {"a"}, "b": {"a", "b"}, "c": set()}[node]
    await nodes.stop("b", "c")
    await nodes.pass_s(4)
    assert nodes["a"].of("x")["a"].abstains, "one by itself may well be cut off"
    await nodes.stop()


async def test_who_is_cut_off_is_believed_where_another_sees_the_same() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": DOWN, "y": DOWN, "z": UP})
    nodes["b"].say({"x": DOWN, "y": UP, "z": DOWN})
    nodes["a"].blind = True
    await nodes.pass_s(0.5)
    assert {name: nodes["b"].of(name)["a"].abstains for name in "xyz"} == {"x": False, "y": True, "z": True}
    await nodes.stop()


async def test_a_node_that_can_never_say_anything_of_a_target_does_not_count() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["a"].say({"x": Said(State.UNKNOWN, why="not probed: private use")})
    nodes["b"].say({"x": DOWN})
    await nodes.pass_s(0.5)
    assert nodes.states("b") == nodes.states("a") == {"b": State.DOWN}
    await nodes.stop()


async def test_three_of_many_watch_a_target_and_others_do_not_count() -> None:
    nodes = Nodes(*"abcdef")
    await nodes.start()
    counts = dict.fromkeys("abcdef", 0)
    for number in range(300):
        target = Target(Check("tcp", 80), number.to_bytes(4, "big"))
        name = f"{targets.name(target)}.000000"
        watchers = {node for node in "abcdef" if nodes[node].is_mine(target)}
        assert set(nodes["a"].of(name)) == watchers
        assert len(watchers) == 3
        for node in watchers:
            counts[node] += 1
    assert min(counts.values()) > 100
    await nodes.stop()


async def test_one_of_each_region_watches_before_two_of_any() -> None:
    """Nodes agree on it, also on one whose region was another before it was started anew."""
    nodes = Nodes("e1", "e2", "n1", "n2")
    nodes.nodes = {name: nodes.make(name, {"e": "eu", "n": "na"}[name[0]]) for name in nodes.nodes} | {
        "late": nodes.make("late", "na")}
    await nodes.start()
    names = [f"{number:016x}.000000" for number in range(50)]
    for name in names:
        watching = set(nodes["e1"].expected(name))
        assert watching & {"e1", "e2"}
        assert watching & {"n1", "n2", "late"}
    await nodes.stop("late")
    nodes.nodes["late"] = nodes.make("late", "oc")
    await nodes.start("late")
    for name in names:
        watching = set(nodes["e1"].expected(name))
        assert "late" in watching
        assert {one[0] for one in watching} == {"e", "n", "l"}
        assert all(set(nodes[node].expected(name)) == watching for node in ("e2", "n1", "n2", "late"))
    await nodes.stop()


async def test_who_watches_changes_little_when_one_comes_or_goes() -> None:
    nodes = Nodes(*"abcde")
    await nodes.start()
    names = [f"{number:016x}.000000" for number in range(300)]
    before = {name: set(nodes["a"].expected(name)) for name in names}
    await nodes.stop("e")
    await nodes.pass_s(11)
    for name in names:
        after = set(nodes["a"].expected(name))
        assert after >= before[name] - {"e"}, "who is left goes on"
    await nodes.stop()


@pytest.mark.parametrize("spoilt", [
    {"votes": 5}, {"votes": {"x": 5}}, {"votes": {"x": [1, 2]}}, {"votes": {"x": [9, 0, ""]}}, {"votes": {"x": None}},
    {"votes": {"x": ["up", 0, ""]}}, {"votes": {}, "run": 5, "n": "x"}])
async def test_what_is_no_vote_is_none(spoilt: dict[str, Any]) -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes["b"].say({"y": UP})
    await nodes.pass_s(0.5)
    await nodes.store.tell("evil", {"whole": True, "run": "r", "n": 1} | spoilt)
    await nodes.store.observe("evil", "", builds=0, votes=spoilt)
    await nodes.pass_s(0.5)
    nodes.nodes["late"] = nodes.make("late")
    await nodes.start("late")
    for node in ("a", "late"):
        assert nodes[node].told("x") == {}
        assert nodes[node].told("y") == {"b": UP}
        assert nodes[node].synced
    await nodes.stop()


async def test_what_is_no_vote_is_handed_on() -> None:
    nodes = Nodes("a")
    heard: list[News] = []
    nodes["a"].reported = heard.append
    await nodes.start()
    await nodes.store.tell("b", {"reports": [1]})
    await nodes.store.tell("a", {"reports": [2]})
    await nodes.pass_s(0.5)
    assert [(one.node, one.body) for one in heard] == [("b", {"reports": [1]}), ("a", {"reports": [2]})]
    await nodes.stop()


async def test_a_fault_of_our_own_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes("a", "b")
    await nodes.start()

    def broken(_: Iterable[str]) -> None:
        raise RuntimeError("broken")

    nodes["a"].changed = broken
    nodes["b"].say({"x": DOWN})
    await nodes.pass_s(1)
    assert "could not be told or heard" in caplog.text
    nodes["a"].changed = lambda _: None
    await nodes.pass_s(1)
    assert nodes["a"].told("x") == {"b": DOWN}
    await nodes.stop()


async def test_words_and_losses_at_random() -> None:
    """Whatever happens to words and store: a while later all know what each says."""
    for seed in range(3):
        chance, nodes = random.Random(seed), Nodes("a", "b", "c")
        await nodes.start()
        for _ in range(40):
            node = chance.choice("abc")
            match chance.randrange(8):
                case 0:
                    nodes.store.away = not nodes.store.away
                case 1:
                    nodes.store.empty(chance.randrange(1, 1000))
                case 2:
                    del nodes.store.stream[: chance.randrange(5)]
                case 3 if node in nodes.tasks:
                    await nodes.stop(node)
                case 4 if node not in nodes.tasks:
                    await nodes.start(node)
                case 5:
                    nodes.store_jumps = chance.choice([0, 15, -15, 100])
                case _:
                    nodes[node].say({chance.choice("xyz"): chance.choice([UP, DOWN, DOUBT, Said(State.UNKNOWN)])})
            await nodes.pass_s(chance.choice([0.05, 0.3, 1.5]))
        nodes.store.away = False
        await nodes.start(*(node for node in "abc" if node not in nodes.tasks))
        await nodes.pass_s(5)
        for node in "abc":
            nodes[node].say({"last": UP})  # who was cut off hears of it with the next word at the latest
        await nodes.pass_s(5)
        for name in "xyz":
            truth = {node: nodes[node].own[name] for node in "abc" if name in nodes[node].own}
            assert all(nodes[node].told(name) == truth for node in "abc"), (seed, name)
        await nodes.stop()


async def test_a_beat_that_fails_loses_nothing() -> None:
    nodes = Nodes("a", "b")
    await nodes.start()
    nodes.store.away = True
    nodes["a"].say({"x": DOWN})
    with pytest.raises(Unavailable):
        await nodes["a"].beat()
    nodes.store.away = False
    await nodes.pass_s(1)
    assert nodes["b"].told("x") == {"a": DOWN}
    await nodes.stop()
