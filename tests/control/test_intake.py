"""Following a registry through gaps, outages, resets: a scripted stream, a real publisher, no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from dnsd.control.intake import BACKOFF_S, HOLD_S, Intake
from dnsd.control.keeping import Keeping
from dnsd.control.leaseclock import LeaseClock
from dnsd.control.maps import Maps
from dnsd.model import Fault
from dnsd.registry.errors import Gap, PreconditionFailed, Unavailable
from dnsd.registry.fields import Model
from dnsd.registry.history import Marks
from dnsd.registry.models import Lease
from dnsd.registry.values import Event, Loaded, Position, Tick
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, gone, loaded, override, service, site
from tests.control.rig import EPOCH, Rig

pytestmark = pytest.mark.asyncio
A1, A2 = endpoint("a1", "192.0.2.1"), endpoint("a2", "192.0.2.2")
ADDRESS1, ADDRESS2 = b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"


class Script:
    """A registry that says what it is told to: `state` is what `load` gives, `feed` what `events` gives, in order."""

    def __init__(self, *objects: Model, epoch: int = EPOCH, version: int = 1) -> None:
        self.state = loaded(*objects, epoch=epoch, version=version)
        self.feed: list[list[Event] | Exception] = []
        self.away: Exception | None = None
        self.asked: list[str] = []
        self.ticks: list[Tick | Exception] = []

    async def position(self) -> Position:
        self._open("position")
        return self.state.position

    async def load(self) -> Loaded:
        self._open("load")
        return self.state

    async def events(self, after: str, *, block_ms: int) -> list[Event]:
        await asyncio.sleep(0)
        self._open(f"events {after}")
        step = self.feed.pop(0) if self.feed else []
        if isinstance(step, Exception):
            raise step
        return step

    async def tick(self) -> Tick:
        step = self.ticks.pop(0) if self.ticks else Tick([], 250, 0, [])
        if isinstance(step, Exception):
            raise step
        return step

    def _open(self, what: str) -> None:
        self.asked.append(what)
        if self.away is not None:
            raise self.away


class Node:
    """A rig with an intake that is stepped by hand."""

    def __init__(self, state: Path, script: Script) -> None:
        self.script = script
        self.rig = Rig(state)
        self.maps = Maps(self.rig.fleet, state / "atlas", state / "maps", clock=self.rig.clock)
        self.maps.publisher = self.rig.publisher
        self.rig.feeds.start()
        self.intake = Intake(script, self.rig.fleet, self.rig.publisher, self.maps, clock=self.rig.clock)

    async def step(self, count: int = 1) -> None:
        for _ in range(count):
            await self.intake._attempt(self.intake._next())
        await self.rig.publisher.publish()
        await self.rig.settle()

    def ask(self) -> tuple[int, list[bytes]]:
        return self.rig.workers[0].ask(SERVICE)


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def start(script: Script) -> Node:
        nodes.append(Node(tmp_path, script))
        return nodes[-1]

    yield start
    for node in nodes:
        node.rig.close()


Make = Callable[..., Node]


async def test_load_then_follow(make: Make) -> None:
    node = make(Script(site("one"), service(), A1))
    await node.step()
    assert node.ask() == (0, [ADDRESS1])
    assert node.intake.cursor == "1-0"
    node.script.feed = [[], events(2, A2), gone(3, A1)]
    await node.step(3)
    assert node.ask() == (0, [ADDRESS2])
    assert node.rig.publisher.reached(3)
    assert node.script.asked == ["load", "events 1-0", "events 1-0", "events 2-0"]
    assert node.intake.stale_for == 0


async def test_an_outage_keeps_the_answers_and_says_how_old_they_are(make: Make) -> None:
    node = make(Script(service(), A1))
    await node.step()
    node.rig.clock.slept.clear()
    node.script.away = Unavailable("gone fishing")
    await node.step(8)
    assert node.ask() == (0, [ADDRESS1])
    assert node.intake.problem == "gone fishing"
    assert node.intake.stale_for == pytest.approx(sum(node.rig.clock.slept), abs=0.02)
    waits = node.rig.clock.slept
    assert all(BACKOFF_S[0] / 2 <= wait <= BACKOFF_S[1] for wait in waits)
    assert max(waits[-2:]) > 10 * waits[0]
    node.script.away = None
    node.script.feed = [events(2, A2)]
    await node.step()
    assert node.intake.stale_for == 0
    assert node.script.asked.count("load") == 1  # it went on where it was
    assert node.rig.publisher.reached(2)


async def test_a_gap_loads_again_and_sends_only_what_differs(make: Make) -> None:
    node = make(Script(service(), A1))
    await node.step()
    node.script.feed = [Gap("trimmed")]
    node.script.state = loaded(service(), A1, A2, epoch=EPOCH, version=90)
    await node.step(2)
    assert node.rig.publisher.live.counts.images == 1
    assert node.rig.publisher.reached(90)
    assert {rdata for _ in range(1) for rdata in node.ask()[1]} <= {ADDRESS1, ADDRESS2}


@pytest.mark.parametrize(("state", "words"), [
    (loaded(epoch=EPOCH + 1, version=0), "began anew"),
    (loaded(service(), A1, epoch=EPOCH, version=3), "went back from version 5 to 3"),
    (loaded(epoch=EPOCH, version=9), "another history"),
])
async def test_a_store_that_lost_its_state_is_held_off(make: Make, state: Loaded, words: str) -> None:
    node = make(Script(service(), A1, version=5))
    await node.step()
    good = node.script.state
    node.script.feed = [Gap("forked")]
    node.script.state = state
    await node.step(3)
    assert words in node.intake.held
    assert node.ask() == (0, [ADDRESS1])
    assert not node.rig.publisher.reached(1)
    assert node.script.asked[-1] == "position"  # what was judged is not loaded again and again
    assert node.rig.clock.slept[-1] == HOLD_S
    assert node.intake.stale_for > 0
    node.script.state = good._replace(position=good.position._replace(version=7, cursor="7-0"))
    await node.step()
    assert node.intake.held == ""
    assert node.rig.publisher.reached(7)


async def test_what_is_held_can_be_acted_on_again_after_the_store_was_away(make: Make) -> None:
    node = make(Script(service(), A1, version=5))
    await node.step()
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(epoch=EPOCH + 1, version=0)
    await node.step(3)
    node.script.away = Unavailable("gone fishing")
    await node.step(2)
    assert not node.intake.connected
    node.script.away = None
    await node.step()
    assert node.intake.held
    assert node.intake.connected
    assert node.intake.problem == ""


async def test_a_store_that_was_held_must_win_trust_back_by_its_content(make: Make) -> None:
    node = make(Script(service(), A1, service("b.example.com"), version=5))
    await node.step()
    node.script.feed = [Gap("trimmed")]
    node.script.state = loaded(epoch=EPOCH, version=3)
    await node.step(2)
    assert "went back" in node.intake.held
    node.script.state = loaded(service(), epoch=EPOCH, version=6)  # new writes on an old backup
    await node.step()
    assert "lacks 1 of 1 endpoints" in node.intake.held


async def test_at_start_the_image_on_disk_is_what_is_served(make: Make, tmp_path: Path) -> None:
    first = make(Script(service(), A1, version=5))
    await first.step()
    second = make(Script(epoch=EPOCH + 1, version=0))
    await second.step()
    assert "began anew" in second.intake.held
    assert second.ask() == (0, [ADDRESS1])
    third = make(Script(service(), A1, A2, version=8))
    await third.step()
    assert third.intake.held == ""
    assert third.rig.publisher.reached(8)
    assert third.rig.publisher.live.stamp > first.rig.publisher.live.stamp


async def test_a_resumed_cursor_tells_a_fork_that_numbers_hide(make: Make) -> None:
    first = make(Script(service(), A1, version=5))
    await first.step()
    script = Script(service(), epoch=EPOCH, version=9)
    script.feed = [Gap("forked")]
    second = make(script)
    second.intake.resume("5-0")
    await second.intake._attempt(second.intake._check_resumed)
    await second.step()
    assert "another history" in second.intake.held
    script.asked.clear()
    third = make(Script(service(), epoch=EPOCH, version=9))
    third.intake.resume("5-0")
    await third.intake._attempt(third.intake._check_resumed)
    await third.step()
    assert third.intake.held == ""  # the same numbers, and the history goes on


async def test_no_store_at_start_and_it_comes_later(make: Make) -> None:
    script = Script(service(), A1)
    script.away = Unavailable("not yet")
    node = make(script)
    await node.step(3)
    assert not node.intake.connected
    assert node.rig.publisher.live.image is None
    script.away = None
    await node.step()
    assert node.ask() == (0, [ADDRESS1])


async def test_corrupt_values_are_counted_and_the_last_sound_ones_kept(make: Make) -> None:
    node = make(Script(service(), A1))
    await node.step()
    node.script.feed = [Gap("corrupt")]
    node.script.state = loaded(service(), epoch=EPOCH, version=2)._replace(
        corrupt=[Fault(f"endpoint/{A1.key}", "not JSON")])
    await node.step(2)
    assert node.intake.corrupt == 1
    assert node.ask() == (0, [ADDRESS1])


async def test_a_stream_that_breaks_each_time_is_asked_less_often(make: Make) -> None:
    node = make(Script(service(), A1))
    await node.step()
    node.rig.clock.slept.clear()
    node.script.feed = [Gap("trimmed", "always") for _ in range(8)]
    node.script.state = loaded(service(), A2, epoch=EPOCH, version=2)
    await node.step(16)
    assert node.ask() == (0, [ADDRESS2])  # loads carry on
    assert node.rig.clock.slept == [0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]
    assert "always" in node.intake.problem
    await node.step()
    assert node.intake.problem == ""


async def test_a_bug_in_a_step_does_not_end_the_intake(make: Make) -> None:
    node = make(Script(service(), A1))
    await node.step()
    node.script.feed = [RuntimeError("bug")]
    await node.step()
    assert "bug" in node.intake.problem
    await node.step()
    assert node.intake.connected


async def test_run_follows_until_cancelled(make: Make) -> None:
    node = make(Script(service(), A1))
    node.script.feed = [[] for _ in range(3)]
    task = asyncio.create_task(node.intake.run())
    while len(node.script.asked) < 4:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_lease_clock(make: Make) -> None:
    node = make(Script(service(), A1, override("site", "one", "down", until_ms=NOW + 700)))
    await node.step()
    assert node.ask()[1] == []
    clock = LeaseClock(node.script, node.rig.views, node.rig.publisher, clock=node.rig.clock)
    node.script.ticks = [Tick(["a", "b"], 250, 0, []), Unavailable("away"), RuntimeError("bug"), Tick([], 0, -4000, [])]
    clock.look()
    for _ in range(4):
        await clock.tick()
    assert (clock.expired, clock.failures, clock.shifted_ms) == (2, 2, 4000)
    node.rig.clock.ms = NOW + 700
    clock.look()
    await node.rig.publisher.publish()
    await node.rig.settle()
    assert node.ask() == (0, [ADDRESS1])


async def test_the_lease_clock_keeps_its_pace(make: Make) -> None:
    node = make(Script())
    clock = LeaseClock(node.script, node.rig.views, node.rig.publisher, clock=node.rig.clock)
    tasks = [asyncio.create_task(clock.wind()), asyncio.create_task(clock.watch())]
    for _ in range(50):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert {0.25, 0.5} == set(node.rig.clock.slept)


class Past:
    """The history of a `Script`: what is begun shows in its state."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.left = Marks()
        self.begun: list[tuple[int, tuple[int, int], bool]] = []
        self.known: list[Lease] = []
        self.taken = False

    async def marks(self) -> Marks:
        return self.left

    async def leases(self, ids: Iterable[str]) -> list[Lease]:
        return [lease for lease in self.known if lease.id in set(ids)]

    async def begin(self, epoch: int, *, above: tuple[int, int], actor: str, accepted: bool) -> tuple[int, int]:
        if self.taken:
            raise PreconditionFailed("another was first")
        self.begun.append((epoch, above, accepted))
        at = self.script.state.position
        fresh = Position(max(epoch, above[0]) + 1, max(at.version, above[1]) + 1, "", "chain")
        self.script.state = self.script.state._replace(position=fresh._replace(cursor=f"{fresh.version}-0"))
        return fresh.epoch, fresh.version


