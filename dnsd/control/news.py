"""What has happened on this node that somebody may want to know: answers that changed, conditions that came and went.

Lives here: a bounded list of it, told from what was before, and waiting for more. Does not live here: the registry's
events (`registry.events`), the audit trail, how it is shown (`admin.survey`).

Only turns are told, not states: who has heard nothing can ask for the state (`control.survey`), and numbers tell how
much was missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from dnsd.control.clock import Clock
from dnsd.control.resolve import Member, Resolved

KEPT: Final = 4096
LOOK_S: Final = 0.5
MOST: Final = 64
"""Endpoints of one service told one by one in one turn; the others are counted."""

_log = logging.getLogger("dnsd.control")


class News:
    """The last things that happened, numbered from 1. `conditions` are asked twice a second."""

    def __init__(self, clock: Clock, conditions: Callable[[], Iterable[str]]) -> None:
        self._clock, self._conditions = clock, conditions
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._present: dict[str, None] = {}
        self._more = asyncio.Event()
        self.last = 0

    def add(self, what: str, **about: Any) -> None:
        """Something happened."""
        self.last += 1
        self._kept.append({"id": self.last, "at_ms": self._clock.unix_ms(), "what": what, **about})
        self._more.set()
        self._more = asyncio.Event()

    def after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """What happened after this number, oldest first."""
        first = self._kept[0]["id"] if self._kept else self.last + 1
        skip = max(0, number + 1 - first)
        return list(islice(self._kept, skip, skip + limit))

    async def wait(self, number: int, seconds: float) -> None:
        """Until something happened after this number, or the time has passed."""
        if self.last > number or seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._more.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Look at the conditions for ever."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_S)

    def look(self) -> None:
        """Tell conditions that are new, and those that are over."""
        now = dict.fromkeys(self._conditions())
        for text in self._present.keys() - now.keys():
            self.add("condition ended", condition=text)
        for text in now.keys() - self._present.keys():
            self.add("condition", condition=text)
        self._present = now

    def resolved(self, name: str, before: Resolved | None, now: Resolved | None) -> None:
        """A service was resolved anew: tell whose standing is another one."""
        if before is None or now is None:
            return  # what comes and goes is in the registry's events
        changes = list(_changes(before, now))
        for about in changes[:MOST]:
            self.add("endpoint", service=name, **about)
        if len(changes) > MOST:
            self.add("endpoints", service=name, more=len(changes) - MOST)
        if before.view.panic != now.view.panic:
            self.add("panic" if now.view.panic else "panic ended", service=name)
        if before.view.ttl != now.view.ttl:
            self.add("ttl", service=name, ttl=now.view.ttl)


def _changes(before: Resolved, now: Resolved) -> Iterator[dict[str, Any]]:
    former = {member.endpoint.id: member for member in before.members}
    for member in now.members:
        was = former.get(member.endpoint.id)
        if was is not None and _standing(was) != _standing(member):
            yield {"endpoint": member.endpoint.id, "site": member.endpoint.site, "answered": _families(member),
                   "was": _families(was), "share": member.share, "why": member.reason}


def _standing(member: Member) -> tuple[Any, ...]:
    return member.a, member.aaaa, member.share == 1000, member.points, member.forced is not None and member.forced.state


def _families(member: Member) -> list[str]:
    return [family for family, there in (("A", member.a), ("AAAA", member.aaaa)) if there]
