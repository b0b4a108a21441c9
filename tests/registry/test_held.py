"""Leases that end with too many others are held: tables of who is, for how long, how it ends; whole outages, seeded."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dnsd.registry import errors, rules
from dnsd.registry.models import Kind, LeaseRequest, Renewal
from dnsd.registry.store import Registry
from dnsd.registry.values import Holding
from tests.registry import samples as s
from tests.registry.conftest import let_gap, pass_lease_time

pytestmark = pytest.mark.asyncio
NEAR, LOOK, HOUR, DAY = 5_000, 30_000, 3_600_000, 86_400_000


async def grant(registry: Registry, count: int, *, ttl: int = 30, of: str = s.API, name: str = "h") -> list[Renewal]:
    """So many leases of a service with an endpoint each, and what renews them."""
    granted = await s.in_turns(registry.acquire(
        s.request(f"{name}{i}", f"{name}{i}", ttl=ttl, of=of), actor="a", token_id="t") for i in range(count))
    return [Renewal(id=one.lease.id, fence=one.lease.fence) for one in granted]


async def renew(registry: Registry, renewals: Sequence[Renewal]) -> None:
    assert all(one.ok for one in await registry.renew(renewals, actor="a"))


@pytest.mark.parametrize(("count", "silent", "ended"), [
    (1, 1, 1),  # a single one is never too many
    (2, 1, 1), (3, 1, 1), (4, 1, 1), (5, 1, 1), (5, 2, 2), (20, 2, 2),  # under three
    (2, 2, 0), (3, 3, 0), (5, 3, 0), (5, 5, 0), (20, 3, 0),
    (30, 3, 3), (31, 4, 0), (100, 10, 10), (100, 11, 0)])  # a tenth, and more than a tenth
async def test_who_is_held(registry: Registry, raw: Redis, count: int, silent: int, ended: int) -> None:
    renewals = await grant(registry, count)
    before = await registry.position()
    await pass_lease_time(raw, 20_000)
    await renew(registry, renewals[silent:])
    await pass_lease_time(raw, 10_001)
    tick = await registry.tick()
    assert len(tick.expired) == ended
    assert len(tick.caught) == tick.held == silent - ended
    loaded = await registry.load()
    assert len(loaded.endpoints) == len(loaded.leases) == count - ended
    assert rules.check(loaded, []) == []
    assert {id_ for id_, lease in loaded.leases.items() if lease.held} == set(tick.caught)
    assert await registry.holding() == ([Holding(s.API, tick.held, count)] if tick.held else [])
    if tick.held:
        [entry] = await registry.audit(after=f"{before.version}-0")
        assert (entry.action, entry.actor, set(entry.after["leases"])) == (
            "hold", "system:lease-clock", set(tick.caught))
        told = await registry.events(before.cursor, block_ms=0)
        assert [e.value for e in told] == [loaded.endpoints[e.key] for e in told]  # nothing is new


@pytest.mark.parametrize("binary", ["valkey"], indirect=True)
@pytest.mark.parametrize(("apart", "held"), [(1_000, 20), (1_600, 20), (3_000, 0)])
async def test_only_ends_within_five_seconds_count(registry: Registry, raw: Redis, apart: int, held: int) -> None:
    """Of 20 leases one after the other falls silent; three within 5 s are too many, and then all that follow them."""
    for i in range(20):
        await grant(registry, 1, ttl=60, name=f"h{i}-")
        await pass_lease_time(raw, apart)
    caught = ended = 0
    await pass_lease_time(raw, 59_900 - 20 * apart)
    for _ in range((2_000 + 20 * apart) // 250):
        await pass_lease_time(raw, 250)
        tick = await registry.tick()
        caught, ended = caught + len(tick.caught), ended + len(tick.expired)
    assert (caught, ended) == (held, 20 - held) or (not held and ended >= 18)  # the last two are all there are


async def test_a_whole_fleet_of_single_instances_is_held(registry: Registry, raw: Redis) -> None:
    """Each is all its service has; together they are too many."""
    for i in range(5):
        await registry.put(Kind.SERVICE, s.service(f"s{i}.example"), actor="a", if_match=None)
        await grant(registry, 1, of=f"s{i}.example", name=f"h{i}-")
    await pass_lease_time(raw, 30_001)
    assert len((await registry.tick()).caught) == 5
    assert {one.service for one in await registry.holding()} == {f"s{i}.example" for i in range(5)}


async def test_a_service_is_held_in_a_big_fleet(registry: Registry, raw: Redis) -> None:
    """Its four are nothing to the fleet, but much to it; the other service's one ends at the same moment."""
    await registry.put(Kind.SERVICE, s.service("small.example"), actor="a", if_match=None)
    big = await grant(registry, 60)
    await grant(registry, 4, of="small.example", name="small")
    await pass_lease_time(raw, 20_000)
    await renew(registry, big[1:])
    await pass_lease_time(raw, 10_001)
    tick = await registry.tick()
    assert (tick.expired, sorted(tick.caught)) == (["h0"], ["small0", "small1", "small2", "small3"])


