"""How services stand and what happened, over HTTP: pages that wait, and streams."""

from __future__ import annotations

import asyncio
import itertools
import json

import aiohttp
import pytest

from dnsd.admin import survey
from tests.admin.conftest import Api, bearer


@pytest.mark.asyncio
async def test_a_service_that_is_not_there(api: Api) -> None:
    assert (await api.call("GET", "/v1/services/none.a.example/health", "root")).status == 404
    reply = await api.call("GET", "/v1/services/API.a.example./health", "agent-a")
    assert (reply.status, reply.body["service"]) == (200, "api.a.example")
    assert (await api.call("GET", "/v1/services/api.b.example/health", "reader-a")).status == 403


@pytest.mark.asyncio
async def test_events_in_pages(api: Api) -> None:
    news = api.control.news
    assert (await api.call("GET", "/v1/events", "reader")).body == {"items": [], "last": 0}
    for number in range(survey.PAGE + 1):
        news.add("ttl", ttl=number)
    first = (await api.call("GET", "/v1/events", "reader")).body
    assert (len(first["items"]), first["items"][0]["ttl"], first["last"]) == (survey.PAGE, 0, survey.PAGE)
    then = (await api.call("GET", f"/v1/events?after={first['last']}", "reader")).body
    assert [one["ttl"] for one in then["items"]] == [survey.PAGE]
    assert (await api.call("GET", "/v1/events?after=9999", "reader")).body == {"items": [], "last": survey.PAGE + 1}


@pytest.mark.asyncio
async def test_a_page_waits_for_the_next_event(api: Api) -> None:
    waiting = asyncio.create_task(api.call("GET", "/v1/events?timeout=30", "reader"))
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not waiting.done()
    api.control.news.add("panic", service="api.a.example")
    assert [one["what"] for one in (await waiting).body["items"]] == ["panic"]


@pytest.mark.asyncio
async def test_too_many_that_wait_are_told_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "WAITING_MAX", 0)
    assert (await api.call("GET", "/v1/events?timeout=1", "reader")).status == 503
    assert (await api.call("GET", "/v1/events", "reader")).status == 200


async def _events(response: aiohttp.ClientResponse, number: int) -> list[dict[str, object]]:
    found = []
    while len(found) < number:
        line = (await asyncio.wait_for(response.content.readline(), 5)).decode()
        if line.startswith("data: "):
            found.append(json.loads(line.removeprefix("data: ")))
    return found


@pytest.mark.asyncio
async def test_a_stream_of_events(api: Api) -> None:
    news = api.control.news
    news.add("ttl", ttl=1)
    news.add("ttl", ttl=2)
    headers = {"Authorization": f"Bearer {bearer('reader')}", "Accept": survey.STREAM}
    async with api.client.get("/v1/events?after=1", headers=headers) as response:
        assert (response.status, response.content_type) == (200, survey.STREAM)
        assert [one["ttl"] for one in await _events(response, 1)] == [2]
        news.add("ttl", ttl=3)
        assert [one["ttl"] for one in await _events(response, 1)] == [3]
    async with api.client.get("/v1/events", headers={**headers, "Last-Event-ID": "2"}) as response:
        assert [one["ttl"] for one in await _events(response, 1)] == [3]


@pytest.mark.asyncio
async def test_a_quiet_stream_is_kept_alive_and_their_number_is_bounded(
    api: Api, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(survey, "PING_S", 0.01)
    monkeypatch.setattr(survey, "STREAMS", 1)
    headers = {"Authorization": f"Bearer {bearer('reader')}", "Accept": survey.STREAM}
    async with api.client.get("/v1/events", headers=headers) as response:
        assert await asyncio.wait_for(response.content.readline(), 5) == b":\n"
        async with api.client.get("/v1/events", headers=headers) as other:
            assert other.status == 503


@pytest.mark.asyncio
async def test_one_caller_leaves_streams_to_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "OWN_STREAMS", 1)
    monkeypatch.setattr(survey, "PING_S", 0.01)
    mine, theirs = ({"Authorization": f"Bearer {bearer(name)}", "Accept": survey.STREAM} for name in ("reader", "root"))
    async with api.client.get("/v1/events", headers=mine) as response:
        assert response.status == 200
        async with api.client.get("/v1/events", headers=mine) as again:
            assert (again.status, (await again.json())["detail"]) == (503, "1 of yours are open already")
        async with api.client.get("/v1/events", headers=theirs) as other:
            assert other.status == 200


@pytest.mark.asyncio
async def test_many_events_for_many_streams_hold_nobody_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made, turns, number = 0, [0], 4
    make = survey._event

    def counted(one: dict[str, object]) -> bytes:
        nonlocal made
        made += 1
        return make(one)

    async def others() -> None:
        while True:
            turns.append(made)
            await asyncio.sleep(0)

    monkeypatch.setattr(survey, "_event", counted)
    headers = {"Authorization": f"Bearer {bearer('reader')}", "Accept": survey.STREAM}
    streams = [await api.client.get("/v1/events", headers=headers) for _ in range(number)]
    ticking = asyncio.create_task(others())
    for each in range(1000):
        api.control.news.add("ttl", ttl=each)
    for stream in streams:
        assert [one["ttl"] for one in await _events(stream, 1000)] == list(range(1000))
        stream.close()
    ticking.cancel()
    assert made == 1000 * number
    assert max(after - before for before, after in itertools.pairwise(turns)) <= number * survey.PIECE
