"""The fleet as this node last knew it, on disk: what a control process goes by that starts while the store is away.

Lives here: the file `fleet` with its journals, when the file is written anew, reading them back. Does not live here:
what else survives (`control.views`: last good answers, `control.healthfile`: health), following (`control.intake`).

    fleet             a head line, then a line for each object, for a service's endpoints one line
    fleet.a fleet.b   events since, a line for each write; the file is written anew when they are as large as it

An event costs a line. The file is made in a thread from objects that never change, so only copying the references is
done in the loop; while it is made events go to the other journal. A journal that does not go on from the file, or a
fleet older than the image beside it, is of no use: then the image alone is served, as it is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter
from pydantic_core import from_json

from dnsd import disk
from dnsd.control.clock import Clock
from dnsd.control.state import Ended, Fleet
from dnsd.model import Stamp
from dnsd.registry import reading
from dnsd.registry.models import MODELS, Endpoint, Kind, Lease, Override, Service, Site, Verdict
from dnsd.registry.values import Event

FORMAT: Final = 1
FILE: Final = "fleet"
JOURNALS: Final = ("fleet.a", "fleet.b")
LARGEST: Final = 1 << 30
JOURNAL_LEAST: Final = 1 << 20
PAUSE_S, SHARE = 5.0, 20
"""The file is written anew at most so often, and writing takes at most this part of the time."""

_MEMBERS: Final = TypeAdapter(list[Endpoint])
_log = logging.getLogger("dnsd.control")


class Known(NamedTuple):
    """What a former process knew: the fleet at a cursor of an epoch."""

    epoch: int
    cursor: str
    fleet: Fleet


class Keeping:
    """Writes down one node's fleet; `run` is its life."""

    def __init__(self, state: Path, fleet: Fleet, clock: Clock) -> None:
        self._file, self._fleet, self._clock = state / FILE, fleet, clock
        self._journals = [state / name for name in JOURNALS]
        self._at: tuple[int, str] | None = None
        self._open: int | None = None
        self._number = 0
        self._size = self._grown = 0
        self._broken = True  # until the file is as new as the fleet
        self._due = asyncio.Event()
        self.problem = ""
        self.seconds = 0.0

    # --- told by intake ---

    def follow(self, epoch: int, events: Sequence[Event]) -> None:
        """Write down what was applied."""
        self._at = epoch, events[-1].id
        if self._broken:
            return
        try:
            self._grown += self._append(_lines(epoch, events))
        except OSError as error:
            self._fail(error)
        if self._grown > max(JOURNAL_LEAST, self._size):
            self._due.set()

    def replaced(self, epoch: int, cursor: str) -> None:
        """Write the file anew: the whole fleet is another."""
        self._at, self._broken = (epoch, cursor), True
        self._due.set()

    async def recall(self, fleet: Fleet, image: Stamp) -> tuple[int, str] | None:
        """Make the fleet what a former process knew, if that is what the image is of, or newer; epoch and cursor."""
        try:
            known = await asyncio.to_thread(read, self._file, self._journals)
        except (ValueError, OSError) as error:
            _log.error("the fleet as it was last known is lost: %s", error)
            return None
        if known is None or known.epoch != image.epoch or known.fleet.version < image.version:
            return None
        fleet.take(known.fleet)
        return known.epoch, known.cursor

    # --- the task ---

    async def run(self) -> None:
        """Write the file anew whenever that is due."""
        while True:
            await self._due.wait()
            self._due.clear()
            await self.write()
            await self._clock.sleep(max(PAUSE_S, SHARE * self.seconds))

    async def write(self) -> None:
        """Write the file anew."""
        if self._at is None:
            return
        began = self._clock.monotonic()
        epoch, cursor = self._at
        other = self._turn()
        parts = _parts(self._fleet, epoch, cursor)
        try:
            self._size = await asyncio.to_thread(_write, self._file, parts)
            other.unlink(missing_ok=True)
            self.problem = ""
        except OSError as error:
            self._fail(error)
        self.seconds = self._clock.monotonic() - began

    def _turn(self) -> Path:
        """Have later events go to the other journal, unless this one is needed still; the journal that is not."""
        self.close()
        other = self._journals[1 - self._number]
        if not other.exists():
            self._number = 1 - self._number
        self._broken, self._grown = False, 0
        return self._journals[1 - self._number]

    def _append(self, data: bytes) -> int:
        if self._open is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._open = os.open(self._journals[self._number], flags, 0o600)
        if os.write(self._open, data) != len(data):
            raise OSError("the journal took only a part of a write")
        return len(data)

    def _fail(self, error: OSError) -> None:
        if str(error) != self.problem:
            _log.error("the fleet cannot be written down: %s", error)
        self.problem, self._broken = str(error), True
        self._due.set()

    def close(self) -> None:
        """Let go of the journal."""
        if self._open is not None:
            os.close(self._open)
            self._open = None


# --- writing ----------------------------------------------------------------------------------------------------------


