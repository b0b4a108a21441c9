"""Reports on one node and on several: who is believed, what becomes of an endpoint, what limits leave of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dnsd.control import resolve
from dnsd.control.clock import Clock
from dnsd.control.reports import BURST, OTHERS, PENDING, REPORTERS, TOLD, Reports
from dnsd.control.resolve import Health, Resolved
from dnsd.control.standing import Measured
from dnsd.control.told import Told
from dnsd.registry.errors import Unavailable
from dnsd.registry.sightings import News
from dnsd.steer.health import State
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, fleet, gone, service, site

A = 1
ONE, TWO, THREE = f"{SERVICE}/one", f"{SERVICE}/two", f"{SERVICE}/three"
FAILS = Told(ONE, "web", 0, 20)


class Time(Clock):
    """A clock that is set. `off_ms`: how wrong its time of day is."""

    now_ms = NOW
    off_ms = 0

    def unix_ms(self) -> int:
        return self.now_ms + self.off_ms

    def monotonic(self) -> float:
        return self.now_ms / 1000


class Rig:
    """Reports of one node over a small fleet; `sent` is what others are told."""

    def __init__(
        self, node: str = "a", clock: Time | None = None, state: Path | None = None, **declared: Any,
    ) -> None:
        self.clock = clock or Time()
        self.fleet = fleet(
            site("one"), site("two"), site("three"), service(**declared), endpoint("one", "192.0.2.1", "2001:db8::1"),
            endpoint("two", "192.0.2.2", site="two"), endpoint("three", "192.0.2.3", site="three"))
        self.sent: list[Mapping[str, Any]] = []
        self.away = False
        self.reports = Reports(self.fleet, node=node, tell=self._tell, clock=self.clock, state=state)
        self.marked: list[str] = []
        self.reports.changed = self._changed
        self.removals: Mapping[int, Any] = {}

    async def _tell(self, node: str, body: Mapping[str, Any]) -> None:
        assert node == self.reports.node
        if self.away:
            raise Unavailable("away")
        self.sent.append(body)

    def _changed(self, services: Sequence[str]) -> None:
        self.marked += services

    def wait(self, ms: int) -> None:
        """Time passes, and is looked at twice a second."""
        until = self.clock.now_ms + ms
        while self.clock.now_ms < until:
            self.clock.now_ms = min(until, self.clock.now_ms + 500)
            asyncio.run(self.reports.look())

    def advise(self, id_: str = "one", measured: Measured | None = None, type_: int = A) -> Measured:
        return self.reports.advise(SERVICE, id_, type_, measured or Measured(), self.clock.unix_ms())

    def state(self, id_: str) -> State:
        return self.advise(id_).state

    def resolve(self) -> Resolved:
        """What is answered, and its limits' memory kept."""
        found = resolve.resolve(self.fleet, SERVICE, {}, self.clock.now_ms, 0, Health(
            lambda id_, type_: self.advise(id_, type_=type_), self.removals, 0, self.reports.speaks(SERVICE)))
        self.removals = {type_: one.removals for type_, one in found.sifted.items()}
        return found

    def answered(self) -> set[str]:
        return set(self.resolve().sifted[A].shares) if self.reports.speaks(SERVICE) else {"one", "two", "three"}


def test_without_reports_nothing_is_said() -> None:
    rig = Rig()
    rig.reports.report("web", [Told(ONE, "web", 100, 3)])
    assert not rig.reports.speaks(SERVICE)
    assert rig.advise() == Measured()
    assert rig.advise("nobody") == Measured()
    assert rig.reports.of(SERVICE, "two") is None
    assert rig.marked == []


def test_the_breaker_of_an_endpoint() -> None:
    rig = Rig()
    assert rig.reports.report("web", [FAILS])
    assert rig.marked == [SERVICE]
    for type_ in (1, 28):
        found = rig.advise(type_=type_)
        assert (found.state, found.result) == (State.DOWN, "100 % of its users' requests failed")
    assert rig.advise("two") == Measured()
    assert rig.answered() == {"two", "three"}
    rig.wait(30_000)
    found = rig.advise()
    assert (found.state, found.share, found.doubt) == (State.UP, 50, True)
    assert rig.answered() == {"one", "two", "three"}
    assert rig.reports.of(SERVICE, "one")["breaker"] == "half open"  # type: ignore[index]
    rig.wait(1000)
    rig.reports.report("web", [Told(ONE, "web", 20, 0)])
    assert (rig.advise().share, rig.advise().step_ms) == (125, rig.clock.now_ms + 1250)
    rig.wait(10_000)
    assert rig.advise() == Measured()
    assert rig.reports.speaks(SERVICE)  # what the limits remember is worth a minute
    rig.marked.clear()
    rig.wait(61_000)
    assert not rig.reports.speaks(SERVICE)
    assert rig.marked == [SERVICE]
    assert rig.reports._hot == {}


