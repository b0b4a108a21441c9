"""The file `health.json`: what a node knows of health, for the process after it.

Lives here: its octets, and reading them back. Does not live here: what is kept (`control.health`), when
(`control.watching`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd import disk
from dnsd.control import targets
from dnsd.steer.health import Cell, State
from dnsd.steer.limits import Removal
from dnsd.watch.schedule import Target

FILE: Final = "health.json"
LARGEST: Final = 1 << 28


class Kept(NamedTuple):
    """What was known at `at_ms`: cells by the target's name; service -> type -> what the limits had removed; usual
    handshakes (ms), by the schedule's names."""

    at_ms: int
    cells: dict[str, Cell]
    removals: dict[str, dict[int, tuple[Removal, ...]]]
    baselines: dict[str, float]


def octets(
    at_ms: int, cells: Sequence[tuple[Target, Cell]], removals: Mapping[str, Mapping[int, tuple[Removal, ...]]],
    baselines: Mapping[str, float],
) -> bytes:
    """The file's content."""
    known = {targets.name(target): cell for target, cell in cells if cell.state is not State.UNKNOWN}
    return json.dumps({
        "at_ms": at_ms, "fields": Cell._fields, "cells": known, "removed": removals,
        "usual": {name: round(usual, 1) for name, usual in baselines.items()}}, separators=(",", ":")).encode()


def read(path: Path) -> Kept | None:
    """What a former process wrote; None where it did not. ValueError: unreadable; OSError."""
    data = disk.read(path, LARGEST)
    if data is None:
        return None
    try:
        found = json.loads(data)
        fields = [str(name) for name in found["fields"]]
        return Kept(
            int(found["at_ms"]), {str(name): _cell(fields, values) for name, values in found["cells"].items()}, {
                str(name): {int(type_): tuple(Removal(str(id_), int(ms)) for id_, ms in some)
                            for type_, some in kept.items()}
                for name, kept in found["removed"].items()},
            {str(name): float(usual) for name, usual in found.get("usual", {}).items() if 0 <= float(usual) <= 60_000})
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error


def _cell(fields: Sequence[str], values: Sequence[Any]) -> Cell:
    """A cell as it was written down, perhaps by another version; what is under way is not settled by then."""
    known = {name: value for name, value in zip(fields, values, strict=True) if name in Cell._fields}
    kept = {name: type(default)(known.get(name, default)) for name, default in Cell._field_defaults.items()}
    return Cell(**kept)._replace(streak=0, doubt=False, pace=0)
