"""What waits while nobody takes it: bounds, backoff, and being told when to come back."""

from __future__ import annotations

from typing import Any

import pytest

from dnsd.agent.outbox import FIRST_S, KEPT_S, KEPT_SAMPLES, LAST_S, LONGEST_S, Answer, Outbox


class Rig:
    """An outbox, a clock, and who answers."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answer = Answer(accepted=1)
        self.asked: list[list[dict[str, Any]]] = []
        self.box = Outbox(self.post, lambda: self.now, lambda: 1.0)

    def post(self, batch: list[dict[str, Any]]) -> Answer:
        self.asked.append(batch)
        return self.answer

    def waits_s(self) -> float:
        """Until it asks again."""
        before, began = len(self.asked), self.now
        while len(self.asked) == before:
            self.now += 0.5
            self.box.send()
        return self.now - began


def some(number: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"client": str(first + one)} for one in range(number)]


def test_what_is_taken_is_gone() -> None:
    rig = Rig()
    rig.box.add(some(6000))
    assert [len(batch) for batch in rig.asked] == []
    assert len(rig.box.send()) == 2
    assert (rig.box.samples, rig.box.send()) == (0, [])


def test_it_asks_less_and_less_often_and_at_once_again_when_it_is_heard() -> None:
    rig = Rig()
    rig.answer = Answer(problem="away")
    rig.box.add(some(1))
    rig.box.send()
    waits = [rig.waits_s() for _ in range(9)]
    assert waits[:4] == [FIRST_S, 2.0, 4.0, 8.0]
    assert waits[-1] == LAST_S
    rig.answer = Answer(accepted=1)
    rig.waits_s()
    assert rig.box.samples == 0
    rig.box.add(some(1))
    assert len(rig.box.send()) == 1


@pytest.mark.parametrize(("told_s", "waited_s"), [(30.0, 30.0), (0.0, FIRST_S), (1e9, LONGEST_S)])
def test_who_says_when_is_obeyed(told_s: float, waited_s: float) -> None:
    rig = Rig()
    rig.answer = Answer(problem="too many", retry_after_s=told_s)
    rig.box.add(some(1))
    rig.box.send()
    assert rig.waits_s() == waited_s


def test_one_that_is_refused_ends_the_turn() -> None:
    rig = Rig()
    rig.answer = Answer(problem="away")
    rig.box.add(some(20_000))
    assert len(rig.box.send()) == 1
    assert rig.box.samples == 20_000


def test_what_waits_is_bounded_and_the_newest_goes_first() -> None:
    rig = Rig()
    rig.answer = Answer(problem="away", retry_after_s=5.0)
    rig.box.add(some(5000))
    rig.box.send()
    for number in range(30):
        rig.box.add(some(5000, number))
    assert rig.box.samples == KEPT_SAMPLES
    assert rig.box.forgotten == 31 * 5000 - KEPT_SAMPLES
    rig.answer = Answer(accepted=1)
    rig.now += 5
    rig.box.send()
    assert rig.asked[1][0] == {"client": "29"}


def test_what_is_old_is_forgotten() -> None:
    rig = Rig()
    rig.answer = Answer(problem="away", retry_after_s=600.0)
    rig.box.add(some(3))
    rig.box.send()
    rig.now += KEPT_S + 1
    rig.box.add(some(2))
    assert (rig.box.samples, rig.box.forgotten) == (2, 3)
