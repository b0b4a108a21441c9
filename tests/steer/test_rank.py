"""Ranking against its rules: tier, band, score, groups, fence; and a second way to compute all of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.model import Match
from dnsd.steer import rank
from dnsd.steer.policy import PRESETS
from dnsd.steer.rank import Candidate, Rules
from dnsd.steer.row import LEVEL_MS

TOP = len(LEVEL_MS) - 1


def rules(preset: str = "geo", *, band_ms: int | None = None, fence: int = 0) -> Rules:
    """A preset's rules."""
    policy = PRESETS[preset]
    return Rules(rank.proximity_points(policy.proximity, policy.half_ms, LEVEL_MS), rank.match_points(policy.match),
                 policy.band_ms if band_ms is None else band_ms, fence)


def candidate(column: int | None, *, tier: int = 0, standing: int = 30_000, weight: int = 100) -> Candidate:
    """An endpoint with what ranking looks at."""
    return Candidate(column, tier, standing, weight, 0, b"", b"")


def order(levels: Sequence[int], bits: Sequence[int], given_rules: Rules, candidates: Sequence[Candidate],
          level_ms: Sequence[int] = LEVEL_MS) -> list[list[int]]:
    """Groups of candidate numbers."""
    return rank.groups(rank.judge(levels, bits, level_ms, given_rules, list(enumerate(candidates))))


NEAR = max(level for level, ms in enumerate(LEVEL_MS) if ms <= 30)  # the last one in the band of 30 ms
BEYOND, FAR = NEAR + 1, NEAR + 3
CASES: list[tuple[str, list[int], list[int], list[Candidate], list[list[int]]]] = [
    ("nearest first", [3, 0, 5], [0, 0, 0], [candidate(0), candidate(1), candidate(2)], [[1], [0], [2]]),
    ("equal sites share", [0, 0, 4], [0, 0, 0], [candidate(0), candidate(1), candidate(2)], [[0, 1], [2]]),
    ("endpoints of a site share", [0, 3], [0, 0], [candidate(1), candidate(0), candidate(0)], [[1, 2], [0]]),
    ("provider wins inside the band", [0, NEAR], [0, 1], [candidate(0), candidate(1)], [[1], [0]]),
    ("carrier wins inside the band", [0, NEAR], [0, 2], [candidate(0), candidate(1)], [[1], [0]]),
    ("ASN wins inside the band", [0, NEAR], [0, 4], [candidate(0), candidate(1)], [[1], [0]]),
    ("country is no match", [0, NEAR], [0, 8 | 16], [candidate(0), candidate(1)], [[0], [1]]),
    ("several matches count once", [0, 0], [7, 1], [candidate(0), candidate(1)], [[0, 1]]),
    ("no ocean for a provider", [0, BEYOND], [0, 7], [candidate(0), candidate(1)], [[0], [1]]),
    ("health moves inside the band", [0, 3], [0, 0], [candidate(0, standing=0), candidate(1)], [[1], [0]]),
    ("health does not move beyond it", [0, BEYOND, FAR], [0, 0, 0],
     [candidate(0), candidate(1, standing=0), candidate(2)], [[0], [1], [2]]),
    ("beyond, equal milliseconds are equal", [0, FAR, FAR], [0, 7, 0],
     [candidate(0), candidate(1, standing=0), candidate(2)], [[0], [1, 2]]),
    ("the band is the tier's own", [FAR, 0], [0, 0], [candidate(0, tier=0), candidate(1, tier=1)], [[0], [1]]),
    ("a tier before everything", [FAR, 0], [0, 7],
     [candidate(0, tier=1, standing=0), candidate(1, tier=2)], [[0], [1]]),
    ("weight 0 last, whatever its tier", [0, FAR], [7, 0],
     [candidate(0, tier=0, weight=0), candidate(1, tier=255, standing=0)], [[1], [0]]),
    ("a site without a column is farthest", [FAR], [0], [candidate(None), candidate(0)], [[1], [0]]),
    ("only sites without a column", [0], [0], [candidate(None), candidate(None)], [[0, 1]]),
    ("one", [5], [0], [candidate(0)], [[0]]),
    ("none", [5], [0], [], []),
]


@pytest.mark.parametrize(("levels", "bits", "candidates", "expected"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])
def test_order(levels: list[int], bits: list[int], candidates: list[Candidate], expected: list[list[int]]) -> None:
    assert order(levels, bits, rules(), candidates) == expected


def test_latency_looks_at_milliseconds_alone() -> None:
    candidates = [candidate(0, standing=0), candidate(1)]
    assert order([0, 1], [0, 7], rules("latency"), candidates) == [[0], [1]]
    assert order([1, 1], [0, 7], rules("latency"), [candidate(0), candidate(1)]) == [[0, 1]]


@pytest.mark.parametrize("preset", ["weighted", "failover", "all"])
def test_without_the_client_a_tier_is_one_group(preset: str) -> None:
    candidates = [candidate(None, tier=tier, standing=0) for tier in (1, 0, 1, 0)]
    assert order(b"\0", b"\0", rules(preset), candidates, [0]) == [[1, 3], [0, 2]]


