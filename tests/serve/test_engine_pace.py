"""When the engine's thread is strict and what it sheds: the same as `Contexts` after the same."""

from __future__ import annotations

import socket
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.serve.udp import ROUNDS
from tests.serve.engines import Rig, malformed, plain, until
from tests.serve.test_contexts import contexts, table  # noqa: F401 - a fixture

FREE = 20
FULL_TURN = ROUNDS * 64


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.integers(1, 30), st.just(0)), min_size=1, max_size=25))
def test_strictness_is_that_of_contexts(table: Path, steps: list[int]) -> None:  # noqa: F811
    """0: a quarter of a second passes; else so many queries come."""
    model = contexts(table, others=80)
    assert model.free == FREE
    with Rig(free=FREE) as one:
        one.start()
        for step in steps:
            if step:
                model.arrived(step)
                one.ask([plain(0)] * step)
                assert one.loop.pace == (model.udp.strict, 0)
            else:
                model.tick()
                one.loop.tick()


def test_without_a_guard_nothing_is_strict() -> None:
    with Rig() as one:
        one.start().ask([plain(0)] * 500)
        assert one.loop.pace == (False, 0)


def test_overload_sheds_and_then_no_longer() -> None:
    """A turn that leaves the queue more than half full sheds at the next; one that empties it no more."""
    with Rig() as one:
        for number in range(FULL_TURN + 50):  # as many of the last as there is room for
            one.clients[0].send(plain(number) if number < FULL_TURN else malformed(number))
        one.servers[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # crowded while anything waits
        one.start()
        until(lambda: one.count[metrics.RESPONSES_UDP] == FULL_TURN and one.count[metrics.SHED])
        shed = one.count[metrics.QUERIES_UDP] - FULL_TURN
        assert (one.count[metrics.SHED], one.loop.pace) == (shed, (True, 1))
        one.ask([malformed(1)])
        until(lambda: one.count[metrics.RESPONSES_UDP] == FULL_TURN + 1, "nothing is shed any more")
        assert one.loop.pace == (True, 0)
        one.loop.tick()
        one.ask([plain(2)])
        assert one.loop.pace == (False, 0)


def test_what_is_passed_on_is_answered_in_the_engines_state(table: Path) -> None:  # noqa: F811
    it = contexts(table)
    engine = Fixed()
    it.engine = engine
    assert it.guard is not None
    it.arrived(10_000)
    assert (it.udp.strict, it.udp.shed, it.guard.now) == (False, 0, 0)
    engine.pace = True, 2
    it.arrived(1)
    assert (it.udp.strict, it.udp.shed) == (True, 2)
    assert it.guard.now > 0
    it.tick()
    assert engine.ticks == 1


class Fixed:
    """An engine's pace that only changes when told."""

    def __init__(self) -> None:
        self.pace = False, 0
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1
