"""Sites, services, endpoints, overrides: list, read, put, delete with ETags, paging and scopes.

Lives here: `Resource` (what differs between the kinds), the four handlers they share, conditional requests.
Does not live here: tokens (`admin.tokens`), leases, rules between objects (the registry checks the whole result).

A write reads the object first: the caller's scope must hold what is replaced as well as what replaces it. The registry
compares the ETag again inside its own atomic write, so nothing can slip in between.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from aiohttp import web

from dnsd.admin import bodies, custody, problem
from dnsd.admin.auth import Caller, forbidden
from dnsd.admin.call import ALL, READERS, WRITERS, Call, Query, Route, answer
from dnsd.admin.problem import Problem
from dnsd.model import Fault
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, Kind, Override, Service, Site, key_of
from dnsd.registry.store import ABSENT
from dnsd.registry.values import Stored

PAGE: Final = (
    Query("page_size", "objects on a page", int, 100, 1, 1000),
    Query("page_token", "from `next_page_token` of the page before", most=1000),
    Query("prefix", "only keys that begin so", default="", most=400),
)
CONFLICTS: Final = (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.PRECONDITION_REQUIRED)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object as the API shows it. `visible` and `faults` ask the caller's scope; `faults` gives pointers."""

    kind: Kind
    plural: str
    path: str
    model: type[Model]
    fields: Callable[[Mapping[str, str]], dict[str, str]]
    visible: Callable[[Caller, Any], bool]
    faults: Callable[[Caller, Any], list[Fault]]


def _site_faults(caller: Caller, site: Site) -> list[Fault]:
    return [Fault("/id", "sites concern everybody; the token is narrowed")] if caller.narrowed else []


def _service_faults(caller: Caller, service: Service) -> list[Fault]:
    found = [] if caller.serves(service.name) else [Fault("/name", f"{service.name} is not in the token's scope")]
    places: list[tuple[str, IPv4Address | IPv6Address]] = []
    places += [(f"/fallback/a/{number}", address) for number, address in enumerate(service.fallback.a)]
    places += [(f"/fallback/aaaa/{number}", address) for number, address in enumerate(service.fallback.aaaa)]
    outside = [(place, address) for place, address in places if not caller.owns(address)]
    return found + [Fault(place, f"{address} is not in the token's scope") for place, address in outside]


def _endpoint_faults(caller: Caller, endpoint: Endpoint) -> list[Fault]:
    return caller.faults([endpoint], "")


def _override_faults(caller: Caller, override: Override) -> list[Fault]:
    """A forced state reaches whatever addresses the target has: an address scope cannot hold it."""
    if override.target == "site" or caller.networks:
        return [Fault("/target", "reaches beyond the token's scope")] if caller.narrowed else []
    service = override.name.partition("/")[0]
    return [] if caller.serves(service) else [Fault("/name", f"{service} is not in the token's scope")]


def _override_seen(caller: Caller, override: Override) -> bool:
    return override.target == "site" or caller.serves(override.name.partition("/")[0])


def _service_name(text: str) -> str:
    return text.lower().removesuffix(".")


def _override_fields(match: Mapping[str, str]) -> dict[str, str]:
    target, _, name = match["key"].partition(":")
    return {"target": target, "name": name}


SITES: Final = Resource(
    Kind.SITE, "sites", "/{id}", Site, lambda match: {"id": match["id"]},
    lambda caller, site: True, _site_faults)
SERVICES: Final = Resource(
    Kind.SERVICE, "services", "/{name}", Service, lambda match: {"name": _service_name(match["name"])},
    lambda caller, service: caller.serves(service.name), _service_faults)
ENDPOINTS: Final = Resource(
    Kind.ENDPOINT, "endpoints", "/{service}/{id}", Endpoint,
    lambda match: {"service": _service_name(match["service"]), "id": match["id"]},
    lambda caller, endpoint: caller.serves(endpoint.service), _endpoint_faults)
