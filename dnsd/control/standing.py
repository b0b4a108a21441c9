"""What health leaves of a service's endpoints, for one address family: who is answered, who is not, and why.

Lives here: measured states against the limits on what they may remove, the order in which nothing is left empty.
Does not live here: measuring (`watch`), how states come about (`steer.health`), what is forced (`control.resolve`),
what becomes of it in a record (`control.weights`).

Pure. Health is a reason to prefer others, never to answer nobody:

    up          answered; after a recovery with a growing share of its weight
    degraded    left out while another is up, in this tier or one that stands by, as far as the limits allow it
    unknown     not probed yet: answered only where nothing of the family is up
    down        left out, as far as `steer.limits` lets health remove so much so fast
    never up    left out at once: nobody counts on it, so no limit holds it, and no limit counts it
    all down    the declared fallback where there is one; else what an operator drains, if that is up; else everybody
                in the policy's order, as if all were up; what never was up only where there is nothing else

Whoever is answered in spite of health has all its weight and points: with fewer its equals would come first, always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, NamedTuple

from dnsd.steer import health, limits
from dnsd.steer.health import State
from dnsd.steer.limits import Limited, Memory, Removal, Subject

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


class Kept(NamedTuple):
    """The limits' memory: of who is down, and of who is slow."""

    down: Memory = Memory()
    slow: Memory = Memory()


class Sifted(NamedTuple):
    """Who is answered (id -> share of weight), why others are not, who is in spite of health; the limits' memory.

    `points`: health of who is answered; `due_ms`: when time alone will change it (unix ms, 0: not); `sound`: who of
    those answered is believed to answer; `notes`: what there is to say of those answered.
    """

    shares: dict[str, int]
    out: dict[str, str]
    held: frozenset[str] = frozenset()
    panic: bool = False
    doubt: bool = False
    kept: Kept = Kept()
    points: Mapping[str, int] = MappingProxyType({})
    due_ms: int = 0
    sound: frozenset[str] = frozenset()
    notes: Mapping[str, str] = MappingProxyType({})

    @property
    def removals(self) -> tuple[Removal, ...]:
        """Who is left out as down, or with a group that has failed."""
        return self.kept.down.removed


def sift(candidates: Sequence[Candidate], before: Kept, now_ms: int, *, fallback: bool,
         spare: Sequence[Candidate] = ()) -> Sifted:
    """Sift one family's candidates. `before`: what the last call kept; `fallback`: one is declared for it; `spare`:
    what is drained."""
    settled = [c for c in candidates if c.forced or (c.measured.state is not State.UNKNOWN and c.measured.proven)]
    unknown = [c for c in candidates if not c.forced and c.measured.state is State.UNKNOWN]
    subjects = [Subject(c.id, c.site, c.tier, c.weight, _down(c), c.forced) for c in settled]
    if all(map(_down, settled)):
        spare = [c for c in spare if c.measured.state in (State.UP, State.DEGRADED)]
        if (settled or not unknown) if fallback else spare:
            instead = _chosen(() if fallback else spare, candidates)
            return instead._replace(kept=Kept(limits.gone(subjects, before.down, now_ms)))
    first, second = _limited(settled, subjects, before, now_ms)
    removed = {one.id for one in (*first.removed, *second.removed)}
    chosen = [c for c in settled if c.id not in removed]
    panic = first.panic
    if panic or all(map(_down, chosen)):
        chosen += unknown
    if not chosen:  # none but those that never were up
        chosen, panic = list(candidates), bool(candidates)
    sifted = _chosen(chosen, candidates, first, second, panic=panic)
    due = min(filter(None, (sifted.due_ms, first.room_ms, second.room_ms)), default=0)
    return sifted._replace(kept=Kept(first.memory, second.memory), due_ms=due)


def _limited(
    settled: Sequence[Candidate], subjects: Sequence[Subject], before: Kept, now_ms: int,
) -> tuple[Limited, Limited]:
    """What the limits say of who is down, and of who is slow."""
    first = limits.limited(subjects, before.down, now_ms, {one.id: one.at_ms for one in before.slow.removed})
    slow = frozenset(c.id for c in settled if not c.forced and c.measured.state is State.DEGRADED)
    if not (slow or before.slow.removed or before.slow.past):
        return first, NO_LIMIT
    out = {one.id: one.at_ms for one in before.down.removed}
    return first, limits.lagging(subjects, slow, before.slow, now_ms, first, out)


NO_LIMIT: Final = Limited(Memory(), frozenset(), panic=False)


def _chosen(chosen: Sequence[Candidate], candidates: Sequence[Candidate], first: Limited = NO_LIMIT,
            second: Limited = NO_LIMIT, *, panic: bool = False) -> Sifted:
    """These of the candidates, or these instead of them."""
    believed = {c.id for c in chosen if not (panic or c.forced or c.id in first.held)}
    ids = {c.id for c in chosen}
    slow = {one.id for one in second.removed}
    notes = {c.id: _note(c, first, second, panic=panic) for c in chosen}
    return Sifted(
        {c.id: c.measured.share if c.id in believed else WHOLE for c in chosen},
        {c.id: "degraded: others are quick" if c.id in slow else _why(c) for c in candidates if c.id not in ids},
        first.held | second.held, panic,
        any(not c.forced and (c.measured.doubt or _down(c)) for c in chosen),
        points={c.id: POINTS[c.measured.state] if c.id in believed else POINTS[State.UP] for c in chosen},
        due_ms=min((c.measured.step_ms for c in chosen if c.id in believed and c.measured.step_ms), default=0),
        sound=frozenset(c.id for c in chosen if c.forced or c.measured.state in (State.UP, State.DEGRADED)),
        notes={id_: note for id_, note in notes.items() if note})


def _note(candidate: Candidate, first: Limited, second: Limited, *, panic: bool) -> str:
    """What there is to say of one that is answered."""
    measured = candidate.measured
    if _down(candidate):
        why = "panic, health is ignored" if panic else f"held by velocity until {_time(first.room_ms)}"
        return f"answered though {_why(candidate)}; {why}"
    if candidate.id in first.held:
        return f"{_why(candidate)}; held by velocity until {_time(first.room_ms)}"
    if candidate.forced or panic:
        return ""
    notes = []
    if candidate.id in second.held:
        notes.append(f"degraded; held by velocity until {_time(second.room_ms)}")
    elif measured.state is State.DEGRADED:
        notes.append("degraded")
    if measured.share < WHOLE:
        notes.append(f"ramp {ramp(measured.share)}")
    return "; ".join(notes)


def ramp(share: int) -> str:
    """A share of 1000 in words: in steps of a recovery where it is one."""
    step, rest = divmod(share * health.STEPS, WHOLE)
    return f"{share / 10:g} %" if rest else f"{step}/{health.STEPS}"


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(-(-unix_ms // 1000), UTC).strftime("%H:%M:%SZ")


def _down(candidate: Candidate) -> bool:
    return not candidate.forced and candidate.measured.state is State.DOWN


def _why(candidate: Candidate) -> str:
    state, result = candidate.measured.state, candidate.measured.result
    if state is State.UNKNOWN:
        return result or "not probed yet"
    if state is State.DOWN:
        return f"{'down' if candidate.measured.proven else 'never up'}: {result}"
    return f"under half of tier {candidate.tier} at {candidate.site} is healthy"
