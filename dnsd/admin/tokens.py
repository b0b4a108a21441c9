"""Tokens as objects: made, narrowed, revoked by an admin; their secrets shown once and their digests never.

Lives here: the four routes of `/v1/tokens`. Does not live here: checking a caller's token (`admin.auth`).

The last admin that does not expire cannot be deleted or demoted: nobody could make another.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from dnsd.admin import auth, bodies, objects, problem
from dnsd.admin.call import ADMINS, Call, Query, Route, answer
from dnsd.admin.problem import Problem
from dnsd.model import Fault
from dnsd.registry.models import Kind, Role, Token


async def many(call: Call) -> web.Response:
    """A page of tokens."""
    stored, following = await call.registry.list(
        Kind.TOKEN, after=objects.after(call), limit=call.query["page_size"], prefix=call.query["prefix"])
    items = [objects.item(_token(one.value).id, one, shown(_token(one.value))) for one in stored]
    return objects.page(items, following)


async def one(call: Call) -> web.Response:
    """One token, without its digest."""
    stored = await call.registry.get(Kind.TOKEN, call.match["id"])
    if stored is None:
        raise objects.absent()
    return answer(shown(_token(stored.value)), headers={"ETag": objects.quoted(stored.etag)})


async def put(call: Call) -> web.Response:
    """Makes or changes a token. A new one's secret is made here unless `sha256` is given; a change keeps it, or
    `rotate` makes another.
    """
    token_id = call.match["id"]
    spec = problem.parse(bodies.TokenSpec, await call.body(), {"id": token_id})
    if spec.id != token_id:
        raise problem.invalid([Fault("/id", f"the path says {token_id}")])
    found = await call.registry.get(Kind.TOKEN, token_id)
    if_match = objects.precondition(call.request.headers, found)
    text, sha256 = None, spec.sha256
    if sha256 is None and found is not None and not call.query["rotate"]:
        sha256 = _token(found.value).sha256
    elif sha256 is None:
        text, sha256 = auth.issue(token_id)
    token = Token(**{**spec.model_dump(), "sha256": sha256})
    if found is not None and not lasting(token):
        await _keep_one(call, token_id)
    written = await call.registry.put(Kind.TOKEN, token, actor=call.caller.actor, if_match=if_match)
    call.room.tokens.forget(token_id)
    return objects.wrote(written, token=text)


async def delete(call: Call) -> web.Response:
    """Revokes a token: at once on this node, within auth.FRESH_SECONDS on others."""
    token_id = call.match["id"]
    found = await call.registry.get(Kind.TOKEN, token_id)
    if found is None:
        raise objects.absent()
    if_match = objects.precondition(call.request.headers, found)
    await _keep_one(call, token_id)
    written = await call.registry.delete(Kind.TOKEN, token_id, actor=call.caller.actor, if_match=if_match)
    call.room.tokens.forget(token_id)
    return objects.wrote(written)


def shown(token: Token) -> dict[str, Any]:
    """A token without its digest; what GET gives, PUT takes."""
    return token.model_dump(mode="json", exclude={"sha256"})


def lasting(token: Token) -> bool:
    """An admin that does not expire."""
    return token.role is Role.ADMIN and token.expires_ms is None


async def _keep_one(call: Call, but: str) -> None:
    """409 unless another lasting admin exists."""
    after = ""
    while True:
        stored, following = await call.registry.list(Kind.TOKEN, after=after, limit=1000)
        if any(lasting(token) and token.id != but for token in (_token(one.value) for one in stored)):
            return
        if not following:
            break
        after = following
    found = await call.registry.get(Kind.TOKEN, but)
    if found is not None and lasting(_token(found.value)):
        raise Problem(HTTPStatus.CONFLICT, "last-admin", "this is the last admin token that does not expire")


def _token(value: object) -> Token:
    assert isinstance(value, Token)  # noqa: S101 - the registry reads a kind through its model
    return value


_ROTATE: Final = Query("rotate", "give an existing token a new secret; its leases stay its own", bool, False)
ROUTES: Final = (
    Route("GET", "/v1/tokens", "list_tokens", "List tokens", many, ADMINS, query=objects.PAGE, answer=bodies.Page),
    Route("GET", "/v1/tokens/{id}", "get_token", "Read one token", one, ADMINS, answer=bodies.TokenSpec,
          problems=(HTTPStatus.NOT_FOUND,)),
    Route("PUT", "/v1/tokens/{id}", "put_token", "Make or change a token; a new one's text is answered once", put,
          ADMINS, query=(_ROTATE,), body=bodies.TokenSpec, answer=bodies.TokenWritten, conditional=True,
          problems=objects.CONFLICTS),
    Route("DELETE", "/v1/tokens/{id}", "delete_token", "Revoke a token", delete, ADMINS,
          answer=bodies.Written, conditional=True, problems=(HTTPStatus.NOT_FOUND, *objects.CONFLICTS)),
)