OVERRIDES: Final = Resource(
    Kind.OVERRIDE, "overrides", "/{key:.+}", Override, _override_fields, _override_seen, _override_faults)
RESOURCES: Final = (SITES, SERVICES, ENDPOINTS, OVERRIDES)


def key_in(resource: Resource, fields: Mapping[str, str]) -> str:
    """The key that a path's fields make."""
    if resource is OVERRIDES:
        return f"{fields['target']}:{fields['name']}"
    return "/".join(fields.values())


async def many(call: Call, resource: Resource) -> web.Response:
    """A page of the kind, ordered by key; objects outside the caller's scope are left out."""
    prefix = call.query["prefix"]
    service = call.query.get("service")
    if service:
        prefix = f"{_service_name(service)}/{prefix}"
    stored, following = await call.registry.list(
        resource.kind, after=after(call), limit=call.query["page_size"], prefix=prefix)
    items = [item(key_of(one.value), one) for one in stored if resource.visible(call.caller, one.value)]
    return page(items, following)


async def one(call: Call, resource: Resource) -> web.Response:
    """The object itself, its ETag in the header; 304 when If-None-Match names it."""
    stored = await call.registry.get(resource.kind, key_in(resource, resource.fields(call.match)))
    if stored is None:
        raise absent()
    if not resource.visible(call.caller, stored.value):
        raise forbidden("the object is not in the token's scope")
    headers = {"ETag": quoted(stored.etag)}
    if headers["ETag"] in call.request.headers.get("If-None-Match", ""):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    return answer(stored.value, headers=headers)


async def put(call: Call, resource: Resource) -> web.Response:
    """Creates or replaces the object; the path fills the fields that make the key, or must agree with them."""
    fields = resource.fields(call.match)
    value = problem.parse(resource.model, await call.body(), fields)
    key = key_in(resource, fields)
    if key_of(value) != key:
        wrong = [name for name, text in fields.items() if getattr(value, name) != text]
        raise problem.invalid(Fault("/" + name, f"the path says {fields[name]}") for name in wrong)
    if isinstance(value, Override) and (local := custody.alone(call)) is not None:
        return await custody.force(call, local, value)
    stored = await call.registry.get(resource.kind, key)
    faults = resource.faults(call.caller, value)
    refuse(faults or (resource.faults(call.caller, stored.value) if stored else []))
    fit(call, [("", value)])
    written = await call.registry.put(
        resource.kind, value, actor=call.caller.actor, if_match=precondition(call.request.headers, stored))
    return wrote(written)


async def delete(call: Call, resource: Resource) -> web.Response:
    """Deletes the object; refused while others need it."""
    key = key_in(resource, resource.fields(call.match))
    if resource is OVERRIDES and (local := custody.alone(call)) is not None:
        lifted = await custody.lift(call, local, key)
        if lifted is not None:
            return lifted
    stored = await call.registry.get(resource.kind, key)
    if resource is OVERRIDES and (found := custody.unmerged(call, key)) is not None:
        local, override = found
        refuse(resource.faults(call.caller, override))
        await local.clear(key, call.caller.id)
        if stored is None:
            return custody.only_here(local, key, created=False)
    if stored is None:
        raise absent()
    refuse(resource.faults(call.caller, stored.value))
    written = await call.registry.delete(
        resource.kind, key, actor=call.caller.actor, if_match=precondition(call.request.headers, stored))
    return wrote(written)


def refuse(faults: list[Fault]) -> None:
    """403 with every fault; none: nothing happens."""
    if faults:
        raise forbidden("beyond the token's scope", faults)


def fit(call: Call, values: Iterable[tuple[str, Any]]) -> None:
    """422 with every service (pointer, object) that cannot stand where a zone has addresses, an alias or a cut."""
    named = [(place, call.control.misplaced(value)) for place, value in values if isinstance(value, Service)]
    faults = [Fault(f"{place}/name", why) for place, why in named if why]
    if faults:
        raise problem.invalid(faults)


