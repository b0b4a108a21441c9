"""Following the event stream: whole writes, a chain checked by an own computation, and every way it can break."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
from redis.asyncio import Redis

from dnsd.registry.errors import Gap
from dnsd.registry.models import Kind
from dnsd.registry.store import Registry
from dnsd.registry.values import Change
from tests.registry import samples as s
from tests.registry.conftest import Server

pytestmark = pytest.mark.asyncio


async def put_sites(registry: Registry, count: int) -> None:
    await s.in_turns(registry.put(Kind.SITE, s.site(f"s{i}"), actor="a", if_match="*") for i in range(count))


async def expect_gap(registry: Registry, cursor: str, reason: str) -> None:
    with pytest.raises(Gap) as caught:
        await registry.events(cursor, block_ms=0)
    assert caught.value.reason == reason
    # And the way out of it works.
    assert await registry.events((await registry.load()).position.cursor, block_ms=0) == []


async def test_the_chain_is_what_the_documentation_says(registry: Registry, raw: Redis) -> None:
    position = await registry.position()
    chain = hashlib.sha1(str(position.epoch).encode()).hexdigest()
    entries = await raw.xrange("dnsd:events")
    assert [entry_id for entry_id, _ in entries] == [f"{i}-0" for i in range(1, position.version + 1)]
    for entry_id, fields in entries:
        version = entry_id.removesuffix("-0")
        chain = hashlib.sha1(f"{chain}\n{version}\n{fields['body']}".encode()).hexdigest()
        assert fields["chain"] == chain
    assert position.chain == chain
    assert position.cursor == f"{position.version}-0/{chain}"


async def test_events_fold_to_what_load_gives(registry: Registry) -> None:
    at = await registry.position()
    cursor, state = at.cursor, dict((await registry.load()).sites)
    await put_sites(registry, 30)
    await registry.apply(
        [Change("delete", Kind.SITE, key=f"s{i}") for i in range(0, 30, 2)], actor="a", if_version=None)
    while events := await registry.events(cursor, block_ms=0):
        for event in events:
            if event.value is None:
                del state[event.key]
            else:
                state[event.key] = event.value
        cursor = events[-1].id
    loaded = await registry.load()
    assert state == loaded.sites
    assert cursor == loaded.position.cursor


async def test_more_than_one_read(registry: Registry) -> None:
    at = await registry.position()
    await put_sites(registry, 700)
    cursor, versions = at.cursor, []
    while events := await registry.events(cursor, block_ms=0):
        versions += [event.version for event in events]
        cursor = events[-1].id
    assert versions == list(range(at.version + 1, at.version + 701))


async def test_waiting(registry: Registry) -> None:
    at = await registry.position()
    began = time.monotonic()
    assert await registry.events(at.cursor, block_ms=50) == []
    assert time.monotonic() - began < 2
    waiting = asyncio.create_task(registry.events(at.cursor, block_ms=5000))
    await asyncio.sleep(0.02)
    await put_sites(registry, 1)
    [event] = await asyncio.wait_for(waiting, 1)
    assert event.key == "s0"


async def test_many_wait_while_others_write(registry: Registry) -> None:
    """Those who wait hold no connection the writers need."""
    at = await registry.position()
    waiting = [asyncio.create_task(registry.events(at.cursor, block_ms=5000)) for _ in range(10)]
    await asyncio.sleep(0.02)
    await put_sites(registry, 1)
    assert {len(events) for events in await asyncio.gather(*waiting)} == {1}


async def test_what_is_no_cursor(registry: Registry) -> None:
    for text in ("", "0", "12-0", "x-0/abc", "/abc", "$"):
        with pytest.raises(ValueError, match="not a cursor"):
            await registry.events(text, block_ms=0)


async def test_gap_when_trimmed(registry: Registry, raw: Redis) -> None:
    early = await registry.position()
    await put_sites(registry, 50)
    late = await registry.position()
    await raw.xtrim("dnsd:events", maxlen=20, approximate=False)
    await expect_gap(registry, early.cursor, "trimmed")
    assert await registry.events(late.cursor, block_ms=0) == []


async def test_streams_are_bounded_in_octets(registry: Registry, raw: Redis) -> None:
    early = await registry.position()
    await put_sites(registry, 300)
    before = {name: await raw.xlen(f"dnsd:{name}") for name in ("events", "audit", "audit-leases")}
    for name in ("events_bytes", "audit_bytes"):
        await raw.hincrby("dnsd:meta", name, 32 * 1024 * 1024)
    await put_sites(registry, 1)
    for name in ("events", "audit"):
        assert await raw.xlen(f"dnsd:{name}") < 100 < before[name]
        assert await raw.llen(f"dnsd:{name}-sizes") == 1
    await expect_gap(registry, early.cursor, "trimmed")


async def test_the_size_count_is_the_size(registry: Registry, raw: Redis) -> None:
    await registry.acquire(s.request("h", "e1", "e2"), actor="a", token_id="t")
    for name, meta in (("events", "events"), ("audit", "audit"), ("audit-leases", "audit_leases")):
        sizes = [sum(map(len, fields.values())) for _, fields in await raw.xrange(f"dnsd:{name}")]
        assert [int(size) for size in await raw.lrange(f"dnsd:{name}-sizes", 0, -1)] == sizes
        assert int(await raw.hget("dnsd:meta", f"{meta}_bytes") or 0) == sum(sizes)


async def test_gap_when_emptied(registry: Registry, raw: Redis) -> None:
    before = await registry.position()
    await raw.flushall()
    with pytest.raises(Gap, match="forked"):
        await registry.events(before.cursor, block_ms=0)
    await s.fill(registry)  # a new history, that even reaches the same version
    assert (await registry.position()).version == before.version
    assert (await registry.position()).epoch > before.epoch
    await expect_gap(registry, before.cursor, "forked")
    await put_sites(registry, 1)
    await expect_gap(registry, before.cursor, "forked")


async def test_gap_when_restored_from_a_backup(registry: Registry, raw: Redis) -> None:
    """Two histories of one epoch with the same versions: only the chain tells them apart."""
    keys = await raw.keys("dnsd:*")
    dumper = Redis.from_url(f"unix://{raw.connection_pool.connection_kwargs['path']}")
    backup = {key: await dumper.dump(key) for key in keys}
    early = await registry.position()
    await registry.put(Kind.SITE, s.site("one"), actor="a", if_match=None)
    lost = await registry.position()
    await raw.flushall()
    for key, data in backup.items():
        await dumper.restore(key, 0, data)
    await dumper.aclose()
    assert await registry.position() == early
    await expect_gap(registry, lost.cursor, "forked")
    await registry.put(Kind.SITE, s.site("two"), actor="a", if_match=None)
    at = await registry.position()
    assert (at.epoch, at.version) == (lost.epoch, lost.version)
    await expect_gap(registry, lost.cursor, "forked")
    await registry.put(Kind.SITE, s.site("three"), actor="a", if_match=None)
    await expect_gap(registry, lost.cursor, "forked")
    assert [event.key for event in await registry.events(early.cursor, block_ms=0)] == ["two", "three"]


async def test_gap_when_an_event_cannot_be_read(registry: Registry, raw: Redis) -> None:
    """Its hash is right, its content is of another release, say: it must be neither skipped nor a deletion."""
    at = await registry.position()
    for body in ('[["site","x",{"id":"x"},null]]', '[["moon","x",null,null]]', '{"no":1}', "[", '[["site","x"]]'):
        chain = hashlib.sha1(f"{at.chain}\n{at.version + 1}\n{body}".encode()).hexdigest()
        await raw.xadd("dnsd:events", {"body": body, "chain": chain}, id=f"{at.version + 1}-0")
        with pytest.raises(Gap, match="corrupt"):
            await registry.events(at.cursor, block_ms=0)
        await raw.xtrim("dnsd:events", maxlen=0)
        await raw.execute_command("XSETID", "dnsd:events", f"{at.version}-0")


async def test_gap_when_an_entry_was_changed(registry: Registry, raw: Redis) -> None:
    at = await registry.position()
    await raw.xadd("dnsd:events", {"body": "[]", "chain": "0" * 40}, id=f"{at.version + 1}-0")
    with pytest.raises(Gap, match="forked"):
        await registry.events(at.cursor, block_ms=0)


async def test_the_version_goes_on_after_streams_that_outlived_meta(
    registry: Registry, raw: Redis, server: Server,
) -> None:
    before = await registry.position()
    await raw.delete("dnsd:meta")
    again = await Registry.open(server.url)
    at = await again.position()
    assert at.epoch > before.epoch
    assert at.version == before.version
    written = await again.put(Kind.SITE, s.site("x"), actor="a", if_match=None)
    assert written.version == before.version + 1
    assert (await again.audit(after=f"{before.version}-0"))[0].key == "x"
    await again.close()
