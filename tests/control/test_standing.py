"""What health leaves of a family's endpoints: never nobody, and always with a reason."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control.standing import WHOLE, Candidate, Kept, Measured, sift
from dnsd.steer.health import State
from dnsd.steer.limits import Memory, Removal

NEW = Kept()
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
    ("+~", False, "0", "", False),         # what is slow stands by
    ("~~", False, "01", "", False),        # nobody is quick
    ("~", False, "0", "", False),
    ("+~~", False, "02", "2", False),      # one a minute
    ("+~-", False, "01", "1", False),      # and who is dead goes first
    ("!~", False, "0", "", False),
    ("!~~", False, "0", "", False),
    ("~-", False, "0", "", False),
    ("?~", False, "1", "", False),
])
def test_who_is_answered(text: str, fallback: bool, answered: str, held: str, panic: bool) -> None:
    found = sift(candidates(text), NEW, 0, fallback=fallback)
    assert sorted(found.shares) == [f"e{n}" for n in answered]
    assert sorted(found.held) == [f"e{n}" for n in held]
    assert found.panic is panic


def test_reasons() -> None:
    found = sift(candidates("+-?x"), NEW, 0, fallback=False)
    assert found.out == {"e1": "down: timeout", "e2": "not probed yet", "e3": "never up: timeout"}
    refused = candidates("+?")
    refused[1] = refused[1]._replace(measured=Measured(State.UNKNOWN, result="not probed: private use"))
    assert sift(refused, NEW, 0, fallback=False).out == {"e1": "not probed: private use"}
    bad = Measured(State.DOWN, result="refused")
    group = [Candidate(f"a{n}", "a", 0, 100, bad if n else Measured()) for n in range(3)]
    found = sift([*group, *(Candidate(f"b{n}", "b", 0, 100, Measured()) for n in range(3))], NEW, 0, fallback=False)
    assert found.out == {"a1": "down: refused", "a2": "down: refused", "a0": "under half of tier 0 at a is healthy"}


def test_shares_and_doubt() -> None:
    slow = Candidate("e0", "s", 0, 100, Measured(share=250))
    assert sift([slow], NEW, 0, fallback=False).shares == {"e0": 250}
    assert sift([slow._replace(forced=True)], NEW, 0, fallback=False).shares == {"e0": WHOLE}
    doubted = Candidate("e1", "s", 0, 100, Measured(doubt=True))
    assert sift([slow, doubted], NEW, 0, fallback=False).doubt
    assert not sift([slow], NEW, 0, fallback=False).doubt
    assert not sift([doubted._replace(forced=True)], NEW, 0, fallback=False).doubt
    assert sift(candidates("+--"), NEW, 0, fallback=False).doubt, "one that is down is answered until there is room"
    assert sift(candidates("--"), NEW, 0, fallback=False).doubt
    assert not sift(candidates("+-"), NEW, 0, fallback=False).doubt
    assert not sift(candidates("!-"), NEW, 0, fallback=False).doubt
    panicking = [Candidate("e0", "s", 0, 100, Measured(State.DOWN, share=125))]
    assert sift(panicking, NEW, 0, fallback=False).shares == {"e0": WHOLE}


def test_removals_are_remembered() -> None:
    first = sift(candidates("+--"), NEW, 0, fallback=False)
    assert sift(candidates("+--"), first.kept, 59_999, fallback=False) == first
    later = sift(candidates("+--"), first.kept, 60_000, fallback=False)
    assert sorted(later.shares) == ["e0"]


def test_points() -> None:
    """What is answered in spite of health is not put behind all others by it: that would be leaving it out."""
    assert sift(candidates("+~--"), NEW, 0, fallback=False).points == {"e0": 1000, "e1": 500, "e3": 1000}
    assert sift(candidates("+!-"), NEW, 0, fallback=False).points == {"e0": 1000, "e1": 1000}
    assert sift(candidates("--"), NEW, 0, fallback=False).points == {"e0": 1000, "e1": 1000}


@pytest.mark.parametrize(("text", "spare", "fallback", "answered"), [
    ("+", "+", False, "0"), ("-", "+", False, "s0"), ("-", "+", True, ""), ("-", "-", False, "0"),
    ("--", "+-~", False, "s0 s2"), ("+-", "+", False, "0"), ("-", "?", False, "0"), ("?", "+", False, "s0"),
    ("x", "+", False, "s0"), ("!-", "+", False, "0"), ("", "+", False, "s0"),
])
def test_drained_ones_stand_in_for_the_dead(text: str, spare: str, fallback: bool, answered: str) -> None:
    drained = [one._replace(id=f"s{n}") for n, one in enumerate(candidates(spare))]
    found = sift(candidates(text), NEW, 0, fallback=fallback, spare=drained)
    assert [id_.removeprefix("e") for id_ in sorted(found.shares)] == answered.split()


def test_when_time_alone_changes_it() -> None:
    """At the next step of a ramp, or as soon as there is room for what is held."""
    ramping = [Candidate("e0", "s", 0, 100, Measured(share=250, step_ms=5000))]
    assert sift(ramping, NEW, 4000, fallback=False).due_ms == 5000
    first = sift(candidates("+--"), NEW, 4000, fallback=False)
    assert (first.due_ms, sift(candidates("+--"), first.kept, 20_000, fallback=False).due_ms) == (64_000, 64_000)
    assert sift([*candidates("+--"), *ramping], first.kept, 4000, fallback=False).due_ms == 5000
    assert sift(candidates("+--"), first.kept, 64_000, fallback=False).due_ms == 0
    assert sift(candidates("+-"), NEW, 4000, fallback=False).due_ms == 0


@given(st.text("+-x?~", min_size=1, max_size=10), st.booleans())
def test_never_nobody_and_everybody_has_a_place(text: str, fallback: bool) -> None:
    """Empty only where the fallback answers; who is not answered has a reason, and nobody is in two places."""
    those = candidates(text)
    found = sift(those, NEW, 0, fallback=fallback)
    assert found.shares or (fallback and not set(text) & {"+", "~"} and set(text) != {"?"})
    assert found.shares.keys() | found.out.keys() == {c.id for c in those}
    assert not found.shares.keys() & found.out.keys()
    assert found.held <= found.shares.keys()
    if "+" in text and not found.panic:
        assert any(those[int(id_[1:])].measured.state is State.UP for id_ in found.shares)


def test_notes_of_those_that_are_answered() -> None:
    """Nobody is told to be down who is not."""
    assert sift(candidates("+-"), NEW, 0, fallback=False).notes == {}
    assert sift(candidates("+--"), NEW, 1, fallback=False).notes == {
        "e2": "answered though down: timeout; held by velocity until 00:01:01Z"}
    assert sift(candidates("-"), NEW, 0, fallback=False).notes == {
        "e0": "answered though down: timeout; panic, health is ignored"}
    assert sift(candidates("+~~"), NEW, 0, fallback=False).notes == {"e2": "degraded; held by velocity until 00:01:00Z"}
    assert sift(candidates("~"), NEW, 0, fallback=False).notes == {"e0": "degraded"}
    assert sift(candidates("+~"), NEW, 0, fallback=False).out == {"e1": "degraded: others are quick"}
    group = [Candidate(f"{site}{n}", site, 0, 100, Measured(State.DOWN if site == "a" and n else State.UP))
             for site in "abc" for n in range(3)]
    before = Kept(Memory(past=(Removal("b0", 0),)))
    found = sift(group, before, 1000, fallback=False)
    assert found.notes == {"a0": "under half of tier 0 at a is healthy; held by velocity until 00:01:00Z"}
    ramping = Measured(State.DEGRADED, share=375)
    assert sift([Candidate("e0", "s", 0, 100, ramping)], NEW, 0, fallback=False).notes == {"e0": "degraded; ramp 3/8"}
    trial = Measured(share=50)
    assert sift([Candidate("e0", "s", 0, 100, trial)], NEW, 0, fallback=False).notes == {"e0": "ramp 5 %"}


def test_the_dead_do_not_come_back_when_the_fallback_goes() -> None:
    """Nor when what was drained does: they were not answered, and are as dead as before."""
    for fallback, spare in ((True, []), (False, [Candidate("s0", "s", 0, 100, Measured())])):
        gone = sift(candidates("---"), NEW, 0, fallback=fallback, spare=spare)
        found = sift(candidates("+--"), gone.kept, 1000, fallback=fallback, spare=spare)
        assert (sorted(found.shares), found.held) == (["e0"], frozenset())


def test_who_is_slow_goes_to_one_that_stands_by() -> None:
    """Though that is a tenth of its weight; and comes back when that is slow too."""
    first = [Candidate(f"e{n}", "s", 0, 1000, Measured(State.DEGRADED)) for n in range(2)]
    standby = Candidate("b", "t", 1, 10, Measured())
    found = sift([*first, standby], NEW, 0, fallback=False)
    assert found.shares.keys() == {"b"}
    assert found.sound == {"b"}
    slow = standby._replace(measured=Measured(State.DEGRADED))
    again = sift([*first, slow], found.kept, 10, fallback=False)
    assert again.shares.keys() == {"e0", "e1", "b"}
    assert [one.id for one in again.kept.slow.past] == ["e0", "e1"]
    dead = standby._replace(measured=Measured(State.DOWN))
    assert sift([*first, dead], found.kept, 10, fallback=False).shares.keys() == {"e0", "e1"}


def test_one_of_few_weight_takes_over() -> None:
    bad = Measured(State.DOWN)
    found = sift([*(Candidate(f"e{n}", "s", 0, 1000, bad) for n in range(10)), Candidate("b", "t", 1, 1, Measured())],
                 NEW, 0, fallback=False)
    assert (found.shares, found.panic) == ({"b": WHOLE}, False)


@pytest.mark.parametrize("seed", range(20))
def test_sifting_again_changes_nothing(seed: int) -> None:
    """After what was decided, as of then: so every node that goes by it comes to the same answers."""
    chance = Random(f"{seed}")
    for _ in range(15):
        those = [Candidate(f"e{n}", chance.choice("abc"), chance.randrange(2), chance.choice((1, 100)), Measured(),
                           chance.random() < 0.1) for n in range(chance.randrange(1, 9))]
        fallback, kept, now = chance.random() < 0.3, NEW, 10**6
        for _ in range(8):
            now += chance.choice((0, 20, 1000, 30_000, 60_000))
            those = [c._replace(measured=Measured(SIGNS[sign], proven=sign != "x"))
                     for c, sign in zip(those, chance.choices("+-?x~", (6, 6, 1, 1, 3), k=len(those)), strict=True)]
            found = sift(those, kept, now, fallback=fallback)
            again = sift(those, found.kept, now, fallback=fallback)
            assert again == found
            kept = found.kept


def test_who_is_out_as_slow_stays_out_when_it_dies() -> None:
    """Though another has died at the same time, and there is room for one."""
    slow = sift(candidates("++~"), NEW, 0, fallback=False)
    found = sift(candidates("+--"), slow.kept, 10, fallback=False)
    assert (sorted(found.shares), found.held) == (["e0", "e1"], {"e1"})


def test_who_is_out_as_dead_stays_out_when_it_is_slow() -> None:
    dead = sift(candidates("++-"), NEW, 0, fallback=False)
    found = sift(candidates("+~~"), dead.kept, 70_000, fallback=False)
    assert (sorted(found.shares), found.held) == (["e0"], frozenset())
