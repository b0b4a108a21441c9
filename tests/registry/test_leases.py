"""Leases: acquisition, fences, renewal and load levels, release, expiry in lease time."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from dnsd.model import Fault
from dnsd.registry import errors, rules
from dnsd.registry.models import Kind, LeaseRequest, Renewal
from dnsd.registry.store import Registry
from dnsd.registry.values import Change, Renewed
from tests.registry import samples as s
from tests.registry.conftest import let_gap, pass_lease_time

pytestmark = pytest.mark.asyncio
KEY = f"{s.API}/e"


async def test_a_lease_lives(registry: Registry, raw: Redis) -> None:
    before = await registry.position()
    endpoints = s.spec("e"), s.spec("f", at="ams", a=None, aaaa="2001:db8::1")
    granted = await registry.acquire(
        LeaseRequest(holder="h", ttl=10, endpoints=endpoints), actor="ann", token_id="tok")
    lease = granted.lease
    assert (lease.id, lease.holder, lease.ttl, lease.token, lease.fence) == ("h", "h", 10, "tok", granted.version)
    assert lease.endpoints == (KEY, f"{s.API}/f")
    assert (granted.version, granted.durability) == (before.version + 1, "fsync")
    loaded = await registry.load()
    assert loaded.leases == {"h": lease}
    assert {key: (e.lease, e.site, e.load) for key, e in loaded.endpoints.items()} == {
        KEY: ("h", "fra", 0), f"{s.API}/f": ("h", "ams", 0)}
    assert loaded.owned[s.API] == {"A", "AAAA"}
    stored = await registry.get(Kind.LEASE, "h")
    assert stored is not None
    assert stored.value == lease
    assert (await registry.list(Kind.LEASE))[0] == [stored]

    [renewed] = await registry.renew([Renewal(id="h", fence=lease.fence)], actor="ann")
    assert renewed == Renewed("h", True, lease.fence, 10_000, None)
    assert (await registry.position()).version == granted.version  # a renewal changes no answer

    released = await registry.release("h", lease.fence, actor="ann")
    assert released.version == granted.version + 1
    after = await registry.load()
    assert (after.leases, after.endpoints) == ({}, {})
    assert await raw.zcard("dnsd:deadline") == await raw.hlen("dnsd:terms") == await raw.hlen("dnsd:index") == 0
    assert await raw.hlen("dnsd:uses") == 0
    told = await registry.events(before.cursor, block_ms=0)
    assert [(e.version, e.kind, e.key, e.value is None) for e in told] == [
        (granted.version, Kind.ENDPOINT, KEY, False), (granted.version, Kind.ENDPOINT, f"{s.API}/f", False),
        (released.version, Kind.ENDPOINT, KEY, True), (released.version, Kind.ENDPOINT, f"{s.API}/f", True)]
    acquire, release = await registry.audit(after=f"{before.version}-0")
    assert (acquire.action, acquire.actor, acquire.kind, acquire.key, acquire.before) == (
        "acquire", "ann", "lease", "h", None)
    assert acquire.after["lease"]["fence"] == lease.fence
    assert acquire.after["endpoints"][KEY]["a"] == "192.0.2.1"
    assert (release.action, release.after) == ("release", None)
    assert set(release.before["endpoints"]) == {KEY, f"{s.API}/f"}


async def test_acquiring_again_replaces_the_endpoints_at_once(registry: Registry) -> None:
    first = await registry.acquire(s.request("h", "e", "f", a="192.0.2.1"), actor="a", token_id="t")
    await registry.renew([Renewal(id="h", fence=first.lease.fence, loads={KEY: 1})], actor="a")
    before = await registry.position()
    second = await registry.acquire(s.request("h", "e", "g", a="192.0.2.2"), actor="a", token_id="t")
    assert second.lease.fence > first.lease.fence
    told = await registry.events(before.cursor, block_ms=0)
    assert {(e.version, e.key, e.value is None) for e in told} == {
        (second.version, f"{s.API}/f", True), (second.version, KEY, False), (second.version, f"{s.API}/g", False)}
    loaded = await registry.load()
    assert {(key, str(e.a), e.load) for key, e in loaded.endpoints.items()} == {
        (KEY, "192.0.2.2", 0), (f"{s.API}/g", "192.0.2.2", 0)}
    assert rules.check(loaded, []) == []
    [entry] = await registry.audit(after=f"{before.version}-0")
    assert set(entry.before["endpoints"]) == {f"{s.API}/f", KEY}
    assert set(entry.after["endpoints"]) == {f"{s.API}/g", KEY}

    third = await registry.acquire(s.request("h", "e", "g", a="192.0.2.2"), actor="a", token_id="t")
    [entry] = await registry.audit(after=f"{second.version}-0")
    assert entry.after["endpoints"] == {}  # nothing but the fence is new
    assert entry.before["lease"]["fence"] == second.version
    assert third.lease.fence == entry.version


async def test_the_old_holder_is_refused(registry: Registry, raw: Redis) -> None:
    old = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    new = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    before = await registry.position()
    stale, unknown = await registry.renew(
        [Renewal(id="h", fence=old.fence, loads={KEY: 1}), Renewal(id="who", fence=1)], actor="a")
    assert stale == Renewed("h", False, new.fence, 0, "fenced")
    assert unknown == Renewed("who", False, 0, 0, "unknown")
    with pytest.raises(errors.Conflict, match=f"its fence is {new.fence}"):
        await registry.release("h", old.fence, actor="a")
    with pytest.raises(errors.NotFound):
        await registry.release("who", 1, actor="a")
    assert await registry.position() == before
    # Also over an end in between: the fence of a new lease is above that of the ended one.
    await pass_lease_time(raw, 31_000)
    assert (await registry.tick()).expired == ["h"]
    assert (await registry.renew([Renewal(id="h", fence=new.fence)], actor="a"))[0].problem == "unknown"
    again = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    assert again.fence > new.fence


async def test_conflicts(registry: Registry, raw: Redis) -> None:
    await registry.acquire(s.request("one", "e"), actor="a", token_id="t")
    await registry.put(Kind.ENDPOINT, s.endpoint("fix"), actor="a", if_match=None)
    before = await registry.load()
    with pytest.raises(errors.Conflict) as caught:
        await registry.acquire(s.request("two", "x", "e", "fix"), actor="a", token_id="t")
    assert caught.value.faults == [
        Fault("/endpoints/1", "the endpoint is held by lease one"),
        Fault("/endpoints/2", "the endpoint is held by the operator")]
    with pytest.raises(errors.Invalid) as invalid:
        await registry.acquire(s.request("two", "x", "y", at="no", of="no.example"), actor="a", token_id="t")
    assert {fault.place for fault in invalid.value.faults} == {
        f"/endpoints/{i}/{what}" for i in (0, 1) for what in ("site", "service")}
    with pytest.raises(errors.Invalid) as twice:
        await registry.acquire(s.request("two", "x", "x"), actor="a", token_id="t")
    assert twice.value.faults == [Fault("/endpoints/1/id", f"endpoint {s.API}/x is given twice")]
    for if_match in ("*", None):
        with pytest.raises(errors.Conflict, match="held by lease one"):
            await registry.put(Kind.ENDPOINT, s.endpoint("e"), actor="a", if_match=if_match)
    with pytest.raises(errors.Conflict, match="held by lease one"):
        await registry.delete(Kind.ENDPOINT, KEY, actor="a", if_match="*")
    with pytest.raises(errors.Conflict, match="held by lease one"):
        await registry.apply([Change("delete", Kind.ENDPOINT, key=KEY)], actor="a", if_version=None)
    for kind, key in ((Kind.SITE, "fra"), (Kind.SERVICE, s.API)):
        with pytest.raises(errors.Conflict, match="in use by 2"):
            await registry.delete(kind, key, actor="a", if_match="*")
    assert await registry.load() == before


async def test_another_token_takes_over_only_when_it_may(registry: Registry) -> None:
    await registry.acquire(s.request("h", "e"), actor="a", token_id="t1")
    with pytest.raises(errors.Conflict, match="another token"):
        await registry.acquire(s.request("h", "e"), actor="b", token_id="t2")
    granted = await registry.acquire(s.request("h", "e"), actor="b", token_id="t2", take_over=True)
    assert granted.lease.token == "t2"
    await registry.release("h", granted.lease.fence, actor="b")
    assert (await registry.acquire(s.request("h", "e"), actor="a", token_id="t1")).lease.token == "t1"


async def test_the_operator_ends_a_lease(registry: Registry) -> None:
    await registry.acquire(s.request("h", "e"), actor="a", token_id="t")
    stored = await registry.get(Kind.LEASE, "h")
    assert stored is not None
    with pytest.raises(errors.PreconditionRequired):
        await registry.delete(Kind.LEASE, "h", actor="op", if_match=None)
    with pytest.raises(errors.PreconditionFailed):
        await registry.delete(Kind.LEASE, "h", actor="op", if_match="0" * 16)
    await registry.delete(Kind.LEASE, "h", actor="op", if_match=stored.etag)
    assert (await registry.load()).endpoints == {}


LOADS = [  # share reported, level expected from the one before; left only 0.03 past a boundary
    (0.0, 0), (0.12, 0), (0.126, 0), (0.154, 0), (0.156, 1), (0.125, 1), (0.10, 1), (0.094, 0), (0.5, 3), (0.53, 4),
    (0.48, 4), (0.471, 4), (0.469, 3), (1.0, 7), (0.875, 7), (0.846, 7), (0.84, 6), (0.0, 0), (1.0, 7), (0.03, 0),
]


async def test_load_levels_have_hysteresis(registry: Registry) -> None:
    lease = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    at = await registry.position()
    level = 0
    for share, expected in LOADS:
        await registry.renew([Renewal(id="h", fence=lease.fence, loads={KEY: share})], actor="ann")
        told = await registry.events(at.cursor, block_ms=0)
        assert [(e.key, e.value.load, e.owned) for e in told] == (
            [(KEY, expected, {"A"})] if expected != level else []), share
        if expected != level:
            [entry] = await registry.audit(after=f"{at.version}-0")
            assert (entry.action, entry.actor, entry.before, entry.after) == (
                "load", "ann", {KEY: level}, {KEY: expected})
        level, at = expected, await registry.position()
    stored = await registry.get(Kind.ENDPOINT, KEY)
    assert stored is not None
    assert stored.version <= at.version
    assert (await registry.load()).corrupt == []


async def test_loads_of_a_batch_are_one_write_and_only_own_endpoints(registry: Registry) -> None:
    fences = {h: (await registry.acquire(s.request(h, h), actor="a", token_id="t")).lease.fence for h in ("h1", "h2")}
    before = await registry.position()
    renewed = await registry.renew([
        Renewal(id="h1", fence=fences["h1"], loads={f"{s.API}/h1": 0.9, f"{s.API}/nothing": 0.9}),
        Renewal(id="h2", fence=fences["h2"], loads={f"{s.API}/h1": 0.1}),
        Renewal(id="h2", fence=fences["h2"], loads={f"{s.API}/h2": 0.4})], actor="a")
    assert all(one.ok for one in renewed)
    told = await registry.events(before.cursor, block_ms=0)
    assert {(e.version, e.key, e.value.load) for e in told} == {
        (before.version + 1, f"{s.API}/h1", 6), (before.version + 1, f"{s.API}/h2", 2)}
    # Seen twice in one batch, back where it was: nothing is written.
    before = await registry.position()
    await registry.renew([Renewal(id="h1", fence=fences["h1"], loads={f"{s.API}/h1": share}) for share in (0.1, 0.9)],
                         actor="a")
    assert await registry.position() == before


async def test_a_thousand_renewals_are_one_script(registry: Registry, raw: Redis) -> None:
    await s.in_turns(registry.acquire(s.request(f"h{i}", f"e{i}"), actor="a", token_id="t") for i in range(1001))
    loaded = await registry.load()
    renewals = [Renewal(id=lease.id, fence=lease.fence) for lease in loaded.leases.values()]
    await raw.config_resetstat()
    renewed = await registry.renew([*renewals, Renewal(id="x", fence=1)], actor="a")
    assert [one.id for one in renewed] == [one.id for one in renewals] + ["x"]
    assert sum(one.ok for one in renewed) == 1001
    assert (await raw.info("commandstats"))["cmdstat_evalsha"]["calls"] == 2
    await pass_lease_time(raw, 31_000)
    assert len((await registry.tick()).caught) == 1001
    await pass_lease_time(raw, 86_400_000)
    assert len((await registry.tick()).expired) == 1001  # several scripts, one tick
    assert (await registry.load()).endpoints == {}
    trail = await registry.audit(after=f"{loaded.position.version}-0", limit=2000)
    assert [entry.action for entry in trail] == ["hold"] * 6 + ["expire"] * 1001


async def test_expiry_within_a_second_in_lease_time(registry: Registry, raw: Redis) -> None:
    await pass_lease_time(raw, 5_000)
    await registry.acquire(s.request("h", "e", ttl=10), actor="a", token_id="t")
    for passed, expired in ((9_900, []), (99, []), (1, ["h"])):
        await pass_lease_time(raw, passed)
        assert (await registry.tick()).expired == expired
    [entry] = await registry.audit(after=f"{(await registry.position()).version - 1}-0")
    assert (entry.action, entry.actor, entry.key) == ("expire", "system:lease-clock", "h")
    assert set(entry.before["endpoints"]) == {KEY}


@pytest.mark.parametrize("binary", ["valkey"], indirect=True)
async def test_real_time_expires_too(registry: Registry) -> None:
    """Unmoved clocks: a lease of 2 s, ticks as control makes them."""
    granted = time.monotonic()
    await registry.acquire(s.request("h", "e", ttl=2), actor="a", token_id="t")
    while not (await registry.tick()).expired:
        assert time.monotonic() - granted < 5
        await asyncio.sleep(0.1)
    assert 1.99 <= time.monotonic() - granted < 3


@pytest.mark.parametrize(("gap", "advanced", "shifted"), [
    (0, 0, 0), (250, 250, 0), (1_500, 1_500, 0), (2_500, 0, 2_500), (600_000, 0, 600_000), (-60_000, 0, -60_000)])
async def test_the_clock_counts_only_short_gaps(
    registry: Registry, raw: Redis, gap: int, advanced: int, shifted: int,
) -> None:
    await registry.tick()
    clock = int(await raw.hget("dnsd:meta", "lease_clock") or 0)
    await let_gap(raw, gap)
    tick = await registry.tick()
    late = 400  # the test itself takes time
    assert advanced <= tick.advanced_ms <= (advanced + late if not shifted else 0)
    assert shifted <= tick.shifted_ms <= (shifted + late if shifted else 0)
    assert int(await raw.hget("dnsd:meta", "lease_clock") or 0) - clock == tick.advanced_ms


async def test_a_gap_moves_all_deadlines(registry: Registry, raw: Redis) -> None:
    """Nobody could renew for ten minutes: nobody's lease is over, and the time left is what it was."""
    for i in range(20):
        await registry.acquire(s.request(f"h{i}", f"e{i}", ttl=5), actor="a", token_id="t")
    await let_gap(raw, 600_000)
    assert (await registry.tick()).expired == []
    await pass_lease_time(raw, 4_000)
    assert (await registry.tick()).expired == []
    await pass_lease_time(raw, 2_000)
    assert len((await registry.tick()).caught) == 20


