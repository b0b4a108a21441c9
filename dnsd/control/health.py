"""What this node measures of endpoints: which addresses to probe for which services, and the states that follow.

Lives here: services to targets, results to states, who must be resolved anew, the file `health.json`. Does not live
here: probing and its schedule (`watch`), results to states as such (`steer.health`), what a state may remove
(`control.standing`).

An address that several services hand out under the same check is one target with one state. A result that is this
node's own fault says nothing of the target. A state is the node's memory, so it survives a restart, for a while.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

from dnsd import disk
from dnsd.control.clock import Clock
from dnsd.control.publish import Publisher
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.dns import types
from dnsd.registry import models
from dnsd.registry.models import Endpoint, Service
from dnsd.steer import health
from dnsd.steer.health import Cell, Rules, State
from dnsd.watch.outcome import Outcome
from dnsd.watch.schedule import Standing, Target
from dnsd.watch.target import Check

FILE: Final = "health.json"
KEPT_MS: Final = 600_000
"""How long a state that was written down is worth something."""

SLOW_MS: Final = 800.0
LISTED: Final = 100
_log = logging.getLogger("dnsd.control")


class Schedule(Protocol):
    """What of `watch.schedule` is needed."""

    def watch(self, target: Target, asking: str, service: str) -> str | None:
        """Someone asks for a target, on a service's account; why it is refused, or None."""

    def forget(self, target: Target, asking: str) -> None:
        """Asks no more."""

    def standing(self, target: Target) -> Standing | None:
        """What is known of a target."""


class Health:
    """One node's measurements. `took` is given every result; `views` ask `measured`. Without a `schedule` all are up.
    """

    def __init__(self, fleet: Fleet, publisher: Publisher, clock: Clock) -> None:
        self._fleet, self._publisher, self._clock = fleet, publisher, clock
        self.schedule: Schedule | None = None
        self.counts: Counter[str] = Counter()
        self.unsaved = False
        self._cells: dict[Target, Cell] = {}
        self._rules: dict[Target, Rules] = {}
        self._owners: dict[Target, set[str]] = {}
        self._targets: dict[str, dict[tuple[str, int], Target]] = {}  # service -> (endpoint id, type) -> target
        self._restored: dict[str, Cell] = {}

    # --- services to targets ---

    def renew(self, name: str) -> None:
        """A service or its endpoints have changed, or it is gone: probe what is there now."""
        service = self._fleet.services.get(name)
        wanted = {} if service is None or service.check == "none" or self.schedule is None else dict(
            _targets(service, self._fleet.members.get(name, {}).values()))
        before = self._targets.get(name, {})
        if wanted == before:
            return
        if wanted:
            self._targets[name] = wanted
        else:
            self._targets.pop(name, None)
        for target in set(before.values()) - set(wanted.values()):
            self._drop(target, name)
        for target in dict.fromkeys(wanted.values()):
            self._owners.setdefault(target, set()).add(name)
            if target not in self._cells:
                self._begin(target, service)
            if self.schedule is not None:
                self.schedule.watch(target, name, name)

    def _begin(self, target: Target, service: Service | None) -> None:
        check = service.check if service is not None else "none"
        if check == "none":
            return
        self._rules[target] = Rules(check.rise, check.fall, check.ramp_ms)
        fresh = Cell(State.UP if check.initial == "up" else State.UNKNOWN)
        self._cells[target] = self._restored.pop(_name(target), fresh)

    def _drop(self, target: Target, name: str) -> None:
        if self.schedule is not None:
            self.schedule.forget(target, name)
        self._owners[target].discard(name)
        if not self._owners[target]:
            del self._owners[target], self._cells[target], self._rules[target]

    # --- results to states ---

    def took(self, target: Target, outcome: Outcome, at_ms: int) -> None:
        """A verdict on a target, at unix ms."""
        self.counts[outcome.reason.value] += 1
        before = self._cells.get(target)
        if before is None:
            return
        slow = outcome.ok and outcome.connect_ms > SLOW_MS
        cell = health.seen(before, outcome.ok, at_ms, self._rules[target], slow=slow)
        self._cells[target] = cell
        if (cell.state, cell.doubt) != (before.state, before.doubt):
            if cell.state is not before.state:
                self.unsaved = True
                self.counts["changes"] += 1
                _log.info("%s is %s: %s", text(target), cell.state.name.lower(), outcome.reason.value)
            self._publisher.mark(self._owners[target])

    def measured(self, service: str, id_: str, type_: int) -> Measured:
        """What is known of an endpoint's address; up where nothing is measured."""
        target = self._targets.get(service, {}).get((id_, type_))
        cell = self._cells.get(target) if target is not None else None
        if target is None or cell is None:
            return Measured()
        share = health.share(cell, self._clock.unix_ms(), self._rules[target])
        return Measured(cell.state, share, cell.doubt, self._result(target))

    # --- for people ---

    def described(self) -> dict[str, Any]:
        """States and results, and who is not up."""
        states = Counter(cell.state.name.lower() for cell in self._cells.values())
        return {
            "targets": len(self._cells), "probes": sum(self.counts.values()) - self.counts["changes"],
            **{state.name.lower(): states[state.name.lower()] for state in State},
            "results": {reason: number for reason, number in sorted(self.counts.items()) if reason != "changes"},
            "changes": self.counts["changes"], "not_up": list(self._not_up())[:LISTED],
        }

    def endpoints(self, service: str) -> list[dict[str, Any]]:
        """Every address of a service that is probed, with its state and its last result."""
        return [{"endpoint": id_, "type": types.type_text(type_), **self._told(target)}
                for (id_, type_), target in sorted(self._targets.get(service, {}).items())]

    def _not_up(self) -> Iterator[dict[str, Any]]:
        for target, cell in self._cells.items():
            if cell.state is not State.UP:
                yield {"services": sorted(self._owners[target])[:LISTED], **self._told(target)}

    def _told(self, target: Target) -> dict[str, Any]:
        cell = self._cells[target]
        standing = self.schedule.standing(target) if self.schedule is not None else None
        last = standing.last if standing is not None else None
        return {
            "target": text(target), "state": cell.state.name.lower(), "since_ms": cell.since_ms, "doubt": cell.doubt,
            "share": health.share(cell, self._clock.unix_ms(), self._rules[target]), "result": self._result(target),
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

    def dump(self) -> bytes:
        """What a successor should know."""
        self.unsaved = False
        cells = {_name(target): list(cell) for target, cell in self._cells.items() if cell.state is not State.UNKNOWN}
        return json.dumps({"at_ms": self._clock.unix_ms(), "cells": cells}, separators=(",", ":")).encode()

    def restore(self, path: Path) -> None:
        """Take over what a former process wrote, unless that is too long ago. ValueError: unreadable; OSError."""
        data = disk.read(path, 1 << 28)
        if data is None:
            return
        try:
            found = json.loads(data)
            if not 0 <= self._clock.unix_ms() - int(found["at_ms"]) <= KEPT_MS:
                return
            self._restored = {
                str(name): Cell(State(int(state)), 0, int(since), int(back), int(weight), int(weighed))
                for name, (state, _, since, back, weight, weighed, _) in found["cells"].items()}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error!r}") from error


