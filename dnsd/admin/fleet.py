"""Fleet state as a whole: `POST /v1/apply`, all of it or nothing, with a preview and a guard against mass deletion.

Lives here: from a document to registry changes, the plan, the guard, scopes over a whole document. Does not live here:
rules between objects (`registry.rules`, over the whole resulting state, also for a dry run), single objects.

A kind that is left out is not touched. With `prune`, objects of a listed kind that the document does not name are
deleted; leased endpoints never are, they are their holders'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from aiohttp import web

from dnsd.admin import bodies, objects, problem
from dnsd.admin.auth import Caller
from dnsd.admin.call import WRITERS, Call, Query, Route, answer
from dnsd.admin.objects import RESOURCES, Resource
from dnsd.admin.problem import Problem
from dnsd.model import Fault
from dnsd.registry import rules
from dnsd.registry.errors import PreconditionFailed, RegistryError
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, Kind, Override, key_of
from dnsd.registry.values import Change, Loaded

DELETE_SHARE: Final = 0.3
_INDEX = re.compile(r"/(\d+)(.*)", re.DOTALL)


class Wanted(NamedTuple):
    """A change, the pointer of what asks for it, and the object it replaces or deletes."""

    change: Change
    place: str
    resource: Resource
    before: Model | None


async def apply(call: Call) -> web.Response:
    """Makes the registry hold what the document says; with `dry_run` only says what that would change."""
    fleet = problem.parse(bodies.Fleet, await call.body())
    loaded = await call.registry.load()
    if_version = call.query["if_version"]
    if if_version not in (None, loaded.position.version):
        raise PreconditionFailed(f"the registry is at version {loaded.position.version}, not {if_version}")
    wanted = [*puts(fleet, loaded), *deletions(fleet, loaded, prune=call.query["prune"])]
    changed = [one for one in wanted if one.change.value is None or _differs(one.change.value, one.before)]
    objects.refuse([fault for one in changed for fault in _scope(call.caller, one)])
    check(loaded, changed)
    objects.fit(call, [(one.place, one.change.value) for one in changed])
    if not call.query["force"]:
        guard(changed, loaded)
    version, durability = loaded.position.version, None
    if changed and not call.query["dry_run"]:
        try:
            written = await call.registry.apply(
                [one.change for one in changed], actor=call.caller.actor, if_version=if_version)
        except RegistryError as error:
            error.faults = _placed(error.faults, changed)
            raise
        version, durability = written.version, written.durability
    return answer({
        "dry_run": call.query["dry_run"], "version": version, "durability": durability,
        "unchanged": len(wanted) - len(changed), "steps": [_step(one) for one in changed],
    })


def puts(fleet: bodies.Fleet, loaded: Loaded) -> Iterator[Wanted]:
    """What the document names, in the order sites, services, endpoints, overrides."""
    state = rules.of_kinds(loaded)
    for resource in RESOURCES:
        for number, value in enumerate(getattr(fleet, resource.plural) or ()):
            place = f"/{resource.plural}/{number}"
            yield Wanted(Change("put", resource.kind, value), place, resource, state[resource.kind].get(key_of(value)))


def deletions(fleet: bodies.Fleet, loaded: Loaded, *, prune: bool) -> Iterator[Wanted]:
    """What the document wants gone, users before what they use: by name, and with `prune` by not being named."""
    state = rules.of_kinds(loaded)
    for resource in reversed(RESOURCES):
        present = state[resource.kind]
        named: Sequence[str] = getattr(fleet.delete, resource.plural)
        for number, key in enumerate(named):
            yield _deletion(resource, key, f"/delete/{resource.plural}/{number}", present.get(key))
        listed = getattr(fleet, resource.plural)
        if prune and listed is not None:
            keep = {key_of(value) for value in listed} | set(named)
            for key in sorted(present.keys() - keep):
                if not _leased(present[key]):
                    yield _deletion(resource, key, f"/{resource.plural}", present[key])


def guard(changed: Sequence[Wanted], loaded: Loaded) -> None:
    """422 when two or more objects and over 30 % of a kind, or of a service's endpoints, would be deleted.

    The endpoints of a service that is itself deleted count for the kind only.
    """
    state = rules.of_kinds(loaded)
    gone = [one for one in changed if one.change.op == "delete"]
    ending = {one.change.key for one in gone if one.change.kind is Kind.SERVICE}
    faults = []
    for kind, count in Counter(one.change.kind for one in gone).items():
        if _too_many(count, len(state[kind])):
            faults.append(Fault("/delete", f"deletes {count} of {len(state[kind])} {kind}s"))
    members = Counter(_service(key) for key in state[Kind.ENDPOINT])
    for service, count in Counter(_service(one.change.key) for one in gone if one.change.kind is Kind.ENDPOINT).items():
        if service not in ending and _too_many(count, members[service]):
            faults.append(Fault("/delete", f"deletes {count} of {members[service]} endpoints of {service}"))
    if faults:
        detail = f"deletes more than {DELETE_SHARE:.0%}; force=true does it all the same"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "mass-delete", detail, faults=faults)


def _too_many(count: int, of: int) -> bool:
    return count > 1 and count > DELETE_SHARE * of


def _service(key: str) -> str:
    return key.partition("/")[0]


def _deletion(resource: Resource, key: str, place: str, before: Model | None) -> Wanted:
    return Wanted(Change("delete", resource.kind, key=key), place, resource, before)


def _leased(value: Model) -> bool:
    return isinstance(value, Endpoint) and value.lease is not None


def _differs(value: Model, before: Model | None) -> bool:
    """An override's end is the registry's; naming the same one again does not prolong it."""
    if isinstance(value, Override) and isinstance(before, Override):
        return value.model_copy(update={"until_ms": before.until_ms}) != before
    return value != before


def _scope(caller: Caller, one: Wanted) -> Iterator[Fault]:
    """The caller's scope must hold what there was and what there is to be."""
    if not caller.narrowed:
        return
    for value in (one.change.value, one.before):
        if value is not None:
            yield from (Fault(one.place + place, text) for place, text in one.resource.faults(caller, value))
    if one.change.value is None and one.before is None:
        yield Fault(one.place, "there is no such object in the token's scope")