def _lines(epoch: int, events: Sequence[Event]) -> bytes:
    """A line for each write."""
    writes: dict[str, list[Any]] = {}
    for event in events:
        change = [event.kind, event.key, None if event.value is None else event.value.model_dump(mode="json"),
                  None if event.owned is None else sorted(event.owned)]
        writes.setdefault(event.id, [epoch, event.version, event.id, []])[3] += [change] if event.kind else []
    return "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in writes.values()).encode()


def _parts(fleet: Fleet, epoch: int, cursor: str) -> Iterator[bytes]:
    """The file's lines; what they are made from is copied now, they are made as they are asked for."""
    head = {"format": FORMAT, "epoch": epoch, "version": fleet.version, "cursor": cursor}
    registered = [one for key in fleet.overrides if (one := fleet.registered(key)) is not None]
    small: list[tuple[Kind, list[Any]]] = [
        (Kind.SITE, list(fleet.sites.values())), (Kind.OVERRIDE, registered), (Kind.LEASE, list(fleet.leases.values())),
        (Kind.VERDICT, list(fleet.verdicts.values())), (Kind.SERVICE, list(fleet.services.values()))]
    members = [list(some.values()) for some in fleet.members.values()]
    ended = [list(some.values()) for some in fleet.ended.values()]
    owned = dict(fleet.owned)

    def made() -> Iterator[bytes]:
        yield json.dumps(head).encode() + b"\n"
        for kind, values in small:
            for value in values:
                yield b'["%b",%b]\n' % (kind.encode(), value.model_dump_json(exclude_defaults=True).encode())
        yield json.dumps(["owned", {name: sorted(types) for name, types in owned.items()}]).encode() + b"\n"
        for some in members:
            yield b'["endpoints",%b]\n' % _MEMBERS.dump_json(some, exclude_defaults=True)
        for graves in ended:
            for grave in graves:
                told = [grave.endpoint.model_dump(mode="json"), grave.at_ms, grave.revoked]
                yield json.dumps(["ended", told]).encode() + b"\n"

    return made()


def _write(path: Path, parts: Iterator[bytes]) -> int:
    """Put the lines in place, without holding them all; the file's size."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    size = 0
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", buffering=1 << 18) as file:
            for part in parts:
                size += file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return size


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path, journals: Iterable[Path]) -> Known | None:
    """What was written down, with its journals applied; None where nothing was. ValueError: unreadable; OSError."""
    data = disk.read(path, LARGEST)
    if data is None:
        return None
    try:
        first, _, rest = data.partition(b"\n")
        head = from_json(first)
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}")
        epoch, cursor, fleet = int(head["epoch"]), str(head["cursor"]), Fleet(version=int(head["version"]))
        for line in rest.splitlines():
            kind, value = from_json(line)
            _take(fleet, kind, value)
        fleet.count_held()
        for version, id_, changes in sorted(_writes(epoch, journals), key=lambda write: write[0]):
            if version <= fleet.version:
                continue
            if version != fleet.version + 1:
                break
            fleet.apply([_event(id_, version, change) for change in changes], 0)
            fleet.version, cursor = version, id_
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    return Known(epoch, cursor, fleet)


def _take(fleet: Fleet, kind: str, value: Any) -> None:
    if kind == "endpoints":
        members = {endpoint.key: endpoint for endpoint in _MEMBERS.validate_python(value)}
        if members:
            fleet.members[next(iter(members.values())).service] = members
    elif kind == "owned":
        fleet.owned = {name: frozenset(types) for name, types in value.items()}
    elif kind == "ended":
        endpoint = Endpoint.model_validate(value[0])
        fleet.ended.setdefault(endpoint.service, {})[endpoint.key] = Ended(endpoint, int(value[1]), bool(value[2]))
    else:
        match MODELS[Kind(kind)].model_validate(value):
            case Site() as site:
                fleet.sites[site.id] = site
            case Service() as service:
                fleet.services[service.name] = service
            case Override() as override:
                fleet.overrides[override.key] = override
            case Lease() as lease:
                fleet.leases[lease.id] = lease
            case Verdict() as verdict:
                fleet.verdicts[verdict.service] = verdict


def _writes(epoch: int, journals: Iterable[Path]) -> Iterator[tuple[int, str, list[Any]]]:
    """Version, cursor and changes of each write of this epoch; a torn last line is left out."""
    for path in journals:
        for line in (disk.read(path, LARGEST) or b"").split(b"\n")[:-1]:
            try:
                of, version, id_, changes = from_json(line)
            except ValueError:
                break
            if of == epoch:
                yield int(version), str(id_), list(changes)


def _event(id_: str, version: int, change: Sequence[Any]) -> Event:
    kind_text, key, value, owned = change
    kind = Kind(kind_text)
    model = None if value is None else reading.value(kind, key, _plain(value))
    return Event(id_, version, kind, key, model, "", None if owned is None else frozenset(owned))


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(value)
