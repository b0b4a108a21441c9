"""What is seen while a drill runs: every worker's answers, what nodes say that they decided, what users get.

Lives here: who looks, and their notes. Does not live here: what follows from the notes (`trial`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, NamedTuple

from dnsd.drill import fleet, web
from dnsd.drill.asking import Asker

LOOK_S: Final = 0.04
"""Between questions for the service that users ask for; others are asked for every fourth time."""

STALL_S: Final = 0.02

REQUEST_S: Final = 0.1
RESOLVE_S: Final = 5.0
PATIENCE_S: Final = 1.0
"""What a user gives an endpoint, from connecting to the whole response."""


class Turn(NamedTuple):
    """From then on a worker answered so."""

    at: float
    node: str
    worker: str
    name: str
    addresses: frozenset[str]


class Request(NamedTuple):
    """One user's: when it started, how long it took, whom the resolver named (empty: nobody), whether it succeeded."""

    start: float
    took: float
    address: str
    ok: bool


class Decision(NamedTuple):
    """A node said that an endpoint is answered or is not."""

    at: float
    node: str
    endpoint: str
    answered: bool
    why: str


class Worker:
    """Asks one worker, for ever. `last`: what it answers now; `silent`: when it did not answer at all."""

    def __init__(self, node: str, worker: str, asker: Asker, turns: list[Turn]) -> None:
        self.node, self.worker = node, worker
        self.last: dict[str, frozenset[str]] = {}
        self.silent: list[float] = []
        self._asker, self._turns = asker, turns

    async def run(self, often: str, seldom: tuple[str, ...]) -> None:
        """Ask until cancelled."""
        number = 0
        while True:
            for name in (often, *(seldom if number % 4 == 0 else ())):
                await self._look(name)
            number += 1
            await asyncio.sleep(LOOK_S)

    async def _look(self, name: str) -> None:
        began = fleet.now()
        try:
            addresses = frozenset((await self._asker.ask(name, 2)).addresses)
        except (TimeoutError, ValueError):
            self.silent.append(began)
            return
        if addresses != self.last.get(name):
            self.last[name] = addresses
            self._turns.append(Turn(fleet.now(), self.node, self.worker, name, addresses))


class Users:
    """A request every tenth of a second, through the resolver, each waiting for itself alone."""

    def __init__(self, of: fleet.Fleet, asker: Asker, name: str) -> None:
        self.requests: list[Request] = []
        self._fleet, self._asker, self._name = of, asker, name

    async def run(self) -> None:
        """Go on until cancelled; what is under way then is not waited for."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self._request())
                await asyncio.sleep(REQUEST_S)

    async def _request(self) -> None:
        start, address, ok = fleet.now(), "", False
        with suppress(TimeoutError, ValueError):
            answer = await self._asker.ask(self._name, RESOLVE_S)
            address = answer.addresses[0] if answer.addresses else ""
        if address:
            ok = await web.get(self._fleet.network.socket(fleet.USERS), address, PATIENCE_S)
        self.requests.append(Request(start, fleet.now() - start, address, ok))


class Stalls:
    """How long at most this process, in which endpoints and users live, stood still."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began = fleet.now()
            await asyncio.sleep(STALL_S)
            self.longest = max(self.longest, fleet.now() - began - STALL_S)


async def follow(of: fleet.Fleet, node: str, service: str, decisions: list[Decision]) -> None:
    """Note what a node decides about a service's endpoints, for ever; its control may come and go."""
    after = 0
    while True:
        try:
            reply = await of.api(node, "GET", f"/v1/events?after={after}&timeout=20", seconds=25)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        if reply.status != 200:
            await asyncio.sleep(0.5)
            continue
        after = reply.body["last"]
        decisions += [
            Decision(fleet.now(), node, one["endpoint"], bool(one["answered"]), str(one["why"]))
            for one in reply.body["items"] if one["what"] == "endpoint" and one["service"] == service]
