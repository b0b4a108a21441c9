"""Endpoints that die in the ways they say, and single requests."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from dnsd.drill import web


@pytest.fixture(autouse=True)
def other_port(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PORT", port)


@pytest.mark.asyncio
@pytest.mark.parametrize(("death", "fine", "least"), [
    ("", True, 0), ("500", False, 0), ("rst", False, 0), ("slow", False, 0.2)])
async def test_an_endpoint_dies_and_lives_again(death: str, fine: bool, least: float) -> None:
    endpoint = web.Endpoint("127.0.0.1", socket.socket)
    await endpoint.start()
    await endpoint.become(death)
    began = time.monotonic()
    assert await web.get(socket.socket(), "127.0.0.1", 0.2) is fine
    assert least <= time.monotonic() - began < 1
    await endpoint.become("")
    assert await web.get(socket.socket(), "127.0.0.1", 2)
    endpoint.stop()


def test_a_connection_that_is_open_at_the_end_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def drill() -> None:
        endpoint = web.Endpoint("127.0.0.1", socket.socket)
        await endpoint.start()
        user.connect(("127.0.0.1", web.PORT))
        await asyncio.sleep(0.1)
        endpoint.stop()

    with socket.socket() as user:
        asyncio.run(drill())
    assert caplog.messages == []


async def answered(raw: bytes) -> web.Reply:
    got, over = [], asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        got.append(head + await reader.readexactly(size))
        writer.write(raw)
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()
    try:
        reply = await web.call(socket.socket(), target, ("POST", "/v1/x"), token="t", body={"a": 1}, seconds=2)
    finally:
        await over.wait()
        server.close()
    assert got[0].startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert b"Authorization: Bearer t\r\n" in got[0]
    assert got[0].endswith(b'{"a": 1}')
    return reply


@pytest.mark.asyncio
async def test_a_call_sends_json_and_reads_it() -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\r\n"
    assert await answered(head + b'{"version": 3}') == web.Reply(201, {"version": 3})
    assert await answered(b"HTTP/1.1 503 No\r\n\r\nsorry") == web.Reply(503, "sorry")


@pytest.mark.asyncio
@pytest.mark.parametrize("raw", [b"", b"nonsense and more", b"HTTP/1.1 200 OK\r\nContent-Type: a/json\r\n\r\n{"])
async def test_what_is_no_answer_is_a_lost_connection(raw: bytes) -> None:
    with pytest.raises(ConnectionError):
        await answered(raw)
