"""Clients where nobody has said who asks: a sample of the addresses the atlas knows.

Lives here: which IPv4 /24 stand for all, and what each weighs. Does not live here: clients that are known
(`control.whatif`), blocks that are measured (`rtt.table`).

Each country's addresses are walked in equal steps, so networks and places come in the proportion of their addresses; a
country has at least a few clients, which then weigh less. Clouds and content networks are left out: nobody sits there.
Address space is not people: a network that shares one address among thousands weighs too little. Whoever has a query
log or a list of prefixes should give that.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Final

import numpy as np

from dnsd.atlas.store import Atlas
from dnsd.image import layout

CLIENTS: Final = 5000
LEAST: Final = 8
"""Clients of a country, if it has so many /24."""


def sample(atlas: Atlas, clients: int = CLIENTS) -> list[tuple[IPv4Network, float]]:
    """About so many /24, each with the number of /24 that it stands for; the same for the same atlas."""
    arrays = atlas.arrays
    starts = arrays["starts4"].astype(np.int64)
    units = np.diff(starts, append=1 << layout.KEY4_BITS)
    origins = arrays["origins4"]
    place = arrays["place"][origins]
    people = (place != 0) & (arrays["provider"][origins] == 0) & (arrays["country"][place] != b"")
    starts, units, country = starts[people], units[people], arrays["country"][place[people]]
    names, which = np.unique(country, return_inverse=True)
    total, found = int(units.sum()), []
    for number in range(len(names)):
        mine = which == number
        ends = np.cumsum(units[mine])
        size = int(ends[-1])
        count = min(size, max(LEAST, round(clients * size / total)))
        at = ((np.arange(count) + 0.5) * (size / count)).astype(np.int64)
        run = np.searchsorted(ends, at, "right")
        keys = starts[mine][run] + at - (ends[run] - units[mine][run])
        found += [(IPv4Network((int(key) << 8, 24)), size / count) for key in keys]
    return found
