"""An event loop whose time passes only when nothing is left to do: hours in seconds, and the same every time.

Lives here: the loop, and a node's clock over it. What would run in a thread runs at once, so nothing is left to chance.

Most of what the machine costs is spent between callbacks, so the loop's own turn is written anew: timers of one moment
run in the order they were set in, and sockets are looked at when nothing else is left to run.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from typing import Any

from dnsd.control.clock import Clock

BEGAN_MS = 1_900_000_000_000
PATIENCE = 100
"""Turns of the loop without a look at the sockets."""


class Loop(asyncio.SelectorEventLoop):
    """Virtual time, from 0."""

    def __init__(self) -> None:
        self._seconds, self._set, self._blind = 0.0, 0, 0
        self._timers: list[tuple[float, int, events.TimerHandle]] = []
        super().__init__()
        self.get_debug = bool  # type: ignore[method-assign, assignment] # asked for each future: a call that costs nothing

    def time(self) -> float:
        return self._seconds

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        timer = events.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, timer))
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any,
                   context: Context | None = None) -> Any:
        return self.call_at(self._seconds + delay, callback, *args, context=context)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def close(self) -> None:
        self._timers.clear()
        super().close()

    def _run_once(self) -> None:
        """One turn: what is ready, or what is to be read, or else time passes to the next timer."""
        ready, timers = self._ready, self._timers
        self._blind += 1
        if not ready or self._blind > PATIENCE:
            self._blind = 0
            self._process_events(self._selector.select(0))  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            assert timers, "nothing will ever happen"
            self._seconds = max(self._seconds, timers[0][0])
        while timers and timers[0][0] <= self._seconds:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled():
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

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
