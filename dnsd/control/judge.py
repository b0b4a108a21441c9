"""Which finding holds on this node: what was decided for all, or, while no word of that can come, what it sees itself.

Lives here: that choice for every address, noticing when it changes, whether this node can trust its own eyes. Does not
live here: own measurements (`control.health`), deciding for all (`control.builder`), the limits (`control.standing`).

    together   the store answers, its state is followed, and all is decided: every node goes by the verdicts, also
               where it sees something else. What is not decided yet, being new, goes by what is seen here
    alone      what this node would say itself, and for what it does not know yet the last verdict. Where it has been
               seeing something else all along, the verdict stands for some seconds more: the store may be back by then.
               One that is cut off itself, with others somewhere, sees most of everything fail: it leaves all as it was
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from dnsd.control.builder import Builder, Place, cells_of, measured_of, removals_of
from dnsd.control.clock import Clock
from dnsd.control.deciding import Fence
from dnsd.control.health import Health, Said
from dnsd.control.publish import Publisher
from dnsd.control.removed import carried
from dnsd.control.resolve import Removals
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.control.votes import UNSAID, Votes
from dnsd.dns import types
from dnsd.registry.models import Judged, Verdict
from dnsd.steer import quorum
from dnsd.steer.health import State
from dnsd.steer.quorum import Sight

_log = logging.getLogger("dnsd.control")
LOOK_S: Final = 0.1
BLIND_S: Final = 0.3
BLIND_SHARE: Final = 20
STARTS_S: Final = 5.0
"""So long after its start a node that is alone is no news."""
BREATH: Final = 100
LONGEST_S: Final = 3.0
STANDS_S: Final = 10.0
"""So long after the last word of the others a verdict stands against what this node has seen before."""

REJOINS_S: Final = 2.0
"""So long at most a node that was alone goes by what it saw then to fail or to be back, until that is decided too."""

NOBODY_S: Final = 2.5
"""How long nobody may build before nodes judge by themselves: another takes over within two seconds."""


class Judge:
    """What is answered by: `control.views` asks it. `follows` says the epoch that is followed, None if none is."""

    def __init__(
        self, fleet: Fleet, own: Health, votes: Votes, builder: Builder, publisher: Publisher, clock: Clock,
    ) -> None:
        self.fleet, self.own, self.votes, self.builder = fleet, own, votes, builder
        self.publisher, self.clock = publisher, clock
        self.follows: Callable[[], int | None] = lambda: None
        self.together = False
        self._cells: dict[str, tuple[Verdict, dict[str, Judged]]] = {}
        self._last: dict[str, dict[tuple[str, int], Measured]] = {}
        self._began_s = clock.monotonic()
        self._nobody_s = float("-inf")
        self._blind_s = float("-inf")
        self._split_s, self._stands = float("-inf"), False
        self._met_s: float | None = None  # since when it could be with the others again
        self._since: set[str] = set()  # what this node has seen to change since then, by name
        own.changed = self._found
        votes.changed = self._voted
        votes.watching = self._divided
        votes.builds = self._builds
        own.mine = lambda target: votes.is_mine(target)
        builder.fence = self._fence

    # --- asked by views ---

    def renew(self, name: str) -> None:
        """A service is resolved anew."""
        self.own.renew(name)
        self._last.pop(name, None)
        verdict = self.fleet.verdicts.get(name)
        if verdict is not None:
            self.builder.arrivals.meet(verdict)
        if name not in self.fleet.services:
            self._cells.pop(name, None)
            self.builder.arrivals.forget(name)
        self.builder.touch((name,))

    def measured(self, service: str, id_: str, type_: int) -> Measured:
        """What is known of an endpoint's address."""
        found = self._measured(service, self.builder.place(service, id_, type_))
        self._last.setdefault(service, {})[id_, type_] = found
        return found

    def last(self, service: str, id_: str, type_: int) -> Measured | None:
        """What was last said of it, which is what its service rests on."""
        return self._last.get(service, {}).get((id_, type_))

    def speaks(self, service: str) -> bool:
        """Whether something besides probes speaks of a service's health."""
        return service in self.fleet.verdicts if self.together else self.builder.speaks(service)

    def removals(self, service: str) -> Removals:
        """What the limits remember of a service."""
        return removals_of(self.fleet.verdicts[service]) if self.decided(service) else self.own.removals(service)

    def keep(self, service: str, removals: Removals) -> None:
        """Remember this: for the next time, a successor, or when this node is alone."""
        if self.decided(service):
            verdict = self.fleet.verdicts[service]
            removals = carried(
                removals, removals_of(verdict), self.own.removals(service),
                ahead_ms=self.builder.arrivals.ahead_ms(verdict), now_ms=self.clock.unix_ms())
        self.own.keep(service, removals)

    def decided(self, service: str) -> int:
        """As of when the limits hold (unix ms): when they were decided for all; 0: they are this node's, now."""
        verdict = self.fleet.verdicts.get(service)
        return verdict.at_ms if self.together and verdict is not None else 0

    def _measured(self, service: str, place: Place) -> Measured:
        now_ms = self.clock.unix_ms()
        judged = self._judged(service).get(place.key)
        if self.together and judged is not None:
            settled = judged.state in (State.UP, State.DEGRADED)
            return Measured(
                State(judged.state), judged.share, judged.doubt, judged.why, settled or judged.proven)
        spot = place.spot
        if spot is None:
            found = Measured()
        elif judged is not None and not self._counts(spot.name):
            ahead_ms = self.builder.arrivals.ahead_ms(self.fleet.verdicts[service])
            found = measured_of(judged, spot.rules, now_ms, ahead_ms)
            found = found._replace(doubt=found.doubt or (spot.watched and spot.cell.doubt))
        else:
            found = self.own.measured(service, place.id, place.type)
        return self.builder.advised(service, place, found, now_ms)

    def _judged(self, service: str) -> Mapping[str, Judged]:
        verdict = self.fleet.verdicts.get(service)
        if verdict is None:
            return {}
        kept = self._cells.get(service)
        if kept is None or kept[0] is not verdict:
            kept = self._cells[service] = verdict, cells_of(verdict)
        return kept[1]

    def _counts(self, name: str) -> bool:
        """Whether what this node says of a target by itself stands against what was decided."""
        said = self.votes.own.get(name)
        if said is None or said.state is State.UNKNOWN or self._frozen:
            return False
        return name in self._since or not self._stands

    @property
    def _frozen(self) -> bool:
        """Whether what is seen here is not believed, though nobody else can be asked."""
        return self.votes.blind and not self.votes.lonely

    # --- told ---

    def _found(self, services: Sequence[str], said: Mapping[str, Said]) -> None:
        """This node's own findings have changed."""
        if not self.together:
            self._since |= {name for name, one in said.items() if self._news(name, one.state)}
        self.votes.say(said)
        touched = [name for name in services if not self.together or self._undecided(name)]
        if touched:
            self.publisher.mark(touched)

    def _news(self, name: str, state: State) -> bool:
        """Whether a state is another than before, or the first one and bad."""
        was = self.votes.own.get(name, UNSAID).state
        return state is not was and (was is not State.UNKNOWN or state is State.DOWN)

    def _undecided(self, name: str) -> bool:
        service, known = self.fleet.services.get(name), self._judged(name)
        return service is not None and any(place.key not in known for place in self.builder.places(service))

    def advised(self, services: Sequence[str]) -> None:
        """What speaks of health besides probes says something else of these services."""
        self.builder.touch(services)
        if not self.together:
            self.publisher.mark(services)

    def _voted(self, names: Iterable[str]) -> None:
        """Somebody's votes have changed."""
        if self._fence() is not None:
            self.builder.touch({service for name in names for service in self.own.asking(name)})

    def _divided(self) -> None:
        """The watching is divided anew."""
        self.own.divide()

    # --- who decides ---

    def may_build(self) -> Fence | None:
        """With what this node builds for all; None while another does, or none."""
        fence, presence = self._fence(), self.votes.presence
        return Fence(presence.epoch, fence) if fence is not None and presence is not None else None

    def _fence(self) -> int | None:
        """The fence this node builds with; None while it does not."""
        presence = self.votes.presence
        builds = presence is not None and not self.votes.alone and presence.builder == self.votes.node
        return presence.fence if builds and presence is not None and self._able(presence.epoch) else None

    def _builds(self) -> int:
        """Whether this node could build (1), and does and has decided on everything (2)."""
        presence = self.votes.presence
        if presence is None or not self._able(presence.epoch) or self.own.schedule is None:
            return 0
        return 2 if self._fence() is not None and self.builder.ready else 1

    def _able(self, epoch: int) -> bool:
        return self.votes.synced and self.follows() == epoch

    def _is_together(self) -> bool:
        presence = self.votes.presence
        if presence is None or self.votes.alone or not presence.ready or self.follows() != presence.epoch:
            return False
        now = self.clock.monotonic()
        if presence.builder:
            self._nobody_s = now
        return now - self._nobody_s <= NOBODY_S

    def _waits(self) -> bool:
        """Whether what this node saw while it was alone may be on its way to who decides, who says otherwise so far."""
        now = self.clock.monotonic()
        self._met_s = now if self._met_s is None else self._met_s
        if self.together or not self._since or now - self._met_s > REJOINS_S:
            return False
        return any(self._contradicted(service) for service in {
            service for name in self._since for service in self.own.asking(name)})

    def _contradicted(self, service: str) -> bool:
        """Whether the verdict on a service is not what this node has seen since it was alone."""
        known = self._judged(service)
        for place in self.builder.places(self.fleet.services[service]) if service in self.fleet.services else ():
            spot, judged = place.spot, known.get(place.key)
            if spot is not None and judged is not None and spot.name in self._since and self._counts(spot.name) and (
                    (judged.base == State.DOWN) != (self.votes.own[spot.name].state is State.DOWN)):
                return True
        return False

    # --- the task ---

    async def run(self) -> None:
        """Look for ever whether what holds has changed."""
        while True:
            await self.look()
            await self.clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Notice what has changed without anybody telling."""
        before = self.together, self._frozen, self._stands
        self.together = self._is_together() and not self._waits()
        if before[0] and not self.together:
            self._split_s = self.clock.monotonic()
        self._stands = self.clock.monotonic() - self._split_s <= STANDS_S
        if self.together or not self._is_together():
            self._met_s = None
        if self.together:
            self._since.clear()
        if self.clock.monotonic() >= self._blind_s:
            await self._doubt_eyes()
        if before != (self.together, self._frozen, self._stands):
            _log.info("health is judged %s", "together" if self.together else "by this node alone")
            await self._compare()

    async def _doubt_eyes(self) -> None:
        """Notice that this node itself is cut off, or is not any more."""
        began = self.clock.monotonic()
        enough = len(self.own.failing) >= quorum.BLIND_TARGETS and not self.votes.lonely
        sights: list[Sight] = []
        for sight in self._sights() if enough else ():
            sights.append(sight)
            if len(sights) % BREATH == 0:
                await asyncio.sleep(0)
        blind = enough and quorum.isolated(sights)
        ended = self.clock.monotonic()
        self._blind_s = ended + min(max(BLIND_S, BLIND_SHARE * (ended - began)), LONGEST_S)
        if blind != self.votes.blind:
            self.votes.blind = blind
            self.votes.wake()

    def _sights(self) -> Iterator[Sight]:
        """What of all this node watches was up, by what all say, and fails for it."""
        for service, id_, type_, site, spot in self.own.sights():
            cell, judged = spot.cell, self._judged(service).get(self.builder.place(service, id_, type_).key)
            was_up = judged.base in (State.UP, State.DEGRADED) if judged is not None else (
                cell.proven or cell.state in (State.UP, State.DEGRADED))
            yield Sight(site, was_up, cell.doubt or cell.state is State.DOWN)

    async def _compare(self) -> None:
        """Publish the services for which something else holds now."""
        for number, (name, last) in enumerate(list(self._last.items())):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            verdict = self.fleet.verdicts.get(name)
            if (verdict is not None and verdict.removals) or self.own.removals(name) or any(
                    self._measured(name, self.builder.place(name, id_, type_)) != found
                    for (id_, type_), found in list(last.items())):  # limits have other times now
                self.publisher.mark((name,))

    # --- for people ---

    def described(self) -> dict[str, Any]:
        """Who judges together, and who decides."""
        presence = self.votes.presence
        return {
            "together": self.together, "blind": self.votes.blind,
            "builder": presence.builder if presence is not None and not self.votes.alone else "",
            "decided": self.builder.decided, "verdicts": len(self.fleet.verdicts), "nodes": self.votes.described()}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        if self.own.schedule is None:
            return
        if self.votes.blind:
            yield "this node seems to be cut off: most of what is up fails for it, so it has no vote"
        if not self.together and self.clock.monotonic() - self._began_s > STARTS_S and self.own.watches:
            yield "health is judged by this node alone"

    def vantages(self, service: str, id_: str, type_: int) -> dict[str, Any]:
        """What holds of an address, and what each node says of it."""
        place = self.builder.place(service, id_, type_)
        found = self._measured(service, place)
        told = {} if place.spot is None else self.votes.told(place.spot.name)
        return {
            "endpoint": id_, "type": types.type_text(type_), "state": found.state.name.lower(), "why": found.result,
            "doubt": found.doubt, "share": found.share,
            "vantages": {node: {"state": said.state.name.lower(), "doubt": said.doubt, "why": said.why}
                         for node, said in sorted(told.items())}}
