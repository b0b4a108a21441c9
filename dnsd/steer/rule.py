"""Values of a metric to good or bad: a bound, or how far below its own usual value it lies, and for how long.

Lives here: one value to the next state, the usual value (baseline). Does not live here: asking for values
(`watch.promql`), which endpoint they are of (`control.rules`).

The baseline is the mean of what was good, from ten minutes on with a weight that fades. It does not learn from bad
values, or a fall would soon be usual; but after an hour of them it does, since then that is how it is.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dnsd.steer import health

FADES_MS: Final = 600_000
LEARNS_MS: Final = 60_000
"""So long a baseline must have been watched before anything is judged by it."""

FROZEN_MS: Final = 3_600_000
"""So long bad values teach nothing."""


class Bound(NamedTuple):
    """What is bad: above, below, or so many percent below the baseline; one of them. `for_ms`: and for how long."""

    above: float | None = None
    below: float | None = None
    percent: float | None = None
    for_ms: int = 15_000


class Series(NamedTuple):
    """One metric: whether it is bad; since when its values speak against that (0: they do not); the baseline, when it
    began and since when it is frozen (0: it is not); when it became good again; its last value and when that came."""

    bad: bool = False
    turning_ms: int = 0
    baseline: float = 0.0
    first_ms: int = 0
    frozen_ms: int = 0
    back_ms: int = 0
    value: float = 0.0
    seen_ms: int = 0


def seen(series: Series, value: float, now_ms: int, bound: Bound, *, gap_ms: int) -> Series:
    """The series after one more value. Values further apart than `gap_ms` are no row: what turns begins anew."""
    last_ms = min(series.seen_ms, now_ms)
    turning_ms = min(series.turning_ms, now_ms) if now_ms - last_ms <= gap_ms else 0
    breach = breached(series, value, now_ms, bound)
    series = _learned(series, value, now_ms, now_ms - last_ms, breach)._replace(
        value=value, seen_ms=now_ms, back_ms=min(series.back_ms, now_ms))
    if breach == series.bad:
        return series._replace(turning_ms=0)
    turning_ms = turning_ms or now_ms
    if now_ms - turning_ms < bound.for_ms:
        return series._replace(turning_ms=turning_ms)
    return series._replace(bad=breach, turning_ms=0, back_ms=0 if breach else now_ms)


def breached(series: Series, value: float, now_ms: int, bound: Bound) -> bool:
    """Whether a value is a bad one."""
    if bound.above is not None:
        return value > bound.above
    if bound.below is not None:
        return value < bound.below
    if bound.percent is None or not series.first_ms or now_ms - series.first_ms < LEARNS_MS:
        return False
    return value < series.baseline * (100 - bound.percent) / 100


def moved(series: Series, by_ms: int) -> Series:
    """The same by another clock."""
    return series._replace(
        turning_ms=health.later(series.turning_ms, by_ms), first_ms=health.later(series.first_ms, by_ms),
        frozen_ms=health.later(series.frozen_ms, by_ms), back_ms=health.later(series.back_ms, by_ms),
        seen_ms=health.later(series.seen_ms, by_ms))


def unknown(series: Series) -> Series:
    """The series when nobody can say any more how it is: nothing is held against it, and its baseline stays."""
    return series._replace(bad=False, turning_ms=0, back_ms=0)


def _learned(series: Series, value: float, now_ms: int, since_ms: int, breach: bool) -> Series:
    if not series.first_ms or series.first_ms > now_ms:
        return series._replace(baseline=value, first_ms=now_ms, frozen_ms=0)
    frozen_ms = min(series.frozen_ms or now_ms, now_ms) if breach else 0
    if breach and now_ms - frozen_ms < FROZEN_MS:
        return series._replace(frozen_ms=frozen_ms)
    weight = min(since_ms, LEARNS_MS) / max(1, min(FADES_MS, now_ms - series.first_ms))
    baseline = series.baseline + (value - series.baseline) * min(1.0, weight)
    return series._replace(baseline=baseline, frozen_ms=frozen_ms)