# --- properties -------------------------------------------------------------------------------------------------------

SITES = 6
rows = st.tuples(st.lists(st.integers(0, TOP), min_size=SITES, max_size=SITES),
                 st.lists(st.integers(0, 31), min_size=SITES, max_size=SITES))
some = st.lists(st.builds(
    candidate, st.none() | st.integers(0, SITES - 1), tier=st.integers(0, 2), standing=st.integers(0, 30) .map(
        lambda n: n * 1000), weight=st.sampled_from([0, 1, 100])), max_size=10)
any_rules = st.builds(rules, st.sampled_from(sorted(PRESETS)), band_ms=st.none() | st.integers(0, 300))


def second_opinion(levels: Sequence[int], bits: Sequence[int], given_rules: Rules,
                   candidates: Sequence[Candidate]) -> list[list[int]]:
    """The same order, told as the rules are: tiers, then who is in the band, then score."""
    out: list[list[int]] = []
    tiers = {(not c.weight, c.tier) for c in candidates}
    for zero, tier in sorted(tiers):
        peers = {i: c for i, c in enumerate(candidates) if (not c.weight, c.tier) == (zero, tier)}
        level = {i: TOP if c.column is None else levels[c.column] for i, c in peers.items()}
        matched = {i: c.column is not None and bool(bits[c.column] & (Match.PROVIDER | Match.CARRIER | Match.ASN))
                   for i, c in peers.items()}
        reach = min(LEVEL_MS[n] for n in level.values()) + given_rules.band_ms
        near = [i for i in peers if LEVEL_MS[level[i]] <= reach]
        far = [i for i in peers if LEVEL_MS[level[i]] > reach]
        points = {i: given_rules.proximity[level[i]] for i in peers}
        full = {i: points[i] + (given_rules.match[1] if matched[i] else 0) + peers[i].standing for i in near}
        for chosen, score in ((near, full), (far, points)):
            for value in sorted({score[i] for i in chosen}, reverse=True):
                out.append([i for i in chosen if score[i] == value])
    return out


@given(rows, any_rules, some)
def test_order_is_the_second_opinions(row: tuple[list[int], list[int]], given_rules: Rules,
                                      candidates: list[Candidate]) -> None:
    assert order(*row, given_rules, candidates) == second_opinion(*row, given_rules, candidates)


@given(rows, any_rules, some)
def test_parts_of_a_judgement_add_up(row: tuple[list[int], list[int]], given_rules: Rules,
                                     candidates: list[Candidate]) -> None:
    """What `explain` prints is what decided."""
    levels, bits = row
    judged = rank.judge(levels, bits, LEVEL_MS, given_rules, list(enumerate(candidates)))
    for one in judged:
        whole = one.proximity + (0 if one.beyond else one.match + one.standing)
        assert one.score == whole
        assert one.ms == LEVEL_MS[one.level]
        assert one.standing == candidates[one.number].standing
        assert one.group == (one.tier, one.beyond, -whole)
    assert sorted(one.number for one in judged) == list(range(len(candidates)))


@given(rows, any_rules, some, st.integers(0, 9))
def test_groups_do_not_depend_on_the_order_given(row: tuple[list[int], list[int]], given_rules: Rules,
                                                 candidates: list[Candidate], turn: int) -> None:
    numbered = list(enumerate(candidates))
    turned = numbered[turn:] + numbered[:turn]
    assert rank.judge(*row, LEVEL_MS, given_rules, turned) == rank.judge(*row, LEVEL_MS, given_rules, numbered)


@given(rows, some, st.sampled_from([0, Match.COUNTRY, Match.REGION]))
def test_fence(row: tuple[list[int], list[int]], candidates: list[Candidate], fence: int) -> None:
    numbered = list(enumerate(candidates))
    kept = rank.fenced(row[1], fence, numbered)
    assert kept == [(i, c) for i, c in numbered
                    if not fence or (c.column is not None and row[1][c.column] & fence == fence)]


@pytest.mark.parametrize(("weight", "half", "ms", "points"), [
    (40, 50, 0, 40_000), (40, 50, 2, 38_440), (40, 50, 50, 20_000), (40, 50, 25, 26_640), (40, 50, 250, 6_640),
    (0, 50, 0, 0), (100, 1, 0, 100_000), (100, 1, 1, 50_000), (100, 1, 2, 33_300), (100, 10_000, 250, 97_500),
])
def test_proximity_points(weight: int, half: int, ms: int, points: int) -> None:
    """weight x 1000 x half / (half + ms), the quotient cut to an integer before it is weighed."""
    assert rank.proximity_points(weight, half, [ms]) == [points]


@given(st.integers(0, 100), st.integers(1, 10_000))
def test_proximity_falls_from_the_whole_weight(weight: int, half: int) -> None:
    points = rank.proximity_points(weight, half, LEVEL_MS)
    assert points == sorted(points, reverse=True)
    assert points[0] == weight * rank.SCALE
    assert points[-1] >= 0


def test_match_points() -> None:
    assert rank.match_points(30) == [0, *[30_000] * 7]
    assert rank.match_points(0) == [0] * 8
