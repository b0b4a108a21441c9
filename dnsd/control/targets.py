"""What is probed for a service's endpoints, and how the service judges it.

Lives here: services to targets, their names, targets in words, what of a schedule is needed. Does not live here: states
(`control.health`), probing (`watch`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from dnsd.dns import types
from dnsd.registry import checks
from dnsd.registry.models import Endpoint, Service
from dnsd.steer.health import Rules
from dnsd.watch.schedule import Standing, Target
from dnsd.watch.target import Check


class Schedule(Protocol):
    """What of `watch.schedule` is needed."""

    def watch(self, target: Target, asking: str, service: str) -> str | None:
        """Someone asks for a target, on a service's account; why it is refused, or None."""

    def forget(self, target: Target, asking: str) -> None:
        """Asks no more."""

    def standing(self, target: Target) -> Standing | None:
        """What is known of a target."""

    def dump(self) -> Mapping[str, float]:
        """How long a handshake with each target usually takes, for a successor."""

    def restore(self, baselines: Mapping[str, float]) -> None:
        """What another process's `dump` was."""


class Way(NamedTuple):
    """How a service judges what is found of its targets; `up`: at first it takes them to be up."""

    rules: Rules
    up: bool


def targets(service: Service, endpoints: Iterable[Endpoint]) -> Iterator[tuple[tuple[str, int], Target]]:
    """(Endpoint id, type) -> what is probed for it."""
    check = service.check
    if check == "none":
        return
    made = probed(service.name, check)
    for endpoint in endpoints:
        for type_, address in addresses(endpoint):
            yield (endpoint.id, type_), Target.of(made, address)


def addresses(endpoint: Endpoint) -> Iterator[tuple[int, bytes]]:
    """An endpoint's record types and packed addresses."""
    if endpoint.a is not None:
        yield types.A, endpoint.a.packed
    if endpoint.aaaa is not None:
        yield types.AAAA, endpoint.aaaa.packed


def probed(service: str, check: checks.Check) -> Check:
    """The check as probes take it, with what a service's check leaves out and without what its kind does not look at:
    that would make two targets of one."""
    host = check.host or service.removeprefix("*.")
    made = Check(
        check.kind, check.port or checks.PORTS[check.kind] or 0, interval_ms=check.interval_ms,
        timeout_ms=check.timeout_ms, address=check.address.packed if check.address is not None else None)
    match check.kind:
        case "tcp":
            return made
        case "dns":
            return made._replace(qname=host)
    return made._replace(
        path=check.path, host=host, method=check.method, status=check.status, text=(check.text or "").encode(),
        verify=check.verify, tls=check.tls)


def way(check: checks.Check) -> Way:
    """How a check judges."""
    return Way(Rules(check.rise, check.fall, check.ramp_ms), check.initial == "up")


@lru_cache(maxsize=1 << 16)
def name(target: Target) -> str:
    """A target's name: the same in the next process and on every node."""
    return blake2b(repr(target).encode(), digest_size=8).hexdigest()


def judged(target: Target, way: Way) -> str:
    """The name of one way of judging a target; `name_of` gives the target's back."""
    return f"{name(target)}.{blake2b(repr(way).encode(), digest_size=3).hexdigest()}"


def name_of(judged_: str) -> str:
    """The target's name in that of a way of judging it."""
    return judged_.partition(".")[0]


def text(target: Target) -> str:
    """A target in words."""
    host = str(ip_address(target.address))
    return f"{target.check.kind} {f'[{host}]' if ':' in host else host}:{target.check.port}"
