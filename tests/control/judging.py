"""Nodes that judge together, without prober, publisher and store: results are put in, views come out.

Lives here: the real parts wired as `control.app` wires them, virtual clocks, verdicts handed to all as events. Does not
live here: any test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from dnsd.control import targets
from dnsd.control.builder import Builder
from dnsd.control.health import Health
from dnsd.control.judge import Judge
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.control.views import Views
from dnsd.control.votes import UNSEEING, Votes
from dnsd.registry.fields import Model
from dnsd.registry.models import Kind, Service, Verdict
from dnsd.registry.values import Event
from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.schedule import Standing, Target
from tests.control.fleet_samples import SERVICE, endpoint, events, gone, service
from tests.control.test_votes import Time
from tests.registry.sightings_double import Sightings

GOOD, BAD = Outcome(True, Reason.OK, 3, 5, 2), Outcome(False, Reason.TIMEOUT)
CHECK = {"kind": "http", "port": 8080}
STEP_S = 0.1


class Skewed(Time):
    """A node's clock: all share the passing of time; the wall clock may be off."""

    def __init__(self, time: Time) -> None:
        self.time, self.off = time, 0.0

    def unix_ms(self) -> int:
        return self.time.unix_ms() + round(self.off * 1000)

    def monotonic(self) -> float:
        return self.time.passed

    async def sleep(self, seconds: float) -> None:
        await self.time.sleep(seconds)


