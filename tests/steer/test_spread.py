"""Shares that fit: watermarks hold for any clients and capacities while the total fits, and no more moves than must."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.steer import draw, spill, spread
from dnsd.steer.spill import WHOLE, Spread, Stand
from dnsd.steer.spread import Client, Room, Solved

LOW, HIGH = 0.8, 0.95


def clients(rnd: random.Random, sites: int, count: int = 3000, total: float = 1000.0) -> list[Client]:
    """Clients who each have all sites in an order: those near their native come early, as on a map."""
    found = []
    for number in range(count):
        here = rnd.random()
        away = [min(abs(here - site / sites), 1 - abs(here - site / sites)) for site in range(sites)]
        order = sorted(range(sites), key=away.__getitem__)
        found.append(Client(total / count, draw.seed(5, number << 4, 0), tuple(order)))
    return found


def rooms(natives: Sequence[float], load: float, dead: Sequence[int] = ()) -> list[Room]:
    """Sites that are filled so far by their natives."""
    return [Room(1000 + number, units / load, number not in dead) for number, units in enumerate(natives)]


def answered(who: Sequence[Client], where: Sequence[Room], solved: Solved) -> list[int]:
    """Where each goes, by the rule itself."""
    spreads = [Spread(room.site, keep, take) for room, keep, take in zip(where, solved.keep, solved.take, strict=True)]
    return [spill.walk(client.seed, [Stand(n, where[n].tier, where[n].alive, spreads[n]) for n in client.order])
            for client in who]


def loads(who: Sequence[Client], where: Sequence[Room], solved: Solved) -> list[float]:
    found = [0.0] * len(where)
    for client, number in zip(who, answered(who, where, solved), strict=True):
        found[number] += client.weight
    return found


def natives_of(who: Sequence[Client], sites: int) -> list[float]:
    found = [0.0] * sites
    for client in who:
        found[client.order[0]] += client.weight
    return found


@pytest.mark.parametrize("dead", range(10))
def test_one_of_ten_dies_at_seventy_percent(dead: int) -> None:
    who = clients(random.Random(1), 10)
    natives = natives_of(who, 10)
    calm, after = rooms(natives, 0.7), rooms(natives, 0.7, [dead])
    before, now = spread.solve(who, calm, LOW, HIGH), spread.solve(who, after, LOW, HIGH)
    assert before.fits
    assert now.fits
    found = loads(who, after, now)
    assert max(load / (room.capacity or 1) for load, room in zip(found, after, strict=True)) <= HIGH
    assert found == pytest.approx([a + b for a, b in zip(now.kept, now.taken, strict=True)])
    was, is_ = answered(who, calm, before), answered(who, after, now)
    assert {one for one, other in zip(was, is_, strict=True) if one != other} == {dead}
    assert dead not in is_
    heirs = {other for one, other in zip(was, is_, strict=True) if one == dead}
    assert len(heirs) >= 3


def test_a_site_with_too_many_natives_sends_on_what_is_too_much() -> None:
    who = clients(random.Random(2), 5)
    natives = natives_of(who, 5)
    where = rooms(natives, 0.6)
    where[2] = where[2]._replace(capacity=natives[2] / 1.2)
    solved = spread.solve(who, where, LOW, HIGH)
    assert solved.fits
    assert solved.keep[0] == solved.keep[1] == WHOLE
    found = loads(who, where, solved)
    assert 0.93 < found[2] / (where[2].capacity or 1) <= HIGH
    assert sum(solved.taken) == pytest.approx(natives[2] - solved.kept[2])


def test_where_it_cannot_fit_all_are_equally_too_full() -> None:
    who = clients(random.Random(3), 4)
    natives = natives_of(who, 4)
    where = rooms(natives, 0.9, [1])
    solved = spread.solve(who, where, LOW, HIGH)
    assert not solved.fits
    full = [load / (room.capacity or 1) for load, room in zip(loads(who, where, solved), where, strict=True)
            if room.alive]
    assert max(full) - min(full) < 0.05
    assert min(full) > 1


def test_without_capacities_half_goes_to_each_next_best() -> None:
    who = clients(random.Random(4), 4)
    where = [Room(number, None, number != 0) for number in range(4)]
    solved = spread.solve(who, where, LOW, HIGH)
    assert solved.keep == (WHOLE,) * 4
    assert solved.take == (0, WHOLE // 2, WHOLE // 2, WHOLE // 2)
    assert solved.fits


def test_levels_that_are_not_enough_are_not_tried() -> None:
    """With two of four dead at 60 % the others must be filled beyond 80 %: that was tried 40 times over all clients."""
    who = clients(random.Random(3), 4)
    where = rooms(natives_of(who, 4), 0.46, dead=(1, 2))
    solved = spread.solve(who, where, LOW, HIGH)
    assert solved.fits
    assert solved.rounds < 10
    for load, room in zip(loads(who, where, solved), where, strict=True):
        assert load <= HIGH * (room.capacity or 0.0)


def test_nobody_is_left() -> None:
    who = clients(random.Random(5), 3, 30)
    solved = spread.solve(who, [Room(number, 10.0, alive=False) for number in range(3)], LOW, HIGH)
    assert answered(who, [Room(number, 10.0, alive=False) for number in range(3)], solved) == [-1] * 30
    assert not solved.fits


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.floats(0.2, 1.3), min_size=3, max_size=8), st.sets(st.integers(0, 7)))
def test_watermarks_hold_while_the_total_fits(seed: int, fill: list[float], dead: set[int]) -> None:
    """However full sites are by their natives, whoever is dead; but not where hardly any room is left."""
    who = clients(random.Random(seed), len(fill), 800)
    natives = natives_of(who, len(fill))
    where = [Room(number, max(units, 1.0) / part, number not in dead)
             for number, (units, part) in enumerate(zip(natives, fill, strict=True))]
    solved = spread.solve(who, where, LOW, HIGH)
    room = sum(one.capacity or 0 for one in where if one.alive)
    if not room:
        return
    assert solved.fits == (sum(client.weight for client in who) <= HIGH * room)
    found = loads(who, where, solved)
    assert sum(found) == pytest.approx(1000)
    if sum(found) <= 0.9 * room:  # 800 clients: each is more than a tenth of a percent of all
        assert max(load - HIGH * (one.capacity or 0) for load, one in zip(found, where, strict=True)) <= 2.5
    # who is kept is where it would be without any spill-over
    for client, number in zip(who, answered(who, where, solved), strict=True):
        if where[client.order[0]].alive and solved.keep[client.order[0]] == WHOLE:
            assert number == client.order[0]
