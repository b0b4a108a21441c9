"""On the node that builds: the child that holds all cells, fed from the log, asked for tables, kept in the store.

Lives here: the child's life, taking over what the store has, the order of writes. Does not live here: what the child
does (`rtt.child`), who builds (`control.judge`), what nodes make of a table (`control.measured`).

Nothing is decided on more than one node: whoever has the fence runs the child, and a write with an older fence is
refused. A child that dies, a store that is away, another builder: the next child begins with what the store has, and
the log from where the kept cells end. Cells may so count a few seconds twice, which moves no median. Without a single
measurement in the store there is no child.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from dnsd.control.clock import Clock
from dnsd.registry.errors import Conflict, RegistryError
from dnsd.registry.measurements import Measurements as Store
from dnsd.rtt import frames

LOOK_S: Final = 1.0
BLOCK_MS: Final = 1000
ROUND_S: Final = 5.0
IDLE_S: Final = 60.0
KEEP_S: Final = 30.0
ANSWER_S: Final = 120.0
RETRY_S: Final = 2.0
DEATHS: Final = 2
"""Children that the same part of the log has ended, after which it is passed over: no entry may keep all from being
decided."""

_log = logging.getLogger("dnsd.control")


class Fence(NamedTuple):
    """What this node may decide with."""

    epoch: int
    fence: int


class Died(Exception):
    """The child does not answer as it should."""


class Child:
    """The process. `ask` is one frame there and one back."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls) -> Child:
        """A new one."""
        return cls(await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dnsd.rtt.child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE))

    async def ask(self, do: str, parts: Sequence[bytes] = (), **head: Any) -> frames.Frame:
        """What the child says to a frame. Died: nothing, or nothing that makes sense."""
        writer, reader = self.process.stdin, self.process.stdout
        if writer is None or reader is None:
            raise Died("it has no pipes")
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(frames.packed({"do": do, **head}, parts))
                await writer.drain()
                text, body = frames.sizes(await reader.readexactly(frames.HEAD.size))
                return frames.unpacked(await reader.readexactly(text), await reader.readexactly(body))
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            raise Died(f"{type(error).__name__}: {error}") from None

    async def end(self) -> None:
        """No more."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class Deciding:
    """One node's part in deciding. `fence` says whether it may; `sites` and `seed` are asked when they are needed."""

    def __init__(
        self, store: Store, *, node: str, fence: Callable[[], Fence | None], sites: Callable[[], Sequence[str]],
        seed: Callable[[], bytes | None], clock: Clock,
    ) -> None:
        self.store, self.node, self.fence, self.sites, self.seed, self.clock = store, node, fence, sites, seed, clock
        self.mend: Callable[[], set[int]] = set  # parts that cannot be read
        self.begin = Child.start
        self.starts = self.tables = 0
        self.fault = ""
        self.child: Child | None = None
        self._held: Fence | None = None
        self._cursor = ""
        self._state: dict[str, Any] | None = None
        self._before: set[str] = set()  # fields of the table before
        self._told_sites: Sequence[str] = ()
        self._round_s = self._kept_s = float("-inf")
        self._again = self._unkept = self._news = False
        self._deaths: dict[str, int] = {}  # of children while they took what follows this place of the log

    async def run(self) -> None:
        """Decide for ever, while this node may."""
        try:
            while True:
                try:
                    await self.turn()
                    self.fault = ""
                except Conflict:
                    await self._end()
                except Exception as error:  # whatever is wrong, nobody else ends with it
                    if str(error) != self.fault:
                        expected = isinstance(error, (RegistryError, Died, OSError, ValueError))
                        _log.warning("round trips are not decided: %s", error, exc_info=None if expected else error)
                    self.fault = str(error) or repr(error)
                    if not isinstance(error, RegistryError):
                        await self._end()
                    await self.clock.sleep(RETRY_S)
        finally:
            await self._end()

    async def turn(self) -> None:
        """One step: take what is new in the log; decide and keep where it is time."""
        fence = self.fence()
        if fence != self._held:
            await self._end()
            self._held = fence
        if fence is None or (self.child is None and not await self._take_over(fence)):
            await self.clock.sleep(LOOK_S)
            return
        if self.child is not None and self.child.process.returncode is not None:
            raise Died(f"it ended with {self.child.process.returncode}")
        cursor, entries = await self.store.follow(self._cursor, block_ms=BLOCK_MS)
        if entries:
            self._news = True
            await self._fold(entries)
            self._cursor = cursor
        if tuple(self.sites()) != tuple(self._told_sites):
            self._told_sites = tuple(self.sites())
            await self._ask("sites", sites=list(self._told_sites))
            self._news = True
        now = self.clock.monotonic()
        if now - self._round_s >= (ROUND_S if self._news or self._again or self.mend() else IDLE_S):
            self._round_s = now
            await self._round(fence)
        if now - self._kept_s >= KEEP_S:
            await self._keep(fence)
            self._kept_s = self.clock.monotonic()

    async def _fold(self, entries: Sequence[bytes]) -> None:
        """What is new in the log, to the child."""
        deaths = self._deaths.get(self._cursor, 0)
        if deaths >= DEATHS:
            _log.error("%d entries of measurements are passed over: children have ended of them", len(entries))
            return
        try:
            await self._ask("fold", entries, now_ms=self.clock.unix_ms())
        except Died:
            self._deaths = {self._cursor: deaths + 1}
            raise

    def described(self) -> dict[str, Any]:
        """For people and metrics."""
        process = self.child.process if self.child is not None else None
        return {"decides": self.child is not None, "pid": process.pid if process is not None else None,
                "starts": self.starts, "tables": self.tables, "fault": self.fault or None}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        if self.fault and self._held is not None:
            yield f"measured round trips are not decided: {self.fault}"

    # --- the child ---

    async def _take_over(self, fence: Fence) -> bool:
        """Start a child with what the store has; false: there is nothing."""
        try:
            kept = await self.store.kept()
        except ValueError as error:  # the parts are lost with their list
            _log.error("the state of the measured round trips is lost: %s", error)
            kept = await self.store.kept(sound=False)
        seed = None if kept.state is not None else self.seed()
        if kept.state is None and not kept.names and seed is None and not await self.store.logged():
            return False
        self.child = await self.begin()
        self.starts += 1
        self._cursor, self._state, self._told_sites = kept.cursor, kept.state, ()
        self._again = self._unkept = False
        state = kept.state or {"number": 0, "between": {}, "parts": {}}
        await self._ask("begin", [kept.names] if kept.names else [], number=state["number"],
                        between=state.get("between", {}), now_ms=self.clock.unix_ms())
        async for rows in self.store.cells():
            await self._ask("rows", [part for row in rows for part in row])
        if kept.state is not None:
            self._before = {f"{shard}:{number}" for shard, number in state["parts"].items()}
            parts = await self.store.parts(sorted(self._before))
            await self._ask("shards", list(parts.values()))
        elif seed is not None:
            await self._ask("seed", [seed])
        self._news, self._round_s, self._kept_s = True, float("-inf"), self.clock.monotonic()
        _log.info("this node decides on round trips, from table %d on", state["number"])
        return True

    async def _ask(self, do: str, parts: Sequence[bytes] = (), **head: Any) -> frames.Frame:
        if self.child is None:
            raise Died("there is none")
        return await self.child.ask(do, parts, **head)

    async def _end(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            await child.end()

    # --- what it says ---

    async def _round(self, fence: Fence) -> None:
        """A new table, where there is one, into the store."""
        now_ms = self.clock.unix_ms()
        told = await self._ask("round", now_ms=now_ms, again=self._again, mend=sorted(self.mend()))
        head = told.head
        self._news = bool(head["waiting"] or head.pop("unwritten", False))
        if "written" not in head:
            return
        written = head.pop("written")
        numbers: dict[str, int] = dict((self._state or {}).get("parts", {}))
        parts = {}
        for shard, octets in zip(written, told.parts, strict=True):
            numbers.pop(str(shard), None)
            if octets:
                numbers[str(shard)] = head["number"]
                parts[f"{shard}:{head['number']}"] = octets
        state = {**head, "at_ms": now_ms, "by": self.node, "parts": numbers}
        self._again = True  # until it is there
        await self.store.decide(self.node, fence.fence, parts, state)
        self._again = False
        self.tables += 1
        fields = {f"{shard}:{number}" for shard, number in numbers.items()}
        await self.store.discard(self.node, fence.fence, fields | self._before)
        self._state, self._before = state, fields

    async def _keep(self, fence: Fence) -> None:
        """Rows that changed into the store, and then how far the log is in them."""
        cursor, left = self._cursor, True
        while left:
            told = await self._ask("keep", now_ms=self.clock.unix_ms(), again=self._unkept)
            names, *flat = told.parts
            self._unkept = True
            await self.store.keep(self.node, fence.fence, names, list(zip(flat[::2], flat[1::2], strict=True)))
            self._unkept = False
            left = bool(told.head["left"])
        await self.store.reach(self.node, fence.fence, cursor)


def summary(state: Mapping[str, Any]) -> dict[str, Any]:
    """What of a table's state is for people."""
    kept = ("number", "at_ms", "by", "cells", "decided", "waiting", "crowded", "evicted", "damaged", "round",
            "reporters", "between")
    none = {"round": {"churn": 0.0, "moved": 0, "deferred": 0}, "damaged": 0}
    return none | {name: state[name] for name in kept if name in state}
