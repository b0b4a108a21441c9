"""Rules over metrics: which endpoint a number is of, what becomes of it, no answer is no opinion."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from dnsd.control import resolve
from dnsd.control.resolve import Health
from dnsd.control.rules import AT_ONCE, PrometheusSettings, Rules
from dnsd.control.standing import Measured
from dnsd.registry.checks import Rule
from dnsd.steer.health import State
from dnsd.watch.promql import WHOLE, NoAnswer
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, fleet, gone, service, site
from tests.control.test_reports import Time

A = 1
BELOW = {"query": "up", "below": 0.5}


class Rig:
    """Rules over a small fleet, and a Prometheus that says what is set."""

    def __init__(self, clock: Time | None = None, state: Path | None = None, **declared: Any) -> None:
        self.clock = clock or Time()
        self.fleet = fleet(
            site("one"), site("two"), service(rule={**BELOW, **declared}), endpoint("one", "192.0.2.1"),
            endpoint("two", "192.0.2.2", site="two"))
        self.says: dict[str, float] | str = {"one": 1.0, "two": 1.0}
        self.queries: list[str] = []
        self.gate: asyncio.Event | None = None
        self.closed = False
        self.marked: list[str] = []
        self.rules = Rules(self.fleet, PrometheusSettings(), self.clock, self, state)
        self.rules.changed = self.marked.extend

    async def ask(self, query: str) -> dict[str, float]:
        self.queries.append(query)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.says, str):
            raise NoAnswer(self.says)
        return self.says

    async def close(self) -> None:
        self.closed = True

    async def turn(self, ms: int = 0) -> None:
        """Time passes a second at a time."""
        for _ in range(max(1, ms // 1000)):
            self.rules.look()
            while self.rules._asking and self.gate is None:
                await asyncio.sleep(0)
            self.clock.now_ms += 1000

    def state(self, id_: str = "one", measured: Measured | None = None) -> State:
        return self.advise(id_, measured).state

    def advise(self, id_: str = "one", measured: Measured | None = None) -> Measured:
        return self.rules.advise(SERVICE, id_, A, measured or Measured(), self.clock.unix_ms())


@pytest.mark.asyncio
async def test_down_after_fifteen_seconds_and_up_after_fifteen() -> None:
    rig = Rig()
    assert rig.rules.speaks(SERVICE)
    assert not rig.rules.speaks("nobody.example.com")
    assert rig.advise() == Measured()
    await rig.turn(11_000)
    assert rig.queries == ["up"] * 3
    rig.says = {"one": 0.1, "two": 1.0}
    await rig.turn(15_000)
    assert rig.state() is State.UP
    await rig.turn(5000)
    assert rig.advise() == Measured(State.DOWN, result="its rule: below 0.5 for 15 s")
    assert rig.state("two") is State.UP
    assert rig.marked == [SERVICE]
    assert rig.rules.described()["bad"] == [f"{SERVICE}/one"]
    found = resolve.resolve(rig.fleet, SERVICE, {}, rig.clock.now_ms, 0, Health(
        lambda id_, _: rig.advise(id_), {}, 0, rig.rules.speaks(SERVICE)))
    assert set(found.sifted[A].shares) == {"two"}
    rig.says = {"one": 1.0, "two": 1.0}
    await rig.turn(20_000)
    assert (rig.state(), rig.advise().share < 1000, rig.advise().step_ms > rig.clock.now_ms) == (State.UP, True, True)
    await rig.turn(10_000)
    assert rig.advise() == Measured()
    assert rig.marked == [SERVICE, SERVICE]


@pytest.mark.asyncio
async def test_what_is_measured_is_never_made_better() -> None:
    rig = Rig(for_ms=0)
    down, unknown = Measured(State.DOWN, result="timeout"), Measured(State.UNKNOWN, proven=False)
    await rig.turn()
    assert rig.advise(measured=down) == down
    assert rig.advise(measured=unknown) == unknown
    rig.says = {"one": 0.0}
    await rig.turn(6000)
    assert rig.advise(measured=down) == down
    assert rig.advise(measured=unknown).state is State.DOWN
    assert rig.advise(measured=unknown).proven is False


@pytest.mark.asyncio
async def test_degraded_only() -> None:
    rig = Rig(for_ms=0, then="degraded")
    rig.says = {"one": 0.0, "two": 1.0}
    await rig.turn()
    assert rig.state() is State.DEGRADED
    assert rig.state(measured=Measured(State.UNKNOWN)) is State.UNKNOWN
    assert rig.state(measured=Measured(State.DOWN)) is State.DOWN
    assert rig.state("two") is State.UP
    rig.says = {"one": 1.0}
    await rig.turn(6000)
    assert rig.advise() == Measured()


@pytest.mark.asyncio
async def test_one_number_for_all() -> None:
    rig = Rig(for_ms=0)
    rig.says = {WHOLE: 0.0}
    await rig.turn()
    assert rig.state("one") is rig.state("two") is State.DOWN
    assert rig.rules.described()["bad"] == [SERVICE]
    found = resolve.resolve(rig.fleet, SERVICE, {}, rig.clock.now_ms, 0, Health(
        lambda id_, _: rig.advise(id_), {}, 0, rig.rules.speaks(SERVICE)))
    assert set(found.sifted[A].shares) == {"one", "two"}  # never nobody
    assert found.sifted[A].panic


@pytest.mark.asyncio
async def test_far_below_what_is_usual() -> None:
    rig = Rig(below=None, percent_below_baseline=30)
    rig.says = {"one": 1000.0, "two": 5.0}
    await rig.turn(120_000)
    rig.says = {"one": 650.0, "two": 4.0}
    await rig.turn(20_000)
    assert (rig.state("one"), rig.state("two")) == (State.DOWN, State.UP)
    told = rig.rules.of(SERVICE)
    assert told is not None
    assert told["rule"] == "its rule: 30 % below its baseline for 15 s"
    assert told["values"]["one"]["baseline"] == 1000.0
    assert rig.rules.of("nobody") is None


@pytest.mark.asyncio
async def test_no_answer_is_no_opinion() -> None:
    rig = Rig(for_ms=0)
    rig.says = {"one": 0.0, "two": 0.0}
    await rig.turn()
    assert rig.state() is State.DOWN
    rig.says = "HTTP 503"
    await rig.turn(13_000)
    assert rig.state() is State.DOWN
    assert list(rig.rules.conditions()) == [f"rule of service {SERVICE}: HTTP 503"]
    await rig.turn(4000)
    assert rig.advise() == Measured()
    rig.says = {"one": 0.0}  # of the other nothing is said
    await rig.turn(6000)
    assert (rig.state("one"), rig.state("two")) == (State.DOWN, State.UP)
    assert list(rig.rules.conditions()) == []
    assert rig.rules.described()["failed"] > 0


@pytest.mark.asyncio
async def test_another_rule_begins_anew() -> None:
    rig = Rig(for_ms=0)
    rig.says = {"one": 0.0, "gone": 0.0}
    await rig.turn()
    assert rig.rules._series[SERVICE].keys() == {"one"}
    rig.fleet.apply(events(9, service(rule={"query": "other", "above": 5, "for_ms": 0})), NOW)
    await rig.turn()
    assert rig.queries[-1] == "other"
    assert rig.state() is State.UP
    rig.fleet.apply(events(10, service()), NOW)
    rig.marked.clear()
    await rig.turn()
    assert rig.marked == [SERVICE]
    assert not rig.rules.speaks(SERVICE)
    assert not rig.rules._series
    assert not rig.rules._rules
    assert not rig.rules._due


@pytest.mark.asyncio
async def test_a_rule_that_is_gone_while_it_is_asked() -> None:
    rig = Rig(for_ms=0)
    rig.says, rig.gate = {"one": 0.0}, asyncio.Event()
    await rig.turn()
    await rig.turn()
    assert rig.queries == ["up"] or rig.queries == []
    rig.fleet.apply(gone(9, endpoint("one", "192.0.2.1")), NOW)
    rig.fleet.apply(events(10, service()), NOW)
    await rig.turn()
    rig.gate.set()
    rig.gate = None
    await rig.turn()
    assert rig.rules._series == {}


@pytest.mark.asyncio
async def test_few_are_asked_at_once() -> None:
    rig = Rig()
    rig.fleet.apply(events(9, *(service(f"s{n}.example.com", rule=BELOW) for n in range(3 * AT_ONCE))), NOW)
    rig.gate = asyncio.Event()
    await rig.turn(3000)
    await asyncio.sleep(0)
    assert len(rig.rules._asking) == len(rig.queries) == AT_ONCE
    rig.gate.set()
    rig.gate = None
    await rig.turn(6000)
    assert len(rig.rules._series) == 3 * AT_ONCE + 1


@pytest.mark.asyncio
async def test_those_that_are_slow_to_answer_leave_turns_to_others() -> None:
    rig = Rig()
    names = [f"s{n}.example.com" for n in range(2 * AT_ONCE)]
    rig.fleet.apply(events(9, *(
        service(name, rule={**BELOW, "query": name, "interval_ms": 1000}) for name in names)), NOW)
    for _ in range(6):
        rig.gate = asyncio.Event()
        rig.rules.look()
        await asyncio.sleep(0)
        rig.clock.now_ms += 2000
        rig.gate.set()
        while rig.rules._asking:
            await asyncio.sleep(0)
    assert {rig.queries.count(name) for name in names} <= {2, 3}
    assert list(rig.rules.conditions()) == [
        f"{len(rig.rules._late)} rules are asked more rarely than they should be"]


def test_without_a_prometheus() -> None:
    rig = Rig()
    rules = Rules(rig.fleet, PrometheusSettings(), rig.clock)
    rules.look()
    assert not rules.speaks(SERVICE)
    assert list(rules.conditions()) == [f"service {SERVICE} has a rule, but the settings name no prometheus.url"]


@pytest.mark.asyncio
async def test_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def query(_: web.Request) -> web.Response:
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": [
            {"metric": {"endpoint": "one"}, "value": [0, "0"]}, {"metric": {"endpoint": "two"}, "value": [0, "1"]}]}})

    monkeypatch.setattr("dnsd.control.rules.LOOK_S", 0.01)
    rig = Rig(for_ms=0)
    app = web.Application()
    app.router.add_post("/api/v1/query", query)
    async with TestServer(app) as server:
        rules = Rules(rig.fleet, PrometheusSettings(url=str(server.make_url(""))), rig.clock)
        turned = asyncio.Event()
        rules.changed = lambda _: turned.set()
        task = asyncio.create_task(rules.run())
        try:
            async with asyncio.timeout(5):
                await turned.wait()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert rules.advise(SERVICE, "one", A, Measured(), NOW).state is State.DOWN
    assert rules.advise(SERVICE, "two", A, Measured(), NOW) == Measured()


@pytest.mark.parametrize("rule", [
    {"query": "x"}, {"query": "x", "above": 1, "below": 2}, {"query": "", "above": 1}, {"query": "x", "above": "NaN"},
    {"query": "x", "percent_below_baseline": 0}, {"query": "x", "percent_below_baseline": 100},
    {"query": "x", "above": 1, "interval_ms": 500}, {"query": "x", "above": 1, "url": "http://192.0.2.1"}])
def test_what_is_no_rule(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate(rule)


@pytest.mark.asyncio
@pytest.mark.parametrize(("away_ms", "kept"), [
    (1000, True), (599_000, True), (601_000, False), (-15_000, True), (-601_000, False)])
async def test_a_restart_keeps_what_rules_have_found(tmp_path: Path, away_ms: int, kept: bool) -> None:
    """What is bad stays out, and what was usual is known: else the bad value would be, and nothing wrong with it."""
    rig = Rig(state=tmp_path, below=None, percent_below_baseline=30)
    rig.says = {"one": 1000.0, "two": 5.0}
    await rig.turn(120_000)
    rig.says = {"one": 500.0, "two": 5.0}
    await rig.turn(30_000)
    assert rig.state() is State.DOWN
    rig.rules.save()
    after = Rig(state=tmp_path, below=None, percent_below_baseline=30)
    after.clock.now_ms = rig.clock.now_ms
    after.rules = Rules(after.fleet, PrometheusSettings(), after.clock, after, tmp_path)
    after.clock.off_ms = away_ms
    after.rules.take_over()
    assert after.state() is (State.DOWN if kept else State.UP), "before anything was asked"
    after.says = {"one": 500.0, "two": 5.0}
    await after.turn(90_000)
    assert (after.state(), after.state("two")) == (State.DOWN if kept else State.UP, State.UP)
    if kept:
        after.says = {"one": 950.0, "two": 5.0}
        await after.turn(25_000)
        assert after.state() is State.UP


@pytest.mark.asyncio
async def test_a_restart_knows_nothing_of_another_rule(tmp_path: Path) -> None:
    rig = Rig(state=tmp_path, for_ms=0)
    rig.says = {"one": 0.0}
    await rig.turn()
    rig.rules.save()
    after = Rig(state=tmp_path, for_ms=0, query="another")
    after.rules.take_over()
    assert after.state() is State.UP
    lacks = Rules(rig.fleet, PrometheusSettings(), rig.clock, state=tmp_path)  # its settings name none any more
    lacks.take_over()
    assert lacks.advise(SERVICE, "one", A, Measured(), NOW) == Measured()


@pytest.mark.parametrize("data", [
    b"", b"x", b"[]", b"{}", b'{"at_ms": "x"}', b'{"at_ms": 1900000000000}',
    b'{"at_ms": 1900000000000, "fields": ["bad"], "rules": [["a", {"query": "x"}, {}]]}',
    b'{"at_ms": 1900000000000, "fields": ["bad"], "rules": [["a", {"query": "x", "above": 1}, {"i": [1, 2]}]]}',
    b'{"at_ms": 1900000000000, "fields": ["seen_ms"], "rules": [["a", {"query": "x", "above": 1}, {"i": ["x"]}]]}'])
def test_a_file_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rules.json").write_bytes(data)
    rig = Rig(state=tmp_path)
    rig.rules.take_over()
    assert rig.advise() == Measured()


@pytest.mark.asyncio
async def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "rules.json").mkdir()
    rig = Rig(state=tmp_path)
    await rig.turn()
    rig.rules.save()
    assert rig.rules._turned
