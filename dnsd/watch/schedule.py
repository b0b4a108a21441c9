"""When each target is probed: once per interval however many ask for it, spread out, within the budget.

Lives here: targets and who asks for them, due times, what is under way, results in order. Does not live here: the probe
(`watch.probe`), how long it may take (`watch.baseline`), the limits (`watch.budget`), what a result means.

A target's place in its interval is a hash of the node and the target: probes of one node are spread evenly, nodes do
not meet at one target, and a restart changes nothing. A new target is probed at once. Due times are multiples of the
interval, so being late once moves nothing. A probe may outlast an interval; results are told in the order of starting.
What has just begun to fail is probed more often until it is settled, unless there are too many probes already.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Final, NamedTuple
from typing import Protocol as Shape

from dnsd.watch.budget import DEFAULT, Budget, Limits
from dnsd.watch.entry import Entry, Probe, Running, next_place
from dnsd.watch.entry import Target as Target
from dnsd.watch.outcome import Outcome
from dnsd.watch.target import Check, Policy

_log = logging.getLogger(__name__)

_TICK_S: Final = 0.01
"""Probes due within so much of each other start together: waking up costs as much as half a probe."""

_LONGEST_S: Final = 0.05
_OVERLAP: Final = 3
"""Probes of one target under way at once: one of two intervals' length ends a moment after the second next is due."""

_HURRIED: Final = 4
"""After so many failures in a row a target is in no doubt any more."""

_HURRY: Final = 0.5
"""What is in doubt is probed again after this part of its interval: where the last one has failed, or is overdue."""

_LATE_S: Final = 0.1
"""A probe that takes so much longer than the target's usually do, and half as long again, is overdue."""

_USUAL: Final = 8
"""A new success counts for one in so many of what is usual."""

_LOOKED: Final = 4
"""Services that are looked at, before each probe of a target whose payer asks for too much, for one with room."""

_JUDGED: Final = 100
"""Targets that a new policy is put to in one turn: a few milliseconds."""

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


Begin = Callable[[Check, bytes, float, Callable[[Outcome], None], float | None], Running]
"""`watch.probe.begin`: check, packed address, timeout in seconds, whom to tell, how long the connection may take at
most (None: the timeout); never tells before it returns."""


