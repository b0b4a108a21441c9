"""How much health may take: the cases the rules were made for, and what holds whatever is down."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer.limits import NOTHING, WINDOW_MS, Limited, Memory, Removal, Subject, gone, lagging, limited

NEW = Memory()


def fleet(text: str) -> list[Subject]:
    """`site/tier+-+` words: site, tier, then one endpoint of weight 100 for each sign, - is down."""
    found = []
    for word in text.split():
        site, tier, signs = word[0], int(word[1]), word[2:]
        found += [Subject(f"{site}{tier}{n}", site, tier, 100, sign == "-") for n, sign in enumerate(signs)]
    return found


def ids(found: Limited) -> list[str]:
    return [one.id for one in found.removed]


def slow_ones(text: str, before: Memory, now: int, first: Limited, out: dict[str, int] | None = None) -> Limited:
    """The same words, with ~ for one that is slow."""
    subjects = fleet(text.replace("~", "+"))
    signs = [sign for word in text.split() for sign in word[2:]]
    slow = frozenset(s.id for s, sign in zip(subjects, signs, strict=True) if sign == "~")
    return lagging(subjects, slow, before, now, first, out or NOTHING)


@pytest.mark.parametrize(("text", "removed", "held", "panic"), [
    ("", [], [], False),
    ("a0+", [], [], False),
    ("a0-", [], [], True),                                          # nothing is healthy: health is not believed
    ("a0+ b0-", ["b00"], [], False),                                # 1 of 2
    ("a0- b0-", [], [], True),                                      # 2 of 2
    ("a0+ b0+ c0-", ["c00"], [], False),
    ("a0+ b0- c0-", ["b00"], ["c00"], False),                       # 2 of 3 at three sites: one a minute
    ("a0+-- ", ["a01", "a02"], [], False),                          # 2 of 3 at one site: no more than a site
    ("a0++ b0--", ["b00", "b01"], [], False),                       # a whole site
    ("a0+++ b0+--", ["b01", "b02", "b00"], [], False),              # its last third does not carry it
    ("a0---- b1++++", ["a00", "a01", "a02", "a03"], [], False),     # a whole tier at one site
    ("a0-- b0-- c1++", ["a00", "a01"], ["b00", "b01"], False),      # at two sites: half of it in this minute
    ("a0+-- b0+--", ["a01", "a02", "b01"], ["b02"], False),         # no group is sound, so none is given up
    ("a0+++++++++ b0-", ["b00"], [], False),
    ("a0+---------", ["a01", "a02", "a03", "a04", "a05", "a06", "a07", "a08", "a09"], [], False),
    ("a0+----------", [], [], True),                                # under a tenth
    ("a0----------- b1+", [f"a0{n}" for n in range(11)], [], False),    # who stands by takes over, few as it is
    ("a0+---------- b1-", [], [], True),                            # under a tenth of each tier
    ("a0- b0- c0- d1+", ["a00"], ["b00", "c00"], False),            # a tier at three sites: one a minute
])
def test_what_goes(text: str, removed: list[str], held: list[str], panic: bool) -> None:
    found = limited(fleet(text), NEW, 0)
    assert (sorted(ids(found)), sorted(found.held), found.panic) == (sorted(removed), held, panic)


def test_the_rest_goes_when_the_window_is_over() -> None:
    text = "a0+++ b0- c0- d0-"
    first = limited(fleet(text), NEW, 0)
    assert (ids(first), first.held, first.room_ms) == (["b00", "c00", "d00"], frozenset(), 0)
    text = "a0+ b0- c0- d0+"
    first = limited(fleet(text), NEW, 1000)
    assert (ids(first), first.held, first.room_ms) == (["b00"], {"c00"}, 1000 + WINDOW_MS)
    later = limited(fleet(text), first.memory, 1000 + WINDOW_MS - 1)
    assert later == first
    last = limited(fleet(text), first.memory, 1000 + WINDOW_MS)
    assert last.removed == (Removal("b00", 1000), Removal("c00", 1000 + WINDOW_MS))
    assert (last.held, last.room_ms) == (frozenset(), 0)


def test_what_is_up_again_is_no_longer_removed_but_counts() -> None:
    """For the minute in which it was removed."""
    removed = limited(fleet("a0++ b0- c0+"), NEW, 0).memory
    back = limited(fleet("a0++ b0+ c0+"), removed, 10)
    assert back.memory == Memory((), (Removal("b00", 0),))
    other = limited(fleet("a0++ b0+ c0-"), back.memory, 20)
    assert (ids(other), other.held) == (["c00"], frozenset()), "there are two places"
    memory = Memory((Removal("a00", 0),), (Removal("b00", 0),))
    third = limited(fleet("a0- b0+ c0- d0+ e0+"), memory, 20)
    assert (ids(third), third.held, third.room_ms) == (["a00"], {"c00"}, WINDOW_MS), "and here two of five, no third"
    later = limited(fleet("a0- b0+ c0- d0+ e0+"), third.memory, WINDOW_MS)
    assert (ids(later), later.memory.past) == (["a00", "c00"], ())


@pytest.mark.parametrize("text", ["a0+ b0+", "a0+ b0+ c0+", "a0++ b1+"])
def test_restarts_one_after_another_are_followed(text: str) -> None:
    """A deployment takes each instance away for seconds: nobody may be sent to it, though the minute is not over."""
    memory, now = NEW, 0
    for subject in fleet(text):
        now += 5_000
        down = limited([s._replace(down=s.id == subject.id) for s in fleet(text)], memory, now)
        assert (ids(down), down.held) == ([subject.id], frozenset())
        now += 5_000
        memory = limited(fleet(text), down.memory, now).memory


def test_what_went_alone_leaves_no_room_for_one_that_goes_again() -> None:
    memory = limited(fleet("a0- b0+ c0+"), NEW, 0).memory
    alone = limited(fleet("a0+ b0- c0+"), memory, 10_000)
    assert (ids(alone), alone.held) == (["b00"], frozenset())
    both = limited(fleet("a0- b0- c0+"), alone.memory, 20_000)
    assert (ids(both), both.held) == (["b00"], {"a00"})
    assert limited(fleet("a0- b0- c0+"), both.memory, 20_000) == both
    later = limited(fleet("a0- b0- c0+"), both.memory, 10_000 + WINDOW_MS)
    assert ids(later) == ["a00", "b00"]


def test_one_that_fails_again_goes_again() -> None:
    """At once: it is one that has been taken already; from then on for a minute."""
    memory = limited(fleet("a0+ b0-"), NEW, 0).memory
    memory = limited(fleet("a0+ b0+"), memory, 10_000).memory
    again = limited(fleet("a0+ b0-"), memory, 20_000)
    assert again.memory == Memory((Removal("b00", 20_000),))


def test_one_that_fails_again_waits_behind_others() -> None:
    """Else one that flaps would keep for ever what is dead from going."""
    memory = Memory((Removal("a00", 0),), (Removal("b00", 0),))
    both = limited(fleet("a0- b0- c0- d0+ e0+"), memory, 20_000)
    assert (ids(both), both.held) == (["a00"], {"b00", "c00"})
    last = limited(fleet("a0- b0- c0- d0+ e0+"), both.memory, WINDOW_MS)
    assert len(last.removed) == 2


def test_a_clock_that_is_set_back_makes_no_room() -> None:
    text, at = "a0+ b0- c0- d0+", 10 * WINDOW_MS
    first = limited(fleet(text), NEW, at)
    back = limited(fleet(text), first.memory, at - 5 * WINDOW_MS)
    assert ids(back) == ["b00"]
    later = limited(fleet(text), back.memory, at - 4 * WINDOW_MS)
    assert ids(later) == ["b00", "c00"], "a minute after that, not when it is as late again"
    past = limited(fleet("a0+ b0+ c0- d0+"), first.memory, at - 5 * WINDOW_MS)
    assert (ids(past), past.memory.past) == (["c00"], (Removal("b00", at - 5 * WINDOW_MS),))


def test_who_is_deleted_takes_no_room() -> None:
    memory = limited(fleet("a0+ b0-"), NEW, 0).memory
    found = limited(fleet("a0- c0+"), memory, 10)
    assert found.memory == Memory((Removal("a00", 10),))
    assert limited(fleet("a0+ c0-"), Memory((), (Removal("b00", 0),)), 10).memory == Memory((Removal("c00", 10),))


def test_thousands_of_endpoints_cost_milliseconds() -> None:
    many = [Subject(f"e{n}", f"s{n % 50}", 0, 100, n % 2 == 0) for n in range(4000)]
    began = time.process_time()
    limited(many, NEW, 0)
    assert time.process_time() - began < 0.5, "it took seconds when each looked at all the others"


def test_what_is_forced_stays_when_its_group_is_given_up() -> None:
    group = [s._replace(forced=s.id == "b00") for s in fleet("a0+++ b0+--")]
    assert ids(limited(group, NEW, 0)) == ["b01", "b02"]


def test_panic_remembers_what_was() -> None:
    """When it is over the minute is not."""
    memory = limited(fleet("a0+ b0- c0+"), NEW, 0).memory
    panic = limited(fleet("a0- b0- c0-"), memory, 10)
    assert panic == Limited(Memory((), (Removal("b00", 0),)), frozenset(), panic=True)
    over = limited(fleet("a0+ b0- c0-"), panic.memory, 20)
    assert (ids(over), over.held) == (["c00"], {"b00"}), "who was out already waits"
    assert ids(limited(fleet("a0+ b0- c0+"), panic.memory, 20)) == ["b00"]
    assert limited(fleet("a0- b0- c0-"), panic.memory, WINDOW_MS).memory == NEW


def test_when_something_else_is_answered_all_are_gone() -> None:
    memory = limited(fleet("a0+ b0- c0-"), NEW, 0).memory
    everybody = gone(fleet("a0- b0- c0-"), memory, 10)
    assert everybody == Memory((Removal("a00", 10), Removal("b00", 0), Removal("c00", 10)))
    assert gone(fleet("a0- b0- c0-"), everybody, 10) == everybody
    first = limited(fleet("a0+ b0- c0-"), everybody, 20)
    assert (ids(first), first.held) == (["b00", "c00"], frozenset()), "the dead do not come back with the first"
    assert gone(fleet("b0-"), Memory((Removal("b00", 50),)), 10) == Memory((Removal("b00", 10),))


NO_ONE = limited(fleet("a0+"), NEW, 0)


@pytest.mark.parametrize(("text", "left_out", "held"), [
    ("a0+", [], []),
    ("a0~", [], []),                              # nobody is quick
    ("a0~~ b0~~", [], []),
    ("a0+ b0~", ["b00"], []),
    ("a0~ b1+", ["a00"], []),                     # one that stands by is quick
    ("a0~~~~~~~~~~~ b1+", [f"a0{n}" for n in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)], []),
    ("a0+ b0~ c0~", ["b00"], ["c00"]),            # one a minute
    ("a0+~~ b0+++", ["a01", "a02"], []),          # who is quick does not go with its group
    ("a0+~~~~~~~~~~", [], []),                    # a tenth would not carry it
    ("a0~~ b0~~ c1++", ["a00", "a01"], ["b00", "b01"]),
])
def test_who_is_slow_is_left_out_while_others_are_quick(text: str, left_out: list[str], held: list[str]) -> None:
    first = limited(fleet(text.replace("~", "+")), NEW, 0)
    found = slow_ones(text, NEW, 0, first)
    assert (ids(found), sorted(found.held)) == (left_out, held)
    assert slow_ones(text, found.memory, 0, first) == found
    assert bool(found.room_ms) is bool(held)


def test_the_slow_take_what_room_the_dead_leave() -> None:
    dead = "a0+ b0- c0+"
    first = limited(fleet(dead), NEW, 0)
    subjects = fleet(dead)
    found = lagging(subjects, frozenset({"c00"}), NEW, 0, first)
    assert (ids(found), found.held, found.room_ms) == ([], {"c00"}, WINDOW_MS)
    assert ids(lagging(subjects, frozenset({"c00"}), NEW, WINDOW_MS, first)) == ["c00"]
    # what was removed as dead and is back counts too
    back = limited(fleet("a0+ b0+ c0+"), first.memory, 10)
    assert lagging(fleet("a0+ b0+ c0+"), frozenset({"c00"}), NEW, 10, back).held == {"c00"}


def test_the_slow_come_back_where_the_dead_need_the_room() -> None:
    left_out = slow_ones("a0+ b0~ c0+", NEW, 0, NO_ONE).memory
    assert [one.id for one in left_out.removed] == ["b00"]
    subjects = fleet("a0+ b0+ c0-")
    first = limited(subjects, NEW, 10, {"b00": 0})
    assert ids(first) == ["c00"], "who is dead goes at once"
    second = lagging(subjects, frozenset({"b00"}), left_out, 10, first)
    assert (ids(second), second.held) == ([], {"b00"})
    assert lagging(subjects, frozenset({"b00"}), second.memory, 10, first) == second
    later = lagging(subjects, frozenset({"b00"}), left_out, WINDOW_MS, first)
    assert ids(later) == ["b00"], "after a minute it is used to being without it"


def test_slow_to_dead_and_back_is_out_all_the_time() -> None:
    slow = slow_ones("a0+ b0~ c0+", NEW, 0, NO_ONE).memory
    subjects = fleet("a0+ b0- c0-")
    first = limited(subjects, NEW, 10, {"b00": 0})
    assert (first.removed, first.held) == ((Removal("b00", 0),), {"c00"}), "it was out, so it stays out"
    second = lagging(subjects, frozenset(), slow, 10, first)
    assert second.memory == NEW
    dead = limited(fleet("a0+ b0- c0+"), NEW, 0)
    recovered = limited(fleet("a0+ b0+ c0+"), dead.memory, 10)
    found = lagging(fleet("a0+ b0+ c0+"), frozenset({"b00"}), NEW, 10, recovered, {"b00": 0})
    assert (found.removed, found.held) == ((Removal("b00", 0),), frozenset())
    assert lagging(fleet("a0+ b0+ c0+"), frozenset({"b00"}), found.memory, 10, recovered) == found


def test_in_panic_the_slow_are_answered_too() -> None:
    slow = slow_ones("a0+ b0~", NEW, 0, NO_ONE).memory
    subjects = fleet("a0- b0+")
    panic = Limited(NEW, frozenset(), panic=True)
    found = lagging(subjects, frozenset({"b00"}), slow, 10, panic)
    assert found.memory == Memory((), (Removal("b00", 0),))


def test_weights_count() -> None:
    heavy = [Subject("big", "a", 0, 10_000, True), *(Subject(f"s{n}", f"b{n}", 0, 100, False) for n in range(9))]
    assert limited(heavy, NEW, 0).panic
    heavy = [one._replace(weight=1200) if one.id != "big" else one for one in heavy]
    assert ids(limited(heavy, NEW, 0)) == ["big"]
    idle = [Subject("zero", "a", 0, 0, True), Subject("one", "b", 0, 0, False)]
    assert ids(limited(idle, NEW, 0)) == ["zero"]


ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 200), st.sampled_from("+-~")),
                min_size=12, max_size=12)


def subjects_of(rows: list[tuple[str, int, int, str]]) -> list[Subject]:
    return [Subject(f"e{n}", site, tier, weight, sign == "-") for n, (site, tier, weight, sign) in enumerate(rows)]


@given(ROWS, st.permutations(range(12)), st.integers(0, 12))
def test_order_does_not_matter_and_something_healthy_stays(
    rows: list[tuple[str, int, int, str]], order: list[int], number: int,
) -> None:
    subjects = subjects_of(rows[:number])
    found = limited(subjects, NEW, 0)
    assert limited([subjects[n] for n in order if n < len(subjects)], NEW, 0) == found
    removed = set(ids(found))
    healthy = {s.id for s in subjects if not s.down}
    if healthy:
        assert healthy - removed
    assert not removed & found.held
    if not found.panic:
        assert {s.id for s in subjects if s.down} <= removed | found.held


@pytest.mark.parametrize("seed", range(20))
def test_deciding_again_changes_nothing(seed: int) -> None:
    """Every node decides from what was decided for all, as of then: it must come to the same."""
    chance = Random(f"{seed}")
    for _ in range(40):
        rows = [(chance.choice("abc"), chance.randrange(2), chance.choice((0, 1, 50, 100, 100)), "+")
                for _ in range(chance.randrange(1, 12))]
        before, slow, now = NEW, NEW, 10**6
        for _ in range(6):
            now += chance.choice((0, 1, 1000, 30_000, WINDOW_MS))
            signs = [chance.choice("+-~") for _ in rows]
            subjects = subjects_of([(*row[:3], sign) for row, sign in zip(rows, signs, strict=True)])
            lag = frozenset(s.id for s, sign in zip(subjects, signs, strict=True) if sign == "~")
            first = limited(subjects, before, now, dict(slow.removed))
            second = lagging(subjects, lag, slow, now, first, dict(before.removed))
            assert limited(subjects, first.memory, now, dict(second.removed)) == first
            assert lagging(subjects, lag, second.memory, now, first, dict(first.removed)) == second
            before, slow = first.memory, second.memory
