"""A reporter that nobody shares cells with, against what nodes at other sites measure of its site."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dnsd.rtt import neighbours, trust
from dnsd.rtt.cells import EPOCH_S, Cells
from dnsd.rtt.items import FAR, GROUP, Entry
from tests.rtt.measuring import InProcess, entry

SITES, EACH = 8, 40
Lie = Callable[[np.ndarray], np.ndarray]
LIES: dict[str, tuple[Lie, str]] = {
    "50 ms more": (lambda ms: ms + 50, "farther than the sites next to them"),
    "100 ms more": (lambda ms: ms + 100, "farther than the sites next to them"),
    "half": (lambda ms: ms / 2, "nearer than the sites next to them"),
    "a third less": (lambda ms: ms * 2 / 3, "nearer than the sites next to them"),
}


class World:
    """Sites with detours of their own, and clients next to each of them."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        place = rng.uniform(0, 150, (SITES, 2))
        straight = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
        detour = np.exp(rng.normal(0, 0.15, (SITES, SITES)))
        self.apart = straight * (detour + detour.T) / 2 + 5
        home = np.repeat(np.arange(SITES), EACH)
        last = rng.exponential(5, (SITES * EACH, 1))
        self.ms = self.apart[home] * np.exp(rng.normal(0, 0.05, (SITES * EACH, SITES))) + last
        self.ms[np.arange(SITES * EACH), home] = 2 + last[:, 0]

    def cells(self, lie: Lie | None = None, liar: int = 3) -> Cells:
        """Each site's agent has measured all clients; places of clients are not known."""
        cells = Cells()
        for site in range(SITES):
            rows = np.zeros(SITES * EACH, GROUP)
            ms = lie(self.ms[:, site]) if lie and site == liar else self.ms[:, site]
            rows["block"], rows["site"], rows["km"] = np.arange(len(ms)), site, FAR
            rows["rtt"], rows["spread"], rows["count"] = np.clip(ms * 10, 1, 50_000), 10, 9
            cells.fold(Entry("n", EPOCH_S * 1000, [f"s{n}" for n in range(SITES)], [f"agent-{site}"], rows), 0)
        return cells

    def between(self, sites: range = range(SITES)) -> dict[tuple[str, str], float]:
        return {(f"s{one}", f"s{other}"): float(self.apart[one, other])
                for one in sites for other in range(SITES) if one != other}


@pytest.mark.parametrize("lie", [*LIES])
@pytest.mark.parametrize("seed", range(5))
def test_the_only_reporter_of_a_site_is_contradicted_by_nodes(seed: int, lie: str) -> None:
    world = World(seed)
    cells = world.cells(LIES[lie][0])
    assert trust.judged(cells, 0, {}) == {}
    found = neighbours.judged(cells, 0, world.between())
    assert set(found) == {"agent-3"}
    assert LIES[lie][1] in found["agent-3"]


@pytest.mark.parametrize("seed", range(20))
def test_honest_ones_are_believed(seed: int) -> None:
    world = World(seed)
    assert neighbours.judged(world.cells(), 0, world.between()) == {}


def test_a_site_that_really_is_farther_is_so_for_nodes_too() -> None:
    world = World(1)
    world.ms[:, 3] += 60
    world.apart[:, 3] += 60
    assert neighbours.judged(world.cells(), 0, world.between()) == {}


@pytest.mark.parametrize("sites", [0, 2, 3])
def test_few_nodes_judge_nobody(sites: int) -> None:
    world = World(2)
    assert neighbours.judged(world.cells(lambda ms: ms + 100), 0, world.between(range(sites))) == {}


def test_one_node_that_lies_decides_nothing() -> None:
    world = World(3)
    between = {pair: ms * 10 if pair[0] == "s5" else ms for pair, ms in world.between().items()}
    assert neighbours.judged(world.cells(), 0, between) == {}


def test_a_detour_of_clients_next_to_one_site_accuses_nobody() -> None:
    world = World(3)
    world.ms[5 * EACH : 6 * EACH, 3] += 400
    assert neighbours.judged(world.cells(), 0, world.between()) == {}


@pytest.mark.parametrize("seed", range(5))
def test_nodes_that_measure_something_else_accuse_nobody(seed: int) -> None:
    """An address that is answered everywhere is near all of them."""
    world, rng = World(seed), np.random.default_rng(seed)
    assert neighbours.judged(world.cells(), 0, {pair: rng.uniform(3, 8) for pair in world.between()}) == {}
    assert neighbours.judged(world.cells(), 0, dict.fromkeys(world.between(), 5.0)) == {}


def test_who_is_not_believed_is_held_to_tighter_bounds() -> None:
    world = World(5)
    cells = world.cells(lambda ms: ms + 27)
    assert neighbours.judged(cells, 0, world.between()) == {}
    cells.trusted[cells.reporters.index("agent-3")] = False
    assert set(neighbours.judged(cells, 0, world.between())) == {"agent-3"}


def test_a_last_mile_that_all_clients_have_is_nobodys() -> None:
    world = World(7)
    world.ms += 40
    for site in range(SITES):
        world.ms[site * EACH : (site + 1) * EACH, site] -= 30  # or they would live next to nothing
    assert neighbours.judged(world.cells(), 0, world.between()) == {}
    assert set(neighbours.judged(world.cells(lambda ms: ms + 50), 0, world.between())) == {"agent-3"}


def test_the_child_hears_of_nodes_and_names_the_liar() -> None:
    world, one = World(8), InProcess()
    names = [f"s{n}" for n in range(SITES)]
    between: dict[str, dict[str, float]] = {}
    for (here, there), ms in world.between().items():
        between.setdefault(here, {})[there] = ms
    for site in range(SITES):
        ms = world.ms[:, site] + (100 if site == 3 else 0)
        one.fold(entry(one.now_s, [(block, site, value) for block, value in enumerate(ms.tolist())],
                       reporter=f"agent-{site}", sites=names, between=between))
    reporters = one.round()["reporters"]
    assert {name for name, told in reporters.items() if "distrusted" in told} == {"agent-3"}
    assert "ms farther than the sites next to them" in reporters["agent-3"]["distrusted"]


def test_gone_sites_are_left_out() -> None:
    world = World(6)
    cells = world.cells(lambda ms: ms + 100)
    cells.drop_site("s6")
    between = world.between() | {("s1", "elsewhere"): 3.0}
    assert set(neighbours.judged(cells, 0, between)) == {"agent-3"}
