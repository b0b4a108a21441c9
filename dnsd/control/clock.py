"""Time as this process asks it, in one place, so that a test can put another in.

Lives here: wall clock, monotonic clock, sleeping, how much time some work may take. Does not live here: lease time
(the registry's own).
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """The machine's clocks."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970; may jump."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let others run for that long."""
        await asyncio.sleep(seconds)


class Allowance:
    """Seconds of work that may be spent: `rate` of them come back each second, until there are `most` again."""

    def __init__(self, clock: Clock, *, rate: float, most: float) -> None:
        self._clock, self._rate, self._most = clock, rate, most
        self._left, self._since = most, clock.monotonic()

    def left(self) -> bool:
        """Whether there is any; what then costs more than there is, is owed."""
        now = self._clock.monotonic()
        self._left, self._since = min(self._most, self._left + self._rate * (now - self._since)), now
        return self._left > 0

    def spend(self, seconds: float) -> None:
        """Work was done for so long."""
        self._left -= seconds
