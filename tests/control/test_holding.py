"""Which states may take the place of the one that is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnsd.control import holding
from dnsd.control.holding import Served
from dnsd.model import Fault
from dnsd.registry.fields import Model
from tests.control.fleet_samples import SERVICE, endpoint, fleet, loaded, service
from tests.control.rig import EPOCH, Rig

NAMES = [f"s{i}.example.com" for i in range(10)]


def state(services: int, endpoints: int, epoch: int, version: int) -> object:
    made: list[Model] = [service(name) for name in NAMES[:services]]
    made += [endpoint(f"e{i}", f"192.0.2.{i + 1}", service=NAMES[0]) for i in range(endpoints)]
    return loaded(*made, epoch=epoch, version=version)


SERVED = Served(1, 50, frozenset(NAMES), 10)


@pytest.mark.parametrize(("services", "endpoints", "epoch", "version", "gap", "reason"), [
    (10, 10, 1, 50, "", ""),
    (10, 10, 1, 60, "trimmed", ""),
    (0, 0, 1, 60, "", ""),                  # the same history goes on: somebody deleted them
    (0, 0, 1, 60, "trimmed", ""),
    (10, 10, 1, 49, "", ""),                # a failover that lost a write
    (6, 10, 1, 49, "", "went back from version 50 to 49 and lacks 4 of 10 services"),
    (10, 10, 1, 60, "forked", ""),
    (7, 10, 1, 60, "forked", ""),
    (6, 10, 1, 60, "forked", "another history than what is served and lacks 4 of 10 services"),
    (10, 7, 1, 60, "forked", ""),
    (10, 6, 1, 60, "forked", "lacks 4 of 10 endpoints"),
    (0, 0, 2, 0, "forked", r"began anew \(epoch 0{15}2, served is 0{15}1\) and lacks 10 of 10 services"),
    (0, 0, 2, 0, "", "began anew"),
    (10, 10, 2, 5, "forked", ""),           # restored from a backup of objects: nothing is missing
    (10, 30, 2, 5, "", ""),
])
def test_judgement(services: int, endpoints: int, epoch: int, version: int, gap: str, reason: str) -> None:
    import re

    said = holding.judge(SERVED, state(services, endpoints, epoch, version), gap).held  # type: ignore[arg-type]
    assert bool(said) == bool(reason)
    assert re.search(reason, said)


def test_small_fleets() -> None:
    one = Served(1, 5, frozenset(NAMES[:1]), 3)
    assert holding.judge(one, state(1, 2, 2, 5), "").held == ""      # one of three may have expired meanwhile
    assert "endpoints: 1 of 3" in holding.judge(one, state(1, 2, 2, 5), "").alarm  # but it is spoken of
    assert "lacks 3 of 3 endpoints" in holding.judge(one, state(1, 0, 2, 5), "").held  # type: ignore[arg-type]
    assert "lacks 1 of 1 services" in holding.judge(one, state(0, 0, 2, 5), "").held  # type: ignore[arg-type]


ONE, OTHER = endpoint("a1", "192.0.2.1", service=NAMES[0]), endpoint("a2", "192.0.2.2", service=NAMES[0])


@pytest.mark.parametrize(("now", "epoch", "version", "held", "alarm", "anew"), [
    ((ONE, OTHER), 1, 49, "", "went back from version 50 to 49; it was adopted, lost are no objects", True),
    ((ONE,), 1, 49, "", r"endpoints: 1 of 2 \(s0.example.com/a2\)", True),
    ((ONE, OTHER.model_copy(update={"weight": 7})), 1, 49, "", "endpoints: 1 of 2", True),
    ((ONE, OTHER.model_copy(update={"load": 7})), 1, 49, "", "no objects", True),
    ((ONE, OTHER.model_copy(update={"weight": 7})), 2, 49, "", "", False),  # anew: somebody may have written that
    # What had been taken away would be back.
    ((ONE, OTHER, endpoint("x", "192.0.2.3", service=NAMES[0]), endpoint("y", "192.0.2.4", service=NAMES[0])), 1, 49,
     "went back from version 50 to 49 and has 2 of 2 endpoints otherwise", "", True),
    ((ONE,), 1, 50, "", "another history than what is served; it was adopted, lost are endpoints: 1 of 2", True),
    ((ONE,), 2, 3, "", "began anew", False),
])
def test_a_small_loss_is_adopted_and_told(
    now: tuple[Model, ...], epoch: int, version: int, held: str, alarm: str, anew: bool,
) -> None:
    import re

    before = fleet(service(NAMES[0]), ONE, OTHER)
    before.version = 50
    said = holding.judge(
        holding.of_fleet(1, before), loaded(service(NAMES[0]), *now, epoch=epoch, version=version), "forked")
    assert bool(said.held) == bool(held)
    assert bool(said.alarm) == bool(alarm)
    assert re.search(held, said.held)
    assert re.search(alarm, said.alarm)
    assert said.anew == anew


def test_what_is_spoilt_is_not_lost() -> None:
    four = [Fault(f"service/{name}", "spoilt") for name in NAMES[6:]] + [
        Fault(f"endpoint/{NAMES[0]}/e{i}", "spoilt") for i in range(6, 10)]
    offered = state(6, 6, 1, 60)._replace(corrupt=four)  # type: ignore[attr-defined]
    assert holding.judge(SERVED, offered, "forked").held == ""
    assert holding.judge(SERVED, offered._replace(corrupt=[]), "forked").held


def test_nothing_served_takes_anything() -> None:
    assert holding.judge(None, state(0, 0, 9, 0), "forked").held == ""  # type: ignore[arg-type]
    assert holding.judge(Served(1, 5, frozenset(), 0), state(0, 0, 2, 0), "").held == ""  # type: ignore[arg-type]


def test_what_a_fleet_serves() -> None:
    made = fleet(service(), endpoint("a", "192.0.2.1"), endpoint("b", "192.0.2.2"))
    assert holding.of_fleet(3, made)[:4] == (3, 1, frozenset({SERVICE}), 2)


@pytest.mark.asyncio
async def test_what_an_image_serves(tmp_path: Path) -> None:
    rig = Rig(tmp_path, service(), endpoint("a", "192.0.2.1"), endpoint("b", "192.0.2.2"), service("b.example.com"))
    await rig.open()
    image = rig.files.load()
    assert image is not None
    assert holding.of_image(image) == Served(EPOCH, 1, frozenset({SERVICE, "b.example.com"}), 2)
    rig.close()
