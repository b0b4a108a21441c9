"""Whether a state the registry offers may take the place of the one that is served.

Lives here: the judgement, pure. Does not live here: what is done with it (`control.intake`).

A reset store looks like a valid, empty one. So a state that does not continue what is served, by its chain of events,
is adopted only when it has kept nearly all of it, and somebody is told what it lacks; else the last good answers are
held. An older state must not bring back what had gone or was changed, either. A state that does continue may remove
anything: somebody said so, and it is in the audit trail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from dnsd.control.state import Fleet
from dnsd.dns import names
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, Kind
from dnsd.registry.values import Loaded

LOSS: Final = 0.3
NAMED: Final = 20
REMEDY: Final = (
    "last good answers are served on; bring the store back, or say what holds: `dnsd registry accept` (what the store "
    "has) or `dnsd registry restore` (what is served)")
SEEN: Final = "look, then say so by `dnsd registry accept`"


class Served(NamedTuple):
    """What is served now: where it stands, its services (names without final dot), how many endpoints they have.

    `objects`: kind -> key -> value, where more is known than an image tells.
    """

    epoch: int
    version: int
    services: frozenset[str]
    endpoints: int
    objects: Mapping[Kind, Mapping[str, Model]] = MappingProxyType({})


class Loss(NamedTuple):
    """What of a kind would be lost: of `had` objects `missing` are not there, `changed` are otherwise or had gone.

    `named`: some of both, by key.
    """

    kind: Kind
    had: int
    missing: int
    changed: int
    named: tuple[str, ...]


class Judgement(NamedTuple):
    """`held`: why the state must not be adopted, `alarm`: what must be said when it is; both "" where nothing is wrong.

    `anew`: its numbers mean something else already, so it can be adopted only as a history of its own.
    """

    held: str = ""
    alarm: str = ""
    anew: bool = False
    losses: tuple[Loss, ...] = ()


def judge(served: Served | None, loaded: Loaded, gap: str) -> Judgement:
    """Whether the loaded state may be adopted. `gap`: how the stream of events broke, if it did."""
    if served is None or goes_on(served, loaded, gap):
        return Judgement()
    at = loaded.position
    older = at.epoch < served.epoch or (at.epoch == served.epoch and at.version < served.version)
    if at.epoch != served.epoch:
        what = f"the registry began anew (epoch {at.epoch:016x}, served is {served.epoch:016x})"
    elif older:
        what = f"the registry went back from version {served.version} to {at.version}"
    else:
        what = "the registry has another history than what is served"
    losses = _losses(served, loaded, older=older)
    for loss in losses:
        if loss.kind in (Kind.SERVICE, Kind.ENDPOINT) and _large(loss):
            lost = " and ".join(filter(None, (
                f"lacks {loss.missing} of {loss.had} {loss.kind}s" if loss.missing else "",
                f"has {loss.changed} of {loss.had} {loss.kind}s otherwise" if loss.changed else "")))
            return Judgement(f"{what} and {lost}; {REMEDY}", "", at.epoch <= served.epoch, losses)
    told = "; ".join(f"{loss.kind}s: {loss.missing + loss.changed} of {loss.had} ({', '.join(loss.named)})"
                     for loss in losses if loss.missing or loss.changed)
    if not told and not older:
        return Judgement(losses=losses)
    return Judgement(
        "", f"{what}; it was adopted, lost are {told or 'no objects'}; {SEEN}", at.epoch <= served.epoch, losses)


def goes_on(served: Served, loaded: Loaded, gap: str) -> bool:
    """Whether the loaded state continues what is served."""
    at = loaded.position
    return at.epoch == served.epoch and at.version >= served.version and gap != "forked"


def _large(loss: Loss) -> bool:
    lost = loss.missing + loss.changed
    return lost > 0 and (loss.missing == loss.had or lost > max(1, LOSS * loss.had))


def _losses(served: Served, loaded: Loaded, *, older: bool) -> tuple[Loss, ...]:
    spoilt = Counter(fault.place.partition("/")[0] for fault in loaded.corrupt)  # these are kept, not lost
    there: Mapping[Kind, Mapping[str, Model]] = {
        Kind.SITE: loaded.sites, Kind.SERVICE: loaded.services, Kind.ENDPOINT: loaded.endpoints,
        Kind.OVERRIDE: loaded.overrides}
    found = []
    for kind, values in there.items():
        had = served.objects.get(kind)
        if had is not None:
            missing = [key for key in had if key not in values]
            changed = [key for key, value in values.items()
                       if _plain(had.get(key)) != _plain(value)] if older and kind is not Kind.OVERRIDE else []
            count, number = max(0, len(missing) - spoilt[kind]), len(had)
            found.append(Loss(kind, number, count, len(changed), tuple([*missing, *changed][:NAMED])))
        elif kind is Kind.SERVICE:
            gone = sorted(served.services - values.keys())
            found.append(Loss(
                kind, len(served.services), max(0, len(gone) - spoilt[kind]), 0, tuple(gone[:NAMED])))
        elif kind is Kind.ENDPOINT:
            found.append(Loss(kind, served.endpoints, max(0, served.endpoints - len(values) - spoilt[kind]), 0, ()))
    return tuple(found)


def _plain(value: Any) -> Any:
    """What of an object makes a difference."""
    return value.model_copy(update={"load": 0, "lease": None}) if isinstance(value, Endpoint) else value


def of_fleet(epoch: int, fleet: Fleet) -> Served:
    """What is served, when it is this fleet."""
    endpoints = {endpoint.key: endpoint for endpoint in fleet.endpoints()}
    overrides = {key: one for key in fleet.overrides if (one := fleet.registered(key)) is not None}
    return Served(epoch, fleet.version, frozenset(fleet.services), len(endpoints), {
        Kind.SITE: fleet.sites, Kind.SERVICE: fleet.services, Kind.ENDPOINT: endpoints, Kind.OVERRIDE: overrides})


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
