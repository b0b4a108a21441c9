"""A whole drill: one fleet, the runs in it one after the other or, where they do not touch, several at once.

Lives here: `Plan`, `hold`. Does not live here: a run (`trial`), the command line (`cli.drill`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dnsd.drill import fleet, netns, picture
from dnsd.drill.faults import FAULTS
from dnsd.drill.result import Result
from dnsd.drill.trial import Trial

RUNS_MAX: Final = 250
"""Of which there are addresses; then the first ones are used again."""

ALONE: Final = frozenset(name for name, fault in FAULTS.items()
                         if fault.site or not fault.dies or fault.prepare is not None)
"""Faults that happen to the whole fleet, so nothing else can be measured meanwhile."""


@dataclass(frozen=True)
class Plan:
    """What is to be done. `picture`: an SVG file, of one run; of several each has its own beside it."""

    faults: Sequence[str]
    redis: Path
    seed: int
    runs: int = 1
    ttls: Sequence[int] = (8,)
    workers: int = fleet.WORKERS
    at_once: int = 1
    picture: Path | None = None

    def trials(self) -> list[tuple[str, int]]:
        """Fault and TTL of each run, in order: what can go together first, if anything is to."""
        found = [(fault, ttl) for fault in self.faults for ttl in self.ttls for _ in range(self.runs)]
        return sorted(found, key=lambda one: one[0] in ALONE) if self.at_once > 1 else found


async def hold(plan: Plan, folder: Path, told: Callable[[Result], None]) -> list[Result]:
    """All runs in one fleet under a folder; each result is told as soon as it is there. NotReadyError,
    UnavailableError."""
    netns.be_ahead()
    scene = fleet.Fleet(folder, plan.redis, seed=plan.seed, workers=plan.workers)
    results: dict[int, Result] = {}
    turns = asyncio.Semaphore(plan.at_once)
    trials = plan.trials()

    async def one(number: int) -> None:
        fault, ttl = trials[number]
        async with turns:
            trial = Trial(scene, fault, number % RUNS_MAX + 1, ttl=ttl, seed=plan.seed)
            results[number] = result = await trial.run()
        if plan.picture is not None and not result.refused:
            _picture_file(plan, result).write_text(picture.draw(trial), encoding="utf-8")
        told(result)

    try:
        await scene.start()
        together = [number for number, (fault, _) in enumerate(trials) if plan.at_once > 1 and fault not in ALONE]
        async with asyncio.TaskGroup() as tasks:
            for number in together:
                tasks.create_task(one(number))
        for number in range(len(together), len(trials)):
            await one(number)
    except* fleet.NotReadyError as group:
        raise group.exceptions[0] from None
    finally:
        scene.stop()
    return [results[number] for number in sorted(results)]


def _picture_file(plan: Plan, result: Result) -> Path:
    path = plan.picture or Path()
    if len(plan.trials()) == 1:
        return path
    return path.with_name(f"{path.stem}-{result.fault}-{result.run}{path.suffix}")
