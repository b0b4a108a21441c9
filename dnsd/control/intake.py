"""From the registry's event stream to the fleet: load once, follow, and load again where the stream breaks.

Lives here: the connection's ups and downs, how long it has been away, holding a state in doubt. Does not live here: the
stream (`registry.store`), the fleet (`control.state`), judging a state (`control.holding`).

While the store is away the fleet stays as it was and is served on. Whatever comes back is asked first whether it goes
on where we were: the event stream says so by its chain, and where it does not, the whole state is judged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from dnsd.control import holding
from dnsd.control.clock import Clock
from dnsd.control.maps import Maps
from dnsd.control.publish import Publisher
from dnsd.control.state import Fleet
from dnsd.registry.errors import Gap, RegistryError
from dnsd.registry.values import Event, Loaded, Position

BLOCK_MS: Final = 1000
BACKOFF_S: Final = (0.1, 3.0)
HOLD_S: Final = 2.0
MAP_WAIT_S: Final = 10.0
_log = logging.getLogger("dnsd.control")


class Stream(Protocol):
    """What of the registry is needed to follow it."""

    async def position(self) -> Position:
        """Where the store stands."""

    async def load(self) -> Loaded:
        """The whole state."""

    async def events(self, after: str, *, block_ms: int) -> list[Event]:
        """What was written after a cursor."""


class Intake:
    """Follows one registry. `held` says why its state is not served, "" while it is; `offered` is its epoch, `stood`
    the cursor of what the fleet is."""

    def __init__(self, stream: Stream, fleet: Fleet, publisher: Publisher, maps: Maps, *, clock: Clock) -> None:
        self.stream, self.fleet, self.publisher, self.maps, self.clock = stream, fleet, publisher, maps, clock
        self.cursor = ""
        self.stood = ""
        self.held = ""
        self.connected = False
        self.problem = ""
        self.corrupt = 0
        self.loads = 0
        self.offered = 0
        self.events = 0
        self._epoch = 0
        self._gap = ""
        self._gaps = 0
        self._judged: Position | None = None
        self._contact = clock.monotonic()
        self._delay = BACKOFF_S[0]

    @property
    def stale_for(self) -> float:
        """Seconds since what is served was last known to be the registry's state; 0 while it is followed."""
        return 0.0 if self.connected and not self.held else self.clock.monotonic() - self._contact

    @property
    def epoch(self) -> int | None:
        """The epoch of the registry that is followed now; None while none is."""
        return self._epoch if self.connected and not self.held and self.cursor else None

    def resume(self, cursor: str) -> None:
        """Where a former process stood: its history must go on there, or what is offered is judged as another."""
        self.cursor = cursor

    async def run(self) -> None:
        """Follow for ever."""
        if self.cursor:
            await self._attempt(self._check_resumed)
        while True:
            await self._attempt(self._follow if self.cursor else self._load)

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """One step; what goes wrong with it is remembered and waited for."""
        try:
            await step()
            self._delay = BACKOFF_S[0]
        except Gap as gap:
            await self._gapped(gap)
        except RegistryError as error:
            await self._lost(str(error))
        except Exception as error:
            _log.exception("intake failed", exc_info=error)
            self.cursor = ""
            await self._lost(repr(error))

    async def _check_resumed(self) -> None:
        """At start: whether the store still has the history a former process followed; the state is loaded anyway."""
        cursor, self.cursor = self.cursor, ""
        try:
            await self.stream.events(cursor, block_ms=0)
        except ValueError:
            _log.warning("the remembered cursor cannot be used")
        except RegistryError:
            self.cursor = cursor
            raise

    async def _follow(self) -> None:
        events = await self.stream.events(self.cursor, block_ms=BLOCK_MS)
        self._gaps = 0
        self._met()
        if not events:
            return
        self.events += len(events)
        touched = self.fleet.apply(events, self.clock.unix_ms())
        self.cursor = self.stood = events[-1].id
        self.publisher.mark(touched.services)
        if touched.sites:
            self.maps.mark()

    async def _load(self) -> None:
        """Load the whole state, and adopt or hold it."""
        if self.held and await self.stream.position() == self._judged:
            await self.clock.sleep(HOLD_S)
            return
        loaded = await self.stream.load()
        self.loads += 1
        self.offered = loaded.position.epoch
        self._count_corrupt(loaded)
        reason = holding.judge(self._served(), loaded, self._gap)
        if reason:
            self._hold(reason, loaded.position)
            return
        self.held = ""
        self._met()
        touched = self.fleet.load(loaded, self.clock.unix_ms())
        self.cursor = self.stood = loaded.position.cursor
        self._gap, self._epoch = "", loaded.position.epoch
        await self._ready_maps()
        self.publisher.mark(touched.services)
        self.publisher.adopt(self._epoch)
        self.maps.mark()

    async def _ready_maps(self) -> None:
        """Maps for the first image: those on disk; where an image with maps is served, not one that has lost them."""
        await self.maps.round(derive=False)
        image = self.publisher.live.image
        if self.publisher.live.counts.images or image is None or not image.map_refs:
            return
        try:
            async with asyncio.timeout(MAP_WAIT_S):
                await self.maps.round()
        except TimeoutError:
            _log.warning("maps are not ready after %.0f s: the image goes out without them", MAP_WAIT_S)

    def _served(self) -> holding.Served | None:
        if self._epoch:
            return holding.of_fleet(self._epoch, self.fleet)
        return holding.of_image(self.publisher.live.image) if self.publisher.live.image is not None else None

    def _hold(self, reason: str, position: Position) -> None:
        self._judged = position
        self._gap = "forked"  # from here on it must show that it kept what is served
        self.connected = True
        self.problem = ""
        if reason != self.held:
            _log.error("held: %s", reason)
        self.held = reason
        self.publisher.hold()

    def _met(self) -> None:
        if not self.connected:
            _log.info("following the registry")
        self.connected = True
        if not self._gaps:
            self.problem = ""
        self._contact = self.clock.monotonic()

    async def _gapped(self, gap: Gap) -> None:
        """The stream broke: load again. One that breaks each time is asked less and less often; loads then carry on."""
        text = f"the event stream does not go on from here: {gap}"
        if text != self.problem:
            _log.warning("%s", text)
        self.problem = text
        self.cursor, self._gap = "", gap.reason
        if self._gaps:
            await self.clock.sleep(min(BACKOFF_S[0] * 2 ** min(self._gaps, 10), BACKOFF_S[1]))
        self._gaps += 1

    async def _lost(self, problem: str) -> None:
        """The store cannot be asked: wait, longer each time, and not all nodes at once."""
        if self.connected or problem != self.problem:
            _log.warning("the registry is away: %s", problem)
        self.connected = False
        self.problem = problem
        delay = self._delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._delay = min(2 * self._delay, BACKOFF_S[1])
        await self.clock.sleep(delay)

    def _count_corrupt(self, loaded: Loaded) -> None:
        self.corrupt = len(loaded.corrupt)
        for fault in [fault for fault in loaded.corrupt if fault.place not in self.fleet.corrupt][:20]:
            _log.error("the store's %s cannot be read, the last sound value is kept: %s", fault.place, fault.message)