def test_sixteen_percent_opens_after_a_minute_and_fifteen_never() -> None:
    rig = Rig()
    for second in range(90):
        rig.reports.report("web", [Told(ONE, "web", 84, 16), Told(TWO, "web", 85, 15)])
        rig.wait(1000)
        assert (rig.advise().state is State.DOWN) is (60 <= second + 1 < 90)
        assert rig.advise("two").state is State.UP
    for second in range(60):
        rig.reports.report("web", [Told(ONE, "web", 84, 16), Told(TWO, "web", 85, 15)])
        rig.wait(1000)
        assert second == 0 or rig.advise().state is State.DOWN  # one second of being half open was enough
        assert rig.advise("two").state is State.UP


def test_what_is_measured_is_never_made_better() -> None:
    rig = Rig()
    rig.reports.report("web", [Told(ONE, "web", 10_000, 0, (1.0,) * 10, 0)])
    for measured in (Measured(State.DOWN, result="timeout"), Measured(State.UNKNOWN, proven=False),
                     Measured(State.DEGRADED), Measured(share=125, step_ms=NOW + 5)):
        assert rig.advise(measured=measured) == measured
    rig.reports.report("web", [Told(ONE, "web", 0, 30_000)])
    down = Measured(State.DOWN, result="timeout", proven=False)
    assert rig.advise(measured=down) == down
    assert rig.advise(measured=Measured(State.UNKNOWN, proven=False)).state is State.DOWN
    rig.wait(30_000)
    assert rig.advise(measured=Measured(share=20)).share == 20


def test_the_last_ones_are_answered_all_the_same() -> None:
    """Reports take away no more than probes may: one of three in a minute, and never all."""
    rig = Rig()
    rig.reports.report("web", [FAILS])
    assert rig.answered() == {"two", "three"}
    rig.reports.report("web", [Told(TWO, "web", 0, 20)])
    held = rig.resolve()
    assert held.sifted[A].held == {"two"}
    assert set(held.sifted[A].shares) == {"two", "three"}
    rig.reports.report("web", [Told(THREE, "web", 0, 20)])
    everybody = rig.resolve()
    assert set(everybody.sifted[A].shares) == {"one", "two", "three"}
    assert everybody.sifted[A].panic


def test_a_fallback_is_answered_where_all_have_failed() -> None:
    rig = Rig(fallback={"a": ["192.0.2.250"]})
    rig.reports.report("web", [Told(key, "web", 0, 20) for key in (ONE, TWO, THREE)])
    assert rig.resolve().sifted[A].shares == {}


def test_a_holder_that_says_it_is_unhealthy() -> None:
    rig = Rig()
    rig.reports.report("agent", [Told(ONE, "agent", sick_ms=60_000)])
    assert rig.advise() == Measured(State.DOWN, result="unhealthy, as its holder says")
    assert rig.answered() == {"two", "three"}
    rig.wait(59_500)
    assert rig.advise().state is State.DOWN
    rig.reports.report("agent", [Told(ONE, "agent", 5, 0)])  # it says nothing of its health
    rig.wait(500)
    assert rig.advise().state is State.UP
    rig.reports.report("agent", [Told(ONE, "agent", sick_ms=60_000)])
    rig.reports.report("agent", [Told(ONE, "agent", sick_ms=0)])
    assert rig.advise().state is State.UP
    rig.reports.report("agent", [Told(ONE, "agent", sick_ms=60_000)])
    rig.reports.renewed([ONE, TWO, "x/y"])
    assert rig.advise().state is State.UP


@pytest.mark.parametrize(("says", "slow"), [
    ({"a": 2}, False), ({"a": 3}, True), ({"a": 3, "b": 0}, False), ({"a": 3, "b": 3}, True),
    ({"a": 3, "b": 3, "c": 0}, True), ({"a": 3, "b": 0, "c": 0}, False)])
def test_slow_where_more_than_half_find_it_so(says: dict[str, int], slow: bool) -> None:
    rig = Rig()
    for who, times in says.items():
        rig.reports.report(who, [Told(ONE, who, rtts=(900.0,) * times or (50.0,))])
    assert (rig.advise().state is State.DEGRADED) is slow
    assert rig.advise(measured=Measured(State.DOWN)).state is State.DOWN
    assert rig.advise(measured=Measured(State.UNKNOWN)).state is State.UNKNOWN


