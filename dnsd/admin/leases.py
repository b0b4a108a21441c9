"""Leases: acquire, renew one or many, release; an agent touches only its own and registers only what its token allows.

Lives here: the five routes of `/v1/leases`, whose lease is whose. Does not live here: fences, deadlines, conflicts
between holders (the registry decides them in its scripts).

Renewals are the API's steady load and change no answer. A lease's id is its holder's, and whose it is changes only with
its fence; so it is remembered and a renewal costs the registry one call. "Not yours" is never believed from memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from dnsd.admin import bodies, objects, problem, reports
from dnsd.admin.auth import Caller, forbidden
from dnsd.admin.call import ALL, HOLDERS, Call, Query, Route, answer
from dnsd.admin.problem import Problem
from dnsd.registry.models import Kind, Lease, LeaseRequest, Renewal, Role
from dnsd.registry.values import Renewed

ASK_AT_ONCE: Final = 16


async def acquire(call: Call) -> web.Response:
    """Grants a lease over all the endpoints asked for, or none. The same holder again: higher fence, new endpoints."""
    body = await call.body()
    key, said = call.request.headers.get("Idempotency-Key"), call.request.query_string.encode() + b"\n" + body
    return await call.room.memory.once(call.caller.id, key, said, lambda: _acquire(call, body))


async def _acquire(call: Call, body: bytes) -> web.Response:
    request = problem.parse(LeaseRequest, body)
    caller, take_over = call.caller, call.query["take_over"]
    objects.refuse(caller.faults(request.endpoints, "/endpoints/#"))
    if take_over:
        found = await call.registry.get(Kind.LEASE, request.holder)
        if caller.role is Role.AGENT or (found and not may_hold(caller, _lease(found.value))):
            raise forbidden("an agent takes over nobody's lease; an operator those in its scope")
    granted = await call.registry.acquire(request, actor=caller.actor, token_id=caller.id, take_over=take_over)
    lease = granted.lease
    call.room.owners.learn(lease.id, caller.id)
    call.control.registered(lease.endpoints)
    members = {
        "id": lease.id, "holder": lease.holder, "fence": lease.fence, "ttl": lease.ttl, "endpoints": lease.endpoints,
        "version": granted.version, "durability": granted.durability,
    }
    return answer(members, HTTPStatus.CREATED, {"Location": f"/v1/leases/{lease.id}"})


async def renew(call: Call) -> web.Response:
    """One heartbeat: 404 when there is no such lease (acquire again), 409 when another instance holds it now."""
    lease_id = call.match["id"]
    body = problem.parse(bodies.Renew, await call.body())
    renewal = Renewal(id=lease_id, fence=body.fence, loads=body.loads, reports=body.reports)
    renewed, = await _renew(call, [renewal])
    if renewed["problem"] == "forbidden":
        raise forbidden("not this token's lease")
    if renewed["problem"] == "unknown":
        raise Problem(HTTPStatus.NOT_FOUND, "unknown-lease", "no such lease: it expired or was released; acquire again")
    if renewed["problem"] == "fenced":
        detail = f"the lease has fence {renewed['fence']}: it was acquired again since"
        raise Problem(HTTPStatus.CONFLICT, "fenced", detail)
    return answer(renewed)


async def renew_many(call: Call) -> web.Response:
    """Many heartbeats, each decided by itself: always 200, with one result for each in their order."""
    batch = problem.parse(bodies.RenewBatch, await call.body())
    return answer({"renewed": await _renew(call, batch.renewals)})


async def _renew(call: Call, renewals: Sequence[Renewal]) -> list[dict[str, Any]]:
    renewals = [reports.loaded(renewal) for renewal in renewals]
    refused = await _not_own(call, {renewal.id for renewal in renewals})
    done = await call.registry.renew([r for r in renewals if r.id not in refused], actor=call.caller.actor)
    results = iter(done)
    out = []
    for renewal in renewals:
        problem_name = refused.get(renewal.id)
        result = Renewed(renewal.id, False, 0, 0, None) if problem_name else next(results)
        if result.problem == "unknown":
            call.room.owners.forget(renewal.id)
        out.append({**result._asdict(), "problem": problem_name or result.problem})
    reports.renewed(call.control, call.caller.id, renewals, out)
    return out


async def _not_own(call: Call, ids: Iterable[str]) -> dict[str, str]:
    """The leases of these that are not the caller's: id -> `forbidden`, or `unknown` where there is none."""
    caller, owners = call.caller, call.room.owners
    if caller.role is not Role.AGENT and not caller.narrowed:
        return {}
    doubtful = [lease for lease in ids if not owners.is_of(lease, caller.id)]
    gate = asyncio.Semaphore(ASK_AT_ONCE)

    async def look(lease_id: str) -> tuple[str, str | None]:
        async with gate:
            stored = await call.registry.get(Kind.LEASE, lease_id)
        if stored is None:
            return lease_id, "unknown"
        owners.learn(lease_id, _lease(stored.value).token)
        return lease_id, None if may_hold(caller, _lease(stored.value)) else "forbidden"

    looked = await asyncio.gather(*(look(lease) for lease in doubtful))
    return {lease: name for lease, name in looked if name}


