"""Instances: each holds one lease and renews it, by whichever node it reaches.

Lives here: renewing, what an instance may complain of. Does not live here: who acquires and releases what (`machine`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dnsd.registry import errors
from dnsd.registry.models import Renewal
from dnsd.registry.values import Renewed

if TYPE_CHECKING:
    from tests.machine.world import World

HOLDERS = ("h0", "h1", "h2", "h3")
TTL_S = 20


class Holders:
    """All of them. `barred`: nodes whose API they do not reach; `excused`: whose lease may be gone."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fences: dict[str, int] = {}
        self.barred: set[int] = set()
        self.excused: set[str] = set()
        self._renewed: dict[str, float] = {}  # when each last had its lease anew
        self._agents = [world.loop.create_task(self._agent(number)) for number in range(len(HOLDERS))]

    def end(self) -> None:
        """Nobody renews anything any more."""
        for agent in self._agents:
            agent.cancel()

    def granted(self, holder: str, fence: int) -> None:
        """It has a lease."""
        self.fences[holder] = fence
        self.excused.discard(holder)
        self._renewed[holder] = self.world.loop.time()

    async def _agent(self, number: int) -> None:
        """An instance: it renews four times in its lease's life, and where that fails soon again, by another node."""
        holder, at = HOLDERS[number], number
        while True:
            await asyncio.sleep(TTL_S / 4)
            fence, shut = self.fences.get(holder), False
            while fence is not None and fence == self.fences.get(holder):
                at = (at + 1) % len(self.world.nodes)
                run, shut = self.world.nodes[at].run, shut or at in self.barred
                try:
                    if run is not None and at not in self.barred:
                        [renewed] = await run.process.registry.renew([Renewal(id=holder, fence=fence)], actor=holder)
                        self._took(holder, fence, renewed, shut=shut)
                        break
                except errors.RegistryError:
                    pass
                await asyncio.sleep(0.5)

    def _took(self, holder: str, fence: int, renewed: Renewed, *, shut: bool) -> None:
        """What became of a renewal; `shut`: it might have come earlier, had all APIs been reached."""
        if fence != self.fences.get(holder):
            return
        now = self.world.loop.time()
        if not renewed.problem:
            self._renewed[holder] = now
        elif shut and now - self._renewed[holder] >= TTL_S:
            self.excused.add(holder)
        elif holder not in self.excused:
            self.world.faults.append(f"the lease of {holder} is gone: {renewed}")
