"""How much health may take: the cases the rules were made for, and what holds whatever is down."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer.limits import WINDOW_MS, Removal, Subject, limited, room_at


def fleet(text: str) -> list[Subject]:
    """`site/tier+-+` words: site, tier, then one endpoint of weight 100 for each sign, - is down."""
    found = []
    for word in text.split():
        site, tier, signs = word[0], int(word[1]), word[2:]
        found += [Subject(f"{site}{tier}{n}", site, tier, 100, sign == "-") for n, sign in enumerate(signs)]
    return found


def gone(text: str, before: tuple[Removal, ...] = (), now: int = 0) -> tuple[list[str], list[str], bool]:
    removed, held, panic = limited(fleet(text), before, now)
    return [one.id for one in removed], sorted(held), panic


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
])
def test_what_goes(text: str, removed: list[str], held: list[str], panic: bool) -> None:
    found = gone(text)
    assert (sorted(found[0]), found[1], found[2]) == (sorted(removed), held, panic)


def test_the_rest_goes_when_the_window_is_over() -> None:
    text = "a0+++ b0- c0- d0-"
    first = limited(fleet(text), (), 0)
    assert ([one.id for one in first.removed], first.held) == (["b00", "c00", "d00"], frozenset())
    text = "a0+ b0- c0- d0+"
    first = limited(fleet(text), (), 1000)
    assert ([one.id for one in first.removed], first.held) == (["b00"], frozenset({"c00"}))
    later = limited(fleet(text), first.removed, 1000 + WINDOW_MS - 1)
    assert later == first
    last = limited(fleet(text), first.removed, 1000 + WINDOW_MS)
    assert ([(one.id, one.at_ms) for one in last.removed], last.held) == (
        [("b00", 1000), ("c00", 1000 + WINDOW_MS)], frozenset())


def test_what_is_up_again_is_no_longer_removed_and_falls_anew() -> None:
    removed = limited(fleet("a0++ b0-"), (), 0).removed
    assert limited(fleet("a0++ b0+"), removed, 10).removed == ()
    assert limited(fleet("a0++ b0-"), (), 20).removed == (Removal("b00", 20),)


def test_a_clock_that_is_set_back_makes_no_room() -> None:
    text, at = "a0+ b0- c0- d0+", 10 * WINDOW_MS
    first = limited(fleet(text), (), at)
    back = limited(fleet(text), first.removed, at - 5 * WINDOW_MS)
    assert [one.id for one in back.removed] == ["b00"]
    later = limited(fleet(text), back.removed, at - 4 * WINDOW_MS)
    assert [one.id for one in later.removed] == ["b00", "c00"], "a minute after that, not when it is as late again"


def test_when_there_is_room() -> None:
    assert room_at((), 5) == 0
    old, new, newer = Removal("a", 0), Removal("b", 20_000), Removal("c", 30_000)
    assert room_at((newer, old, new), WINDOW_MS) == 20_000 + WINDOW_MS


def test_thousands_of_endpoints_cost_milliseconds() -> None:
    many = [Subject(f"e{n}", f"s{n % 50}", 0, 100, n % 2 == 0) for n in range(4000)]
    began = time.process_time()
    limited(many, (), 0)
    assert time.process_time() - began < 0.5, "it took seconds when each looked at all the others"


def test_what_is_forced_stays_when_its_group_is_given_up() -> None:
    group = [s._replace(forced=s.id == "b00") for s in fleet("a0+++ b0+--")]
    assert sorted(one.id for one in limited(group, (), 0).removed) == ["b01", "b02"]


def test_panic_forgets() -> None:
    removed = limited(fleet("a0+ b0-"), (), 0).removed
    assert limited(fleet("a0- b0-"), removed, 10) == ((), frozenset(), True)


def test_weights_count() -> None:
    heavy = [Subject("big", "a", 0, 10_000, True), *(Subject(f"s{n}", f"b{n}", 0, 100, False) for n in range(9))]
    assert limited(heavy, (), 0).panic
    heavy = [one._replace(weight=1200) if one.id != "big" else one for one in heavy]
    assert [one.id for one in limited(heavy, (), 0).removed] == ["big"]
    idle = [Subject("zero", "a", 0, 0, True), Subject("one", "b", 0, 0, False)]
    assert [one.id for one in limited(idle, (), 0).removed] == ["zero"]


SUBJECTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 200), st.booleans()),
                    max_size=12).map(
    lambda rows: [Subject(f"e{n}", site, tier, weight, down) for n, (site, tier, weight, down) in enumerate(rows)])


@given(SUBJECTS, st.permutations(range(12)))
def test_order_does_not_matter_and_something_healthy_stays(subjects: list[Subject], order: list[int]) -> None:
    found = limited(subjects, (), 0)
    assert limited([subjects[n] for n in order if n < len(subjects)], (), 0) == found
    ids = {one.id for one in found.removed}
    healthy = {s.id for s in subjects if not s.down}
    if healthy:
        assert healthy - ids
    assert not ids & found.held
    if not found.panic:
        assert {s.id for s in subjects if s.down} == {s.id for s in subjects if s.down and s.id in ids | found.held}


@given(st.lists(st.tuples(st.integers(0, 30_000), st.lists(st.booleans(), min_size=10, max_size=10)), max_size=40))
def test_velocity_holds_for_any_flips(steps: list[tuple[int, list[bool]]]) -> None:
    """In any minute no more *stands* removed afresh than the limit, whatever health says and takes back."""
    base = [Subject(f"e{n}", "abcde"[n // 2], 0, 100, False) for n in range(10)]
    before: tuple[Removal, ...] = ()
    now = 0
    for gap, downs in steps:
        now += gap
        found = limited([s._replace(down=d) for s, d in zip(base, downs, strict=True)], before, now)
        fresh = [one for one in found.removed if now - one.at_ms < WINDOW_MS]
        assert len(fresh) <= 3  # 34 % of ten; a site has two
        before = found.removed
