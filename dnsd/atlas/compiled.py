"""The atlas's compiled loops, where they are there; None where dnsd was installed without a compiler.

Lives here: finding them. Does not live here: what they do (`lines.pyx`, `rows.pyx`, `runs.pyx`, `walk.pyx`), the same
in numpy (`atlas.prefixes`, `atlas.levels`, `atlas.flatten`, `atlas.mmdb`), which is some five times slower and the
compiled loops' reference.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

FORM: Final = 1
"""What the functions take and give; one more with every change, so that what was compiled for another is not used."""


def _found(name: str) -> Any:
    try:
        module: Any = import_module(f"dnsd.atlas.{name}")
    except ImportError:
        return None
    return module if getattr(module, "FORM", 0) == FORM else None


lines, rows, runs, walk = _found("lines"), _found("rows"), _found("runs"), _found("walk")
