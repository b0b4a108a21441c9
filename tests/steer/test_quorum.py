"""From votes to a verdict: the truth table for one to seven observers, the silences, the groups, who is cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dnsd.steer.health import State
from dnsd.steer.limits import Limited, Memory, Subject, limited
from dnsd.steer.quorum import Sight, Vote, isolated, verdict, watchers

NOW, FRESH = 1_000_000, 2_000
SIGNS = {"+": State.UP, "s": State.DEGRADED, "-": State.DOWN, "?": State.UNKNOWN}


def cast(text: str) -> dict[str, Vote]:
    """One vote for each sign: + up, s degraded, - down, ? unknown, x abstains (and says down), o stale (down). `a:++`
    words give a group."""
    found: dict[str, Vote] = {}
    for word in text.split():
        group, _, signs = word.rpartition(":")
        for sign in signs:
            at = NOW - FRESH - 1 if sign == "o" else NOW
            found[f"v{len(found)}"] = Vote(SIGNS.get(sign, State.DOWN), at, sign == "x", group)
    return found


def said(text: str, *, min_up: int = 500, agree: int = 2) -> State:
    return verdict(cast(text), NOW, fresh_ms=FRESH, min_up=min_up, agree=agree)


# Voters (rows) and how many of them say down (columns, 0 to 7): + up, - down.
TRUTH = {
    (500, 2): ["+-", "++-", "++--", "+++--", "+++---", "++++---", "++++----"],
    (180, 2): ["+-", "++-", "+++-", "++++-", "+++++-", "+++++--", "++++++--"],
    (1000, 2): ["+-", "++-", "++--", "++---", "++----", "++-----", "++------"],
    (500, 1): ["+-", "++-", "++--", "+++--", "+++---", "++++---", "++++----"],
    (1000, 1): ["+-", "+--", "+---", "+----", "+-----", "+------", "+-------"],
    (500, 4): ["+-", "++-", "+++-", "++++-", "++++--", "++++---", "++++----"],
}


@pytest.mark.parametrize(("min_up", "agree", "voters", "down", "sign"), [
    (min_up, agree, voters, down, sign) for (min_up, agree), rows in TRUTH.items()
    for voters, row in enumerate(rows, 1) for down, sign in enumerate(row)])
def test_truth_table(min_up: int, agree: int, voters: int, down: int, sign: str) -> None:
    assert said("-" * down + "+" * (voters - down), min_up=min_up, agree=agree) is SIGNS[sign]


def test_the_truth_table_is_whole() -> None:
    for rows in TRUTH.values():
        assert [len(row) for row in rows] == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("text", "sign"), [
    ("", "?"), ("?", "?"), ("x", "?"), ("o", "?"), ("xxx??oo", "?"),         # nobody votes
    ("-ooo", "-"),                                # the others are gone: the last one judges alone
    ("-x", "?"), ("-?", "?"), ("-xxxxxxxxx", "?"), ("-o?", "?"),             # alive but silent: one is not enough
    ("--x", "-"), ("--xxxxxxxx", "-"), ("--?", "-"), ("+x", "+"), ("+?", "+"), ("+xxxxxxxxx", "+"),
    ("-+x", "+"), ("--+x", "-"), ("+---o", "-"), ("++-", "+"),
    ("s", "s"), ("ss+", "s"), ("s+", "+"), ("s-", "s"), ("s--", "-"), ("ss--", "s"), ("s+--", "+"), ("s++-", "+"),
])
def test_silences_and_slowness(text: str, sign: str) -> None:
    assert said(text) is SIGNS[sign]


@pytest.mark.parametrize(("text", "options", "sign"), [
    ("a:--- b:+", {}, "+"),                         # one region alone: half of the regions see it up
    ("a:--- b:+ c:+", {"min_up": 700}, "+"),        # below min_up, but one region is one voter
    ("a:- b:- c:+", {"min_up": 700}, "-"),
    ("a:- b:- c:+++++++", {}, "-"),                 # two regions of three, by however few
    ("a:--+ b:--+", {}, "-"),
    ("a:-+ b:-+", {}, "+"),                         # a tie within a group is up
    ("a:-+ b:--", {}, "+"),
    ("a:--- b:xxx", {}, "-"),                       # the only region that votes votes by heads
    ("a:- b:x", {}, "?"), ("a:- b:?", {}, "?"), ("a:- b:o", {}, "-"),
    ("a:- b:- c:x", {"agree": 3}, "?"), ("a:- b:- c:o", {"agree": 3}, "-"), ("a:-- b:--", {"agree": 3}, "-"),
    ("a:s b:s c:+", {}, "s"), ("a:ss+ b:ss-", {}, "s"), ("a:s+ b:s", {}, "+"), ("a:-s b:-s", {}, "s"),
    ("a:-- :+", {}, "+"),                           # no name is a group's name too
])
def test_groups(text: str, options: dict[str, int], sign: str) -> None:
    assert said(text, **options) is SIGNS[sign]


@pytest.mark.parametrize(("age", "counts"), [
    (0, True), (FRESH, True), (FRESH + 1, False), (-FRESH, True), (-FRESH - 1, False)])
def test_a_vote_counts_while_it_is_fresh(age: int, counts: bool) -> None:
    votes = {"v": Vote(State.UP, NOW - age)}
    assert verdict(votes, NOW, fresh_ms=FRESH) is (State.UP if counts else State.UNKNOWN)


def test_nothing_is_down_at_a_share_of_none() -> None:
    assert said("---", min_up=0) is State.UNKNOWN
    assert said("--+", min_up=0) is State.UP


TIMES = st.integers(NOW - FRESH - 3, NOW + FRESH + 3)
VOTES = st.lists(st.builds(Vote, st.sampled_from(State), TIMES, st.booleans(), st.sampled_from("abc ")), max_size=8)
OPTIONS = st.tuples(st.integers(1, 1000), st.integers(1, 4))


def expected(votes: list[Vote], min_up: int, agree: int) -> State:
    """The rules once more, by fractions and in another order."""
    alive = [v for v in votes if NOW - FRESH <= v.at_ms <= NOW + FRESH]
    heads = [v for v in alive if not v.abstains and v.state != 0]
    voices: list[list[State]] = [[v.state] for v in heads]
    crowd = len(alive)
    if len({v.group for v in heads}) >= 2:
        voices = [[v.state for v in heads if v.group == group] for group in sorted({v.group for v in heads})]
        crowd = len({v.group for v in alive})
    lost = sum(Fraction(voice.count(State.DOWN), len(voice)) > Fraction(1, 2) for voice in voices)
    if not voices:
        return State.UNKNOWN
    if 1 - Fraction(lost, len(voices)) < Fraction(min_up, 1000) and (lost >= agree or lost == crowd):
        return State.DOWN
    if lost == len(voices):
        return State.UNKNOWN
    stands = [Counter(voice) for voice in voices if Fraction(voice.count(State.DOWN), len(voice)) <= Fraction(1, 2)]
    slow = sum(one[State.DEGRADED] > one[State.UP] for one in stands)
    return State.DEGRADED if 2 * slow > len(stands) else State.UP


@given(VOTES, OPTIONS, st.randoms(use_true_random=False))
def test_any_votes_against_the_rules_written_twice(votes: list[Vote], options: tuple[int, int], random: Random) -> None:
    min_up, agree = options
    found = verdict({f"v{n}": v for n, v in enumerate(votes)}, NOW, fresh_ms=FRESH, min_up=min_up, agree=agree)
    assert found is expected(votes, min_up, agree)
    random.shuffle(votes)
    assert verdict({f"w{n}": v for n, v in enumerate(votes)}, NOW, fresh_ms=FRESH, min_up=min_up, agree=agree) is found


@given(VOTES, OPTIONS, st.data())
def test_who_sees_it_up_never_takes_it_away(votes: list[Vote], options: tuple[int, int], data: st.DataObject) -> None:
    assume(votes)
    min_up, agree = options
    cast_ = {f"v{n}": v for n, v in enumerate(votes)}
    before = verdict(cast_, NOW, fresh_ms=FRESH, min_up=min_up, agree=agree)
    who = data.draw(st.sampled_from(sorted(cast_)))
    assume(cast_[who].state is State.DOWN)
    after = verdict(cast_ | {who: cast_[who]._replace(state=State.UP)}, NOW, fresh_ms=FRESH, min_up=min_up, agree=agree)
    assert after is not State.DOWN or before is State.DOWN


@given(VOTES, st.integers(1, 1000), st.sampled_from(State), st.sampled_from("abc "))
def test_one_alone_takes_nothing_from_others(votes: list[Vote], min_up: int, state: State, group: str) -> None:
    """Whatever a single observer says, what nobody else votes down stays, as long as another is alive."""
    votes = [v._replace(state=State.UP if v.state is State.DOWN else v.state) for v in votes]
    assume(any(abs(NOW - v.at_ms) <= FRESH and v.group != group for v in votes))
    cast_ = {f"v{n}": v for n, v in enumerate(votes)} | {"liar": Vote(state, NOW, False, group)}
    assert verdict(cast_, NOW, fresh_ms=FRESH, min_up=min_up) is not State.DOWN


# --- an observer that is cut off ---


def sights(text: str) -> list[Sight]:
    """`a:++--` words: at site a two that are seen and two that fail, all up before; . was not up, and fails."""
    return [Sight(word[0], sign != ".", sign != "+") for word in text.split() for sign in word[2:]]


@pytest.mark.parametrize(("text", "cut_off"), [
    ("", False), ("a:--- b:---", True), ("a:-- b:-", True), ("a:- b:-", False),      # three at two sites
    ("a:--------", False), ("a:-------- b:+", False),                                # a site is lost
    ("a:------- b:-++", True), ("a:------ b:-+++", False),                           # 8 and 7 of 10
    ("a:-- b:-+", True), ("a:-+ b:-+", False),
    ("a:.... b:....", False), ("a:...- b:...-", False), ("a:..-- b:..-", True),      # what was down says nothing
    ("a:----. b:.+", False), ("a:++++ b:++++", False),
])
def test_who_is_cut_off(text: str, cut_off: bool) -> None:
    assert isolated(sights(text)) is cut_off


@given(st.lists(st.builds(Sight, st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=15), st.data())
def test_cut_off_needs_much_to_fail_at_once(seen: list[Sight], data: st.DataObject) -> None:
    found = isolated(seen)
    assert isolated(data.draw(st.permutations(seen))) is found
    failing = [s for s in seen if s.was_up and s.fails]
    if found:
        assert len(failing) >= 3
        assert len({s.site for s in failing}) >= 2
        assert Fraction(len(failing), sum(s.was_up for s in seen)) > Fraction(7, 10)
    assert not isolated([s._replace(fails=False) for s in seen])
    assert not isolated([s._replace(site="a") for s in seen])


@pytest.mark.parametrize(("dead", "kept"), [([], []), (["e0"], ["e0"]), (["e0", "e3", "e7"], ["e0", "e3", "e7"])])
def test_nine_of_ten_observers_cut_off_take_nothing_away(dead: list[str], kept: list[str]) -> None:
    """They abstain, and the tenth alone is not enough: what is dead now stays as it was, all else is up."""
    site = {f"e{n}": "abcde"[n // 2] for n in range(10)}
    verdicts = {}
    for target in site:
        votes = {}
        for observer in range(10):
            fails = {t: observer < 9 or t in dead for t in site}
            blind = isolated(Sight(site[t], True, fails[t]) for t in site)
            assert blind is (observer < 9)
            votes[f"v{observer}"] = Vote(State.DOWN if fails[target] else State.UP, NOW, blind)
        verdicts[target] = verdict(votes, NOW, fresh_ms=FRESH)
    assert [t for t, state in verdicts.items() if state is State.UNKNOWN] == kept
    assert State.DOWN not in verdicts.values()
    fleet = [Subject(t, site[t], 0, 100, verdicts[t] is State.DOWN) for t in site]
    assert limited(fleet, Memory(), NOW) == Limited(Memory(), frozenset(), panic=False)


def test_a_lost_site_is_seen_by_all_and_removed() -> None:
    """The other way round: everybody sees one site of three fail, nobody takes itself for cut off."""
    site = {f"e{n}": "abc"[n % 3] for n in range(9)}
    fails = {t: s == "a" for t, s in site.items()}
    blind = isolated(Sight(site[t], True, fails[t]) for t in site)
    assert not blind
    down = {t for t in site if verdict(
        {f"v{n}": Vote(State.DOWN if fails[t] else State.UP, NOW, blind) for n in range(3)},
        NOW, fresh_ms=FRESH) is State.DOWN}
    assert down == {"e0", "e3", "e6"}
    found = limited([Subject(t, site[t], 0, 100, t in down) for t in site], Memory(), NOW)
    assert {one.id for one in found.removed} == down


# --- who watches what ---


OBSERVERS = {f"node{n}": "" for n in range(10)}
TARGETS = [f"tcp 192.0.2.{n}:443" for n in range(256)]


@pytest.mark.parametrize(("observers", "k", "number"), [
    ("", 3, 0), ("a", 3, 1), ("ab", 3, 2), (OBSERVERS, 3, 3), (OBSERVERS, 1, 1), (OBSERVERS, 0, 0), (OBSERVERS, -1, 0),
    (OBSERVERS, 99, 10)])
def test_how_many_watch(observers: Iterable[str], k: int, number: int) -> None:
    found = watchers("t", dict.fromkeys(observers, ""), k)
    assert len(found) == len(set(found)) == number
    assert set(found) <= set(observers)


def test_who_watches_is_the_same_in_every_release() -> None:
    """Nodes of two releases must agree. For each: printf 'node9\\0tcp 192.0.2.1:443' | b2sum -l 64, then sorted."""
    assert watchers("tcp 192.0.2.1:443", OBSERVERS, 4) == ["node9", "node8", "node7", "node2"]
    two = {one: "eu" if one in ("node9", "node8", "node7") else "na" for one in OBSERVERS}
    assert watchers("tcp 192.0.2.1:443", two, 3) == ["node9", "node2", "node8"]


def test_watching_is_shared_evenly() -> None:
    load = Counter(observer for target in TARGETS for observer in watchers(target, OBSERVERS))
    assert sum(load.values()) == 3 * len(TARGETS)
    assert all(50 <= load[observer] <= 104 for observer in OBSERVERS)  # 77 on average


def test_of_two_nodes_in_a_region_one_watches_where_there_are_three_regions() -> None:
    """With both of them and one far away, both regions have to agree, and the far one's time-outs decide when."""
    fleet = {"fra-1": "eu", "fra-2": "eu", "iad-1": "na", "iad-2": "na", "syd-1": "oc"}
    for target in TARGETS:
        found = watchers(target, fleet)
        assert {fleet[one] for one in found} == {"eu", "na", "oc"}
    load = Counter(observer for target in TARGETS for observer in watchers(target, fleet))
    assert load["syd-1"] == len(TARGETS)
    assert all(96 <= load[one] <= 160 for one in fleet if one != "syd-1")  # half of them


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=8), st.sampled_from("abc"), max_size=8),
       st.integers(1, 4), st.data())
def test_who_leaves_is_replaced_and_nobody_else(
        target: str, observers: dict[str, str], k: int, data: st.DataObject) -> None:
    assume(observers)
    before = watchers(target, observers, k)
    shuffled = data.draw(st.permutations(list(observers)))
    assert watchers(target, {one: observers[one] for one in shuffled}, k) == before
    assert len({observers[one] for one in before}) == min(k, len(set(observers.values())))
    gone = data.draw(st.sampled_from(shuffled))
    after = watchers(target, {one: group for one, group in observers.items() if one != gone}, k)
    assert set(before) - {gone} <= set(after)
    assert len(set(after) - set(before)) <= (gone in before)