async def test_a_grant_counts_the_time_since_the_last_tick(registry: Registry, raw: Redis) -> None:
    """Otherwise a lease granted late between two ticks would end early."""
    await registry.tick()
    clock = int(await raw.hget("dnsd:meta", "lease_clock") or 0)
    await let_gap(raw, 1_000)
    lease = (await registry.acquire(s.request("h", "e", ttl=10), actor="a", token_id="t")).lease
    assert lease.deadline >= clock + 11_000
    await let_gap(raw, 3_000)
    lease = (await registry.acquire(s.request("h", "e", ttl=10), actor="a", token_id="t")).lease
    assert lease.deadline == clock + 10_000


async def test_a_late_renewal_before_the_tick_counts(registry: Registry, raw: Redis) -> None:
    lease = (await registry.acquire(s.request("h", "e", ttl=10), actor="a", token_id="t")).lease
    await pass_lease_time(raw, 11_000)
    assert (await registry.renew([Renewal(id="h", fence=lease.fence)], actor="a"))[0].ok
    assert (await registry.tick()).expired == []


async def test_a_big_lease(registry: Registry) -> None:
    names = [f"e{i}" for i in range(1000)]
    lease = (await registry.acquire(s.request("h", *names), actor="a", token_id="t")).lease
    before = await registry.position()
    loads = {f"{s.API}/{name}": 0.9 for name in names}
    assert (await registry.renew([Renewal(id="h", fence=lease.fence, loads=loads)], actor="a"))[0].ok
    told = await registry.events(before.cursor, block_ms=0)
    assert len(told) == 1000
    assert {e.version for e in told} == {before.version + 1}
    await registry.release("h", lease.fence, actor="a")
    assert (await registry.load()).endpoints == {}
