"""What all nodes see of a service's endpoints, decided once for all of them by the one that builds.

Lives here: votes and what else speaks of health to a `Verdict`, when one is due, writing it. Does not live here: votes
(`control.votes`), whether a verdict or what this node sees by itself holds here (`control.judge`), the rules
(`steer.quorum`, `steer.health`, `control.standing`).

Whatever has memory (states, ramps, what the limits have removed) is decided here and written as versioned state, so
nodes at one version answer alike. Any node can build: the votes are everybody's, and what was decided is in the store.
A node that has been told nothing (unknown) keeps what was decided before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from dnsd.control import resolve
from dnsd.control.clock import Clock
from dnsd.control.health import Health, Said, Spot
from dnsd.control.removed import Arrivals, moved
from dnsd.control.resolve import Memory
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.control.targets import addresses
from dnsd.control.votes import FRESH_MS
from dnsd.dns import types
from dnsd.registry.errors import Conflict, RegistryError
from dnsd.registry.models import Endpoint, Judged, Service, Verdict
from dnsd.registry.sightings import DECIDED
from dnsd.steer import health, quorum
from dnsd.steer.health import Cell, Rules, State
from dnsd.steer.limits import Removal
from dnsd.steer.quorum import Vote

PAUSE_S: Final = 0.02
LOOK_S: Final = 0.2
UNTOLD_S: Final = 5.0
"""What was written so long ago and has not come back by the store's stream may not be there any more."""

BREATH: Final = 20
"""Services decided on before others get a turn."""

PLAIN: Final = Judged(State.UP, State.UP)
_log = logging.getLogger("dnsd.control")


class Ballots(Protocol):
    """What of `control.votes` is needed."""

    def of(self, name: str) -> Mapping[str, Vote]:
        """What all that are there say of a target."""

    def told(self, name: str) -> Mapping[str, Said]:
        """The same with doubts and reasons."""


class Store(Protocol):
    """What of `registry.sightings` is needed."""

    async def decide(self, node: str, fence: int, verdicts: Sequence[tuple[str, Verdict | None]]) -> int:
        """Keep verdicts by service; the version after it. Conflict: another builds now."""


class Adviser(Protocol):
    """Something else that speaks of an endpoint's health: reports of its users, a rule over its metrics."""

    def speaks(self, service: str) -> bool:
        """Whether it has anything to say of a service."""

    def advise(self, service: str, id_: str, type_: int, measured: Measured, now_ms: int) -> Measured:
        """What is measured, or worse."""


class Place(NamedTuple):
    """One address of an endpoint: its key in a verdict, and what this node measures of it, if it is measured."""

    key: str
    id: str
    type: int
    spot: Spot | None


class Sent(NamedTuple):
    """A decision that is written, and known here when the fleet is at its version; when it was made (monotonic)."""

    verdict: Verdict | None
    version: int
    at_s: float


