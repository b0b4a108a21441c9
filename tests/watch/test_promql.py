"""Asking a Prometheus: a real HTTP server that answers as it does, and as it should not."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from dnsd.watch.promql import LARGEST, WHOLE, NoAnswer, Prometheus, numbers


def sample(value: str, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [1_700_000_000.123, value]}


def vector(*samples: dict[str, Any]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": list(samples)}}


SCALAR = {"status": "success", "data": {"resultType": "scalar", "result": [1_700_000_000.1, "2.5"]}}


class Server:
    """Answers `/prefix/api/v1/query` with what is set; keeps what was asked."""

    def __init__(self) -> None:
        self.body: bytes = json.dumps(vector()).encode()
        self.status = 200
        self.wait_s = 0.0
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[dict[str, str], str | None]] = []
        self.encodings: list[str | None] = []
        self.url = ""

    async def query(self, request: web.Request) -> web.Response:
        self.asked.append((dict(await request.post()), request.headers.get("Authorization")))  # type: ignore[arg-type]
        self.encodings.append(request.headers.get("Accept-Encoding"))
        await asyncio.sleep(self.wait_s)
        return web.Response(body=self.body, status=self.status, headers=self.headers)

    async def elsewhere(self, _: web.Request) -> web.Response:
        return web.Response(body=json.dumps(SCALAR).encode())


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_post("/prefix/api/v1/query", made.query)
    app.router.add_route("*", "/elsewhere", made.elsewhere)
    async with TestServer(app) as running:
        made.url = str(running.make_url("/prefix/"))
        yield made


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[Prometheus]:
    made = Prometheus(server.url, timeout_s=0.5)
    yield made
    await made.close()


@pytest.mark.asyncio
async def test_one_number_for_each_endpoint(server: Server, client: Prometheus) -> None:
    server.body = json.dumps(vector(sample("0.5", endpoint="one", job="x"), sample("7", endpoint="two"))).encode()
    assert await client.ask('rate(x{a="b"}[1m])') == {"one": 0.5, "two": 7.0}
    assert server.asked == [({"query": 'rate(x{a="b"}[1m])', "timeout": "0.500s"}, None)]


@pytest.mark.parametrize(("body", "found"), [
    (vector(), {}),
    (vector(sample("3")), {WHOLE: 3.0}),
    (vector(sample("3", job="x")), {WHOLE: 3.0}),
    (SCALAR, {WHOLE: 2.5}),
    (vector(sample("NaN", endpoint="one"), sample("+Inf", endpoint="two"), sample("1e3", endpoint="three")),
     {"three": 1000.0}),
])
def test_numbers(body: dict[str, Any], found: dict[str, float]) -> None:
    assert numbers(json.dumps(body).encode(), 200) == found


@pytest.mark.parametrize(("body", "status", "why"), [
    (b"", 502, "HTTP 502, no JSON"), (b"<html>", 200, "HTTP 200, no JSON"), (b"[" * 100_000, 200, "no JSON"),
    (b"[]", 200, "HTTP 200"), (b"5", 200, "HTTP 200"), (b'{"status": "success"}', 200, "not the answer"),
    (b'{"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}', 400,
     "HTTP 400: parse error at char 3"),
    (b'{"status": "success", "data": 5}', 200, "not the answer"),
    (b'{"status": "success", "data": {"resultType": "matrix", "result": []}}', 200, "a matrix, not"),
    (b'{"status": "success", "data": {"resultType": "vector", "result": 5}}', 200, "not the answer"),
    (b'{"status": "success", "data": {"resultType": "vector", "result": [{}]}}', 200, "not the answer"),
    (json.dumps(vector(sample("x", endpoint="one"))).encode(), 200, "not the answer"),
    (json.dumps(vector(sample("1", endpoint="one", a="1"), sample("2", endpoint="one", a="2"))).encode(), 200,
     "several samples for one endpoint"),
    (json.dumps(SCALAR).encode(), 503, "HTTP 503"),
    (json.dumps(vector(sample("1", endpoint="one"), sample("2"))).encode(), 200, "some samples have no label"),
])
def test_what_is_no_answer(body: bytes, status: int, why: str) -> None:
    with pytest.raises(NoAnswer, match=why.replace("(", "\\(")):
        numbers(body, status)


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["vector", "success", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["status", "data", "resultType", "result", "metric", "value", "endpoint", "error"]), inner),
    max_leaves=12))
def test_any_json_is_numbers_or_no_answer(body: Any) -> None:
    try:
        found = numbers(json.dumps(body).encode(), 200)
    except NoAnswer:
        return
    assert all(type(name) is str for name in found)
    assert all(type(value) is float for value in found.values())


@pytest.mark.asyncio
async def test_a_token_is_read_anew_each_time(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "token"
    client = Prometheus(server.url, token_file=path)
    try:
        with pytest.raises(NoAnswer, match="FileNotFoundError"):
            await client.ask("x")
        for token in ("first", "second"):
            path.write_text(f"{token}\n")
            await client.ask("x")
        assert [authorization for _, authorization in server.asked] == ["Bearer first", "Bearer second"]
    finally:
        await client.close()


@pytest.mark.asyncio
async def test_bounds_of_an_exchange(server: Server, client: Prometheus) -> None:
    server.wait_s = 5.0
    with pytest.raises(NoAnswer, match="timeout"):
        await client.ask("x")
    server.wait_s = 0.0
    server.body = b" " * (LARGEST + 1)
    with pytest.raises(NoAnswer, match="more than"):
        await client.ask("x")
    server.body, server.status, server.headers = b"", 307, {"Location": "/elsewhere"}
    with pytest.raises(NoAnswer, match="HTTP 307"):  # a redirect is not followed
        await client.ask("x")


@pytest.mark.asyncio
async def test_a_body_is_not_blown_up(server: Server, client: Prometheus) -> None:
    """Nothing compressed is asked for, and what is compressed all the same is no answer."""
    server.body, server.headers = gzip.compress(b" " * (64 << 20)), {"Content-Encoding": "gzip"}
    tracemalloc.start()
    try:
        with pytest.raises(NoAnswer, match="no JSON"):
            await client.ask("x")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert server.encodings == ["identity"]


@pytest.mark.asyncio
async def test_a_body_that_comes_an_octet_at_a_time() -> None:
    """Its end is when the time is up, whatever comes meanwhile."""
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            while True:
                writer.write(b"1\r\n \r\n")
                await writer.drain()
                await asyncio.sleep(0)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as listening:
        client = Prometheus(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", timeout_s=0.3)
        with pytest.raises(NoAnswer, match=r"timeout|more than"):
            await client.ask("x")
        await client.close()


@pytest.mark.asyncio
async def test_nobody_there() -> None:
    client = Prometheus("http://127.0.0.1:1")
    with pytest.raises(NoAnswer, match="Connect"):
        await client.ask("x")
    await client.close()
