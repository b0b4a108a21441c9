"""What health leaves of a service's endpoints, for one address family: who is answered, who is not, and why.

Lives here: measured states against the limits on what they may remove, the order in which nothing is left empty.
Does not live here: measuring (`watch`), how states come about (`steer.health`), what is forced (`control.resolve`).

Pure. Health is a reason to prefer others, never to answer nobody:

    up          answered; after a recovery with a growing share of its weight
    unknown     not probed yet: answered only where nothing of the family is up
    down        left out, as far as `steer.limits` lets health remove so much so fast
    all down    the declared fallback where there is one; else everybody in the policy's order, as if all were up
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from dnsd.steer import limits
from dnsd.steer.health import State
from dnsd.steer.limits import Removal, Subject

WHOLE: Final = 1000
POINTS: Final = {State.UNKNOWN: 1000, State.UP: 1000, State.DEGRADED: 500, State.DOWN: 0}
"""Points of health (`model.EndpointView`) by state."""


class Measured(NamedTuple):
    """What is known of one address: its state, the share of its weight (0..1000), whether the last probe failed, and
    that probe's result in words."""

    state: State = State.UP
    share: int = WHOLE
    doubt: bool = False
    result: str = ""


class Candidate(NamedTuple):
    """An endpoint that could be answered in this family. `forced`: an operator says that it is up."""

    id: str
    site: str
    tier: int
    weight: int
    measured: Measured
    forced: bool = False


class Sifted(NamedTuple):
    """Who is answered (id -> share of weight), why others are not, who is in spite of health; the limits' memory."""

    shares: dict[str, int]
    out: dict[str, str]
    held: frozenset[str] = frozenset()
    panic: bool = False
    doubt: bool = False
    removals: tuple[Removal, ...] = ()


def sift(candidates: Sequence[Candidate], before: Sequence[Removal], now_ms: int, *, fallback: bool) -> Sifted:
    """Sift one family's candidates. `before`: the removals of the last call; `fallback`: one is declared for it."""
    settled = [c for c in candidates if c.forced or c.measured.state is not State.UNKNOWN]
    waiting = [c for c in candidates if not c.forced and c.measured.state is State.UNKNOWN]
    subjects = [Subject(c.id, c.site, c.tier, c.weight, _down(c)) for c in settled]
    removals, held, panic = limits.limited(subjects, before, now_ms)
    if panic and not waiting and fallback and all(map(_down, settled)):
        return Sifted({}, {c.id: _why(c) for c in settled})
    removed = {one.id for one in removals}
    chosen = [c for c in settled if c.id not in removed]
    out = {c.id: _why(c) for c in settled if c.id in removed}
    if panic or not any(not _down(c) for c in chosen):
        chosen += waiting
    else:
        out |= {c.id: "not probed yet" for c in waiting}
    shares = {c.id: WHOLE if panic or c.forced else c.measured.share for c in chosen}
    return Sifted(shares, out, held, panic, any(c.measured.doubt for c in chosen), removals)


def _down(candidate: Candidate) -> bool:
    return not candidate.forced and candidate.measured.state is State.DOWN


def _why(candidate: Candidate) -> str:
    if not _down(candidate):
        return f"under half of tier {candidate.tier} at {candidate.site} is healthy"
    return f"down: {candidate.measured.result}"
