"""Batches: both channels give the same queries and send the same replies, whatever the kernel refuses."""

from __future__ import annotations

import ctypes
import errno
import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.serve import mmsg
from tests.serve.samples import counters

LOOPBACK = {socket.AF_INET: ("127.0.0.1", bytes((127, 0, 0, 1))), socket.AF_INET6: ("::1", bytes(15) + b"\1")}


class Rig:
    """A server socket with its channel, and some clients."""

    def __init__(self, family: socket.AddressFamily, *, batched: bool, clients: int = 3) -> None:
        self.count = counters()
        self.host, self.packed = LOOPBACK[family]
        self.server = self._socket(family)
        self.server.setblocking(False)
        self.clients = [self._socket(family) for _ in range(clients)]
        for client in self.clients:
            client.connect(self.server.getsockname())
            client.settimeout(2)
        self.channel = mmsg.channel(self.server, self.count, batched=batched)

    def _socket(self, family: socket.AddressFamily) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        sock.bind((self.host, 0))
        return sock

    def ask(self, packets: list[bytes]) -> None:
        """Each packet from the next client in turn."""
        for client, packet in zip(itertools.cycle(self.clients), packets, strict=False):
            client.send(packet)

    def take(self) -> list[tuple[bytes, bytes]]:
        """The batch as (query, client) pairs."""
        if self.channel.receive() <= 0:
            return []
        return [(slot[:size], client) for slot, size, (client,) in self.channel.batch()]

    def close(self) -> None:
        """Close all sockets."""
        for sock in (self.server, *self.clients):
            sock.close()


