"""A whole image, made and asked before anyone serves it.

Lives here: building from zones and views, leaving out services that cannot stand, the check of every changed record.
Does not live here: when a whole image is due, putting it in place (`control.publish`), bytes (`compile.image`).

One bad service must not stop the others. One that no zone holds, or whose name a zone has data at, is left out and
named; one whose record does not answer is published as it was, or left out when it is new. Runs in a thread: values in,
values out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dnsd.compile import image as compile_image
from dnsd.compile.zones import CompileError
from dnsd.control.selfcheck import Asker, service_fault, zone_faults
from dnsd.dns import names
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import Fault, MapView, ServiceView, Stamp, ZoneView

ROUNDS: Final = 8
Known = Mapping[bytes, tuple[ServiceView, bytes]]
"""What is published: owner -> view and record."""


class DraftError(Exception):
    """No image can be made of these zones; `faults` say why."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.place}: {fault.message}" for fault in faults[:3]))
        self.faults = list(faults)


@dataclass(frozen=True, slots=True)
class Task:
    """What an image is made of. `now` is unix seconds, `made_ms` goes into the file."""

    zones: Sequence[ZoneView]
    services: Sequence[ServiceView]
    maps: Mapping[int, MapView]
    tables: Mapping[int, MapTable]
    stamp: Stamp
    made_ms: int
    node: str
    known: Known = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """An image that answers: its bytes, its reading, which record is whose, the views in it, and who is not or not yet.

    `left_out`: owner -> why it is not in the image; `refused`: owner -> why it is there as it was before.
    """

    data: bytes
    image: Image
    index: dict[bytes, int]
    views: dict[bytes, ServiceView]
    left_out: dict[bytes, str]
    refused: dict[bytes, str]


def make(task: Task) -> Draft:
    """Build and ask; DraftError when the zones themselves cannot be served."""
    views = {view.owner: view for view in sorted(task.services, key=lambda view: view.owner)}
    left_out: dict[bytes, str] = {}
    refused: dict[bytes, str] = {}
    for _ in range(ROUNDS):
        try:
            built = compile_image.build(
                task.zones, list(views.values()), list(task.maps.values()), task.stamp, task.made_ms)
        except CompileError as error:
            _leave_out(views, left_out, error.faults)
            continue
        image = Image(built.data)
        image.maps.update(task.tables)
        asker = Asker(task.node)
        now = task.made_ms // 1000
        bad = zone_faults(asker, image, task.zones, now)
        if bad:
            raise DraftError([Fault("image", text) for text in bad])
        faults = _service_faults(asker, image, views, built.records, task)
        if not faults:
            return Draft(built.data, image, built.records, views, left_out, refused)
        _step_back(views, faults, task.known, left_out, refused)
    raise DraftError([Fault("image", f"services could not be left out: {', '.join(map(repr, refused.values()))}")])


def _leave_out(views: dict[bytes, ServiceView], left_out: dict[bytes, str], faults: Sequence[Fault]) -> None:
    """Drop the services the faults name; DraftError when they name none."""
    by_text = {names.to_text(owner): owner for owner in views}
    found = {by_text[fault.place]: fault.message for fault in faults if fault.place in by_text}
    if not found:
        raise DraftError(faults)
    for owner, message in found.items():
        del views[owner]
        left_out[owner] = message


def _service_faults(
    asker: Asker, image: Image, views: Mapping[bytes, ServiceView], index: Mapping[bytes, int], task: Task,
) -> dict[bytes, str]:
    """What is wrong with services whose record is not as published; all of them when nothing is published."""
    found = {}
    for owner, view in views.items():
        known = task.known.get(owner)
        if known is not None and known[1] == image.record(index[owner]):
            continue
        fault = service_fault(asker, image, view, task.made_ms // 1000)
        if fault is not None:
            found[owner] = fault
    return found


def _step_back(
    views: dict[bytes, ServiceView], faults: Mapping[bytes, str], known: Known, left_out: dict[bytes, str],
    refused: dict[bytes, str],
) -> None:
    """Each faulty service as it was published, or not at all."""
    for owner, message in faults.items():
        before = known.get(owner)
        if before is not None and before[0] != views[owner] and owner not in refused:
            views[owner] = before[0]
            refused[owner] = message
        else:
            del views[owner]
            left_out[owner] = message
