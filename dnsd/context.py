"""What a transport brings to the door beside the packet: counters, limits, whom to believe, what to tell of ourselves.

Lives here: the values, their defaults. Does not live here: what is done with them (`answer`, `odd`), where they come
from (`serve`). All mutable state is in flat buffers: the counters, and the guard's table.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from typing import Final, NamedTuple

from dnsd.dns import types, wire
from dnsd.dns.cookies import Cookies
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes

DESK: Final = b""
"""What `respond` gives for a packet that is the desk's: the control process answers it, with time and secrets."""
WHY: Final = b"\x04_why"
"""The first label of a question for an explanation."""
_TRANSFERS: Final = frozenset((types.AXFR.to_bytes(2, "big") + b"\0\1", types.IXFR.to_bytes(2, "big") + b"\0\1"))
_TXT: Final = types.TXT.to_bytes(2, "big") + b"\0\1"


class Desk(NamedTuple):
    """What is left to the control process: transfers for `neighbours`, explanations for `why`, all that is `signed`."""

    neighbours: Prefixes = Prefixes(())
    why: Prefixes = Prefixes(())
    signed: bool = False

    def takes(self, name: bytes, key: bytes, client: bytes) -> bool:
        """Whether a question (lower-case name, type and class octets) of this client is the desk's."""
        if key in _TRANSFERS:
            return client in self.neighbours
        return key == _TXT and name.startswith(WHY) and client in self.why


class Context:
    """The state of one kind of door of a process.

    `limit` is the largest reply in octets (1232 over UDP, 65535 over TCP); `node` is the NSID's fixed part, to which
    the image's stamp is added. `keepalive` is told on TCP in units of 100 ms, -1: not told; `pad`: the transport is
    encrypted. `strict` says that there is more to do than answer: the transport sets it while the `guard` may matter or
    something must be shed. `shed`: 1 drops what is malformed or no query, 2 also what is refused, 3 also NXDOMAIN.
    """

    __slots__ = (
        "chaos", "cookies", "count", "desk", "ecs_from", "guard", "keepalive", "limit", "node", "pad", "shed",
        "strict", "tcp")

    def __init__(self, count: MutableSequence[int], *, tcp: bool = False, node: str = "dnsd") -> None:
        self.count = count
        self.tcp = tcp
        self.limit = 65535 if tcp else wire.UDP_SIZE
        self.node = node
        self.guard: Guard | None = None
        self.cookies: Cookies | None = None
        self.ecs_from: Prefixes | None = None  # None: every resolver's client subnet is believed
        self.desk: Desk | None = None
        self.chaos: Mapping[bytes, bytes | None] = {}  # name -> text; None: the NSID's
        self.keepalive = -1
        self.pad = False
        self.strict = False
        self.shed = 0

    def identity(self, stamp: tuple[int, int, int]) -> bytes:
        """The NSID: node, worker, and the state it answers from."""
        epoch, version, node_seq = stamp
        return f"{self.node} {epoch:016x}.{version}.{node_seq}".encode()