def test_round_trips_in_between_and_back() -> None:
    rig = Rig()
    for rtt_ms in (900.0, 900.0, 700.0, 900.0, 900.0):
        rig.reports.report("a", [Told(ONE, "a", rtts=(rtt_ms,))])
    assert rig.advise().state is State.UP
    rig.reports.report("a", [Told(ONE, "a", rtts=(900.0,))])
    assert rig.advise().state is State.DEGRADED
    for _ in range(9):
        rig.reports.report("a", [Told(ONE, "a", rtts=(500.0,))])
    assert rig.advise().state is State.DEGRADED
    rig.reports.report("a", [Told(ONE, "a", rtts=(500.0,))])
    assert rig.advise().state is State.UP
    rig.reports.report("a", [Told(ONE, "a", rtts=(900.0,) * 3)])
    rig.wait(60_000)  # nobody says so any more
    assert rig.advise().state is State.UP


@pytest.mark.asyncio
async def test_all_nodes_come_to_the_same() -> None:
    one, two = Rig("a"), Rig("b")
    one.reports.report("web", [Told(ONE, "web", 5, 10, (900.0,)), Told(TWO, "web", rtts=(900.0,) * 3)])
    one.reports.report("web", [Told(ONE, "web", 0, 10), Told(THREE, "agent", sick_ms=90_000)])
    await one.reports.tell()
    assert one.sent == [{"reports": [
        [ONE, "web", 5, 20, [900.0], None], [TWO, "web", 0, 0, [900.0] * 3, None], [THREE, "agent", 0, 0, [], 90_000]]}]
    for body in one.sent:
        two.reports.heard(News("a", NOW, dict(body)))
        one.reports.heard(News("a", NOW, dict(body)))  # its own, from the stream
    for id_ in ("one", "two", "three"):
        assert one.advise(id_) == two.advise(id_)
        assert one.advise(id_) != Measured()
    assert one.reports.of(SERVICE, "one") == two.reports.of(SERVICE, "one")
    await one.reports.tell()
    assert len(one.sent) == 1


@pytest.mark.asyncio
async def test_with_the_store_away_reports_count_here() -> None:
    rig = Rig()
    rig.away = True
    rig.reports.report("web", [FAILS])
    await rig.reports.tell()
    assert rig.advise().state is State.DOWN
    assert rig.reports.described() | {"taken": 0} == {
        "endpoints": 1, "taken": 0, "refused": 0, "untold": 1, "open": 1, "half_open": 0, "unhealthy": 0, "slow": 0}
    rig.away = False
    await rig.reports.tell()
    assert rig.sent == []


@pytest.mark.asyncio
async def test_what_is_told_is_bounded() -> None:
    rig = Rig()
    for number in range(PENDING + 5):
        rig.reports._queue(Told(f"s/{number}", "web", 1))
    assert rig.reports.untold == 5
    await rig.reports.tell()
    assert [len(body["reports"]) for body in rig.sent] == [TOLD] * 5


def test_a_reporter_has_a_quota() -> None:
    rig = Rig()
    batch = [Told(ONE, "web", 1)] * 1000
    taken = 0
    while rig.reports.report("web", batch):
        taken += 1000
    assert taken == BURST
    assert rig.reports.refused == 1000
    assert rig.reports.report("other", batch)
    rig.wait(1001)
    assert rig.reports.report("web", batch)


def test_reporters_of_one_endpoint_are_bounded() -> None:
    rig = Rig()
    for number in range(5 * REPORTERS):
        rig.reports.report(f"w{number}", [Told(ONE, f"w{number}", 1, 0, (30.0,))])
    [known] = rig.reports._known[SERVICE].values()
    assert len(known.windows) == len(known.paces) == REPORTERS + 1
    assert sum(one[1] for one in known.windows[OTHERS]) == 4 * REPORTERS


@pytest.mark.parametrize("row", [
    None, 5, "x", [], [ONE], [ONE, "w", "x", 0, [], None], [ONE, "w", 0, 0, 5, None], [ONE, "w", 0, 0, ["x"], None],
    [ONE, "w", 0, 0, [], "x"], [ONE, "w", 1e400, 0, [], None], {"a": 1}, [ONE, "w", None, 0, [], None],
    ["nobody/here", "w", 0, 50, [], None], [5, 5, 5, 5, [], 5], [ONE, "w", -50, -50, [], -5]])
def test_what_is_no_report_changes_nothing(row: object) -> None:
    rig = Rig()
    rig.reports.heard(News("b", NOW, {"reports": [row]}))
    rig.reports.heard(News("b", NOW, {"reports": row}))
    rig.reports.heard(News("b", NOW, {"else": row}))
    assert rig.marked == []
    assert not rig.reports.speaks(SERVICE)


