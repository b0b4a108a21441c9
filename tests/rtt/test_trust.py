"""Who is not believed: on made-up fleets, and on the regions of a cloud with one liar of ten."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnsd.rtt import trust
from dnsd.rtt.cells import EPOCH_S, Cells
from dnsd.rtt.items import GROUP, Entry
from dnsd.steer import distance

RTT = Path(__file__).parents[2] / "data" / "rtt"
Lie = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
"""What a liar makes of round trips (ms) and kilometres."""

LIES: dict[str, Lie] = {
    "all near": lambda ms, km, rng: np.maximum(km / 200 + 0.2, 1.0),
    "half of it": lambda ms, km, rng: np.maximum(ms * 0.5, km / 200 + 0.1),
    "100 ms more": lambda ms, km, rng: ms + 100,
    "three times": lambda ms, km, rng: ms * 3,
    "anything": lambda ms, km, rng: np.maximum(rng.uniform(1, 400, len(ms)), km / 200 + 0.1),
    "the other way round": lambda ms, km, rng: np.maximum(300 - ms, km / 200 + 0.1),
}


def measured(cells: Cells, reporter: str, site: int, km: np.ndarray, ms: np.ndarray) -> None:
    rows = np.zeros(len(ms), GROUP)
    rows["block"], rows["site"], rows["km"] = np.arange(len(ms)), site, km
    rows["rtt"], rows["spread"], rows["count"] = np.clip(ms * 10, 1, 50_000), 10, 9
    cells.fold(Entry("n", EPOCH_S * 1000, [f"s{n}" for n in range(10)], [reporter], rows), 0)


def made_up(rng: np.random.Generator, sites: int = 10, blocks: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Kilometres and milliseconds of blocks to sites: detours by block and by site, noise, a last mile."""
    km = rng.uniform(20, 15_000, (blocks, sites)) * rng.uniform(0, 1, (blocks, sites))
    detour = np.exp(rng.normal(0.1, 0.1, sites) + rng.normal(0, 0.15, (blocks, 1)) + rng.normal(0, 0.15, km.shape))
    return km, (distance.BASE_MS + distance.MS_PER_KM * km) * detour + rng.exponential(5, (blocks, 1))


@pytest.mark.parametrize("lie", [*LIES])
@pytest.mark.parametrize("seed", range(3))
def test_one_liar_of_ten_that_each_measure_from_their_own_site(seed: int, lie: str) -> None:
    rng = np.random.default_rng(seed)
    km, ms = made_up(rng)
    cells = Cells()
    for site in range(10):
        said = LIES[lie](ms[:, site], km[:, site], rng) if site == 3 else ms[:, site]
        measured(cells, f"agent-{site}", site, km[:, site], said)
    assert set(trust.judged(cells, 0, {})) == {"agent-3"}


@pytest.mark.parametrize("seed", range(3))
def test_one_liar_among_those_that_share_cells(seed: int) -> None:
    """It lies by less than distance would show; where no place is known it is the only test."""
    rng = np.random.default_rng(seed)
    _, ms = made_up(rng)
    cells = Cells()
    for site in range(10):
        for number in range(3):
            who = (site + 3 * number) % 10
            said = ms[:, site] * rng.normal(1, 0.03, len(ms)) * (1.5 if who == 3 else 1.0)
            measured(cells, f"agent-{who}", site, np.full(len(ms), 0xFFFF), said)
    assert trust.judged(cells, 0, {}) == {"agent-3": "it contradicts the others"}


def test_nobody_is_judged_by_one_other() -> None:
    rng = np.random.default_rng(1)
    km, ms = made_up(rng)
    cells = Cells()
    for site in (0, 1):
        measured(cells, f"agent-{site}", site, km[:, site], ms[:, site] * (0.3, 1)[site])
        measured(cells, "agent-1", 0, km[:, 0], ms[:, 0])
    assert trust.judged(cells, 0, {}) == {}


def test_where_distance_speaks_against_many_it_is_distance_that_is_wrong() -> None:
    """All clients are behind satellites; or six of ten reporters are strange: nobody is left out for it."""
    rng = np.random.default_rng(1)
    km, ms = made_up(rng)
    for odd in (range(10), range(6)):
        cells = Cells()
        for site in range(10):
            said = rng.uniform(500, 700, len(ms)) if site in odd else ms[:, site]
            measured(cells, f"agent-{site}", site, km[:, site], said)
        assert trust.judged(cells, 0, {}) == {}


def test_who_sends_much_that_is_faster_than_light() -> None:
    cells = Cells()
    told = {"a": (1000.0, 300.0), "b": (1000.0, 140.0), "c": (200.0, 90.0)}
    assert trust.judged(cells, 0, told) == {"a": "30 % of its samples are faster than light"}
    cells.reporter("d")
    cells.trusted[1] = False
    assert set(trust.judged(cells, 0, {"d": (1000.0, 130.0)})) == {"d"}  # who was left out: a fifth tighter


def regions() -> tuple[np.ndarray, np.ndarray]:
    """Kilometres and milliseconds between a cloud's regions."""
    rows = list(csv.DictReader((RTT / "aws_regions.csv").read_text(encoding="utf-8").splitlines()))
    at = {row["region"]: number for number, row in enumerate(rows)}
    place = np.radians([[float(row["latitude"]), float(row["longitude"])] for row in rows])
    ms = np.full((len(rows), len(rows)), np.nan)
    for row in csv.DictReader((RTT / "aws_rtt.csv").read_text(encoding="utf-8").splitlines()):
        ms[at[row["source"]], at[row["destination"]]] = float(row["rtt_ms"])
    half = np.sin((place[:, None, 0] - place[:, 0]) / 2) ** 2 + np.cos(place[:, None, 0]) * np.cos(
        place[:, 0]) * np.sin((place[:, None, 1] - place[:, 1]) / 2) ** 2
    return 2 * distance.EARTH_KM * np.arcsin(np.sqrt(np.minimum(1, half))), ms


def test_real_regions_are_believed_and_a_liar_among_them_is_not() -> None:
    km, ms = regions()
    rng = np.random.default_rng(7)
    wrongly = found = harmless = 0
    for round_ in range(30):
        chosen = rng.choice(len(km), 10, replace=False)
        lie = list(LIES)[round_ % len(LIES)]
        cells = Cells()
        for site, city in enumerate(chosen):
            there = ~np.isnan(ms[:, city]) & (np.arange(len(km)) != city)
            said = LIES[lie](ms[there, city], km[there, city], rng) if site == 0 else ms[there, city]
            rows = np.zeros(5 * int(there.sum()), GROUP)  # five blocks a region
            rows["block"], rows["site"] = np.arange(len(rows)), site
            rows["km"], rows["rtt"] = np.repeat(km[there, city], 5), np.repeat(np.clip(said * 10, 1, 50_000), 5)
            rows["spread"], rows["count"] = 10, 9
            cells.fold(Entry("n", EPOCH_S * 1000, [f"s{n}" for n in range(10)], [f"agent-{site}"], rows), 0)
        judged = trust.judged(cells, 0, {})
        found += "agent-0" in judged
        wrongly += len(judged.keys() - {"agent-0"})
        # one that makes its own site worse can only be told by clients near it
        harmless += "agent-0" not in judged and (lie == "half of it" or np.count_nonzero(km[:, chosen[0]] < 1000) < 8)
    assert wrongly <= 2  # of 270 honest ones
    assert found + harmless >= 29
    assert harmless <= 8  # regions are few and far apart
