"""What time alone changes: the registry's lease clock is wound, and what ends by itself is published.

Lives here: two small loops. Does not live here: lease time (the registry's scripts), what has ended
(`control.resolve`).

The registry's clock only passes while somebody ticks it, so leases do not age while no node can be reached; this node's
own look at overrides and last good answers goes on without any store.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol

from dnsd.control.clock import Clock
from dnsd.control.publish import Publisher
from dnsd.control.views import Views
from dnsd.registry.errors import RegistryError
from dnsd.registry.values import Tick

TICK_S: Final = 0.25
LOOK_S: Final = 0.5
_log = logging.getLogger("dnsd.control")


class Ticking(Protocol):
    """What of the registry is needed to wind its clock."""

    async def tick(self) -> Tick:
        """Move the lease clock and end what is over."""


class LeaseClock:
    """Winds the registry's lease clock four times a second. `shifted_ms`: time that did not count, all in all."""

    def __init__(self, registry: Ticking, views: Views, publisher: Publisher, *, clock: Clock) -> None:
        self.registry, self.views, self.publisher, self.clock = registry, views, publisher, clock
        self.expired = 0
        self.shifted_ms = 0
        self.failures = 0

    async def wind(self) -> None:
        """Tick for ever."""
        while True:
            began = self.clock.monotonic()
            await self.tick()
            await self.clock.sleep(max(0.0, began + TICK_S - self.clock.monotonic()))

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await self.clock.sleep(LOOK_S)
            self.look()

    async def tick(self) -> None:
        """One tick; a store that is away is no event here."""
        try:
            tick = await self.registry.tick()
        except RegistryError:
            self.failures += 1
            return
        except Exception as error:
            self.failures += 1
            _log.exception("the lease clock could not be wound", exc_info=error)
            return
        self.expired += len(tick.expired)
        self.shifted_ms += abs(tick.shifted_ms)

    def look(self) -> None:
        """Publish services whose overrides or last good answers have ended."""
        changed = self.views.changed_by_time(self.clock.unix_ms())
        if changed:
            self.publisher.mark(changed)
