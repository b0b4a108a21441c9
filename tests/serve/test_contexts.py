"""A worker's contexts: when the guard is asked, what its clock says, cookies that change while it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dnsd import cookiefile, metrics
from dnsd.serve.contexts import TICKS_PER_SECOND, Answering, Contexts

CLIENT = bytes((192, 0, 2, 1))
RATE: dict[str, Any] = {
    "answers": 400, "others": 80, "burst_seconds": 1.0, "exempt": ["10.0.0.0/8"], "raised": [], "raised_by": 20}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The buckets' file, as the supervisor makes it."""
    path = tmp_path / "guard"
    path.write_bytes(bytes(8 << 10))
    return path


def contexts(table: Path, *, workers: int = 1, **rate: Any) -> Contexts:
    return Contexts([0] * metrics.SLOTS, "n w0", Answering(rate=RATE | rate, guard=str(table), guard_key=7), workers)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_guard_is_asked_only_when_a_bucket_could_run_over(table: Path, workers: int) -> None:
    it = contexts(table, workers=workers)
    free = 80 // TICKS_PER_SECOND // workers
    for _ in range(3):
        it.arrived(free)
        assert not it.udp.strict
        it.arrived(1)
        assert it.udp.strict
        it.tick()
        assert it.udp.strict, "or every tick of a flood would begin with a few that nobody counts"
        it.tick()
        assert not it.udp.strict
    assert not any(each.strict or each.guard for each in (it.tcp, it.tls))


def test_the_guards_clock_goes_on_whenever_it_is_asked(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when only overload makes it so: a clock that stands would let nobody through any more."""
    it = contexts(table, answers=1_000_000, others=1_000_000)
    assert it.guard is not None
    for seconds in (1000, 1001):
        monkeypatch.setattr(time, "monotonic_ns", lambda: seconds * 1_000_000_000)  # noqa: B023 - called in this turn
        it.turned(full=True)
        it.arrived(64)
        assert it.guard.now == seconds * 1_000_000_000 // 64
        it.tick()
        assert it.udp.strict


@pytest.mark.parametrize("every_ms", [1, 4, 10])
def test_a_steady_flood_gets_no_more_than_the_rate(table: Path, every_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One query at a time, as they come when there is time for each."""
    it = contexts(table, others=80)
    assert it.guard is not None
    answered, seconds = 0, 10
    for ms in range(1_000_000, 1_000_000 + 1000 * seconds, every_ms):
        monkeypatch.setattr(time, "monotonic_ns", lambda: ms * 1_000_000)  # noqa: B023 - called in this turn
        if not ms % (1000 // TICKS_PER_SECOND):
            it.tick()
        it.arrived(1)
        answered += not (it.udp.strict and it.guard.over(CLIENT, 1, 1))
    assert 80 * seconds <= answered <= 80 * (seconds + 1) + 80 // TICKS_PER_SECOND


def test_a_short_burst_is_short(table: Path) -> None:
    """What goes uncounted is no more than a bucket would have granted at once."""
    it = contexts(table, burst_seconds=0.1)
    it.arrived(8)
    assert not it.udp.strict
    it.arrived(1)
    assert it.udp.strict


def test_overload_sheds_more_and_more_and_then_less(table: Path) -> None:
    it = contexts(table)
    for shed in (1, 2, 3, 3):
        it.turned(full=True)
        assert (it.udp.shed, it.udp.strict) == (shed, True)
    for shed in (2, 1, 0, 0):
        it.turned(full=False)
        assert it.udp.shed == shed
    it.tick()
    assert not it.udp.strict


def test_workers_share_the_table(table: Path) -> None:
    one, other = contexts(table), contexts(table)
    for it in (one, other):
        assert it.guard is not None
        it.guard.tick(10**12)
        for _ in range(60):
            it.guard.over(CLIENT, 1, 1)
    assert one.guard is not None
    assert one.guard.over(CLIENT, 1, 1)
    assert not one.guard.over(bytes((10, 0, 0, 1)), 1, 1)


def test_without_a_rate_there_is_no_guard() -> None:
    it = Contexts([0] * metrics.SLOTS, "n w0")
    it.arrived(10**6)
    assert (it.guard, it.udp.strict, it.udp.cookies) == (None, False, None)
    it.tick()


def test_cookies_change_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "cookies"
    cookiefile.ensure(path)
    it = Contexts([0] * metrics.SLOTS, "n w0", Answering(cookies=str(path)))
    first = it.udp.cookies
    assert first is not None
    assert it.tcp.cookies is first
    assert it.tls.cookies is first
    it.tick()
    assert it.udp.cookies is first
    cookiefile.store(path, cookiefile.added(cookiefile.load(path), bytes(16)))
    it.tick()
    assert it.udp.cookies is not first
    assert it.udp.cookies is it.tls.cookies is it.tcp.cookies
