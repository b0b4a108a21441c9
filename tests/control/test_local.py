"""Overrides of one node: in force at once, kept, ended, merged; a real rig, a scripted registry, virtual time."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from dnsd.control.intake import Intake
from dnsd.control.local import FILE, Local
from dnsd.control.maps import Maps
from dnsd.registry.errors import Invalid, PreconditionFailed, Unavailable
from dnsd.registry.fields import Model
from dnsd.registry.models import Kind, Override
from dnsd.registry.values import Stored, Written
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, loaded, override, service, site
from tests.control.rig import EPOCH, Rig
from tests.control.test_intake import Script

pytestmark = pytest.mark.asyncio
A1, A2 = endpoint("a1", "192.0.2.1"), endpoint("a2", "192.0.2.2")
ADDRESS1, ADDRESS2 = b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"
KEY = f"endpoint:{A1.key}"


class Store:
    """The registry's overrides: one object, and what was written."""

    def __init__(self) -> None:
        self.stored: Stored | None = None
        self.written: list[tuple[Override, str, str | None]] = []
        self.left_s: list[float | None] = []
        self.deleted: list[str | None] = []
        self.refuses: Exception | None = None
        self.meanwhile: Callable[[str], Awaitable[None]] | None = None

    async def get(self, kind: Kind, key: str) -> Stored | None:
        assert kind is Kind.OVERRIDE
        if self.meanwhile is not None:
            await self.meanwhile("get")
        return self.stored

    async def put(
        self, kind: Kind, value: Model, *, actor: str, if_match: str | None, left_s: float | None = None,
    ) -> Written:
        if self.meanwhile is not None:
            await self.meanwhile("put")
        if self.refuses is not None:
            raise self.refuses
        assert isinstance(value, Override)
        self.written.append((value, actor, if_match))
        self.left_s.append(left_s)
        return Written(value.key, "e", 40, True, "fsync")

    async def delete(self, kind: Kind, key: str, *, actor: str, if_match: str | None) -> Written:
        self.deleted.append(if_match)
        return Written(key, "", 41, False, "fsync")


class Node:
    """A rig that serves two endpoints of one site, and its own overrides."""

    def __init__(self, state: Path) -> None:
        self.rig = Rig(state)
        maps = Maps(self.rig.fleet, state / "atlas", state / "maps", clock=self.rig.clock)
        maps.publisher = self.rig.publisher
        self.script = Script()
        self.intake = Intake(self.script, self.rig.fleet, self.rig.publisher, maps, clock=self.rig.clock)
        self.store = Store()
        self.local = Local(state, self.intake, self.store, node="n1")

    async def open(self) -> None:
        self.rig.put(site("one"), service(), A1, A2)
        await self.rig.open()

    def follow(self, version: int = 1) -> None:
        """The registry is followed."""
        self.intake.connected, self.intake._epoch, self.intake.cursor = True, EPOCH, f"{version}-0"

    async def answer(self) -> set[bytes]:
        await self.rig.publish()
        return set(self.rig.workers[0].ask(SERVICE)[1])


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    one = Node(tmp_path)
    await one.open()
    yield one
    one.rig.close()


def down(seconds: int = 60, key: str = KEY) -> Override:
    target, _, name = key.partition(":")
    return override(target, name, "down").model_copy(update={"seconds": seconds, "until_ms": 0})


async def test_it_is_in_force_at_once_and_ends_by_itself(node: Node) -> None:
    assert node.local.apart
    entry = await node.local.force(down(), "uid-0")
    assert entry.override.until_ms == NOW + 60_000
    assert await node.answer() == {ADDRESS2}
    assert "on this node only" in node.rig.fleet.overrides[KEY].reason
    assert [one["reason"] for one in node.local.described()] == ["test"]
    node.rig.clock.ms += 60_000
    await node.local.turn()
    await node.rig.publish()
    assert [member.a for member in node.rig.views.resolved[SERVICE].members] == [True, True]
    assert not node.rig.fleet.overrides
    assert not node.store.written


@pytest.mark.parametrize("follows", [False, True])
async def test_a_clock_that_is_set_back_makes_none_longer(
        node: Node, monkeypatch: pytest.MonkeyPatch, follows: bool) -> None:
    clock = node.rig.clock
    await node.local.force(down(), "uid-0")
    clock.ms += 20_000
    monkeypatch.setattr(clock, "unix_ms", lambda: clock.ms - 3_600_000)
    if follows:
        node.follow()
        await node.local.turn()
        assert node.store.left_s == [40]
    clock.ms += 39_000
    await node.local.turn()
    assert KEY in node.local.entries
    clock.ms += 1_000
    await node.local.turn()
    assert not node.local.entries


