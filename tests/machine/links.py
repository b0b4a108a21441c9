"""A node's way to the store in memory, with what can go wrong on it.

Lives here: `Link` as `registry.link` has it, and its faults. Does not live here: the store (`memory`).

    ok      answers after the way there and back: at once, or where the node is far from the store `far_s` later
    away    refused at once, also what was waiting
    slow    answers late, by `delay_s`; what is later than the link waits for was done all the same
    hang    never answers; half of what is asked is done all the same
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from dnsd.registry.errors import Unavailable
from dnsd.registry.link import CONNECT_SECONDS, OPERATION_SECONDS
from dnsd.registry.scripts import KEYS, Script
from dnsd.registry.values import Durability
from tests.machine.memory import Memory

FAULTS = ("ok", "away", "slow", "hang")


class Link:
    """One node's connection. `fault` and `delay_s` may be changed at any time by `set`; `far_s` is there and back."""

    def __init__(self, memory: Memory, prefix: str = "dnsd") -> None:
        self.keys = {name: f"{prefix}:{name}".encode() for name in KEYS}
        self._list = [self.keys[name] for name in KEYS]
        self.memory = memory
        self.fault, self.delay_s = "ok", 0.0
        self.far_s = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    def set(self, fault: str, delay_s: float = 0.0) -> None:
        """From now on."""
        self.fault, self.delay_s = fault, delay_s
        self.wake()

    def wake(self) -> None:
        """The store has been written to, or the fault is another: let those who wait look."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _look(one)

    async def close(self) -> None:
        """Nothing is open."""

    async def run(self, script: Script, *args: str | bytes | int) -> list[Any]:
        """Runs a script over all keys."""
        found: list[Any] = await self._asked(
            lambda: self.memory.run(script, self._list, args), OPERATION_SECONDS)
        return found

    async def together(self, *commands: Sequence[Any], seconds: float = OPERATION_SECONDS) -> list[Any]:
        """Commands at one moment."""
        def ask() -> list[Any]:
            before = self.memory.added
            try:
                return [self.memory.command(*command) for command in commands]
            finally:
                if self.memory.added != before:
                    self.memory.wrote()
        found: list[Any] = await self._asked(ask, seconds)
        return found

    async def wait(self, *command: Any, seconds: float) -> Any:
        """A command that itself waits."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            changed: asyncio.Future[None] = loop.create_future()
            self._waiting.append(changed)
            found = await self._asked(lambda: self.memory.command(*command), seconds + OPERATION_SECONDS)
            if found or loop.time() >= until:
                return found
            timer = loop.call_at(until, _look, changed)
            try:
                await changed
            finally:
                timer.cancel()

    async def durability(self) -> Durability:
        """As with appendfsync always."""
        return "fsync"

    async def _asked(self, ask: Any, seconds: float) -> Any:
        if self.fault == "away":
            await asyncio.sleep(0)
            raise Unavailable("the store cannot be reached")
        patience, delay_s = seconds + CONNECT_SECONDS, self.delay_s
        if self.fault == "ok":
            return await self._answered(ask)
        if self.fault == "hang":
            if random.random() < 0.5:
                ask()
            await asyncio.sleep(patience)
            raise Unavailable("the store does not answer")
        await asyncio.sleep(delay_s / 2)
        found = ask()
        await asyncio.sleep(min(delay_s / 2, patience))
        if delay_s > patience or self.fault == "away":
            raise Unavailable("the store does not answer")
        return found

    async def _answered(self, ask: Any) -> Any:
        """There, and back."""
        if not self.far_s:
            return ask()
        await self._way()
        found = ask()
        await self._way()
        return found

    async def _way(self) -> None:
        """One way, unless the store is gone by its end."""
        await asyncio.sleep(self.far_s / 2)
        if self.fault != "ok":
            raise Unavailable("the connection has broken")


def _look(waiting: asyncio.Future[None]) -> None:
    """Whoever waits looks again, if it still does."""
    if not waiting.done():
        waiting.set_result(None)
