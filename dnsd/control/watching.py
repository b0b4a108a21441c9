"""The node's prober in the control process: what it may reach, running it, keeping what it found.

Lives here: the settings' part, the policy from them and from this machine's addresses, the task, the file's saving.
Does not live here: when and how is probed (`watch`), what results mean (`control.health`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel

from dnsd import disk
from dnsd.control import writes
from dnsd.control.clock import Clock
from dnsd.control.health import Health
from dnsd.control.healthfile import FILE
from dnsd.dns.prefixes import Prefixes
from dnsd.watch import own, probe
from dnsd.watch.budget import Limits
from dnsd.watch.schedule import Schedule
from dnsd.watch.target import Policy

SAVE_S: Final = 5.0
SEEN_S: Final = 60.0
LOOK_S: Final = 30.0
_log = logging.getLogger("dnsd.control")


class ProbeSettings(BaseModel):
    """The settings' table [probes]."""

    enabled: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    rate: int = 2000
    region: str = ""


class Watching:
    """One node's prober; `run` is its life. `sockets` are the addresses our own processes listen on."""

    def __init__(self, settings: ProbeSettings, health: Health, *, sockets: Sequence[str], store_url: str, node: str,
                 state: Path, clock: Clock) -> None:
        self.settings, self.health, self.clock = settings, health, clock
        self._sockets = frozenset((*map(_socket, sockets), *_store(store_url)))
        self._file = state / FILE
        self._policy = self._allowed()
        limits = Limits(node=settings.rate, under_way=own.descriptors(Limits().under_way))
        self.schedule = Schedule(probe.begin, health.took, self._policy, clock=clock, node=node, limits=limits)
        if settings.enabled:
            health.schedule = self.schedule

    def take_over(self) -> None:
        """The states a former process has written down."""
        try:
            self.health.restore(self._file)
        except (ValueError, OSError) as error:
            _log.error("what was known of health is lost: %s", error)

    async def run(self) -> None:
        """Probe until cancelled; now and then look which addresses this machine has, and save."""
        probing = asyncio.create_task(self.schedule.run())
        try:
            looked = saved = self.clock.monotonic()
            while not probing.done():
                await self.clock.sleep(1.0)
                now = self.clock.monotonic()
                if now - looked >= LOOK_S:
                    looked = now
                    self._look()
                if now - saved >= (SAVE_S if self.health.unsaved else SEEN_S) and self._worth:
                    saved = now
                    await writes.done(partial(self._write, self.health.dump()))
            probing.result()
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    def save(self) -> None:
        """Write down what is known."""
        if self._worth:
            self._write(self.health.dump())

    @property
    def _worth(self) -> bool:
        """Whether there is anything to write: before anything is probed what a former process wrote is better."""
        return self.settings.enabled and (self.health.watches or self.health.unsaved)

    def described(self) -> dict[str, Any]:
        """For people."""
        return {
            "enabled": self.settings.enabled, **self.health.described(), "stretched": round(self.schedule.stretched, 3),
            "late_ms": round(self.schedule.late_ms, 1), "under_way": self.schedule.under_way}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        if self.settings.enabled and self.schedule.stretched > 1:
            yield f"health is checked {self.schedule.stretched:.1f} times more rarely than asked: over the node's rate"

    def _allowed(self) -> Policy:
        try:
            here = own.addresses()
        except OSError as error:
            _log.error("the addresses of this machine cannot be had: %s", error)
            here = frozenset()
        settings = self.settings
        return Policy(
            Prefixes(settings.allow), frozenset(settings.ports) if settings.ports else None, here, self._sockets,
            Prefixes(settings.deny))

    def _look(self) -> None:
        policy = self._allowed()
        if policy.own != self._policy.own:
            self._policy = policy
            self.schedule.set_policy(policy)
            self.health.revised()

    def _write(self, dump: Callable[[], bytes]) -> None:
        try:
            disk.replace(self._file, dump())
        except OSError as error:
            self.health.unsaved = True
            _log.error("what is known of health cannot be written: %s", error)


def _socket(text: str) -> tuple[bytes, int]:
    """Packed address and port of a listening address of the settings; no address for all of the machine's."""
    host, _, port = text.rpartition(":")
    address = ip_address(host.strip("[]").partition("%")[0])
    return (b"" if address.is_unspecified else address.packed), int(port)


def _store(url: str) -> Iterator[tuple[bytes, int]]:
    """The registry's sockets, where their addresses are written as numbers."""
    for part in urlsplit(url).netloc.rpartition("@")[2].split(","):
        host, _, port = part.rpartition(":")
        try:
            yield ip_address(host.strip("[]")).packed, int(port)
        except ValueError:
            continue
