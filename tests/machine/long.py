"""The machine for as long as is wished, over all cores; what was done is noted, so that it can be stopped and goes on.

`MACHINE_STEPS` steps in all, `MACHINE_LOG` where they are noted (`build/machine.log`), `MACHINE_SEED` the first seed,
`MACHINE_PROCESSES` how many at once. A line is a seed, its steps, and what broke, if anything did; hypothesis prints
how it came to that when the seed is run again: `python -m tests.machine.long SEED`. A process in which descriptors stay
open ends the run, for it would soon do nothing else than note that there are none.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import Machine

EXAMPLES, STEPS = 10, 100
GARBAGE = 50_000
"""Objects until they are looked through: more than one by itself would, for a tenth of the time."""

MOST_OPEN = 300
"""Descriptors between two seeds."""


class Leak(Exception):
    """Descriptors stay open."""


def run(steps: int) -> list[str]:
    """So many steps, those noted before among them; what broke. Leak: it goes no further."""
    log = Path(os.environ.get("MACHINE_LOG", "build/machine.log"))
    log.parent.mkdir(parents=True, exist_ok=True)
    noted = [line.split(" ", 2) for line in (log.read_text().splitlines() if log.exists() else [])]
    done, broken = {int(line[0]) for line in noted}, [" ".join(line) for line in noted if len(line) > 2]
    taken = sum(int(line[1]) for line in noted)
    seeds = (number for number in count(int(os.environ.get("MACHINE_SEED", "0"))) if number not in done)
    processes = int(os.environ.get("MACHINE_PROCESSES", os.cpu_count() or 1))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool, log.open("a") as notes:
        pending: set[Future[str]] = set()
        while taken < steps or pending:
            while taken < steps and len(pending) < processes:
                pending.add(pool.submit(one, next(seeds)))
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for line in (future.result() for future in ended):
                print(line, file=notes, flush=True)
                parts = line.split(" ", 2)
                taken += int(parts[1])
                broken += [line] if len(parts) > 2 else []
    return broken


def one(number: int, *, blob: bool = False) -> str:
    """One seed: itself, its steps, and what broke."""
    gc.collect()  # of the worlds before
    if (held := len(os.listdir("/dev/fd"))) > MOST_OPEN:
        raise Leak(f"{held} descriptors are open before seed {number}")
    os.nice(5)
    gc.set_threshold(GARBAGE, 20, 50)
    before, broke = Machine.steps, ""
    drawn = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), print_blob=blob)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            run_state_machine_as_test(seed(number)(Machine), settings=drawn)
    except Exception as error:
        if blob:
            raise
        broke = f" {type(error).__name__}: {error}".replace("\n", " | ")[:400]
    return f"{number} {Machine.steps - before}{broke}"


if __name__ == "__main__":
    print(one(int(sys.argv[1]), blob=True))