def with_past(make: Make, *objects: Model, version: int = 5) -> tuple[Node, Past]:
    node = make(Script(*objects, version=version))
    node.intake.history = past = Past(node.script)
    return node, past


async def test_a_small_loss_is_adopted_as_a_history_of_its_own_with_an_alarm(make: Make) -> None:
    node, past = with_past(make, service(), A1, A2)
    await node.step()
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(service(), A1, epoch=EPOCH, version=4)  # a failover has lost a write
    await node.step(3)
    assert past.begun == [(EPOCH, (EPOCH, 5), False)]
    assert node.intake.held == ""
    assert "went back from version 5 to 4; it was adopted, lost are endpoints: 1 of 2" in node.intake.alarm
    assert node.ask() == (0, [ADDRESS1])
    assert node.rig.publisher.live.stamp.epoch == EPOCH + 1
    assert node.rig.publisher.reached(6)
    # Until a person has seen it.
    await node.step(3)
    assert node.intake.alarm
    past.left = Marks(EPOCH + 1, 6)
    node.rig.clock.ms += 1000
    await node.step()
    assert not node.intake.alarm


async def test_another_node_was_first(make: Make) -> None:
    node, past = with_past(make, service(), A1, A2)
    await node.step()
    past.taken = True
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(service(), A1, epoch=EPOCH, version=4)
    await node.step(2)
    assert node.intake.epoch is None
    node.script.state = loaded(service(), A1, epoch=EPOCH + 1, version=6)
    await node.step()
    assert node.intake.epoch == EPOCH + 1
    assert "endpoints: 1 of 2" in node.intake.alarm


