"""The file `reports.json`: what follows from reports, for the process after this one.

Lives here: its octets, and reading them back. Does not live here: reports (`control.reports`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from dnsd import disk
from dnsd.steer.breaker import Breaker, Mode

FILE: Final = "reports.json"
LARGEST: Final = 1 << 26


class Kept(NamedTuple):
    """One endpoint: its breaker, until when it is unhealthy (unix ms), whether its users find it slow."""

    key: str
    breaker: Breaker
    sick_ms: int
    slow: bool


def octets(at_ms: int, endpoints: Iterable[Kept]) -> bytes:
    """The file's content."""
    return json.dumps({"at_ms": at_ms, "endpoints": list(endpoints)}, separators=(",", ":")).encode()


def read(path: Path) -> tuple[int, list[Kept]]:
    """When it was written, and what; (0, []) where there is none. ValueError: unreadable; OSError."""
    data = disk.read(path, LARGEST)
    if data is None:
        return 0, []
    try:
        found = json.loads(data)
        return int(found["at_ms"]), [
            Kept(str(key), Breaker(Mode(breaker[0]), *map(int, breaker[1:])), int(sick_ms), bool(slow))
            for key, breaker, sick_ms, slow in found["endpoints"]]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
