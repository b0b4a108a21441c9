"""The prober's life in the control process: what is written down, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dnsd.control.clock import Clock
from dnsd.control.health import KEPT_MS, Health
from dnsd.control.state import Fleet
from dnsd.control.watching import ProbeSettings, Watching
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, service


class Time(Clock):
    """Virtual time; sleeping costs none."""

    def __init__(self) -> None:
        self.passed = 0.0

    def unix_ms(self) -> int:
        return NOW + int(self.passed * 1000)

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds
        await asyncio.sleep(0)


def watching(state: Path, clock: Time, *, enabled: bool = True) -> Watching:
    fleet = Fleet()
    health = Health(fleet, None, clock)  # type: ignore[arg-type]
    made = Watching(ProbeSettings(enabled=enabled, rate=1), health, sockets=[], store_url="unix:///x", node="n",
                    state=state, clock=clock)
    made.take_over()
    fleet.apply(events(1, service(check={"kind": "tcp", "port": 80}), endpoint("one", "10.0.0.1")), NOW)
    health.renew(SERVICE)
    return made


async def life(one: Watching, clock: Time, seconds: float) -> None:
    task = asyncio.create_task(one.run())
    end = clock.passed + seconds
    while clock.passed < end:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.asyncio
async def test_states_of_a_quiet_fleet_do_not_grow_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written down when something changes would be too old for a restart ten minutes later."""
    async def at_once(work: Callable[..., object], *arguments: object) -> object:
        return work(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # minutes of this time pass while a thread starts
    clock = Time()
    one = watching(tmp_path, clock)
    await life(one, clock, KEPT_MS / 1000 + 5)
    assert clock.unix_ms() - json.loads((tmp_path / "health.json").read_bytes())["at_ms"] < KEPT_MS / 2
    clock.passed += 60
    one.save()
    assert json.loads((tmp_path / "health.json").read_bytes())["at_ms"] == clock.unix_ms()


@pytest.mark.asyncio
async def test_who_probes_nothing_writes_nothing(tmp_path: Path) -> None:
    clock = Time()
    one = watching(tmp_path, clock, enabled=False)
    await life(one, clock, 200)
    one.save()
    assert not (tmp_path / "health.json").exists()
    assert one.health.measured(SERVICE, "one", 1).state.name == "UP"
