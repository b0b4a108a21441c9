"""One report of an endpoint, and as a row of the stream between nodes.

Lives here: its members and their bounds. Does not live here: what follows from it (`control.reports`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

SAMPLES: Final = 10
MOST: Final = 1_000_000


class Told(NamedTuple):
    """One reporter's word on an endpoint (`service/id`). `sick_ms`: by its holder, how long it is unhealthy (0: it is
    healthy, None: nothing is said)."""

    key: str
    reporter: str
    ok: int = 0
    failed: int = 0
    rtts: tuple[float, ...] = ()
    sick_ms: int | None = None


def packed(one: Told) -> list[Any]:
    """A report as it stands in the stream."""
    return [one.key, one.reporter, one.ok, one.failed, [round(rtt_ms, 1) for rtt_ms in one.rtts], one.sick_ms]


def unpacked(row: object) -> Told | None:
    """A row of the stream; None for what is none."""
    if not isinstance(row, list) or len(row) != len(Told._fields):
        return None
    key, reporter, ok, failed, rtts, sick_ms = row
    try:
        return Told(
            str(key), str(reporter)[:64], _bounded(ok), _bounded(failed), tuple(map(float, rtts[:SAMPLES])),
            None if sick_ms is None else _bounded(sick_ms, 86_400_000))
    except (TypeError, ValueError, OverflowError):
        return None


def _bounded(value: Any, most: int = MOST) -> int:
    return min(max(0, int(value)), most)
