"""What this node measures of endpoints: which addresses to probe for which services, and the states that follow.

Lives here: which targets are watched, results to states, who is told. Does not live here:
services to targets (`control.targets`), probing (`watch`), results to states as such (`steer.health`), what all nodes
make of it (`control.builder`), what a state may remove (`control.standing`).

An address that several services hand out under the same check is one target, probed once; each of them judges it by its
own rules. A result that is this node's own fault says nothing of the target. States and what the limits have removed
are the node's memory, so they survive a restart, for a while: else a restart would answer dead addresses again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd.control import healthfile, targets
from dnsd.control.clock import Clock, Steady
from dnsd.control.publish import Publisher
from dnsd.control.removed import Removed
from dnsd.control.resolve import Removals
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.control.targets import Schedule, Way
from dnsd.registry import checks
from dnsd.steer import health
from dnsd.steer.health import Cell, Rules, State
from dnsd.watch.outcome import Outcome
from dnsd.watch.schedule import Target

KEPT_MS: Final = 600_000
"""How long a state that was written down is worth something; by the clock, which may have been set since."""

LISTED: Final = 100
_log = logging.getLogger("dnsd.control")


class Said(NamedTuple):
    """What this node has to say of a target: its state (UNKNOWN: nothing any more), doubt, the last result in words."""

    state: State
    doubt: bool = False
    why: str = ""


class Spot(NamedTuple):
    """One address of an endpoint as it is measured here. `name`: what nodes call it among themselves; `watched`:
    whether this node probes it."""

    name: str
    cell: Cell
    rules: Rules
    why: str
    watched: bool = True


class Health:
    """One node's measurements. `took` is given every result; `views` ask `measured`. Without a `schedule` all are up,
    as far as this node knows, and it has nothing to say.
    """

    def __init__(self, fleet: Fleet, publisher: Publisher, clock: Clock) -> None:
        self._fleet, self._publisher, self._clock = fleet, publisher, clock
        self.schedule: Schedule | None = None
        self.counts: Counter[str] = Counter()
        self.unsaved = False
        self.failing: set[str] = set()  # what of all that is watched fails now, by name
        self._cells: dict[Target, dict[Way, Cell]] = {}
        self._owners: dict[Target, dict[str, Way]] = {}  # target -> service that asks for it -> how it judges
        self._checks: dict[str, checks.Check] = {}
        self._targets: dict[str, dict[tuple[str, int], Target]] = {}  # service -> (endpoint id, type) -> target
        self._unchecked: set[str] = set()  # services that had no check when they were last looked at
        self._steady = Steady(clock)  # which all cells go by
        self._removed = Removed(clock)
        self._restored: dict[str, Cell] = {}
        self._restored_ms = 0
        self._names: dict[tuple[Target, Way], str] = {}
        self._asked: dict[str, tuple[Target, Way]] = {}
        self._away: set[Target] = set()  # what others watch
        self._assumed: set[str] = set()  # by name: no result of this process has confirmed them, so they are no votes
        self.mine: Callable[[Target], bool] = lambda _: True
        self.changed: Callable[[Sequence[str], Mapping[str, Said]], None] = self._told_nobody
        """Told of services with another state, and of what is said of their targets now."""

    def _told_nobody(self, services: Sequence[str], _: Mapping[str, Said]) -> None:
        """There are no others."""
        if services:
            self._publisher.mark(services)

    # --- services to targets ---

    def renew(self, name: str) -> None:
        """A service or its endpoints have changed, or it is gone: probe what is there now."""
        service = self._fleet.services.get(name)
        if service is None or service.check == "none":
            self._rest(name, known=service is not None)
            return
        check, was = service.check, self._checks.get(name)
        wanted = dict(targets.targets(service, self._fleet.members.get(name, {}).values()))
        before = self._targets.get(name, {})
        if wanted == before and check == was:
            return
        former = self._former(name, before, wanted, check)
        self._targets[name], self._checks[name] = wanted, check
        for target in set(before.values()) - set(wanted.values()):
            self._drop(target, name)
        way = targets.way(check)
        for target in dict.fromkeys(wanted.values()):
            owners = self._owners.setdefault(target, {})
            if owners.get(name) != way:
                self._leave(target, name)
                owners[name] = way
                cells = self._cells.setdefault(target, {})
                if way not in cells:
                    cells[way] = self._begin(target, way, former.get(target))
                    self._names[target, way] = said = targets.judged(target, way)
                    self._asked[said] = target, way
            if self.schedule is not None and target not in self._away and self.mine(target):
                self._say(target, way, self.schedule.watch(target, name, name))
            else:
                self._away.add(target)
        self._unchecked.discard(name)

    def divide(self) -> None:
        """Other nodes are there, or less: watch what is this node's to watch, and nothing else."""
        if self.schedule is None:
            return
        for target, owners in self._owners.items():
            mine = self.mine(target)
            if mine == (target not in self._away):
                continue
            if mine:
                self._away.discard(target)
                refused = [self.schedule.watch(target, name, name) for name in owners]
                for way in self._cells[target]:
                    self._say(target, way, refused[-1])
                continue
            self._away.add(target)
            for name in owners:
                self.schedule.forget(target, name)
            for way in self._cells[target]:
                self._cells[target][way] = Cell()  # what is not looked at is not known
                self._unsay(self._names[target, way])

    def _former(self, name: str, before: Mapping[tuple[str, int], Target], wanted: Mapping[tuple[str, int], Target],
                check: checks.Check) -> dict[Target, Cell]:
        """What another check has found of the same addresses, or that they were up because there was none: what is
        answered must not change before there are results. Of what is new nothing is known."""
        if name in self._unchecked:
            return dict.fromkeys(wanted.values(), Cell(State.UP))
        found: dict[Target, Cell] = {}
        was = self._checks.get(name)
        if was is None or was == check:
            return found
        for key, target in wanted.items():
            old = before.get(key)
            if old is None or (old.address != target.address and was.address is None and check.address is None):
                continue
            cell = self._cells[old][targets.way(was)]
            if old != target:
                cell = Cell(cell.state, since_ms=cell.since_ms, proven=cell.proven)
            if target not in found or found[target].state is State.DOWN:  # of several that become one the best
                found[target] = cell
        return found

    def _begin(self, target: Target, way: Way, former: Cell | None) -> Cell:
        """What is known of a target that someone begins to ask for."""
        name = targets.name(target)
        kept = self._restored.pop(name, None)
        if self._steady.now_ms() - self._restored_ms > KEPT_MS:
            kept = None
        others = self._cells[target].items()
        found = (cell for other, cell in others if self._names[target, other] not in self._assumed and cell.since_ms)
        cell = former or next(found, None) or kept or Cell()
        if way.up and cell.state is State.UNKNOWN:
            cell = cell._replace(state=State.UP)
        if cell is kept or not cell.since_ms:
            self._assumed.add(targets.judged(target, way))
        return cell

    def _rest(self, name: str, *, known: bool) -> None:
        """Nothing of this service is probed any more."""
        for target in set(self._targets.pop(name, {}).values()):
            self._drop(target, name)
        self._checks.pop(name, None)
        self._removed.drop(name)
        (self._unchecked.add if known else self._unchecked.discard)(name)

    def _drop(self, target: Target, name: str) -> None:
        if self.schedule is not None:
            self.schedule.forget(target, name)
        self._leave(target, name)
        if not self._owners[target]:
            del self._owners[target], self._cells[target]
            self._away.discard(target)

    def _leave(self, target: Target, name: str) -> None:
        """Nobody's way of judging a target is no longer kept."""
        owners = self._owners[target]
        way = owners.pop(name, None)
        if way is not None and way not in owners.values():
            del self._cells[target][way]
            said = self._names.pop((target, way))
            del self._asked[said]
            self._unsay(said)

    # --- results to states ---

    def took(self, target: Target, outcome: Outcome, at_ms: int) -> None:
        """A verdict on a target, at unix ms."""
        self.counts[outcome.reason.value] += 1
        before = self._cells.get(target)
        if before is None:
            return
        at_ms -= self._steady.jumped_ms()
        touched: list[str] = []
        said: dict[str, Said] = {}
        for way, cell in before.items():
            before[way] = after = health.seen(cell, outcome.ok, at_ms, way.rules, rtt_ms=outcome.connect_ms)
            name = self._names[target, way]
            (self.failing.add if after.doubt or after.state is State.DOWN else self.failing.discard)(name)
            confirmed = name in self._assumed and (
                after.state is not cell.state or outcome.ok is (after.state is not State.DOWN))
            if confirmed:
                self._assumed.discard(name)
                said[name] = self._said(target, way, after)
            if (after.state, after.doubt) == (cell.state, cell.doubt):
                continue
            if after.state is not cell.state:
                self.unsaved = True
                self.counts["changes"] += 1
                _log.info("%s is %s: %s", targets.text(target), after.state.name.lower(), outcome.reason.value)
            touched += self._asking(target, way)
            said[name] = self._said(target, way, after)
        if said:
            self.changed(touched, said)

    def spot(self, service: str, id_: str, type_: int) -> Spot | None:
        """One address as it is measured here; None where nothing is."""
        target = self._targets.get(service, {}).get((id_, type_))
        if target is None:
            return None
        way = self._owners[target][service]
        cell = health.moved(self._cells[target][way], self._steady.jumped_ms())
        return Spot(self._names[target, way], cell, way.rules, self._result(target), target not in self._away)

    def measured(self, service: str, id_: str, type_: int) -> Measured:
        """What is known of an endpoint's address; up where nothing is measured."""
        target = self._targets.get(service, {}).get((id_, type_))
        if target is None or self.schedule is None:
            return Measured()
        way = self._owners[target][service]
        cell, now_ms = self._cells[target][way], self._steady.now_ms()
        settled = cell.state in (State.UP, State.DEGRADED)
        return Measured(
            cell.state, health.share(cell, now_ms, way.rules), cell.doubt, "" if settled else self._result(target),
            settled or cell.proven,
            health.later(health.step_at(cell, now_ms, way.rules), self._steady.jumped_ms()))

    def removals(self, service: str) -> Removals:
        """What the limits remember of a service."""
        return self._removed.of(service)

    def keep(self, service: str, removals: Removals) -> None:
        """Remember this for the next time, and for a successor."""
        self.unsaved |= self._removed.keep(service, removals)

    def asking(self, name: str) -> list[str]:
        """The services that something said by this name is about."""
        asked = self._asked.get(name)
        return self._asking(*asked) if asked is not None else []

    def sights(self) -> Iterator[tuple[str, str, int, str, Spot]]:
        """Service, endpoint's id, type and site, and what is measured, of all that this node watches."""
        for service, places in list(self._targets.items()):  # others may get turns in between
            for (id_, type_), target in places.items():
                endpoint = self._fleet.endpoint(f"{service}/{id_}")
                spot = self.spot(service, id_, type_)
                if target not in self._away and endpoint is not None and spot is not None:
                    yield service, id_, type_, endpoint.site, spot

    def handshakes(self) -> Iterator[tuple[str, float]]:
        """Site and usual handshake (ms) of the endpoints' own addresses that this node probes."""
        for service, places in list(self._targets.items()):
            for (id_, _), target in places.items():
                endpoint = self._fleet.endpoint(f"{service}/{id_}")
                standing = self.schedule.standing(target) if self.schedule is not None else None
                if endpoint and standing and standing.baseline_ms is not None and target.check.address is None:
                    yield endpoint.site, standing.baseline_ms

    def _say(self, target: Target, way: Way, refused: str | None) -> None:
        """With a reason it is a target that this node will never know, whatever it takes it to be."""
        said = self._said(target, way, self._cells[target][way]) if refused is None else Said(
            State.UNKNOWN, why=f"not probed: {refused}")
        self.changed((), {self._names[target, way]: said})

    def revised(self) -> None:
        """What may be reached has changed: say anew what will never be known here, and what may be again."""
        for target, owners in self._owners.items():
            if self.schedule is not None and target not in self._away:
                name = next(iter(owners))
                refused = self.schedule.watch(target, name, name)
                for way in self._cells[target]:
                    self._say(target, way, refused)

    def _unsay(self, name: str) -> None:
        self.failing.discard(name)
        self._assumed.discard(name)
        self.changed((), {name: Said(State.UNKNOWN)})

    def _said(self, target: Target, way: Way, cell: Cell) -> Said:
        if cell.state is State.UNKNOWN or self._names[target, way] in self._assumed:
            return Said(State.UNKNOWN)
        return Said(cell.state, cell.doubt, "" if cell.state is State.UP and not cell.doubt else self._result(target))

    def _asking(self, target: Target, way: Way) -> list[str]:
        return [name for name, judges in self._owners[target].items() if judges == way]

    # --- for people ---

    def described(self) -> dict[str, Any]:
        """States and results of what this node watches, and who is not up."""
        states = Counter(cell.state.name.lower() for target, cells in self._cells.items()
                         if target not in self._away for cell in cells.values())
        return {
            "targets": len(self._cells) - len(self._away), "probes": sum(self.counts.values()) - self.counts["changes"],
            **{state.name.lower(): states[state.name.lower()] for state in State},
            "results": {reason: number for reason, number in sorted(self.counts.items()) if reason != "changes"},
            "changes": self.counts["changes"], "not_up": list(self._not_up())[:LISTED],
        }

    def told(self, service: str, id_: str, type_: int) -> dict[str, Any] | None:
        """An endpoint's address as this node measures it, with its last result; None where it does not."""
        target = self._targets.get(service, {}).get((id_, type_))
        return None if target is None or target in self._away else self._told(target, self._owners[target][service])

    def _not_up(self) -> Iterator[dict[str, Any]]:
        for target, cells in self._cells.items():
            for way, cell in cells.items():
                if cell.state is not State.UP and target not in self._away:
                    yield {"services": sorted(self._asking(target, way))[:LISTED], **self._told(target, way)}

    def _told(self, target: Target, way: Way) -> dict[str, Any]:
        cell = health.moved(self._cells[target][way], self._steady.jumped_ms())
        standing = self.schedule.standing(target) if self.schedule is not None else None
        last = standing.last if standing is not None else None
        return {
            "target": targets.text(target), "state": cell.state.name.lower(), "since_ms": cell.since_ms,
            "doubt": cell.doubt,
            "share": health.share(cell, self._clock.unix_ms(), way.rules), "result": self._result(target),
            "at_ms": standing.at_ms if standing is not None else 0,
            "handshake_ms": round(last.handshake_ms, 1) if last is not None else None,
            "interval_ms": round(standing.interval_ms) if standing is not None else None,
            "timeout_ms": round(standing.timeout_ms) if standing is not None else None,
        }

    def _result(self, target: Target) -> str:
        """The last result in words, or why there is none."""
        standing = self.schedule.standing(target) if self.schedule is not None else None
        if standing is None:
            return ""
        if standing.refused is not None:
            return f"not probed: {standing.refused}"
        return standing.last.reason.value if standing.last is not None else "no result yet"

    # --- the file ---

    @property
    def watches(self) -> bool:
        """Whether anything is probed."""
        return len(self._cells) > len(self._away)

    def dump(self) -> Callable[[], bytes]:
        """What a successor should know, as it is now; called, its octets, which may take a while."""
        self.unsaved = False
        at_ms, by_ms = self._clock.unix_ms(), self._steady.jumped_ms()
        cells = [(target, health.moved(cell, by_ms))
                 for target, some in self._cells.items() for cell in list(some.values())[:1]]
        usual = self.schedule.dump() if self.schedule is not None else {}
        return partial(healthfile.octets, at_ms, cells, self._removed.dump(), usual)

    def restore(self, path: Path) -> None:
        """Take over what a former process wrote, unless that is too long ago. ValueError: unreadable; OSError."""
        kept = healthfile.read(path)
        if kept is not None and abs(self._clock.unix_ms() - kept.at_ms) <= KEPT_MS:
            by_ms = self._steady.met(kept.at_ms)
            self._restored = {name: health.moved(cell, by_ms) for name, cell in kept.cells.items()}
            self._restored_ms = self._steady.now_ms()
            self._removed.restore(kept.removals, kept.at_ms)
            if self.schedule is not None:
                self.schedule.restore(kept.baselines)
