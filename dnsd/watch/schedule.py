"""When each target is probed: once per interval however many ask for it, spread out, within the budget.

Lives here: targets and who asks for them, due times, what is under way, results in order. Does not live here: the probe
(`watch.probe`), how long it may take (`watch.baseline`), the limits (`watch.budget`), what a result means.

A target's place in its interval is a hash of the node and the target: probes of one node are spread evenly, nodes do
not meet at one target, and a restart changes nothing. A new target is probed at once. Due times are multiples of the
interval, so being late once moves nothing. A probe may outlast an interval; results are told in the order of starting.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from typing import Final, NamedTuple
from typing import Protocol as Shape

from dnsd.watch.baseline import Baseline
from dnsd.watch.budget import DEFAULT, Budget, Limits
from dnsd.watch.outcome import Outcome
from dnsd.watch.target import Check, Policy

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.01
"""Probes due within so much of each other start together: waking up costs as much as half a probe."""

_LONGEST_S: Final = 0.05
_OVERLAP: Final = 3
"""Probes of one target under way at once: one of two intervals' length ends a moment after the second next is due."""

_SOON: Final = 0.25
"""After a first probe the next comes at its place in the interval, but not within this part of it."""


_GROWN: Final = 1.25
"""A target that was put in before so many others came that its interval is this much longer waits for its new place."""


class Clock(Shape):
    """Time, so that tests can bring their own."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970; may jump."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    async def sleep(self, seconds: float) -> None:
        """Let others run for that long."""


class Running(Shape):
    """A probe under way."""

    def stop(self) -> None:
        """Lets go; nothing is told any more."""


Begin = Callable[[Check, bytes, float, Callable[[Outcome], None]], Running]
"""`watch.probe.begin`: check, packed address, timeout in seconds, whom to tell; never tells before it returns."""


class Target(NamedTuple):
    """What is probed, and how. Equal targets are one, whoever asks."""

    check: Check
    address: bytes

    @classmethod
    def of(cls, check: Check, endpoint: bytes) -> Target:
        """The target of a check for an endpoint's packed address: that address, unless the check names another."""
        return cls(check._replace(address=None), endpoint if check.address is None else check.address)


class Standing(NamedTuple):
    """What is known of one target, for showing. Times in milliseconds; `at_ms` (unix) is the last result's, else 0."""

    last: Outcome | None
    at_ms: int
    interval_ms: float
    timeout_ms: float
    baseline_ms: float | None
    refused: str | None
    asking: tuple[str, ...]