class Builder:
    """Decides, while `open_with` gives the fence it may build with. `touch` what may have changed."""

    def __init__(self, fleet: Fleet, own: Health, votes: Ballots, store: Store, *, node: str, clock: Clock) -> None:
        self.fleet, self.own, self.votes, self.store, self.node, self.clock = fleet, own, votes, store, node, clock
        self.arrivals = Arrivals(clock)
        self.advisers: list[Adviser] = []
        self.memories: Mapping[str, Memory] = {}
        self.fence: Callable[[], int | None] = lambda: None
        self.decided = 0
        self.ready = False
        """Whether all there is has been decided on since this node builds."""

        self._built: int | None = None
        self._looked_ms = 0
        self._failed: set[str] = set()
        self._touched: dict[str, None] = {}
        self._due: dict[str, int] = {}
        self._sent: dict[str, Sent] = {}
        self._wake = asyncio.Event()

    def touch(self, services: Iterable[str]) -> None:
        """These services may have to be decided on anew."""
        if self._built is None:
            return  # everything is looked at when this node begins to build
        self._touched |= dict.fromkeys(services)
        if self._touched:
            self._wake.set()

    async def run(self) -> None:
        """Decide for ever."""
        while True:
            await self.turn()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
                await self.clock.sleep(PAUSE_S)  # what belongs together comes together
            except TimeoutError:
                pass

    async def turn(self) -> None:
        """Decide on what was touched, or is due."""
        self._wake.clear()
        fence = self.fence()
        if fence != self._built:
            self._built, self.ready, self._sent = fence, False, {}
            self._touched, self._due = dict.fromkeys((*self.fleet.services, *self.fleet.verdicts)), {}
            if fence is not None:
                _log.info("this node builds, fence %d", fence)
        if fence is None:
            return
        now_ms = self.clock.unix_ms()
        back, self._looked_ms = now_ms < self._looked_ms, now_ms  # set back: what was due has another time now
        for name in [name for name, at_ms in self._due.items() if at_ms <= now_ms or back]:
            del self._due[name]
            self._touched[name] = None
        while self._touched:
            batch = list(self._touched)[:DECIDED]
            for name in batch:
                del self._touched[name]
            if not await self._decide(fence, batch):
                self._touched |= dict.fromkeys(batch)
                return
        self.ready = True

    async def _decide(self, fence: int, names: Sequence[str]) -> bool:
        found: list[tuple[str, Verdict | None]] = []
        began_s = self.clock.monotonic()
        for number, name in enumerate(names):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            before = self._before(name)
            try:
                verdict = self._verdict(name, self.clock.unix_ms())
            except Exception as error:  # one service's fault must not stop the others, here and on every other node
                if name not in self._failed:
                    self._failed.add(name)
                    _log.exception("%s cannot be decided on", name, exc_info=error)
                continue
            self._failed.discard(name)
            if (verdict is None) != (before is None) or (
                    verdict is not None and before is not None and not _same(verdict, before)):
                found.append((name, verdict))
        if not found:
            return True
        try:
            version = await self.store.decide(self.node, fence, found)
        except (Conflict, RegistryError) as error:
            _log.debug("nothing was decided: %s", error)
            return False
        for name, verdict in found:
            self._sent[name] = Sent(verdict, version, began_s)
            if verdict is not None:
                self.arrivals.wrote(verdict, began_s)
        self.decided += len(found)
        return True

    def speaks(self, service: str) -> bool:
        """Whether something besides probes speaks of a service."""
        return any(adviser.speaks(service) for adviser in self.advisers)

    def advised(self, service: str, place: Place, measured: Measured, now_ms: int) -> Measured:
        """What is measured, and what advisers make of it."""
        for adviser in self.advisers:
            measured = adviser.advise(service, place.id, place.type, measured, now_ms)
        return measured

    # --- one service ---

    def _verdict(self, name: str, now_ms: int) -> Verdict | None:
        """What is to be decided of a service; None: nothing."""
        service = self.fleet.services.get(name)
        if service is None or (service.check == "none" and not self.speaks(name)):
            self._due.pop(name, None)
            return None
        self.own.renew(name)  # it may not have been resolved since it changed
        before = self._before(name)
        known = cells_of(before)
        ahead_ms = 0 if before is None else self.arrivals.ahead_ms(before)
        cells: dict[str, Judged] = {}
        measured: dict[tuple[str, int], Measured] = {}
        for place in self.places(service):
            judged, rules = self._judged(service, place, known.get(place.key), now_ms, ahead_ms)
            final = self.advised(name, place, measured_of(judged, rules, now_ms), now_ms)
            measured[place.id, place.type] = final
            cells[place.key] = judged._replace(
                state=final.state, share=final.share, doubt=final.doubt, why=final.result)
        removals = {} if before is None else moved(removals_of(before), ahead_ms)
        found = resolve.resolve(
            self.fleet, name, self.memories.get(name, {}), now_ms, 0,
            resolve.Health(lambda id_, type_: measured.get((id_, type_), Measured()), removals, speaks=True))
        due_ms = min(filter(None, (found.due_ms, *(one.step_ms for one in measured.values()))), default=0)
        if due_ms:
            self._due[name] = due_ms
        else:
            self._due.pop(name, None)
        return Verdict(
            service=name, at_ms=now_ms, up=tuple(key for key, one in cells.items() if _plain(one)),
            cells={key: one for key, one in cells.items() if not _plain(one)},
            removals={str(key): tuple((one.id, one.at_ms) for one in some) for key, some in found.removals.items()})

    def _before(self, name: str) -> Verdict | None:
        """What was decided last: as this node has been told, or what it has written and not been told of yet."""
        sent = self._sent.get(name)
        if sent is not None and sent.version > self.fleet.version and self.clock.monotonic() - sent.at_s < UNTOLD_S:
            return sent.verdict
        self._sent.pop(name, None)
        return self.fleet.verdicts.get(name)

    def places(self, service: Service) -> Iterator[Place]:
        """Every address of a service's endpoints."""
        members = self.fleet.members.get(service.name, {})
        for key in sorted(members):
            yield from self._places(service.name, members[key])

    def _places(self, service: str, endpoint: Endpoint) -> Iterator[Place]:
        for type_, _ in addresses(endpoint):
            yield self.place(service, endpoint.id, type_)

    def place(self, service: str, id_: str, type_: int) -> Place:
        """One of them."""
        spot = self.own.spot(service, id_, type_)
        return Place(f"{id_}/{types.type_text(type_)}@{spot.name if spot is not None else ''}", id_, type_, spot)

    def _judged(
        self, service: Service, place: Place, was: Judged | None, now_ms: int, ahead_ms: int,
    ) -> tuple[Judged, Rules]:
        """What the votes come to, after what was decided before, by a clock that this node's is ahead of."""
        spot = place.spot
        if spot is None or service.check == "none":
            return Judged(State.UP, State.UP), Rules()
        cell = spot.cell
        if was is None:  # what a former check has found, or that nothing is known
            was, ahead_ms = Judged(cell.state, cell.state, cell.since_ms, cell.back_ms, proven=cell.proven), 0
        said = self.votes.told(spot.name)
        state = quorum.verdict(
            self.votes.of(spot.name), now_ms, fresh_ms=FRESH_MS, min_up=service.check.min_up_percent * 10)
        if state is State.UNKNOWN:
            state = State(was.base)
        since_ms, back_ms = (min(health.later(ms, ahead_ms), now_ms) for ms in (was.since_ms, was.back_ms))
        if state != was.base:
            since_ms = now_ms
            back_ms = now_ms if was.base == State.DOWN and state is not State.UNKNOWN else back_ms
        proven = state in (State.UP, State.DEGRADED) or was.proven or was.base in (State.UP, State.DEGRADED)
        doubt = state is not State.DOWN and any(one.doubt for one in said.values())
        reasons = Counter(one.why for one in said.values() if one.why)
        why = reasons.most_common(1)[0][0] if reasons and (doubt or state is not State.UP) else ""
        return Judged(state, state, since_ms, back_ms, health.WHOLE, doubt, proven, why), spot.rules