def absent() -> Problem:
    """404: no such object."""
    return Problem(HTTPStatus.NOT_FOUND, "not-found", "no such object")


def precondition(headers: Mapping[str, str], stored: Stored | None) -> str | None:
    """What the registry must still find, as its `if_match`; 412 when a condition fails, 428 when one is missing."""
    wanted, unwanted = headers.get("If-Match"), headers.get("If-None-Match")
    if unwanted is not None and unwanted.strip() != "*":
        raise Problem(HTTPStatus.BAD_REQUEST, "bad-condition", "a write takes If-None-Match: * or If-Match: ETAG")
    if stored is None:
        if wanted is not None:
            raise failed("the object does not exist")
        return None if unwanted is None else ABSENT
    if unwanted is not None:
        raise failed("the object exists", stored)
    if wanted is None:
        raise Problem(
            HTTPStatus.PRECONDITION_REQUIRED, "precondition-required", "the object exists: send If-Match with its ETag",
            headers={"ETag": quoted(stored.etag)})
    if wanted.strip() not in ("*", quoted(stored.etag)):
        raise failed("the object has changed", stored)
    return stored.etag


def failed(detail: str, stored: Stored | None = None) -> Problem:
    """412, with the ETag there is."""
    headers = {"ETag": quoted(stored.etag)} if stored else {}
    return Problem(HTTPStatus.PRECONDITION_FAILED, "precondition-failed", detail, headers=headers)


def quoted(etag: str) -> str:
    """An ETag as a header has it."""
    return etag if etag.startswith('"') else f'"{etag}"'


def item(key: str, stored: Stored, value: Any = None) -> dict[str, Any]:
    """A stored object in a list."""
    return {
        "key": key, "etag": quoted(stored.etag), "version": stored.version,
        "value": stored.value if value is None else value,
    }


def page(items: Iterable[Any], following: str | None) -> web.Response:
    """A page; the token is opaque to clients."""
    token = base64.urlsafe_b64encode(following.encode()).decode().rstrip("=") if following else None
    return answer({"items": list(items), "next_page_token": token})


def after(call: Call) -> str:
    """Where the page begins: what an earlier page's token holds."""
    token: str = call.query["page_token"] or ""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise problem.invalid([Fault("?page_token", "not one of ours")]) from None


def wrote(written: Any, **more: Any) -> web.Response:
    """201 or 200 with the new ETag, the version and how durable it is."""
    etag = quoted(written.etag) if written.etag else None
    members = {
        "key": written.key, "etag": etag, "version": written.version, "created": written.created,
        "durability": written.durability, **more,
    }
    return answer(members, HTTPStatus.CREATED if written.created else HTTPStatus.OK, {"ETag": etag} if etag else None)


def _routes(resource: Resource) -> tuple[Route, ...]:
    base, one_path = f"/v1/{resource.plural}", f"/v1/{resource.plural}{resource.path}"
    name = resource.kind.value
    query = (*PAGE, Query("service", "only endpoints of this service")) if resource is ENDPOINTS else PAGE
    readers = ALL if resource is SITES else READERS
    return (
        Route("GET", base, f"list_{resource.plural}", f"List {resource.plural}", partial(many, resource=resource),
              readers, query=query, answer=bodies.Page),
        Route("GET", one_path, f"get_{name}", f"Read one {name}", partial(one, resource=resource),
              readers, answer=resource.model, problems=(HTTPStatus.NOT_FOUND,)),
        Route("PUT", one_path, f"put_{name}", f"Create or replace a {name}", partial(put, resource=resource),
              WRITERS, body=resource.model, answer=bodies.Written, conditional=True, problems=CONFLICTS),
        Route("DELETE", one_path, f"delete_{name}", f"Delete a {name}", partial(delete, resource=resource),
              WRITERS, answer=bodies.Written, conditional=True, problems=(HTTPStatus.NOT_FOUND, *CONFLICTS)),
    )


ROUTES: Final = tuple(route for resource in RESOURCES for route in _routes(resource))
