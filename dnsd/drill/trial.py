"""One run: services are made, users come, the fault happens, everybody is watched, it ends, and all is as before.

Lives here: the order of it, and what follows from what was seen. Does not live here: bars (`result`), the picture
(`picture`), who watches (`watching`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from dnsd.drill import fleet, watching
from dnsd.drill.faults import FAULTS, HOLD_S, SECOND_S, Fault, RefusedError, Scene
from dnsd.drill.result import BEYOND_TTL_S, Result
from dnsd.drill.stage import FIRST, SECOND, Stage

AFTER_TTL_S: Final = 1.5
"""How much longer than the TTL users are watched after everybody has published."""

BACK_S: Final = 45.0
AFTER_S: Final = 3.0
"""How long users are watched after the end of what must be without effect: that may have one too."""


@dataclass
class Notes:
    """What was seen, on the clock of `fleet.now`: when the fault began and ended, and all that was noted."""

    began: float = 0.0
    ended: float = 0.0
    done: float = 0.0
    turns: list[watching.Turn] = field(default_factory=list)
    decisions: list[watching.Decision] = field(default_factory=list)
    requests: list[watching.Request] = field(default_factory=list)
    silent: list[float] = field(default_factory=list)


class Trial:
    """Run `number` of a drill. What happens when depends on the seed, the fault and the number alone."""

    def __init__(self, of: fleet.Fleet, name: str, number: int, *, ttl: int, seed: int) -> None:
        self.fault: Fault = FAULTS[name]
        self.notes = Notes()
        self.stage = Stage(of, number, ttl)
        self.result = Result(name, number, seed, ttl, self.fault.dies, self.fault.fast)
        self._fleet = of
        self._chance = random.Random(f"{seed} {name} {number}")  # noqa: S311 - the same again by its seed
        self.workers: list[watching.Worker] = []
        self._stalls = watching.Stalls()

    @property
    def judged(self) -> tuple[str, ...]:
        """The nodes that have to do right: all but those that are cut off with their site."""
        lost = fleet.SITES[0]["id"] if self.fault.site else ""
        return tuple(node for node, site in fleet.NODES.items() if site != lost)

    async def run(self) -> Result:
        """All of it; NotReadyError when it could not begin."""
        if self.fault.clocks and self._fleet.clocks.missing:
            self.result.refused = f"clocks cannot be moved here: {self._fleet.clocks.missing}"
            return self.result
        tasks: list[asyncio.Task[None]] = []
        try:
            await self.stage.create()
            await self._watch(tasks)
            await self._drill()
            self.notes.done = fleet.now()
            self.result.lost = sorted(await self.stage.missing_leases() - self._affected)
        except RefusedError as refusal:
            self.result.refused = str(refusal)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.stage.remove()
        if not self.result.refused:
            self.judge()
        return self.result

    async def _watch(self, tasks: list[asyncio.Task[None]]) -> None:
        stage, notes = self.stage, self.notes
        tasks.append(asyncio.create_task(self._stalls.run()))
        for node in fleet.NODES:
            for worker, asker in (await self._fleet.workers_of(node)).items():
                one = watching.Worker(node, worker, asker, notes.turns)
                self.workers.append(one)
                tasks.append(asyncio.create_task(one.run(stage.api, (stage.wide, stage.kept))))
            tasks.append(asyncio.create_task(watching.follow(self._fleet, node, stage.api, notes.decisions)))
        try:
            await stage.known()
            if not await self._until(self._as_expected, 30):
                raise fleet.NotReadyError(f"not answered as it should be: {self._unexpected()}")
        except TimeoutError as error:
            raise fleet.NotReadyError("addresses stay unknown") from error
        users = watching.Users(self._fleet, await self._fleet.asker(), stage.api)
        notes.requests = users.requests
        tasks.append(asyncio.create_task(users.run()))

    async def _drill(self) -> None:
        """The fault, from a moment that hits caches in any phase, to its end and back."""
        notes, scene = self.notes, Scene(self._fleet, self.stage.tiers[FIRST], self._chance)
        await asyncio.sleep(self._chance.uniform(0.5, self.stage.ttl + 0.5))
        if self.fault.prepare is not None:
            await self.fault.prepare(scene)
            await asyncio.sleep(SECOND_S)
        notes.began = fleet.now()
        try:
            await self.fault.inflict(scene)
            if self.fault.dies:
                if await self._until(self._published, self.stage.ttl + BEYOND_TTL_S):
                    await asyncio.sleep(self.stage.ttl + AFTER_TTL_S)
            else:
                await asyncio.sleep(max(0.0, notes.began + HOLD_S - fleet.now()))
        finally:
            notes.ended = fleet.now()
            await self.fault.heal(scene)
        if await self._until(self._as_expected, BACK_S) and await self._all_ready():
            self.result.back = fleet.now() - notes.ended
        self.result.left = self._unexpected()
        await asyncio.sleep(AFTER_S if not self.fault.dies else 0)

    async def _all_ready(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(BACK_S):
                for node in fleet.NODES:
                    while not await self._fleet.is_ready(node):
                        await asyncio.sleep(0.1)
                return True
        return False

    async def _until(self, so: Callable[[], bool], seconds: float) -> bool:
        deadline = fleet.now() + seconds
        while not so():
            if fleet.now() > deadline:
                return False
            await asyncio.sleep(watching.LOOK_S)
        return True

    def _as_expected(self) -> bool:
        return not self._unexpected()

    def _unexpected(self) -> list[str]:
        return [f"{worker.node} {worker.worker} {name}: {sorted(worker.last.get(name, frozenset()) ^ due)}"
                for worker in self.workers for name, due in self.stage.expected.items()
                if worker.last.get(name) != due]

    def _published(self) -> bool:
        first, api = self.stage.tiers[FIRST].address, self.stage.api
        return all(first not in worker.last[api] for worker in self.workers if worker.node in self.judged)

    # --- what follows ---

    @property
    def _affected(self) -> set[str]:
        """Addresses that the fault happens to."""
        if self.fault.site:
            return self.stage.at_site[fleet.SITES[0]["id"]]
        return {self.stage.tiers[FIRST].address} if self.fault.dies else set()

    def judge(self) -> None:
        """Fill in the result from the notes."""
        notes, result = self.notes, self.result
        result.stalled = self._stalls.longest
        result.unanswered = sum(len(worker.silent) for worker in self.workers if worker.node in self.judged)
        seen = [one for one in notes.requests
                if notes.began <= one.start < (notes.ended if self.fault.dies else notes.done)]
        failures = [one.start - notes.began for one in seen if not one.ok]
        result.requests, result.failed = len(seen), len(failures)
        result.last_failed = max(failures, default=None)
        if self.fault.dies:
            result.detect = min((one.at - notes.began for one in notes.decisions
                                 if one.endpoint == FIRST and not one.answered and one.at >= notes.began
                                 and one.node in self.judged), default=None)
            result.publish = self._publish()
        result.wrong = self._wrong()

    def _publish(self) -> float | None:
        """When the last worker turned away for good, before the fault ended."""
        first, found = self.stage.tiers[FIRST].address, []
        for worker in (one for one in self.workers if one.node in self.judged):
            turns = [turn for turn in self.notes.turns if turn.at < self.notes.ended and turn.name == self.stage.api
                     and (turn.node, turn.worker) == (worker.node, worker.worker)]
            if first in turns[-1].addresses:
                return None
            found.append(turns[-1].at - self.notes.began)
        return max(found)

    def _wrong(self) -> list[str]:
        """Answers without somebody whom nothing had happened to, of workers that have to do right."""
        api, wrong = self.stage.api, []
        second = frozenset({self.stage.tiers[SECOND].address})
        for turn in self.notes.turns:
            if turn.at < self.notes.began or turn.node not in self.judged:
                continue
            due = self.stage.expected[turn.name]
            gone = due - turn.addresses - self._affected
            if gone or (turn.name == api and turn.addresses not in (due, second)):
                wrong.append(f"{turn.at - self.notes.began:.2f} s {turn.node} {turn.worker} {turn.name}: "
                             f"{sorted(turn.addresses)} without {sorted(gone)}")
        return wrong
