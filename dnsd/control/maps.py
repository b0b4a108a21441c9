"""The slow clock: map tables derived in a niced child when sites, their use or the atlas change.

Lives here: when to derive, the child, opening tables, handing them to the publisher, removing files nobody needs.
Does not live here: which maps there should be (`control.mapplan`), deriving (`atlas.derive`).

A round starts at once when the last one that derived is 5 s ago. A table that is on disk already, by its name, is only
opened: so a restart serves with its maps from the first image on. A table that cannot be derived leaves the one before
in use.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dnsd import disk
from dnsd.atlas import store
from dnsd.control import mapplan
from dnsd.control.clock import Clock
from dnsd.control.mapplan import Seen, Sites
from dnsd.control.publish import Publisher
from dnsd.control.state import Fleet
from dnsd.image.table import MapTable
from dnsd.model import MapView
from dnsd.rtt.table import Table

ROUND_S: Final = 5.0  # between rounds that derive
IDLE_S: Final = 0.25  # after one that had nothing to derive
LOOK_S: Final = 2.0
DERIVE_S: Final = 60.0
KEEP_S: Final = 60.0
TOLD: Final = ("seconds", "rtt", "churn")  # of a derived table's report
ESTIMATES: Final = ".rtt"  # beside a map's table, and gone with it
_log = logging.getLogger("dnsd.control")


class Maps:
    """The maps of this node. `of(service)` is the map a service's record refers to."""

    def __init__(self, fleet: Fleet, atlas_dir: Path, maps_dir: Path, *, clock: Clock) -> None:
        self.fleet, self.atlas_dir, self.dir, self.clock = fleet, atlas_dir, maps_dir, clock
        self.atlas: store.Atlas | None = None
        self.views: dict[int, MapView] = {}
        self.tables: dict[int, MapTable] = {}
        self.faults: list[str] = []
        self.derived = 0
        self.publisher: Publisher | None = None
        self._assigned: dict[str, int] = {}
        self._sets: dict[int, frozenset[str]] = {}
        self._seen = Seen()
        self._numbers: dict[Sites, int] = {}
        self._next = 1
        self._atlas_seen: tuple[int, int, int] | None = None
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()
        self._unused: dict[str, float] = {}
        self._rtt: tuple[Path, Table] | None = None
        self._reports: dict[str, dict[str, Any]] = {}  # file -> what its deriving has told

    def of(self, service: str) -> int:
        """The map a service's record is to refer to, by the sites of its endpoints now."""
        needed = frozenset(endpoint.site for endpoint in self.fleet.members.get(service, {}).values())
        number = mapplan.choose(needed, self._seen.sites(service), self._assigned.get(service, 0), self._sets)
        self._assigned[service] = number
        return number

    def mark(self) -> None:
        """Sites or their use have changed."""
        self._wake.set()

    def measured(self, path: Path, table: Table) -> None:
        """Round trips have been decided anew; their table is in that file, which does not change."""
        self._rtt = path, table
        self.mark()

    @property
    def rtt(self) -> tuple[Path, Table] | None:
        """The file of measured round trips that maps are derived from, and the table in it."""
        return self._rtt

    async def run(self) -> None:
        """Rounds for ever: when marked, and when the atlas is another."""
        while True:
            began, derived = self.clock.monotonic(), self.derived
            try:
                await self.round()
            except Exception as error:
                self.faults = [f"maps: {error!r}"]
                _log.exception("a round of maps failed", exc_info=error)
            pause = ROUND_S if self.derived > derived or self.faults else IDLE_S
            await self.clock.sleep(max(0.0, began + pause - self.clock.monotonic()))
            await self._due()

    async def round(self, *, derive: bool = True) -> None:
        """Bring maps up to date; with `derive` unset only from tables that are on disk."""
        async with self._busy:
            await self._round(derive)

    async def _round(self, derive: bool) -> None:
        self._wake.clear()
        await self._look_at_atlas()
        self._seen.note(self.fleet, self.clock.unix_ms())
        before = self.views[0].sites if 0 in self.views else ()
        plan = mapplan.wanted(self.fleet, self._seen, before)
        faults: list[str] = []
        if self.atlas is None:
            faults.append(f"no atlas in {self.atlas_dir}, so weights decide; `dnsd data build` makes one")
        else:
            for place, sites in enumerate(plan):
                fault = await self._provide(self.atlas.digest, place, sites, derive=derive)
                faults += [fault] if fault else []
        self._retire(plan)
        self._hand_over()
        self._tidy()
        if faults != self.faults:
            for fault in faults:
                _log.error("%s", fault)
        self.faults = faults

    def described(self) -> list[dict[str, Any]]:
        """The maps for people; of one that this process has derived what was told of it."""
        return [{
            "map": number, "file": view.file, "sites": list(view.sites),
            "rows": self.tables[number].rows if number in self.tables else 0,
            "services": sum(1 for name in self.fleet.services if self._assigned.get(name) == number),
            "measured": self._measured(view.sites) is not None, **self._reports.get(view.file, {}),
        } for number, view in sorted(self.views.items())]

    async def _due(self) -> None:
        """Until a round is due: marked, another atlas on disk, or a fault to be tried again."""
        while not self._wake.is_set() and not self.faults and self._atlas_stamp() == self._atlas_seen:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    # --- the atlas ---

    async def _look_at_atlas(self) -> None:
        """Open the atlas that is there now; one that cannot be opened leaves the one before."""
        seen = self._atlas_stamp()
        if seen == self._atlas_seen:
            return
        self._atlas_seen = seen
        if seen is None:
            return
        try:
            self.atlas = await asyncio.to_thread(store.open_atlas, self.atlas_dir)
        except store.AtlasError as error:
            _log.error("the atlas cannot be opened: %s", error)

    def _atlas_stamp(self) -> tuple[int, int, int] | None:
        try:
            status = (self.atlas_dir / store.FILE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    # --- tables ---

    async def _provide(self, digest: int, place: int, sites: Sites, *, derive: bool) -> str:
        """Have one wanted map ready; what went wrong, or ""."""
        known = [self.fleet.sites[site] for site in sites if site in self.fleet.sites]
        number = 0 if not place else self._number(sites)
        measured = self._measured(sites)
        file = mapplan.file_name(digest, known, measured[1].digest if measured else "")
        if not sites or (number in self.views and self.views[number].file == file):
            return ""
        path = self.dir / file
        if not path.exists():
            if not derive:
                return ""
            before = self.dir / self.views[number].file if number in self.views else None
            fault = await self._derive([mapplan.spec(site) for site in known], path, measured[0] if measured else None,
                                       before)
            if fault:
                return f"map of {len(sites)} sites: {fault}"
        try:
            table = await asyncio.to_thread(open_table, path, len(known))
        except (OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            return f"map table {file}: {error}"
        self.views[number] = MapView(number, file, sites, {site: column for column, site in enumerate(sites)})
        self.tables[number] = table
        self._sets[number] = frozenset(sites)
        self._hand_over()
        return ""

    def _measured(self, sites: Sites) -> tuple[Path, Table] | None:
        """The measured round trips, where there are any for these sites."""
        if self._rtt is None or not len(self._rtt[1].blocks) or not set(sites) & set(self._rtt[1].sites):
            return None
        return self._rtt

    async def _derive(self, sites: Sequence[dict[str, Any]], path: Path, rtt: Path | None, before: Path | None) -> str:
        """Run the child; what it says went wrong, or ""."""
        self.dir.mkdir(mode=0o700, exist_ok=True)
        task = json.dumps({
            "atlas": str(self.atlas_dir), "sites": sites, "out": str(path), "rtt": str(rtt) if rtt else None,
            "before": str(before) if before else None, "verified": self.atlas.stamp if self.atlas else None})
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dnsd.atlas.derive", task, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(DERIVE_S):
                out, complaint = await child.communicate()
        except TimeoutError:
            return f"not derived within {DERIVE_S:.0f} s"
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            with suppress(ValueError, KeyError, TypeError):
                return str(json.loads(out)["error"])
            return complaint.decode(errors="replace").strip()[-300:] or f"the child ended with {child.returncode}"
        self.derived += 1
        with suppress(ValueError, TypeError):
            report = json.loads(out)
            self._reports[path.name] = {name: report[name] for name in TOLD if name in report}
        return ""

    def _number(self, sites: Sites) -> int:
        """A set's map number: never used for another set, so that a record's columns cannot mean others."""
        if sites not in self._numbers:
            self._numbers[sites] = self._next
            self._next += 1
        return self._numbers[sites]

    def _retire(self, plan: Sequence[Sites]) -> None:
        """Forget maps that are not wanted and that no service refers to any more."""
        kept = {0} | {self._numbers[sites] for sites in plan if sites in self._numbers}
        kept |= {self.of(name) for name in self.fleet.services}
        for number in [n for n in self.views if n not in kept]:
            del self.views[number], self._sets[number]
            self.tables.pop(number, None)
        wanted = set(plan)
        self._numbers = {s: n for s, n in self._numbers.items() if n in self.views or s in wanted}

    def _hand_over(self) -> None:
        """Tell the publisher which maps are ready and which services now refer to another, or to more columns."""
        if self.publisher is None:
            return
        moved = []
        for name in self.fleet.services:
            before, number = self._assigned.get(name), self.of(name)
            view, was = self.views.get(number), self.publisher.maps.get(number)
            if number != before or (view is not None and (was is None or was.sites != view.sites)):
                moved.append(name)
        for name in self._assigned.keys() - self.fleet.services.keys():
            del self._assigned[name]
        if moved or self.publisher.maps != self.views:
            self.publisher.set_maps(self.views, self.tables, moved)

    # --- files ---

    def _tidy(self) -> None:
        """Remove table files that neither we nor an image on disk have referred to for a minute."""
        used = {view.file for view in self.views.values()} | self._in_image()
        self._reports = {file: told for file, told in self._reports.items() if file in used}
        used |= {str(Path(file).with_suffix(ESTIMATES)) for file in used}
        now = self.clock.monotonic()
        try:
            names = {entry.name for entry in os.scandir(self.dir) if entry.is_file(follow_symlinks=False)}
        except FileNotFoundError:
            return
        self._unused = {name: self._unused.get(name, now) for name in names - used}
        for name, since in list(self._unused.items()):
            if now - since >= KEEP_S:
                (self.dir / name).unlink(missing_ok=True)
                del self._unused[name]

    def _in_image(self) -> set[str]:
        image = self.publisher.live.image if self.publisher is not None else None
        return set(image.map_refs.values()) if image is not None else set()


def open_table(path: Path, sites: int | None = None) -> MapTable:
    """A table file, mapped and checked; ValueError where it is damaged or has another number of columns."""
    table = MapTable(disk.mapped(path))
    if sites is not None and table.sites != sites:
        raise ValueError(f"{table.sites} columns for {sites} sites")
    return table


def opened(files: Mapping[int, str], folder: Path) -> dict[int, MapTable]:
    """The tables an image on disk refers to, as far as they can be opened; without one weights decide."""
    found = {}
    for number, file in files.items():
        with suppress(OSError, ValueError):
            found[number] = open_table(folder / Path(file).name)
    return found
