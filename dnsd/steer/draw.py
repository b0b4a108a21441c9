"""Keyed draws: which of equal endpoints a client gets, as a function of service, block and window.

Lives here: the hash, the weighted cost, the order inside a group. Does not live here: who is equal (`steer.rank`).

Weighted rendezvous: every endpoint gets a cost -ln(u)/weight, u from a hash of (service, block, window, endpoint), and
the lowest wins. So the chance is proportional to weight; A, AAAA and HTTPS of one client agree wherever they share the
winner; and when an endpoint goes only its own share moves. In integers throughout, so that a compiled engine and every
node come to the same bytes: the logarithm is a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, log2
from typing import Final

MASK: Final = (1 << 64) - 1
LOG_BITS: Final = 12
SURE: Final = 2.0 ** -8
"""So far from a step of the last bit the C library's logarithm need not be better than its first 40 bits."""


def _logs() -> tuple[int, ...]:
    """-log2((i + 1/2) / 4096) with 32 fractional bits, the same wherever it is made.

    A logarithm of the C library serves where it cannot decide a bit: it would have to be wrong by 2^-40. Nearer to
    a step it is found bit by bit, which for all would be a fifth of a worker's start.
    """
    table = []
    for i in range(1 << LOG_BITS):
        near = (LOG_BITS + 1 - log2(2 * i + 1)) * 2.0 ** 32
        up = ceil(near)
        table.append(up if SURE < up - near < 1 - SURE else _log(i))
    return tuple(table)


def _log(i: int) -> int:
    """The same of one step. Squaring a mantissa in [1, 2) doubles its logarithm: what overflows is its next bit."""
    numerator = 2 * i + 1  # u = numerator / 2^13
    whole = numerator.bit_length() - 1
    mantissa = numerator << (62 - whole)
    fraction = 0
    for _ in range(32):
        mantissa = (mantissa * mantissa) >> 62
        fraction <<= 1
        if mantissa >> 63:
            fraction |= 1
            mantissa >>= 1
    return ((LOG_BITS + 1 - whole) << 32) - fraction


COST: Final = _logs()
"""-log2 of the middle of each of 4096 equal steps of u, in 32 fractional bits; the base cancels in comparisons."""


def mix(value: int) -> int:
    """A 64-bit finaliser (two multiply-xorshift rounds): every input bit reaches every output bit."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def seed(service: int, block: int, window: int) -> int:
    """The seed of one client block's draw in one window; `block` is a key, its family's mark included."""
    return mix((service ^ block * 0x9E3779B97F4A7C15) + window * 0xD1342543DE82EF95 & MASK)


def cost(draw_seed: int, endpoint: int, weight: int) -> tuple[int, int]:
    """What an endpoint costs in this draw; lowest wins, ties by the hash itself; weight 0 is beyond all."""
    value = mix(draw_seed ^ endpoint)
    if not weight:
        return 1 << 62, value
    return (COST[value >> (64 - LOG_BITS)] << 16) // weight, value


def first(draw_seed: int, group: Iterable[int], keys: Sequence[int], weights: Sequence[int]) -> int:
    """The endpoint that `order` puts first: `mix` and `cost` written out, for it stands on the query path."""
    best, best_cost, best_value = -1, 1 << 63, 0
    for i in group:
        value = draw_seed ^ keys[i]
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        value ^= value >> 31
        weight = weights[i]
        price = (COST[value >> 52] << 16) // weight if weight else 1 << 62
        if price < best_cost or (price == best_cost and value < best_value):
            best, best_cost, best_value = i, price, value
    return best


def order(draw_seed: int, group: Iterable[int], keys: Sequence[int], weights: Sequence[int]) -> list[int]:
    """A group of equal endpoints (as indexes) in the order of this draw."""
    return sorted(group, key=lambda i: cost(draw_seed, keys[i], weights[i]))
