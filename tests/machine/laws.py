"""What must hold of every node at every moment, and of all of them once nothing has gone wrong for a while.

Lives here: the laws, in terms of what a node was told, what it answers, and what the store has written down. Does not
live here: how things come about (`world`, `test_machine`).

A law is looked at where it could be broken: each time a service is resolved (what may be answered is known then, before
workers have it), each time a worker has taken frames, and at rest.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from dnsd.answer import respond
from dnsd.context import Context
from dnsd.control import reply
from dnsd.control.app import Process
from dnsd.control.resolve import PAST
from dnsd.dns import names, types
from dnsd.metrics import SLOTS
from dnsd.model import ServiceView, Stamp
from dnsd.registry.models import Endpoint, Override
from dnsd.steer.health import WHOLE, State
from tests.control.rig import Worker
from tests.machine.loops import BEGAN_MS

if TYPE_CHECKING:
    from tests.machine.world import Node, World

TYPES = (types.A, types.AAAA)
WINDOW_S = 60.0
DAY_MS = 24 * 3600 * 1000
STATIC, NOWHERE = "static.example.com", "nowhere.example.com"
KNOWN_S = 3.0
"""Who decides for all may not know yet what an operator has said so long before."""

CALM_MS = 300
"""Time an own measure of time may be off by, where a law is about milliseconds."""


FOUND = {"live": (State.UP,), "refused": (State.DOWN,), "hole": (State.DOWN,), "slow": (State.DOWN, State.DEGRADED)}
"""What a target is found to be by how it answers."""


class Out(NamedTuple):
    """An endpoint that health has taken out of a node's answers: when, and whether only for being slow."""

    at_s: float
    slow: bool


