"""Round trips in the store: the log nodes write into, what the builder makes of it, the decided table all nodes read.

Lives here: the operations on `rtt-log`, `rtt-state`, `rtt-decided`, `rtt-cells`. Does not live here: what the octets
mean (`dnsd.rtt`), who decides and when (`control.deciding`), the nodes' copy (`control.measured`).

    rtt-log      stream: what nodes measured, bounded; nothing else of it is ever written twice
    rtt-state    hash: `state`, the decided table's number and its parts, as JSON; `names` and `cursor` of the cells
    rtt-decided  hash: part:number -> octets. A field is written once and deleted when two tables have gone by
    rtt-cells    hash: block -> the reporters' words, for whoever decides next

Writing them is no change of the registry: no version, no event, no audit entry. What the builder writes is fenced.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Final, NamedTuple

from dnsd.registry import scripts
from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.link import LOAD_SECONDS, Link, pairs

ENTRIES: Final = 64
OCTETS: Final = 1 << 20
FIELDS: Final = 2000
"""Of one script call, roughly: the store does nothing else meanwhile."""

PAGE: Final = 2000
PARTS: Final = 256
MS_MOST: Final = 6553.5
"""Of a state: parts of the table (`rtt.shards`), what a table can hold between two sites."""

STATE: Final = "state"
NAMES: Final = "names"
CURSOR: Final = "cursor"
START: Final = "0-0"


class Kept(NamedTuple):
    """What there is to go on from: the state, the names of the cells' numbers, how far the log is in the cells."""

    state: dict[str, Any] | None
    names: bytes
    cursor: str


class Measurements:
    """The part of one store that is about round trips. Raises `errors.Unavailable` as the registry does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def log(self, entry: bytes) -> None:
        """Put what this node has measured into the log."""
        reply = await self._link.run(scripts.MEASURED, entry)
        if reply[0] != b"ok":
            raise Unavailable("the store has no history yet")

    async def follow(self, after: str, *, block_ms: int) -> tuple[str, list[bytes]]:
        """Entries after a cursor, and the next one; waits up to `block_ms` when there is nothing yet."""
        log = self._link.keys[scripts.RTT_LOG]
        if block_ms <= 0:
            [reply] = await self._link.together(("XREAD", "COUNT", ENTRIES, "STREAMS", log, after))
        else:
            reply = await self._link.wait(
                "XREAD", "COUNT", ENTRIES, "BLOCK", block_ms, "STREAMS", log, after, seconds=block_ms / 1000)
        entries = reply[0][1] if reply else ()
        found = [dict(pairs(flat)).get(b"entry", b"") for _, flat in entries]
        return (entries[-1][0].decode() if entries else after), found

    async def state(self) -> dict[str, Any] | None:
        """The decided table's state; None: nothing was decided. ValueError where it cannot be read."""
        [raw] = await self._link.together(("HGET", self._link.keys[scripts.RTT_STATE], STATE))
        return _state(raw)

    async def kept(self, *, sound: bool = True) -> Kept:
        """What there is to go on from. ValueError where the state cannot be read; without `sound` it is none then."""
        [flat] = await self._link.together(("HGETALL", self._link.keys[scripts.RTT_STATE]))
        found = dict(pairs(flat))
        cursor = found.get(CURSOR.encode(), START.encode()).decode(errors="replace")
        state = None
        with nullcontext() if sound else suppress(ValueError):
            state = _state(found.get(STATE.encode()))
        return Kept(state, found.get(NAMES.encode(), b""), cursor)

    async def logged(self) -> bool:
        """Whether anybody has ever measured anything."""
        [log] = await self._link.together(
            ("XREVRANGE", self._link.keys[scripts.RTT_LOG], "+", "-", "COUNT", 1))
        return bool(log)

    async def parts(self, fields: Sequence[str]) -> dict[str, bytes]:
        """These parts of the decided table, as far as they are there."""
        found: dict[str, bytes] = {}
        key = self._link.keys[scripts.RTT_DECIDED]
        for at in range(0, len(fields), ENTRIES):
            some = fields[at : at + ENTRIES]
            [values] = await self._link.together(("HMGET", key, *some), seconds=LOAD_SECONDS)
            found |= {field: value for field, value in zip(some, values, strict=True) if value is not None}
        return found

    async def cells(self) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        """All rows of the cells, page by page; one that changes meanwhile may come twice."""
        cursor = b"0"
        while True:
            cursor, flat = await self._link.wait(
                "HSCAN", self._link.keys[scripts.RTT_CELLS], cursor, "COUNT", PAGE, seconds=LOAD_SECONDS)
            yield pairs(flat)
            if cursor == b"0":
                return

    async def decide(self, node: str, fence: int, parts: Mapping[str, bytes], state: Mapping[str, Any]) -> None:
        """Keep a new table: its parts first, then the state that names them. Conflict: another builds now."""
        await self._settle(node, fence, "decided", parts.items())
        await self._settle(node, fence, "state", [(STATE, json.dumps(state, separators=(",", ":")).encode())])

    async def discard(self, node: str, fence: int, kept: Iterable[str]) -> None:
        """Delete all parts but these."""
        [fields] = await self._link.together(("HKEYS", self._link.keys[scripts.RTT_DECIDED]))
        gone = {field.decode(errors="replace") for field in fields} - set(kept)
        await self._settle(node, fence, "decided", [(field, b"") for field in sorted(gone)])

    async def keep(self, node: str, fence: int, names: bytes, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep cells; a row without words is deleted. The names first: numbers in rows must have theirs."""
        await self._settle(node, fence, "state", [(NAMES, names)])
        await self._settle(node, fence, "cells", rows)

    async def reach(self, node: str, fence: int, cursor: str) -> None:
        """The log up to there is in the cells that are kept."""
        await self._settle(node, fence, "state", [(CURSOR, cursor.encode())])

    async def _settle(
        self, node: str, fence: int, which: str, values: Iterable[tuple[str | bytes, bytes]],
    ) -> None:
        for args in _portions(values):
            reply = await self._link.run(scripts.SETTLE, node, str(fence), which, *args)
            if reply[0] == b"fenced":
                raise Conflict("another node builds now")
            if reply[0] != b"ok":
                raise Unavailable("the store has no history yet")


def _portions(values: Iterable[tuple[str | bytes, bytes]]) -> Iterator[list[str | bytes]]:
    """Fields and values for one script call each."""
    args: list[str | bytes] = []
    size = 0
    for field, value in values:
        if args and (len(args) >= 2 * FIELDS or size + len(value) > OCTETS):
            yield args
            args, size = [], 0
        args += (field, value)
        size += len(value)
    if args:
        yield args


def _state(raw: bytes | None) -> dict[str, Any] | None:
    """ValueError where it is no state."""
    if raw is None:
        return None
    try:
        found: dict[str, Any] = json.loads(raw)
        sound = found["number"] >= 0 and found.get("at_ms", 0) >= 0 and all(
            0 <= int(part) < PARTS and number >= 0 for part, number in found["parts"].items()) and all(
            isinstance(site, str) for site in (*found["sites"], found.get("by", ""))) and all(
            0 <= ms < MS_MOST for row in found.get("between", {}).values() for ms in row.values()) and all(
            isinstance(one.get("distrusted", ""), str) for one in found.get("reporters", {}).values())
        whole = (found["number"], found.get("at_ms", 0), *found["parts"].values())
        if not sound or not all(type(number) is int for number in whole) or not isinstance(found["sites"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("no state of measurements") from None
    return found