async def test_a_renewal_ends_the_hold(registry: Registry, raw: Redis) -> None:
    renewals = await grant(registry, 5)
    await pass_lease_time(raw, 30_001)
    assert (await registry.tick()).held == 5
    [wrong] = await registry.renew([Renewal(id="h0", fence=renewals[0].fence - 1)], actor="a")
    assert wrong.problem == "fenced"
    [right] = await registry.renew(renewals[:1], actor="a")
    assert (right.ok, right.remaining_ms) == (True, 30_000)
    assert (await registry.tick()).held == 4
    assert await registry.holding() == [Holding(s.API, 4, 5)]
    await registry.acquire(s.request("h1", "h1"), actor="a", token_id="t")
    await registry.release("h2", renewals[2].fence, actor="a")
    await registry.delete(Kind.LEASE, "h3", actor="op", if_match="*")
    assert await registry.holding() == [Holding(s.API, 1, 3)]
    await renew(registry, renewals[4:])
    assert await registry.holding() == []
    assert (await registry.tick()).held == 0
    with pytest.raises(errors.NotFound):
        await registry.release("h3", renewals[3].fence, actor="a")
    assert not any(lease.held for lease in (await registry.load()).leases.values())
    assert await raw.zcard("dnsd:held") == await raw.hlen("dnsd:holding") == 0


async def test_those_left_over_get_one_more_time(registry: Registry, raw: Redis) -> None:
    """All come back but two: these end, though not before they had the time of a whole lease to come back as well."""
    renewals = await grant(registry, 20, ttl=60)
    await pass_lease_time(raw, 60_001)
    assert (await registry.tick()).held == 20
    await renew(registry, renewals[2:])
    passed = 0
    while not (tick := await registry.tick()).expired:
        await pass_lease_time(raw, 1000)
        passed += 1000
        if passed % 20_000 == 0:
            await renew(registry, renewals[2:])
    assert sorted(tick.expired) == ["h0", "h1"]
    assert NEAR + 60_000 <= passed <= NEAR + 62_000


@pytest.mark.parametrize("binary", ["valkey"], indirect=True)
@pytest.mark.parametrize(("silent", "least"), [(8, HOUR + 30_000), (20, DAY)])
async def test_how_long_a_hold_lasts(registry: Registry, raw: Redis, silent: int, least: int) -> None:
    """An hour and a last chance while others live; a day when next to none does."""
    renewals = await grant(registry, 20)
    await pass_lease_time(raw, 30_001)
    if renewals[silent:]:
        await renew(registry, renewals[silent:])
    passed, step = 0, 29_000
    gone: list[str] = []
    while len(gone) < silent:
        assert passed <= least + 3 * LOOK
        gone += (await registry.tick()).expired
        assert not gone or passed >= least - 1, passed
        if renewals[silent:]:
            await renew(registry, renewals[silent:])
        far = step if silent < 20 or passed > DAY - 2 * HOUR else HOUR
        await pass_lease_time(raw, far)
        passed += far
    assert {lease.id for lease in (await registry.load()).leases.values()} == {one.id for one in renewals[silent:]}


