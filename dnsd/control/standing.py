"""What health leaves of a service's endpoints, for one address family: who is answered, who is not, and why.

Lives here: measured states against the limits on what they may remove, the order in which nothing is left empty.
Does not live here: measuring (`watch`), how states come about (`steer.health`), what is forced (`control.resolve`).

Pure. Health is a reason to prefer others, never to answer nobody:

    up          answered; after a recovery with a growing share of its weight
    unknown     not probed yet: answered only where nothing of the family is up
    down        left out, as far as `steer.limits` lets health remove so much so fast
    never up    left out at once: nobody counts on it, so no limit holds it, and no limit counts it
    all down    the declared fallback where there is one; else what an operator drains, if that is up; else everybody
                in the policy's order, as if all were up; what never was up only where there is nothing else

Whoever is answered in spite of health has all its weight and points: with fewer its equals would come first, always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from dnsd.steer import limits
from dnsd.steer.health import State
from dnsd.steer.limits import Removal, Subject

WHOLE: Final = 1000
POINTS: Final = {State.UNKNOWN: 1000, State.UP: 1000, State.DEGRADED: 500, State.DOWN: 0}
"""Points of health (`model.EndpointView`) by state."""


class Measured(NamedTuple):
    """What is known of one address: its state, the share of its weight (0..1000), whether the last probe failed, and
    that probe's result in words where it is not up; whether one that is down was up before; when the share grows next
    (unix ms, 0: not)."""

    state: State = State.UP
    share: int = WHOLE
    doubt: bool = False
    result: str = ""
    proven: bool = True
    step_ms: int = 0


class Candidate(NamedTuple):
    """An endpoint that could be answered in this family. `forced`: an operator says that it is up."""

    id: str
    site: str
    tier: int
    weight: int
    measured: Measured
    forced: bool = False


class Sifted(NamedTuple):
    """Who is answered (id -> share of weight), why others are not, who is in spite of health; the limits' memory.

    `points`: health of who is answered; `due_ms`: when time alone will change it (unix ms, 0: not).
    """

    shares: dict[str, int]
    out: dict[str, str]
    held: frozenset[str] = frozenset()
    panic: bool = False
    doubt: bool = False
    removals: tuple[Removal, ...] = ()
    points: Mapping[str, int] = MappingProxyType({})
    due_ms: int = 0


def sift(candidates: Sequence[Candidate], before: Sequence[Removal], now_ms: int, *, fallback: bool,
         spare: Sequence[Candidate] = ()) -> Sifted:
    """Sift one family's candidates. `before`: the removals of the last call; `fallback`: one is declared for it;
    `spare`: what is drained."""
    settled = [c for c in candidates if c.forced or (c.measured.state is not State.UNKNOWN and c.measured.proven)]
    unknown = [c for c in candidates if not c.forced and c.measured.state is State.UNKNOWN]
    if all(map(_down, settled)):
        if fallback and (settled or not unknown):
            return _chosen((), candidates)
        spare = [c for c in spare if c.measured.state in (State.UP, State.DEGRADED)]
        if spare and not fallback:
            return _chosen(spare, candidates)
    subjects = [Subject(c.id, c.site, c.tier, c.weight, _down(c), c.forced) for c in settled]
    removals, held, panic = limits.limited(subjects, before, now_ms)
    removed = {one.id for one in removals}
    chosen = [c for c in settled if c.id not in removed]
    if panic or all(map(_down, chosen)):
        chosen += unknown
    if not chosen:  # none but those that never were up
        chosen, panic = list(candidates), bool(candidates)
    sifted = _chosen(chosen, candidates, held, panic=panic)
    due = min(filter(None, (sifted.due_ms, limits.room_at(removals, now_ms) if held else 0)), default=0)
    return sifted._replace(held=held, panic=panic, removals=removals, due_ms=due)


def _chosen(chosen: Sequence[Candidate], candidates: Sequence[Candidate], held: frozenset[str] = frozenset(), *,
            panic: bool = False) -> Sifted:
    """These of the candidates, or these instead of them."""
    believed = {c.id for c in chosen if not (panic or c.forced or c.id in held)}
    ids = {c.id for c in chosen}
    return Sifted(
        {c.id: c.measured.share if c.id in believed else WHOLE for c in chosen},
        {c.id: _why(c) for c in candidates if c.id not in ids},
        doubt=any(not c.forced and (c.measured.doubt or _down(c)) for c in chosen),
        points={c.id: POINTS[c.measured.state] if c.id in believed else POINTS[State.UP] for c in chosen},
        due_ms=min((c.measured.step_ms for c in chosen if c.id in believed and c.measured.step_ms), default=0))


def _down(candidate: Candidate) -> bool:
    return not candidate.forced and candidate.measured.state is State.DOWN


def _why(candidate: Candidate) -> str:
    state, result = candidate.measured.state, candidate.measured.result
    if state is State.UNKNOWN:
        return result or "not probed yet"
    if state is State.DOWN:
        return f"{'down' if candidate.measured.proven else 'never up'}: {result}"
    return f"under half of tier {candidate.tier} at {candidate.site} is healthy"
