"""Samples on their way to a dnsd: what waits while it does not answer, and when it is asked again.

Lives here: waiting batches within a bound, backoff, `Retry-After`. Does not live here: HTTP (the caller's `post`), what
is in a batch (`agent.blocks`).

A measurement is no promise: what is a minute old is forgotten, for it would be taken as one of now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from dnsd.agent.blocks import batches

KEPT_S: Final = 60.0
KEPT_SAMPLES: Final = 100_000
FIRST_S, LAST_S = 1.0, 60.0
"""The wait after the first refusal, doubled with each until the last."""

LONGEST_S: Final = 3600.0
"""As long as `Retry-After` may make it wait."""


class Answer(NamedTuple):
    """What became of a batch; `problem`: it was not taken, try later (after `retry_after_s`, where that is said)."""

    accepted: int = 0
    dropped: dict[str, int] = {}  # noqa: RUF012 - never changed
    problem: str = ""
    retry_after_s: float | None = None


class Outbox:
    """What waits. `post` sends a batch; `now` are monotonic seconds, `chance` is 0..1."""

    def __init__(self, post: Callable[[list[dict[str, Any]]], Answer], now: Callable[[], float],
                 chance: Callable[[], float]) -> None:
        self._post, self._now, self._chance = post, now, chance
        self._waiting: deque[tuple[float, list[dict[str, Any]]]] = deque()
        self._wait_s = 0.0
        self._due = float("-inf")
        self.forgotten = 0

    @property
    def samples(self) -> int:
        """How many wait."""
        return sum(len(batch) for _, batch in self._waiting)

    def add(self, samples: list[dict[str, Any]]) -> None:
        """To be sent; the oldest go where there are too many."""
        self._waiting += ((self._now(), batch) for batch in batches(samples))
        while self._waiting and (self.samples > KEPT_SAMPLES or self._now() - self._waiting[0][0] > KEPT_S):
            self.forgotten += len(self._waiting.popleft()[1])

    def send(self) -> list[Answer]:
        """Send what waits, the newest first, unless it is too early; up to the first that is not taken."""
        answers: list[Answer] = []
        while self._waiting and self._now() >= self._due:
            made, batch = self._waiting.pop()
            answer = self._post(batch)
            answers.append(answer)
            if not answer.problem:
                self._wait_s = 0.0
                continue
            self._waiting.append((made, batch))
            self._wait_s = min(LAST_S, max(FIRST_S, 2 * self._wait_s))
            wait_s = self._wait_s * (0.5 + self._chance() / 2)  # apart from the other agents
            if answer.retry_after_s is not None:
                wait_s = max(wait_s, min(answer.retry_after_s, LONGEST_S))
            self._due = self._now() + wait_s
        return answers
