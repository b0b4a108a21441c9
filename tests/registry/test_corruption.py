"""A store whose content is not what was written: values are dropped and named, nothing raises past them."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from redis.asyncio import Redis

from dnsd.model import Fault
from dnsd.registry import errors
from dnsd.registry.models import Kind, Renewal, key_of
from dnsd.registry.store import Registry
from dnsd.registry.values import Change
from tests.registry import samples as s
from tests.registry.conftest import pass_lease_time

pytestmark = pytest.mark.asyncio
KEY = f"{s.API}/e"
BAD = [
    b"", b"\xff\xfe\x00", b"3 ", b"3 {", b"3 null", b"3 []", b"no-version {}", b"3 {}", b'3 {"id":"fra"}',
    b"{}" * 40_000,
    b"99999999999999999999999999 " + b"[" * 5_000,
]


@pytest.mark.parametrize("bad", BAD)
async def test_a_corrupt_value_is_dropped_and_named(registry: Registry, raw: Redis, bad: bytes) -> None:
    await registry.put(Kind.ENDPOINT, s.endpoint("e"), actor="a", if_match=None)
    await registry.put(Kind.OVERRIDE, s.override(), actor="a", if_match=None)
    await registry.put(Kind.TOKEN, s.token("t"), actor="a", if_match=None)
    await registry.acquire(s.request("h", "l"), actor="a", token_id="t")
    for kind, key in ((Kind.SITE, "fra"), (Kind.SERVICE, s.API), (Kind.ENDPOINT, KEY), (Kind.OVERRIDE, "site:fra"),
                      (Kind.TOKEN, "t"), (Kind.LEASE, "h")):
        good = await raw.hget(f"dnsd:{kind}", key)
        await raw.hset(f"dnsd:{kind}", key, bad)
        loaded = await registry.load()
        assert [fault.place for fault in loaded.corrupt] == ([] if kind is Kind.TOKEN else [f"{kind}/{key}"])
        assert await registry.get(kind, key) is None
        assert key not in [key_of(one.value) for one in (await registry.list(kind))[0]]
        await raw.hset(f"dnsd:{kind}", key, good)
    loaded = await registry.load()
    assert loaded.corrupt == []
    assert (set(loaded.sites), set(loaded.endpoints)) == ({*s.SITES}, {KEY, f"{s.API}/l"})


@pytest.mark.parametrize("score", ["inf", "-1.5", "1.5", "1e300"])
async def test_a_deadline_that_is_none(registry: Registry, raw: Redis, score: str) -> None:
    await registry.acquire(s.request("h", "e"), actor="a", token_id="t")
    await raw.zadd("dnsd:deadline", {"h": score})
    assert [fault.place for fault in (await registry.load()).corrupt] == ["lease/h"]
    assert await registry.get(Kind.LEASE, "h") is None
    assert await registry.list(Kind.LEASE) == ([], "")


@pytest.mark.parametrize(("field", "text"), [
    ("version", "abc"), ("version", "-5"), ("version", ""), ("version", "1_0"), ("version", "9" * 30),
    ("version", "9" * 5000), ("version", str(2**53)), ("epoch", "-3"), ("epoch", "9" * 40), ("epoch", str(2**63)),
    ("chain", b"\xff\xfe"),
])
async def test_a_position_that_cannot_be_is_refused(
    registry: Registry, raw: Redis, field: str, text: str | bytes,
) -> None:
    before = await registry.position()
    good = await raw.hget("dnsd:meta", field)
    await raw.hset("dnsd:meta", field, text)
    for call in (registry.position, registry.load):
        with pytest.raises(errors.Unavailable, match="position cannot be read"):
            await call()
    await raw.hset("dnsd:meta", field, good)
    assert await registry.position() == before


async def test_a_value_under_another_key_is_corrupt(registry: Registry, raw: Redis) -> None:
    value = await raw.hget("dnsd:site", "fra")
    await raw.hset("dnsd:site", mapping={"ams": value, b"\xff": value})
    loaded = await registry.load()
    assert sorted(fault.place for fault in loaded.corrupt) == ["site/ams", "site/\ufffd"]
    assert await registry.get(Kind.SITE, "ams") is None


async def test_corrupt_values_are_replaced_by_the_next_write(registry: Registry, raw: Redis) -> None:
    await registry.acquire(s.request("h", "e"), actor="a", token_id="t")
    for kind, key in ((Kind.SITE, "fra"), (Kind.SERVICE, s.API), (Kind.ENDPOINT, KEY), (Kind.LEASE, "h")):
        await raw.hset(f"dnsd:{kind}", key, b"\xffjunk\x00")
    await raw.hset("dnsd:owned", s.API, "junk")
    assert len((await registry.load()).corrupt) == 5
    at = await registry.position()
    await registry.put(Kind.SITE, s.site("fra"), actor="a", if_match="*")
    await registry.put(Kind.SERVICE, s.service(), actor="a", if_match="*")
    granted = await registry.acquire(s.request("h", "e"), actor="a", token_id="t")
    loaded = await registry.load()
    assert loaded.corrupt == []
    assert loaded.owned == {s.API: {"A"}}
    trail = await registry.audit(after=f"{at.version}-0")
    assert trail[0].before == "\ufffdjunk\x00" or "junk" in str(trail[0].before)
    assert await registry.renew([Renewal(id="h", fence=granted.lease.fence)], actor="a")


async def test_a_lease_that_lists_anothers_endpoints_ends_only_its_own(registry: Registry, raw: Redis) -> None:
    await registry.acquire(s.request("h", "e"), actor="a", token_id="t")
    await registry.acquire(s.request("other", "f"), actor="a", token_id="t")
    await registry.put(Kind.ENDPOINT, s.endpoint("fix"), actor="a", if_match=None)
    text = await raw.hget("dnsd:lease", "h")
    await raw.hset("dnsd:lease", "h", text.replace('"api.demo.example/e"', f'"{KEY}","{s.API}/f","{s.API}/fix"'))
    await registry.delete(Kind.LEASE, "h", actor="a", if_match="*")
    assert set((await registry.load()).endpoints) == {f"{s.API}/f", f"{s.API}/fix"}


async def test_the_trail_of_an_apply_holds_a_corrupt_value_as_text(registry: Registry, raw: Redis) -> None:
    await raw.hset("dnsd:site", "fra", "7 {oh")
    at = await registry.position()
    changes = [Change("put", Kind.SITE, s.site(name)) for name in ("fra", "ams")]
    await registry.apply(changes, actor="a", if_version=None)
    [entry] = await registry.audit(after=f"{at.version}-0")
    assert entry.before["site/fra"] == "{oh"
    assert entry.before["site/ams"]["id"] == "ams"


async def test_apply_names_what_was_broken_before(registry: Registry, raw: Redis) -> None:
    """A latent fault and an innocent change: refused, and the guilty object is named."""
    await registry.put(Kind.ENDPOINT, s.endpoint("e", site="sin"), actor="a", if_match=None)
    good = await raw.hget("dnsd:site", "sin")
    await raw.hset("dnsd:site", "sin", "9 {}")
    new = Change("put", Kind.SITE, s.site("new"))
    with pytest.raises(errors.Invalid) as caught:
        await registry.apply([new], actor="a", if_version=None)
    assert [fault.place for fault in caught.value.faults] == [f"endpoint/{KEY}/site", "site/sin"]
    await registry.apply([new, Change("put", Kind.SITE, s.site("sin"))], actor="a", if_version=None)
    await raw.hset("dnsd:site", "sin", good)
    assert (await registry.load()).corrupt == []


async def test_a_lease_whose_value_is_lost_still_ends(registry: Registry, raw: Redis) -> None:
    """Its endpoints cannot be known any more: they stay (never empty), and anyone may take or delete them."""
    await registry.acquire(s.request("h", "e", "f"), actor="a", token_id="t")
    await raw.hset("dnsd:lease", "h", "1 {")
    await pass_lease_time(raw, 31_000)
    assert (await registry.tick()).expired == ["h"]
    loaded = await registry.load()
    assert set(loaded.endpoints) == {KEY, f"{s.API}/f"}
    with pytest.raises(errors.Invalid) as caught:
        await registry.apply([Change("put", Kind.SITE, s.site("new"))], actor="a", if_version=None)
    assert Fault(f"endpoint/{KEY}/lease", "lease h is gone; delete the endpoint") in caught.value.faults
    await registry.delete(Kind.ENDPOINT, KEY, actor="a", if_match="*")
    await registry.acquire(s.request("other", "f"), actor="a", token_id="t")
    assert (await registry.load()).endpoints[f"{s.API}/f"].lease == "other"


async def test_a_corrupt_load_level_is_left_alone(registry: Registry, raw: Redis) -> None:
    lease = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    await raw.hset("dnsd:endpoint", KEY, "1 {}")
    before = await registry.position()
    assert (await registry.renew([Renewal(id="h", fence=lease.fence, loads={KEY: 1})], actor="a"))[0].ok
    assert await registry.position() == before


async def test_a_corrupt_audit_entry_is_shown_as_text(registry: Registry, raw: Redis) -> None:
    at = await registry.position()
    await raw.xadd("dnsd:audit", {"at": "1", "actor": "x", "before": "{"}, id=f"{at.version + 1}-0")
    entry = (await registry.audit(after=f"{at.version}-0"))[0]
    assert (entry.actor, entry.before, entry.after, entry.kind) == ("x", "{", None, "")


@pytest.mark.parametrize("seed", range(6))
async def test_no_key_of_any_content_crashes_a_reader(registry: Registry, raw: Redis, seed: int) -> None:
    """Keys of the wrong type, random bytes, or gone: every call answers, or says that the store is unusable."""
    random_ = random.Random(seed)
    await registry.put(Kind.ENDPOINT, s.endpoint("fix"), actor="a", if_match=None)
    lease = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    cursor = (await registry.position()).cursor
    for key in sorted(await raw.keys("dnsd:*")):
        kept = await raw.type(key), await raw.copy(key, "kept", replace=True)
        damage = random_.choice(["gone", "type", "bytes"])
        if damage == "gone":
            await raw.delete(key)
        elif damage == "type":
            await raw.set(key, random_.randbytes(40))
        elif kept[0] == "hash":
            for field in await raw.hkeys(key):
                await raw.hset(key, field, random_.randbytes(random_.randrange(60)))
        for call in (
                registry.load(), registry.position(), registry.list(Kind.ENDPOINT), registry.get(Kind.LEASE, "h"),
                registry.audit(), registry.events(cursor, block_ms=0), registry.tick(),
                registry.renew([Renewal(id="h", fence=lease.fence, loads={KEY: random_.random()})], actor="a"),
                registry.put(Kind.SITE, s.site("new"), actor="a", if_match="*"),
                registry.acquire(s.request("h2", f"x{seed}"), actor="a", token_id="t")):
            with contextlib.suppress(errors.RegistryError, errors.Gap):
                await call
        await raw.rename("kept", key)
    assert (await registry.load()).sites["fra"] == s.site("fra")  # and with its keys back it is what it was


async def test_values_are_plain_json(registry: Registry, raw: Redis) -> None:
    version, _, text = (await raw.hget("dnsd:site", "fra") or "").partition(" ")
    assert version == "1"
    assert json.loads(text) == {
        "id": "fra", "latitude": 50.0, "longitude": 8.0, "country": "DE", "region": "eu", "carriers": [], "asns": []}
