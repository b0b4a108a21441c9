"""Connections through a balancer: the header cut anywhere, who is believed, whose share is used; on both loops."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dnsd.serve import stream
from dnsd.serve.crowd import Limits
from tests.serve.doors import Rig, Streams, ended, framed, numbered, reply, run, until

HEAD = b"\r\n\r\n\0\r\nQUIT\n"
BALANCER = ["127.0.9.0/24"]


def from_client(address: str) -> bytes:
    return HEAD + b"\x21\x11\0\x0c" + socket.inet_aton(address) + bytes((127, 0, 0, 1, 0, 7, 0, 53))


LOCAL = HEAD + b"\x20\0\0\0"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every message is its own reply; whom they came from is noted."""
    clients: list[str] = []

    def note(packet: bytes, client: bytes, *rest: object) -> bytes:
        clients.append(socket.inet_ntoa(client))
        return packet

    monkeypatch.setattr(stream, "respond", note)
    return clients


@pytest.mark.parametrize(("head", "client"), [(from_client("192.0.2.7"), "192.0.2.7"), (LOCAL, "127.0.9.1")])
def test_a_listed_peer_speaks_for_its_client(loop: str, seen: list[str], head: bytes, client: str) -> None:
    octets = head + framed(numbered(1))

    async def scenario(rig: Rig) -> None:
        for cut in range(0, len(octets), 1 if loop == "uvloop" else 7):
            reader, writer = await rig.connect("127.0.9.1")
            writer.write(octets[:cut])
            await asyncio.sleep(0.001)
            writer.write(octets[cut:] + framed(numbered(2)))
            assert [await reply(reader), await reply(reader)] == [numbered(1), numbered(2)]
            writer.close()

    assert run(loop, scenario, proxied=BALANCER).closed().keys() == {"client"}
    assert set(seen) == {client}


@pytest.mark.parametrize("octets", [framed(numbered(1)), from_client("192.0.2.7")[:-1], HEAD + b"\x31", b"PROXY "])
def test_a_listed_peer_must_send_a_header(loop: str, seen: list[str], octets: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect("127.0.9.1")
        writer.write(octets)
        await asyncio.sleep(0.01)
        rig.pass_time(4.9)
        rig.pass_time(0.2)
        assert await ended(reader)

    assert run(loop, scenario, proxied=BALANCER).closed() == {"proxy": 1}
    assert not seen


def test_a_listed_peer_that_says_nothing(loop: str, seen: list[str]) -> None:
    async def scenario(rig: Rig) -> None:
        silent, _ = await rig.connect("127.0.9.1")
        half, writer = await rig.connect("127.0.9.1")
        writer.write_eof()
        assert await ended(half)
        await until(lambda: len(rig.crowd) == 1)
        rig.pass_time(5.1)
        assert await ended(silent)

    assert run(loop, scenario, proxied=BALANCER).closed() == {"proxy": 2}


def test_nobody_else_is_believed(loop: str, seen: list[str]) -> None:
    """The octets of a header are then a query's length and its beginning: 3338 octets of it never come."""
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect("127.0.8.1")
        writer.write(from_client("192.0.2.7") + framed(numbered(1)))
        await asyncio.sleep(0.01)
        rig.pass_time(5.1)
        assert await ended(reader)

    assert run(loop, scenario, proxied=BALANCER).closed() == {"first_query": 1}
    assert not seen


def test_a_share_is_the_clients_not_the_balancers(loop: str, seen: list[str]) -> None:
    async def scenario(rig: Rig) -> None:
        async def ask(client: str) -> Streams:
            reader, writer = await rig.connect("127.0.9.1")
            writer.write((from_client(client) if client else LOCAL) + framed(numbered(1)))
            assert await reply(reader) == numbered(1)
            return reader, writer

        first = await ask("192.0.2.7")
        kept = [await ask(client) for client in ("198.51.100.1", "203.0.113.1", "", "", "", "192.0.2.8")]
        await ask("192.0.2.9")
        assert await ended(first[0])
        for reader, writer in kept:
            writer.write(framed(numbered(2)))
            assert await reply(reader) == numbered(2)

    assert run(loop, scenario, Limits(per_prefix=2), BALANCER).closed()["prefix_limit"] == 1