def measured_of(judged: Judged, rules: Rules, now_ms: int, ahead_ms: int = 0) -> Measured:
    """What was decided of an address, before anything else speaks: its ramp goes on with time. This node's clock is so
    far ahead of the one it was decided by."""
    cell = Cell(State(judged.base), back_ms=health.later(judged.back_ms, ahead_ms))
    return Measured(
        State(judged.base), health.share(cell, now_ms, rules), judged.doubt, judged.why,
        judged.proven or judged.base != State.DOWN, health.step_at(cell, now_ms, rules))


def cells_of(verdict: Verdict | None) -> dict[str, Judged]:
    """All places of a verdict."""
    return {} if verdict is None else {**dict.fromkeys(verdict.up, PLAIN), **verdict.cells}


def removals_of(verdict: Verdict | None) -> dict[int, tuple[Removal, ...]]:
    """What the limits had removed when it was decided."""
    return {} if verdict is None else {
        int(type_): tuple(Removal(id_, at_ms) for id_, at_ms in some) for type_, some in verdict.removals.items()}


def _plain(judged: Judged) -> bool:
    return (judged.state == judged.base == State.UP and judged.share == health.WHOLE
            and not (judged.doubt or judged.why))


def _same(one: Verdict, other: Verdict) -> bool:
    return one.model_copy(update={"at_ms": other.at_ms}) == other
