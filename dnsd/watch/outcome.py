"""What a probe says, and how a protocol is spoken without a socket.

Lives here: `Reason`, `Outcome`, `Dialogue`. Does not live here: sockets and time (`watch.probe`), any protocol.

A protocol is octets in, octets out: it holds no socket and no clock, so hostile replies are tried by the million
without a network, and one driver keeps the bounds for all of them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Protocol


class Reason(StrEnum):
    """Why a probe ended as it did: a class of failure, never anything the target said."""

    OK = "ok"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    RESET = "reset"
    UNREACHABLE = "unreachable"
    CLOSED = "closed early"
    TOO_LONG = "no verdict in what is read"
    PROTOCOL = "not the protocol"
    STATUS = "status"
    TEXT = "text missing"
    CERTIFICATE = "certificate"
    TLS = "tls"
    NOT_SERVING = "not serving"
    RCODE = "rcode"
    # ours: these say nothing of the target
    FORBIDDEN = "forbidden by policy"
    NO_ROUTE = "no route from here"
    BUSY = "prober too busy"
    LOCAL = "prober failed"


OURS: Final = frozenset({Reason.FORBIDDEN, Reason.NO_ROUTE, Reason.BUSY, Reason.LOCAL})
"""Reasons that lie on this side: no verdict on the target follows from them."""


class Outcome(NamedTuple):
    """One probe's result; times in milliseconds from its start, 0 where it did not come so far.

    `connect_ms`: the TCP handshake, one round trip. `handshake_ms`: when the request could be sent, so with TLS in it;
    what `watch.baseline` counts from. Over UDP there is no handshake: both are the whole exchange.
    """

    ok: bool
    reason: Reason
    handshake_ms: float = 0.0
    total_ms: float = 0.0
    connect_ms: float = 0.0

    @property
    def ours(self) -> bool:
        """Whether the fault is this prober's, so that the target's state must not change."""
        return self.reason in OURS


class Dialogue(Protocol):
    """One exchange as its octets. Whatever the other side sends, nothing is raised that the driver does not expect."""

    most: int
    """Octets that are read at most."""

    def opening(self) -> bytes:
        """What is sent as soon as there is a connection."""

    def received(self, data: bytes) -> tuple[Reason | None, bytes]:
        """Takes octets in; the verdict if there is one, and what is to be sent."""

    def ended(self, reason: Reason) -> Reason:
        """The verdict when nothing more is read: the other side ended (CLOSED) or `most` is reached (TOO_LONG)."""


READ: Final = 4096
"""Octets of a response that are looked at."""