async def test_short_leases_that_are_renewed_in_time_hold_nothing(registry: Registry, raw: Redis) -> None:
    """All leases of 4 s end within 5 s, but only the one that is not renewed is near its end."""
    renewals = await grant(registry, 10, ttl=4)
    for _ in range(4):
        await pass_lease_time(raw, 1_333)
        await renew(registry, renewals[1:])
        tick = await registry.tick()
        assert not tick.caught
        if tick.expired:
            break
    assert tick.expired == ["h0"]


async def test_a_lease_over_two_services(registry: Registry, raw: Redis) -> None:
    """It counts once for each, however many endpoints it has there."""
    await registry.put(Kind.SERVICE, s.service("two.example"), actor="a", if_match=None)
    specs = s.spec("a"), s.spec("b"), s.spec("a", of="two.example")
    await registry.acquire(LeaseRequest(holder="h", ttl=30, endpoints=specs), actor="a", token_id="t")
    await registry.acquire(LeaseRequest(holder="h", ttl=30, endpoints=specs[1:]), actor="a", token_id="t")
    await grant(registry, 1, of="two.example", name="other")
    await pass_lease_time(raw, 30_001)
    assert sorted((await registry.tick()).caught) == ["h", "other0"]
    assert set(await registry.holding()) == {Holding(s.API, 1, 1), Holding("two.example", 2, 2)}


SEEDS = range(int(os.environ.get("TEST_LEASE_SEEDS", "1")))
LEASES = int(os.environ.get("TEST_LEASES", "100"))


class Fleet:
    """Instances that renew each third of their time, as far as they can, in lease time moved by hand."""

    def __init__(self, registry: Registry, raw: Redis, renewals: Sequence[Renewal], seed: int) -> None:
        self.registry, self.raw = registry, raw
        self.at = random.Random(seed)
        self.due = [(self.at.uniform(0, 10_000), one) for one in renewals]
        self.now = 0
        self.gone: list[str] = []

    async def live(self, seconds: float, *, cut_off: bool = False, dead: frozenset[str] = frozenset()) -> int:
        """Ticks of 500 ms; the most leases that were held."""
        most = 0
        for _ in range(int(seconds * 2)):
            self.now += 500
            await pass_lease_time(self.raw, 500)
            ready = [one for due, one in self.due if due <= self.now and one.id not in dead]
            if ready and not cut_off:
                await renew(self.registry, [one for one in ready if one.id not in self.gone])
            self.due = [(due + self.at.uniform(9_000, 11_000) if due <= self.now and one.id not in dead else due, one)
                        for due, one in self.due]
            tick = await self.registry.tick()
            self.gone += tick.expired
            most = max(most, tick.held)
        return most


@pytest_asyncio.fixture
async def seeded(registry: Registry, raw: Redis, binary: object) -> list[Renewal]:
    return await grant(registry, LEASES)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("binary", ["valkey"], indirect=True)
async def test_the_api_cut_off_while_the_clock_goes_on(
    registry: Registry, raw: Redis, seeded: list[Renewal], seed: int,
) -> None:
    """Nobody can renew for some time; one in fifty really dies meanwhile. Only these are gone in the end."""
    fleet = Fleet(registry, raw, seeded, seed)
    await fleet.live(15)
    dead = frozenset(one.id for one in fleet.at.sample(seeded, LEASES // 50))
    most = await fleet.live(fleet.at.uniform(25, 75), cut_off=True, dead=dead)
    assert most > 0
    assert not fleet.gone
    await fleet.live(50, dead=dead)
    assert set(fleet.gone) <= dead
    assert (await registry.tick()).held == len(dead) - len(fleet.gone)
    await fleet.live(45, dead=dead)
    assert set(fleet.gone) == dead


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("binary", ["valkey"], indirect=True)
@pytest.mark.parametrize("gap", [600_000, 60_000, 15_000, -15_000])
async def test_time_nobody_could_renew_in(
    registry: Registry, raw: Redis, seeded: list[Renewal], seed: int, gap: int,
) -> None:
    """The store away for ten minutes, everything killed for one, its clock set by 15 s: nothing ends or is held."""
    fleet = Fleet(registry, raw, seeded, seed)
    await fleet.live(fleet.at.uniform(0, 12))
    await let_gap(raw, gap)
    tick = await registry.tick()
    assert (tick.expired, tick.held) == ([], 0)
    assert await fleet.live(12) == 0
    assert fleet.gone == []
