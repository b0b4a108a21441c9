"""Presets and what an operator lays over them."""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.model import Fence, Policy
from dnsd.steer import rank
from dnsd.steer.policy import PRESETS, resolve
from dnsd.steer.row import LEVEL_MS

GEO = Policy(proximity=40, match=30, health=20, load=10, half_ms=50, band_ms=30, take=1, uses_client=True)
LATENCY = Policy(proximity=100, match=0, health=0, load=0, half_ms=50, band_ms=0, take=1, uses_client=True)
SHARED = Policy(proximity=0, match=0, health=0, load=0, half_ms=50, band_ms=30, take=1, uses_client=False)
ALL = Policy(proximity=0, match=0, health=0, load=0, half_ms=50, band_ms=30, take=32, uses_client=False)

TABLE: list[tuple[str, dict[str, Any], Policy]] = [
    ("geo", {}, GEO), ("latency", {}, LATENCY), ("failover", {}, SHARED), ("weighted", {}, SHARED), ("all", {}, ALL),
    ("geo", {"preset": "geo", "match": None, "take": None}, GEO),
    ("geo", {"proximity": 1, "match": 2, "health": 3, "load": 4, "half_ms": 5, "band_ms": 6, "take": 7},
     Policy(1, 2, 3, 4, 5, 6, 7)),
    ("geo", {"proximity": 0, "band_ms": 0}, Policy(proximity=0, band_ms=0)),
    ("geo", {"split4": 20, "split6": 40}, Policy(split4=20, split6=40)),
    ("geo", {"fence": "none"}, GEO),
    ("geo", {"fence": "country"}, Policy(fence=Fence.COUNTRY)),
    ("geo", {"fence": "region"}, Policy(fence=Fence.REGION)),
    ("geo", {"no_ecs": "resolver", "unknown_client": "weights"}, GEO),
    ("geo", {"no_ecs": "fallback"}, Policy(no_ecs_fallback=True)),
    ("geo", {"unknown_client": "fallback"}, Policy(unknown_fallback=True)),
    ("all", {"take": 3}, Policy(0, 0, 0, 0, 50, 30, 3, False)),
    ("weighted", {"uses_client": True}, Policy(0, 0, 0, 0, 50, 30, 1, True)),
    ("weighted", {"fence": "country"}, Policy(0, 0, 0, 0, 50, 30, 1, True, Fence.COUNTRY)),
]


@pytest.mark.parametrize(("preset", "changes", "policy"), TABLE, ids=lambda value: str(value)[:40])
def test_resolve(preset: str, changes: dict[str, Any], policy: Policy) -> None:
    assert resolve(preset, changes) == policy


@pytest.mark.parametrize(("preset", "changes"), [
    ("nearest", {}), ("geo", {"colour": 1}), ("geo", {"fence": "ocean"}), ("geo", {"no_ECS": "fallback"}),
])
def test_what_nobody_declared_is_an_error(preset: str, changes: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        resolve(preset, changes)


def test_presets_are_points_of_one_space() -> None:
    assert set(PRESETS) == {"geo", "latency", "failover", "weighted", "all"}
    for name, policy in PRESETS.items():
        assert resolve(name, {}) == policy


def test_latency_tells_the_first_levels_apart() -> None:
    points = rank.proximity_points(LATENCY.proximity, LATENCY.half_ms, LEVEL_MS)
    assert len(set(points)) == len(points)