class Laws:
    """Looks on; `check` raises what was found."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: list[str] = []
        self.asked = 0
        self.apart: set[str] = set()
        self._stamps: dict[int, Stamp] = {}
        self._had: dict[tuple[int, str, int], bool] = {}
        self._empty: dict[tuple[str, str, int], str] = {}  # node, name, type -> why it may be empty
        self._answered: dict[tuple[str, str, int], frozenset[str]] = {}
        self._out: dict[tuple[str, str, int], dict[str, Out]] = {}
        self._all_out: dict[tuple[str, int], float] = {}  # when a node last followed that all are down
        self._removals: dict[tuple[str, int, str, int], float] = {}  # when a node first followed each
        self._alone: dict[tuple[str, str, int], float] = {}  # nodes that judged alone when last looked at, and when
        self._limits: dict[tuple[str, str, int], deque[tuple[float, int]]] = {}
        self._weights: dict[tuple[str, str, int], dict[str, int]] = {}
        self._weighed: dict[tuple[str, str], deque[tuple[float, int]]] = {}  # until when each weighed something else

    def attach(self, node: Node, process: Process) -> None:
        """A control process that is about to run: look on whenever it resolves services."""
        refresh = process.views.refresh

        def refreshed(names_: Iterable[str], now_ms: int) -> dict[str, ServiceView | None]:
            asked = list(names_)
            found = refresh(asked, now_ms)
            for name in asked:
                self._resolved(node, process, name, now_ms)
            return found

        process.views.refresh = refreshed  # type: ignore[method-assign]

    def forget(self, node: Node) -> None:
        """A process was killed with what it had removed within the last seconds."""
        for memory in (self._out, self._limits, self._answered):
            for key in [key for key in memory if key[0] == node.name]:
                del memory[key]  # type: ignore[attr-defined]

    def check(self) -> None:
        """Nothing was broken so far."""
        assert not self.broken, "\n".join(self.broken[:5])

    def _wrong(self, node: Node, text: str) -> None:
        self.broken.append(f"at {self.world.loop.time():.2f} s {node.name}: {text}")

    # --- when a service is resolved ---

    def _resolved(self, node: Node, process: Process, name: str, now_ms: int) -> None:
        for type_ in TYPES:
            self._empty[node.name, name, type_] = self._may_be_empty(process, name, type_, now_ms)
        resolved = process.views.resolved.get(name)
        if resolved is None:
            return
        members = process.fleet.members.get(name, {}).values()
        for type_ in TYPES:
            live = frozenset(e.id for e in resolved.view.live if (e.a if type_ == types.A else e.aaaa))
            self._forced(node, process, members, live, type_, now_ms)
            self._velocity(node, process, name, type_, live, now_ms)
            self._answered[node.name, name, type_] = live

    def _may_be_empty(self, process: Process, name: str, type_: int, now_ms: int) -> str:
        """Why a name may have no address of a type, by what its owner did; "" where it must have one it had."""
        fleet = process.fleet
        service = fleet.services.get(name)
        if service is None:
            return "its owner deleted it" if name in self.world.ended else ""
        if service.types is not None and types.type_text(type_) not in service.types:
            return "it does not own the type"
        if service.fallback.a if type_ == types.A else service.fallback.aaaa:
            return ""
        for endpoint in fleet.members.get(name, {}).values():
            if _address(endpoint, type_) and _state(fleet.overrides, endpoint, now_ms) != "down":
                return ""
        graves = [grave for grave in fleet.ended.get(name, {}).values() if _address(grave.endpoint, type_)]
        last = max(graves, key=lambda grave: grave.at_ms, default=None)
        if last is not None and not last.revoked and _state(fleet.overrides, last.endpoint, now_ms) != "down" and (
                now_ms - last.at_ms < DAY_MS):
            return ""
        return "all is forced down or was taken away"

    def _forced(self, node: Node, process: Process, members: Collection[Endpoint], live: frozenset[str], type_: int,
                now_ms: int) -> None:
        """What an operator forces beats what is measured."""
        for endpoint in members:
            if not _address(endpoint, type_):
                continue
            state = _state(process.fleet.overrides, endpoint, now_ms)
            if state == "up" and endpoint.id not in live:
                self._wrong(node, f"{endpoint.key} is forced up and is not answered")
            if state == "down" and endpoint.id in live:
                self._wrong(node, f"{endpoint.key} is forced down and is answered")

    def _velocity(self, node: Node, process: Process, name: str, type_: int, live: frozenset[str], now_ms: int) -> None:
        """Health takes away no more than its limit in any minute, unless it has taken all (`_gone`: also as of when
        that was decided). What was taken weighs what its operator says by the time more is taken, as far as that can
        have been known where it was decided. Who is drained is so as of when it was decided, by that clock: where all
        others were down then, all are left out for the drained, though here a drain has ended. Who is drained here and
        now was not taken by health; where nobody else is answered all others are down."""
        key = node.name, name, type_
        out, now_s = self._out.setdefault(key, {}), self.world.loop.time()
        at_ms = process.judge.decided(name) or now_ms
        able = {e.id: e for e in process.fleet.members.get(name, {}).values()
                if _address(e, type_) and _state(process.fleet.overrides, e, at_ms) not in ("down", "drain")}
        before, late = self._answered.get(key, frozenset()), self._late(key, process, now_s)
        for id_ in [id_ for id_, one in out.items() if id_ in live or id_ not in able
                    or self.world.removed.get((name, id_), 0.0) > one.at_s]:  # and put there again, or restored
            del out[id_]
        self._weigh(key, able.values(), now_s)
        limits = self._limits.setdefault(key, deque())
        limits.append((now_s, _limit(able.values())))
        while limits[0][0] < now_s - WINDOW_S:
            limits.popleft()
        if not live & able.keys() or self._all_down(process, name, type_, live, able.values(), now_ms):
            out.clear()
            if process.judge.decided(name):
                self._all_out[name, type_] = now_s
            return
        taken = {id_ for id_ in (before & able.keys()) - live - self._gone(process, name, type_, able)
                 if _state(process.fleet.overrides, able[id_], now_ms) not in ("down", "drain")}
        taken -= late
        for id_ in taken:
            measured = process.judge.measured(name, id_, type_)
            if measured.proven and measured.state is not State.UNKNOWN:
                out[id_] = Out(now_s, measured.state is State.DEGRADED)
        most = max(limit for _, limit in limits)
        for slow in (False, True):
            recent = {id_ for id_, one in out.items() if one.slow == slow and one.at_s > now_s - WINDOW_S + 1}
            weight = sum(self._weight(name, able[id_], now_s) for id_ in recent)
            if taken & recent and len(recent) > 1 and weight > most:
                self._wrong(node, f"{name}: health took {sorted(recent)} within a minute, {weight} of at most {most}")

    def _all_down(self, process: Process, name: str, type_: int, live: frozenset[str], able: Iterable[Endpoint],
                  now_ms: int) -> bool:
        """Whether nobody but the drained is answered here, because all others are down."""
        here = [e.id for e in able if _state(process.fleet.overrides, e, now_ms) not in ("down", "drain")]
        return not live.intersection(here) and all(
            process.judge.measured(name, id_, type_).state is State.DOWN for id_ in here)

    def _weigh(self, key: tuple[str, str, int], able: Iterable[Endpoint], now_s: float) -> None:
        """Note what weighs something else than it did on this node."""
        before = self._weights.get(key, {})
        self._weights[key] = {e.id: e.weight for e in able}
        for id_, weight in self._weights[key].items():
            if before.get(id_, weight) != weight:
                self._weighed.setdefault((key[1], id_), deque(maxlen=8)).append((now_s, before[id_]))

    def _weight(self, name: str, endpoint: Endpoint, now_s: float) -> int:
        """The least that an endpoint weighed as far as who decided may have known."""
        was = [weight for until_s, weight in self._weighed.get((name, endpoint.id), ()) if until_s > now_s - KNOWN_S]
        return max(1, min(endpoint.weight, *was)) if was else max(1, endpoint.weight)

    def _late(self, key: tuple[str, str, int], process: Process, now_s: float) -> set[str]:
        """Who was left out by a decision while this node judged alone: by what endpoints weighed then."""
        _, name, type_ = key
        verdict, looked_s = process.fleet.verdicts.get(name), self._alone.pop(key, now_s)
        if verdict is None or not process.judge.decided(name):
            self._alone[key] = now_s
            return set()
        return {id_ for id_, at_ms in verdict.removals.get(str(type_), ())
                if self._removals.setdefault((name, type_, id_, at_ms), now_s) < looked_s < now_s}

    def _gone(self, process: Process, name: str, type_: int, able: dict[str, Endpoint]) -> set[str]:
        """Who was left out because all were down, by what was decided for all nodes: then no limit holds. Nodes at one
        version answer alike, so it is left out also where one comes that answers one of them after all: its operator
        has forced it up there, which others may not know yet, or it is back since others answered none."""
        verdict = process.fleet.verdicts.get(name)
        if verdict is None or not process.judge.decided(name):
            return set()
        removed, past = ({id_ for id_, at_ms in verdict.removals.get(str(key), ())
                          if at_ms > verdict.at_ms - WINDOW_S * 1000} for key in (type_, type_ | PAST))
        if self._all_out.get((name, type_), -WINDOW_S) <= self.world.loop.time() - WINDOW_S:
            past = {id_ for id_ in past & able.keys()
                    if _state(process.fleet.overrides, able[id_], verdict.at_ms) == "up"}
        measured = {id_: process.judge.measured(name, id_, type_) for id_ in able}
        settled = {id_ for id_, one in measured.items() if one.proven and one.state is not State.UNKNOWN}
        return removed if settled <= removed | past else set()

    def kept(self, node: Node, name: str, id_: str) -> str:
        """Why an endpoint is answered though it is dead; "" where it should not be."""
        resolved = node.process.views.resolved[name]
        members = {member.endpoint.id: member for member in resolved.members}
        if members[id_].forced is not None and members[id_].forced.state != "drain":
            return "forced"
        if all(id_ in one.held or one.panic for one in resolved.sifted.values() if id_ in one.shares):
            return "limits"
        others = [one.id for one in resolved.view.live if one.id != id_]
        return "" if others else "the last"

    # --- when a worker has taken frames ---

    def served(self, node: Node, worker: Worker) -> None:
        """A worker has taken frames."""
        stamp = worker.stamp
        if stamp is None:
            return
        before = self._stamps.get(id(worker))
        if before is not None and before.epoch == stamp.epoch and stamp < before:
            self._wrong(node, f"after {before} a worker serves {stamp}")
        self._stamps[id(worker)] = stamp
        if worker.ask(STATIC)[0] or worker.ask(NOWHERE)[0] != 3:
            self._wrong(node, "names of the zone are answered otherwise")
        for name, service in self.world.names.items():
            for type_ in TYPES:
                rcode, found = worker.ask(name, type_)
                key = id(worker), name, type_
                why = self._empty.get((node.name, service, type_), "")
                if service in self.world.ended:  # and with it what it owned
                    why = "its owner deleted it, and perhaps put it there again"
                if self._had.get(key) and (rcode or not found) and not why:
                    self._wrong(node, f"{name} {types.type_text(type_)} had an answer, now rcode {rcode} and none")
                self._had[key] = bool(found)

    # --- at rest ---

    def stands(self) -> list[tuple[Stamp | None, ...]]:
        """What each node has published, and what its workers serve."""
        return [(node.process.publisher.live.stamp, *(worker.stamp for worker in node.workers))
                for node in self.world.nodes]

    def agree(self, clients: int, seed: int = 0) -> None:
        """All nodes stand at one version, have one content, and answer all clients alike."""
        first = self.world.nodes[0]
        for node in self.world.nodes:
            process, live = node.process, node.process.publisher.live
            assert process.intake.connected, f"{node.name}: {process.intake.problem}"
            assert not process.intake.held, f"{node.name}: {process.intake.held}"
            assert process.judge.together, (
                f"{node.name} judges alone: {process.votes.presence}, follows {process.intake.epoch}")
            assert not live.left_out, f"{node.name}: {live.left_out}"
            assert not live.refused, f"{node.name}: {live.refused}"
            assert not process.publisher.faults, f"{node.name}: {process.publisher.faults}"
            ours, theirs = (n.process.publisher.live for n in (node, first))
            assert ours.stamp[:2] == theirs.stamp[:2], f"{node.name} is at {ours.stamp}, others at {theirs.stamp}"
            for owner in ours.published.keys() | theirs.published.keys():
                a, b = ours.published.get(owner), theirs.published.get(owner)
                if a is not None and b is not None and (a.last_good_a, a.last_good_aaaa) != (
                        b.last_good_a, b.last_good_aaaa):
                    self.apart.add(names.to_text(owner).removesuffix("."))  # what was good last each node remembers
                    continue
                assert a == b, f"{node.name} and {first.name} have {owner!r} otherwise: {_difference(a, b)}"
            for worker in node.workers:
                assert worker.stamp == live.stamp, f"{node.name}: {worker.stamp} is served, {live.stamp} published"
            now = node.process.views.refresh([*node.process.fleet.services], node.clock.unix_ms())
            for name, view in now.items():
                assert view is None or ours.published[view.owner] == view, f"{node.name}: {name} is not as it should be"
        self._alike(clients, seed)

    def _alike(self, clients: int, seed: int) -> None:
        """The same octets for the same packet from the same client, from every worker."""
        draw = random.Random(seed)
        context = Context(memoryview(bytearray(8 * SLOTS)).cast("Q"), tcp=True, node="any")
        packets = [reply.query(names.to_wire(name), type_) for name, service in self.world.names.items()
                   for type_ in TYPES if service not in self.apart] or [reply.query(names.to_wire(STATIC), types.A)]
        workers = [worker for node in self.world.nodes for worker in node.workers]
        for _ in range(clients):
            client = draw.randbytes(4) if draw.random() < 0.5 else b"\x20\x01" + draw.randbytes(14)
            packet, now = draw.choice(packets), BEGAN_MS // 1000 + draw.randrange(100)
            found = {respond(packet, client, worker.images.image, now, context) for worker in workers}
            assert len(found) == 1, f"client {client.hex()} gets {len(found)} answers to {packet.hex()}"
            self.asked += 1

    def settled(self) -> None:
        """What nothing has happened to for long is known as it is, on each node, and what is up has all its weight."""
        for node in self.world.nodes:
            process = node.process
            for name, service in process.fleet.services.items():
                if service.check == "none":
                    continue
                for endpoint in process.fleet.members.get(name, {}).values():
                    for type_ in TYPES:
                        if (address := _address(endpoint, type_)) is None:
                            continue
                        how = self.world.network.how.get(str(address), "live")
                        found = process.judge.measured(name, endpoint.id, type_)
                        assert found.state in FOUND[how], f"{node.name}: {endpoint.key} is {how}, known as {found}"
                        assert found.share == WHOLE, f"{node.name}: {endpoint.key} has come back but in part: {found}"
                        assert not found.doubt, f"{node.name}: {endpoint.key} is in doubt: {found}"

    def audit(self, accepted: dict[int, tuple[str, str]]) -> None:
        """Each version is in the audit trail once, and what was accepted as what it was."""
        meta = self.world.memory.data.get(b"dnsd:meta", {})
        found: dict[int, tuple[str, str]] = {}
        for trail in (b"dnsd:audit", b"dnsd:audit-leases"):
            stream = self.world.memory.data.get(trail)
            for at, flat in zip(stream.ids, stream.fields, strict=True) if stream is not None else ():
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                assert at[0] not in found, f"version {at[0]} is in the audit trail twice"
                found[at[0]] = fields[b"action"].decode(), fields[b"key"].decode()
                for part in (b"before", b"after"):
                    assert not fields[part] or json.loads(fields[part]) is not ..., "no JSON"
        assert max(found, default=0) == int(meta.get(b"version", b"0")), "the last version is not in the audit trail"
        for version, what in accepted.items():
            assert found.get(version) == what, f"version {version} was {what}, the audit trail has {found.get(version)}"


def _difference(a: ServiceView | None, b: ServiceView | None) -> str:
    if a is None or b is None:
        return f"{a} {b}"
    return "; ".join(f"{name} {getattr(a, name)} {getattr(b, name)}" for name in ServiceView.__dataclass_fields__
                     if getattr(a, name) != getattr(b, name))


def _address(endpoint: Endpoint, type_: int) -> Any:
    return endpoint.a if type_ == types.A else endpoint.aaaa


def _state(overrides: dict[str, Override], endpoint: Endpoint, now_ms: int) -> str:
    """What is forced on an endpoint: by the nearest override that has not ended."""
    for key in _targets(endpoint):
        one = overrides.get(key)
        if one is not None and (not one.until_ms or now_ms < one.until_ms):
            return one.state
    return ""


def _targets(endpoint: Endpoint) -> Iterator[str]:
    yield f"endpoint:{endpoint.service}/{endpoint.id}"
    yield f"site:{endpoint.site}"
    yield f"service:{endpoint.service}"


def _limit(endpoints: Collection[Endpoint]) -> int:
    """The largest site, or 34 % of all weight."""
    sites: dict[str, int] = {}
    for endpoint in endpoints:
        sites[endpoint.site] = sites.get(endpoint.site, 0) + max(1, endpoint.weight)
    return max(max(sites.values(), default=0), sum(sites.values()) * 34 // 100)