class Standing(NamedTuple):
    """What is known of one target, for showing. Times in milliseconds; `at_ms` (unix) is the last result's, else 0.
    `asking`: how many ask for it.
    """

    last: Outcome | None
    at_ms: int
    interval_ms: float
    timeout_ms: float
    baseline_ms: float | None
    refused: str | None
    asking: int


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
        self._entries: dict[Target, Entry] = {}
        self._due: list[tuple[float, int, Entry]] = []
        self._counter = 0
        self._running = False
        self._unjudged: Iterator[Entry] = iter(())
        self._restored: Mapping[str, float] = {}
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
            entry = self._entries[target] = Entry(target, self._node)
            entry.baseline.begin(self._restored.get(entry.name))
            self._ask(entry, asking, service)
            self._admit(entry)
        elif entry.asking.get(asking) != service:
            self._ask(entry, asking, service)
        return self.refused(target)

    def forget(self, target: Target, asking: str) -> None:
        """Asks no more; the last one takes the target away and stops its probes. Unknown ones are none."""
        entry = self._entries.get(target)
        if entry is None or asking not in entry.asking:
            return
        self._leave(entry, entry.asking.pop(asking))
        if not entry.asking:
            del self._entries[target]
            self._let_go(entry)
            entry.number = -1

    def set_policy(self, policy: Policy) -> None:
        """Judges anew; what is under way and no longer allowed is let go at once, and nothing else begins before it is
        judged. What is still allowed keeps its place.
        """
        self._policy = policy
        for entry in self._entries.values():
            if entry.pending:
                self._judge(entry)
        self._unjudged = iter([entry for entry in self._entries.values() if entry.judged is not policy])

    def refused(self, target: Target) -> str | None:
        """Why a target is not probed; None if it is, or if nobody asks for it. What was found of it before stands."""
        entry = self._entries.get(target)
        if entry is None:
            return None
        self._judge(entry)
        return entry.refused

    def dump(self) -> dict[str, float]:
        """Each target's baseline (ms) by a name that is the same in the next process."""
        return {entry.name: usual for entry in self._entries.values() if (usual := entry.baseline.ms) is not None}

    def restore(self, baselines: Mapping[str, float]) -> None:
        """What another process's `dump` was, for targets that are not asked for yet."""
        self._restored = baselines

    def standing(self, target: Target) -> Standing | None:
        """What is known of a target; None if nobody asks for it."""
        entry = self._entries.get(target)
        if entry is None:
            return None
        self._judge(entry)
        return Standing(entry.last, entry.at_ms, self._period(entry) * 1000, entry.baseline.timeout_ms(target.check),
                        entry.baseline.ms, entry.refused, len(entry.asking))

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
        for entry in islice(self._unjudged, _JUDGED):
            self._judge(entry)
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due, number, entry = self._due[0]
            if number != entry.number:
                heapq.heappop(self._due)  # was put in anew, or let go
                continue
            if entry.judged is not self._policy:
                self._judge(entry)
                continue
            self._share(entry)
            period = self._period(entry)
            overdue_s = self._overdue(entry)
            if entry.place is not None and overdue_s > now:
                heapq.heappop(self._due)
                self._look_at(entry, overdue_s, period, entry.place)
                continue
            passed = period > _GROWN * entry.period or len(entry.pending) >= _OVERLAP
            if not passed and (self.under_way >= self._budget.limits.under_way or not self._budget.take(now)):
                return
            heapq.heappop(self._due)
            place = next_place(entry, max(due, now), period)
            if not passed:
                self._start(entry)
            if entry.usual_s and entry.failed < _HURRIED and self.stretched <= 1:
                self._look_at(entry, max(now + _HURRY * period, self._overdue(entry)), period, place)
            else:
                self._put(entry, place, period)

    def _judge(self, entry: Entry) -> None:
        """Puts the present policy to a target that was judged by another."""
        if entry.judged is self._policy:
            return
        before = entry.refused
        self._look(entry)
        if entry.refused is not None:
            self._let_go(entry)
            entry.number = -1
        elif before is not None and entry.asking:
            self._enter(entry)

    def _admit(self, entry: Entry) -> None:
        """Judges a target that is new, and puts it in if it may be probed."""
        self._look(entry)
        if entry.refused is None:
            self._enter(entry)
            if self._running:
                self.turn()

    def _look(self, entry: Entry) -> None:
        target, entry.judged = entry.target, self._policy
        entry.refused = self._policy.refused(target.address, target.check.port)
        entry.ours = target.address in self._policy.allow

    def _enter(self, entry: Entry) -> None:
        """Due at once, but where there are too many already."""
        now, period = self._clock.monotonic(), self._period(entry)
        crowded = period > entry.target.check.interval_ms / 1000 * self.stretched
        self._put(entry, next_place(entry, now, period) if crowded else now, period)

    def _overdue(self, entry: Entry) -> float:
        """When the first probe under way takes much longer than this target's usually do: it may be the first that
        fails. A connection that stands late is a sign before the answer is."""
        for one in entry.pending:
            if one.outcome is None and one.running is not None:
                return one.began + _late(entry.usual_s if one.running.connected else entry.connect_s)
        return math.inf

    def _look_at(self, entry: Entry, look: float, period: float, place: float) -> None:
        """Looked at then whether a probe is overdue, if that is before its place."""
        if look < place:
            self._put(entry, look, period, place)
        else:
            self._put(entry, place, period)

    def _put(self, entry: Entry, due: float, period: float, place: float | None = None) -> None:
        """Due then; with a place it is only looked then whether the last probe is overdue, and due at that place."""
        self._counter += 1
        entry.number, entry.period, entry.due, entry.place = self._counter, period, due, place
        heapq.heappush(self._due, (due, self._counter, entry))

    def _period(self, entry: Entry) -> float:
        """Seconds from start to start."""
        check, address = entry.target
        factor = self._budget.stretch(address, entry.payer, ours=entry.ours, tls=check.shakes)
        return check.interval_ms / 1000 * factor

    def _start(self, entry: Entry) -> None:
        check, address = entry.target
        one = Probe(self._clock.monotonic())
        entry.pending.append(one)
        self.under_way += 1
        timeout_s = entry.baseline.timeout_ms(check) / 1000
        connect_ms = entry.baseline.connect_ms(check)
        one.running = self._begin(check, address, timeout_s, partial(self._ended, entry, one),
                                  None if connect_ms is None else connect_ms / 1000)

    def _ended(self, entry: Entry, one: Probe, outcome: Outcome) -> None:
        one.outcome = outcome
        self.under_way -= 1
        while entry.pending and (said := entry.pending[0].outcome) is not None:
            began = entry.pending.popleft().began
            self._tell(entry, said)
            self._hurry(entry, began)

    def _tell(self, entry: Entry, outcome: Outcome) -> None:
        outcome = entry.baseline.judged(entry.target.check, outcome)
        entry.last, entry.at_ms = outcome, self._clock.unix_ms()
        if outcome.ours:
            return
        entry.failed = 0 if outcome.ok else entry.failed + 1
        if outcome.ok:
            entry.usual_s = _joined(entry.usual_s, outcome.total_ms / 1000)
            entry.connect_s = _joined(entry.connect_s, outcome.connect_ms / 1000)
        try:
            self._on_result(entry.target, outcome, entry.at_ms)
        except Exception:  # one target's consequences must not end the probing of all
            _log.exception("a probe's result was lost")

    def _hurry(self, entry: Entry, began: float) -> None:
        """Whether it has failed is to be settled soon: the next probe need not wait for its place."""
        if not 0 < entry.failed < _HURRIED or entry.number < 0 or self.stretched > 1:
            return
        period = self._period(entry)
        due = max(self._clock.monotonic(), began + _HURRY * period)
        if due < entry.due or entry.place is not None:
            self._put(entry, due, period)

    def _let_go(self, entry: Entry) -> None:
        """Ends what is under way."""
        while entry.pending:
            one = entry.pending.popleft()
            if one.outcome is None:
                self.under_way -= 1
                if one.running is not None:
                    one.running.stop()

    def _ask(self, entry: Entry, asking: str, service: str) -> None:
        """Someone more asks, or on another account."""
        was = entry.asking.get(asking)
        entry.asking[asking] = service
        entry.services[service] = entry.services.get(service, 0) + 1
        check, address = entry.target
        if not entry.payer:
            entry.payer = service
            self._budget.add(check.interval_ms, address, service, tls=check.shakes)
        else:
            self._offer(entry, service)
        if was is not None:
            self._leave(entry, was)

    def _leave(self, entry: Entry, service: str) -> None:
        """One less asks on a service's account."""
        check, address = entry.target
        entry.services[service] -= 1
        if entry.services[service]:
            return
        del entry.services[service]
        if entry.payer != service:
            return
        entry.payer = next(iter(entry.services), "")
        if entry.payer:
            self._budget.move(check.interval_ms, service, entry.payer)
        else:
            self._budget.remove(check.interval_ms, address, service, tls=check.shakes)

    def _share(self, entry: Entry) -> None:
        """Where the payer asks for too much: is there one with more room? A few are looked at each time."""
        if len(entry.services) > 1 and self._budget.over(entry.payer):
            for _ in range(_LOOKED):
                service = next(iter(entry.services))
                entry.services.move_to_end(service)
                self._offer(entry, service)

    def _offer(self, entry: Entry, service: str) -> None:
        interval_ms = entry.target.check.interval_ms
        if service != entry.payer and self._budget.better(interval_ms, entry.payer, service):
            self._budget.move(interval_ms, entry.payer, service)
            entry.payer = service


def _joined(usual_s: float, took_s: float) -> float:
    return usual_s + (took_s - usual_s) / _USUAL if usual_s else took_s


def _late(usual_s: float) -> float:
    """Seconds after which what usually takes so long is overdue."""
    return usual_s + max(usual_s / 2, _LATE_S)
