"""How often pages in browsers speak: what keeps a token that anybody can read from being used for more than it is for.

Lives here: `Beacons`. Does not live here: what a beacon may say (`admin.measurements`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BEACON_MOST: Final = 20
BEACON_S: Final = 60.0
"""Batches of one block's pages that are taken in so many seconds."""

BLOCKS: Final = 100_000


class Beacons:
    """How often each block's pages have spoken lately; bounded, the longest silent are forgotten."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._spoken: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def may(self, block: bytes) -> bool:
        """Count a batch; false: it is one too many."""
        now = self._monotonic()
        since, count = self._spoken.pop(block, (now, 0))
        if now - since >= BEACON_S:
            since, count = now, 0
        self._spoken[block] = since, count + 1
        if len(self._spoken) > BLOCKS:
            self._spoken.popitem(last=False)
        return count < BEACON_MOST
