"""Everything for secondaries, put together from the settings: serials, transfers, NOTIFY.

Lives here: settings to parts, what runs, what `status` says of it. Does not live here: any of the parts (`serials`,
`transfer`, `notify`), the way queries come (`desk`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from dnsd import disk
from dnsd.control import tsig
from dnsd.control.clock import Clock
from dnsd.control.intake import Intake
from dnsd.control.notify import Notifier, Target
from dnsd.control.publish import Publisher
from dnsd.control.serials import Serials
from dnsd.control.transfer import Allowed, Transfers
from dnsd.dns import names
from dnsd.registry.store import Registry

EVERYWHERE_S: Final = 5.0
_log = logging.getLogger("dnsd.control")


class ZoneSettings(BaseModel):
    """One configured zone. `transfer`: prefixes, and keys as `key:NAME`; `notify`: addresses with their ports."""

    name: str
    file: Path
    transfer: tuple[str, ...] = ()
    notify: tuple[str, ...] = ()
    notify_key: str | None = None


class Secondaries:
    """One node's. `keys` are all TSIG keys; `transfers` answers questions for transfers."""

    def __init__(self, zones: Sequence[ZoneSettings], keys: tsig.Keys, publisher: Publisher, registry: Registry,
                 intake: Intake, *, state: Path, clock: Clock) -> None:
        self.keys = keys
        self._publisher = publisher
        apexes = {zone.name: names.to_wire(zone.name) for zone in zones}
        self.serials = Serials(
            (apexes[zone.name] for zone in zones if zone.transfer or zone.notify), publisher.views, registry,
            state / disk.SERIALS, connected=lambda: intake.connected, clock=clock)
        self.transfers = Transfers({apexes[zone.name]: Allowed(zone.transfer) for zone in zones}, self.serials)
        targets = [_target(apexes[zone.name], text, zone, keys) for zone in zones for text in zone.notify]
        self.notifier = Notifier(targets, lambda: self.serials.contents, self._everywhere, clock)
        publisher.serials = self.serials

    def take_over(self) -> None:
        """What a former process left."""
        try:
            self.serials.restore()
        except (ValueError, OSError) as error:
            _log.error("serials are taken from the registry alone: %s", error)

    async def run(self) -> None:
        """Keep serials and secondaries up to date, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.serials.run(lambda: self._publisher.mark(structure="serials")))
            tasks.create_task(self.notifier.run(self.serials.taken))

    def described(self, zones: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The zones as `status` shows them, with what concerns secondaries."""
        found = []
        for zone in zones:
            told = self.serials.described(zone["name"])
            if told:
                told["transfer"]["notify"] = self.notifier.described(zone["name"])
            found.append({**zone, **told})
        return found

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        yield from self.serials.faults()
        for target in self.notifier.targets:
            if target.error:
                yield f"zone {names.to_text(target.apex)}: secondary {target.address}: {target.error}"

    async def _everywhere(self) -> None:
        """Until every worker serves what is published now, or long enough."""
        stamp, feeds = self._publisher.live.stamp, self._publisher.feeds
        await feeds.wait(lambda: all(f.stamp is not None and f.stamp >= stamp for f in feeds.feeds), EVERYWHERE_S)


def _target(apex: bytes, text: str, zone: ZoneSettings, keys: tsig.Keys) -> Target:
    host, _, port = text.rpartition(":")
    key = keys.get(zone.notify_key) if zone.notify_key else None
    return Target(apex, host.strip("[]"), int(port), key)
