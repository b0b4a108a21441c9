"""Services' rules over metrics: asking this node's Prometheus, and what the values make of a measured state.

Lives here: the settings' part, when each rule is asked, which endpoint a number is of. Does not live here: the exchange
(`watch.promql`), values to good and bad (`steer.rule`).

What values have come to survives a restart, for a while: else it would answer again what a rule keeps out, and take for
usual what is bad. No answer is no opinion: what a rule held against an endpoint ends when its values have not come for
three intervals. A node whose settings name no Prometheus has none at all, so either all nodes have one or rules are for
the one that decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import BaseModel

from dnsd import disk
from dnsd.control import rulefile
from dnsd.control.clock import Clock, Steady
from dnsd.control.reports import RAMP_MS
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.registry import checks
from dnsd.steer import health, rule
from dnsd.steer.health import Cell, State
from dnsd.steer.rule import Bound, Series
from dnsd.watch.promql import WHOLE, NoAnswer, Prometheus

LOOK_S: Final = 0.25
AT_ONCE: Final = 8
MISSED: Final = 3
"""Intervals without a value after which there is no opinion."""

LISTED: Final = 100
KEPT_MS: Final = 600_000
SAVE_S: Final = 5.0
SEEN_S: Final = 60.0
"""How often what is known is written down: after a turn for the worse or the better, and without."""

_log = logging.getLogger("dnsd.control")


class PrometheusSettings(BaseModel):
    """The settings' table [prometheus]."""

    url: str | None = None
    token_file: Path | None = None
    timeout_seconds: float = 2.0


class Asked(Protocol):
    """What of `watch.promql` is needed."""

    async def ask(self, query: str) -> dict[str, float]:
        """Endpoint id -> its number now. NoAnswer."""

    async def close(self) -> None:
        """Let connections go."""