async def test_what_a_person_accepts_is_adopted_by_all(make: Make) -> None:
    node, past = with_past(make, service(), A1, A2)
    await node.step()
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(service(), epoch=EPOCH + 1, version=1)
    await node.step(2)
    assert "lacks 2 of 2 endpoints" in node.intake.held
    past.left = Marks(EPOCH + 2, 6)  # on any node
    node.script.state = loaded(service(), epoch=EPOCH + 2, version=6)
    await node.step()
    assert not node.intake.held
    assert not node.intake.alarm
    assert node.intake.epoch == EPOCH + 2


async def test_a_backup_that_was_accepted_once_is_held_all_the_same(make: Make) -> None:
    node, past = with_past(make, service(), A1, A2, version=50)
    await node.step()
    past.left = Marks(EPOCH, 3)
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(service(), epoch=EPOCH, version=4)
    await node.step(2)
    assert "went back" in node.intake.held


async def test_nothing_is_adopted_while_it_is_being_restored(make: Make) -> None:
    node, past = with_past(make, service(), A1, A2)
    await node.step()
    past.left = Marks(restoring=True)
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(service(), A1, epoch=EPOCH + 1, version=3)
    await node.step(3)
    assert "being restored" in node.intake.held
    past.left = Marks()  # whoever restored it has died: now it is judged
    await node.step()
    assert not node.intake.held
    assert "endpoints: 1 of 2" in node.intake.alarm


