"""What time alone changes: the registry's lease clock is wound, and what ends by itself is published.

Lives here: two small loops, what is told of leases that are held. Does not live here: lease time and holding (the
registry's scripts), what has ended (`control.resolve`).

The registry's clock only passes while somebody ticks it, so leases do not age while no node can be reached; this node's
own look at overrides and last good answers goes on without any store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final, Protocol

from dnsd.control.clock import Clock
from dnsd.control.publish import Publisher
from dnsd.control.views import Views
from dnsd.registry.errors import RegistryError
from dnsd.registry.values import Holding, Tick

TICK_S: Final = 0.25
LOOK_S: Final = 0.5
ASK_S: Final = 1.0
NAMED: Final = 5
_log = logging.getLogger("dnsd.control")


class Ticking(Protocol):
    """What of the registry is needed to wind its clock."""

    async def tick(self) -> Tick:
        """Move the lease clock and end what is over."""

    async def holding(self) -> list[Holding]:
        """The services whose leases are held."""


class LeaseClock:
    """Winds the registry's lease clock four times a second. `shifted_ms`: time that did not count, all in all.

    `held`: leases that ended with too many others and so are kept, `holding`: of which services.
    """

    def __init__(self, registry: Ticking, views: Views, publisher: Publisher, *, clock: Clock) -> None:
        self.registry, self.views, self.publisher, self.clock = registry, views, publisher, clock
        self.expired = 0
        self.shifted_ms = 0
        self.failures = 0
        self.held = 0
        self.holding: list[Holding] = []
        self._asked = -ASK_S

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
            await self._note_held(tick)
        except RegistryError:
            self.failures += 1
            return
        except Exception as error:
            self.failures += 1
            _log.exception("the lease clock could not be wound", exc_info=error)
            return
        self.expired += len(tick.expired)
        self.shifted_ms += abs(tick.shifted_ms)

    async def _note_held(self, tick: Tick) -> None:
        if tick.caught:
            _log.error("leases held: %d end at once, more than their instances' own deaths explain", len(tick.caught))
        if self.held and not tick.held:
            _log.warning("leases held: none any more")
        self.held = tick.held
        if not tick.held:
            self.holding = []
        elif self.clock.monotonic() - self._asked >= ASK_S:
            self._asked = self.clock.monotonic()
            self.holding = await self.registry.holding()

    def conditions(self) -> Iterator[str]:
        """That leases are held, and whose."""
        if self.held:
            whose = [f"{one.service} {one.held} of {one.leases}" for one in self.holding]
            more = [f"{len(whose) - NAMED} more services"] if len(whose) > NAMED else []
            yield (f"leases held: {self.held} were not renewed, too many at once; their endpoints stay, probes judge "
                   f"them: {', '.join(whose[:NAMED] + more)}")

    def described(self) -> dict[str, Any]:
        """For `status`."""
        return {
            "expired": self.expired, "shifted_ms": self.shifted_ms, "ticks_failed": self.failures, "held": self.held,
            "holding": [one._asdict() for one in self.holding]}

    def look(self) -> None:
        """Publish services whose overrides or last good answers have ended."""
        changed = self.views.changed_by_time(self.clock.unix_ms())
        if changed:
            self.publisher.mark(changed)
