"""Round trips in the control process: intake, deciding and this node's table, put together.

Lives here: the wiring, what is told of them together. Does not live here: what each of them does
(`control.measurements`, `control.deciding`, `control.measured`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dnsd.control.clock import Clock
from dnsd.control.deciding import Deciding, Fence, summary
from dnsd.control.feeds import Feeds
from dnsd.control.health import Health
from dnsd.control.maps import Maps
from dnsd.control.measured import Measured
from dnsd.control.measurements import Measurements
from dnsd.control.resolvers import Resolvers
from dnsd.control.state import Fleet
from dnsd.registry.store import Registry


class Trips:
    """All of it on one node; `run` is its life."""

    def __init__(
        self, registry: Registry, fleet: Fleet, maps: Maps, health: Health, fence: Callable[[], Fence | None], *,
        node: str, site: str, state: Path, feeds: Feeds, clock: Clock,
    ) -> None:
        store = registry.measurements
        self.maps = maps
        self.intake = Measurements(store, fleet, maps, health, node=node, site=site, clock=clock)
        self.resolvers = Resolvers(self.intake)
        feeds.trips = self.resolvers.take
        self.measured = Measured(store, state, clock=clock)
        self.measured.changed = maps.measured
        self.deciding = Deciding(
            store, node=node, fence=fence, sites=lambda: sorted(fleet.sites), seed=self._seed, clock=clock)
        self.deciding.mend = lambda: self.measured.corrupt

    async def run(self) -> None:
        """All of it, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for part in (self.intake, self.measured, self.deciding):
                tasks.create_task(part.run())

    def described(self) -> dict[str, Any]:
        """For people and metrics."""
        state = self.measured.state
        reporters = state.get("reporters", {})
        distrusted = {name: one["distrusted"] for name, one in reporters.items() if "distrusted" in one}
        used = [one for one in self.maps.described() if one["measured"]]
        return {"maps": {"measured": len(used), "churn": max((one.get("churn") or 0.0 for one in used), default=0.0)},
                "intake": {**self.intake.described(), "tcp": self.resolvers.accepted},
                "table": self.measured.described(),
                "deciding": self.deciding.described(), "last": summary(state), "distrusted": distrusted}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        for name, why in self.described()["distrusted"].items():
            yield f"round trips of {name} are not believed: {why}"
        yield from self.measured.conditions()
        yield from self.deciding.conditions()

    def _seed(self) -> bytes | None:
        return self.measured.table.to_bytes() if self.measured.table is not None else None
