"""Timeouts from handshakes: near, far, unknown, frozen, a path that became longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.watch.baseline import REMEMBERED, STUCK, Baseline
from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.target import Check

CHECK = Check("http", 80)
LOST = Outcome(False, Reason.TIMEOUT, 0.0, 300.0)


def good(handshake_ms: float, total_ms: float | None = None) -> Outcome:
    return Outcome(True, Reason.OK, handshake_ms, handshake_ms * 2 if total_ms is None else total_ms, handshake_ms)


def after(*outcomes: Outcome) -> Baseline:
    baseline = Baseline()
    for outcome in outcomes:
        baseline.judged(CHECK, outcome)
    return baseline


@pytest.mark.parametrize(("outcomes", "ms", "timeout_ms"), [
    ([], None, 1000),
    ([LOST], None, 1000),
    ([good(1)], 1, 302),
    ([good(250)], 250, 800),
    ([good(800, 900)], 800, 1000),
    ([good(20), good(90), good(30)], 20, 340),
    ([good(20), LOST, LOST], 20, 340),
    ([good(20), LOST, LOST, LOST], 20, 1000),
    ([good(20), *[Outcome(False, Reason.REFUSED)] * 5], 20, 340),
    ([good(20), LOST, LOST, Outcome(False, Reason.STATUS), LOST], 20, 340),
    ([good(20), LOST, LOST, good(25), LOST], 20, 340),
    ([good(20), *[Outcome(False, Reason.BUSY)] * 5], 20, 340),
    ([good(20), *[good(60)] * (REMEMBERED - 1)], 20, 340),
    ([good(20), *[good(60)] * REMEMBERED], 60, 420),
    ([good(20), LOST, LOST, LOST, good(280)], 280, 860),
])
def test_timeouts(outcomes: list[Outcome], ms: float | None, timeout_ms: float) -> None:
    baseline = after(*outcomes)
    assert baseline.ms == ms
    assert baseline.timeout_ms(CHECK) == timeout_ms


@pytest.mark.parametrize(("before", "outcome", "reason"), [
    ([], good(1, 300), Reason.OK),
    ([], good(1, 303), Reason.TIMEOUT),  # a slow server at first sight
    ([], good(400, 990), Reason.OK),  # a far one
    ([good(250)], good(240, 799), Reason.OK),
    ([good(20), LOST, LOST, LOST], good(20, 700), Reason.TIMEOUT),  # slow, not far
    ([good(20), LOST, LOST, LOST], good(290, 880), Reason.OK),
    ([good(250)], good(250, 801), Reason.TIMEOUT),
])
def test_a_success_is_judged_by_its_own_handshake(before: list[Outcome], outcome: Outcome, reason: Reason) -> None:
    judged = after(*before).judged(CHECK, outcome)
    assert judged.reason is reason
    assert judged.ok == (reason is Reason.OK)
    assert judged[2:] == outcome[2:]


@pytest.mark.parametrize(("check", "timeout_ms"), [
    (Check("http", 80), 500), (Check("grpc", 80), 500), (Check("https", 443), 450), (Check("grpc", 80, tls=True), 450),
    (Check("tcp", 80), 400), (Check("tls", 443), 400), (Check("dns", 53), 400)])
def test_a_request_has_its_round_trip(check: Check, timeout_ms: float) -> None:
    """Where one is made: after TLS in two round trips it is half the handshake."""
    baseline = Baseline()
    baseline.judged(check, good(100, 200))
    assert baseline.timeout_ms(check) == timeout_ms


@pytest.mark.parametrize(("check", "connect_ms"), [
    (Check("http", 80), 400), (Check("grpc", 80), 400), (Check("https", 443), None),
    (Check("grpc", 80, tls=True), None), (Check("tcp", 80), None), (Check("tls", 443), None), (Check("dns", 53), None)])
def test_a_connection_may_come_late_only_as_far_as_its_request_still_fits(
    check: Check, connect_ms: float | None,
) -> None:
    baseline = Baseline()
    assert baseline.connect_ms(check) is None
    baseline.judged(check, good(100, 200))
    assert baseline.connect_ms(check) == connect_ms
    assert connect_ms is None or connect_ms + 100 == baseline.timeout_ms(check)
    for _ in range(STUCK):
        baseline.judged(check, LOST)
    assert baseline.connect_ms(check) is None, "the path may have become longer"


def test_slow_servers_do_not_come_back_by_the_longer_timeout() -> None:
    baseline = after(good(20), *[LOST] * STUCK)
    for _ in range(20):
        assert not baseline.judged(CHECK, good(20, 900)).ok
    assert baseline.ms == 20
    assert baseline.judged(CHECK, good(20, 100)).ok
    assert baseline.timeout_ms(CHECK) == 340


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 900), st.floats(0, 900))), st.integers(10, 1000))
def test_bounds(outcomes: list[tuple[bool, float, float]], timeout_ms: int) -> None:
    check = CHECK._replace(timeout_ms=timeout_ms)
    baseline = Baseline()
    for ok, handshake, more in outcomes:
        before = baseline.ms
        judged = baseline.judged(check, good(handshake, handshake + more) if ok else LOST)
        if not judged.ok:
            assert baseline.ms == before, "failures teach nothing"
        assert timeout_ms <= baseline.timeout_ms(check) <= 1000