async def release(call: Call) -> web.Response:
    """Gives the lease back; its endpoints go with it."""
    lease_id = call.match["id"]
    call.room.owners.forget(lease_id)
    if refused := await _not_own(call, [lease_id]):
        raise forbidden("not this token's lease") if refused[lease_id] == "forbidden" else objects.absent()
    written = await call.registry.release(lease_id, call.query["fence"], actor=call.caller.actor)
    call.room.owners.forget(lease_id)
    return objects.wrote(written)


async def many(call: Call) -> web.Response:
    """A page of leases; an agent sees its own."""
    stored, following = await call.registry.list(
        Kind.LEASE, after=objects.after(call), limit=call.query["page_size"], prefix=call.query["prefix"])
    seen = (one for one in stored if may_see(call.caller, _lease(one.value)))
    return objects.page([objects.item(_lease(one.value).id, one) for one in seen], following)


async def one(call: Call) -> web.Response:
    """One lease."""
    stored = await call.registry.get(Kind.LEASE, call.match["id"])
    if stored is None:
        raise objects.absent()
    if not may_see(call.caller, _lease(stored.value)):
        raise forbidden("not this token's lease")
    return answer(stored.value, headers={"ETag": objects.quoted(stored.etag)})


def may_hold(caller: Caller, lease: Lease) -> bool:
    """Whether the caller may renew or release it: its own, or as a writer whose scope holds all its services."""
    if lease.token == caller.id:
        return True
    return caller.role is not Role.AGENT and not caller.networks and _serves_all(caller, lease)


def may_see(caller: Caller, lease: Lease) -> bool:
    """Whether the caller may look at it."""
    return lease.token == caller.id or (caller.role is not Role.AGENT and _serves_all(caller, lease))


def _serves_all(caller: Caller, lease: Lease) -> bool:
    return all(caller.serves(key.partition("/")[0]) for key in lease.endpoints)


def _lease(value: object) -> Lease:
    assert isinstance(value, Lease)  # noqa: S101 - the registry reads a kind through its model
    return value


_FENCE: Final = Query("fence", "the fence the lease was granted with", int, least=1, most=2**63 - 1, required=True)
_TAKE_OVER: Final = Query("take_over", "also if the holder's lease was acquired with another token", bool, False)
_HELD: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
ROUTES: Final = (
    Route("POST", "/v1/leases", "acquire_lease", "Acquire a lease over endpoints; takes Idempotency-Key", acquire,
          HOLDERS, query=(_TAKE_OVER,), body=LeaseRequest, answer=bodies.Granted, status=HTTPStatus.CREATED,
          problems=(HTTPStatus.CONFLICT,)),
    Route("POST", "/v1/leases:renew", "renew_leases", "Renew many leases", renew_many, HOLDERS,
          body=bodies.RenewBatch, answer=bodies.RenewedBatch),
    Route("GET", "/v1/leases", "list_leases", "List leases", many, ALL, query=objects.PAGE, answer=bodies.Page),
    Route("GET", "/v1/leases/{id}", "get_lease", "Read one lease", one, ALL, answer=Lease,
          problems=(HTTPStatus.NOT_FOUND,)),
    Route("PUT", "/v1/leases/{id}", "renew_lease", "Renew one lease", renew, HOLDERS,
          body=bodies.Renew, answer=bodies.Renewed, problems=_HELD),
    Route("DELETE", "/v1/leases/{id}", "release_lease", "Release a lease", release, HOLDERS,
          query=(_FENCE,), answer=bodies.Written, problems=_HELD),
)
