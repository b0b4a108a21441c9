"""What this node is told of round trips, and what it measures itself: checked, put together, into the log each second.

Lives here: quotas, counting, gathering, the log's entries going out. Does not live here: who may send what
(`admin.measurements`), what is believed of a sample (`rtt.intake`), what becomes of the log (`control.deciding`).

What is accepted is not yet with the store: it is gathered for a second, then one entry carries the medians. While the
store is away entries are kept, the newest ones within a bound; a measurement is no promise, and another comes soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dnsd.atlas.positions import positions
from dnsd.control.clock import Allowance, Clock
from dnsd.control.health import Health
from dnsd.control.maps import Maps
from dnsd.control.state import Fleet
from dnsd.registry.errors import RegistryError
from dnsd.registry.measurements import Measurements as Store
from dnsd.rtt import intake
from dnsd.rtt.intake import Sample
from dnsd.rtt.items import NAMES_MOST, Entry, Gathered

RATE: Final = 10_000.0
BURST: Final = 50_000.0
"""Samples a second one reporter may send, and how many at once."""

QUOTAS: Final = 4096
GATHER_S: Final = 1.0
ROWS_MOST: Final = 500_000
"""Samples gathered in a second at most; what comes above it is dropped."""

WAITING: Final = 60
"""Entries kept for a store that is away."""

BETWEEN_S: Final = 30.0
_log = logging.getLogger("dnsd.control")


class Taken(NamedTuple):
    """What became of a batch: samples that were accepted, and dropped ones by reason (`rtt.intake.REASONS`)."""

    accepted: int
    dropped: dict[str, int]


class Measurements:
    """One node's intake. `site` is where this node stands, "" where that is not said."""

    def __init__(self, store: Store, fleet: Fleet, maps: Maps, health: Health, *, node: str, site: str, clock: Clock,
                 ) -> None:
        self.store, self.fleet, self.maps, self.health = store, fleet, maps, health
        self.node, self.site, self.clock = node, site, clock
        self.accepted, self.dropped, self.lost = 0, Counter[str](), 0
        self._quotas: dict[str, Allowance] = {}
        self._gathered = Gathered()
        self._waiting: deque[bytes] = deque()
        self._between_s = float("-inf")

    def take(self, reporter: str, site: str | None, samples: Sequence[Sample], *, anybody: bool = False,
             ) -> Taken | None:
        """A batch of one reporter (`rtt.intake.sift` says what a sample is). None: more than it may send now.

        `anybody`: whoever has seen a page may speak in this name, so what is absurd is not held against it.
        """
        quota = self._quota(reporter)
        if not quota.left():
            self.dropped["quota"] += len(samples)
            return None
        quota.spend(len(samples))
        sites = tuple(sorted(self.fleet.sites)[:NAMES_MOST])
        places = {one: intake.Place(number, self.fleet.sites[one].latitude, self.fleet.sites[one].longitude)
                  for number, one in enumerate(sites)}
        found = intake.sift(samples, site, places, self._locate)
        dropped = Counter(found.dropped)
        accepted = len(samples) - dropped.total()
        if self._gathered.count + len(found.rows) > ROWS_MOST or not self._gathered.add(
                reporter, sites, found.rows, 0 if anybody else found.fast):
            dropped["quota"] += accepted
            accepted = 0
        self.accepted += accepted
        self.dropped.update(dropped)
        return Taken(accepted, {reason: count for reason, count in dropped.items() if count})

    def described(self) -> dict[str, Any]:
        """For people and metrics."""
        return {"accepted": self.accepted, "dropped": {reason: self.dropped[reason] for reason in intake.REASONS},
                "waiting": len(self._waiting), "lost": self.lost, "site": self.site or None}

    async def run(self) -> None:
        """Put what was gathered into the log, for ever."""
        while True:
            await self.clock.sleep(GATHER_S)
            await self.flush()

    async def flush(self) -> None:
        """Put what was gathered into the log."""
        now_ms = self.clock.unix_ms()
        gathered, self._gathered = self._gathered, Gathered()
        if gathered.count:
            self._waiting += await asyncio.to_thread(gathered.entries, self.node, now_ms)
        self._look_between(now_ms)
        while len(self._waiting) > WAITING:
            self._waiting.popleft()
            self.lost += 1
        while self._waiting:
            try:
                await self.store.log(self._waiting[0])
            except RegistryError as error:
                _log.debug("measurements wait: %s", error)
                return
            self._waiting.popleft()

    def _look_between(self, now_ms: int) -> None:
        """How far this node's site is from the others, by the least usual handshake with an endpoint there."""
        now = self.clock.monotonic()
        if not self.site or now - self._between_s < BETWEEN_S or self.site not in self.fleet.sites:
            return
        self._between_s = now
        found: dict[str, float] = {}
        for site, ms in self.health.handshakes():
            if site != self.site:
                found[site] = round(min(ms, found.get(site, ms)), 2)
        if found:
            self._waiting.append(Entry(self.node, now_ms, between={self.site: found}).to_bytes())

    def _locate(self, numbers: Any) -> Any:
        if self.maps.atlas is None:
            return intake.nowhere(numbers)
        return positions(self.maps.atlas, numbers)

    def _quota(self, reporter: str) -> Allowance:
        quota = self._quotas.pop(reporter, None) or Allowance(self.clock, rate=RATE, most=BURST)
        self._quotas[reporter] = quota  # the longest silent first
        if len(self._quotas) > QUOTAS:
            del self._quotas[next(iter(self._quotas))]
        return quota
