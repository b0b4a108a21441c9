"""What a row of probe results makes of a target: its state, its doubt, and how much of its weight it gets back.

Lives here: one result to the next state. Does not live here: probing (`watch`), what several observers make of it
(`steer.quorum`), what a state may remove (`steer.limits`).

Falling is quick and rising is slow: `fall` failures in a row take an address out, `rise` successes bring it back, and
what went down lately must succeed more often: each fall weighs 1000, the weight halves every minute, and every 1000 of
it doubles `rise`, at most eightfold. Back up, an address gets its weight in eighths over `ramp_ms`.

Slow is a round trip above 800 ms three times in a row; it ends with ten in a row below 600 ms. What lies between breaks
either row, so that noise at one bound moves nothing; a failure tells nothing of the way, and breaks none.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

FALL_WEIGHT: Final = 1000
HALF_MS: Final = 60_000
MOST_DOUBLINGS: Final = 3
STEPS: Final = 8
WHOLE: Final = 1000
SLOW_MS: Final = 800.0
SLOW_ROW: Final = 3
QUICK_MS: Final = 600.0
QUICK_ROW: Final = 10


class State(IntEnum):
    """Unknown: no result yet. Degraded: it answers, but slowly."""

    UNKNOWN = 0
    UP = 1
    DEGRADED = 2
    DOWN = 3


class Rules(NamedTuple):
    """Successes and failures in a row that change the state, and how long a recovery takes."""

    rise: int = 2
    fall: int = 3
    ramp_ms: int = 10_000


class Cell(NamedTuple):
    """One target: `streak` is successes (> 0) or failures (< 0) in a row; `since_ms` the last change of state,
    `back_ms` the last recovery (0: none yet); `weight` of its falls as it was at `weighed_ms`; `doubt`: the last probe
    failed, and nothing is settled yet; `proven`, of one that is down: it has been up before; `slow`: its round trips
    are; `pace`: those in a row that speak against that."""

    state: State = State.UNKNOWN
    streak: int = 0
    since_ms: int = 0
    back_ms: int = 0
    weight: int = 0
    weighed_ms: int = 0
    doubt: bool = False
    proven: bool = False
    slow: bool = False
    pace: int = 0


def seen(cell: Cell, ok: bool, now_ms: int, rules: Rules, *, rtt_ms: float = 0.0) -> Cell:
    """The cell after one more result. A target never seen before is up at its first success, and so without a ramp.

    `rtt_ms`: the round trip of a success; 0: none was measured.
    """
    streak = max(cell.streak, 0) + 1 if ok else min(cell.streak, 0) - 1
    weight = weighed(cell, now_ms)
    cell = cell._replace(
        streak=streak, weight=weight, weighed_ms=now_ms, doubt=not ok and cell.state is not State.DOWN,
        back_ms=min(cell.back_ms, now_ms))
    if not ok:
        if cell.state is State.DOWN or -streak < rules.fall:
            return cell
        if cell.state is State.UNKNOWN:
            return cell._replace(state=State.DOWN, since_ms=now_ms, doubt=False)
        return cell._replace(state=State.DOWN, since_ms=now_ms, weight=weight + FALL_WEIGHT, doubt=False, proven=True)
    slow, pace = paced(cell.slow, cell.pace, rtt_ms)
    cell = cell._replace(slow=slow, pace=pace)
    good = State.DEGRADED if slow else State.UP
    if cell.state is State.DOWN:
        if streak < needed(cell, rules):
            return cell
        return cell._replace(state=good, since_ms=now_ms, back_ms=now_ms)
    return cell if cell.state is good else cell._replace(state=good, since_ms=now_ms)


def paced(slow: bool, pace: int, rtt_ms: float) -> tuple[bool, int]:
    """Whether round trips are slow after one more (0: none was measured), and how many in a row speak against that."""
    if rtt_ms <= 0:
        return slow, pace
    against = rtt_ms < QUICK_MS if slow else rtt_ms > SLOW_MS
    if not against:
        return slow, 0
    if pace + 1 < (QUICK_ROW if slow else SLOW_ROW):
        return slow, pace + 1
    return not slow, 0


def needed(cell: Cell, rules: Rules) -> int:
    """Successes in a row that bring a fallen target back: more for one that falls often."""
    return rules.rise << min(max(0, cell.weight - 1) // FALL_WEIGHT, MOST_DOUBLINGS)


def weighed(cell: Cell, now_ms: int) -> int:
    """The weight of past falls now: half of it is gone each minute, evenly within one."""
    halves, rest = divmod(max(0, now_ms - cell.weighed_ms), HALF_MS)
    weight = cell.weight >> halves
    return weight - weight * rest // (2 * HALF_MS)


def share(cell: Cell, now_ms: int, rules: Rules) -> int:
    """The part of its weight a target gets, of 1000: all, or after a recovery one eighth more each eighth of the ramp.
    """
    passed = max(0, now_ms - cell.back_ms)
    if cell.state is State.DOWN or not cell.back_ms or passed >= rules.ramp_ms:
        return WHOLE
    return WHOLE * (1 + passed * STEPS // rules.ramp_ms) // STEPS


def step_at(cell: Cell, now_ms: int, rules: Rules) -> int:
    """When its share grows next (unix ms); 0 when it has all."""
    if share(cell, now_ms, rules) == WHOLE:
        return 0
    eighths = max(0, now_ms - cell.back_ms) * STEPS // rules.ramp_ms + 1
    return cell.back_ms - (-eighths * rules.ramp_ms // STEPS)


def moved(cell: Cell, by_ms: int) -> Cell:
    """The same by another clock."""
    return cell if not by_ms else cell._replace(
        since_ms=later(cell.since_ms, by_ms), back_ms=later(cell.back_ms, by_ms),
        weighed_ms=later(cell.weighed_ms, by_ms))


def later(at_ms: int, by_ms: int) -> int:
    """A time by another clock; 0, which says that there is none, stays."""
    return max(1, at_ms + by_ms) if at_ms else 0
