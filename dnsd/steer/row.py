"""Rows: all that ranking may know of a client — for each site of a map, a level of extra milliseconds and match bits.

Lives here: the levels and the unknown client's row. Does not live here: where milliseconds come from
(`steer.distance`, `atlas.derive`), what a level is worth (`steer.rank`).

What a row resolves decides how wide scopes are, for equal neighbouring rows merge: levels are fine near the best site,
where one decides. Beyond 60 ms they only keep an order for the day the near sites die; there `atlas.derive` gives the
mean of all places alike near by, so that far sites split no rows.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

LEVEL_MS: Final = (0, 1, 4, 7, 10, 14, 19, 25, 31, 60, 75, 90, 105, 120, 140, 160, 180, 210, 250)
"""Lower bounds of the levels in milliseconds over the client's best site; a level stands for its lower bound."""

ROW_UNKNOWN: Final = 0
"""The row of a client the atlas does not know: level 0 and no match for every site, so that weights decide."""


def level_of(extra_ms: float) -> int:
    """The level of that many milliseconds (>= 0) over the best site."""
    return bisect_right(LEVEL_MS, extra_ms) - 1
