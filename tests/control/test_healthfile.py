"""The file of what a node knows of health: read back as it was written, by this version and by others."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dnsd.control import healthfile, targets
from dnsd.steer.health import Cell, State
from dnsd.steer.limits import Removal
from dnsd.watch.schedule import Target
from dnsd.watch.target import Check

ONE, TWO = Target(Check("tcp", 80), b"\1\2\3\4"), Target(Check("tcp", 80), b"\1\2\3\5")
DOWN = Cell(State.DOWN, streak=-3, since_ms=5, back_ms=6, weight=7, weighed_ms=8, proven=True)


def test_what_is_known_is_written_and_what_is_under_way_is_not(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    removals = {"s": {1: (Removal("e", 9),), 0x10001: (Removal("f", 10),)}}
    path.write_bytes(healthfile.octets(4, [(ONE, DOWN), (TWO, Cell())], removals, {"x": 12.34}))
    kept = healthfile.read(path)
    assert kept == (4, {targets.name(ONE): DOWN._replace(streak=0)}, removals, {"x": 12.3})


@pytest.mark.parametrize("seed", range(20))
def test_there_and_back(tmp_path: Path, seed: int) -> None:
    chance, path = random.Random(seed), tmp_path / "health.json"
    pairs = [(Target(Check("tcp", number + 1), b"\1\2\3\4"), Cell(
        chance.choice(list(State)), chance.randrange(-9, 9), *(chance.randrange(1 << 53) for _ in range(4)),
        chance.random() < 0.5, chance.random() < 0.5)) for number in range(chance.randrange(9))]
    removals = {f"s\u00fc{number}": {chance.randrange(1 << 20): (Removal("e", chance.randrange(1 << 53)),)}
                for number in range(chance.randrange(4))}
    path.write_bytes(healthfile.octets(1, pairs, removals, {}))
    kept = healthfile.read(path)
    assert kept is not None
    assert kept.removals == removals
    assert kept.cells == {targets.name(target): cell._replace(streak=0, doubt=False)
                          for target, cell in pairs if cell.state is not State.UNKNOWN}


def test_another_versions_file_gives_what_both_know(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_text(json.dumps({
        "at_ms": 1, "fields": ["later", "state", "since_ms"], "cells": {"x": ["?", 3, 7]}, "removed": {}}))
    kept = healthfile.read(path)
    assert kept is not None
    assert kept.cells == {"x": Cell(State.DOWN, since_ms=7)}


def test_no_file_is_none(tmp_path: Path) -> None:
    assert healthfile.read(tmp_path / "nothing") is None


@pytest.mark.parametrize("spoilt", [
    {"cells": {"x": [3]}, "fields": ["state", "since_ms"]}, {"cells": {"x": 3}}, {"cells": []}, {"fields": 5},
    {"removed": {"s": []}}, {"removed": {"s": {"x": []}}}, {"removed": {"s": {"1": [["e"]]}}}, {"at_ms": "x"}])
def test_what_cannot_be_read_is_said(tmp_path: Path, spoilt: dict[str, Any]) -> None:
    path = tmp_path / "health.json"
    path.write_text(json.dumps({"at_ms": 1, "fields": ["state"], "cells": {}, "removed": {}} | spoilt))
    with pytest.raises(ValueError, match="cannot be read"):
        healthfile.read(path)
