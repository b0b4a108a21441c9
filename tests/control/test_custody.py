"""What people can do about a registry in doubt: a real store on one side, a fleet that was served on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dnsd.control.custody import UNKNOWN_TTL_S, Custody
from dnsd.control.holding import Judgement
from dnsd.control.intake import Intake
from dnsd.control.maps import Maps
from dnsd.registry.errors import Conflict, PreconditionFailed, PreconditionRequired, Unavailable
from dnsd.registry.history import Content, Marks
from dnsd.registry.models import Kind, Lease
from dnsd.registry.values import Position
from tests.control.fleet_samples import SERVICE, endpoint, loaded, override, service, site
from tests.control.rig import EPOCH, Rig
from tests.control.test_intake import Past, Script

pytestmark = pytest.mark.asyncio
LEASED = [endpoint(f"l{i}", f"192.0.2.{i}", lease=f"h{i}") for i in (1, 2)]
FIXED = endpoint("fixed", "192.0.2.9")
LEASE = Lease(id="h1", holder="h1", fence=3, ttl=77, deadline=5, endpoints=(), token="t")


class Pen(Past):
    """A history that notes what is written back."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.contents: list[tuple[Content, bool]] = []

    async def accept(self, epoch: int, *, actor: str) -> int:
        self.left = Marks(epoch, 99)
        return 99

    async def restore(self, content: Content, epoch: int, *, older: bool, actor: str) -> int:
        self.contents.append((content, older))
        return 4


class Desk:
    """A node that serves three endpoints, one of a lease of which it knows no more than the id."""

    def __init__(self, state: Path) -> None:
        self.rig = Rig(state)
        self.script = Script(site("one"), service(), *LEASED, FIXED, override("site", "one", "drain"), version=50)
        maps = Maps(self.rig.fleet, state / "atlas", state / "maps", clock=self.rig.clock)
        maps.publisher = self.rig.publisher
        self.past = Pen(self.script)
        self.intake = Intake(
            self.script, self.rig.fleet, self.rig.publisher, maps, clock=self.rig.clock, history=self.past)
        self.custody = Custody(self.intake, self.rig.fleet, self.script, self.past)  # type: ignore[arg-type]

    async def step(self, count: int = 1) -> None:
        for _ in range(count):
            await self.intake._attempt(self.intake._next())

    def hold(self, *objects: object, epoch: int, version: int) -> None:
        """As after a gap: this is what the store has now."""
        self.script.state = loaded(*objects, epoch=epoch, version=version)  # type: ignore[arg-type]
        self.intake.cursor, self.intake._gap = "", "forked"


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    one = Desk(tmp_path)
    await one.step()
    one.rig.fleet.learn([LEASE])
    yield one
    one.rig.close()


async def test_nothing_to_settle(desk: Desk) -> None:
    assert desk.custody.described()["state"] == "followed"
    assert desk.custody.etag == ""
    for settle in (desk.custody.accept, desk.custody.restore):
        with pytest.raises(Conflict):
            await settle("*", "test")


async def test_it_must_be_what_was_looked_at(desk: Desk) -> None:
    desk.hold(epoch=EPOCH + 1, version=3)
    await desk.step()
    told = desk.custody.described()
    assert (told["state"], told["etag"]) == ("held", f"{EPOCH + 1:016x}-3")
    assert {one["kind"]: one["missing"] for one in told["losses"]} == {
        "site": 1, "service": 1, "endpoint": 3, "override": 1}
    with pytest.raises(PreconditionRequired):
        await desk.custody.accept(None, "test")
    with pytest.raises(PreconditionFailed):
        await desk.custody.accept("0-0", "test")
    desk.intake.connected = False
    with pytest.raises(Unavailable):
        await desk.custody.accept("*", "test")


async def test_accepting_begins_a_history_above_all_served(desk: Desk) -> None:
    desk.hold(epoch=EPOCH, version=3)
    await desk.step()
    done = await desk.custody.accept(desk.custody.etag, "test")
    assert desk.past.begun == [(EPOCH, (EPOCH, 50), True)]
    desk.past.left = Marks(int(done["epoch"], 16), done["version"])
    await desk.step()
    assert desk.custody.described()["state"] == "followed"
    assert not desk.intake.alarm
    assert not desk.rig.fleet.services


async def test_an_alarm_is_seen(desk: Desk) -> None:
    desk.hold(site("one"), service(), *LEASED, override("site", "one", "drain"), epoch=EPOCH + 1, version=3)
    await desk.step()
    assert desk.intake.alarm
    with pytest.raises(Conflict):
        await desk.custody.restore("*", "test")
    await desk.custody.accept(desk.custody.etag, "test")
    assert not desk.intake.alarm
    assert desk.past.left == Marks(EPOCH + 1, 99)


async def test_what_is_served_is_written_back(desk: Desk) -> None:
    desk.rig.fleet.force(override("site", "one", "up"))  # on this node only: not the registry's
    desk.hold(epoch=EPOCH + 1, version=3)
    await desk.step()
    done = await desk.custody.restore("*", "test")
    assert done["written"] == 4
    [(content, older)] = desk.past.contents
    assert not older
    assert [one.state for one in content.overrides] == ["drain"]
    assert {one.key for one in content.endpoints} == {one.key for one in (*LEASED, FIXED)}
    assert {one.id: (one.ttl, one.endpoints) for one in content.leases} == {
        "h1": (77, (f"{SERVICE}/l1",)), "h2": (UNKNOWN_TTL_S, (f"{SERVICE}/l2",))}
    assert not content.gone
    assert desk.past.begun == [(EPOCH + 1, (EPOCH, 50), True)]


async def test_what_had_gone_goes_again(desk: Desk) -> None:
    back = [endpoint(f"back{i}", f"192.0.2.{i + 20}") for i in range(3)]
    desk.hold(site("one"), site("two"), service(), FIXED, *back, epoch=EPOCH, version=3)
    await desk.step()
    assert "went back" in desk.intake.held
    await desk.custody.restore("*", "test")
    [(content, older)] = desk.past.contents
    assert older
    assert content.gone == [(Kind.ENDPOINT, one.key) for one in back] + [(Kind.SITE, "two")]


async def test_an_image_alone_cannot_be_restored(desk: Desk) -> None:
    desk.intake._epoch = 0
    desk.intake.held, desk.intake.judged = "held", Position(EPOCH + 1, 3, "3-0", "c")
    desk.intake.judgement = Judgement("held")
    with pytest.raises(Conflict, match="does not know the fleet"):
        await desk.custody.restore("*", "test")