class Rules:
    """One node's rules; `run` is its life. `changed` is told of services."""

    def __init__(
        self, fleet: Fleet, settings: PrometheusSettings, clock: Clock, server: Asked | None = None,
        state: Path | None = None,
    ) -> None:
        self.fleet, self.clock = fleet, clock
        if server is None and settings.url is not None:
            server = Prometheus(settings.url, token_file=settings.token_file, timeout_s=settings.timeout_seconds)
        self.server = server
        self.changed: Callable[[Sequence[str]], None] = lambda _: None
        self.asked = self.failed = 0
        self._series: dict[str, dict[str, Series]] = {}  # service -> endpoint id, or all of them
        self._rules: dict[str, checks.Rule] = {}  # as they are asked
        self._due: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._late: set[str] = set()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._steady = Steady(clock)  # which all times here go by
        self._file = state / rulefile.FILE if state is not None else None
        self._restored: dict[str, rulefile.Kept] = {}
        self._restored_ms = 0
        self._saved_s, self._turned = clock.monotonic(), False

    # --- asked ---

    def speaks(self, service: str) -> bool:
        """Whether a rule speaks of a service, and this node can ask."""
        found = self.fleet.services.get(service)
        return self.server is not None and found is not None and found.rule is not None

    def advise(self, service: str, id_: str, type_: int, measured: Measured, now_ms: int) -> Measured:
        """What is measured, or worse."""
        found = self.fleet.services.get(service)
        if service in self._restored and found is not None and found.rule is not None:
            self._begin(service, found.rule)
        declared = self._rules.get(service)
        some = self._series.get(service)
        if declared is None or not some or measured.state is State.DOWN:
            return measured
        series = some.get(id_) or some.get(WHOLE)
        if series is None:
            return measured
        if series.bad and declared.then == "down":
            return measured._replace(
                state=State.DOWN, share=health.WHOLE, doubt=False, step_ms=0, result=_words(declared))
        if series.bad:
            if measured.state is State.UP:
                return measured._replace(state=State.DEGRADED, result=_words(declared))
            return measured
        if declared.then == "degraded":
            return measured
        cell, rules = Cell(State.UP, back_ms=series.back_ms), health.Rules(ramp_ms=self._ramp_ms(service))
        jumped_ms = self._steady.jumped_ms()
        now_ms -= jumped_ms
        step_ms = health.later(health.step_at(cell, now_ms, rules), jumped_ms)
        return measured._replace(
            share=min(measured.share, health.share(cell, now_ms, rules)),
            step_ms=min(filter(None, (measured.step_ms, step_ms)), default=0))

    def described(self) -> dict[str, Any]:
        """For people."""
        bad = [f"{service}/{id_}" if id_ else service
               for service, some in self._series.items() for id_, series in some.items() if series.bad]
        return {"rules": len(self._rules), "asked": self.asked, "failed": self.failed, "bad": sorted(bad)[:LISTED],
                "problems": dict(list(self._problems.items())[:LISTED])}

    def of(self, service: str) -> dict[str, Any] | None:
        """One service's rule for people: each value as it was last, its baseline, whether it is bad; None: no rule."""
        declared, jumped_ms = self._rules.get(service), self._steady.jumped_ms()
        return None if declared is None else {
            "rule": _words(declared), "problem": self._problems.get(service), "values": {
                id_ or "*": {"value": series.value, "at_ms": series.seen_ms + jumped_ms, "bad": series.bad,
                             "baseline": round(series.baseline, 6)}
                for id_, series in sorted(self._series.get(service, {}).items())}}

    def conditions(self) -> Iterator[str]:
        """What somebody should look at."""
        if self.server is None:
            for name in [name for name, one in self.fleet.services.items() if one.rule is not None][:LISTED]:
                yield f"service {name} has a rule, but the settings name no prometheus.url"
            return
        if self._late:
            yield f"{len(self._late)} rules are asked more rarely than they should be"
        for name, problem in list(self._problems.items())[:LISTED]:
            yield f"rule of service {name}: {problem}"

    # --- the task ---

    async def run(self) -> None:
        """Ask for ever."""
        try:
            while True:
                self.look()
                await self.clock.sleep(LOOK_S)
                if self.clock.monotonic() - self._saved_s >= (SAVE_S if self._turned else SEEN_S) and self._series:
                    await asyncio.to_thread(self._write, self._dump())
        finally:
            self.save()
            for task in self._asking.values():
                task.cancel()
            await asyncio.gather(*self._asking.values(), return_exceptions=True)
            if self.server is not None:
                await self.server.close()

    def look(self) -> None:
        """Begin to ask what is due; forget what is no rule any more."""
        if self.server is None:
            return
        declared = {name: one.rule for name, one in self.fleet.services.items() if one.rule is not None}
        for name in [name for name, one in self._rules.items() if declared.get(name) != one]:
            for kept in (self._rules, self._series, self._due, self._problems):
                kept.pop(name, None)
            self._late.discard(name)
            self.changed((name,))
        now = self.clock.monotonic()
        for name in declared.keys() - self._rules.keys():
            self._begin(name, declared[name])
        due = [(self._due.setdefault(name, now), name) for name in declared if name not in self._asking]
        # Who waits longest comes first: some that are slow to answer must not have it all.
        for at, name in nsmallest(AT_ONCE - len(self._asking), [one for one in due if one[0] <= now]):
            one = declared[name]
            (self._late.add if now - at > (MISSED - 1) * one.interval_ms / 1000 else self._late.discard)(name)
            self._due[name] = now + one.interval_ms / 1000
            self._asking[name] = asyncio.create_task(self._ask(name, one))

    def _begin(self, name: str, declared: checks.Rule) -> None:
        """This is a service's rule: go on from what a former process knew of it."""
        kept = self._restored.pop(name, None)
        if kept is not None and kept.rule == declared and self._steady.now_ms() - self._restored_ms <= KEPT_MS:
            self._series[name] = dict(kept.series)
        self._rules[name] = declared

    async def _ask(self, name: str, declared: checks.Rule) -> None:
        assert self.server is not None  # noqa: S101 - `look` asks nothing without one
        self.asked += 1
        values: Mapping[str, float] = {}
        problem = ""
        try:
            values = await self.server.ask(declared.query)
        except NoAnswer as error:
            problem = str(error)
            self.failed += 1
        finally:
            del self._asking[name]
        if self._rules.get(name) != declared:
            return  # another one is declared meanwhile
        if problem and self._problems.get(name) != problem:
            _log.warning("rule of %s: %s", name, problem)
        self._problems.pop(name, None)
        if problem:
            self._problems[name] = problem
        self._take(name, declared, values)

    def _take(self, name: str, declared: checks.Rule, values: Mapping[str, float]) -> None:
        now_ms, gap_ms = self._steady.now_ms(), MISSED * declared.interval_ms
        bound = Bound(declared.above, declared.below, declared.percent_below_baseline, declared.for_ms)
        members = self.fleet.members.get(name, {})
        before = self._series.get(name, {})
        after: dict[str, Series] = {}
        for id_ in {*before, *values}:
            if id_ != WHOLE and f"{name}/{id_}" not in members:
                continue
            series = before.get(id_, Series())
            if id_ in values:
                after[id_] = rule.seen(series, values[id_], now_ms, bound, gap_ms=gap_ms)
            else:
                after[id_] = series if 0 <= now_ms - series.seen_ms < gap_ms else rule.unknown(series)
        self._series[name] = after
        turned = [id_ for id_, series in after.items() if series.bad != before.get(id_, Series()).bad]
        for id_ in turned:
            _log.info("%s: %s: %s", f"{name}/{id_}" if id_ else name, "bad" if after[id_].bad else "good again",
                      _words(declared))
        if turned or before.keys() - after.keys():
            self._turned = True
            self.changed((name,))

    # --- the file ---

    def take_over(self) -> None:
        """What a former process has written down, unless that is too long ago."""
        try:
            at_ms, kept = rulefile.read(self._file) if self._file is not None else (0, [])
        except (ValueError, OSError) as error:
            _log.error("what rules have found is lost: %s", error)
            return
        if self.server is None or abs(self.clock.unix_ms() - at_ms) > KEPT_MS:
            return
        by_ms, self._restored_ms = self._steady.met(at_ms), self._steady.now_ms()
        self._restored = {one.service: one._replace(
            series={id_: rule.moved(series, by_ms) for id_, series in one.series.items()}) for one in kept}

    def save(self) -> None:
        """Write down what is known."""
        if self._series:
            self._write(self._dump())

    def _dump(self) -> bytes:
        self._saved_s, self._turned = self.clock.monotonic(), False
        by_ms = self._steady.jumped_ms()
        return rulefile.octets(self.clock.unix_ms(), (
            rulefile.Kept(name, declared, {id_: rule.moved(series, by_ms) for id_, series in some.items()})
            for name, declared in self._rules.items() if (some := self._series.get(name))))

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            disk.replace(self._file, data)
        except OSError as error:
            self._turned = True
            _log.error("what rules have found cannot be written: %s", error)

    def _ramp_ms(self, service: str) -> int:
        found = self.fleet.services.get(service)
        return RAMP_MS if found is None or found.check == "none" else found.check.ramp_ms


def _words(declared: checks.Rule) -> str:
    if declared.above is not None:
        bound = f"above {declared.above:g}"
    elif declared.below is not None:
        bound = f"below {declared.below:g}"
    else:
        bound = f"{declared.percent_below_baseline:g} % below its baseline"
    return f"its rule: {bound} for {declared.for_ms / 1000:g} s"
