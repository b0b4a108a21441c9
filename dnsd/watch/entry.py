"""One target of a schedule: what is known of it, who asks for it, its place in time.

Lives here: values without a loop. Does not live here: when it is probed (`watch.schedule`).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from hashlib import blake2b
from typing import Final, NamedTuple
from typing import Protocol as Shape

from dnsd.watch.baseline import Baseline
from dnsd.watch.outcome import Outcome
from dnsd.watch.target import Check, Policy

SOON: Final = 0.25
"""After a first probe the next comes at its place in the interval, but not within this part of it."""


class Running(Shape):
    """A probe under way."""

    @property
    def connected(self) -> bool:
        """Whether its connection stands."""

    def stop(self) -> None:
        """Lets go; nothing is told any more."""


class Target(NamedTuple):
    """What is probed, and how. Equal targets are one, whoever asks."""

    check: Check
    address: bytes

    @classmethod
    def of(cls, check: Check, endpoint: bytes) -> Target:
        """The target of a check for an endpoint's packed address: that address, unless the check names another."""
        return cls(check._replace(address=None), endpoint if check.address is None else check.address)


class Probe:
    """One probe under way, or ended and waiting for an earlier one."""

    __slots__ = ("began", "outcome", "running")

    def __init__(self, began: float) -> None:
        self.began = began  # monotonic seconds
        self.running: Running | None = None
        self.outcome: Outcome | None = None


class Entry:
    """One target. `number` is that of its place in the heap; another there is stale. `services` counts who asks on each
    one's account, `payer` is the one that its probes are counted against, `judged` the policy it was judged by;
    `failed`: results in a row that were failures; `usual_s`, `connect_s`: what a success and its connection take (0:
    there was none yet); `place`: where it is due after it was looked at.
    """

    __slots__ = ("asking", "at_ms", "baseline", "connect_s", "due", "failed", "fraction", "judged", "last", "name",
                 "number", "ours", "payer", "pending", "period", "place", "refused", "services", "target",
                 "usual_s")  # fmt: skip

    def __init__(self, target: Target, node: bytes) -> None:
        self.target = target
        named = blake2b(repr(target).encode(), digest_size=12)
        self.name, self.fraction = named.hexdigest(), _fraction(node, named.digest())
        self.asking: dict[str, str] = {}
        self.services: OrderedDict[str, int] = OrderedDict()
        self.payer = ""
        self.baseline = Baseline()
        self.pending: deque[Probe] = deque()
        self.last: Outcome | None = None
        self.at_ms = 0
        self.number, self.period, self.due, self.failed = -1, 0.0, 0.0, 0
        self.usual_s = self.connect_s = 0.0
        self.place: float | None = None
        self.judged: Policy | None = None
        self.refused: str | None = None
        self.ours = False


def _fraction(node: bytes, name: bytes) -> float:
    """A target's place in its interval at this node, 0 to 1."""
    return int.from_bytes(blake2b(name, digest_size=7, key=node[:64]).digest(), "big") / (1 << 56)


def next_place(entry: Entry, now: float, period: float) -> float:
    """A target's next place on the time line."""
    first = entry.fraction * period
    return first + math.ceil((now + SOON * period - first) / period) * period
