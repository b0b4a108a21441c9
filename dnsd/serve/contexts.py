"""The contexts a worker answers in, made from its settings, and what changes in them while it runs.

Lives here: settings -> `Context` for each kind of door; when the guard is needed; how much of the least useful is shed.
Does not live here: what a context means to an answer (`answer`), the cookie file (`serve.secrets`).

No bucket of the guard can run over while all queries of a quarter of a second together are fewer than one bucket
grants, so until then nobody asks the guard, and from then on it is asked until a quarter has been quiet: else the first
queries of each would go uncounted. A turn of a socket's loop that ends with the kernel's queue more than half full is
overload: after each such turn it sheds one more kind of answer, after each other turn one less. (A queue that is only
never empty is no overload: so it is where many wait for each answer before they ask again.)

Where the compiled engine reads the sockets it does the same with its own numbers (`engine/sockets.pxi`), and what it
passes on is answered in the state that it is in.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping, MutableSequence, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, cast

from dnsd import __version__
from dnsd.context import Context, Desk
from dnsd.dns import names
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes
from dnsd.serve.secrets import SecretsFile

TICKS_PER_SECOND: Final = 4
SHED_MOST: Final = 3


class Answering(NamedTuple):
    """The settings' part `answering`; see docs/config.md for what they mean. `guard`: the shared table's file."""

    resolvers: Sequence[str] = ("0.0.0.0/0", "::/0")
    identity: bool = True
    version: bool = False
    rate: Mapping[str, Any] | None = None
    guard: str = ""
    guard_key: int = 0
    cookies: str | None = None
    signed: bool = False
    neighbours: Sequence[str] = ()
    why: Sequence[str] = ()


class Pacer(Protocol):
    """Who receives all datagrams in this worker's place."""

    @property
    def pace(self) -> tuple[bool, int]:
        """How strict it is, and how much it sheds."""

    def tick(self) -> None:
        """A quarter of a second has passed."""


class Contexts:
    """One worker's contexts: `udp`, `tcp` and `tls`. `workers`: how many share the guard's table."""

    def __init__(self, count: MutableSequence[int], node: str, answering: Answering | None = None,
                 workers: int = 1) -> None:
        answering = answering or Answering()
        self.udp = Context(count, node=node)
        self.tcp = Context(count, tcp=True, node=node)
        self.tls = Context(count, tcp=True, node=node)
        self.tls.pad = True
        self.guard = _guard(answering)
        self.engine: Pacer | None = None
        self.free = _free(answering, workers)
        self._seen = 0
        self.ticks = 0
        everybody = {"0.0.0.0/0", "::/0"} <= set(answering.resolvers)
        desk = Desk(Prefixes(answering.neighbours), Prefixes(answering.why), answering.signed)
        for context in self.all():
            context.ecs_from = None if everybody else Prefixes(answering.resolvers)
            context.chaos = _chaos(answering)
            context.desk = desk if any(desk) else None
        self.udp.guard = self.guard
        self._secrets = SecretsFile(Path(answering.cookies)) if answering.cookies else None
        self._take_secrets()

    def all(self) -> tuple[Context, Context, Context]:
        """Every context."""
        return self.udp, self.tcp, self.tls

    def arrived(self, number: int) -> None:
        """So many datagrams came in; called before they are answered."""
        if self.engine is not None:  # which has counted them
            self.udp.strict, self.udp.shed = self.engine.pace
        else:
            self._seen += number
            self.udp.strict = self.udp.strict or (self.guard is not None and self._seen > self.free)
        if self.guard is not None and self.udp.strict:
            self.guard.tick(time.monotonic_ns())

    def begin(self, shed: int) -> None:
        """A turn of a UDP socket's loop begins, which sheds so much."""
        self.udp.shed = shed
        self.udp.strict = self.udp.strict or shed > 0

    def turned(self, full: bool) -> None:
        """That turn is over; `full`: it could not empty the queue, which is more than half full. `udp.shed` is what the
        socket's next one sheds."""
        context = self.udp
        if full:
            context.shed = min(SHED_MOST, context.shed + 1)
            context.strict = True
        elif context.shed:
            context.shed -= 1

    def tick(self) -> None:
        """A quarter of a second has passed."""
        self.ticks += 1
        if self.engine is not None:
            self.engine.tick()
        self.udp.strict = self.udp.shed > 0 or (self.guard is not None and self._seen > self.free)
        self._seen = 0
        if self._secrets is not None and self._secrets.reload_if_changed():
            self._take_secrets()

    def _take_secrets(self) -> None:
        for context in self.all():
            context.cookies = self._secrets.cookies if self._secrets is not None else None


def _guard(answering: Answering) -> Guard | None:
    rate = answering.rate
    if rate is None:
        return None
    with open(answering.guard, "r+b") as file:
        table = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    return Guard(
        cast("MutableSequence[int]", table), answers=rate["answers"], others=rate["others"],
        burst_s=rate["burst_seconds"], raised_by=rate["raised_by"],
        exempt=Prefixes(rate["exempt"]), raised=Prefixes(rate["raised"]), key=answering.guard_key)


def _free(answering: Answering, workers: int) -> int:
    rate = answering.rate
    if rate is None:
        return 0
    return int(min(rate["answers"], rate["others"]) * min(1 / TICKS_PER_SECOND, rate["burst_seconds"]) / workers)


def _chaos(answering: Answering) -> dict[bytes, bytes | None]:
    """What `CH TXT` tells (RFC 4892 §2, and the names BIND made customary)."""
    told: dict[bytes, bytes | None] = {}
    if answering.identity:
        told |= dict.fromkeys((names.to_wire("id.server"), names.to_wire("hostname.bind")))
    if answering.version:
        version = f"dnsd {__version__}".encode()
        told |= dict.fromkeys((names.to_wire("version.server"), names.to_wire("version.bind")), version)
    return told
