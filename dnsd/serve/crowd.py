"""All connections of a worker, whatever door they came through: how many there may be, and who of them must go.

Lives here: the limits, the order of leaving, pressure. Does not live here: a connection's octets (`stream`, `tls`).

A connection is idle while nothing that it asked is unanswered or unsent. Whoever comes when all places are taken gets
the place of the one idle longest: of all, or of its own prefix when that has its share. So a newcomer is served even
under a flood of silent connections, and a prefix pays for its own. Where none is idle, the first that does not take its
answers goes. Each of these is one step; deadlines are looked at by one sweep, so a short connection sets up no timer.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NamedTuple

PRESSED_IDLE: Final = 4  # under pressure, idle connections stay for this part of the time


class Limits(NamedTuple):
    """What a worker grants; seconds and numbers, see docs/config.md [tcp]."""

    connections: int = 512
    per_prefix: int = 128
    queries: int = 1_000_000
    first_query_seconds: float = 5.0
    idle_seconds: float = 10.0
    stall_seconds: float = 5.0
    lifetime_seconds: float = 600.0


class Member(ABC):
    """A connection as the crowd sees it. `busy` and `line` are the crowd's."""

    __slots__ = ("busy", "line", "prefix")

    prefix: bytes  # whose share it counts against; empty: nobody's
    busy: bool
    line: Line | None

    @property
    @abstractmethod
    def stalled(self) -> bool:
        """Whether it is busy only because the client does not take its answers."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Go at once; calls `Crowd.forget`."""

    @abstractmethod
    def finish(self, reason: str) -> None:
        """Go when all that was asked is answered."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """Go if a time limit says so."""


class Line:
    """Connections under one limit: the idle ones, longest first, and the busy ones, longest first."""

    __slots__ = ("busy", "idle")

    def __init__(self) -> None:
        self.idle: OrderedDict[Member, None] = OrderedDict()
        self.busy: OrderedDict[Member, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.idle) + len(self.busy)

    def first(self) -> Member | None:
        """Who has to go for a newcomer."""
        for member in self.idle:
            return member
        for member in self.busy:
            return member if member.stalled else None
        return None

    def settle(self, member: Member, was: bool, busy: bool) -> None:
        """To the end of the idle, or from there to the end of the busy; the busy keep their places."""
        if not busy and not was:
            self.idle.move_to_end(member)
        elif busy != was:
            del (self.busy if was else self.idle)[member]
            (self.busy if busy else self.idle)[member] = None


class Crowd:
    """The connections that are open, or closing with answers still unsent.

    `keepalive` is what clients are told of how long they may stay idle, in units of 100 ms (RFC 7828): nothing under
    pressure, which is from three quarters of the places on.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.clock = clock
        self.shares: dict[bytes, Line] = {}  # by prefix
        self.draining = False
        self.keepalive = 0
        self.idle_seconds = 0.0
        self._all = Line()
        self._press()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Member]:
        return chain(self._all.idle, self._all.busy)

    def __contains__(self, member: object) -> bool:
        return member in self._all.idle or member in self._all.busy

    def admit(self, member: Member) -> str | None:
        """Take a connection in, if need be in another's place; else the reason why it has to go."""
        if self.draining:
            return "drain"
        if not self._share_left(member.prefix):
            return "prefix_limit"
        if not _place_left(self._all, self.limits.connections, "limit"):
            return "limit"
        member.busy = False
        self._all.idle[member] = None
        self._press()
        self._count_in(member)
        return None

    def join(self, member: Member, prefix: bytes) -> str | None:
        """A connection taken in without a prefix turns out to have one; else the reason why it has to go."""
        if not self._share_left(prefix):
            return "prefix_limit"
        member.prefix = prefix
        self._count_in(member)
        return None

    def settle(self, member: Member, *, busy: bool) -> None:
        """A query was asked or answered: it is busy from now, or idle from now."""
        if member not in self:
            return
        was, member.busy = member.busy, busy
        self._all.settle(member, was, busy)
        if member.line is not None:
            member.line.settle(member, was, busy)

    def forget(self, member: Member) -> None:
        """A connection is gone; does nothing the second time."""
        if member not in self:
            return
        for line in (self._all, member.line):
            if line is not None:
                del (line.busy if member.busy else line.idle)[member]
        if member.line is not None and not member.line:
            del self.shares[member.prefix]
        member.line = None
        self._press()

    def sweep(self) -> None:
        """Close what is over a time limit; to be called a few times a second."""
        now = self.clock()
        for member in list(self):
            member.expire(now)

    def drain(self) -> None:
        """Answer what has been asked, take nothing new: every connection closes as soon as its answers are out."""
        self.draining = True
        for member in list(self):
            member.finish("drain")

    def _share_left(self, prefix: bytes) -> bool:
        share = self.shares.get(prefix)
        return share is None or _place_left(share, self.limits.per_prefix, "prefix_limit")

    def _count_in(self, member: Member) -> None:
        member.line = None
        if member.prefix:
            member.line = self.shares.setdefault(member.prefix, Line())
            (member.line.busy if member.busy else member.line.idle)[member] = None

    def _press(self) -> None:
        pressed = 4 * len(self) >= 3 * self.limits.connections
        idle = self.limits.idle_seconds
        self.idle_seconds = idle / PRESSED_IDLE if pressed else idle
        self.keepalive = 0 if pressed else min(int(idle * 10), 0xFFFF)


def prefix_of(client: bytes) -> bytes:
    """What counts as one source: an IPv4 /24 or an IPv6 /56."""
    return client[:3] if len(client) == 4 else client[:7]


def _place_left(line: Line, limit: int, reason: str) -> bool:
    """Whether there is room for one more, once who has to go for it is gone."""
    if len(line) < limit:
        return True
    victim = line.first()
    if victim is None:
        return False
    victim.abort(reason)
    return True
