"""What nodes tell each other of what they see, in memory: `registry.sightings` without a store, with a clock to be set.

Lives here: presence, the stream, the builder's lease, verdicts, and the store's being away. Does not live here: any
test; that it does what the scripts do is `test_sightings`' business, which asks both the same.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.models import Verdict
from dnsd.registry.sightings import UNKEPT_MS, News, Presence, Present, _add

BUILDS_MS, AWAY_MS, GONE_MS, KEPT = 1200, 10_000, 60_000, 4096


class Sightings:
    """One store. `now_ms` is its clock; `away` makes it refuse; `verdicts` is what was decided, for `services`."""

    def __init__(self, now_ms: Callable[[], int], *, epoch: int = 7) -> None:
        self.now_ms, self.epoch = now_ms, epoch
        self.away = False
        self.version = 0
        self.services: set[str] = set()
        self.verdicts: dict[str, Verdict] = {}
        self.decided: Callable[[int, Sequence[tuple[str, Verdict | None]]], None] = lambda _version, _found: None
        self.stream: list[tuple[tuple[int, int], str, str]] = []
        self.fields: dict[str, str] = {}
        self.calls, self.unkept_ms = Counter[str](), UNKEPT_MS
        self._observers: dict[str, tuple[int, str]] = {}
        self._builder, self._till, self._fence, self._ready = "", 0, 0, False
        self._last = (0, 0)

    def empty(self, epoch: int) -> None:
        """The store is another one, without anything."""
        self.__init__(self.now_ms, epoch=epoch)  # type: ignore[misc]

    async def observe(
        self, node: str, group: str, *, builds: int, news: Mapping[str, Any] | None = None,
        votes: Mapping[str, Any] | None = None,
    ) -> Presence:
        self._ask("observe")
        now = self.now_ms()
        if group != "-":
            self._observers[node] = now, group
        if votes is not None:
            self.fields[node] = json.dumps(votes)
        if news is not None:
            self._add(node, news)
        builder, free = self._builder, self._builder == "" or self._till < now or self._till > now + BUILDS_MS
        if builder == node and not builds:
            builder = self._builder = ""
            self._till = now
        elif builds and (free or builder == node):
            self._fence += builder != node
            if now > self._till + AWAY_MS:
                self._ready = False
            self._ready |= builds == 2
            builder = self._builder = node
            self._till = now + BUILDS_MS
        elif free:
            builder = ""
        for name, (seen, _) in list(self._observers.items()):
            if abs(now - seen) > GONE_MS:
                del self._observers[name]
                self.fields.pop(name, None)
        there = {name: Present(max(0, now - seen), of, str(seen)) for name, (seen, of) in self._observers.items()}
        return Presence(self.epoch, builder, self._fence, self._ready, there)

    async def votes(self) -> tuple[str, dict[str, dict[str, Any]]]:
        self._ask("votes")
        found = {node: json.loads(raw) for node, raw in self.fields.items()}
        since = self.now_ms() // 1000 * 1000 - self.unkept_ms
        for at, node, raw in self.stream:
            if at > (since, 0):
                _add(found.get(node), json.loads(raw))
        return _id(self._last), found

    async def follow(self, after: str, *, block_ms: int) -> tuple[str, list[News]]:
        self._ask("follow")
        ms, _, number = after.partition("-")
        place = int(ms), int(number)
        news = [(at, News(node, at[0], json.loads(raw))) for at, node, raw in self.stream if at > place]
        if not news:
            await asyncio.sleep(0)
        return (_id(news[-1][0]) if news else after), [one for _, one in news]

    async def tell(self, node: str, body: Mapping[str, Any]) -> None:
        self._ask("tell")
        self._add(node, body)

    async def decide(self, node: str, fence: int, verdicts: Sequence[tuple[str, Verdict | None]]) -> int:
        self._ask("decide")
        if (node, fence) != (self._builder, self._fence):
            raise Conflict("another node builds now")
        kept = [(name, verdict) for name, verdict in verdicts
                if name in (self.services if verdict is not None else self.verdicts)]
        if kept:
            self.version += 1
            for name, verdict in kept:
                if verdict is None:
                    del self.verdicts[name]
                else:
                    self.verdicts[name] = Verdict.model_validate_json(verdict.model_dump_json())
            self.decided(self.version, [(name, self.verdicts.get(name)) for name, _ in kept])
        return self.version

    def _ask(self, what: str) -> None:
        self.calls[what] += 1
        if self.away:
            raise Unavailable("away")

    def _add(self, node: str, body: Mapping[str, Any]) -> None:
        now = self.now_ms()
        self._last = (now, 0) if now > self._last[0] else (self._last[0], self._last[1] + 1)
        self.stream.append((self._last, node, json.dumps(body)))
        del self.stream[:-KEPT]


def _id(at: tuple[int, int]) -> str:
    return f"{at[0]}-{at[1]}"
