"""Overrides of one node: in force at once, kept, ended, merged; a real rig, a scripted registry, virtual time."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
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
        self.refuses: Exception | None = None

    async def get(self, kind: Kind, key: str) -> Stored | None:
        assert kind is Kind.OVERRIDE
        return self.stored

    async def put(self, kind: Kind, value: Model, *, actor: str, if_match: str | None) -> Written:
        if self.refuses is not None:
            raise self.refuses
        assert isinstance(value, Override)
        self.written.append((value, actor, if_match))
        return Written(value.key, "e", 40, True, "fsync")


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
        assert [value.seconds for value, _, _ in node.store.written] == [40]
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
    assert (value.seconds, value.reason, actor, if_match) == (40, "test", "local:n1:uid-0", None)
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
