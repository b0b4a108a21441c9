"""The UDP loop: real answers, a bug in answering, and the turn it takes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple

import dns.message
import dns.rcode
import pytest

from dnsd import metrics
from dnsd.image.reading import Image
from dnsd.serve import mmsg, udp
from tests.serve.samples import addresses, counters, image_bytes, nsid, query


class Rig(NamedTuple):
    client: socket.socket
    listener: udp.Listener
    serving: udp.Serving
    count: memoryview


@pytest.fixture(params=[True, False], ids=["batched", "single"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    count = counters()
    serving = udp.Serving(Image(image_bytes()), count, "n1 w0")
    with (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
          socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client):
        for sock in (server, client):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        client.connect(server.getsockname())
        client.settimeout(2)
        yield Rig(client, udp.Listener(mmsg.channel(server, count, batched=request.param), serving), serving, count)


def test_queries_are_answered_from_the_image(rig: Rig) -> None:
    for number in range(3):
        rig.client.send(query("WWW.demo.example", number=number))
    rig.client.send(query("api.demo.example", nsid=True))
    rig.client.send(b"too short")
    rig.listener.readable()
    for number in range(3):
        reply = rig.client.recv(4096)
        assert dns.message.from_wire(reply).id == number
        assert addresses(reply) == ["192.0.2.80"]
    reply = rig.client.recv(4096)
    assert addresses(reply) == ["198.51.100.1"]
    assert nsid(reply).startswith("n1 w0 ")
    assert (rig.count[metrics.QUERIES_UDP], rig.count[metrics.RESPONSES_UDP]) == (5, 4)


def test_the_image_served_is_the_one_there_is_now(rig: Rig) -> None:
    for endpoint in (1, 2):
        rig.serving.image = Image(image_bytes(endpoint=endpoint))
        rig.client.send(query("api.demo.example"))
        rig.listener.readable()
        assert addresses(rig.client.recv(4096)) == [f"198.51.100.{endpoint}"]


def test_a_query_that_raises_costs_only_itself(
        rig: Rig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    honest = udp.respond

    def fragile(packet: bytes, *rest: object) -> bytes | None:
        if b"bomb" in packet:
            raise KeyError("boom")
        return honest(packet, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(udp, "respond", fragile)
    for name in ("www.demo.example", "bomb.demo.example", "bomb.demo.example", "www.demo.example"):
        rig.client.send(query(name))
    rig.listener.readable()
    replies = [dns.message.from_wire(rig.client.recv(4096)) for _ in range(4)]
    assert [reply.rcode() for reply in replies] == [dns.rcode.NOERROR, dns.rcode.SERVFAIL, dns.rcode.SERVFAIL, 0]
    assert str(replies[1].question[0].name) == "bomb.demo.example."
    assert rig.count[metrics.INTERNAL_ERRORS] == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, "one line a minute"
    assert query("bomb.demo.example").hex() in said
    assert "KeyError: 'boom'" in said


def test_one_turn_is_bounded(rig: Rig) -> None:
    number = mmsg.BATCH * udp.ROUNDS + 10
    for _ in range(number):
        rig.client.send(query("www.demo.example"))
    rig.listener.readable()
    assert rig.count[metrics.QUERIES_UDP] == number - 10
    rig.listener.readable()
    assert rig.count[metrics.QUERIES_UDP] == number


@pytest.mark.parametrize(("packet", "expected"), [
    (b"", None),
    (b"\0\1\1\0\0\1\0\0\0\0\0", None),
    (b"\0\1\x81\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", None),
    (b"\0\1\1\0\0\1\0\0\0\0\0\0\1a\0\0\1\0\1", b"\0\1\x81\2\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"),
    (b"\0\1\1\0\0\1\0\0\0\0\0\1\1a\0\0\1\0\1opt", b"\0\1\x81\2\0\1\0\0\0\0\0\0\1a\0\0\1\0\1"),
    (b"\0\1\x20\0\0\1\0\0\0\0\0\0\1a\0\0\1\0", b"\0\1\xa0\2\0\0\0\0\0\0\0\0"),
    (b"\0\1\0\0\0\2\0\0\0\0\0\0\1a\0\0\1\0\1", b"\0\1\x80\2\0\0\0\0\0\0\0\0"),
    (b"\0\1\0\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", b"\0\1\x80\2\0\0\0\0\0\0\0\0"),
    (b"\0\1\0\0\0\1\0\0\0\0\0\0" + b"\1a" * 128 + b"\0\0\1\0\1", b"\0\1\x80\2\0\0\0\0\0\0\0\0"),
])
def test_servfail(packet: bytes, expected: bytes | None) -> None:
    assert udp.servfail(packet) == expected
