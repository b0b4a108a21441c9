"""A registry in doubt, for people: what stands where, taking what it has, or writing back what is served.

Lives here: the three operations behind `dnsd registry`. Does not live here: when a state is in doubt
(`control.holding`), following one (`control.intake`), the scripts (`registry.history`).

Both ways end with a history of its own that carries a mark, so that every node adopts it without judging again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from dnsd.control import holding
from dnsd.control.intake import Intake
from dnsd.control.state import Fleet
from dnsd.registry.errors import Conflict, PreconditionFailed, PreconditionRequired, Unavailable
from dnsd.registry.history import Content, History
from dnsd.registry.models import Kind, Lease
from dnsd.registry.values import Loaded, Position

UNKNOWN_TTL_S: Final = 300
"""How long endpoints stay that are written back with a lease of which nothing is known but its id."""

_log = logging.getLogger("dnsd.control")


class Store(Protocol):
    """What of the registry is needed."""

    async def load(self) -> Loaded:
        """The whole state."""


class Custody:
    """What people can do about a registry whose state is in doubt."""

    def __init__(self, intake: Intake, fleet: Fleet, store: Store, history: History) -> None:
        self.intake, self.fleet, self.store, self.history = intake, fleet, store, history
        self._busy = asyncio.Lock()

    def described(self) -> dict[str, Any]:
        """What is served, what the registry offers, and what would be lost, or was."""
        intake = self.intake
        at = intake.judged
        return {
            "state": "held" if intake.held else "followed" if intake.connected else "away",
            "why": intake.held or intake.problem, "alarm": intake.alarm, "etag": self.etag,
            "served": {
                "epoch": f"{intake.served:016x}", "version": self.fleet.version, "sites": len(self.fleet.sites),
                "services": len(self.fleet.services), "endpoints": sum(map(len, self.fleet.members.values())),
                "leases": len(self.fleet.held)},
            "offered": None if at is None else {"epoch": f"{at.epoch:016x}", "version": at.version},
            "losses": [loss._asdict() for loss in intake.judgement.losses] if intake.held else [],
            "stale_for": round(intake.stale_for, 3),
        }

    @property
    def etag(self) -> str:
        """Of what can be accepted now: the state that is held off, or the one that is followed with an alarm."""
        intake = self.intake
        at = intake.judged if intake.held else None
        if at is not None:
            return f"{at.epoch:016x}-{at.version}"
        return f"{intake.served:016x}-{intake.alarm_version}" if intake.alarm else ""

    async def accept(self, etag: str | None, actor: str) -> dict[str, Any]:
        """Take what the registry has, or say that the alarm was seen.

        PreconditionRequired, PreconditionFailed: not (said to be) what was looked at. Conflict: nothing to accept.
        """
        async with self._busy:
            intake = self.intake
            at = self._offered(etag)
            if at is not None:
                epoch, version = await self.history.begin(
                    at.epoch, above=self._above(), actor=actor, accepted=True)
                _log.warning("%s accepts what the registry has, in place of what is served", actor)
                intake.look()
            else:
                epoch = intake.served
                version = await self.history.accept(epoch, actor=actor)
                intake.seen()
            return {"epoch": f"{epoch:016x}", "version": version, "written": 0}

    async def restore(self, etag: str | None, actor: str) -> dict[str, Any]:
        """Write what is served back into the registry, and go on with that. Errors as of `accept`."""
        async with self._busy:
            at = self._offered(etag)
            if at is None:
                raise Conflict("the registry's state is served: there is nothing to restore")
            if not self.intake.served:
                raise Conflict("this node serves an image but does not know the fleet behind it; restore from another")
            loaded = await self.store.load()
            older = loaded.position.epoch <= self.intake.served
            content = self._content(loaded, older=older)
            _log.warning("%s has the registry restored from what is served", actor)
            written = await self.history.restore(content, loaded.position.epoch, older=older, actor=actor)
            epoch, version = await self.history.begin(
                loaded.position.epoch, above=self._above(), actor=actor, accepted=True)
            self.intake.look()
            return {"epoch": f"{epoch:016x}", "version": version, "written": written}

    def _offered(self, etag: str | None) -> Position | None:
        """The state that is held off, if that is what was looked at; None where there is but an alarm."""
        intake = self.intake
        if not self.etag:
            raise Conflict("nothing is held, and nothing was lost")
        if not intake.connected:
            raise Unavailable(f"the registry is away: {intake.problem}")
        if etag is None:
            raise PreconditionRequired("say by If-Match which state; GET /v1/registry has its ETag")
        if etag not in ("*", self.etag):
            raise PreconditionFailed("the registry has another state by now: look again")
        return intake.judged if intake.held else None

    def _above(self) -> tuple[int, int]:
        served = self.intake.served_now()
        return (served.epoch, served.version) if served is not None else (0, 0)

    def _content(self, loaded: Loaded, *, older: bool) -> Content:
        fleet = self.fleet
        endpoints = list(fleet.endpoints())
        held: dict[str, list[str]] = {}
        for endpoint in endpoints:
            if endpoint.lease is not None:
                held.setdefault(endpoint.lease, []).append(endpoint.key)
        leases = [(fleet.leases.get(id_) or _unknown(id_)).model_copy(update={"endpoints": tuple(keys)})
                  for id_, keys in held.items()]
        overrides = [one for key in fleet.overrides if (one := fleet.registered(key)) is not None]
        served = holding.of_fleet(self.intake.served, fleet).objects
        gone = [
            (kind, key) for kind, values in (
                (Kind.ENDPOINT, loaded.endpoints), (Kind.SERVICE, loaded.services), (Kind.SITE, loaded.sites),
                (Kind.OVERRIDE, loaded.overrides))
            for key in values if key not in served[kind]] if older else []
        gone += [(Kind.LEASE, key) for key in loaded.leases if key not in fleet.held] if older else []
        return Content(
            list(fleet.sites.values()), list(fleet.services.values()), overrides, leases, endpoints, fleet.owned, gone)


def _unknown(id_: str) -> Lease:
    """A lease of which only the id is known: its holder acquires it again, or it ends."""
    return Lease(id=id_, holder=id_, fence=1, ttl=UNKNOWN_TTL_S, deadline=0, endpoints=(), token="")
