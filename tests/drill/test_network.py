"""Hosts with distances between them: packets take their time, get lost, and arrive nowhere when a way is cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from dnsd.drill import network, relay

HOSTS = {"one": "10.1.0.0/16", "two": "10.2.0.0/16", "three": "10.3.0.0/16"}


def packet(target: str) -> bytes:
    return bytes([0x45]) + bytes(15) + IPv4Address(target).packed


@pytest.mark.parametrize(("target", "way", "arrives"), [
    ("10.2.0.9", relay.Way(), (5.0, 1)),
    ("10.2.0.9", relay.Way(delay_ms=250), (5.25, 1)),
    ("10.2.0.9", relay.Way(cut=True), None),
    ("10.2.0.9", relay.Way(loss=1.0), None),
    ("10.9.0.9", relay.Way(), None),
    ("10.2.0.8", relay.Way(), None),
])
def test_what_becomes_of_a_packet(target: str, way: relay.Way, arrives: tuple[float, int] | None) -> None:
    paths = relay.Paths([IPv4Network(prefix) for prefix in HOSTS.values()])
    paths.ways[0, 1] = way
    paths.holes.add(IPv4Address("10.2.0.8").packed)
    assert paths.arrival(packet(target), 0, 5.0) == arrives
    assert (paths.carried, paths.dropped) == ((1, 0) if arrives else (0, 1))


def test_other_than_ipv4_goes_nowhere() -> None:
    paths = relay.Paths([IPv4Network("0.0.0.0/0")])
    assert paths.arrival(b"\x60" + bytes(39), 0, 0.0) is None
    assert paths.arrival(b"\x45", 0, 0.0) is None


def test_loss_is_a_share_and_the_same_by_seed() -> None:
    def lost(seed: int) -> list[int]:
        paths = relay.Paths([IPv4Network(prefix) for prefix in HOSTS.values()], seed)
        paths.ways[0, 1] = relay.Way(loss=0.2)
        return [i for i in range(2000) if paths.arrival(packet("10.2.0.1"), 0, 0.0) is None]

    assert lost(1) == lost(1) != lost(2)
    assert 300 < len(lost(1)) < 500


@pytest.fixture(scope="module")
def net() -> Iterator[network.Network]:
    try:
        made = network.Network(HOSTS)
    except network.UnavailableError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no namespaces here: {error}")
    with made:
        yield made


def served(net: network.Network, host: str, number: int = 1) -> socket.socket:
    server = net.socket(host, socket.SOCK_DGRAM)
    server.bind((net.address(host, number), 5000))
    server.settimeout(2)
    return server


def took(net: network.Network, server: socket.socket, sender: str, patience: float = 2.0) -> float:
    """Seconds for one datagram; TimeoutError."""
    server.settimeout(patience)
    with net.socket(sender, socket.SOCK_DGRAM) as client:
        began = time.monotonic()
        client.sendto(b"hello", server.getsockname())
        text, source = server.recvfrom(100)
    assert (text, source[0]) == (b"hello", net.address(sender))
    return time.monotonic() - began


def test_ways_are_changed_while_packets_go(net: network.Network) -> None:
    with served(net, "two", 77) as server:
        assert took(net, server, "one") < 0.05
        net.way("one", ["two", "three"], delay_ms=120)
        assert 0.12 <= took(net, server, "one") < 0.2
        assert took(net, server, "three") < 0.05
        net.way("one", "two", cut=True)
        with pytest.raises(TimeoutError):
            took(net, server, "one", 0.1)
        net.way("one", "two")
        assert took(net, server, "one") < 0.05
        net.hole(net.address("two", 77))
        with pytest.raises(TimeoutError):
            took(net, server, "one", 0.1)
        net.hole(net.address("two", 77), False)
        assert took(net, server, "one") < 0.05
    assert net.counts()["dropped"] >= 2


def test_a_way_may_be_cut_in_one_direction(net: network.Network) -> None:
    with served(net, "three") as three, served(net, "two") as two:
        net.way("three", "two", cut=True, both=False)
        assert took(net, three, "two") < 0.05
        with pytest.raises(TimeoutError):
            took(net, two, "three", 0.1)
        net.way("three", "two")


def test_a_command_runs_inside_and_loopback_is_its_own(net: network.Network) -> None:
    program = "import socket; s = socket.create_server(('127.0.0.1', 5000)); print(s.getsockname())"
    for host in ("one", "two"):
        done = subprocess.run([*net.inside(host), sys.executable, "-c", program], capture_output=True, text=True,
                              check=True)
        assert done.stdout == "('127.0.0.1', 5000)\n"


def test_tcp_goes_through(net: network.Network) -> None:
    with net.socket("one") as server, net.socket("two") as client:
        server.bind((net.address("one"), 6000))
        server.listen()
        client.settimeout(5)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(bytes(200_000))
            accepted.shutdown(socket.SHUT_WR)
            assert sum(len(part) for part in iter(lambda: client.recv(65536), b"")) == 200_000


def test_nothing_stays_when_who_made_it_is_killed() -> None:
    program = """
import subprocess, sys
from dnsd.drill.network import Network, UnavailableError
try:
    net = Network({"one": "10.1.0.0/16"})
except UnavailableError as error:
    sys.exit(77)
inside = subprocess.Popen([*net.inside("one"), "sleep", "1000"])
print(net._relay.pid, inside.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        if not pids and os.environ.get("CI") != "true":
            pytest.skip("no namespaces here")
        assert len(pids) == 2
        time.sleep(0.5)  # `inside` has told the kernel by then whom it depends on
        process.kill()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_machine_that_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(network.UnavailableError, match="relay"):
        network.Network(HOSTS)
