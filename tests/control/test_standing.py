"""What health leaves of a family's endpoints: never nobody, and always with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control.standing import WHOLE, Candidate, Measured, sift
from dnsd.steer.health import State

SIGNS = {"+": State.UP, "-": State.DOWN, "x": State.DOWN, "?": State.UNKNOWN, "~": State.DEGRADED}


def candidates(text: str) -> list[Candidate]:
    """One endpoint a sign, each at a site of its own; `!` before a sign: forced up; x: down, and never was up."""
    found: list[Candidate] = []
    forced = False
    for sign in text:
        if sign == "!":
            forced = True
            continue
        number = len(found)
        measured = Measured(SIGNS[sign], result="timeout" if sign in "-x" else "", proven=sign != "x")
        found.append(Candidate(f"e{number}", f"s{number}", 0, 100, measured, forced))
        forced = False
    return found


@pytest.mark.parametrize(("text", "fallback", "answered", "held", "panic"), [
    ("", False, "", "", False),
    ("+", False, "0", "", False),
    ("?", False, "0", "", False),          # nothing else is there
    ("?", True, "0", "", False),           # it has registered, which a fallback has not
    ("+?", False, "0", "", False),
    ("~?", False, "0", "", False),
    ("-?", False, "01", "", True),         # all that was probed is down
    ("-?", True, "", "", False),           # one that nobody knows is no reason to answer the dead
    ("-", False, "0", "", True),
    ("-", True, "", "", False),            # the fallback is answered
    ("--", True, "", "", False),
    ("--", False, "01", "", True),
    ("+-", False, "0", "", False),
    ("+--", False, "02", "2", False),      # one a minute
    ("+--?", False, "02", "2", False),
    ("!-", False, "0", "", False),         # forced beats measured
    ("!-", True, "0", "", False),
    ("!--", False, "0", "", False),
    ("!??", False, "0", "", False),
    ("+x", False, "0", "", False),
    ("+xxxxx", False, "0", "", False),     # what never was up takes nothing when it goes: no limit holds it
    ("+" + 20 * "x", False, "0", "", False),   # and is none of the weight that is too little
    ("x", False, "0", "", True),           # nothing else is there
    ("xx", False, "01", "", True),
    ("xx", True, "", "", False),
    ("x?", False, "1", "", False),
    ("x?", True, "1", "", False),
    ("-x", False, "0", "", True),
    ("-x?", False, "02", "", True),
    ("-x", True, "", "", False),
    ("!x", True, "0", "", False),
])
def test_who_is_answered(text: str, fallback: bool, answered: str, held: str, panic: bool) -> None:
    found = sift(candidates(text), (), 0, fallback=fallback)
    assert sorted(found.shares) == [f"e{n}" for n in answered]
    assert sorted(found.held) == [f"e{n}" for n in held]
    assert found.panic is panic


def test_reasons() -> None:
    found = sift(candidates("+-?x"), (), 0, fallback=False)
    assert found.out == {"e1": "down: timeout", "e2": "not probed yet", "e3": "never up: timeout"}
    refused = candidates("+?")
    refused[1] = refused[1]._replace(measured=Measured(State.UNKNOWN, result="not probed: private use"))
    assert sift(refused, (), 0, fallback=False).out == {"e1": "not probed: private use"}
    bad = Measured(State.DOWN, result="refused")
    group = [Candidate(f"a{n}", "a", 0, 100, bad if n else Measured()) for n in range(3)]
    found = sift([*group, *(Candidate(f"b{n}", "b", 0, 100, Measured()) for n in range(3))], (), 0, fallback=False)
    assert found.out == {"a1": "down: refused", "a2": "down: refused", "a0": "under half of tier 0 at a is healthy"}


def test_shares_and_doubt() -> None:
    slow = Candidate("e0", "s", 0, 100, Measured(share=250))
    assert sift([slow], (), 0, fallback=False).shares == {"e0": 250}
    assert sift([slow._replace(forced=True)], (), 0, fallback=False).shares == {"e0": WHOLE}
    doubted = Candidate("e1", "s", 0, 100, Measured(doubt=True))
    assert sift([slow, doubted], (), 0, fallback=False).doubt
    assert not sift([slow], (), 0, fallback=False).doubt
    assert not sift([doubted._replace(forced=True)], (), 0, fallback=False).doubt
    assert sift(candidates("+--"), (), 0, fallback=False).doubt, "one that is down is answered until there is room"
    assert sift(candidates("--"), (), 0, fallback=False).doubt
    assert not sift(candidates("+-"), (), 0, fallback=False).doubt
    assert not sift(candidates("!-"), (), 0, fallback=False).doubt
    panicking = [Candidate("e0", "s", 0, 100, Measured(State.DOWN, share=125))]
    assert sift(panicking, (), 0, fallback=False).shares == {"e0": WHOLE}


def test_removals_are_remembered() -> None:
    first = sift(candidates("+--"), (), 0, fallback=False)
    assert sift(candidates("+--"), first.removals, 59_999, fallback=False) == first
    later = sift(candidates("+--"), first.removals, 60_000, fallback=False)
    assert sorted(later.shares) == ["e0"]


def test_points() -> None:
    """What is answered in spite of health is not put behind all others by it: that would be leaving it out."""
    assert sift(candidates("+~--"), (), 0, fallback=False).points == {"e0": 1000, "e1": 500, "e3": 1000}
    assert sift(candidates("+!-"), (), 0, fallback=False).points == {"e0": 1000, "e1": 1000}
    assert sift(candidates("--"), (), 0, fallback=False).points == {"e0": 1000, "e1": 1000}


@pytest.mark.parametrize(("text", "spare", "fallback", "answered"), [
    ("+", "+", False, "0"), ("-", "+", False, "s0"), ("-", "+", True, ""), ("-", "-", False, "0"),
    ("--", "+-~", False, "s0 s2"), ("+-", "+", False, "0"), ("-", "?", False, "0"), ("?", "+", False, "s0"),
    ("x", "+", False, "s0"), ("!-", "+", False, "0"), ("", "+", False, "s0"),
])
def test_drained_ones_stand_in_for_the_dead(text: str, spare: str, fallback: bool, answered: str) -> None:
    drained = [one._replace(id=f"s{n}") for n, one in enumerate(candidates(spare))]
    found = sift(candidates(text), (), 0, fallback=fallback, spare=drained)
    assert [id_.removeprefix("e") for id_ in sorted(found.shares)] == answered.split()


def test_when_time_alone_changes_it() -> None:
    """At the next step of a ramp, or as soon as there is room for what is held."""
    ramping = [Candidate("e0", "s", 0, 100, Measured(share=250, step_ms=5000))]
    assert sift(ramping, (), 4000, fallback=False).due_ms == 5000
    first = sift(candidates("+--"), (), 4000, fallback=False)
    assert (first.due_ms, sift(candidates("+--"), first.removals, 20_000, fallback=False).due_ms) == (64_000, 64_000)
    assert sift([*candidates("+--"), *ramping], first.removals, 4000, fallback=False).due_ms == 5000
    assert sift(candidates("+--"), first.removals, 64_000, fallback=False).due_ms == 0
    assert sift(candidates("+-"), (), 4000, fallback=False).due_ms == 0


@given(st.text("+-x?~", min_size=1, max_size=10), st.booleans())
def test_never_nobody_and_everybody_has_a_place(text: str, fallback: bool) -> None:
    """Empty only where the fallback answers; who is not answered has a reason, and nobody is in two places."""
    those = candidates(text)
    found = sift(those, (), 0, fallback=fallback)
    assert found.shares or (fallback and not set(text) & {"+", "~"} and set(text) != {"?"})
    assert found.shares.keys() | found.out.keys() == {c.id for c in those}
    assert not found.shares.keys() & found.out.keys()
    assert found.held <= found.shares.keys()
    if "+" in text and not found.panic:
        assert any(those[int(id_[1:])].measured.state is State.UP for id_ in found.shares)
