"""An event loop whose time passes only when nothing is left to do: hours in seconds, and the same every time.

Lives here: the loop, and a node's clock over it. What would run in a thread runs at once, so nothing is left to chance.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import events
from collections.abc import Callable
from typing import Any

from dnsd.control.clock import Clock

BEGAN_MS = 1_900_000_000_000


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Looks, and never waits: it lets the loop's time pass instead."""

    passed: Callable[[float], None]

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            assert timeout is not None, "nothing will ever happen"
            self.passed(timeout)
        return found


class Loop(asyncio.SelectorEventLoop):
    """Virtual time, from 0."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.passed = self._pass
        self._seconds = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self._seconds

    def _pass(self, seconds: float) -> None:
        self._seconds += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class NodeClock(Clock):
    """One machine's clocks: the wall clock is wrong by `skew_ms`, and may jump."""

    def __init__(self, loop: events.AbstractEventLoop, skew_ms: int = 0) -> None:
        self._loop, self.skew_ms = loop, skew_ms

    def unix_ms(self) -> int:
        return BEGAN_MS + round(self._loop.time() * 1000) + self.skew_ms

    def monotonic(self) -> float:
        return 1000.0 + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
