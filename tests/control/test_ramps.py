"""A ramp takes its time, whatever becomes of wall clocks: probes, breakers, rules, verdicts, a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from dnsd.control.clock import Steady
from dnsd.control.standing import Measured
from tests.control import test_health, test_reports, test_rules
from tests.control.fleet_samples import SERVICE, service
from tests.control.judging import World
from tests.control.test_removed import Jumping
from tests.control.test_reports import ONE, Time

OFF_S = [15, -15, 3600, -3600]
SECONDS = 16
RAMP = [min(1000, 125 * (int((second + 0.5) / 1.25) + 1)) for second in range(SECONDS)]
"""Of ten seconds, each second from half a second on."""


def followed(clock: Time, off_s: int, state: Callable[[], Measured]) -> list[int]:
    """The share each second; after three seconds the clock jumps. When it grows next is always to come."""
    shares = []
    for second in range(SECONDS):
        clock.now_ms += 500
        if second == 3:
            clock.off_ms += off_s * 1000
        found = state()
        shares.append(found.share)
        assert found.step_ms == 0 or 0 < found.step_ms - clock.unix_ms() <= 1250
        assert bool(found.step_ms) == (found.share < 1000)
        clock.now_ms += 500
    return shares


@pytest.mark.parametrize("off_s", [0, *OFF_S])
def test_of_what_probes_find(off_s: int) -> None:
    rig = test_health.Rig(service(check=test_health.CHECK), test_health.TWO)
    rig.see("two", "+---++")
    assert followed(rig.clock, off_s, lambda: rig.state("two")) == RAMP


@pytest.mark.parametrize("off_s", OFF_S)
def test_of_what_probes_find_while_they_go_on(off_s: int) -> None:
    rig = test_health.Rig(service(check=test_health.CHECK), test_health.TWO)
    rig.see("two", "+---++")

    def seen() -> Measured:
        rig.see("two", "+")
        return rig.state("two")

    assert followed(rig.clock, off_s, seen) == RAMP
    assert abs((rig.health.told(SERVICE, "two", 1) or {})["since_ms"] - rig.clock.unix_ms()) <= SECONDS * 1000


def breaker(off_s: int) -> list[int]:
    """The share of one whose breaker closes."""
    rig = test_reports.Rig()
    rig.reports.report("web", [test_reports.FAILS])
    rig.wait(31_000)
    rig.reports.report("web", [test_reports.Told(ONE, "web", 20, 0)])
    rig.wait(1000)

    def seen() -> Measured:
        asyncio.run(rig.reports.look())
        return rig.advise()

    return followed(rig.clock, off_s, seen)


@pytest.mark.parametrize("off_s", OFF_S)
def test_of_a_breaker_that_closes(off_s: int) -> None:
    shares = breaker(0)
    assert shares[0] < shares[3] < 1000 == shares[-1]
    assert breaker(off_s) == shares


@pytest.mark.parametrize("off_s", OFF_S)
def test_a_breaker_opens_and_tries_in_its_own_time(off_s: int) -> None:
    rig = test_reports.Rig()
    rig.reports.report("web", [test_reports.FAILS])
    rig.clock.off_ms = off_s * 1000
    rig.wait(29_500)
    assert rig.state("one") is test_reports.State.DOWN
    rig.wait(500)
    assert rig.advise().share == 50


@pytest.mark.asyncio
@pytest.mark.parametrize("off_s", [0, *OFF_S])
async def test_of_a_rule_that_is_kept_again(off_s: int) -> None:
    rig = test_rules.Rig()
    rig.says = {"one": 0.1, "two": 1.0}
    await rig.turn(21_000)
    assert rig.state() is test_rules.State.DOWN
    rig.says = {"one": 1.0, "two": 1.0}
    while rig.state() is test_rules.State.DOWN:
        await rig.turn()
    rig.clock.now_ms -= 1000
    assert followed(rig.clock, off_s, rig.advise) == RAMP


@pytest.mark.asyncio
@pytest.mark.parametrize("off_s", OFF_S)
async def test_of_a_rule_that_is_not_bad_for_long_enough_yet(off_s: int) -> None:
    rig = test_rules.Rig()
    rig.says = {"one": 0.1, "two": 1.0}
    await rig.turn(6000)
    rig.clock.off_ms = off_s * 1000
    await rig.turn(9000)
    assert rig.state() is test_rules.State.UP, "fifteen seconds have not passed"
    await rig.turn(6000)
    assert rig.state() is test_rules.State.DOWN


@pytest.mark.asyncio
@pytest.mark.parametrize("off_s", OFF_S)
@pytest.mark.parametrize("who", ["builder", "others", "builder leaves", "alone"])
async def test_of_what_is_decided_for_all(off_s: int, who: str) -> None:
    world = World()
    world.add("x", "y", "z")
    world.fleet(3, sites=("one", "two", "three"))
    await world.pass_s(4)
    if who == "builder leaves":
        for name in world.nodes.keys() - {world.builder()}:
            world[name].clock.off = off_s
    world.see([1], False)
    await world.pass_s(5)
    world.see([1], True)
    while world["x"].measured("e1").state is not test_rules.State.UP:
        await world.pass_s(0.1)
    builder, shares = world.builder(), []
    for tenths in range(130):
        if tenths == 30 and who == "builder leaves":
            await world.remove(builder)
        elif tenths == 30:
            world.store.away = who == "alone"
            for name in world.nodes:
                if (name == builder) == (who == "builder") or who == "alone":
                    world[name].clock.off = off_s
        [share] = {node.measured("e1").share for node in world.nodes.values() if node.name != builder} if (
            who != "builder") else {world["x"].measured("e1").share}
        shares.append(share)
        await world.pass_s(0.1)
    await world.end()
    assert sorted(shares) == shares, "it goes one way"
    first = {share: shares.index(share) / 10 for share in set(shares)}
    assert set(first) == {125, 250, 375, 500, 625, 750, 875, 1000}
    late = 4 if who == "builder leaves" else 0.6
    assert all(0 <= first[share] - 1.25 * (share / 125 - 1) + 0.2 <= late + 0.2 for share in first), first


@pytest.mark.parametrize("off_s", [0, *OFF_S[:2]])
def test_over_a_restart(off_s: int, tmp_path: Path) -> None:
    """How long it took nobody knows: where the ramp was it goes on."""
    rig = test_health.Rig(service(check=test_health.CHECK), test_health.TWO)
    rig.see("two", "+---++")
    rig.clock.now_ms += 5000
    path = tmp_path / "health.json"
    path.write_bytes(rig.health.dump()())
    again = test_health.Rig()
    again.clock.now_ms = rig.clock.now_ms + off_s * 1000
    again.health._steady = Steady(again.clock)
    again.health.restore(path)
    again.change(service(check=test_health.CHECK), test_health.TWO)
    assert again.state("two").share == RAMP[5]
    again.see("two", "+")
    assert followed(again.clock, 0, lambda: again.state("two")) == RAMP[5:] + [1000] * 5


@pytest.mark.parametrize("off_s", [0, *OFF_S[:2]])
def test_of_a_breaker_over_a_restart(off_s: int, tmp_path: Path) -> None:
    rig = test_reports.Rig(state=tmp_path)
    rig.reports.report("web", [test_reports.FAILS])
    rig.wait(20_000)
    rig.reports._unsaved = True
    rig.reports.save()
    clock = Time()
    clock.now_ms = rig.clock.now_ms + off_s * 1000
    again = test_reports.Rig(state=tmp_path, clock=clock)
    again.reports.take_over()
    assert again.state("one") is test_reports.State.DOWN
    again.wait(9500)
    assert again.state("one") is test_reports.State.DOWN
    again.wait(500)
    assert again.advise().share == 50


def test_steady_time() -> None:
    clock = Jumping()
    steady = Steady(clock)
    began = clock.ms
    clock.ms += 1000
    clock.off_ms = 400
    assert (steady.now_ms(), steady.jumped_ms()) == (began + 1400, 0), "noise"
    clock.off_ms = 15_000
    assert (steady.now_ms(), steady.jumped_ms()) == (began + 1000, 15_000)
    clock.off_ms = -15_000
    assert (steady.now_ms(), steady.jumped_ms()) == (began + 1000, -15_000)
    assert steady.met(0) == began + 1000
