"""Sums of a simulation, against what they must be by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control import outcome
from dnsd.control.outcome import FALLBACK, NOBODY, Asked, Tally, Told

MS = {"a": 10.0, "b": 30.0, "c": 100.0}


def asked(before: dict[str, float], after: dict[str, float], weight: float = 1.0, **groups: str) -> Asked:
    return Asked(weight, groups, Told(before, MS), Told(after, MS))


@pytest.mark.parametrize(("before", "after", "expected"), [
    ({"a": 1.0}, {"a": 1.0}, {}),
    ({"a": 1.0}, {"b": 1.0}, {("a", "b"): 1.0}),
    ({"a": 0.5, "b": 0.5}, {"b": 0.5, "c": 0.5}, {("a", "c"): 0.5}),
    ({"a": 1.0}, {"b": 0.25, "c": 0.75}, {("a", "b"): 0.25, ("a", "c"): 0.75}),
    ({"a": 0.5, "b": 0.5}, {"c": 1.0}, {("a", "c"): 0.5, ("b", "c"): 0.5}),
])
def test_moves(before: dict[str, float], after: dict[str, float], expected: dict[tuple[str, str], float]) -> None:
    assert outcome.moves(before, after) == pytest.approx(expected)


@st.composite
def shares(draw: st.DrawFn) -> dict[str, float]:
    parts = draw(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1))
    return {site: part / sum(parts.values()) for site, part in parts.items()}


@given(shares(), shares())
def test_moves_take_one_to_the_other(before: dict[str, float], after: dict[str, float]) -> None:
    found = outcome.moves(before, after)
    for site in {*before, *after}:
        change = sum(share for (_, to), share in found.items() if to == site) - sum(
            share for (source, _), share in found.items() if source == site)
        assert before.get(site, 0) + change == pytest.approx(after.get(site, 0))
    assert all(share > 0 and source != to for (source, to), share in found.items())


def test_a_tally() -> None:
    tally = Tally(alive=("b", "c"))
    tally.add(asked({"a": 1.0}, {"b": 1.0}, 3, countries="DE"))  # had to
    tally.add(asked({"b": 1.0}, {"c": 1.0}, 1, countries="DE"))  # need not
    tally.add(asked({"c": 1.0}, {"c": 1.0}, 4, countries="FR"))
    tally.add(asked({NOBODY: 1.0}, {"b": 1.0}, 2, countries="PE"))  # had nothing
    told = tally.told()
    assert (told["clients_weight"], told["moved"], told["had_to"]) == (10, 0.6, 0.3)
    assert told["before"]["sites"] == {NOBODY: 0.2, "a": 0.3, "b": 0.1, "c": 0.4}
    assert told["before"]["rtt_ms"]["mean"] == pytest.approx((3 * 10 + 30 + 400) / 8)
    assert told["before"]["rtt_ms"]["known_of"] == 0.8
    assert told["after"]["rtt_ms"]["mean"] == pytest.approx((5 * 30 + 500) / 10)
    assert told["flows"][0] == {"from": "a", "to": "b", "share": 0.3, "before_ms": 10, "after_ms": 30}
    assert told["countries"][0] == {
        "name": "DE", "share": 0.4, "moved": 1.0, "from": "a", "to": "b", "before_ms": 15, "after_ms": 47.5}
    assert [group["name"] for group in told["countries"]] == ["DE", "PE", "FR"]


@pytest.mark.parametrize(("source", "had_to"), [("a", 1.0), ("b", 0.0), (NOBODY, 0.0), (FALLBACK, 0.0)])
def test_who_had_to(source: str, had_to: float) -> None:
    tally = Tally(alive=("b", "c"))
    tally.add(asked({source: 1.0}, {"c": 1.0}))
    assert (tally.told()["moved"], tally.told()["had_to"]) == (1.0, had_to)


def test_nobody() -> None:
    told = Tally(()).told()
    assert (told["moved"], told["before"]["rtt_ms"], told["flows"]) == (0.0, None, [])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5)), min_size=1, max_size=30))
def test_quantiles_are_those_of_single_clients(found: list[tuple[int, int]]) -> None:
    singles = sorted(ms for ms, weight in found for _ in range(weight))
    for step in (0.05, 0.5, 0.95, 0.99, 1.0):
        [value] = outcome.quantiles([(float(ms), float(weight)) for ms, weight in found], [step])
        assert sum(one <= value for one in singles) >= step * len(singles) - 1e-6
        assert sum(one < value for one in singles) < step * len(singles) + 1e-6


def test_a_site_against_its_capacity() -> None:
    site = {"id": "a", "capacity_before": None, "capacity_after": 40}
    assert outcome.filled(site, 0.25, 0.5, load=100) == {
        "site": "a", "before": 0.25, "after": 0.5, "capacity_before": None, "capacity_after": 40, "load_before": 25,
        "load_after": 50, "used_before": None, "used_after": 1.25, "full": True}
    assert outcome.filled(site, 0.25, 0.5, load=None)["full"] is False
