"""Keyed draws: shares by weight, minimal movement, agreement, and the logarithm in integers."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer import draw

keys = st.integers(0, (1 << 64) - 1)
groups = st.lists(st.tuples(keys, st.integers(0, 65535)), min_size=1, max_size=12, unique_by=lambda pair: pair[0])


def split(group: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Keys and weights."""
    return [key for key, _ in group], [weight for _, weight in group]


def test_cost_table_is_the_logarithm() -> None:
    assert len(draw.COST) == 4096
    for i, cost in enumerate(draw.COST):
        assert abs(cost / 2**32 + math.log2((i + 0.5) / 4096)) < 1e-9
    assert list(draw.COST) == sorted(set(draw.COST), reverse=True)
    assert draw.COST[-1] > 0


def test_no_library_decides_a_bit_of_the_table() -> None:
    assert tuple(map(draw._log, range(4096))) == draw.COST


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    """Outputs of SplitMix64 seeded with 1234567, a published check of that generator."""
    states = [(1234567 + step * 0x9E3779B97F4A7C15) % 2**64 for step in range(1, 6)]
    assert [draw.mix(state) for state in states] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


@given(keys, keys, st.integers(0, 1 << 40))
def test_seed_is_a_64_bit_number_of_all_three(service: int, block: int, window: int) -> None:
    seed = draw.seed(service, block, window)
    assert 0 <= seed < 1 << 64
    others = {draw.seed(service ^ 1, block, window), draw.seed(service, block ^ 1, window),
              draw.seed(service, block, window + 1)}
    assert len(others | {seed}) == 4


@given(keys, keys, st.integers(1, 65535))
def test_cost_is_the_logarithm_by_weight(seed: int, key: int, weight: int) -> None:
    value = draw.mix(seed ^ key)
    assert draw.cost(seed, key, weight) == ((draw.COST[value >> 52] << 16) // weight, value)
    assert draw.cost(seed, key, 0)[0] > draw.cost(seed, key, 1)[0]


def test_ties_of_cost_are_broken_alike() -> None:
    """Of 300 endpoints several share a step of the table: the hash itself decides."""
    names, weights = [draw.mix(n) for n in range(300)], [1] * 300
    tied = 0
    for seed in range(120):
        order = draw.order(seed, range(300), names, weights)
        tied += draw.cost(seed, names[order[0]], 1)[0] == draw.cost(seed, names[order[1]], 1)[0]
        assert draw.first(seed, range(300), names, weights) == order[0]
        assert draw.first(seed, range(299, -1, -1), names, weights) == order[0]
    assert tied > 0


@given(groups, keys)
def test_first_is_the_head_of_the_order(group: list[tuple[int, int]], seed: int) -> None:
    names, weights = split(group)
    every = range(len(group))
    order = draw.order(seed, every, names, weights)
    assert sorted(order) == list(every)
    assert draw.first(seed, every, names, weights) == order[0]
    assert order == sorted(every, key=lambda i: draw.cost(seed, names[i], weights[i]))


@given(groups, keys)
def test_order_does_not_depend_on_the_order_given(group: list[tuple[int, int]], seed: int) -> None:
    names, weights = split(group)
    every = list(range(len(group)))
    assert draw.order(seed, every, names, weights) == draw.order(seed, every[::-1], names, weights)
    assert draw.first(seed, every, names, weights) == draw.first(seed, every[::-1], names, weights)


@given(groups, keys, st.integers(0, 11))
def test_taking_one_away_moves_no_other(group: list[tuple[int, int]], seed: int, gone: int) -> None:
    names, weights = split(group)
    gone %= len(group)
    order = draw.order(seed, range(len(group)), names, weights)
    left = [i for i in range(len(group)) if i != gone]
    assert draw.order(seed, left, names, weights) == [i for i in order if i != gone]


@given(groups, keys)
def test_weight_0_comes_last(group: list[tuple[int, int]], seed: int) -> None:
    names, weights = split(group)
    order = draw.order(seed, range(len(group)), names, weights)
    assert [bool(weights[i]) for i in order] == sorted((bool(weights[i]) for i in order), reverse=True)


def shares(weights: list[int], number: int) -> Counter[int]:
    """How often each wins over that many blocks and windows."""
    names = [draw.mix(1000 + i) for i in range(len(weights))]
    return Counter(
        draw.first(draw.seed(0xD15D, n % 997, n // 997), range(len(weights)), names, weights) for n in range(number))


@pytest.mark.parametrize(("weights", "limit"), [  # the 99.9 % point of chi-square with len - 1 degrees of freedom
    ([100, 100], 10.83), ([100, 200, 300, 400], 16.27), ([1, 1, 1, 1, 1, 1, 1, 1], 24.32), ([1000, 10], 10.83),
    ([65535, 65535, 1], 13.82),
])
def test_shares_follow_weights(weights: list[int], limit: float) -> None:
    number = 8000
    found = shares(weights, number)
    expected = [number * weight / sum(weights) for weight in weights]
    assert sum((found[i] - want) ** 2 / want for i, want in enumerate(expected)) < limit


def test_a_share_that_goes_is_shared_by_weight() -> None:
    weights = [100, 200, 300]
    names = [draw.mix(n) for n in range(3)]
    seeds = [draw.seed(7, n, 3) for n in range(6000)]
    heirs = Counter(draw.first(seed, [0, 1], names, weights) for seed in seeds
                    if draw.first(seed, range(3), names, weights) == 2)
    assert 0.28 < heirs[0] / heirs.total() < 0.39


def test_windows_and_blocks_draw_independently() -> None:
    """Of two equal endpoints, knowing one window's or the next block's winner says nothing of this one's."""
    names, weights = [draw.mix(1), draw.mix(2)], [1, 1]
    seeds = [draw.seed(5, block, window) for block in range(60) for window in range(60)]
    won = [draw.first(seed, [0, 1], names, weights) for seed in seeds]
    same_window = sum(a == b for a, b in pairwise(won)) / len(won)
    same_block = sum(a == b for a, b in zip(won, won[60:], strict=False)) / len(won)
    assert 0.46 < same_window < 0.54
    assert 0.46 < same_block < 0.54