def check(loaded: Loaded, changed: Sequence[Wanted]) -> None:
    """The registry's refusal of the state these changes lead to, with the document's places; none: nothing happens."""
    changes = [one.change for one in changed]
    broken = rules.shape(changes) or rules.check(loaded, changes)
    if broken and changes:
        error = rules.error(broken)
        error.faults = _placed(error.faults, changed)
        raise error


def _placed(faults: Sequence[Fault], changed: Sequence[Wanted]) -> list[Fault]:
    """The registry names a change by its index; the client knows the document."""
    found = []
    for place, text in faults:
        match = _INDEX.fullmatch(place)
        found.append(Fault(changed[int(match[1])].place + match[2], text) if match else Fault(place, text))
    return found


def _step(one: Wanted) -> Mapping[str, Any]:
    op = "delete" if one.change.value is None else "change" if one.before else "create"
    key = rules.target(one.change)
    return {"op": op, "kind": one.change.kind, "key": key, "before": one.before, "after": one.change.value}


_QUERY: Final = (
    Query("dry_run", "only answer the plan", bool, False),
    Query("prune", "delete objects of listed kinds that the document does not name", bool, False),
    Query("force", "delete more than 30 % all the same", bool, False),
    Query("if_version", "refuse if the registry is not at this version", int, least=0, most=2**63 - 1),
)
ROUTES: Final = (
    Route("POST", "/v1/apply", "apply", "Make the registry hold a document, all of it or nothing", apply, WRITERS,
          query=_QUERY, body=bodies.Fleet, answer=bodies.Plan, problems=objects.CONFLICTS[:2]),
)