class Schedule:
    """All targets of one node. Everything happens in the loop that `run` runs in."""

    def __init__(
        self, begin: Begin, on_result: Callable[[Target, Outcome, int], None], policy: Policy, *,
        clock: Clock, node: str, limits: Limits = DEFAULT,
    ) -> None:
        """`on_result(target, outcome, unix_ms)` gets every verdict on a target; a fault of our own is none."""
        self._begin, self._on_result, self._policy, self._clock = begin, on_result, policy, clock
        self._node = node.encode()
        self._budget = Budget(limits, clock.monotonic())
        self._entries: dict[Target, _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        self._counter = 0
        self._running = False
        self.under_way = 0

    @property
    def stretched(self) -> float:
        """By how much the node's limit lengthens all intervals; 1 when it does not."""
        return self._budget.stretched

    @property
    def late_ms(self) -> float:
        """How long the next probe has been due: near 0 unless too many are under way or start at once."""
        return max(0.0, self._clock.monotonic() - self._due[0][0]) * 1000 if self._due else 0.0

    def __len__(self) -> int:
        """Distinct targets."""
        return len(self._entries)

    def watch(self, target: Target, asking: str, service: str) -> str | None:
        """Someone (say "service/endpoint") asks for a target on a service's account; why it is refused, or None.

        A new target is probed at once, unless its service, address or network has all the probes it may get already: a
        thousand registrations must not stand before everyone else's probes. A refused one is kept: it is probed as soon
        as a policy allows it.
        """
        entry = self._entries.get(target)
        if entry is None:
            entry = self._entries[target] = _Entry(target, _fraction(self._node, target))
            self._account(entry, lambda asked: asked.update({asking: service}))
            self._admit(entry)
        elif entry.asking.get(asking) != service:
            self._account(entry, lambda asked: asked.update({asking: service}))
        return entry.refused

    def forget(self, target: Target, asking: str) -> None:
        """Asks no more; the last one takes the target away and stops its probes. Unknown ones are none."""
        entry = self._entries.get(target)
        if entry is None or asking not in entry.asking:
            return
        self._account(entry, lambda asked: asked.pop(asking))
        if not entry.asking:
            del self._entries[target]
            self._let_go(entry)
            entry.number = -1

    def keep(self, wanted: Mapping[Target, Mapping[str, str]]) -> None:
        """Makes what is asked for exactly this: target -> who asks -> service."""
        for target, entry in list(self._entries.items()):
            for asking in entry.asking.keys() - wanted.get(target, {}).keys():
                self.forget(target, asking)
        for target, asked in wanted.items():
            for asking, service in asked.items():
                self.watch(target, asking, service)

    def set_policy(self, policy: Policy) -> None:
        """Judges every target anew; what is no longer allowed is let go at once."""
        self._policy = policy
        for entry in self._entries.values():
            self._let_go(entry)
            entry.number = -1
            self._admit(entry)

    def standing(self, target: Target) -> Standing | None:
        """What is known of a target; None if nobody asks for it."""
        entry = self._entries.get(target)
        if entry is None:
            return None
        check = target.check
        return Standing(entry.last, entry.at_ms, self._period(entry) * 1000, entry.baseline.timeout_ms(check),
                        entry.baseline.ms, entry.refused, tuple(sorted(entry.asking)))

    async def run(self) -> None:
        """Probes until cancelled."""
        self._running = True
        try:
            while True:
                self.turn()
                next_s = self._due[0][0] - self._clock.monotonic() if self._due else _LONGEST_S
                await self._clock.sleep(min(max(next_s, _TICK_S), _LONGEST_S))
        finally:
            self._running = False
            for entry in self._entries.values():
                self._let_go(entry)

    def turn(self) -> None:
        """Starts what is due, as far as the budget goes; what is left stays due, the longest waiting first."""
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, number, entry = self._due[0]
            if number != entry.number:
                heapq.heappop(self._due)  # was put in anew, or let go
                continue
            grown = self._period(entry) > _GROWN * entry.period
            passed = grown or len(entry.pending) >= _OVERLAP
            if not passed and (self.under_way >= self._budget.limits.under_way or not self._budget.take(now)):
                return
            heapq.heappop(self._due)
            self._put(entry, self._next(entry, max(due, now)))
            if not passed:
                self._start(entry)

    def _admit(self, entry: _Entry) -> None:
        """Judges a target, and puts it in if it may be probed."""
        target, now = entry.target, self._clock.monotonic()
        entry.refused = self._policy.refused(target.address, target.check.port)
        entry.ours = target.address in self._policy.allow
        if entry.refused is not None:
            return
        crowded = self._period(entry) > target.check.interval_ms / 1000 * self.stretched
        self._put(entry, self._next(entry, now) if crowded else now)
        if self._running:
            self.turn()

    def _put(self, entry: _Entry, due: float) -> None:
        self._counter += 1
        entry.number, entry.period = self._counter, self._period(entry)
        heapq.heappush(self._due, (due, self._counter, entry))

    def _period(self, entry: _Entry) -> float:
        """Seconds from start to start."""
        target = entry.target
        factor = self._budget.stretch(target.address, set(entry.asking.values()), ours=entry.ours,
                                      tls=target.check.shakes)
        return target.check.interval_ms / 1000 * factor

    def _next(self, entry: _Entry, now: float) -> float:
        """Its next place on the time line."""
        period = self._period(entry)
        first = entry.fraction * period
        return first + math.ceil((now + _SOON * period - first) / period) * period

    def _start(self, entry: _Entry) -> None:
        check, address = entry.target
        one = _Probe()
        entry.pending.append(one)
        self.under_way += 1
        timeout_s = entry.baseline.timeout_ms(check) / 1000
        one.running = self._begin(check, address, timeout_s, partial(self._ended, entry, one))

    def _ended(self, entry: _Entry, one: _Probe, outcome: Outcome) -> None:
        one.outcome = outcome
        self.under_way -= 1
        while entry.pending and (said := entry.pending[0].outcome) is not None:
            entry.pending.popleft()
            self._tell(entry, said)

    def _tell(self, entry: _Entry, outcome: Outcome) -> None:
        outcome = entry.baseline.judged(entry.target.check, outcome)
        entry.last, entry.at_ms = outcome, self._clock.unix_ms()
        if outcome.ours:
            return
        try:
            self._on_result(entry.target, outcome, entry.at_ms)
        except Exception:  # one target's consequences must not end the probing of all
            _log.exception("a probe's result was lost")

    def _let_go(self, entry: _Entry) -> None:
        """Ends what is under way."""
        while entry.pending:
            one = entry.pending.popleft()
            if one.outcome is None:
                self.under_way -= 1
                if one.running is not None:
                    one.running.stop()

    def _account(self, entry: _Entry, change: Callable[[dict[str, str]], object]) -> None:
        """Changes who asks, and what the budget knows of it."""
        check, address = entry.target
        if entry.asking:
            self._budget.remove(check.interval_ms, address, set(entry.asking.values()), tls=check.shakes)
        change(entry.asking)
        if entry.asking:
            self._budget.add(check.interval_ms, address, set(entry.asking.values()), tls=check.shakes)


class _Probe:
    """One probe under way, or ended and waiting for an earlier one."""

    __slots__ = ("outcome", "running")

    def __init__(self) -> None:
        self.running: Running | None = None
        self.outcome: Outcome | None = None


class _Entry:
    """One target. `number` is that of its place in the heap; another there is stale."""

    __slots__ = ("asking", "at_ms", "baseline", "fraction", "last", "number", "ours", "pending", "period", "refused",
                 "target")  # fmt: skip

    def __init__(self, target: Target, fraction: float) -> None:
        self.target, self.fraction = target, fraction
        self.asking: dict[str, str] = {}
        self.baseline = Baseline()
        self.pending: deque[_Probe] = deque()
        self.last: Outcome | None = None
        self.at_ms = 0
        self.number, self.period = -1, 0.0
        self.refused: str | None = None
        self.ours = False


def _fraction(node: bytes, target: Target) -> float:
    """A target's place in its interval at this node, 0 to 1."""
    digest = blake2b(repr(target).encode(), digest_size=7, key=node[:64]).digest()
    return int.from_bytes(digest, "big") / (1 << 56)