def test_what_is_told_beyond_measure_is_cut() -> None:
    rig = Rig()
    rig.reports.heard(News("b", NOW, {"reports": [[ONE, "w" * 999, 10**30, 10**30, [float("nan")] * 99, 10**30]]}))
    [known] = rig.reports._known[SERVICE].values()
    assert known.windows == {"w" * 64: ((NOW // 1000, 2_000_000, 1_000_000),)}
    assert known.sick_ms == NOW + 86_400_000


def test_endpoints_that_are_gone_are_forgotten() -> None:
    rig = Rig()
    rig.reports.report("web", [FAILS, Told(TWO, "web", 1)])
    rig.fleet.apply(gone(9, endpoint("one", "192.0.2.1", "2001:db8::1")), NOW)
    assert rig.reports._known[SERVICE].keys() == {"one", "two"}
    rig.wait(30_000)
    rig.reports.report("web", [Told(TWO, "web", 1)])
    rig.wait(30_000)  # it may be back in a moment
    assert rig.reports._known[SERVICE].keys() == {"two"}
    rig.wait(61_000)
    assert rig.reports._known == {}
    assert rig.reports._hot == {}


def test_the_ramp_is_that_of_the_check() -> None:
    rig = Rig(check={"kind": "tcp", "port": 80, "ramp_ms": 0})
    rig.reports.report("web", [FAILS])
    rig.wait(30_000)
    rig.wait(1000)
    rig.reports.report("web", [Told(ONE, "web", 20, 0)])
    assert rig.advise() == Measured()
    rig.fleet.apply(events(9, service()), NOW)
    assert rig.advise() == Measured()


@pytest.mark.asyncio
async def test_the_task_tells_and_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnsd.control.reports.TELL_S", 0.01)
    monkeypatch.setattr("dnsd.control.reports.URGENT_S", 0.0)
    rig = Rig()
    task = asyncio.create_task(rig.reports.run())
    try:
        rig.reports.report("web", [FAILS])
        async with asyncio.timeout(5):
            while not rig.sent:
                await asyncio.sleep(0.001)
        rig.clock.now_ms += 30_000
        async with asyncio.timeout(5):
            while rig.advise().state is State.DOWN:
                await asyncio.sleep(0.001)
    finally:
        task.cancel()


@pytest.mark.parametrize(("away_ms", "kept"), [
    (1000, True), (599_000, True), (601_000, False), (-15_000, True), (-601_000, False)])
def test_a_restart_keeps_what_follows(tmp_path: Path, away_ms: int, kept: bool) -> None:
    before = Rig(state=tmp_path)
    before.reports.save()
    assert not (tmp_path / "reports.json").exists()
    before.reports.report("web", [
        FAILS, Told(TWO, "web", sick_ms=86_400_000), Told(THREE, "web", 5, 0, (900.0,) * 3)])
    before.reports.save()
    after = Rig(state=tmp_path, clock=before.clock)
    after.clock.now_ms += away_ms
    after.reports.take_over()
    assert after.reports.speaks(SERVICE) is kept
    assert (after.state("two"), after.state("three")) == ((State.DOWN, State.DEGRADED) if kept else (State.UP,) * 2)
    if kept:
        after.wait(30_000)
        assert after.advise().share == 50  # half open when its time has come


@pytest.mark.parametrize("data", [
    b"", b"x", b"[]", b"{}", b'{"at_ms": "x"}', b'{"at_ms": 1900000000000}',
    b'{"at_ms": 1900000000000, "endpoints": [["a/b", [9], 0, false]]}',
    b'{"at_ms": 1900000000000, "endpoints": [["a/b", ["x"], 0, false]]}', b'{"at_ms": 1900000000000, "endpoints": 5}'])
def test_a_file_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "reports.json").write_bytes(data)
    rig = Rig(state=tmp_path)
    rig.reports.take_over()
    assert rig.advise() == Measured()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "reports.json").mkdir()
    rig = Rig(state=tmp_path)
    rig.reports.report("web", [FAILS])
    rig.reports.save()
    assert rig.reports._unsaved
    rig.reports.take_over()
    assert rig.advise().state is State.DOWN


@pytest.mark.asyncio
async def test_a_large_batch_leaves_others_their_turns() -> None:
    rig = Rig()
    keys = [f"{SERVICE}/e{number}" for number in range(1000)]
    rig.fleet.apply(events(9, *(endpoint(key.rpartition("/")[2], "192.0.2.9") for key in keys)), NOW)
    assert rig.reports.report("web", [Told(key, "web", 0, 20) for key in keys])
    assert rig.reports.taken == 100
    await rig.reports.tell()
    assert rig.reports.taken == 1000
    assert all(rig.state(key.rpartition("/")[2]) is State.DOWN for key in keys)
    assert sum(len(body["reports"]) for body in rig.sent) == 1000
