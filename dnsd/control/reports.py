"""What holders and users of endpoints report of them, on every node: windows of outcomes, breakers, round trips.

Lives here: taking reports in, telling other nodes, what they make of a measured state (an adviser of `control.builder`,
which decides for all). Does not live here: who may report (`admin.reports`), when a breaker opens (`steer.breaker`).

A report is heard by every node, so any of them can build. Reports that come to this node are put together and told
twice a second, what is urgent sooner; while the store is away they count here. Reports only ever make it worse: an
endpoint that probes find dead stays dead whatever its users say. What follows from reports survives a restart of the
process, for a while; the outcomes do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd import disk
from dnsd.control import reportfile, writes
from dnsd.control.clock import Allowance, Clock, Steady
from dnsd.control.reportfile import Kept
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.control.told import MOST, SAMPLES, Told, packed, unpacked
from dnsd.registry.errors import RegistryError
from dnsd.registry.sightings import News
from dnsd.steer import breaker as breakers
from dnsd.steer import health
from dnsd.steer.breaker import Breaker, Mode, Window
from dnsd.steer.health import State

RATE: Final = 1000.0
BURST: Final = 5000.0
"""Reports a second one reporter may send, and how many at once."""

QUOTAS: Final = 4096
REPORTERS: Final = 16
"""Reporters of one endpoint that are told apart; the others count as one."""

OTHERS: Final = "*"
SILENT_MS: Final = 60_000
PENDING: Final = 10_000
TOLD: Final = 200
ENTRIES: Final = 5
"""Endpoints in one entry of the stream, and entries at a time."""

TELL_S: Final = 0.5
URGENT_S: Final = 0.1
LOOK_S: Final = 0.5
SAVE_S: Final = 5.0
KEPT_MS: Final = 600_000
AT_ONCE: Final = 100
"""Reports taken before others get a turn."""

BREATH: Final = 50
FORGETS: Final = 200
RAMP_MS: Final = 10_000
_log = logging.getLogger("dnsd.control")


class Pace(NamedTuple):
    """Round trips as one reporter has them (`health.paced`), and when it last said so."""

    slow: bool = False
    row: int = 0
    at_ms: int = 0


class Opinion(NamedTuple):
    """What of an endpoint's reports changes answers."""

    sick: bool = False
    mode: Mode = Mode.CLOSED
    slow: bool = False
    ramps: bool = False


PLAIN: Final = Opinion()


@dataclass(slots=True)
class Known:
    """All that is known of one endpoint by reports."""

    windows: dict[str, Window] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker)
    sick_ms: int = 0
    heard_ms: int = 0
    spoke_ms: int = 0
    opinion: Opinion = PLAIN


