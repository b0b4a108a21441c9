"""Scope: the largest aligned block inside a run of equal rows.

Lives here: integer arithmetic on keys. Does not live here: finding the run (`image.table`).

A run is no prefix: [10.0.0.0, 10.0.5.255] is one run of equal rows, but the widest answer that may be given to
10.0.4.7 is 10.0.4.0/23. Blocks of one size do not overlap and no block crosses a run's edge, so scopes are exact and
never hide one another (RFC 7871 §7.3.1, §11).
"""

from __future__ import annotations


def block_length(key: int, low: int, high: int, bits: int) -> int:
    """Prefix length of the largest aligned block that holds `key` and lies inside [low, high], of `bits`-bit keys.

    A block of size 2^k around the key leaves out `low - 1` exactly while k is below the highest bit in which both
    differ; likewise `high + 1`. Beyond the space's edges a key with one bit more stands in: it differs above all.
    """
    outside = 1 << bits
    below = key ^ (low - 1 if low else outside)
    above = key ^ (high + 1)
    return bits + 1 - min(below, above).bit_length()
