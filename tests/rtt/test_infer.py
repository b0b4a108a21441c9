"""What follows from measured blocks for others: worlds whose law is known, and the parts against their long way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.rtt import infer, infer_field, infer_rungs
from dnsd.rtt.infer import DISTANCE, MODEL, SOURCES, Ground, Inferred, Seen
from dnsd.rtt.infer_field import Points
from dnsd.steer import distance

PLACES = 60
BLOCKS = 5
SITES = Points(np.array([50.0, 40.0, 35.0, -25.0]), np.array([8.0, -75.0, 139.0, 28.0]))
NOTHING = np.full((4, 4), np.nan)


def ground(seed: int = 1, countries: int = 6) -> Ground:
    """Places over the earth, one origin at each, AS numbers of three; place 0 is unknown."""
    rng = np.random.default_rng(seed)
    places = Points(np.append(np.nan, rng.uniform(-50, 65, PLACES)), np.append(np.nan, rng.uniform(-180, 180, PLACES)))
    country = np.append(0, rng.integers(1, countries + 1, PLACES))
    return Ground(places, country, np.arange(PLACES + 1), np.append(0, 64500 + np.arange(PLACES) % 3),
                  np.zeros(PLACES + 1, np.int64))


def by_distance(where: Ground) -> np.ndarray:
    return np.asarray(distance.BASE_MS + distance.MS_PER_KM * infer_field.kilometres(where.places, SITES))


def seen(where: Ground, ms: np.ndarray, places: np.ndarray, noise: float = 0.0, seed: int = 2) -> Seen:
    """BLOCKS blocks at each of these places with the place's ms, each /20 with one block."""
    origin = np.repeat(places, BLOCKS)
    numbers = (np.uint64(1) << np.uint64(16)) + np.arange(len(origin), dtype=np.uint64) * np.uint64(16)
    values = ms[origin] * np.exp(np.random.default_rng(seed).normal(0, noise, (len(origin), ms.shape[1])))
    return Seen(numbers, origin, values, np.ones(values.shape))


def told(found: Inferred, where: Ground, origins: np.ndarray) -> np.ndarray:
    """Milliseconds of origins without measurements."""
    logs = found.base[where.place[origins]]
    for rung in found.rungs:
        group = rung.of[origins]
        logs = logs + np.where(group[:, None] > 0, rung.effects.value[group], 0.0)
    return np.asarray(np.exp(logs) - infer.SOFT_MS)


def off(ms: np.ndarray, truth: np.ndarray) -> float:
    error = ms - truth
    return float(np.abs(error - error.mean(axis=1, keepdims=True)).mean())


def test_a_detour_is_learnt_by_its_neighbours() -> None:
    where = ground()
    ms = by_distance(where)
    east = where.places.longitude > 40
    ms[east, 0] += 90  # by way of elsewhere
    known, rest = np.arange(1, PLACES + 1, 2), np.arange(2, PLACES + 1, 2)
    found = infer.infer(where, SITES, seen(where, ms, known, 0.01), NOTHING)
    assert SOURCES[MODEL] in found.check.steps
    assert found.check.inferred_ms < found.check.distance_ms / 2
    assert found.check.cells == found.check.asked == len(known) * BLOCKS * 4
    assert off(told(found, where, rest), ms[rest]) < 0.75 * off(by_distance(where)[rest], ms[rest])


def test_sites_that_know_one_another_speak_for_their_surroundings() -> None:
    """Nearly all is as distance says, so little is to be seen at clients; the detour between two sites is."""
    where = ground()
    ms = by_distance(where)
    near = infer_field.kilometres(where.places, SITES) < 4500
    ms[near[:, 2], 0] += 100
    between = distance.BASE_MS + distance.MS_PER_KM * infer_field.kilometres(SITES, SITES)
    between[0, 2] += 100
    between[2, 0] += 100
    rest = np.flatnonzero(near[:, 2])
    some = rest[:1]
    measured = seen(where, ms, np.append(some, np.flatnonzero(~near[:, 2])[1:20]), 0.02)
    blind = infer.infer(where, SITES, measured, NOTHING)
    sighted = infer.infer(where, SITES, measured, between)
    assert SOURCES[MODEL] in sighted.check.steps
    assert len(rest) > 1
    assert off(told(sighted, where, rest[1:]), ms[rest[1:]]) < 0.9 * off(told(blind, where, rest[1:]), ms[rest[1:]])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.05, 0.8])
def test_what_does_not_help_is_not_used(seed: int, noise: float) -> None:
    """Each block is off by itself: what is used predicts what was measured better than distance, or nothing is."""
    where = ground(seed)
    found = infer.infer(where, SITES, seen(where, by_distance(where), np.arange(1, 30), noise, seed), NOTHING)
    if found.check.steps:
        assert found.check.inferred_ms < found.check.distance_ms
        assert not found.check.why
    else:
        assert found.check.why
        assert (found.rungs, found.prefixes) == ((), None)
        assert np.exp(found.base[1:]) - infer.SOFT_MS == pytest.approx(by_distance(where)[1:])


@pytest.mark.parametrize("noise", [0.05, 0.3, 0.8])
def test_lawless_values_promise_next_to_nothing(noise: float) -> None:
    """A block's own deviation must not come back to it through the other blocks of its place."""
    where = ground()
    for seed in range(6):
        measured = seen(where, by_distance(where), np.arange(1, 30), noise, seed)
        check = infer.infer(where, SITES, measured, NOTHING).check
        assert SOURCES[MODEL] not in check.steps
        assert check.inferred_ms > 0.97 * check.distance_ms


