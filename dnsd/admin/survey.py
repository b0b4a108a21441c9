"""How a service's endpoints stand, and what has happened: for people, dashboards and scripts that follow a node.

Lives here: the handlers. Does not live here: what they show (`control.survey`, `control.news`).

Events come as pages that wait, or, to who accepts `text/event-stream`, one by one as they happen.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from pydantic_core import to_json

from dnsd.admin.auth import forbidden
from dnsd.admin.call import ALL, READERS, Call, Query, Route, answer
from dnsd.admin.problem import Problem

STREAM: Final = "text/event-stream"
SECONDS_MAX: Final = 60
PAGE: Final = 500
PIECE: Final = 50
"""Events that go to one stream before others get a turn: they all wake at once."""

STREAMS: Final = 32
OWN_STREAMS: Final = 8
"""Streams at a time, and of one caller: a few that nobody reads must leave some to others."""

WAITING_MAX: Final = 256
PING_S: Final = 15.0


async def stands(call: Call) -> web.Response:
    """Every endpoint of a service: what each node sees of it, lease, override, share of its weight, what holds it."""
    name = call.match["name"].lower().removesuffix(".")
    if not call.caller.serves(name):
        raise forbidden("the name is not in the token's scope")
    found = call.control.stands(name)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "not-found", "there is no such service")
    return answer(found)


async def events(call: Call) -> web.StreamResponse:
    """What happened on this node after a number: a page, as soon as there is any, or a stream of server-sent events."""
    if call.caller.narrowed:
        raise forbidden("events concern everybody; the token is narrowed")
    if STREAM in call.request.headers.get("Accept", ""):
        return await _stream(call)
    news, after = call.control.news, call.query["after"]
    if call.query["timeout"] > 0 and call.room.waiting >= WAITING_MAX:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-waiting", f"{WAITING_MAX} calls wait already")
    call.room.waiting += 1
    try:
        await news.wait(after, call.query["timeout"])
    finally:
        call.room.waiting -= 1
    found = news.after(after, PAGE)
    return answer({"items": found, "last": found[-1]["id"] if found else min(after, news.last)})


async def _stream(call: Call) -> web.StreamResponse:
    """Server-sent events until the caller leaves; `Last-Event-ID` goes on where a former stream ended."""
    news, room = call.control.news, call.room
    who = call.caller.actor
    if len(room.streams) >= STREAMS:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-streams", f"{STREAMS} streams are open already")
    if room.streams.count(who) >= OWN_STREAMS:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-streams", f"{OWN_STREAMS} of yours are open already")
    last = call.request.headers.get("Last-Event-ID", "")
    after = int(last) if last.isdecimal() and len(last) < 16 else call.query["after"]
    response = web.StreamResponse(headers={"Content-Type": STREAM, "Cache-Control": "no-store"})
    room.streams.append(who)
    try:
        await response.prepare(call.request)
        while True:
            found = news.after(after, PIECE)
            if found:
                await response.write(b"".join(map(_event, found)))
                after = found[-1]["id"]
                await asyncio.sleep(0)
                continue
            await news.wait(after, PING_S)
            if news.last <= after:
                await response.write(b":\n\n")
    except (ConnectionError, asyncio.CancelledError):
        return response
    finally:
        room.streams.remove(who)


def _event(one: dict[str, Any]) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (one["id"], to_json(one))


_AFTER: Final = (
    Query("after", "the number of the last event that is known", int, 0, least=0, most=2**53),
    Query("timeout", "seconds to wait for one, at most", float, 0.0, 0, SECONDS_MAX),
)
ROUTES: Final = (
    Route("GET", "/v1/services/{name}/health", "stands", "How a service's endpoints stand", stands, ALL),
    Route("GET", "/v1/events", "events", "What happened on this node", events, READERS, query=_AFTER),
)