class Node:
    """One node. `sees` is what its probes find: address text -> good; what is not there is good. `stopped`: SIGSTOP."""

    def __init__(self, world: World, name: str, group: str = "", *, probes: bool = True) -> None:
        self.world, self.name = world, name
        self.clock, self.fleet, self.marked = Skewed(world.clock), Fleet(), set[str]()
        self.views = Views(self.fleet, lambda _: 0)
        self.health = Health(self.fleet, self, self.clock)  # type: ignore[arg-type]
        self.health.schedule = self if probes else None
        self.votes = Votes(world.store, node=name, group=group if probes else UNSEEING, clock=self.clock)
        self.builder = Builder(self.fleet, self.health, self.votes, world.store, node=name, clock=self.clock)
        self.builder.memories = self.views.memories
        self.judge = self.views.health = Judge(
            self.fleet, self.health, self.votes, self.builder, self, self.clock)  # type: ignore[arg-type]
        self.judge.follows = lambda: world.store.epoch if self.follows and not world.store.away else None
        self.follows = True
        self.wanted: dict[Target, set[str]] = {}
        self.last: dict[Target, Outcome] = {}
        self.refused: set[str] = set()
        self.sees: dict[str, bool] = {}
        self.cut_off = self.stopped = False
        self.published = 0
        self.history: list[dict[str, tuple[str, ...]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    # --- as a schedule ---

    def watch(self, target: Target, asking: str, service: str) -> str | None:
        self.wanted.setdefault(target, set()).add(asking)
        return "private use" if targets.text(target) in self.refused else None

    def forget(self, target: Target, asking: str) -> None:
        if asking in self.wanted.get(target, ()):
            self.wanted[target].remove(asking)
            if not self.wanted[target]:
                del self.wanted[target]

    def standing(self, target: Target) -> Standing:
        return Standing(self.last.get(target), self.clock.unix_ms(), 500, 300, None, None, 1)

    def probe(self) -> None:
        """Everything once."""
        for target in list(self.wanted):
            text = targets.text(target)
            if text not in self.refused:
                self.last[target] = GOOD if self.sees.get(text, True) and not self.cut_off else BAD
                self.health.took(target, self.last[target], self.clock.unix_ms())

    # --- as a publisher ---

    def mark(self, services: Iterable[str] = ()) -> None:
        self.marked.update(services)

    def publish(self) -> None:
        names, self.marked = self.marked, set()
        names |= self.views.changed_by_time(self.clock.unix_ms())
        if names:
            self.published += 1
            self.views.refresh(sorted(names), self.clock.unix_ms())
            self.history.append(self.answers())

    def answers(self) -> dict[str, tuple[str, ...]]:
        """Service -> ids of the endpoints it answers."""
        return {name: tuple(one.endpoint.id for one in found.members if one.a or one.aaaa)
                for name, found in self.views.resolved.items()}

    def told(self, *all_events: Event) -> None:
        self.mark(self.fleet.apply(all_events, self.clock.unix_ms()).services)

    def measured(self, id_: str, type_: int = 1, name: str = SERVICE) -> Measured:
        return self.judge.measured(name, id_, type_)

    # --- its life ---

    def start(self) -> None:
        self._tasks = [asyncio.create_task(part()) for part in (self.votes.run, self.judge.run)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


class World:
    """Nodes on one store. Time passes in `pass_s`, and everybody probes each half second."""

    def __init__(self) -> None:
        self.clock, self.store_off = Time(), 0.0
        self.store = Sightings(lambda: self.clock.unix_ms() + round(self.store_off * 1000))
        self.store.decided = self._decided
        self.nodes: dict[str, Node] = {}
        self.objects: dict[tuple[Kind, str], Event] = {}
        self.writes = 0
        self.late_s = 0.0  # how long what is decided is on its way to the nodes
        self._late: list[tuple[float, list[Event]]] = []

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def add(self, *names: str, group: str = "", probes: bool = True) -> None:
        for name in names:
            node = self.nodes[name] = Node(self, name, group, probes=probes)
            self.load(node)
            node.start()

    def load(self, node: Node) -> None:
        """What the registry has."""
        node.told(*self.objects.values())
        node.told(*(self._event(verdict.service, verdict) for verdict in self.store.verdicts.values()))

    async def remove(self, name: str) -> None:
        await self.nodes.pop(name).stop()

    def put(self, *objects: Model) -> None:
        self._write(events(self.store.version + 1, *objects))

    def drop(self, *objects: Model) -> None:
        self._write(gone(self.store.version + 1, *objects))

    def fleet(self, count: int, *, check: Any = CHECK, sites: Sequence[str] = ("one", "two"), **more: Any) -> None:
        """One service of so many endpoints, over these sites in turn."""
        self.put(service(check=check, **more), *(
            endpoint(f"e{number}", f"192.0.2.{number}", site=sites[number % len(sites)]) for number in range(count)))

    def see(self, numbers: Iterable[int], good: bool, *nodes: str) -> None:
        """What becomes of endpoints, for all or some nodes."""
        for number in numbers:
            for node in nodes or self.nodes:
                self.nodes[node].sees[f"http 192.0.2.{number}:8080"] = good

    async def pass_s(self, seconds: float, step_s: float = STEP_S) -> None:
        for _ in range(round(seconds / step_s)):
            before = self.clock.passed
            self.clock.passed += step_s
            self._deliver()
            await self.turns()
            for node in self.nodes.values():
                if int(2 * before) != int(2 * self.clock.passed) and not node.stopped:
                    node.probe()

    async def turns(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)
        for node in list(self.nodes.values()):
            if not node.stopped:
                await node.builder.turn()
                node.publish()

    async def end(self) -> None:
        for name in list(self.nodes):
            await self.remove(name)

    def builder(self) -> str:
        [name] = {node.votes.presence.builder for node in self.nodes.values() if node.votes.presence is not None}
        return name

    def answers(self, name: str = SERVICE) -> tuple[str, ...]:
        """What all nodes answer, when they agree."""
        [found] = {node.answers()[name] for node in self.nodes.values()}
        return found

    def _write(self, written: list[Event]) -> None:
        self.store.version += 1
        for one in written:
            if one.value is None:
                self.objects.pop((one.kind, one.key), None)
                if one.kind is Kind.SERVICE:
                    self.store.verdicts.pop(one.key, None)
            else:
                self.objects[one.kind, one.key] = one
        self.store.services = {one.value.name for one in self.objects.values() if isinstance(one.value, Service)}
        for node in self.nodes.values():
            node.told(*written)

    def _event(self, name: str, verdict: Verdict | None) -> Event:
        version = self.store.version
        return Event(f"{version}-0", version, Kind.VERDICT, name, verdict, f"chain{version}")

    def _decided(self, _: int, found: Sequence[tuple[str, Verdict | None]]) -> None:
        self.writes += len(found)
        self._late.append((self.clock.passed + self.late_s, [self._event(name, verdict) for name, verdict in found]))
        self._deliver()

    def _deliver(self) -> None:
        """What has arrived by now."""
        while self._late and self._late[0][0] <= self.clock.passed:
            _, told = self._late.pop(0)
            for node in self.nodes.values():
                node.told(*told)