def test_a_world_that_is_as_distance_says_stays_so() -> None:
    where = ground()
    measured = seen(where, by_distance(where), np.arange(1, 30))
    found = infer.infer(where, SITES, measured, NOTHING)
    assert told(found, where, np.arange(1, PLACES)) == pytest.approx(by_distance(where)[1:PLACES], abs=0.2)


def test_few_blocks_say_nothing_of_others() -> None:
    where = ground()
    measured = seen(where, by_distance(where) * 2, np.array([3]))
    few = Seen(*(part[: infer.BLOCKS_LEAST - 1] for part in measured))
    found = infer.infer(where, SITES, few, NOTHING)
    assert found.check.steps == ()
    assert "too few" in found.check.why


def test_one_places_word_is_not_its_countrys() -> None:
    """All of a country's blocks are at one place and far off, so nobody can say what its other places are like."""
    where = ground(countries=4)
    ms = by_distance(where)
    odd = np.flatnonzero(where.country == 2)[0]
    ms[odd, :2] += 120
    known = np.append(np.flatnonzero((where.country != 2) & (where.country > 0)), odd)
    found = infer.infer(where, SITES, seen(where, ms, known, 0.02), NOTHING)
    assert "country" not in found.check.steps
    assert "place" in found.check.steps
    assert not set(found.check.steps) - set(SOURCES)


def test_what_is_common_to_all_sites_moves_nothing() -> None:
    """A block measured at one site alone, and slow there, is taken to be slow to all."""
    where = ground()
    measured = seen(where, by_distance(where), np.arange(1, 40), 0.02)
    measured.ms[0, 1:] = np.nan
    measured.ms[0, 0] += 80
    found = infer.infer(where, SITES, measured, NOTHING)
    assert found.own[0].min() == found.own[0].max() > 0


def test_more_blocks_than_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    where = ground()
    measured = seen(where, by_distance(where) * 1.2 + 5, np.arange(1, 50), 0.05)
    monkeypatch.setattr(infer, "ASKED_MOST", 100)
    found = infer.infer(where, SITES, measured, NOTHING)
    assert (found.check.cells, found.check.asked) == (49 * BLOCKS * 4, 400)
    again = infer.infer(where, SITES, measured, NOTHING)
    assert found.check == again.check
    assert (found.base[1:] == again.base[1:]).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_a_station_left_out_is_as_if_it_had_never_been(seed: int) -> None:
    """Dubrule's short way against the field without the station."""
    rng = np.random.default_rng(seed)
    at = Points(rng.uniform(-60, 60, 9), rng.uniform(-180, 180, 9))
    residual = rng.normal(0, 0.2, (9, 4))
    residual[rng.random((9, 4)) < 0.3] = np.nan
    residual[0, 0], residual[1, 1] = 0.1, -0.1
    variance = rng.uniform(0.001, 0.02, (9, 4))
    stations = infer_field.Stations(at, residual, variance, 9)
    left_out = infer_field.krige(stations, SITES, at).left_out
    for one in range(9):
        rest = np.arange(9) != one
        if not np.isfinite(residual[rest]).any():
            continue
        without = infer_field.Stations(Points(at.latitude[rest], at.longitude[rest]), residual[rest], variance[rest], 8)
        there = Points(at.latitude[one:one + 1], at.longitude[one:one + 1])
        values = infer_field.krige(without, SITES, there).values[0]
        here = np.isfinite(residual[one])
        assert left_out[one][here] == pytest.approx(values[here], abs=1e-9)
        assert np.isnan(left_out[one][~here]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_rungs_by_the_long_way(seed: int) -> None:
    """Sums, noise, and effects without a block, against loops."""
    rng = np.random.default_rng(seed)
    residual, group = rng.normal(0, 0.3, (30, 3)), rng.integers(0, 5, 30)
    residual[rng.random((30, 3)) < 0.2] = np.nan
    found = infer_rungs.sums(residual, group, 5)
    for number in range(5):
        assert found.cells[number] == pytest.approx(np.isfinite(residual[group == number]).sum(axis=0))
        assert found.total[number] == pytest.approx(np.nansum(residual[group == number], axis=0))
    size = infer_rungs.sizes(residual, group, found)
    squares = sum(float(np.nansum((residual[group == n] - found.total[n] / np.maximum(found.cells[n], 1)) ** 2))
                  for n in range(1, 5))
    spare = np.maximum(found.cells[1:] - 1, 0).sum()
    assert size.noise == pytest.approx(squares / spare + infer_rungs.TINY)
    without = infer_rungs.without_own(residual, group, found, size)
    for row in range(30):
        rest = np.arange(30) != row
        value = infer_rungs.effects(infer_rungs.sums(residual[rest], group[rest], 5), size).value[group[row]]
        assert without[row] == pytest.approx(value if group[row] else 0.0, abs=1e-9)


def test_sources_are_in_order_of_trust() -> None:
    assert (SOURCES[0], SOURCES[MODEL], SOURCES[DISTANCE]) == ("measured", "model", "distance")
    order = [SOURCES.index(name) for name in infer.RUNGS]
    assert order == sorted(order, reverse=True)
