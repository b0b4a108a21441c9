"""Three nodes and a store under whatever happens, drawn at random: every law holds all the time.

Lives here: how much of it is run. Does not live here: what can happen (`machine`), the nodes (`world`), the laws
(`laws`). `MACHINE_STEPS=1000000` goes on for that many steps over all cores (`long`).
"""

from __future__ import annotations

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


def test_a_world_that_ends_has_nothing_open() -> None:
    def mine() -> list[str]:
        return [path for path in held() if str(world.home) in path]

    machine = Machine()
    world = machine.world
    machine.fleet()
    for number in range(4):  # the first makes an image file, what comes soon after goes into its journal
        machine.override("a.example.com", f"e{number}", "s0", "endpoint", "drain", 30)
        machine.go(0.1)
    assert any("journal" in path for path in mine())
    machine.holders.end()
    world.close()
    assert not any("journal" in path or "fleet" in path for path in mine())


def held() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


if "MACHINE_STEPS" in os.environ:
    @pytest.mark.timeout(0)
    def test_every_law_holds_for_long() -> None:
        assert long.run(int(os.environ["MACHINE_STEPS"])) == []
