"""Three nodes and a store under whatever happens, drawn at random: every law holds all the time.

Lives here: how much of it is run. Does not live here: what can happen (`machine`), the nodes (`world`), the laws
(`laws`). `MACHINE_STEPS=1000000` goes on for that many steps over all cores (`long`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine import long
from tests.machine.machine import Machine

EXAMPLES, STEPS = 6, 25


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(2))
def test_every_law_holds_whatever_happens(number: int) -> None:
    bounded = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=True)
    run_state_machine_as_test(seed(number)(Machine), settings=bounded)


def test_a_long_run_ends_where_descriptors_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "MOST_OPEN", 1)
    with pytest.raises(long.Leak, match="before seed 0"):
        long.one(0)


@pytest.mark.parametrize("broken", [False, True])
def test_a_world_that_ends_has_nothing_open(broken: bool) -> None:
    before = held()
    machine = Machine()
    world = machine.world
    machine.fleet()
    for number in range(4):  # the first makes an image file, what comes soon after goes into its journal
        machine.override("a.example.com", f"e{number}", "s0", "endpoint", "drain", 30)
        machine.go(0.1)
    assert any("journal" in path for path in held() - before)
    machine.holders.end()
    if broken:
        run = world.nodes[1].run
        assert run is not None
        run.task.cancel()
        world.do(asyncio.wait([run.task]))
        run.task = world.loop.create_task(fails())
        world.do(asyncio.wait([run.task]))
    with pytest.raises(ArithmeticError) if broken else contextlib.nullcontext():
        world.close()
    left = {path for path in held() - before if "/image " not in path and "/stats " not in path}
    assert not left, "what is mapped goes with its last use"


async def fails() -> int:
    raise ArithmeticError("by a fault")


def held() -> set[str]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


if "MACHINE_STEPS" in os.environ:
    @pytest.mark.timeout(0)
    def test_every_law_holds_for_long() -> None:
        assert long.run(int(os.environ["MACHINE_STEPS"])) == []
