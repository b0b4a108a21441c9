"""How long a target's handshake usually takes from here, and so how long a probe of it may take.

Lives here: the memory of the last successes, the timeout, judging by it. Does not live here: waiting (`watch.probe`).

A fixed timeout calls every far endpoint dead or every near one well for too long; so a probe may take its check's
`timeout_ms` more than the handshake usually takes, a round trip more where something is asked after it, and a second at
most. Failures teach nothing. But a path can become
longer for good, and a probe cut off early could never find out: after `STUCK` timeouts in a row the probe is given the
whole second, and is then judged by the handshake it really had. A slow server does not gain by that, a far one does.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.target import MOST_MS, Check

REMEMBERED: Final = 16
"""Successes. The baseline is their least handshake: single delays do not raise it, a shorter path counts at once."""

STUCK: Final = 3


class Baseline:
    """What is known of one target's handshake."""

    __slots__ = ("_last", "_timeouts")

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=REMEMBERED)
        self._timeouts = 0

    def begin(self, ms: float | None) -> None:
        """What another process had found, if anything: one success, to be forgotten as any other."""
        if ms is not None and 0 < ms < MOST_MS:
            self._last.append(ms)

    @property
    def ms(self) -> float | None:
        """The baseline in milliseconds; None before the first success."""
        return min(self._last, default=None)

    def timeout_ms(self, check: Check) -> float:
        """How long the next probe may take: all there is where nothing is known, or what is known may be no more so."""
        usual = self.ms
        if usual is None or self._timeouts >= STUCK:
            return MOST_MS
        return min(_longest(check, usual), MOST_MS)

    def connect_ms(self, check: Check) -> float | None:
        """When a connection comes too late for what is asked over it to end in time; None where that is the timeout."""
        usual = self.ms
        if usual is None or self._timeouts >= STUCK or check.shakes or check.kind not in ("http", "grpc"):
            return None
        return min(usual + check.timeout_ms, MOST_MS)

    def judged(self, check: Check, outcome: Outcome) -> Outcome:
        """Learns from an outcome, and calls a success that took too long after its own handshake a timeout."""
        if outcome.ours:
            return outcome
        if outcome.ok and outcome.total_ms > _longest(check, outcome.handshake_ms) and self._late(check, outcome):
            outcome = outcome._replace(ok=False, reason=Reason.TIMEOUT)
        if not outcome.ok:
            self._timeouts = self._timeouts + 1 if outcome.reason is Reason.TIMEOUT else 0
            return outcome
        if self._timeouts >= STUCK:
            self._last.clear()
        self._timeouts = 0
        self._last.append(outcome.handshake_ms)
        return outcome

    def _late(self, check: Check, outcome: Outcome) -> bool:
        """Whether it is over the baseline as well: a quick handshake takes nothing from what the target usually has."""
        usual = self.ms
        return usual is None or self._timeouts >= STUCK or outcome.total_ms > _longest(check, usual)


def _longest(check: Check, handshake_ms: float) -> float:
    """What a probe may take after such a handshake. A request's way there and back is no fault of the server's: it is
    the handshake's length, or half of it where TLS 1.3 is in it.
    """
    asks = check.kind in ("http", "https", "grpc")
    return handshake_ms * (1 + asks * (0.5 if check.shakes else 1.0)) + check.timeout_ms
