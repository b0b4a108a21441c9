"""What workers tell of connections that resolvers made to this node: samples of this node's site.

Lives here: frames' items to samples, their reporter. Does not live here: reading them off sockets (`serve.trips`), what
is believed of them (`control.measurements`).

A connection says how far a resolver is from this node. That is what an answer to a resolver without a client subnet
goes by; of the clients behind it, it says nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from dnsd.control.measurements import Measurements
from dnsd.image import layout

SOURCE: Final = "tcp"
_WIDTH: Final = {3: 4, 6: 16}  # octets of a block, of an address in it


@dataclass(frozen=True, slots=True)
class Heard:
    """One block's median of a second; see `rtt.intake.Sample`."""

    client: str
    rtt_ms: float
    count: int
    spread_ms: float | None
    site: str | None = None


class Resolvers:
    """One node's. `accepted` counts blocks' medians that were believed."""

    def __init__(self, intake: Measurements) -> None:
        self.accepted = 0
        self._intake = intake

    def take(self, items: Sequence[tuple[int, bytes]]) -> None:
        """The items of one `layout.F_TRIPS`; what is none of them is passed over."""
        if not self._intake.site:
            return
        samples = [sample for count, data in items if (sample := _sample(count, data)) is not None]
        taken = self._intake.take(f"{SOURCE}:{self._intake.node}", self._intake.site, samples) if samples else None
        self.accepted += taken.accepted if taken is not None else 0


def _sample(count: int, data: bytes) -> Heard | None:
    block = data[layout.TRIP.size :]
    try:
        median, spread = layout.TRIP.unpack_from(data, 0)
        client = ip_address(block + bytes(_WIDTH[len(block)] - len(block)))
    except (struct.error, KeyError):
        return None
    return Heard(str(client), median / 1000, max(1, count), spread / 1000)