async def test_own_findings_are_published_while_a_state_is_held(make: Make) -> None:
    node, _ = with_past(make, service(), A1, A2)
    await node.step()
    node.script.feed = [Gap("forked")]
    node.script.state = loaded(epoch=EPOCH + 1, version=1)
    await node.step(2)
    assert node.intake.held
    before = node.rig.publisher.live.stamp
    touched = node.rig.fleet.force(override("endpoint", A1.key, "down"))
    node.rig.publisher.mark(touched)
    await node.rig.publish()
    assert node.ask() == (0, [ADDRESS2])
    assert node.rig.publisher.live.stamp > before
    assert node.rig.publisher.live.stamp[:2] == (EPOCH, 5)
    assert not node.rig.publisher.reached(1)


async def test_who_holds_new_endpoints_is_asked_once(make: Make) -> None:
    node, past = with_past(make, service())
    lease = Lease(id="h1", holder="h1", fence=2, ttl=20, deadline=1, endpoints=(A1.key,), token="t")
    past.known = [lease]
    await node.step()
    held = endpoint("a1", "192.0.2.1", lease="h1"), endpoint("a2", "192.0.2.2", lease="spoilt")
    node.script.feed = [events(6, *held)]
    await node.step(2)
    assert node.rig.fleet.leases == {"h1": lease}
    assert not node.rig.fleet.strangers
    node.script.feed = [gone(7, held[0])]
    await node.step(2)
    assert not node.rig.fleet.leases


