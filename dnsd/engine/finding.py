"""Whether the compiled engine is used: it is wanted, it is there, and it was compiled for the Python beside it.

Lives here: finding it, and why not. Does not live here: what it is given to do (`serve.engine`).
"""

from __future__ import annotations

from types import ModuleType
from typing import Final, NamedTuple

AUTO: Final = "auto"
PYTHON: Final = "python"
REQUIRE: Final = "require"


class NoEngineError(Exception):
    """The engine is required and cannot be used; the text says why."""


class Found(NamedTuple):
    """The engine's module (`engine.door`), or why it is not used though it was wanted."""

    door: ModuleType | None
    problem: str


def find(wanted: str) -> Found:
    """The engine, where it is wanted (`AUTO`, `PYTHON` or `REQUIRE`) and fits; NoEngineError for one required."""
    if wanted == PYTHON:
        return Found(None, "")
    found = _load()
    if found.problem and wanted == REQUIRE:
        raise NoEngineError(found.problem)
    return found


def _load() -> Found:
    try:
        from dnsd.engine import constants, door
    except ImportError as error:
        return Found(None, f"the compiled engine is not there ({error})")
    if door.digest() != constants.digest():
        return Found(None, "the compiled engine was built for another dnsd")
    return Found(door, "")
