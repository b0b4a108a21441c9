"""What is forced on this node alone, while the store is away; written there as soon as it is back.

Lives here: `Local`, its file, the merge. Does not live here: what an override does (`control.resolve`), who may set one
here (`admin`: only who comes by the socket in the state directory).

A local override takes effect at once, hides the registry's of the same key, and ends by itself. When the registry is
followed again it is written there with the time that is left, unless an override of that key was made there later. It
counts there as made when it was set, so of those that two nodes write the later one holds, whoever comes first.
The alarm of a loss that nobody has seen yet is kept in the same file.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from pydantic_core import from_json

from dnsd import disk
from dnsd.control.intake import Intake
from dnsd.model import Fault
from dnsd.registry.errors import Invalid, NotFound, RegistryError, Unavailable
from dnsd.registry.fields import Model
from dnsd.registry.models import Kind, Override
from dnsd.registry.values import Stored, Written

FILE: Final = "local.json"
MOST: Final = 1000
LARGEST: Final = 1 << 22
LOOK_S: Final = 0.1
SAME_MS: Final = 2000
ONLY_HERE: Final = " (on this node only)"
_log = logging.getLogger("dnsd.control")


class Store(Protocol):
    """What of the registry is needed to write an override there."""

    async def get(self, kind: Kind, key: str) -> Stored | None:
        """One object."""

    async def put(
        self, kind: Kind, value: Model, *, actor: str, if_match: str | None, left_s: float | None = None,
    ) -> Written:
        """Create or replace it."""

    async def delete(self, kind: Kind, key: str, *, actor: str, if_match: str | None) -> Written:
        """Delete it."""


class Entry(NamedTuple):
    """One override, when it was set (unix ms), by whom, and the version of the registry it was written as (0: not)."""

    override: Override
    at_ms: int
    by: str
    version: int = 0


class Local:
    """This node's own overrides by key; `run` merges them."""

    def __init__(self, state: Path, intake: Intake, store: Store, *, node: str) -> None:
        self._file = state / FILE
        self.intake, self.store, self.node = intake, store, node
        self.fleet, self.publisher, self.clock = intake.fleet, intake.publisher, intake.clock
        self.entries: dict[str, Entry] = {}
        self._ends_s: dict[str, float] = {}  # by the monotonic clock: the other may be set back
        self._saving = asyncio.Lock()
        self.unsaved = False
        """Whether something changed, or could not be written down, since the file was written."""

        self._problem: int | None = None
        intake.told = self._mark_unsaved

    @property
    def apart(self) -> bool:
        """Whether this node stands alone: no registry's state is followed."""
        return self.intake.epoch is None

    async def force(self, override: Override, by: str) -> Entry:
        """Force a state on this node, at once; Invalid where there is no such target, or there are too many."""
        key = override.key
        if not self._target(override):
            raise Invalid(faults=[Fault("/name", f"there is no {override.target} {override.name}")])
        if key not in self.entries and len(self.entries) >= MOST:
            raise Invalid(faults=[Fault("", f"more than {MOST} overrides on one node")])
        now_ms = self.clock.unix_ms()
        entry = Entry(override.model_copy(update={"until_ms": now_ms + override.seconds * 1000}), now_ms, by)
        self._put(entry)
        _log.warning("%s forces %s %s on this node only, for %d s: %s", by, key, override.state, override.seconds,
                     override.reason)
        await self._save()
        return entry

    async def clear(self, key: str, by: str) -> bool:
        """End one; whether there was one."""
        if key not in self.entries:
            return False
        self._drop(key)
        _log.warning("%s ends %s on this node", by, key)
        await self._save()
        return True

    def described(self) -> list[dict[str, Any]]:
        """What is forced here alone."""
        return [
            {"key": key, "state": entry.override.state, "reason": entry.override.reason, "by": entry.by,
             "at_ms": entry.at_ms, "until_ms": entry.override.until_ms} for key, entry in sorted(self.entries.items())]

    def take_over(self) -> None:
        """Take over what a former process was told."""
        try:
            self._restore()
        except (ValueError, OSError) as error:
            _log.error("what was forced on this node alone is lost: %s", error)

    def _restore(self) -> None:
        data = disk.read(self._file, LARGEST)
        if data is None:
            return
        try:
            found = from_json(data)
            entries = [Entry(Override.model_validate(value), int(at_ms), str(by), int(version))
                       for value, at_ms, by, version in found["overrides"]]
            alarm, version = str(found["alarm"][0]), int(found["alarm"][1])
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self._file} cannot be read: {error!r}") from error
        self.intake.alarm_again(alarm, version)
        for entry in entries:
            if entry.override.until_ms > self.clock.unix_ms():
                self._put(entry)

    async def run(self) -> None:
        """End what is over, and merge, for ever."""
        while True:
            await self.turn()
            await self.clock.sleep(LOOK_S)

    async def turn(self) -> None:
        """End what is over; where a registry is followed, write what is left there."""
        for key in [key for key, entry in self.entries.items() if self._left_s(entry) <= 0]:
            self._drop(key)
        if not self.apart:
            for key, entry in list(self.entries.items()):
                try:
                    await self._merge(key, entry)
                except Unavailable:
                    break
                except RegistryError as error:
                    _log.warning("the local override %s is not merged yet: %s", key, error)
        if self.unsaved:
            await self._save()

    async def _merge(self, key: str, entry: Entry) -> None:
        """One step of it. Meanwhile the registry may be away again, and the override ended or set anew."""
        if self.entries.get(key) is not entry:
            return  # while another was merged
        if entry.version:
            if self.fleet.version >= entry.version:  # the registry's own is in force from here on
                self._drop(key)
            return
        override, actor = entry.override, f"local:{self.node}:{entry.by}"
        stored = await self.store.get(Kind.OVERRIDE, key)
        if self.entries.get(key) is not entry or (left_s := self._left_s(entry)) <= 0:
            return
        if stored is not None and isinstance(stored.value, Override):
            later_ms = stored.value.until_ms - stored.value.seconds * 1000 - (
                self.clock.unix_ms() - (override.seconds - left_s) * 1000)
            if abs(later_ms) <= SAME_MS and _same(stored.value, override):  # written, and no word of it came back
                self._written(key, entry, stored.version)
                return
            if later_ms > 0:
                _log.warning(
                    "the local override %s (%s) is dropped: the registry's was made later", key, override.state)
                self._drop(key)
                return
        try:
            written = await self.store.put(
                Kind.OVERRIDE, override.model_copy(update={"until_ms": 0}), actor=actor,
                if_match=stored.etag if stored is not None else None, left_s=left_s)
        except (Invalid, NotFound) as error:
            if self.entries.get(key) is entry:
                _log.error("the local override %s (%s) is dropped: %s", key, override.state, error)
                self._drop(key)
            return
        _log.info("the local override %s is the registry's now, version %d", key, written.version)
        if self.entries.get(key) is entry:
            self._written(key, entry, written.version)
        elif key not in self.entries:
            await self.store.delete(Kind.OVERRIDE, key, actor=actor, if_match=written.etag)

    def _written(self, key: str, entry: Entry, version: int) -> None:
        self.entries[key] = entry._replace(version=version)
        self.unsaved = True

    def _target(self, override: Override) -> bool:
        if override.target == "site":
            return override.name in self.fleet.sites
        if override.target == "service":
            return override.name in self.fleet.services
        return self.fleet.endpoint(override.name) is not None

    def _left_s(self, entry: Entry) -> float:
        """Seconds until one ends."""
        override = entry.override
        return min((override.until_ms - self.clock.unix_ms()) / 1000,
                   self._ends_s[override.key] - self.clock.monotonic())

    def _put(self, entry: Entry) -> None:
        override = entry.override
        self.entries[override.key] = entry
        self._ends_s[override.key] = self.clock.monotonic() + override.seconds
        shown = override.model_copy(update={"reason": override.reason + ONLY_HERE})
        self.publisher.mark(self.fleet.force(shown))

    def _drop(self, key: str) -> None:
        self.entries.pop(key, None)
        self._ends_s.pop(key, None)
        self.unsaved = True
        self.publisher.mark(self.fleet.lift(key))

    def _mark_unsaved(self) -> None:
        self.unsaved = True

    async def _save(self) -> None:
        async with self._saving:
            self.unsaved = False
            overrides = [[one.override.model_dump(mode="json"), one.at_ms, one.by, one.version]
                         for one in self.entries.values()]
            data = json.dumps({"alarm": self.intake.alarmed, "overrides": overrides}).encode()
            try:
                await asyncio.to_thread(disk.replace, self._file, data)
                self._problem = None
            except OSError as error:
                self.unsaved = True
                if error.errno != self._problem:  # it is tried again ten times a second
                    _log.error("what is forced on this node alone cannot be written down: %s", error)
                self._problem = error.errno


def _same(one: Override, other: Override) -> bool:
    return one.model_copy(update={"until_ms": other.until_ms}) == other
