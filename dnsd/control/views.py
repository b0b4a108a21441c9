"""The fleet as it may be answered now: every service's view, kept up to date, and the memory of last good answers.

Lives here: resolving what changed, noticing what time changes, the memory and its file (`node.json`). Does not live
here: the rules (`control.resolve`), what becomes of a view (`control.publish`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from dnsd.control import files, resolve
from dnsd.control.resolve import Good, Memory, Remembered, Resolved
from dnsd.control.state import Fleet
from dnsd.model import ServiceView

FORMAT: Final = 1
MAX_NODE_FILE: Final = 256 * 1024 * 1024


class Views:
    """Resolved services by name. `map_of` says which map a service's record refers to."""

    def __init__(self, fleet: Fleet, map_of: Callable[[str], int]) -> None:
        self.fleet = fleet
        self.map_of = map_of
        self.resolved: dict[str, Resolved] = {}
        self.memories: dict[str, Memory] = {}
        self.unsaved = False
        self._looked_ms = 0
        self._texts: dict[str, str] = {}  # each service's part of the file: a change writes only its own anew

    def refresh(self, names: Iterable[str], now_ms: int) -> dict[str, ServiceView | None]:
        """Resolve these services anew; their views, None for one that is gone."""
        found: dict[str, ServiceView | None] = {}
        for name in names:
            if name not in self.fleet.services:
                if self.resolved.pop(name, None) is not None:
                    found[name] = None
                self._remember(name, {})
                continue
            memory = self.memories.get(name, {})
            now = self.resolved[name] = resolve.resolve(self.fleet, name, memory, now_ms, self.map_of(name))
            if now.memory != memory:
                self._remember(name, now.memory)
            found[name] = now.view
        return found

    def changed_by_time(self, now_ms: int) -> set[str]:
        """Services that time alone has changed since this was last asked."""
        since, self._looked_ms = self._looked_ms or now_ms, now_ms
        return resolve.changed_by_time(self.fleet, self.memories, since, now_ms)

    def dump(self, now_ms: int, cursor: str) -> bytes:
        """The memory as `node.json`; `cursor` is where in the registry's history it was true."""
        self.unsaved = False
        head = json.dumps({"format": FORMAT, "seen_ms": now_ms, "cursor": cursor}).removesuffix("}")
        services = ",\n".join(self._texts.values())
        return f'{head}, "last_good": {{\n{services}\n}}}}\n'.encode()

    def restore(self, path: Path) -> str:
        """Take the memory over from a former process; its cursor, or "" where there is no file. ValueError: unreadable.

        What was live when that process last wrote has ceased then, as far as anyone knows.
        """
        data = files.read(path, MAX_NODE_FILE)
        if data is None:
            return ""
        try:
            found = json.loads(data)
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            seen_ms = int(found["seen_ms"])
            memories = {
                str(name): {int(type_): _remembered(name, kept, seen_ms) for type_, kept in memory.items()}
                for name, memory in found["last_good"].items()}
            cursor = str(found["cursor"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error!r}") from error
        for name, memory in memories.items():
            self._remember(name, memory)
        return cursor

    def _remember(self, name: str, memory: Memory) -> None:
        if memory:
            self.memories[name] = memory
            self._texts[name] = _text(name, memory)
        elif self.memories.pop(name, None) is not None:
            del self._texts[name]
        else:
            return
        self.unsaved = True


def _text(name: str, memory: Memory) -> str:
    """One service's line of the file: type -> when it left, and (endpoint id, site, lease, address) of each."""
    kept = {str(type_): [one.left_ms, [
        [good.key.rpartition("/")[2], good.site, good.lease, good.address.hex()] for good in one.goods]]
        for type_, one in memory.items()}
    return f"{json.dumps(name)}: {json.dumps(kept, separators=(',', ':'))}"


def _remembered(service: str, kept: Any, seen_ms: int) -> Remembered:
    left_ms, goods = kept
    return Remembered(
        tuple(Good(f"{service}/{id_}", str(site), None if lease is None else str(lease), bytes.fromhex(address))
              for id_, site, lease, address in goods),
        int(left_ms) or seen_ms)
