"""Time as this process asks it, in one place, so that a test can put another in.

Lives here: wall clock, monotonic clock, sleeping. Does not live here: lease time (the registry's own).
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
