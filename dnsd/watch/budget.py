"""How many probes a second may be sent, to whom and for whom; beyond that, how much rarer each becomes.

Lives here: the limits, the sums, the factors. Does not live here: when a probe is due (`watch.schedule`).

Registering costs a tenant nothing and makes every node probe, so without limits a few thousand registrations are a
flood at somebody else's door, or starve everyone's probes. Beyond a limit nothing is dropped: intervals become longer
by the same factor for all that share the limit. A service pays for itself first: the node's limit counts it with at
most its own. Where several share a target one of them pays for it, so that who asks as well costs nothing to reckon,
were there thousands; it is one that has room, if any has. All sums are integers: what comes and goes leaves nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

_UNIT: Final = 3_600_000_000
"""One probe a second, times 3.6 million: an interval up to an hour still counts, and shares of it."""

_TLS: Final = b""
"""Among the places, all of them: where the rate of handshakes is."""


class Limits(NamedTuple):
    """Probes a second: of this node, for one service, to one /24 or /48, to one address; and how many may be under way.

    The operator's own fleet (the policy's allow list) is free of the limits by network and address. `handshakes` are
    the node's probes with TLS: each costs more than ten others, a millisecond of this process.
    """

    node: int = 2_000
    service: int = 500
    network: int = 200
    address: int = 50
    under_way: int = 2_000
    handshakes: int = 500


DEFAULT: Final = Limits()


class Budget:
    """The rates asked for, kept as targets come and go."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self._services: Counter[str] = Counter()
        self._places: Counter[bytes] = Counter()
        self._node = 0
        self._left, self._since = self._most, now

    def add(self, interval_ms: int, address: bytes, service: str, *, tls: bool = False) -> None:
        """A target is probed, and this service pays for it."""
        self._place(_rate(interval_ms), address, tls=tls)
        self._charge(_rate(interval_ms), service)

    def remove(self, interval_ms: int, address: bytes, service: str, *, tls: bool = False) -> None:
        """Takes back what `add` was given."""
        self._place(-_rate(interval_ms), address, tls=tls)
        self._charge(-_rate(interval_ms), service)

    def move(self, interval_ms: int, payer: str, service: str) -> None:
        """Another service pays for a target."""
        self._charge(-_rate(interval_ms), payer)
        self._charge(_rate(interval_ms), service)

    def over(self, service: str) -> bool:
        """Whether a service pays for more than it may ask for."""
        return self._services[service] > self.limits.service * _UNIT

    def better(self, interval_ms: int, payer: str, service: str) -> bool:
        """Whether a target would be probed more often if that service paid for it."""
        return self.over(payer) and self._services[service] + _rate(interval_ms) < self._services[payer]

    @property
    def stretched(self) -> float:
        """By how much the node's own limit lengthens every interval; 1 when it does not."""
        return max(1.0, self._node / (self.limits.node * _UNIT))

    def stretch(self, address: bytes, payer: str, *, ours: bool, tls: bool = False) -> float:
        """By how much a target's interval is longer than asked for. `ours`: an address of the operator's own fleet."""
        factor = self._services[payer] / (self.limits.service * _UNIT)
        if tls:
            factor = max(factor, self._places[_TLS] / (self.limits.handshakes * _UNIT))
        if not ours:
            factor = max(factor, self._places[address] / (self.limits.address * _UNIT),
                         self._places[_network(address)] / (self.limits.network * _UNIT))
        return max(1.0, factor) * self.stretched

    def take(self, now: float) -> bool:
        """Whether one more probe may start now (seconds, monotonic): the node's limit, whatever was asked for."""
        self._left = min(self._most, self._left + (now - self._since) * self.limits.node)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    @property
    def _most(self) -> float:
        return max(1.0, self.limits.node / 10)

    def _place(self, rate: int, address: bytes, *, tls: bool) -> None:
        for place in (address, _network(address), _TLS)[: 3 if tls else 2]:
            self._places[place] += rate
            if not self._places[place]:
                del self._places[place]

    def _charge(self, rate: int, service: str) -> None:
        most = self.limits.service * _UNIT
        before = self._services[service]
        after = before + rate
        self._node += min(after, most) - min(before, most)
        self._services[service] = after
        if not after:
            del self._services[service]


def _rate(interval_ms: int) -> int:
    return 1000 * _UNIT // interval_ms


def _network(address: bytes) -> bytes:
    """What one owner usually has: a /24, a /48. Never as long as an address, so both go into one table."""
    return address[:3] if len(address) == 4 else address[:6]
