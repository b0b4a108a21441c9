"""This node's copy of the decided round trips: read from the store as it changes, kept on disk, given to the maps.

Lives here: following the state, fetching changed parts, the files. Does not live here: deciding (`control.deciding`),
the table (`rtt.table`), what maps make of it (`atlas.derive`).

A table is a file under its digest that is never changed, so a map that is being derived from it cannot meet another.
The last one stays in use while the store is away, is emptied, or cannot be read: it is old knowledge, but the best
there is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dnsd.control.clock import Clock
from dnsd.registry.errors import RegistryError
from dnsd.registry.measurements import Measurements as Store
from dnsd.rtt import shards
from dnsd.rtt.table import Table

FOLDER: Final = "rtt"
LOOK_S: Final = 2.0
OLD_S: Final = 3600.0
KEPT: Final = 2
"""Files: the one in use and the one before, which a map may still be derived from."""

_log = logging.getLogger("dnsd.control")


class Measured:
    """The decided table as this node has it. `changed` is told of another."""

    def __init__(self, store: Store, state: Path, *, clock: Clock) -> None:
        self.store, self.folder, self.clock = store, state / FOLDER, clock
        self.table: Table | None = None
        self.path: Path | None = None
        self.state: dict[str, Any] = {}
        self.corrupt: set[int] = set()
        self.changed: Callable[[Path, Table], None] = lambda *_: None
        self._parts: dict[str, int] = {}  # of what is in the table
        self._seen: Mapping[str, Any] | None = None
        self._fault = ""

    def take_over(self) -> None:
        """The table a former process had."""
        tables = []
        for path in self.folder.glob("*.table"):
            try:
                tables.append((Table.read(path), path))
            except ValueError as error:
                _log.error("%s", error)
                path.unlink(missing_ok=True)
        if tables:
            self._use(*max(tables, key=lambda one: (one[0].at_ms, one[0].number)))

    async def run(self) -> None:
        """Follow the state for ever."""
        while True:
            try:
                await self.look()
            except RegistryError as error:
                _log.debug("the decided round trips cannot be read: %s", error)
            except Exception as error:  # the table there is stays; whatever is wrong, nobody else ends with it
                if repr(error) != self._fault:
                    self._fault = repr(error)
                    _log.error("round trips: %s", error, exc_info=None if isinstance(error, ValueError) else error)
            await self.clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Take the table that is decided now, if it is another."""
        state = await self.store.state()
        if state is None or state == self._seen:
            return
        wanted = {str(shard): int(number) for shard, number in state["parts"].items()}
        stale = [shard for shard in wanted.keys() | self._parts.keys() if wanted.get(shard) != self._parts.get(shard)]
        fields = [f"{shard}:{wanted[shard]}" for shard in stale if shard in wanted]
        found = await self.store.parts(fields)
        if len(found) < len(fields) and (await self.store.state()) != state:
            return  # another table has come meanwhile: next time
        table, corrupt = await asyncio.to_thread(self._joined, state, stale, found)
        self.corrupt = {shard for shard in self.corrupt if str(shard) not in stale} | corrupt
        self._parts = wanted
        self.state, self._seen, self._fault = state, state, ""
        if self.table is None or table.digest != self.table.digest:
            path = await asyncio.to_thread(self._write, table)
            self._use(table, path)
        else:
            self.table = table  # the same to all answers; newer to people

    def age_s(self) -> float | None:
        """Seconds since the table in use was decided; None without one."""
        return None if self.table is None else max(0.0, (self.clock.unix_ms() - self.table.at_ms) / 1000)

    def described(self) -> dict[str, Any]:
        """For people and metrics."""
        if self.table is None:
            return {"number": 0, "blocks": 0, "sites": 0, "age_s": 0.0, "digest": None, "corrupt": len(self.corrupt)}
        return {"number": self.table.number, "blocks": len(self.table.blocks), "sites": len(self.table.sites),
                "age_s": round(self.age_s() or 0.0, 1), "digest": self.table.digest, "corrupt": len(self.corrupt)}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        age_s = self.age_s()
        if age_s is not None and age_s > OLD_S:
            yield f"measured round trips are {age_s / 3600:.0f} h old"
        if self.corrupt:
            yield f"{len(self.corrupt)} parts of the measured round trips cannot be read"

    def _joined(self, state: Mapping[str, Any], stale: Sequence[str], found: Mapping[str, bytes],
                ) -> tuple[Table, set[int]]:
        """The table of this state; of a part that cannot be read what was known before stays."""
        parts, replaced, corrupt = [], set(), set()
        for shard in map(int, stale):
            field = f"{shard}:{state['parts'].get(str(shard))}"
            try:
                if str(shard) in state["parts"]:
                    parts.append(shards.read(found[field]))
                replaced.add(shard)
            except (ValueError, KeyError) as error:
                corrupt.add(shard)
                _log.error("part %s of the measured round trips: %s", field, error)
        if self.table is not None:
            parts.append(shards.without(self.table, replaced if self._parts else set(range(shards.SHARDS)) - corrupt))
        between = state.get("between", {})
        return shards.joined(parts, [str(site) for site in state["sites"]], between, number=state["number"],
                             at_ms=int(state.get("at_ms", 0))), corrupt

    def _write(self, table: Table) -> Path:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self.folder / f"{table.digest}.table"
        table.write(path)
        return path

    def _use(self, table: Table, path: Path) -> None:
        self.table, self.path = table, path
        others = sorted((one for one in self.folder.glob("*.table") if one != path), key=_changed_s)
        for one in others[: max(0, len(others) + 1 - KEPT)]:
            with suppress(OSError):
                one.unlink()
        self.changed(path, table)


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