class Reports:
    """One node's reports. `tell` puts something into the nodes' stream; `changed` is told of services."""

    def __init__(
        self, fleet: Fleet, *, node: str, tell: Callable[[str, Mapping[str, Any]], Awaitable[None]], clock: Clock,
        state: Path | None = None,
    ) -> None:
        self.fleet, self.node, self.clock = fleet, node, clock
        self.changed: Callable[[Sequence[str]], None] = lambda _: None
        self.taken = self.refused = self.untold = 0
        self._tell = tell
        self._known: dict[str, dict[str, Known]] = {}  # service -> endpoint id
        self._hot: dict[str, None] = {}  # endpoints that time alone may change
        self._pending: dict[tuple[str, str], Told] = {}
        self._quotas: dict[str, Allowance] = {}
        self._inbox: list[Told] = []
        self._wake = asyncio.Event()
        self._file = state / reportfile.FILE if state is not None else None
        self._saved_s, self._unsaved = clock.monotonic(), False
        self._steady = Steady(clock)  # which all times here go by

    # --- asked ---

    def speaks(self, service: str) -> bool:
        """Whether reports say, or said within a minute, something of a service that changes answers."""
        now_ms = self._steady.now_ms()
        return any(one.opinion != PLAIN or (one.spoke_ms and now_ms - one.spoke_ms < SILENT_MS)
                   for one in self._known.get(service, {}).values())

    def advise(self, service: str, id_: str, type_: int, measured: Measured, now_ms: int) -> Measured:
        """What is measured, or worse; of both of an endpoint's addresses alike."""
        known = self._known.get(service, {}).get(id_)
        if known is None or known.opinion == PLAIN or measured.state is State.DOWN:
            return measured
        opinion = known.opinion
        if opinion.sick:
            return measured._replace(
                state=State.DOWN, share=health.WHOLE, doubt=False, step_ms=0, result="unhealthy, as its holder says")
        if opinion.mode is Mode.OPEN:
            return measured._replace(
                state=State.DOWN, share=health.WHOLE, doubt=False, step_ms=0,
                result=f"{known.breaker.percent} % of its users' requests failed")
        if opinion.slow and measured.state is State.UP:
            measured = measured._replace(state=State.DEGRADED, result="slow, as its users say")
        if opinion.mode is Mode.HALF_OPEN:
            return measured._replace(
                share=min(measured.share, breakers.HALF_OPEN_SHARE), doubt=True, result="tried again with a little")
        ramp_ms, jumped_ms = self._ramp_ms(service), self._steady.jumped_ms()
        now_ms -= jumped_ms
        step_ms = health.later(breakers.step_at(known.breaker, now_ms, ramp_ms), jumped_ms)
        return measured._replace(
            share=min(measured.share, breakers.share(known.breaker, now_ms, ramp_ms)),
            step_ms=min(filter(None, (measured.step_ms, step_ms)), default=0))

    def described(self) -> dict[str, Any]:
        """For people."""
        known = [one for some in self._known.values() for one in some.values()]
        modes = [one.opinion.mode for one in known]
        return {
            "endpoints": len(known), "taken": self.taken, "refused": self.refused, "untold": self.untold,
            "open": modes.count(Mode.OPEN), "half_open": modes.count(Mode.HALF_OPEN),
            "unhealthy": sum(one.opinion.sick for one in known), "slow": sum(one.opinion.slow for one in known)}

    def of(self, service: str, id_: str) -> dict[str, Any] | None:
        """One endpoint, for people: the last minute's outcomes by reporter, and what follows; None: no reports."""
        known = self._known.get(service, {}).get(id_)
        if known is None:
            return None
        reporters = {who: {"outcomes": sum(one[1] for one in window), "failed": sum(one[2] for one in window)}
                     for who, window in sorted(known.windows.items())}
        heard_ms, mode = known.heard_ms + self._steady.jumped_ms(), known.breaker.mode
        return {"breaker": mode.name.lower().replace("_", " "), "unhealthy": known.opinion.sick,
                "slow": known.opinion.slow, "heard_ms": heard_ms, "reporters": reporters}

    # --- told ---

    def report(self, reporter: str, told: Sequence[Told]) -> bool:
        """Reports that came to this node. False: more than a reporter may send now; none of them was taken."""
        quota = self._quota(reporter)
        if not quota.left():
            self.refused += len(told)
            return False
        quota.spend(len(told))
        self._inbox.extend(told[AT_ONCE:])
        for one in told[:AT_ONCE]:
            self._came(one)
        if self._inbox:
            self._wake.set()
        return True

    def _came(self, one: Told) -> None:
        self._queue(one)
        if self._take(one) or one.sick_ms is not None:
            self._wake.set()

    def heard(self, news: News) -> None:
        """What another node has put into the stream."""
        rows = news.body.get("reports")
        if news.node == self.node or not isinstance(rows, list):
            return
        for row in rows[:TOLD]:
            one = unpacked(row)
            if one is not None:
                self._take(one)

    def renewed(self, keys: Iterable[str]) -> None:
        """These endpoints were registered anew: what the former process said of itself is not so any more."""
        for key in keys:
            known = self._of(key)
            if known is not None and known.sick_ms:
                self._take(healthy := Told(key, OTHERS, sick_ms=0))
                self._queue(healthy)

    def _take(self, one: Told) -> bool:
        """Whether what is said of the endpoint is another thing now."""
        if self.fleet.endpoint(one.key) is None:
            return False
        service, _, id_ = one.key.rpartition("/")
        known = self._known.setdefault(service, {}).setdefault(id_, Known())
        now_ms, who = self._steady.now_ms(), one.reporter
        self.taken += 1
        known.heard_ms = now_ms
        if one.sick_ms is not None:
            known.sick_ms = now_ms + one.sick_ms if one.sick_ms else 0
        if one.ok or one.failed:
            if who not in known.windows and len(known.windows) >= REPORTERS:
                who = OTHERS
            known.windows[who] = breakers.added(known.windows.get(who, ()), one.ok, one.failed, now_ms)
        if one.rtts:
            if who not in known.paces and len(known.paces) >= REPORTERS:
                who = OTHERS
            slow, row, _ = known.paces.get(who, Pace())
            for rtt_ms in one.rtts:
                slow, row = health.paced(slow, row, rtt_ms)
            known.paces[who] = Pace(slow, row, now_ms)
        return self._turn(one.key, known, now_ms)

    def _turn(self, key: str, known: Known, now_ms: int) -> bool:
        """Look anew at what follows from reports; whether it is another thing now."""
        service = key.rpartition("/")[0]
        oldest = now_ms // breakers.SECOND - breakers.WINDOW_S
        known.windows = {who: window for who, window in known.windows.items() if window and window[-1][0] >= oldest}
        known.paces = {who: pace for who, pace in known.paces.items() if now_ms - pace.at_ms < SILENT_MS}
        known.breaker = breakers.turned(known.breaker, known.windows, now_ms)
        votes = [pace.slow for pace in known.paces.values()]
        ramps = breakers.share(known.breaker, now_ms, self._ramp_ms(service)) != health.WHOLE
        before, known.opinion = known.opinion, Opinion(
            known.sick_ms > now_ms, known.breaker.mode, sum(votes) * 2 > len(votes), ramps)
        if known.opinion != PLAIN:
            known.spoke_ms = now_ms
        failing = any(map(breakers.failures, known.windows.values()))
        if known.spoke_ms or failing or known.paces:
            self._hot[key] = None
        else:
            self._hot.pop(key, None)
        if known.opinion == before:
            return False
        self._unsaved = True
        _log.info("%s: %s", key, _words(known.opinion))
        self.changed((service,))
        return True

    # --- the task ---

    async def run(self) -> None:
        """Tell others, and notice what time alone changes, for ever."""
        try:
            while True:
                try:
                    async with asyncio.timeout(TELL_S):
                        await self._wake.wait()
                    await self.clock.sleep(URGENT_S)  # what belongs together comes together
                except TimeoutError:
                    pass
                self._wake.clear()
                await self.tell()
                await self.look()
                if self._unsaved and self.clock.monotonic() - self._saved_s >= SAVE_S:
                    await writes.done(partial(self._write, self._dump()))
        finally:
            self.save()

    async def tell(self) -> None:
        """Tell other nodes what has come; what cannot be told has counted here."""
        inbox, self._inbox = self._inbox, []
        for number, one in enumerate(inbox):
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            self._came(one)
        keys = list(self._pending)[: TOLD * ENTRIES]
        batch = [self._pending.pop(key) for key in keys]
        for at in range(0, len(batch), TOLD):
            rows = [packed(one) for one in batch[at : at + TOLD]]
            try:
                await self._tell(self.node, {"reports": rows})
            except RegistryError as error:
                self.untold += len(batch) - at
                _log.debug("reports were not told: %s", error)
                return

    async def look(self) -> None:
        """Notice what time alone has changed, and forget who is not spoken of any more."""
        now_ms = self._steady.now_ms()
        for number, key in enumerate(list(self._hot)):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            known = self._of(key)
            if known is None:
                del self._hot[key]
                continue
            self._turn(key, known, now_ms)
            if known.opinion == PLAIN and known.spoke_ms and now_ms - known.spoke_ms >= SILENT_MS:
                known.spoke_ms = 0
                self.changed((key.rpartition("/")[0],))
        self._forget(now_ms)

    def _forget(self, now_ms: int) -> None:
        """Endpoints that are gone, or nobody speaks of: a part of all of them each time."""
        for service in list(self._known)[:FORGETS]:
            some = self._known.pop(service)
            kept = {id_: known for id_, known in some.items() if now_ms - known.heard_ms < SILENT_MS or (
                    known.spoke_ms and self.fleet.endpoint(f"{service}/{id_}") is not None)}
            if kept:
                self._known[service] = kept  # at the end: those before it are looked at first

    # --- the file ---

    def take_over(self) -> None:
        """What a former process has written down, unless that is too long ago."""
        try:
            at_ms, kept = reportfile.read(self._file) if self._file is not None else (0, [])
        except (ValueError, OSError) as error:
            _log.error("what was reported is lost: %s", error)
            return
        now_ms, by_ms = self._steady.now_ms(), self._steady.met(at_ms)
        for one in kept if abs(self.clock.unix_ms() - at_ms) <= KEPT_MS else ():
            service, _, id_ = one.key.rpartition("/")
            paces = {OTHERS: Pace(True, 0, now_ms)} if one.slow else {}
            known = Known(paces=paces, breaker=breakers.moved(one.breaker, by_ms),
                          sick_ms=health.later(one.sick_ms, by_ms), heard_ms=now_ms)
            self._known.setdefault(service, {})[id_] = known
            self._turn(one.key, known, now_ms)

    def save(self) -> None:
        """Write down what follows from reports."""
        if self._unsaved:
            self._write(self._dump())

    def _dump(self) -> bytes:
        self._unsaved, self._saved_s = False, self.clock.monotonic()
        by_ms = self._steady.jumped_ms()
        return reportfile.octets(self.clock.unix_ms(), (
            Kept(f"{service}/{id_}", breakers.moved(known.breaker, by_ms), health.later(known.sick_ms, by_ms),
                 known.opinion.slow)
            for service, some in self._known.items() for id_, known in some.items() if known.opinion != PLAIN))

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            disk.replace(self._file, data)
        except OSError as error:
            self._unsaved = True
            _log.error("what follows from reports cannot be written: %s", error)

    # --- parts ---

    def _of(self, key: str) -> Known | None:
        service, _, id_ = key.rpartition("/")
        return self._known.get(service, {}).get(id_)

    def _ramp_ms(self, service: str) -> int:
        found = self.fleet.services.get(service)
        return RAMP_MS if found is None or found.check == "none" else found.check.ramp_ms

    def _quota(self, reporter: str) -> Allowance:
        quota = self._quotas.pop(reporter, None) or Allowance(self.clock, rate=RATE, most=BURST)
        self._quotas[reporter] = quota
        while len(self._quotas) > QUOTAS:
            del self._quotas[next(iter(self._quotas))]
        return quota

    def _queue(self, one: Told) -> None:
        at = one.key, one.reporter
        before = self._pending.get(at)
        if before is not None:
            one = Told(
                one.key, one.reporter, min(before.ok + one.ok, MOST), min(before.failed + one.failed, MOST),
                (before.rtts + one.rtts)[-SAMPLES:], before.sick_ms if one.sick_ms is None else one.sick_ms)
        elif len(self._pending) >= PENDING:
            self.untold += 1
            return
        self._pending[at] = one


def _words(opinion: Opinion) -> str:
    said: Iterator[str] = (word for word, so in (
        ("unhealthy, as its holder says", opinion.sick), ("its breaker is open", opinion.mode is Mode.OPEN),
        ("its breaker is half open", opinion.mode is Mode.HALF_OPEN), ("slow, as its users say", opinion.slow)) if so)
    return ", ".join(said) or "nothing is reported against it"
