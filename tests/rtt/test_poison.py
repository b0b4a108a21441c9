"""One lying reporter of ten, from samples to a derived map: where others measure the same it moves at most a twentieth
of the answers, and where it measures its site alone only that site's own clients.

The world is made up: a hundred and twenty blocks at as many places, ten sites, detours and last miles. With real
cities: `bench/poison.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnsd.atlas import build, derive, store
from dnsd.atlas.positions import positions
from dnsd.registry.roundtrips import RoundTrip
from dnsd.rtt.intake import Place, sift
from dnsd.rtt.items import Entry, Gathered
from dnsd.steer import distance
from tests.atlas import samples
from tests.rtt.measuring import InProcess

BLOCKS, SITES = 120, 10
Lie = Callable[[np.ndarray, np.random.Generator], np.ndarray]
LIES: dict[str, Lie] = {
    "all at 1 ms": lambda ms, rng: np.ones(len(ms)), "half": lambda ms, rng: ms / 2,
    "100 ms more": lambda ms, rng: ms + 100, "anything": lambda ms, rng: rng.uniform(1, 400, len(ms)),
    "the other way round": lambda ms, rng: np.maximum(300 - ms, 1)}


class World:
    """Places of blocks and sites, and round trips[site, block]."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(4)
        self.places = np.column_stack((rng.uniform(-50, 65, BLOCKS), rng.uniform(-170, 170, BLOCKS)))
        self.clients = [f"20.{n // 250}.{n % 250}.0/24" for n in range(BLOCKS)]
        geo = {client: (float(latitude), float(longitude), "DE", "EU")
               for client, (latitude, longitude) in zip(self.clients, self.places, strict=True)}
        build.build(samples.directory(folder / "data", geo=geo), folder / "atlas")
        self.atlas = store.open_atlas(folder / "atlas")
        self.specs = [derive.SiteSpec(f"s{n}", *map(float, self.places[rng.integers(BLOCKS)] + rng.normal(0, 1, 2)))
                      for n in range(SITES)]
        km = np.array([[distance.km(spec.latitude, spec.longitude, *place) for place in self.places]
                       for spec in self.specs])
        detour = np.exp(rng.normal(0.1, 0.08, (SITES, 1)) + rng.normal(0, 0.15, km.shape))
        self.ms = (distance.BASE_MS + distance.MS_PER_KM * km) * detour + rng.exponential(4, BLOCKS)

    def minute(self, child: InProcess, lie: Lie | None, seed: int, *, silent: bool = False, each: int = 1) -> None:
        """Six batches and as many rounds; each site is measured by its agent, or by so many."""
        rng = np.random.default_rng(seed)
        places = {spec.id: Place(n, spec.latitude, spec.longitude) for n, spec in enumerate(self.specs)}
        for _ in range(6):
            child.now_s += 10
            gathered = Gathered()
            for number, spec in enumerate(self.specs):
                for who in [(number + 3 * other) % SITES for other in range(each)]:
                    if silent and not who:
                        continue
                    seen = self.ms[number] * rng.normal(1, 0.02, BLOCKS)
                    seen = lie(seen, rng) if lie is not None and not who else seen
                    told = [RoundTrip(client=client, rtt_ms=ms, count=9, site=spec.id)
                            for client, ms in zip(self.clients, seen.tolist(), strict=True)]
                    found = sift(told, None, places, lambda some: positions(self.atlas, some))
                    gathered.add(f"agent-{who}", tuple(places), found.rows, found.fast)
            child.fold(*map(Entry.from_bytes, gathered.entries("n", child.now_ms)))
            child.round()

    def answers(self, child: InProcess) -> np.ndarray:
        """The site with the least level in the derived map's row of each block."""
        made = derive.make(self.atlas, self.specs, child.table())
        keys = np.array([20 << 16 | n // 250 << 8 | n % 250 for n in range(BLOCKS)])
        shift = 0 if int(made.starts4.max()) < 1 << 24 else 8
        rows = made.rows[made.rows4[np.searchsorted(made.starts4, keys << shift, "right") - 1]]
        return rows[:, :SITES].argmin(axis=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def calm(world: World) -> InProcess:
    """After a minute in which all were honest; to be copied."""
    child = InProcess()
    world.minute(child, None, 1)
    return child


@pytest.fixture(scope="module")
def honest(world: World, calm: InProcess) -> np.ndarray:
    answers = world.answers(calm)
    assert np.mean(world.ms[answers, np.arange(BLOCKS)] - world.ms.min(axis=0)) < 3  # measured answers are good ones
    assert len(np.unique(answers)) >= 6
    return answers


@pytest.fixture(scope="module")
def shared(world: World) -> tuple[InProcess, np.ndarray]:
    """The same where each site is measured by three, and its answers."""
    child = InProcess()
    world.minute(child, None, 1, each=3)
    return child, world.answers(child)


@pytest.mark.parametrize("lie", ["all at 1 ms", "half", "anything", "the other way round"])
def test_who_measures_a_site_alone_draws_nobody_there(
    world: World, calm: InProcess, honest: np.ndarray, lie: str,
) -> None:
    """It can send its own site's clients away, as it could by letting its leases end; no more."""
    child = copy.deepcopy(calm)
    world.minute(child, LIES[lie], 2)
    moved = world.answers(child) != honest
    assert {name for name, one in child.state["reporters"].items() if "distrusted" in one} <= {"agent-0"}
    assert np.mean(moved & (honest != 0)) <= 0.02


@pytest.mark.parametrize("lie", ["half", "100 ms more", "the other way round"])
def test_where_three_measure_each_site_one_of_ten_moves_a_twentieth_at_most(
    world: World, shared: tuple[InProcess, np.ndarray], lie: str,
) -> None:
    child = copy.deepcopy(shared[0])
    world.minute(child, LIES[lie], 2, each=3)
    assert np.mean(world.answers(child) != shared[1]) <= 0.05
    assert {name for name, one in child.state["reporters"].items() if "distrusted" in one} <= {"agent-0"}


def test_one_that_lies_from_the_start_is_as_if_it_were_not_there(world: World) -> None:
    without, child = InProcess(), InProcess()
    world.minute(without, None, 1, silent=True)
    world.minute(child, LIES["half"], 1)
    assert np.mean(world.answers(child) != world.answers(without)) <= 0.05