def text(target: Target) -> str:
    """A target in words."""
    host = str(ip_address(target.address))
    return f"{target.check.kind} {f'[{host}]' if ':' in host else host}:{target.check.port}"


def _targets(service: Service, endpoints: Any) -> Iterator[tuple[tuple[str, int], Target]]:
    """(Endpoint id, type) -> what is probed for it."""
    check = service.check
    if check == "none":
        return
    made = _check(service.name, check)
    for endpoint in endpoints:
        for type_, address in _addresses(endpoint):
            yield (endpoint.id, type_), Target.of(made, address)


def _addresses(endpoint: Endpoint) -> Iterator[tuple[int, bytes]]:
    if endpoint.a is not None:
        yield types.A, endpoint.a.packed
    if endpoint.aaaa is not None:
        yield types.AAAA, endpoint.aaaa.packed


def _check(service: str, check: models.Check) -> Check:
    """The check as probes take it, with what a service's check leaves out."""
    host = check.host or service.removeprefix("*.")
    return Check(
        check.kind, check.port or models.PORTS[check.kind] or 0, check.path, "" if check.kind == "dns" else host,
        check.method, check.status, (check.text or "").encode(), check.verify, check.tls,
        qname=host if check.kind == "dns" else ".",
        interval_ms=check.interval_ms, timeout_ms=check.timeout_ms,
        address=check.address.packed if check.address is not None else None)


def _name(target: Target) -> str:
    """A name that is the same in the next process."""
    return blake2b(repr(target).encode(), digest_size=12).hexdigest()