async def test_it_survives_the_process(node: Node, tmp_path: Path) -> None:
    node.intake.alarm_again("something was lost", 7)
    await node.local.force(down(), "uid-0")
    file = tmp_path / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    after = Node(tmp_path)
    await after.open()
    after.local.take_over()
    assert await after.answer() == {ADDRESS2}
    assert after.intake.alarmed == ("something was lost", 7)
    node.rig.clock.ms += 61_000
    late = Node(tmp_path)
    late.rig.clock.ms += 61_000
    late.local.take_over()
    assert not late.local.entries
    file.write_text("{}")
    late.local.take_over()  # told in the log, and no reason not to start
    for each in (after, late):
        each.rig.close()


async def test_it_hides_the_registrys_until_it_is_cleared(node: Node) -> None:
    node.rig.put(override("endpoint", A2.key, "down"))
    assert await node.answer() == {ADDRESS1}
    await node.local.force(down(key=f"endpoint:{A2.key}").model_copy(update={"state": "up"}), "uid-0")
    await node.rig.publish()
    assert [member.a for member in node.rig.views.resolved[SERVICE].members] == [True, True]
    node.rig.put(override("endpoint", A2.key, "drain"))  # an event while it is hidden
    assert node.rig.fleet.overrides[f"endpoint:{A2.key}"].state == "up"
    assert await node.local.clear(f"endpoint:{A2.key}", "uid-0")
    assert node.rig.fleet.overrides[f"endpoint:{A2.key}"].state == "drain"
    assert not await node.local.clear(f"endpoint:{A2.key}", "uid-0")


async def test_a_load_does_not_end_it(node: Node) -> None:
    await node.local.force(down(), "uid-0")
    node.rig.fleet.load(loaded(service(), A1, A2, version=9), NOW)
    assert node.rig.fleet.overrides[KEY].state == "down"
    assert node.rig.fleet.registered(KEY) is None


@pytest.mark.parametrize(("target", "name"), [
    ("endpoint", f"{SERVICE}/none"), ("site", "none"), ("service", "none.example.com")])
async def test_there_must_be_something_to_force(node: Node, target: str, name: str) -> None:
    with pytest.raises(Invalid, match="there is no"):
        await node.local.force(down(key=f"{target}:{name}"), "uid-0")
    assert not node.rig.fleet.overrides


async def test_it_is_written_to_the_registry_with_the_time_left(node: Node) -> None:
    await node.local.force(down(), "uid-0")
    node.rig.clock.ms += 20_500
    await node.local.turn()
    assert not node.store.written  # still apart
    node.follow()
    node.store.refuses = Unavailable("away again")
    await node.local.turn()
    assert node.local.entries
    node.store.refuses = PreconditionFailed("somebody was quicker")
    await node.local.turn()
    node.store.refuses = None
    await node.local.turn()
    [(value, actor, if_match)] = node.store.written
    assert (value.seconds, value.reason, actor, if_match) == (60, "test", "local:n1:uid-0", None)
    assert node.store.left_s == [39.5]
    await node.local.turn()
    assert KEY in node.local.entries  # in force until the registry's own has come
    assert len(node.store.written) == 1
    node.rig.fleet.apply(events(40, override("endpoint", A1.key, "down")), NOW)
    await node.local.turn()
    assert not node.local.entries
    assert node.rig.fleet.overrides[KEY].reason == "test"
    assert await node.answer() == {ADDRESS2}


@pytest.mark.parametrize(("made_after_ms", "merged"), [(-1000, True), (1000, False)])
async def test_the_later_of_two_holds(node: Node, made_after_ms: int, merged: bool) -> None:
    await node.local.force(down(), "uid-0")
    own = override("endpoint", A1.key, "drain", until_ms=NOW + made_after_ms + 3_600_000)
    node.store.stored = Stored(own, "etag", 30)
    node.follow()
    await node.local.turn()
    assert bool(node.store.written) == merged
    assert bool(node.local.entries) == merged
    if merged:
        assert node.store.written[0][2] == "etag"


async def test_what_has_gone_meanwhile_is_dropped(node: Node) -> None:
    await node.local.force(down(), "uid-0")
    node.follow()
    node.store.refuses = Invalid("there is no such endpoint")
    await node.local.turn()
    assert not node.local.entries
    assert json.loads((node.rig.state / FILE).read_text())["overrides"] == []


