"""A site that shifts for all: noisy cells follow together, and nothing moves where it is chance, few, or one site's."""

from __future__ import annotations

import numpy as np
import pytest

from dnsd.rtt import decide, together
from dnsd.rtt.cells import Cells
from tests.rtt.measuring import feed, ms, settle

NOISE_MS = 60.0
BLOCKS = 80


def run(cells: Cells, rng: np.random.Generator, seconds: range, extra_ms: float = 0.0, blocks: int = BLOCKS) -> int:
    """Noise at two sites, each block heard of once in 10 s, and what is added at the first; how often cells moved
    together."""
    moved = 0
    for at in seconds:
        if at % 5:
            continue
        mine = [block for block in range(blocks) if block % 2 == at // 5 % 2]
        noise = rng.normal(0, NOISE_MS, (len(mine), 2))
        feed(cells, at, [(block, site, max(1.0, 200 + 100 * site + noise[row, site] + (0 if site else extra_ms)))
                         for row, block in enumerate(mine) for site in (0, 1)], count=1, spread=0)
        found = together.shifted(cells, at)
        moved += len(found) > 0
        decide.watch(cells, found, at)
        settle(cells, at)
    return moved


@pytest.mark.parametrize("seed", range(3))
def test_a_shift_in_noise_is_followed_by_most_within_a_minute(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = Cells()
    assert run(cells, rng, range(1800)) <= 1
    before = [[ms(cells, block, site) for block in range(BLOCKS)] for site in (0, 1)]
    run(cells, rng, range(1800, 1860), 50.0)
    after = [[ms(cells, block, site) for block in range(BLOCKS)] for site in (0, 1)]
    moves = [np.array(after[site]) - np.array(before[site]) for site in (0, 1)]
    assert np.mean(moves[0] > 25) > 0.6
    assert abs(float(np.median(moves[1]))) < 5


def test_few_blocks_say_nothing_together() -> None:
    rng = np.random.default_rng(1)
    cells = Cells()
    run(cells, rng, range(900), blocks=20)
    assert run(cells, rng, range(900, 960), 50.0, blocks=20) == 0


def test_noise_alone_moves_nothing_together() -> None:
    moved = sum(run(Cells(), np.random.default_rng(seed), range(600)) for seed in range(4))
    assert moved <= 2  # while the first values settle


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "KEPT", 100)
    cells = Cells()
    for at in range(40):
        feed(cells, at, [(block, 0, 20.0) for block in range(60)])
        together.shifted(cells, at)
    assert sum(len(one.off) for one in cells.seen) <= 100 + 3 * 60
    cells.drop_site("s0")
    assert (len(together.shifted(cells, 40)), len(cells)) == (0, 0)
