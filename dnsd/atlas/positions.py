"""Where many client blocks are, at once.

Lives here: blocks of measurements to positions. Does not live here: everything else an atlas says of one address
(`atlas.store`).

Operators' prefixes finer than a block are not looked at: a block has one position, that of its first address.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas.store import Atlas
from dnsd.rtt import blocks

F64 = NDArray[np.float64]


def positions(atlas: Atlas, numbers: NDArray[np.uint64]) -> tuple[F64, F64]:
    """Latitudes and longitudes in degrees of blocks (`rtt.blocks`); NaN where the atlas knows none."""
    place = atlas.arrays["place"][origins(atlas, numbers)]
    return atlas.arrays["latitude"][place], atlas.arrays["longitude"][place]


def origins(atlas: Atlas, numbers: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The origin of each block."""
    arrays, six = atlas.arrays, (numbers & np.uint64(blocks.SIX)) > 0
    found = np.zeros(len(numbers), np.uint32)
    four = np.searchsorted(arrays["starts4"], numbers[~six].astype(np.uint32), "right") - 1
    found[~six] = arrays["origins4"][four]
    upper = (numbers[six] ^ np.uint64(blocks.SIX)) << np.uint64(16)
    found[six] = arrays["origins6"][np.searchsorted(arrays["starts6"], upper, "right") - 1]
    return found
