"""From results to states: tables of what is seen, and what holds for any row of results."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer.health import HALF_MS, WHOLE, Cell, Rules, State, moved, needed, paced, seen, share, step_at, weighed

U, UP, SLOW, DOWN = State
RULES = Rules()
STEP = 500
RTT = {"+": 20.0, "m": 700.0, "s": 900.0, "-": 0.0}


def after(results: str, rules: Rules = RULES, cell: Cell | None = None, start: int = 1) -> Cell:
    """The cell after these results (+ good, m not quick, s slow, - bad), half a second apart."""
    cell = cell or Cell()
    for number, one in enumerate(results):
        cell = seen(cell, one != "-", start + number * STEP, rules, rtt_ms=RTT[one])
    return cell


@pytest.mark.parametrize(("results", "state", "doubt"), [
    ("", U, False), ("+", UP, False), ("-", U, True), ("--", U, True), ("---", DOWN, False), ("--+", UP, False),
    ("+-", UP, True), ("+--", UP, True), ("+---", DOWN, False), ("+--+--+--", UP, True), ("+-+", UP, False),
    ("+---+", DOWN, False), ("+---++", UP, False), ("+---+-+", DOWN, False), ("+----------", DOWN, False),
    ("---++", UP, False),
    ("s", UP, False), ("ss", UP, False), ("sss", SLOW, False), ("+sss", SLOW, False), ("ssmss", UP, False),
    ("ss+ss", UP, False), ("ss-s", SLOW, False), ("s--s--s", SLOW, False), ("sss-", SLOW, True),
    ("sss---", DOWN, False),
    ("sss" + 9 * "+", SLOW, False), ("sss" + 10 * "+", UP, False), ("sss" + 5 * "+" + "-" + 5 * "+", UP, False),
    ("sss" + 9 * "+" + "m+", SLOW, False), ("sss" + 9 * "+" + "s+", SLOW, False), ("sss" + 30 * "m", SLOW, False),
    ("sss---++", SLOW, False), ("+---+s", UP, False), ("+---s-ss", SLOW, False), ("mmmmmm", UP, False),
])
def test_states(results: str, state: State, doubt: bool) -> None:
    cell = after(results)
    assert (cell.state, cell.doubt) == (state, doubt)


@pytest.mark.parametrize(("rules", "down", "up"), [(Rules(1, 1), "-", "+"), (Rules(4, 2), "--", "++++")])
def test_rise_and_fall_are_what_the_rules_say(rules: Rules, down: str, up: str) -> None:
    fallen = after(down, rules, after("+", rules))
    assert fallen.state is DOWN
    assert after(down[:-1], rules, after("+", rules)).state is UP
    assert after(up[:-1], rules, fallen).state is DOWN
    assert after(up, rules, fallen).state is UP


def test_what_falls_often_must_succeed_longer() -> None:
    """Each fall doubles it, at most eightfold; a quiet time halves the memory of falls."""
    cell, wanted = after("+"), []
    for _ in range(6):
        cell = after("---", cell=cell, start=1000)
        wanted.append(needed(cell, RULES))
        assert after("+" * (wanted[-1] - 1), cell=cell, start=1000).state is DOWN
        cell = after("+" * wanted[-1], cell=cell, start=1000)
        assert cell.state is UP
    assert wanted == [2, 4, 8, 16, 16, 16]
    calm = seen(cell, True, 1000 + 10 * HALF_MS, RULES)
    assert needed(calm, RULES) == 2


@pytest.mark.parametrize(("rtt_ms", "slow"), [(800.0, False), (800.1, True), (10_000.0, True)])
def test_the_bound_of_slow(rtt_ms: float, slow: bool) -> None:
    after_three = False, 0
    for _ in range(3):
        assert after_three[0] is False
        after_three = paced(*after_three, rtt_ms)
    assert after_three == (slow, 0)


@pytest.mark.parametrize(("rtt_ms", "slow"), [(600.0, True), (599.9, False), (0.1, False)])
def test_the_bound_of_quick(rtt_ms: float, slow: bool) -> None:
    after_ten = True, 0
    for _ in range(10):
        assert after_ten[0] is True
        after_ten = paced(*after_ten, rtt_ms)
    assert after_ten == (slow, 0)


@pytest.mark.parametrize("seed", range(20))
def test_steps_of_round_trips_with_noise(seed: int) -> None:
    """50 -> 1100 -> 450 ms, each a fifth off: slow with the third sample and never before it, quick with the tenth.

    Single and double spikes to 3 s, and dips of up to nine samples, change nothing.
    """
    chance = random.Random(seed)
    cell, at = Cell(), [10**6]

    def sample(middle_ms: float) -> State:
        nonlocal cell
        at[0] += STEP
        cell = seen(cell, True, at[0], RULES, rtt_ms=middle_ms * chance.uniform(0.8, 1.2))
        return cell.state

    for _ in range(50):
        assert all(sample(50) is UP for _ in range(chance.randint(1, 20)))
        assert all(sample(2500) is UP for _ in range(chance.randint(1, 2)))  # a spike
    assert sample(50) is UP
    assert [sample(1100) for _ in range(3)] == [UP, UP, SLOW]
    for _ in range(50):
        assert all(sample(1100) is SLOW for _ in range(chance.randint(1, 20)))
        assert all(sample(450) is SLOW for _ in range(chance.randint(1, 9)))  # a dip
    assert sample(1100) is SLOW
    assert [sample(450) for _ in range(10)] == [SLOW] * 9 + [UP]


@pytest.mark.parametrize("seed", range(20))
def test_round_trips_around_a_bound_do_not_flap(seed: int) -> None:
    """Around 800 ms it becomes slow once at most and stays; around 600 ms what is up stays up."""
    chance = random.Random(seed)
    for middle_ms, most in ((800, 1), (600, 0), (700, 1)):
        slow, pace, changes = False, 0, 0
        for _ in range(5000):
            before = slow
            slow, pace = paced(slow, pace, middle_ms * chance.uniform(0.8, 1.2))
            changes += slow is not before
        assert changes <= most


@pytest.mark.parametrize(("passed", "left"), [
    (0, 1000), (HALF_MS // 2, 750), (HALF_MS, 500), (3 * HALF_MS // 2, 375), (2 * HALF_MS, 250), (-5, 1000)])
def test_falls_are_forgotten_by_halves(passed: int, left: int) -> None:
    assert weighed(Cell(weight=1000, weighed_ms=10_000), 10_000 + passed) == left


@pytest.mark.parametrize(("passed", "expected"), [
    (0, 125), (1249, 125), (1250, 250), (5000, 625), (8750, 1000), (9999, 1000), (10_000, 1000), (10**9, 1000)])
def test_weight_comes_back_in_eighths(passed: int, expected: int) -> None:
    cell = after("+---++")
    assert share(cell, cell.back_ms + passed, RULES) == expected


@pytest.mark.parametrize(("ramp_ms", "steps"), [
    (10_000, [1250, 2500, 3750, 5000, 6250, 7500, 8750]), (7, [1, 2, 3, 4, 5, 6, 7]), (3, [1, 2, 3]), (0, [])])
def test_when_the_next_part_comes(ramp_ms: int, steps: list[int]) -> None:
    """Asked at each step, all of them; never in the past, and none once all is back."""
    rules = Rules(ramp_ms=ramp_ms)
    cell = after("+---++", rules)
    found, now = [], cell.back_ms
    while (at := step_at(cell, now, rules)) != 0:
        assert at > now
        assert share(cell, at, rules) > share(cell, at - 1, rules) == share(cell, now, rules)
        found.append(at - cell.back_ms)
        now = at
    assert share(cell, now, rules) == WHOLE
    assert found == steps
    assert step_at(after("+"), 5, RULES) == 0


def test_a_clock_that_is_set_back_skips_no_ramp_and_holds_none_up() -> None:
    cell = after("+---++", start=10**6)
    assert share(cell, cell.back_ms - 300, RULES) == WHOLE // 8
    assert step_at(cell, cell.back_ms - 300, RULES) == cell.back_ms + RULES.ramp_ms // 8
    cell = seen(cell, True, 5000, RULES)
    assert share(cell, 5500, RULES) == WHOLE // 8
    assert share(cell, 5000 + RULES.ramp_ms, RULES) == WHOLE, "from then on"


def test_times_by_another_clock() -> None:
    cell = after("+---++", start=10**6)
    later = moved(cell, 7)
    assert (later.since_ms, later.back_ms, later.weighed_ms) == (
        cell.since_ms + 7, cell.back_ms + 7, cell.weighed_ms + 7)
    assert moved(later, -7) == cell
    assert moved(Cell(), 7) == Cell(), "what has not been stays so"
    assert moved(cell, -10**9).back_ms == 1, "and what was, was"


@pytest.mark.parametrize(("results", "proven"), [
    ("---", False), ("+---", True), ("sss---", True), ("---++---", True), ("---+-", False), ("-----", False)])
def test_whether_it_has_ever_been_up(results: str, proven: bool) -> None:
    cell = after(results)
    assert (cell.state, cell.proven) == (DOWN, proven)


def test_no_ramp_without_a_fall() -> None:
    assert share(after("+"), 1, RULES) == WHOLE
    assert share(after("+---"), 2000, RULES) == WHOLE  # it is not answered at all
    back = after("+---++", Rules(ramp_ms=0))
    assert share(back, back.back_ms, Rules(ramp_ms=0)) == WHOLE


@given(st.text("+-sm", max_size=60), st.builds(Rules, st.integers(1, 6), st.integers(1, 6), st.integers(0, 20_000)),
       st.lists(st.integers(-2000, 120_000), min_size=60, max_size=60))
def test_what_holds_for_any_results(results: str, rules: Rules, gaps: list[int]) -> None:
    """Down only after `fall` failures in a row, up again only after `rise` successes; time never undoes a state."""
    cell, now = Cell(), 10**6
    for one, gap in zip(results, gaps, strict=False):
        now += gap
        before, cell = cell, seen(cell, one != "-", now, rules, rtt_ms=RTT[one])
        assert 0 < share(cell, now, rules) <= WHOLE
        assert 0 <= cell.weight < 10**6
        if cell.state is DOWN and before.state is not DOWN:
            assert cell.streak == -max(rules.fall, 1) or -cell.streak >= rules.fall
        if before.state is DOWN and cell.state is not DOWN:
            assert cell.streak >= rules.rise
            assert cell.back_ms == now
        if one == "-":
            assert cell.doubt is (cell.state is not DOWN)
        else:
            assert not cell.doubt
