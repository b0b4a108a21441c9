"""A registry in doubt: what stands where, taking what it has, or writing back what is served.

Lives here: the routes of `/v1/registry`, and what is forced on one node alone. Does not live here: judging, adopting,
restoring (`control.custody`), overrides of this node (`control.local`).

With the registry emptied no token is left; so all of this works by the socket in the state directory too.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from dnsd.admin import bodies
from dnsd.admin.auth import SOCKET, forbidden
from dnsd.admin.call import ADMINS, READERS, Call, Route, answer
from dnsd.control.custody import Custody
from dnsd.control.local import Local
from dnsd.registry.errors import Unavailable
from dnsd.registry.models import Override

CONFLICTS: Final = (
    HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.PRECONDITION_REQUIRED,
    HTTPStatus.SERVICE_UNAVAILABLE)


async def state(call: Call) -> web.Response:
    """Whether the registry is followed, away or held off, why, and what would be lost with it."""
    told = _custody(call).described()
    return answer(told, headers={"ETag": f'"{told["etag"]}"'} if told["etag"] else None)


async def accept(call: Call) -> web.Response:
    """Takes what the registry has in place of what is served, or says that an alarm was seen; for all nodes."""
    return answer(await _custody(call).accept(_etag(call), call.caller.actor))


async def restore(call: Call) -> web.Response:
    """Writes what this node serves back into the registry; all nodes go on with that."""
    return answer(await _custody(call).restore(_etag(call), call.caller.actor))


def alone(call: Call) -> Local | None:
    """This node's own overrides, where the registry cannot have them and the caller came by the node's own socket."""
    local = call.control.local
    return local if local is not None and local.apart and call.caller.via == SOCKET else None


def unmerged(call: Call, key: str) -> tuple[Local, Override] | None:
    """What was forced here alone and is about to be the registry's: ended there only, it would come back."""
    local = call.control.local
    entry = None if local is None or local.apart else local.entries.get(key)
    return None if local is None or entry is None or entry.version else (local, entry.override)


async def force(call: Call, local: Local, override: Override) -> web.Response:
    """Forces a state on this node alone."""
    entry = await local.force(override, call.caller.id)
    return only_here(local, entry.override.key, created=True)


async def lift(call: Call, local: Local, key: str) -> web.Response | None:
    """Ends what is forced on this node alone; None where nothing is."""
    return only_here(local, key, created=False) if await local.clear(key, call.caller.id) else None


def only_here(local: Local, key: str, *, created: bool) -> web.Response:
    """What was done on this node alone."""
    members: dict[str, Any] = {
        "key": key, "etag": None, "version": 0, "created": created, "local": True,
        "durability": "unknown" if local.unsaved else "fsync"}
    return answer(members, HTTPStatus.CREATED if created else HTTPStatus.OK)


def _custody(call: Call) -> Custody:
    if call.caller.narrowed:
        raise forbidden("the registry concerns everybody; the token is narrowed")
    if call.control.custody is None:
        raise Unavailable("the registry has not been asked yet")
    return call.control.custody


def _etag(call: Call) -> str | None:
    wanted = call.request.headers.get("If-Match")
    return None if wanted is None else wanted.strip().strip('"')


ROUTES: Final = (
    Route("GET", "/v1/registry", "get_registry", "Whether the registry is followed, away or held off, and why", state,
          READERS, answer=bodies.RegistryState, problems=(HTTPStatus.SERVICE_UNAVAILABLE,)),
    Route("POST", "/v1/registry/accept", "accept_registry", "Take what the registry has, or say an alarm was seen",
          accept, ADMINS, answer=bodies.Adopted, conditional=True, problems=CONFLICTS),
    Route("POST", "/v1/registry/restore", "restore_registry", "Write what is served back into the registry",
          restore, ADMINS, answer=bodies.Adopted, conditional=True, problems=CONFLICTS),
)
