"""The process between namespaces: it makes them and carries every packet, late, sometimes not, or never.

Lives here: `Paths` (what becomes of a packet), the relay's loop. Does not live here: system calls (`netns`), the side
that gives orders (`network`).

Orders come over a socket as JSON and are answered one by one. When that socket ends the relay leaves, and with it its
TUN devices; so the network is there exactly as long as who ordered it.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd.drill import netns

UNDER_WAY: Final = 50_000
"""Packets that are under way at once; what comes on top is lost, as in a full queue."""

_PACKET: Final = 65536
_AT_ONCE: Final = 64


class Way(NamedTuple):
    """From one host to another: milliseconds that a packet takes, the share of packets lost, whether all are."""

    delay_ms: float = 0.0
    loss: float = 0.0
    cut: bool = False


class Paths:
    """What becomes of a packet: when and where it arrives. One state for all hosts, by their number."""

    def __init__(self, prefixes: Sequence[IPv4Network], seed: int = 0) -> None:
        self.ways: dict[tuple[int, int], Way] = {}
        self.holes: set[bytes] = set()
        self.carried = self.dropped = 0
        self._prefixes = prefixes
        self._chance = random.Random(seed)  # noqa: S311 - which packets are lost, and the same ones again
        self._host_of: dict[bytes, int] = {}

    def arrival(self, packet: bytes, source: int, now: float) -> tuple[float, int] | None:
        """When (seconds, the clock of `now`) it arrives at which host; None when it never does."""
        target = packet[16:20]
        host = self._host(target) if len(packet) >= 20 and packet[0] >> 4 == 4 else -1
        way = self.ways.get((source, host), _DIRECT)
        if host < 0 or way.cut or target in self.holes or (way.loss and self._chance.random() < way.loss):
            self.dropped += 1
            return None
        self.carried += 1
        return now + way.delay_ms / 1000, host

    def _host(self, target: bytes) -> int:
        found = self._host_of.get(target)
        if found is None:
            address = IPv4Address(target)
            found = next((i for i, prefix in enumerate(self._prefixes) if address in prefix), -1)
            self._host_of[target] = found
        return found


@dataclass(slots=True)
class Host:
    """A namespace: the descriptors of it and of its TUN device."""

    held: int
    tun: int


class Relay:
    """The loop: packets in, packets out when they are due, orders in between."""

    def __init__(self, orders: socket.socket, prefixes: Sequence[IPv4Network], seed: int) -> None:
        self._orders = orders
        self._paths = Paths(prefixes, seed)
        self._way: list[tuple[float, int, int, bytes]] = []  # due, number, host, packet
        self._number = 0
        self._hosts: list[Host] = []
        self._prefixes = prefixes

    def run(self) -> None:
        """Makes the namespaces, says so, and works until the orders' socket ends."""
        user = self._make()
        self._reply({"held": [host.held for host in self._hosts], "user": user})
        poll = select.epoll()
        poll.register(self._orders, select.EPOLLIN)
        by_tun = {host.tun: number for number, host in enumerate(self._hosts)}
        for tun in by_tun:
            poll.register(tun, select.EPOLLIN)
        while True:
            wait = max(0.0, self._way[0][0] - time.monotonic()) if self._way else None
            for descriptor, _ in poll.poll(wait):
                if descriptor in by_tun:
                    self._take(descriptor, by_tun[descriptor])
                elif not self._obey():
                    return
            self._deliver()

    def _make(self) -> bool:
        """All hosts; whether that took a user namespace."""
        user = False
        try:
            netns.unshare(netns.NEW_NET)
        except PermissionError:
            netns.new_user()
            user = True
        for prefix in self._prefixes:
            self._hosts.append(Host(*netns.new_network(prefix)))
        return user

    def _take(self, tun: int, source: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = os.read(tun, _PACKET)
            except BlockingIOError:
                return
            now = time.monotonic()
            arrival = self._paths.arrival(packet, source, now)
            if arrival is None or len(self._way) >= UNDER_WAY:
                continue
            due, host = arrival
            if due <= now:
                self._write(host, packet)
            else:
                self._number += 1
                heapq.heappush(self._way, (due, self._number, host, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._way and self._way[0][0] <= now:
            _, _, host, packet = heapq.heappop(self._way)
            self._write(host, packet)

    def _write(self, host: int, packet: bytes) -> None:
        with suppress(OSError):  # a full or vanishing device loses packets
            os.write(self._hosts[host].tun, packet)

    def _obey(self) -> bool:
        """One order; False when there will be no more."""
        text = self._orders.recv(_PACKET)
        if not text:
            return False
        order: dict[str, Any] = json.loads(text)
        match order.pop("do"):
            case "way":
                for pair in order["pairs"]:
                    self._paths.ways[pair[0], pair[1]] = Way(order["delay_ms"], order["loss"], order["cut"])
            case "hole":
                change = self._paths.holes.add if order["on"] else self._paths.holes.discard
                change(IPv4Address(order["address"]).packed)
            case "socket":
                return self._socket(order["host"], order["kind"])
        self._reply({"carried": self._paths.carried, "dropped": self._paths.dropped, "under_way": len(self._way)})
        return True

    def _socket(self, host: int, kind: int) -> bool:
        """A socket belongs to the namespace it was made in, whoever uses it."""
        netns.enter(self._hosts[host].held, netns.NEW_NET)
        with socket.socket(socket.AF_INET, kind) as made:
            socket.send_fds(self._orders, [b"{}"], [made.fileno()])
        return True

    def _reply(self, answer: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            self._orders.send(json.dumps(answer).encode())


_DIRECT: Final = Way()


def main(settings: str) -> int:
    """The process: settings as JSON. What stands in its way goes to who gives the orders, as `error`."""
    given = json.loads(settings)
    netns.be_ahead()
    with suppress(OSError):  # a session is a scheduler group of its own, which has a niceness too
        Path("/proc/self/autogroup").write_text(str(netns.AHEAD), encoding="ascii")
    with socket.socket(fileno=given["orders"]) as orders:
        try:
            Relay(orders, [IPv4Network(prefix) for prefix in given["prefixes"]], given["seed"]).run()
        except OSError as error:
            with suppress(OSError):
                orders.send(json.dumps({"error": str(error)}).encode())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
