"""Three nodes and a store under whatever happens, drawn at random: every law holds all the time.

Lives here: what can happen. Does not live here: the nodes (`world`), the laws (`laws`).

A bounded run with fixed seeds is part of every test run; `MACHINE_STEPS=1000000` goes on for that many steps over all
cores (`long`).
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine

EXAMPLES, STEPS = 12, 40


@pytest.mark.parametrize("number", range(3))
def test_every_law_holds_whatever_happens(number: int) -> None:
    bounded = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=True)
    run_state_machine_as_test(seed(number)(Machine), settings=bounded)


