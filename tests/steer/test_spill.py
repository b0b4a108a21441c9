"""Spill-over's rule: who is kept, who walks on, where to; and that nobody else moves."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer import draw, spill
from dnsd.steer.spill import WHOLE, Spread, Stand

CLIENTS = 20_000


def way(*stands: tuple[int, bool, int, int], tiers: tuple[int, ...] = ()) -> list[Stand]:
    """Stands of (site, alive, keep, take), numbered."""
    return [Stand(number, tiers[number] if tiers else 0, alive, Spread(site, keep, take))
            for number, (site, alive, keep, take) in enumerate(stands)]


def seeds(count: int = CLIENTS) -> list[int]:
    return [draw.seed(7, block << 4, 0) for block in range(count)]


def answers(stands: list[Stand], count: int = CLIENTS) -> Counter[int]:
    return Counter(spill.walk(seed, stands) for seed in seeds(count))


@pytest.mark.parametrize(("share", "expected"), [(0, 0.0), (WHOLE, 1.0), (WHOLE // 2, 0.5), (WHOLE // 10, 0.1)])
def test_a_share_accepts_that_share_of_clients(share: int, expected: float) -> None:
    kept = answers(way((1, True, share, 0), (2, True, WHOLE, WHOLE)))[0] / CLIENTS
    assert kept == expected if share in (0, WHOLE) else abs(kept - expected) < 0.01


def test_natives_of_a_dead_site_go_to_several_in_their_order() -> None:
    found = answers(way((1, False, WHOLE, 0), (2, True, WHOLE, WHOLE // 2), (3, True, WHOLE, WHOLE // 2),
                        (4, True, WHOLE, WHOLE // 2)))
    assert found[0] == 0
    # 1/2, 1/4, 1/8 by their own hash; of the eighth that is left an equal part each
    assert all(abs(found[n] / CLIENTS - part) < 0.01 for n, part in ((1, 13 / 24), (2, 7 / 24), (3, 4 / 24)))


def test_whom_nobody_takes_is_spread_by_take() -> None:
    found = answers(way((1, False, WHOLE, 0), (2, True, WHOLE, 30), (3, True, WHOLE, 60), (4, True, WHOLE, 0)))
    assert found[3] == 0
    assert abs(found[1] / CLIENTS - 1 / 3) < 0.02
    assert abs(found[2] / CLIENTS - 2 / 3) < 0.02


def test_nobody_takes_anything_so_the_first_alive_does() -> None:
    assert answers(way((1, False, WHOLE, 0), (2, True, WHOLE, 0), (3, True, WHOLE, 0)), 50) == {1: 50}
    assert answers(way((1, True, 0, 0), (2, True, WHOLE, 0)), 50) == {0: 50}
    assert answers(way((1, False, 0, 0), (2, False, WHOLE, WHOLE)), 50) == {-1: 50}


def test_whom_its_own_site_does_not_keep_is_not_taken_by_it() -> None:
    found = answers(way((1, True, 0, WHOLE), (2, True, WHOLE, 20), (3, True, WHOLE, 20)))
    assert found[0] == 0
    assert abs(found[1] / CLIENTS - 0.5) < 0.02


def test_one_dead_endpoint_of_a_site_changes_nothing_between_sites() -> None:
    site = way((1, False, WHOLE, 0), (2, True, WHOLE, WHOLE), (1, True, WHOLE, 0))
    assert answers(site, 50) == {1: 50}  # in the order of its draw the other site stands before
    equals = way((1, False, WHOLE, 0), (1, True, WHOLE, 0), (2, True, WHOLE, WHOLE))
    assert answers(equals, 50) == {1: 50}


def test_what_stands_by_is_no_place_to_spill_to() -> None:
    stands = way((1, True, 0, 0), (2, True, WHOLE, WHOLE), (3, True, WHOLE, WHOLE), tiers=(0, 1, 1))
    assert answers(stands, 50) == {0: 50}
    assert answers(way((1, False, 0, 0), (2, True, 0, WHOLE), tiers=(0, 1)), 50) == {1: 50}


sites = st.lists(st.tuples(st.booleans(), st.integers(0, WHOLE), st.integers(0, WHOLE)), min_size=2, max_size=8)


@given(sites, st.integers(0, 2**64 - 1), st.data())
def test_a_death_moves_only_those_who_were_there(found: list[tuple[bool, int, int]], seed: int,
                                                 data: st.DataObject) -> None:
    dead = data.draw(st.integers(0, len(found) - 1))
    before = way(*((site, alive, keep, take) for site, (alive, keep, take) in enumerate(found)))
    after = [one._replace(alive=one.alive and one.spread.site != dead) for one in before]
    was, now = spill.walk(seed, before), spill.walk(seed, after)
    assert was in (now, dead)
    if now >= 0:
        assert after[now].alive


@given(sites, st.integers(0, 2**64 - 1), st.data())
def test_a_share_that_falls_moves_only_its_own(found: list[tuple[bool, int, int]], seed: int,
                                               data: st.DataObject) -> None:
    """What a native site keeps less of goes away from it, never between others."""
    before = way(*((site, True, keep, max(take, 1)) for site, (_, keep, take) in enumerate(found)))
    less = data.draw(st.integers(0, before[0].spread.keep))
    after = [before[0]._replace(spread=before[0].spread._replace(keep=less)), *before[1:]]
    was, now = spill.walk(seed, before), spill.walk(seed, after)
    assert was in (now, 0)


def test_the_chance_is_even_and_never_whole() -> None:
    rnd = random.Random(3)
    found = [spill.chance(spill.hashed(rnd.getrandbits(64), rnd.getrandbits(32))) for _ in range(CLIENTS)]
    assert max(found) < WHOLE
    assert abs(sum(found) / CLIENTS / WHOLE - 0.5) < 0.01


def test_what_was_asked_is_told() -> None:
    told: list[tuple[int, str]] = []
    stands = way((1, False, WHOLE, 0), (2, True, WHOLE, 0), (3, True, WHOLE, WHOLE))
    assert spill.walk(seeds(1)[0], stands, lambda stand, word: told.append((stand.number, word.partition(":")[0]))) == 2
    assert told == [(0, "not answerable"), (1, "not taken"), (2, "taken")]
