"""A network of hosts on this machine, with distances between them that change at a word.

Lives here: `Network`: hosts, the ways between them, sockets and commands inside. Does not live here: how packets are
carried (`relay`), namespaces (`netns`), what runs on the hosts.

A socket that `socket` returns is at home on a host and is used from here, so a server or client on a host needs no
process of its own. A command gets one, by the words of `inside` in front of it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import IPv4Network
from itertools import product
from pathlib import Path
from typing import Any, Final, Self

import dnsd
from dnsd.drill import netns

PATIENCE_S: Final = 20.0
WHERE: Final = {"PYTHONPATH": str(Path(dnsd.__file__).parent.parent)}
"""In the environment of a Python process of our own: the dnsd that this one is."""


class UnavailableError(Exception):
    """This machine does not let us make namespaces or TUN devices; the text says why."""


class Network:
    """Hosts by name, each with a prefix in 10.0.0.0/8 all of whose addresses are its own.

    Packets between hosts take no time until `way` says otherwise. All goes when this is closed, or its process ends.
    """

    def __init__(self, hosts: Mapping[str, str], *, seed: int = 0) -> None:
        self.hosts = {name: IPv4Network(prefix) for name, prefix in hosts.items()}
        self._number = {name: number for number, name in enumerate(hosts)}
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(PATIENCE_S)
        settings = {"orders": theirs.fileno(), "prefixes": [str(prefix) for prefix in self.hosts.values()],
                    "seed": seed}
        with theirs:
            self._relay = subprocess.Popen(
                [sys.executable, "-m", "dnsd.drill.relay", json.dumps(settings)], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, start_new_session=True, env=os.environ | WHERE)
        try:
            self._made = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. Commands inside are their starters' to end; they are cut off."""
        self._orders.close()
        try:
            self._relay.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._relay.kill()
            self._relay.wait()

    def address(self, host: str, number: int = 1) -> str:
        """An address of a host; 1 is where its packets come from if nobody says otherwise."""
        return str(self.hosts[host][number])

    def way(self, one: str | list[str], other: str | list[str], *, delay_ms: float = 0.0, loss: float = 0.0,
            cut: bool = False, both: bool = True) -> None:
        """From now on: the one-way delay, the share (0..1) lost, or all of it; with `both` the way back too."""
        ones, others = ([names] if isinstance(names, str) else names for names in (one, other))
        pairs = [(self._number[a], self._number[b]) for a, b in product(ones, others) if a != b]
        pairs += [(b, a) for a, b in pairs if both]
        self._order("way", pairs=pairs, delay_ms=delay_ms, loss=loss, cut=cut)

    def hole(self, address: str, on: bool = True) -> None:
        """Packets to this address vanish, or no longer; not those of its own host."""
        self._order("hole", address=address, on=on)

    def counts(self) -> dict[str, int]:
        """Packets `carried` and `dropped` so far, and those `under_way`."""
        return dict(self._order("counts"))

    def socket(self, host: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A new IPv4 socket on a host."""
        self._send("socket", host=self._number[host], kind=kind)
        _, descriptors, _, _ = socket.recv_fds(self._orders, 4096, 1)
        if not descriptors:
            raise UnavailableError("the relay is gone")
        return socket.socket(fileno=descriptors[0])

    def inside(self, host: str) -> list[str]:
        """What to put in front of a command that is to run on a host.

        It is killed when the thread that starts it ends.
        """
        of = f"/proc/{self._relay.pid}"
        user = f"{of}/ns/user" if self._made["user"] else "-"
        held = self._made["held"][self._number[host]]
        return [sys.executable, "-P", netns.__file__, user, f"{of}/fd/{held}", "--"]

    def _order(self, what: str, **more: Any) -> dict[str, Any]:
        self._send(what, **more)
        return self._answer()

    def _send(self, what: str, **more: Any) -> None:
        try:
            self._orders.send(json.dumps({"do": what, **more}).encode())
        except OSError as error:
            raise UnavailableError(f"the relay is gone: {error}") from error

    def _answer(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._orders.recv(65536) or b'{"error": "the relay is gone"}')
        except OSError as error:
            raise UnavailableError(f"the relay does not answer: {error}") from error
        if "error" in answer:
            raise UnavailableError(answer["error"])
        return answer