@pytest.fixture(params=[True, False], ids=["batched", "single"])
def rig(request: pytest.FixtureRequest) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(family: socket.AddressFamily = socket.AF_INET, **options: int) -> Rig:
        made.append(Rig(family, batched=request.param, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_linux_has_the_batched_channel() -> None:
    rig = Rig(socket.AF_INET, batched=True)
    assert isinstance(rig.channel, mmsg.Batched)
    rig.close()


@pytest.mark.parametrize("family", LOOPBACK)
def test_ends_of_a_batch(rig: Callable[..., Rig], family: socket.AddressFamily) -> None:
    one = rig(family)
    assert one.channel.local == (one.packed, one.server.getsockname()[1])
    one.ask([b"a", b"b", b"c"])
    assert len(one.take()) == 3
    assert [one.channel.port(at) for at in range(3)] == [client.getsockname()[1] for client in one.clients]


@pytest.mark.parametrize("family", LOOPBACK)
@pytest.mark.parametrize("number", [1, 2, 63, 64, 65, 200])
def test_every_query_comes_once_and_is_answered_where_it_came_from(
        rig: Callable[..., Rig], family: socket.AddressFamily, number: int) -> None:
    one = rig(family)
    sent = [f"query {i}".encode() * (1 + i % 9) for i in range(number)]
    one.ask(sent)
    seen: list[bytes] = []
    while batch := one.take():
        assert len(batch) <= mmsg.BATCH
        assert {client for _, client in batch} == {one.packed}
        seen += [query for query, _ in batch]
        one.channel.send([b"reply to " + query for query, _ in batch])
    assert sorted(seen) == sorted(sent)
    for client, packet in zip(itertools.cycle(one.clients), sent, strict=False):
        assert client.recv(4096) == b"reply to " + packet
    octets_in, octets_out = sum(map(len, sent)), sum(map(len, sent)) + 9 * number
    assert [one.count[slot] for slot in (
        metrics.QUERIES_UDP, metrics.RESPONSES_UDP, metrics.BYTES_IN_UDP, metrics.BYTES_OUT_UDP, metrics.UDP_BATCHES,
    )] == [number, number, octets_in, octets_out, -(-number // mmsg.BATCH)]


def test_nothing_there_is_nothing(rig: Callable[..., Rig]) -> None:
    one = rig()
    assert one.take() == []
    assert sum(one.count) == 0


def test_an_empty_and_an_overlong_datagram(rig: Callable[..., Rig]) -> None:
    one = rig(clients=1)
    one.ask([b"", b"x" * 5000, b"last"])
    assert [query for query, _ in one.take()] == [b"", b"x" * mmsg.SLOT, b"last"]


def test_a_batch_can_be_read_again(rig: Callable[..., Rig]) -> None:
    one = rig(clients=1)
    one.ask([b"a", b"b"])
    assert one.channel.receive() == 2
    first, second = ([slot[:size] for slot, size, _ in one.channel.batch()] for _ in range(2))
    assert first == second == [b"a", b"b"]


@pytest.mark.parametrize("batched", [True, False])
@given(answered=st.lists(st.booleans(), min_size=1, max_size=70))
def test_what_gets_no_answer_shifts_nothing(batched: bool, answered: list[bool]) -> None:
    one = Rig(socket.AF_INET, batched=batched, clients=len(answered))
    try:
        for round_ in (0, mmsg.BATCH):
            for i in range(round_, min(round_ + mmsg.BATCH, len(answered))):
                one.clients[i].send(bytes([i]))
            if batch := one.take():
                one.channel.send([b"r" * (1 + query[0]) if answered[query[0]] else None for query, _ in batch])
        for i, wanted in enumerate(answered):
            one.clients[i].settimeout(2 if wanted else 0)
            if wanted:
                assert one.clients[i].recv(4096) == b"r" * (1 + i)
            else:
                with pytest.raises(BlockingIOError):
                    one.clients[i].recv(4096)
        assert one.count[metrics.RESPONSES_UDP] == sum(answered)
    finally:
        one.close()


@pytest.mark.parametrize("batched", [True, False])
def test_a_reply_the_kernel_refuses_costs_only_itself(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmsg, "REPLY", 70_000)
    one = Rig(socket.AF_INET, batched=batched, clients=4)
    one.ask([b"0", b"1", b"2", b"3"])
    one.take()
    one.channel.send([b"x" * 66_000, b"one", b"x" * 66_000, b"three"])
    assert one.clients[1].recv(100) == b"one"
    assert one.clients[3].recv(100) == b"three"
    assert one.count[metrics.UDP_SEND_ERRORS] == 2
    assert (one.count[metrics.RESPONSES_UDP], one.count[metrics.BYTES_OUT_UDP]) == (2, 8)
    one.close()


class Kernel:
    """sendmmsg by a script: what each call returns, or the errno it fails with."""

    def __init__(self, *script: int | str) -> None:
        self.script = list(script)
        self.sizes: list[int] = []

    def __call__(self, fd: Any, at: Any, size: int, flags: int) -> int:
        self.sizes.append(size)
        step = self.script.pop(0)
        if isinstance(step, str):
            ctypes.set_errno(getattr(errno, step))
            return -1
        return step


@pytest.mark.parametrize(("script", "sizes", "sent", "errors", "full"), [
    ((4,), [4], 4, 0, 0),
    ((1, 3), [4, 3], 4, 0, 0),
    ((2, "EINTR", 2), [4, 2, 2], 4, 0, 0),
    (("EPERM", "EPERM", 3), [4, 4, 3], 3, 1, 0),
    ((1, "ECONNREFUSED", "ENETUNREACH", 1), [4, 3, 2, 1], 2, 2, 0),
    (("EAGAIN", "EAGAIN", 4), [4, 4, 4], 4, 0, 0),
    ((1, "EAGAIN", "ENOBUFS"), [4, 3, 3], 1, 0, 3),
])
def test_what_the_kernel_left_is_tried_again(
        script: tuple[int | str, ...], sizes: list[int], sent: int, errors: int, full: int) -> None:
    count = counters()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        kernel = Kernel(*script)
        mmsg.Batched(sock, count, (None, kernel)).send([b"a", b"bb", b"ccc", b"dddd"])
    assert kernel.sizes == sizes
    assert (count[metrics.RESPONSES_UDP], count[metrics.UDP_SEND_ERRORS], count[metrics.UDP_SEND_FULL]) == (
        sent, errors, full)
    assert sent + errors + full == 4


@pytest.mark.parametrize(("host", "expected"), [
    ("192.0.2.1", bytes((192, 0, 2, 1))), ("::1", bytes(15) + b"\1"), ("::ffff:192.0.2.1", bytes((192, 0, 2, 1))),
    ("fe80::1%lo", b"\xfe\x80" + bytes(13) + b"\1")])
def test_packed(host: str, expected: bytes) -> None:
    assert mmsg.packed(host) == expected
