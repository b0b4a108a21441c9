"""Rules between objects, over the whole resulting state; pure.

Lives here: the shape of a set of changes, the state they lead to, every rule that state breaks. Does not live here:
what one object must be (`models`), the same references checked atomically at the moment of the write (`lua/write.lua`).

The whole result is checked, not the difference: an object that was broken before and lay unnoticed is named when the
next `apply` would build on it, instead of taking effect some day with an innocent change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dnsd.model import Fault
from dnsd.registry.changes import text
from dnsd.registry.errors import Conflict, Invalid, NotFound, RegistryError
from dnsd.registry.models import MODELS, Endpoint, Kind, Override, key_of
from dnsd.registry.scripts import OWNED
from dnsd.registry.values import Change, Loaded

VALUE_BYTES: Final = 16384
CHANGES: Final = 5000
NAMED: Final = 3  # users of a deleted object that its fault names


class Broken(NamedTuple):
    """A rule that would not hold: the error it leads to, and where."""

    sort: type[RegistryError]
    fault: Fault


def error(broken: Sequence[Broken]) -> RegistryError:
    """All broken rules as one error; the most general sort among them gives the status."""
    sort = next(sort for sort in (Invalid, Conflict, NotFound) if any(b.sort is sort for b in broken))
    return sort(faults=[b.fault for b in broken])


def by_index(i: int) -> str:
    """Place of a change in a list of changes."""
    return f"/{i}"


def shape(changes: Sequence[Change], place: Callable[[int], str] = by_index) -> list[Broken]:
    """What is wrong with changes before any state is looked at."""
    found: list[Broken] = []

    def wrong(i: int, pointer: str, message: str) -> None:
        found.append(Broken(Invalid, Fault(place(i) + pointer, message)))

    if len(changes) > CHANGES:
        found.append(Broken(Invalid, Fault("", f"{len(changes)} changes are more than {CHANGES}")))
    seen: set[tuple[Kind, str]] = set()
    for i, change in enumerate(changes):
        if change.kind is Kind.LEASE:
            wrong(i, "", "leases are acquired and released, not written")
            continue
        if change.op == "put" and not isinstance(change.value, MODELS[change.kind]):
            wrong(i, "/value", f"not a {change.kind}")
            continue
        name = change.kind, target(change)
        if not name[1]:
            wrong(i, "/key", "no key")
        if name in seen:
            wrong(i, "", f"{change.kind} {name[1]} is changed twice")
        seen.add(name)
        if isinstance(change.value, Endpoint) and change.value.lease is not None:
            wrong(i, "/lease", "a leased endpoint comes with its lease")
        if change.value is not None and len(text(change.value)) > VALUE_BYTES:
            wrong(i, "", f"longer than {VALUE_BYTES} octets")
    return found


def target(change: Change) -> str:
    """The key a change is about."""
    return change.key if change.op == "delete" or change.value is None else key_of(change.value)


def resulting(state: Loaded, changes: Sequence[Change]) -> dict[Kind, dict[str, Any]]:
    """The objects there would be after the changes; leases and their endpoints as they are."""
    result: dict[Kind, dict[str, Any]] = {kind: dict(values) for kind, values in of_kinds(state).items()}
    for change in changes:
        values = result.setdefault(change.kind, {})
        if change.op == "delete":
            values.pop(target(change), None)
        else:
            values[target(change)] = change.value
    return result


def of_kinds(state: Loaded) -> dict[Kind, Mapping[str, Any]]:
    """A loaded state by kind (tokens are loaded apart)."""
    return {
        Kind.SITE: state.sites, Kind.SERVICE: state.services, Kind.ENDPOINT: state.endpoints, Kind.LEASE: state.leases,
        Kind.OVERRIDE: state.overrides}


def check(state: Loaded, changes: Sequence[Change]) -> list[Broken]:
    """Every rule the state after `changes` would break, those it breaks already included."""
    result = resulting(state, changes)
    index = {(change.kind, target(change)): i for i, change in enumerate(changes)}
    return [
        *_changes_themselves(state, changes, result), *_endpoints(result, index),
        *(Broken(Invalid, fault) for fault in state.corrupt if not _settled(fault, index))]


def _changes_themselves(
    state: Loaded, changes: Sequence[Change], result: Mapping[Kind, Mapping[str, Any]],
) -> Iterator[Broken]:
    corrupt = {fault.place for fault in state.corrupt}
    before = of_kinds(state)
    for i, change in enumerate(changes):
        key = target(change)
        old = before.get(change.kind, {}).get(key)
        known = old is not None or f"{change.kind}/{key}" in corrupt or change.kind is Kind.TOKEN
        if change.op == "delete" and not known:
            yield Broken(NotFound, Fault(f"/{i}", "there is no such object"))
        if isinstance(old, Endpoint) and old.lease in state.leases:
            yield Broken(Conflict, Fault(f"/{i}", f"the endpoint is held by lease {old.lease}"))
        if isinstance(change.value, Override):
            kind, name = Kind(change.value.target), change.value.name
            if name not in result[kind]:
                yield Broken(Invalid, Fault(f"/{i}/name", f"there is no {kind} {name}"))


def _endpoints(result: Mapping[Kind, Mapping[str, Any]], index: Mapping[tuple[Kind, str], int]) -> Iterator[Broken]:
    """An endpoint's site, service and lease exist; a deleted site or service is blamed, not those who used it."""
    users: dict[tuple[Kind, str], list[str]] = {}
    for key, endpoint in result[Kind.ENDPOINT].items():
        change = index.get((Kind.ENDPOINT, key))
        place = f"endpoint/{key}" if change is None else f"/{change}"
        for kind, name in ((Kind.SITE, endpoint.site), (Kind.SERVICE, endpoint.service)):
            if name in result[kind]:
                continue
            if change is None and (kind, name) in index:
                users.setdefault((kind, name), []).append(key)
            else:
                yield Broken(Invalid, Fault(f"{place}/{kind}", f"no such {kind}: {name}"))
        if endpoint.lease is not None and endpoint.lease not in result[Kind.LEASE]:
            yield Broken(Invalid, Fault(f"{place}/lease", f"lease {endpoint.lease} is gone; delete the endpoint"))
    for name_of, keys in users.items():
        named = ", ".join(sorted(keys)[:NAMED]) + (", …" if len(keys) > NAMED else "")
        yield Broken(Conflict, Fault(f"/{index[name_of]}", f"in use by {len(keys)} endpoints: {named}"))


def _settled(fault: Fault, index: Mapping[tuple[Kind, str], int]) -> bool:
    """A corrupt value that the changes replace or delete; owned types mend themselves with the next endpoint."""
    kind, _, key = fault.place.partition("/")
    return kind == OWNED or (Kind(kind), key) in index
