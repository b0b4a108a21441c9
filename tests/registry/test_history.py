"""Going on with a state in doubt, and writing back what was served, on real stores."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from dnsd.registry import errors
from dnsd.registry.history import Content, Marks
from dnsd.registry.models import Kind, Lease, Renewal
from dnsd.registry.store import Registry
from tests.registry import samples
from tests.registry.conftest import pass_lease_time

pytestmark = pytest.mark.asyncio
ACTOR = "test"


async def content(registry: Registry) -> Content:
    at = await registry.load()
    return Content(
        list(at.sites.values()), list(at.services.values()), list(at.overrides.values()), list(at.leases.values()),
        list(at.endpoints.values()), at.owned)


async def test_a_state_goes_on_as_a_history_of_its_own(registry: Registry) -> None:
    before = await registry.position()
    assert await registry.history.marks() == Marks()
    epoch, version = await registry.history.begin(before.epoch, above=(before.epoch, 900), actor=ACTOR, accepted=False)
    after = await registry.position()
    assert (after.epoch, after.version) == (epoch, version)
    assert epoch > before.epoch
    assert version == 901
    assert await registry.history.marks() == Marks()
    with pytest.raises(errors.Gap, match=r"forked|trimmed"):
        await registry.events(before.cursor, block_ms=0)
    assert [entry.action for entry in await registry.audit()][-1] == "adopt"
    with pytest.raises(errors.PreconditionFailed):
        await registry.history.begin(before.epoch, above=(0, 0), actor=ACTOR, accepted=True)
    written = await registry.put(Kind.SITE, samples.site("new"), actor=ACTOR, if_match=None)
    assert written.version == 902
    assert [event.key for event in await registry.events(after.cursor, block_ms=0)] == ["new"]


async def test_accepting_is_a_write_that_changes_no_object(registry: Registry) -> None:
    before = await registry.position()
    version = await registry.history.accept(before.epoch, actor=ACTOR)
    assert await registry.history.marks() == Marks(before.epoch, version)
    found = await registry.events(before.cursor, block_ms=0)
    assert [(event.kind, event.version) for event in found] == [(None, version)]
    assert await registry.events(found[-1].id, block_ms=0) == []
    with pytest.raises(errors.PreconditionFailed):
        await registry.history.accept(before.epoch + 1, actor=ACTOR)


async def test_an_emptied_store_gets_back_all_but_tokens(registry: Registry, raw: Redis) -> None:
    await registry.put(Kind.OVERRIDE, samples.override(), actor=ACTOR, if_match=None)
    await registry.put(Kind.ENDPOINT, samples.endpoint("fixed"), actor=ACTOR, if_match=None)
    granted = await registry.acquire(samples.request("h1", "e1", ttl=20), actor=ACTOR, token_id="t")
    before, served = await registry.load(), await content(registry)
    await raw.flushall()
    empty = await registry.position()
    assert await registry.history.restore(served, empty.epoch, older=False, actor=ACTOR) == 8
    assert (await registry.history.marks()).restoring
    epoch, version = await registry.history.begin(
        empty.epoch, above=(before.position.epoch, before.position.version), actor=ACTOR, accepted=True)
    after = await registry.load()
    assert version > before.position.version
    assert await registry.history.marks() == Marks(epoch, version)
    assert after.sites == before.sites
    assert after.services == before.services
    assert after.endpoints == before.endpoints
    assert after.overrides == before.overrides
    assert after.owned == before.owned
    assert not after.corrupt
    # The holder is told to acquire again, and gets a fence after all there were.
    [told] = await registry.renew([Renewal(id="h1", fence=granted.lease.fence)], actor=ACTOR)
    assert told.problem == "unknown"
    again = await registry.acquire(samples.request("h1", "e1", ttl=20), actor=ACTOR, token_id="t")
    assert again.lease.fence > granted.lease.fence
    # References count again.
    with pytest.raises(errors.Conflict):
        await registry.delete(Kind.SITE, "fra", actor=ACTOR, if_match="*")


async def test_what_nobody_acquires_again_ends_after_its_ttl(registry: Registry, raw: Redis) -> None:
    await registry.acquire(samples.request("h1", "e1", ttl=20), actor=ACTOR, token_id="t")
    served = await content(registry)
    await raw.flushall()
    empty = await registry.position()
    await registry.history.restore(served, empty.epoch, older=False, actor=ACTOR)
    await registry.tick()
    assert (await registry.load()).endpoints.keys() == {f"{samples.API}/e1"}
    await pass_lease_time(raw, 21_000)
    await registry.tick()
    after = await registry.load()
    assert not after.endpoints
    assert not after.leases


async def test_what_came_after_the_loss_stays(registry: Registry, raw: Redis) -> None:
    await registry.acquire(samples.request("h1", "e1"), actor=ACTOR, token_id="t")
    served = await content(registry)
    await raw.flushall()
    await samples.fill(registry)
    newer = await registry.acquire(samples.request("h1", "e1", a="192.0.2.77"), actor=ACTOR, token_id="t")
    await registry.put(Kind.SITE, samples.site("own"), actor=ACTOR, if_match=None)
    at = await registry.position()
    await registry.history.restore(served, at.epoch, older=False, actor=ACTOR)
    after = await registry.load()
    assert str(after.endpoints[f"{samples.API}/e1"].a) == "192.0.2.77"
    assert "own" in after.sites
    [told] = await registry.renew([Renewal(id="h1", fence=newer.lease.fence)], actor=ACTOR)
    assert told.ok


async def test_an_older_state_is_put_right_both_ways(registry: Registry) -> None:
    """What is there is a backup: it has endpoints that had gone, and leases whose holders have newer ones."""
    granted = await registry.acquire(samples.request("h1", "e1"), actor=ACTOR, token_id="t")
    await registry.put(Kind.ENDPOINT, samples.endpoint("had-gone"), actor=ACTOR, if_match=None)
    served = await content(registry)
    key = f"{samples.API}/had-gone"
    served = served._replace(
        endpoints=[one for one in served.endpoints if one.key != key], gone=[(Kind.ENDPOINT, key)])
    at = await registry.position()
    await registry.history.restore(served, at.epoch, older=True, actor=ACTOR)
    after = await registry.load()
    assert after.endpoints.keys() == {f"{samples.API}/e1"}
    [told] = await registry.renew([Renewal(id="h1", fence=granted.lease.fence)], actor=ACTOR)
    assert told.problem == "unknown"
    await registry.delete(Kind.ENDPOINT, f"{samples.API}/e1", actor=ACTOR, if_match="*")  # nobody's until acquired


async def test_leases_that_are_there(registry: Registry) -> None:
    granted = await registry.acquire(samples.request("h1", "e1"), actor=ACTOR, token_id="t")
    assert await registry.history.leases(["h1", "none"]) == [granted.lease]
    assert isinstance(granted.lease, Lease)


async def test_pieces_are_bounded(empty: Registry, raw: Redis) -> None:
    sites = [samples.site(f"s{i}") for i in range(600)]
    at = await empty.position()
    assert await empty.history.restore(Content(sites, [], [], [], [], {}), at.epoch, older=False, actor=ACTOR) == 600
    assert (await empty.position()).version == at.version + 3
    assert len((await empty.load()).sites) == 600
