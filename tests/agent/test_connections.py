"""Real connections of this machine as inet_diag tells them: whose, how far, and none that are not asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

pytest.importorskip("pyroute2")

from dnsd.agent import connections
from dnsd.agent.connections import read
from tests.node import until

RECENT_MS = 60_000


class Served:
    """A listening socket, and connections to it."""

    def __init__(self, stack: ExitStack, host: str, *, dual: bool = False) -> None:
        self.stack = stack
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = stack.enter_context(
            socket.create_server((host, 0), family=family, dualstack_ipv6=dual))
        self.port: int = self.listening.getsockname()[1]

    def connect(self, host: str) -> socket.socket:
        client = self.stack.enter_context(socket.create_connection((host, self.port)))
        self.stack.enter_context(self.listening.accept()[0])
        return client


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_to_a_port_are_read_from_this_end_only(stack: ExitStack, host: str) -> None:
    served, other = Served(stack, host), Served(stack, host)
    for _ in range(3):
        served.connect(host)
    other.connect(host)
    found = list(read([served.port], RECENT_MS))
    assert [one.address for one in found] == [host] * 3
    assert all(0 < one.rtt_ms < 1000 for one in found)
    assert len(list(read([served.port, other.port], RECENT_MS))) == 4


def test_ipv4_clients_of_an_ipv6_socket_are_read_once(stack: ExitStack) -> None:
    served = Served(stack, "::", dual=True)
    served.connect("127.0.0.1")
    [found] = read([served.port], RECENT_MS)
    assert getattr(ip_address(found.address), "ipv4_mapped", None) == ip_address("127.0.0.1")


def test_a_connection_that_was_silent_is_left_out_until_it_is_heard_again(stack: ExitStack) -> None:
    served = Served(stack, "127.0.0.1")
    client = served.connect("127.0.0.1")
    until(lambda: not list(read([served.port], 20)), 5, "silent")
    deadline = time.monotonic() + 5
    while not list(read([served.port], 20)):
        client.send(b"x")
        assert time.monotonic() < deadline


def test_nobody_and_no_more_than_asked_for(stack: ExitStack) -> None:
    served = Served(stack, "127.0.0.1")
    assert list(read([served.port], RECENT_MS)) == []
    for _ in range(5):
        served.connect("127.0.0.1")
    assert len(list(read([served.port], RECENT_MS, most=2))) == 2


def test_a_kernel_that_tells_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tcp_diag the kernel's answer is empty, as if there were no clients."""
    assert connections.told_of()
    monkeypatch.setattr(connections, "_told", lambda *_: iter(()))
    assert not connections.told_of()
