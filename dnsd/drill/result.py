"""What a run came to, its bars, and both as text.

Lives here: `Result`, `missed`, tables. Does not live here: measuring (`trial`), the picture (`picture`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any, Final

FAST_S: Final = 2.0
STALLED_S: Final = 0.2
"""From then on a run says so: probes have little more time."""

BEYOND_TTL_S: Final = 4.0
"""Seconds on top of the TTL until the last failed request: 12 s at TTL 8, 9 s at TTL 5."""


@dataclass
class Result:
    """Seconds count from the fault. None: it did not happen.

    detect       the first node decided that the endpoint is out
    publish      the last worker of the last node answered without it
    last_failed  the last failed request of a user started
    back         from the fault's end until all was as before
    wrong        whom nothing has happened to, and who was not answered
    lost         registrations that were gone
    stalled      how long the drill itself stood still: the machine is too busy for what was measured to be the fleet's
    left         workers that answered otherwise than before when the run ended, and by which addresses
    """

    fault: str
    run: int
    seed: int
    ttl: int
    dies: bool
    fast: bool
    detect: float | None = None
    publish: float | None = None
    last_failed: float | None = None
    back: float | None = None
    requests: int = 0
    failed: int = 0
    unanswered: int = 0
    stalled: float = 0.0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    refused: str = ""

    @property
    def missed(self) -> list[str]:
        """The bars that it missed, in words."""
        if self.refused:
            return []
        bar = self.ttl + BEYOND_TTL_S
        said = {
            "never published": self.dies and self.publish is None,
            f"published after {FAST_S:g} s": self.fast and self.dies and (self.publish or 0) > FAST_S,
            f"requests failed after {bar:g} s": self.dies and (self.last_failed or 0) >= bar,
            "requests failed": not self.dies and self.failed > 0,
            f"{self.unanswered} questions were not answered": self.unanswered > 0,
            f"{len(self.wrong)} wrong removals": bool(self.wrong),
            f"{len(self.lost)} lost registrations": bool(self.lost),
            "not all came back": self.back is None,
        }
        return [text for text, so in said.items() if so]

    def data(self) -> dict[str, Any]:
        """For JSON."""
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return rounded | {"missed": self.missed, "passed": not self.missed and not self.refused}


def line(result: Result) -> str:
    """One run in one line."""
    head = f"{result.fault:<15} run {result.run:<3} TTL {result.ttl}"
    if result.refused:
        return f"{head}  refused: {result.refused}"
    numbers = {"detect": result.detect, "publish": result.publish, "last failed": result.last_failed,
               "back": result.back}
    text = "  ".join(f"{name} {seconds(value)}" for name, value in numbers.items())
    more = f"{result.failed}/{result.requests} failed, {len(result.wrong)} wrong, {len(result.lost)} lost"
    busy = f"  (busy: the drill stood still for {seconds(result.stalled)})" if result.stalled > STALLED_S else ""
    return f"{head}  {text}  {more}  {'MISSED: ' + ', '.join(result.missed) if result.missed else 'passed'}{busy}"


def table(results: Iterable[Result]) -> str:
    """All runs by fault and TTL: p50, p95 and max of what was measured, as Markdown."""
    rows: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        if not result.refused:
            rows.setdefault((result.fault, result.ttl), []).append(result)
    lines = ["| fault | TTL | runs | detect: p50 | p95 | max | publish: p50 | p95 | max | last failed: p50 | p95 | max "
             "| back: max | wrong | lost | missed |", "| --- |" + " --- |" * 15]
    for (fault, ttl), of in rows.items():
        cells = [fault, str(ttl), str(len(of))]
        for name in ("detect", "publish", "last_failed"):
            cells += spread([value for one in of if (value := getattr(one, name)) is not None])
        cells += [seconds(max((one.back for one in of if one.back is not None), default=None))]
        cells += [str(sum(len(getattr(one, name)) for one in of)) for name in ("wrong", "lost", "missed")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> list[str]:
    """p50, p95 and greatest."""
    found = sorted(values)
    if not found:
        return ["-"] * 3
    return [seconds(found[ceil(len(found) * share) - 1]) for share in (0.5, 0.95, 1.0)]


def seconds(value: float | None) -> str:
    """Two digits, or a dash."""
    return "-" if value is None else f"{value:.2f} s"


def document(results: Sequence[Result], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything for JSON."""
    return {**settings, "passed": all(not result.missed for result in results),
            "runs": [result.data() for result in results]}
