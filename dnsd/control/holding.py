"""Whether a state the registry offers may take the place of the one that is served.

Lives here: the judgement, pure. Does not live here: what is done with it (`control.intake`).

A reset store looks like a valid, empty one. So a state that does not continue what is served, by its chain of events,
is adopted only when it has kept nearly all of it; else the last good answers are held and somebody is told. A state
that does continue may remove anything: somebody said so, and it is in the audit trail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final, NamedTuple

from dnsd.control.state import Fleet
from dnsd.dns import names
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.registry.models import Kind
from dnsd.registry.values import Loaded

LOSS: Final = 0.3
REMEDY: Final = (
    "last good answers are served on; bring the store back, or if this state is meant, stop dnsd and remove the image "
    "file in its state directory")


class Served(NamedTuple):
    """What is served now: where it stands, its services (names without final dot), how many endpoints they have."""

    epoch: int
    version: int
    services: frozenset[str]
    endpoints: int


def judge(served: Served | None, loaded: Loaded, gap: str) -> str:
    """Why the loaded state must not be adopted; "" when it may be. `gap`: how the stream of events broke, if it did."""
    if served is None:
        return ""
    at = loaded.position
    if at.epoch == served.epoch:
        if at.version < served.version:
            return f"the registry went back from version {served.version} to {at.version}; {REMEDY}"
        if gap != "forked":
            return ""
        what = "the registry has another history than what is served"
    else:
        what = f"the registry began anew (epoch {at.epoch:016x}, served is {served.epoch:016x})"
    spoilt = Counter(fault.place.partition("/")[0] for fault in loaded.corrupt)  # these are kept, not lost
    losses = (
        ("services", len(served.services), len(served.services - loaded.services.keys()) - spoilt[Kind.SERVICE]),
        ("endpoints", served.endpoints, served.endpoints - len(loaded.endpoints) - spoilt[Kind.ENDPOINT]))
    for kind, had, gone in losses:
        if gone > 0 and (gone == had or gone > max(1, LOSS * had)):
            return f"{what} and lacks {gone} of {had} {kind}; {REMEDY}"
    return ""


def of_fleet(epoch: int, fleet: Fleet) -> Served:
    """What is served, when it is this fleet."""
    return Served(epoch, fleet.version, frozenset(fleet.services), sum(map(len, fleet.members.values())))


def of_image(image: Image) -> Served:
    """What is served, when all that is known of it is an image."""
    services, endpoints = set[str](), 0
    for owner in _owners(image, image.index):
        services.add(names.to_text(owner).removesuffix("."))
        node = image.get(owner)
        endpoints += len(image.plan(node.record).candidates) if node is not None else 0
    return Served(image.stamp.epoch, image.stamp.version, frozenset(services), endpoints)


def _owners(image: Image, candidates: Collection[bytes]) -> list[bytes]:
    found = []
    for name in candidates:
        node = image.get(name)
        if node is not None and node.record != layout.NONE:
            found.append(name)
    return found