@pytest.mark.parametrize("first", ["earlier", "later"])
async def test_of_two_nodes_the_one_that_was_forced_later_holds(node: Node, tmp_path: Path, first: str) -> None:
    """Whoever comes first to the registry: there it counts as made when it was set, not when it was written."""
    (tmp_path / "other").mkdir()
    other = Node(tmp_path / "other")
    await other.open()
    await node.local.force(down(), "uid-0")
    other.rig.clock.ms = node.rig.clock.ms = NOW + 20_000
    await other.local.force(down(300).model_copy(update={"state": "up"}), "uid-0")
    other.rig.clock.ms = node.rig.clock.ms = NOW + 40_000
    stored: Stored | None = None
    for one in (node, other) if first == "earlier" else (other, node):
        one.store.stored = stored
        one.follow()
        await one.local.turn()
        for value, _, _ in one.store.written:  # as the script keeps it
            left_s = one.store.left_s[0] or value.seconds
            until_ms = one.rig.clock.ms + round(left_s * 1000)
            stored = Stored(value.model_copy(update={"until_ms": until_ms}), "etag", 30)
    assert stored is not None
    assert isinstance(stored.value, Override)
    assert stored.value.state == "up"
    other.rig.close()


@pytest.mark.parametrize(("during", "fault"), [
    ("get", None), ("get", "later"), ("put", None), ("put", Invalid("no such endpoint"))])
async def test_what_is_set_again_during_a_merge_is_not_lost(
        node: Node, during: str, fault: Exception | str | None) -> None:
    await node.local.force(down(), "uid-0")
    node.follow()

    async def again(step: str) -> None:
        if step == during:
            node.store.meanwhile = None
            node.intake.connected, node.intake._epoch = False, None
            node.rig.clock.ms += 10
            await node.local.force(down(600), "uid-1")

    node.store.meanwhile = again
    if fault == "later":
        node.store.stored = Stored(override("endpoint", A1.key, "up", until_ms=NOW + 3_700_000), "etag", 30)
    elif isinstance(fault, Exception):
        node.store.refuses = fault
    await node.local.turn()
    assert [entry.by for entry in node.local.entries.values()] == ["uid-1"]
    assert node.local.entries[KEY].version == 0
    assert node.rig.fleet.overrides[KEY].state == "down"


async def test_what_is_set_again_while_another_is_merged_is_not_lost(node: Node) -> None:
    """The first is the registry's already, and would be dropped in its turn."""
    other = f"endpoint:{A2.key}"
    await node.local.force(override("endpoint", A2.key, "down"), "uid-0")
    await node.local.force(down(), "uid-0")
    node.local._written(KEY, node.local.entries[KEY], 1)
    node.follow()

    async def again(_: str) -> None:
        node.store.meanwhile = None
        await node.local.force(down(600), "uid-1")

    node.store.meanwhile = again
    await node.local.turn()
    assert {key: entry.by for key, entry in node.local.entries.items()} == {KEY: "uid-1", other: "uid-0"}


@pytest.mark.parametrize("during", ["get", "put"])
async def test_what_is_ended_during_a_merge_is_ended_in_the_registry_too(node: Node, during: str) -> None:
    await node.local.force(down(), "uid-0")
    node.follow()

    async def ended(step: str) -> None:
        if step == during:
            assert await node.local.clear(KEY, "uid-0")

    node.store.meanwhile = ended
    await node.local.turn()
    assert node.store.deleted == (["e"] if during == "put" else [])
    assert len(node.store.written) == len(node.store.deleted)
    assert not node.local.entries


async def test_no_word_came_back_of_what_was_written(node: Node) -> None:
    """It is there already, and a clock that is a little ahead makes it no later one."""
    await node.local.force(down(), "uid-0")
    node.rig.clock.ms += 20_000
    node.store.stored = Stored(down().model_copy(update={"until_ms": NOW + 60_040}), "etag", 30)
    node.follow()
    await node.local.turn()
    assert not node.store.written
    assert node.local.entries[KEY].version == 30


async def test_a_full_disk_is_told_once_and_to_who_forces(
        node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).mkdir()
    await node.local.force(down(), "uid-0")
    for _ in range(5):
        await node.local.turn()
    assert node.local.unsaved
    assert len([one for one in caplog.messages if "cannot be written down" in one]) == 1
    (tmp_path / FILE).rmdir()
    await node.local.turn()
    assert not node.local.unsaved
    assert (tmp_path / FILE).exists()
