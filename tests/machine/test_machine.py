"""Three nodes and a store under whatever happens, drawn at random: every law holds all the time.

Lives here: how much of it is run. Does not live here: what can happen (`machine`), the nodes (`world`), the laws
(`laws`). `MACHINE_STEPS=1000000` goes on for that many steps over all cores (`long`).
"""

from __future__ import annotations

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


if "MACHINE_STEPS" in os.environ:
    @pytest.mark.timeout(0)
    def test_every_law_holds_for_long() -> None:
        assert long.run(int(os.environ["MACHINE_STEPS"])) == []
