"""The tap: exactly every Nth query over all doors, with its own reply; a full socket holds nobody up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.image import samples
from dnsd.image.reading import Image
from dnsd.image.samples import Address, Origin, Sample
from dnsd.serve import mmsg, udp
from dnsd.serve.tap import Tap
from tests.serve.samples import counters, image_bytes, query

V4, V6 = bytes((192, 0, 2, 1)), bytes(15) + b"\1"


class Wire:
    """Both ends of the way to control, and a tap at one of them."""

    def __init__(self, every: int) -> None:
        self.inner, self.outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.inner.setblocking(False)
        self.outer.setblocking(False)
        self.count = counters()
        self.tap = Tap(self.inner, every, 3, self.count)

    def packets(self) -> list[tuple[Origin, list[Sample]]]:
        found = []
        while True:
            try:
                found.append(samples.decode(self.outer.recv(samples.PACKET_MAX)))
            except BlockingIOError:
                return found

    def taken(self) -> list[Sample]:
        return [sample for _, more in self.packets() for sample in more]

    def close(self) -> None:
        self.inner.close()
        self.outer.close()


@pytest.fixture
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    made = Wire(getattr(request, "param", 1))
    yield made
    made.close()


class Batch:
    """A channel with a batch in it, without a socket."""

    local = Address(V4, 53)

    def __init__(self, queries: list[bytes]) -> None:
        self.queries = queries

    def batch(self) -> Iterator[tuple[bytes, int, tuple[bytes]]]:
        return ((each + b"behind it", len(each), (V6,)) for each in self.queries)

    def port(self, at: int) -> int:
        return 1000 + at


class Transport(asyncio.BaseTransport):
    """A connection's ends."""

    def __init__(self, **extra: Any) -> None:
        super().__init__({"peername": ("192.0.2.1", 7, 0, 0), "sockname": ("::ffff:192.0.2.53", 853)} | extra)


def numbered(number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes(13)


def framed(*messages: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in messages)


@given(st.integers(1, 40), st.lists(st.tuples(st.booleans(), st.integers(1, 64)), max_size=20))
def test_every_nth_query_over_all_doors(every: int, turns: list[tuple[bool, int]]) -> None:
    wire, sent = Wire(every), 0
    for over_udp, number in turns:
        queries = [numbered(n) for n in range(sent, sent + number)]
        replies = [b"reply" + each for each in queries]
        if over_udp:
            wire.tap.udp(Batch(queries), replies)  # type: ignore[arg-type]
        else:
            replies = [each[:2] + b"reply" + each for each in queries]
            wire.tap.stream(V4, Transport(), framed(*queries) + b"\0", replies, number)
        sent += number
    taken = wire.taken()
    assert [int.from_bytes(sample.query[:4], "big") for sample in taken] == list(range(every - 1, sent, every))
    assert all(sample.reply.endswith(b"reply" + sample.query) for sample in taken)
    assert wire.count[metrics.CAPTURE_TAKEN] == len(taken)
    wire.close()


def test_what_a_packet_tells(wire: Wire) -> None:
    wire.tap.udp(Batch([b"one", b"two"]), [b"reply", None])  # type: ignore[arg-type]
    [(origin, found)] = wire.packets()
    assert origin[:3] == (1, 3, samples.UDP)
    assert origin.time > 1_700_000_000 * 10**9
    assert origin.local == Address(V4, 53)
    assert found == [Sample(Address(V6, 1000), b"one", b"reply"), Sample(Address(V6, 1001), b"two", b"")]


@pytest.mark.parametrize(("extra", "kind", "port"), [
    ({}, samples.TCP, 7), ({}, samples.TLS, 7),
    ({"peername": ("198.51.100.7", 9)}, samples.TCP, 0), ({"peername": None}, samples.TCP, 0),
])
def test_a_connections_ends(wire: Wire, extra: dict[str, Any], kind: int, port: int) -> None:
    wire.tap.stream(V4, Transport(**extra), framed(b"id and a query"), [b"id and a reply"], 1, tls=kind == samples.TLS)
    [(origin, [sample])] = wire.packets()
    assert (origin.transport, origin.local) == (kind, Address(bytes((192, 0, 2, 53)), 853))
    assert sample == Sample(Address(V4, port), b"id and a query", b"id and a reply")


def test_replies_of_a_turn_find_their_queries(wire: Wire) -> None:
    """One query got none, one was itself a reply and of the same id as the next."""
    one, two, none, four = (n.to_bytes(2, "big") + b"\1" + bytes(14) for n in (1, 2, 3, 2))
    stray = b"\0\2\x81" + bytes(14)
    replies = [each[:2] + b"\x81" for each in (one, two, four)]
    wire.tap.stream(V4, Transport(), framed(one, stray, two, none, four), replies, 5)
    assert [s.reply for s in wire.taken()] == [replies[0], b"", replies[1], b"", replies[2]]


def test_a_full_socket_drops_and_counts(wire: Wire) -> None:
    batch = Batch([bytes(500)] * 64)
    for _ in range(100):
        wire.tap.udp(batch, [bytes(1200)] * 64)  # type: ignore[arg-type]
    taken, dropped = wire.count[metrics.CAPTURE_TAKEN], wire.count[metrics.CAPTURE_DROPPED]
    assert taken + dropped == 6400
    assert dropped > 0
    assert len(wire.taken()) == taken
    wire.tap.udp(batch, [b"x"] * 64)  # type: ignore[arg-type]
    assert len(wire.taken()) == 64, "room again"
    wire.outer.close()
    wire.tap.udp(batch, [b"x"] * 64)  # type: ignore[arg-type]
    assert wire.count[metrics.CAPTURE_DROPPED] == dropped + 64


def test_packets_stay_small(wire: Wire) -> None:
    wire.tap.udp(Batch([bytes(500)] * 64), [bytes(1200)] * 64)  # type: ignore[arg-type]
    packets = wire.packets()
    assert len(packets) == 4
    assert sum(len(found) for _, found in packets) == 64


@pytest.mark.parametrize("wire", [4], indirect=True)
@pytest.mark.parametrize("batched", [True, False])
def test_a_real_socket(wire: Wire, batched: bool) -> None:
    count = counters()
    serving = udp.Serving(Image(image_bytes()), count, "n1 w0")
    serving.tap = wire.tap
    with (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server,
          socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client):
        server.bind(("::1", 0))
        server.setblocking(False)
        client.connect(server.getsockname())
        client.settimeout(2)
        listener = udp.Listener(mmsg.channel(server, count, batched=batched), serving)
        replies = []
        for size in (1, 3, 5, 1):
            for number in range(size):
                client.send(query("www.demo.example", number=100 * size + number))
            listener.readable()
            replies += [client.recv(4096) for _ in range(size)]
        here, there = server.getsockname()[1], client.getsockname()[1]
    packets = wire.packets()
    assert [origin.local for origin, _ in packets] == [Address(V6, here)] * 2
    taken = [sample for _, found in packets for sample in found]
    assert [sample.client for sample in taken] == [Address(V6, there)] * 2
    assert [sample.reply for sample in taken] == [replies[3], replies[7]]
    assert [sample.query[:2] for sample in taken] == [each[:2] for each in (replies[3], replies[7])]
