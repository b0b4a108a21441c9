"""Time as this process asks it, in one place, so that a test can put another in.

Lives here: wall clock, monotonic clock, sleeping, how much time some work may take. Does not live here: lease time
(the registry's own).
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

JUMP_MS: Final = 500
"""What the wall clock differs by more has jumped; less is noise, or a clock that is steered."""


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


class Steady:
    """Unix ms that go on as time passes, whatever becomes of the wall clock: as by that clock when this was made.

    What a process remembers by them keeps its age when the wall clock jumps.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_ms = clock.unix_ms() - clock.monotonic() * 1000
        self._jumped_ms = 0

    def jumped_ms(self) -> int:
        """How far the wall clock has jumped since this was made: what to add to a time of this for one of that."""
        jumped_ms = round(self._clock.unix_ms() - self._clock.monotonic() * 1000 - self._began_ms)
        if abs(jumped_ms - self._jumped_ms) > JUMP_MS:
            self._jumped_ms = jumped_ms
        return self._jumped_ms

    def now_ms(self) -> int:
        """The present."""
        return self._clock.unix_ms() - self.jumped_ms()

    def met(self, at_ms: int) -> int:
        """What to add to times that another process has written down at `at_ms` by the wall clock. How long that is
        ago nobody can say, so they are as old now as they were then."""
        return self.now_ms() - at_ms


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
