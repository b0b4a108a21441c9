"""From the registry's event stream to the fleet: load once, follow, and load again where the stream breaks.

Lives here: the connection's ups and downs, how long it has been away, holding a state in doubt. Does not live here: the
stream (`registry.store`), the fleet (`control.state`), judging a state (`control.holding`), what people do about one
(`control.custody`).

While the store is away the fleet stays as it was and is served on, and so it is by a process that starts then. Whatever
comes back is asked first whether it goes on where we were: the event stream says so by its chain, and where it does
not, the whole state is judged. What is adopted all the same becomes a history of its own where its numbers had another
meaning, and is spoken of until a person has seen it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from dnsd.control import holding
from dnsd.control.clock import Clock
from dnsd.control.holding import Judgement
from dnsd.control.maps import Maps
from dnsd.control.publish import Publisher
from dnsd.control.state import Fleet
from dnsd.model import Stamp
from dnsd.registry.errors import Gap, PreconditionFailed, RegistryError
from dnsd.registry.history import Marks
from dnsd.registry.models import Lease
from dnsd.registry.values import Event, Loaded, Position

BLOCK_MS: Final = 1000
BACKOFF_S: Final = (0.1, 3.0)
HOLD_S: Final = 2.0
MAP_WAIT_S: Final = 10.0
MARKS_S: Final = 1.0
LEARNED: Final = 500
BEING_RESTORED: Final = "the registry is being restored; what is served stays until that is done"
_log = logging.getLogger("dnsd.control")


class Stream(Protocol):
    """What of the registry is needed to follow it."""

    async def position(self) -> Position:
        """Where the store stands."""

    async def load(self) -> Loaded:
        """The whole state."""

    async def events(self, after: str, *, block_ms: int) -> list[Event]:
        """What was written after a cursor."""


class Histories(Protocol):
    """What of `registry.history` is needed."""

    async def marks(self) -> Marks:
        """What was left for all nodes."""

    async def leases(self, ids: Iterable[str]) -> list[Lease]:
        """Of these leases those that are there."""

    async def begin(self, epoch: int, *, above: tuple[int, int], actor: str, accepted: bool) -> tuple[int, int]:
        """Go on with what is there as a history of its own."""


class Memory(Protocol):
    """What of `control.keeping` is needed."""

    def follow(self, epoch: int, events: Sequence[Event]) -> None:
        """These events were applied to the fleet."""

    def replaced(self, epoch: int, cursor: str) -> None:
        """The whole fleet is another."""

    async def recall(self, fleet: Fleet, image: Stamp) -> tuple[int, str] | None:
        """Make the fleet what a former process knew, if that is what the image is of; its epoch and cursor."""


class Intake:
    """Follows one registry. `held` says why its state is not served, "" while it is; `alarm` what was lost with one
    that was adopted; `offered` is its epoch, `stood` the cursor of what the fleet is."""

    def __init__(self, stream: Stream, fleet: Fleet, publisher: Publisher, maps: Maps, *, clock: Clock,
                 history: Histories | None = None, node: str = "") -> None:
        self.stream, self.fleet, self.publisher, self.maps, self.clock = stream, fleet, publisher, maps, clock
        self.history, self.node = history, node
        self.memory: Memory | None = None
        self.told: Callable[[], None] = lambda: None  # the alarm is another
        self.cursor = ""
        self.stood = ""
        self.held = ""
        self.alarm = ""
        self.judgement = Judgement()
        self.connected = False
        self.problem = ""
        self.corrupt = 0
        self.loads = 0
        self.offered = 0
        self.events = 0
        self.judged: Position | None = None
        self._epoch = 0
        self._following = False
        self._gap = ""
        self._gaps = 0
        self.alarm_version = 0
        self._lacking = ""
        self._recalled = False
        self._marks_s = float("-inf")
        self._look = asyncio.Event()
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

    @property
    def served(self) -> int:
        """The epoch of what is served, 0 where no more than an image is known of it."""
        return self._epoch

    def resume(self, cursor: str) -> None:
        """Where a former process stood: its history must go on there, or what is offered is judged as another."""
        self.cursor = cursor

    @property
    def alarmed(self) -> tuple[str, int]:
        """The alarm, and the version it is about."""
        return self.alarm, self.alarm_version

    def alarm_again(self, alarm: str, version: int) -> None:
        """What a former process had to say of the state it adopted, and nobody has seen yet."""
        self.alarm, self.alarm_version = alarm, version

    def look(self) -> None:
        """Look again now at what is held."""
        self._look.set()

    def seen(self) -> None:
        """A person has seen the alarm."""
        self.alarm = ""
        self.told()

    async def run(self) -> None:
        """Follow for ever."""
        while True:
            await self._attempt(self._next())
            if self._epoch and not self.publisher.open and (self.held or self.problem):
                await self._attempt(self._serve_on)

    def _next(self) -> Callable[[], Awaitable[None]]:
        if self._following and self.cursor:
            return self._follow
        return self._check_resumed if self.cursor else self._load

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
        if self.history is not None:
            await self._look_around(self.history)
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
        if self.memory is not None:
            self.memory.follow(self._epoch, events)

    async def _look_around(self, history: Histories) -> None:
        """What no event tells: who holds new endpoints, and whether somebody has seen the alarm."""
        strangers = list(self.fleet.strangers)[:LEARNED]
        if strangers:
            self.fleet.learn(await history.leases(strangers))
            self.fleet.strangers.difference_update(strangers)  # one that cannot be read is not asked for for ever
        if self.alarm and self.clock.monotonic() - self._marks_s >= MARKS_S:
            self._marks_s = self.clock.monotonic()
            marks = await history.marks()
            if marks.epoch == self._epoch and marks.version >= self.alarm_version:
                _log.info("seen: %s", self.alarm)
                self.seen()

    async def _load(self) -> None:
        """Load the whole state, and adopt or hold it."""
        if self.held:
            await self._wait_held()
            same = await self.stream.position() == self.judged
            self.connected, self.problem = True, ""  # it may have been away, and people can act on it now
            if same and not await self._marked():
                return
        loaded = await self.stream.load()
        self.loads += 1
        self.offered = loaded.position.epoch
        self._count_corrupt(loaded)
        served = self.served_now()
        if served is not None and not holding.goes_on(served, loaded, self._gap) and await self._recall():
            served = self.served_now()
        found = holding.judge(served, loaded, self._gap)
        if served is not None and self.history is not None and not holding.goes_on(served, loaded, self._gap):
            marks = await self.history.marks()
            if marks.restoring:
                found = Judgement(BEING_RESTORED, losses=found.losses)
            elif marks.epoch == loaded.position.epoch > served.epoch:  # an older one was accepted for other reasons
                found = Judgement()
        self.judgement = found
        if found.held or (found.anew and self.history is None):
            self._hold(found.held or found.alarm, loaded.position)
        elif found.anew and self.history is not None and served is not None:
            await self._anew(self.history, served, loaded.position, found)
        else:
            await self._adopt(loaded, found)

    async def _wait_held(self) -> None:
        self._look.clear()
        waiting = [asyncio.ensure_future(self._look.wait()), asyncio.ensure_future(self.clock.sleep(HOLD_S))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    async def _marked(self) -> bool:
        """Whether what is held is not restored any more, so that it must be judged again though it stands still."""
        return self.held == BEING_RESTORED and self.history is not None and not (await self.history.marks()).restoring

    async def _anew(
        self, history: Histories, served: holding.Served, at: Position, found: Judgement,
    ) -> None:
        """A state whose numbers mean something else here is adopted only as a history of its own."""
        try:
            epoch, _ = await history.begin(
                at.epoch, above=(served.epoch, served.version), actor=f"node:{self.node}", accepted=False)
        except PreconditionFailed:
            return  # another node has done it
        self._lacking = found.alarm
        _log.warning("what the registry has goes on as epoch %016x", epoch)

    async def _adopt(self, loaded: Loaded, found: Judgement) -> None:
        self.held, self.judged = "", None
        self._met()
        touched = self.fleet.load(loaded, self.clock.unix_ms())
        self.cursor = self.stood = loaded.position.cursor
        lacking, self._lacking = self._lacking or found.alarm, ""
        if lacking:
            self.alarm, self.alarm_version = lacking, loaded.position.version
            _log.error("adopted: %s", lacking)
            self.told()
        self._gap, self._epoch, self._following = "", loaded.position.epoch, True
        await self._ready_maps()
        self.publisher.mark(touched.services)
        self.publisher.adopt(self._epoch)
        self.maps.mark()
        if self.memory is not None:
            self.memory.replaced(self._epoch, self.cursor)

    async def _recall(self) -> bool:
        """Know what a former process served, beyond its image; whether that could be had."""
        image = self.publisher.live.image
        if self._epoch or self._recalled or self.memory is None or image is None:
            return False
        self._recalled = True
        found = await self.memory.recall(self.fleet, image.stamp)
        if found is None:
            return False
        self._epoch, self.stood = found
        return True

    async def _serve_on(self) -> None:
        """Publish what a former process served, and what this node finds of it, until the registry says more."""
        _log.info("the fleet as it was last known is served on")
        await self._ready_maps()
        self.publisher.mark(self.fleet.services)
        self.publisher.adopt(self._epoch, held=True)

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

    def served_now(self) -> holding.Served | None:
        """What is served, as far as it is known."""
        if self._epoch:
            return holding.of_fleet(self._epoch, self.fleet)
        return holding.of_image(self.publisher.live.image) if self.publisher.live.image is not None else None

    def _hold(self, reason: str, position: Position) -> None:
        self.judged = position
        self._gap = "forked"  # from here on it must show that it kept what is served
        self.connected = True
        self.problem = ""
        if reason != self.held:
            _log.error("held: %s", reason)
        self.held = reason
        self.publisher.hold()
        self._look.clear()

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
        await self._recall()
        if self._epoch and not self.publisher.open:
            return  # what is known is served first
        delay = self._delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._delay = min(2 * self._delay, BACKOFF_S[1])
        await self.clock.sleep(delay)

    def _count_corrupt(self, loaded: Loaded) -> None:
        self.corrupt = len(loaded.corrupt)
        for fault in [fault for fault in loaded.corrupt if fault.place not in self.fleet.corrupt][:20]:
            _log.error("the store's %s cannot be read, the last sound value is kept: %s", fault.place, fault.message)
