"""What health may take when results flap: from results over states to removals, and what holds at every moment.

Lives here: rows of results and of times. Does not live here: single cases of states (`test_health`) and of limits
(`test_limits`).
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer.health import Cell, Rules, State, seen
from dnsd.steer.limits import WINDOW_MS, Limited, Memory, Subject, limited

FLEETS = {
    "ten at five sites": [Subject(f"e{n}", "abcde"[n // 2], 0, 100, False) for n in range(10)],
    "two tiers of three": [Subject(f"e{n}", "abc"[n % 3], n // 3, 100, False) for n in range(6)],
    "one big, many small": [Subject("big", "a", 0, 500, False),
                            *(Subject(f"e{n}", f"b{n}", 0, 50, False) for n in range(10))],
    "a tier, and a small one that stands by": [*(Subject(f"e{n}", "abcd"[n % 4], 0, 100, False) for n in range(8)),
                                               Subject("small", "e", 1, 20, False)],
    "two": [Subject("e0", "a", 0, 100, False), Subject("e1", "b", 0, 100, False)],
}


class Moment(NamedTuple):
    now: int
    down: frozenset[str]
    found: Limited

    @property
    def gone(self) -> frozenset[str]:
        return frozenset(one.id for one in self.found.removed)


def moments(fleet: list[Subject], steps: list[tuple[int, list[bool]]]) -> Iterator[Moment]:
    """One after another: (time, who is down) to what is decided, with the memory of the one before."""
    before = Memory()
    for now, downs in steps:
        found = limited([s._replace(down=down) for s, down in zip(fleet, downs, strict=False)], before, now)
        yield Moment(now, frozenset(s.id for s, down in zip(fleet, downs, strict=False) if down), found)
        before = found.memory


def check(fleet: list[Subject], past: list[Moment]) -> None:
    """What holds at every moment, and of all that is out and was taken away within a minute."""
    weight = {s.id: s.weight for s in fleet}
    total = sum(weight.values())
    sites = [sum(s.weight for s in fleet if s.site == site) for site in {s.site for s in fleet}]
    tiers = [[s for s in fleet if s.tier == tier] for tier in {s.tier for s in fleet}]
    taken: list[tuple[int, str]] = []
    before: frozenset[str] = frozenset()
    for at in past:
        healthy = [sum(s.weight for s in tier if s.id not in at.down) * 10 >= sum(s.weight for s in tier)
                   for tier in tiers]
        assert at.found.panic is not any(healthy)
        if set(weight) - at.down:
            assert set(weight) - at.gone - at.down, "somebody healthy is answered"
        if not at.found.panic:
            assert at.down <= at.gone | at.found.held, "who is down is gone, or held and told so"
        assert not at.gone & at.found.held
        taken = [one for one in taken if at.now - one[0] < WINDOW_MS] + [(at.now, id_) for id_ in at.gone - before]
        within = {id_ for _, id_ in taken} & at.gone
        amount = sum(weight[id_] for id_ in within)
        assert len(within) <= 1 or amount <= max(sites) or amount * 100 <= total * 34, "within a minute"
        before = at.gone


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
@pytest.mark.parametrize("seed", range(20))
def test_results_that_flip_at_random(fleet: list[Subject], seed: int) -> None:
    """60 % of all results fail, anew each second, for five minutes."""
    chance = Random(f"{seed}")
    cells, steps = [Cell(State.UP)] * len(fleet), []
    for second in range(300):
        now = 10**6 + second * 1000
        cells = [seen(cell, chance.random() >= 0.6, now, Rules()) for cell in cells]
        steps.append((now, [cell.state is State.DOWN for cell in cells]))
    check(fleet, list(moments(fleet, steps)))


@pytest.mark.parametrize("fleet", FLEETS.values(), ids=FLEETS)
@pytest.mark.parametrize("seed", range(20))
def test_states_that_flip_at_random(fleet: list[Subject], seed: int) -> None:
    """The same without rise and fall between, four minutes long: the limits hold by themselves."""
    chance = Random(f"{seed}")
    steps = [(10**6 + second * 1000, [chance.random() < 0.6 for _ in fleet]) for second in range(240)]
    check(fleet, list(moments(fleet, steps)))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 200)), min_size=1, max_size=8),
       st.lists(st.tuples(st.integers(0, 40_000), st.lists(st.booleans(), min_size=8, max_size=8)), max_size=20))
def test_any_fleet_and_any_states(rows: list[tuple[str, int, int]], steps: list[tuple[int, list[bool]]]) -> None:
    fleet = [Subject(f"e{n}", site, tier, weight, False) for n, (site, tier, weight) in enumerate(rows)]
    now, timed = 0, []
    for gap, downs in steps:
        now += gap
        timed.append((now, downs))
    check(fleet, list(moments(fleet, timed)))
