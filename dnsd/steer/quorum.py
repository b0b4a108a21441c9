"""What several observers make of one target together, which of them watch it, and when one should not be believed.

Lives here: votes to a verdict, the choice of observers, the sign that an observer itself is cut off. Does not live
here: one observer's state of a target (`steer.health`), what a verdict may remove (`steer.limits`), how votes travel.

Who cannot see is not who sees nothing, so three kinds of silence differ:

    stale      older than `fresh_ms`: that observer is gone. Those left judge without it, a last one even alone
    abstains   alive, but it does not trust its own eyes: it does not vote, and a lone other is not enough to remove
    unknown    alive, without a result so far: the same

A vote is up or down; degraded is up. With votes of more than one group (a region) each group has one vote, that of
its majority (a tie is up), else each observer has its own. Then

    up         the up-share reaches `min_up`, or too few agree on down while somebody sees it up
    down       the up-share is below `min_up`, and `agree` voters, or all there are, say so
    unknown    nobody votes, or all who vote say down and they are too few: what was said before stays

Voters who must say down before a target is, where nobody abstains:

    voters                1  2  3  4  5  6  7
    min_up 500, agree 2   1  2  2  3  3  4  4
    min_up 180, agree 2   1  2  3  4  5  5  6
    min_up 1000, agree 2  1  2  2  2  2  2  2
    min_up 500, agree 1   1  2  2  3  3  4  4
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from dnsd.steer.health import State

WHOLE: Final = 1000
BLIND_PERCENT: Final = 70
BLIND_TARGETS: Final = 3
BLIND_SITES: Final = 2


class Vote(NamedTuple):
    """One observer's state of a target as of `at_ms`. `group`: the region it is in; "" is one like any other."""

    state: State
    at_ms: int
    abstains: bool = False
    group: str = ""


class Sight(NamedTuple):
    """One target as one observer has it: whether it was up by the last verdict of all, and fails for this one now."""

    site: str
    was_up: bool
    fails: bool


def verdict(votes: Mapping[str, Vote], now_ms: int, *, fresh_ms: int, min_up: int = 500, agree: int = 2) -> State:
    """The state by all `votes` (observer -> its vote); `min_up` in thousandths, 0: never down. UNKNOWN: keep what was.

    A vote may be as far in the future as in the past: it has its observer's clock.
    """
    present = [vote for vote in votes.values() if abs(now_ms - vote.at_ms) <= fresh_ms]
    counted = [vote for vote in present if not vote.abstains and vote.state is not State.UNKNOWN]
    if not counted:
        return State.UNKNOWN
    states, known = [vote.state for vote in counted], len(present)
    if len({vote.group for vote in counted}) > 1:
        states, known = _by_group(counted), len({vote.group for vote in present})
    down = states.count(State.DOWN)
    up = len(states) - down
    if up * WHOLE < min_up * len(states) and down >= min(agree, known):
        return State.DOWN
    return _majority(states) if up else State.UNKNOWN


def isolated(sights: Iterable[Sight]) -> bool:
    """Whether an observer that sees this (one sight for each of its targets) is cut off itself, and should abstain.

    So much of what all saw up fails for it at once, at more than one site, that it is more likely the observer. A lost
    site is no such case. As `was_up` is what all say, it stays isolated until it sees again.
    """
    were_up = [sight for sight in sights if sight.was_up]
    failing = [sight for sight in were_up if sight.fails]
    many = len(failing) >= BLIND_TARGETS and len({sight.site for sight in failing}) >= BLIND_SITES
    return many and len(failing) * 100 > len(were_up) * BLIND_PERCENT


def watchers(target: str, observers: Mapping[str, str], k: int = 3) -> list[str]:
    """The `k` observers (each with its group) that watch a target, the same on every node; all where there are no more.

    Rendezvous hashing, so that who leaves is replaced and nobody else changes. Of each group there is one before there
    are two of any: where two of three were in one group both groups had to agree, and the farthest would decide when.
    """
    ranked = sorted(observers, key=lambda observer: (_rank(target, observer), observer))
    first = {observers[observer]: observer for observer in reversed(ranked)}
    return sorted(ranked, key=lambda observer: first[observers[observer]] != observer)[:max(0, k)]


def _by_group(counted: Sequence[Vote]) -> list[State]:
    """Each group's vote."""
    groups: dict[str, list[State]] = {}
    for vote in counted:
        groups.setdefault(vote.group, []).append(vote.state)
    return [State.DOWN if states.count(State.DOWN) * 2 > len(states) else _majority(states)
            for states in groups.values()]


def _majority(states: Sequence[State]) -> State:
    """Of those that are not down, up or degraded; a tie is up."""
    return State.DEGRADED if states.count(State.DEGRADED) > states.count(State.UP) else State.UP


def _rank(target: str, observer: str) -> bytes:
    return blake2b(f"{observer}\0{target}".encode(), digest_size=8).digest()