async def test_a_process_that_starts_without_the_store_goes_by_what_was_known(make: Make, tmp_path: Path) -> None:
    first, _ = with_past(make, service(), A1, A2)
    keeping = first.intake.memory = Keeping(tmp_path, first.rig.fleet, first.rig.clock)
    await first.step()
    await keeping.write()
    first.script.feed = [events(6, override("endpoint", A2.key, "down"))]
    await first.step(2)
    assert first.ask() == (0, [ADDRESS1])

    second, _ = with_past(make)
    second.script.away = Unavailable("not yet")
    second.intake.memory = Keeping(tmp_path, second.rig.fleet, second.rig.clock)
    stamp = second.rig.publisher.live.stamp
    assert stamp.version == 6
    await second.step()
    await second.intake._serve_on()
    await second.rig.publish()
    assert second.ask() == (0, [ADDRESS1])
    assert second.rig.publisher.live.stamp == (EPOCH, 6, stamp.node_seq + 1)
    assert not second.rig.publisher.reached(6)
    assert second.rig.fleet.endpoint(A2.key) == A2
    # Its own findings reach the answers.
    second.rig.publisher.mark(second.rig.fleet.force(override("site", "one", "down")))
    await second.rig.publish()
    assert second.ask()[1] == []
    second.rig.publisher.mark(second.rig.fleet.lift("site:one"))
    # What comes back is judged by all that was known.
    second.script.away = None
    second.script.state = loaded(service(), A1, A2, epoch=EPOCH, version=8)
    await second.step(2)
    assert second.intake.epoch == EPOCH
    assert second.rig.publisher.reached(8)


async def test_an_older_fleet_than_the_image_is_not_published(make: Make, tmp_path: Path) -> None:
    first, _ = with_past(make, service(), A1)
    keeping = first.intake.memory = Keeping(tmp_path, first.rig.fleet, first.rig.clock)
    await first.step()
    await keeping.write()
    first.intake.memory = None  # as if the disk had been full
    first.script.feed = [events(6, A2)]
    await first.step(2)
    second, _ = with_past(make)
    second.script.away = Unavailable("not yet")
    second.intake.memory = Keeping(tmp_path, second.rig.fleet, second.rig.clock)
    await second.step(3)
    assert second.intake.served == 0
    assert not second.rig.publisher.open
