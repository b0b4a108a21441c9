"""The schedule on a virtual clock: once per target, evenly, at once when new, in order, within the budget."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from dnsd.dns.prefixes import Prefixes
from dnsd.watch.budget import Limits
from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.schedule import Schedule, Target
from dnsd.watch.target import Check, Policy

FLEET = Policy(allow=Prefixes(["10.0.0.0/8"]))


class World:
    """A clock, targets that answer after a while, and what was seen."""

    def __init__(self, policy: Policy = FLEET, limits: Limits = Limits(), took_ms: float = 1.0) -> None:  # noqa: B008
        self.now = 1000.0
        self.took_ms: float | None = took_ms
        self.connect_ms: float | None = None  # None: as long as it takes
        self.ok = True
        self.reason = Reason.OK
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.starts: list[tuple[float, bytes, float]] = []
        self.results: list[tuple[Target, Outcome, int]] = []
        self.stopped = self.most = self.count = 0
        self.schedule = Schedule(self.begin, lambda *result: self.results.append(result), policy,
                                 clock=self, node="a", limits=limits)

    def unix_ms(self) -> int:
        return int(self.now * 1000)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, event = heapq.heappop(self.events)
            event()
        self.now = until
        await asyncio.sleep(0)

    def begin(self, check: Check, address: bytes, timeout_s: float, done: Callable[[Outcome], None],
              connect_s: float | None) -> Probing:
        self.starts.append((self.now, address, timeout_s))
        self.most = max(self.most, self.schedule.under_way)
        took = self.took_ms
        if took is None:
            took = (timeout_s if connect_s is None else connect_s) * 1000
        connect = took if self.connect_ms is None else self.connect_ms
        probing = Probing(self, None if self.took_ms is None else self.now + connect / 1000)
        total = took + len(self.starts) / 1e6  # tells one from another
        outcome = (Outcome(False, Reason.TIMEOUT, 0, total) if self.took_ms is None
                   else Outcome(self.ok, self.reason, connect, total, connect))
        self.count += 1
        heapq.heappush(self.events, (self.now + took / 1000, self.count,
                                     lambda: None if probing.stopped else done(outcome)))
        return probing

    def at(self, when: float, took_ms: float) -> None:
        """From then on probes take so long."""
        self.count += 1
        heapq.heappush(self.events, (when, self.count, lambda: setattr(self, "took_ms", took_ms)))

    async def run(self, seconds: float) -> None:
        """The schedule runs for so long."""
        until = self.now + seconds
        running = asyncio.create_task(self.schedule.run())
        while self.now < until:
            await asyncio.sleep(0)
            assert not running.done(), running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Probing:
    def __init__(self, world: World, connects: float | None) -> None:
        self.world, self.stopped, self.connects = world, False, connects

    @property
    def connected(self) -> bool:
        return self.connects is not None and self.world.now >= self.connects

    def stop(self) -> None:
        self.stopped = True
        self.world.stopped += 1


def target(i: int, **changes: object) -> Target:
    return Target(Check("tcp", 80)._replace(**changes), bytes((10, 0, i >> 8, i & 255)))


def fill(world: World, count: int, service: str = "s", **changes: object) -> list[Target]:
    made = [target(i, **changes) for i in range(count)]
    for one in made:
        assert world.schedule.watch(one, f"{service}/{one.address.hex()}", service) is None
    return made


@pytest.mark.asyncio
async def test_two_hundred_endpoints_twice_a_second() -> None:
    world = World()
    fill(world, 200)
    await world.run(20)
    by_address: dict[bytes, list[float]] = {}
    for at, address, _ in world.starts:
        by_address.setdefault(address, []).append(at)
    assert len(by_address) == 200
    gaps = [after - before for times in by_address.values() for before, after in pairwise(times[1:])]
    assert sorted(gaps)[len(gaps) * 99 // 100] <= 0.52
    assert min(gaps) >= 0.48
    assert all(0.1 < times[1] - times[0] < 0.64 for times in by_address.values())
    tenths = Counter(int(at * 10) for at, _, _ in world.starts if at > 1002)
    assert max(tenths.values()) < 2 * 40, "spread over the interval"
    assert len(world.results) == pytest.approx(len(world.starts), abs=5)


@pytest.mark.asyncio
async def test_nodes_do_not_meet() -> None:
    places = []
    for node in ("a", "b", "c", "d"):
        world = World()
        world.schedule._node = node.encode()
        fill(world, 1)
        await world.run(2)
        places.append(round(world.starts[-1][0] % 0.5, 2))
    assert len(set(places)) > 2


@pytest.mark.asyncio
async def test_one_probe_however_many_ask() -> None:
    world = World()
    one = target(1)
    for i in range(10):
        world.schedule.watch(one, f"e{i}", f"s{i % 3}")
    await world.run(10)
    assert len(world.schedule) == 1
    assert len(world.starts) in (20, 21, 22)
    standing = world.schedule.standing(one)
    assert standing
    assert standing.asking == 10
    assert standing.last
    assert standing.last.ok
    assert (standing.interval_ms, standing.baseline_ms, standing.timeout_ms) == (500, 1, 301)
    for i in range(9):
        world.schedule.forget(one, f"e{i}")
    world.schedule.forget(one, "unknown")
    assert len(world.schedule) == 1
    world.schedule.forget(one, "e9")
    world.schedule.forget(one, "e9")
    assert len(world.schedule) == 0
    assert world.schedule.standing(one) is None
    assert world.schedule.stretched == 1
    count = len(world.starts)
    await world.run(2)
    assert len(world.starts) == count


@pytest.mark.asyncio
async def test_a_registration_is_probed_at_once_also_while_running() -> None:
    world = World()
    running = asyncio.create_task(world.schedule.run())
    while world.now < 1003:
        await asyncio.sleep(0)
    world.schedule.watch(target(5), "e", "s")
    assert world.starts == [(world.now, target(5).address, 1.0)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.schedule.under_way == 0
    assert world.stopped == 1


@pytest.mark.parametrize(("took_ms", "reason", "settled_s"), [(1, Reason.REFUSED, 1.1), (None, Reason.TIMEOUT, 1.4)])
@pytest.mark.asyncio
async def test_what_begins_to_fail_is_settled_sooner_and_then_probed_as_ever(
    took_ms: float | None, reason: Reason, settled_s: float,
) -> None:
    """Three failures at half the interval, not at all of it; who stays down costs no more than who is up."""
    world = World()
    fill(world, 1)
    await world.run(5)
    world.ok, world.reason, world.took_ms, died = False, reason, took_ms, world.now
    await world.run(10)
    failures = [at / 1000 for _, outcome, at in world.results if not outcome.ok]
    assert failures[2] - died <= settled_s
    gaps = [after - before for before, after in pairwise([at for at, *_ in world.starts if at > died])]
    assert max(gaps[:2]) <= 0.37
    assert gaps[8:] == pytest.approx([0.5] * len(gaps[8:]), abs=0.06)


@pytest.mark.parametrize(("round_trip_ms", "settled_s"), [(1, 1.35), (90, 1.45), (200, 1.8), (280, 2.1)])
@pytest.mark.asyncio
async def test_a_far_black_hole_is_settled_by_connections_that_do_not_come(
    round_trip_ms: float, settled_s: float,
) -> None:
    """A request takes twice the way; what does not even connect is overdue, and over, that much earlier."""
    world = World(took_ms=2 * round_trip_ms + 1)
    world.connect_ms = round_trip_ms
    fill(world, 1, kind="http")
    await world.run(10)
    assert all(outcome.ok for _, outcome, _ in world.results)
    assert len(world.starts) == pytest.approx(20, abs=2), "none was overdue"
    world.took_ms, died = None, world.now
    await world.run(10)
    failures = [at / 1000 for _, outcome, at in world.results if not outcome.ok]
    assert failures[2] - died <= settled_s


@pytest.mark.asyncio
async def test_who_is_always_slow_is_not_overdue() -> None:
    """Only against what is usual: a service that takes its time must not cost twice the probes."""
    world = World(took_ms=280)
    fill(world, 5)
    await world.run(20)
    assert len(world.starts) == pytest.approx(200, abs=15)


@pytest.mark.asyncio
async def test_one_slow_answer_costs_one_probe() -> None:
    world = World()
    fill(world, 1)
    await world.run(10)
    world.took_ms, began = 290, len(world.starts)
    world.at(world.now + 0.5, 1)
    await world.run(5)
    assert all(outcome.ok for _, outcome, _ in world.results)
    assert len(world.starts) - began <= 12


@pytest.mark.asyncio
async def test_with_too_many_probes_nothing_is_hurried() -> None:
    world = World(limits=Limits(node=10))
    fill(world, 20)
    await world.run(10)
    assert world.schedule.stretched > 1
    world.ok, world.reason, died = False, Reason.REFUSED, world.now
    await world.run(10)
    assert len([at for at, *_ in world.starts if at > died]) <= 105


@pytest.mark.asyncio
async def test_a_black_hole_is_told_after_its_timeout_and_in_order() -> None:
    world = World(took_ms=250)
    (one,) = fill(world, 1)
    await world.run(5)
    assert {timeout for _, _, timeout in world.starts[1:]} == {0.55}
    world.took_ms, died = None, world.now
    world.results.clear()
    world.at(world.now + 4, 5)
    await world.run(7)
    first = [at for _, outcome, at in world.results if not outcome.ok][:3]
    assert first[2] - died * 1000 <= 1900, "three failures, none waits for the one before to have failed"
    assert world.most <= 3
    verdicts = [outcome.ok for _, outcome, _ in world.results]
    numbers = [round(outcome.total_ms % 1 * 1e6) for _, outcome, _ in world.results]
    assert numbers == list(range(int(numbers[0]), int(numbers[0]) + len(numbers))), "each is told once, in order"
    assert True in verdicts
    assert verdicts == sorted(verdicts), "a late timeout never follows a success that started after it"
    assert world.schedule.standing(one).baseline_ms == 5  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_beyond_the_nodes_limit_intervals_stretch() -> None:
    world = World(limits=Limits(node=100, service=10_000))
    fill(world, 200)
    assert world.schedule.stretched == 4
    await world.run(30)
    per_second = Counter(int(at) for at, _, _ in world.starts)
    assert max(per_second.values()) <= 112
    assert len(world.starts) == pytest.approx(3000, rel=0.05)
    late = Counter(address for at, address, _ in world.starts if at > 1010)
    assert min(late.values()) >= 9, "nobody is left out"
    assert world.schedule.late_ms < 500
    assert world.schedule.standing(target(0)).interval_ms == 2000  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_greedy_service_does_not_delay_another() -> None:
    world = World(limits=Limits(node=200, service=100))
    modest = [target(i, port=81) for i in range(10)]
    for one in modest:
        world.schedule.watch(one, f"m/{one.address.hex()}", "modest")
    await world.run(3)
    fill(world, 5000, "greedy")
    world.starts.clear()
    world.results.clear()
    await world.run(10)
    mine = [one for one, _, _ in world.results if one.check.port == 81]
    assert len(mine) >= 10 * 19
    assert len(world.starts) <= 10 * 125


@pytest.mark.asyncio
async def test_strangers_are_not_flooded_by_many_services() -> None:
    world = World(policy=Policy(), limits=Limits(address=10, network=20))
    for i in range(300):
        assert world.schedule.watch(Target(Check("tcp", 1000 + i), b"\x08\x08\x08\x08"), f"e{i}", f"s{i}") in (
            None, "port 1719 is not probed")
    await world.run(20)
    assert len(world.starts) <= 10 * 20 + 30


@pytest.mark.asyncio
async def test_handshakes_are_rarer_when_there_are_many() -> None:
    world = World(limits=Limits(handshakes=20))
    secure, plain = fill(world, 40, kind="https"), fill(world, 10, kind="http", port=81)
    await world.run(10)
    counts = Counter(one for one, _, _ in world.results)
    assert {counts[one] for one in plain} <= {19, 20, 21}
    assert {counts[one] for one in secure} <= {4, 5, 6}


@pytest.mark.asyncio
async def test_sockets_are_bounded() -> None:
    world = World(limits=Limits(under_way=7))
    world.took_ms = None
    fill(world, 50)
    await world.run(5)
    assert world.most == 7
    assert len({address for _, address, _ in world.starts}) == 35, "the longest waiting go first"
    assert world.schedule.late_ms > 1000


@pytest.mark.asyncio
async def test_a_forbidden_target_is_never_begun_and_a_new_policy_counts_at_once() -> None:
    world = World(policy=Policy())
    secret = target(9)
    assert world.schedule.watch(secret, "e", "s") == "private use (RFC 1918)"
    await world.run(2)
    assert not world.starts
    assert not world.results
    assert world.schedule.standing(secret).refused  # type: ignore[union-attr]
    world.schedule.set_policy(FLEET)
    await world.run(1)
    assert len(world.starts) in (2, 3)
    world.took_ms = None
    await world.run(1)
    running = asyncio.create_task(world.schedule.run())
    while not world.schedule.under_way:
        await asyncio.sleep(0)
    stopped = world.stopped
    world.schedule.set_policy(Policy())
    assert world.stopped > stopped, "what is under way ends"
    assert world.schedule.under_way == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.asyncio
async def test_our_own_faults_are_not_told_but_shown() -> None:
    world = World()
    world.ok, world.reason = False, Reason.NO_ROUTE
    (one,) = fill(world, 1)
    await world.run(3)
    assert len(world.starts) > 4
    assert not world.results
    assert world.schedule.standing(one).last.reason is Reason.NO_ROUTE  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_a_result_that_nobody_can_take_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def broken(*_: object) -> None:
        raise RuntimeError("no")

    world.schedule._on_result = broken
    fill(world, 2)
    await world.run(3)
    assert len(world.starts) > 8
    assert "a probe's result was lost" in caplog.text


@pytest.mark.asyncio
async def test_a_result_may_change_what_is_asked_for() -> None:
    world = World()
    (one,) = fill(world, 1)

    def other(*_: object) -> None:
        world.schedule.forget(one, f"s/{one.address.hex()}")
        world.schedule.watch(target(2), "e", "s")

    world.schedule._on_result = other
    await world.run(3)
    assert world.schedule.standing(one) is None
    assert world.schedule.standing(target(2))
    assert world.schedule.under_way == 0


def test_what_comes_and_goes_leaves_nothing() -> None:
    world = World()
    made = fill(world, 3)
    for one in made:
        world.schedule.watch(one, "t/1", "t")
        world.schedule.watch(one, "t/1", "u")
        world.schedule.watch(one, "t/2", "u")
    for one in made:
        for asking in ("s/" + one.address.hex(), "t/2", "t/1"):
            assert world.schedule.standing(one)
            world.schedule.forget(one, asking)
    assert len(world.schedule) == 0
    assert not world.schedule._budget._services
    assert not world.schedule._budget._places


@pytest.mark.asyncio
async def test_who_has_room_pays_for_what_it_shares_with_who_has_not() -> None:
    """Whoever of them comes first, and however many there are."""
    for modest_first in (True, False):
        world = World(limits=Limits(service=20))
        if modest_first:
            world.schedule.watch(target(0), "m", "modest")
        fill(world, 100, "greedy")
        for i in range(20):
            world.schedule.watch(target(0), f"g{i}", f"greedy{i}")
            fill(world, 100, f"greedy{i}")
        if not modest_first:
            world.schedule.watch(target(0), "m", "modest")
        await world.run(10)
        assert world.schedule.standing(target(0)).interval_ms == 500  # type: ignore[union-attr]


@pytest.mark.asyncio
async def test_room_that_comes_later_is_found() -> None:
    world = World(limits=Limits(service=20))
    one = target(0)
    for i in range(30):
        world.schedule.watch(one, f"g{i}", f"s{i}")
    for i in range(30):
        if i != 17:
            fill(world, 100, f"s{i}", port=1000 + i)
    await world.run(60)
    assert world.schedule.standing(one).interval_ms == 500  # type: ignore[union-attr]


def test_twenty_thousand_services_may_share_a_target() -> None:
    """Who asks as well costs what the first one did: a second is enough for what took minutes when each counted all."""
    world = World()
    began = time.process_time()
    for i in range(20_000):
        world.schedule.watch(target(1), f"e{i}", f"s{i}")
        assert world.schedule.standing(target(1))
    for i in range(20_000):
        world.schedule.forget(target(1), f"e{i}")
    assert time.process_time() - began < 5
    assert len(world.schedule) == 0


@pytest.mark.asyncio
async def test_a_new_policy_disturbs_nobody_it_still_allows() -> None:
    world = World(limits=Limits(service=10_000))
    made = fill(world, 500)
    await world.run(3)
    world.starts.clear()
    world.schedule.set_policy(Policy(allow=Prefixes(["10.0.0.0/8"]), deny=Prefixes(["10.0.1.0/24"])))
    stopped = world.stopped
    await world.run(0.6)
    denied = {one.address for one in made if one.address[2] == 1}
    assert not denied & {address for _, address, _ in world.starts}
    assert len(world.starts) == pytest.approx(256 * 0.6 / 0.5, rel=0.2), "nothing begins anew"
    assert world.stopped == stopped
    assert world.schedule.refused(made[300]) == "denied by configuration"
    assert world.schedule.refused(made[0]) is None
    assert world.schedule.standing(made[300]).last.ok, "what was found stands"  # type: ignore[union-attr]
    world.starts.clear()
    world.schedule.set_policy(FLEET)
    await world.run(0.5)
    assert denied <= {address for _, address, _ in world.starts}


@pytest.mark.asyncio
async def test_baselines_are_handed_over() -> None:
    world = World(took_ms=250)
    far, near = fill(world, 2)
    await world.run(3)
    kept = world.schedule.dump()
    assert sorted(kept.values()) == [250, 250]
    other = World(took_ms=None)  # type: ignore[arg-type]
    other.schedule._node = b"b"
    other.schedule.restore(kept | dict.fromkeys(list(kept)[:1], 1e9) | {"gone": 3.0})
    fill(other, 3)
    await other.run(0.01)
    assert {address: timeout for _, address, timeout in other.starts} == {
        far.address: 1.0, near.address: 0.55, target(2).address: 1.0}
    assert set(other.schedule.dump()) <= set(kept)


def test_an_override_makes_targets_one() -> None:
    check = Check("tcp", 80)
    assert Target.of(check._replace(address=b"\n\0\0\1"), b"\n\0\0\2") == Target.of(check, b"\n\0\0\1")


@pytest.mark.asyncio
async def test_what_hangs_is_probed_as_often_as_what_answers() -> None:
    """A probe that is given a whole second ends just after the one two places on is due: none is left out for that."""
    world = World()
    fill(world, 1)
    world.took_ms = 1003.0
    await world.run(20)
    gaps = [after - before for (before, *_), (after, *_) in pairwise(world.starts[1:])]
    assert len(gaps) > 30
    assert max(gaps) < 0.6
