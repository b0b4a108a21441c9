"""Objects: put, get, list, delete, apply, preconditions, references, owned types, overrides, audit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from dnsd.model import Fault
from dnsd.registry import errors, rules
from dnsd.registry.fields import Model
from dnsd.registry.models import Kind, Lease
from dnsd.registry.store import ABSENT, Registry
from dnsd.registry.values import Change
from tests.registry import samples as s
from tests.registry.conftest import Server

pytestmark = pytest.mark.asyncio

OBJECTS = [
    (Kind.SITE, "tyo", s.site("tyo", carriers=["kddi"], asns=[2516], capacity=7), s.site("tyo")),
    (Kind.SERVICE, "www.demo.example", s.service("www.demo.example", ttl=30), s.service("www.demo.example")),
    (Kind.ENDPOINT, f"{s.API}/e1", s.endpoint("e1", aaaa="2001:db8::1"), s.endpoint("e1", weight=1)),
    (Kind.TOKEN, "ops", s.token("ops"), s.token("ops").model_copy(update={"note": "x"})),
]


@pytest.mark.parametrize(("kind", "key", "value", "other"), OBJECTS)
async def test_an_object_lives(
    registry: Registry, raw: Redis, kind: Kind, key: str, value: Model, other: Model,
) -> None:
    before = await registry.position()
    made = await registry.put(kind, value, actor="ann", if_match=None)
    assert (made.key, made.created, made.version, made.durability) == (key, True, before.version + 1, "fsync")
    assert await registry.get(kind, key) == (value, made.etag, made.version)

    changed = await registry.put(kind, other, actor="bob", if_match=made.etag)
    assert (changed.created, changed.version) == (False, made.version + 1)
    assert changed.etag != made.etag
    assert await registry.get(kind, key) == (other, changed.etag, changed.version)

    gone = await registry.delete(kind, key, actor="eve", if_match=changed.etag)
    assert gone[:3] == (key, "", changed.version + 1)
    assert await registry.get(kind, key) is None
    assert await raw.zscore("dnsd:names", f"{kind}/{key}") is None

    told = await registry.events(before.cursor, block_ms=0)
    assert [(e.version, e.kind, e.key, e.value) for e in told] == [
        (made.version, kind, key, value), (changed.version, kind, key, other), (gone.version, kind, key, None)]
    trail = await registry.audit(after=f"{before.version}-0")
    assert [(e.actor, e.action, e.kind, e.key, e.version) for e in trail] == [
        ("ann", "put", kind, key, made.version), ("bob", "put", kind, key, changed.version),
        ("eve", "delete", kind, key, gone.version)]
    states = [None if e is None else type(value).model_validate(e) for e in (
        trail[0].before, trail[0].after, trail[1].before, trail[1].after, trail[2].before, trail[2].after)]
    assert states == [None, value, value, other, other, None]
    assert all(entry.at_ms > 1_700_000_000_000 for entry in trail)


async def test_preconditions(registry: Registry) -> None:
    fra = await registry.get(Kind.SITE, "fra")
    assert fra is not None
    refused: list[tuple[str, str | None, type[errors.RegistryError]]] = [
        ("fra", None, errors.PreconditionRequired), ("fra", ABSENT, errors.PreconditionFailed),
        ("fra", "0" * 16, errors.PreconditionFailed), ("fra", "", errors.PreconditionFailed),
        ("fra", "-", errors.PreconditionFailed), ("new", "0" * 16, errors.PreconditionFailed)]
    before = await registry.position()
    for key, if_match, error in refused:
        with pytest.raises(error):
            await registry.put(Kind.SITE, s.site(key), actor="a", if_match=if_match)
    for if_match in (None, "0" * 16):
        with pytest.raises((errors.PreconditionRequired, errors.PreconditionFailed)):
            await registry.delete(Kind.SITE, "fra", actor="a", if_match=if_match)
    for kind in (Kind.SITE, Kind.TOKEN, Kind.LEASE):
        with pytest.raises(errors.NotFound):
            await registry.delete(kind, "nowhere", actor="a", if_match="*")
    assert await registry.position() == before
    for key, if_match, created in (("fra", "*", False), ("n1", "*", True), ("n2", ABSENT, True), ("n3", None, True)):
        assert (await registry.put(Kind.SITE, s.site(key), actor="a", if_match=if_match)).created is created


async def test_an_etag_is_of_one_write(registry: Registry) -> None:
    """The same value written again is another write: who saw the first has not seen what came between."""
    first = await registry.put(Kind.SITE, s.site("x"), actor="a", if_match=None)
    second = await registry.put(Kind.SITE, s.site("x"), actor="a", if_match=first.etag)
    assert first.etag != second.etag


async def test_references_are_checked(registry: Registry) -> None:
    with pytest.raises(errors.Invalid) as caught:
        await registry.put(
            Kind.ENDPOINT, s.endpoint("e", site="nowhere", service="no.example"), actor="a", if_match=None)
    assert sorted(caught.value.faults) == [
        Fault("/service", "no such service: no.example"), Fault("/site", "no such site: nowhere")]
    with pytest.raises(errors.Invalid, match="no site nowhere"):
        await registry.put(Kind.OVERRIDE, s.override("nowhere"), actor="a", if_match=None)
    await registry.put(Kind.ENDPOINT, s.endpoint("e"), actor="a", if_match=None)
    for kind, key in ((Kind.SITE, "fra"), (Kind.SERVICE, s.API)):
        with pytest.raises(errors.Conflict, match="in use by 1 endpoints"):
            await registry.delete(kind, key, actor="a", if_match="*")
    await registry.put(Kind.ENDPOINT, s.endpoint("e", site="ams"), actor="a", if_match="*")
    await registry.delete(Kind.SITE, "fra", actor="a", if_match="*")
    await registry.delete(Kind.ENDPOINT, f"{s.API}/e", actor="a", if_match="*")
    await registry.delete(Kind.SITE, "ams", actor="a", if_match="*")
    await registry.delete(Kind.SERVICE, s.API, actor="a", if_match="*")


async def test_shapes_that_are_refused(registry: Registry) -> None:
    lease = Lease(id="h", holder="h", fence=1, ttl=2, deadline=3, endpoints=(), token="t")
    long = s.site("x", asns=list(range(1_000_000_000, 1_000_002_000)))
    for kind, value, message in (
            (Kind.LEASE, lease, "acquired"), (Kind.SITE, s.service(), "not a site"),
            (Kind.ENDPOINT, s.endpoint("e", lease="h"), "comes with its lease"),
            (Kind.SITE, long, "longer than 16384")):
        with pytest.raises(errors.Invalid, match=message):
            await registry.put(kind, value, actor="a", if_match=None)


async def test_list_pages_in_order(registry: Registry) -> None:
    await registry.put(Kind.SERVICE, s.service("z.example"), actor="a", if_match=None)
    changes = [Change("put", Kind.ENDPOINT, s.endpoint(f"e{i:02}")) for i in range(25)]
    changes += [Change("put", Kind.ENDPOINT, s.endpoint("e", service="z.example"))]
    await registry.apply(changes, actor="a", if_version=None)
    wanted = [f"{s.API}/e{i:02}" for i in range(25)]

    async def keys(**options: Any) -> list[str]:
        got: list[str] = []
        after = ""
        while True:
            page, after = await registry.list(Kind.ENDPOINT, after=after, **options)
            assert len(page) <= options.get("limit", 100)
            got += [one.value.key for one in page]
            if not after:
                return got

    assert await keys(limit=7) == [*wanted, "z.example/e"]
    assert await keys(limit=5, prefix=f"{s.API}/") == wanted
    assert await keys(prefix="z.") == ["z.example/e"]
    assert await keys(prefix="y") == []
    page, _ = await registry.list(Kind.ENDPOINT, after=f"{s.API}/e23", prefix=f"{s.API}/")
    assert [one.value.key for one in page] == wanted[24:]
    page, _ = await registry.list(Kind.ENDPOINT, after="a", prefix="z.")
    assert len(page) == 1
    assert page[0] == await registry.get(Kind.ENDPOINT, "z.example/e")


async def test_owned_types_only_grow_until_the_operator_sets_them(registry: Registry) -> None:
    key = f"{s.API}/e"

    async def owned() -> tuple[frozenset[str], frozenset[str] | None]:
        loaded = await registry.load()
        told = await registry.events(start, block_ms=0)
        return loaded.owned[s.API], [e.owned for e in told if e.owned is not None][-1]

    start = (await registry.position()).cursor
    steps: list[tuple[Kind, Model | None, set[str]]] = [
        (Kind.SERVICE, s.service(), set()),
        (Kind.SERVICE, s.service(fallback=s.fallback()), {"A"}),
        (Kind.ENDPOINT, s.endpoint("e", a=None, aaaa="2001:db8::1"), {"A", "AAAA"}),
        (Kind.ENDPOINT, None, {"A", "AAAA"}),
        (Kind.SERVICE, s.service(), {"A", "AAAA"}),
        (Kind.SERVICE, s.service(types=["AAAA"]), {"AAAA"}),
        (Kind.SERVICE, s.service(), {"AAAA"}),
        (Kind.ENDPOINT, s.endpoint("e"), {"A", "AAAA"}),
    ]
    for kind, value, expected in steps:
        if value is None:
            await registry.delete(kind, key, actor="a", if_match="*")
        else:
            await registry.put(kind, value, actor="a", if_match="*")
        assert await owned() == (frozenset(expected), frozenset(expected))
    await registry.acquire(s.request("h", "e2", a=None, aaaa="2001:db8::2"), actor="a", token_id="t")
    for name in ("e", "e2"):
        if name == "e2":
            await registry.delete(Kind.LEASE, "h", actor="a", if_match="*")
        else:
            await registry.delete(Kind.ENDPOINT, key, actor="a", if_match="*")
    await registry.delete(Kind.SERVICE, s.API, actor="a", if_match="*")
    assert (await registry.load()).owned == {}


async def test_an_override_ends_by_itself(registry: Registry, raw: Redis) -> None:
    written = await registry.put(Kind.OVERRIDE, s.override(seconds=60), actor="a", if_match=None)
    stored = await registry.get(Kind.OVERRIDE, "site:fra")
    assert stored is not None
    assert stored.etag == written.etag
    seconds, _ = await raw.time()
    assert abs(stored.value.until_ms - (seconds + 60) * 1000) < 3000
    assert (await registry.tick()).overrides == []
    before = await registry.position()
    await raw.zadd("dnsd:until", {"site:fra": seconds * 1000 - 1})
    assert (await registry.tick()).overrides == ["site:fra"]
    assert (await registry.tick()).overrides == []
    assert await registry.get(Kind.OVERRIDE, "site:fra") is None
    [event] = await registry.events(before.cursor, block_ms=0)
    assert (event.kind, event.key, event.value) == (Kind.OVERRIDE, "site:fra", None)
    [entry] = await registry.audit(after=f"{before.version}-0")
    assert (entry.action, entry.actor, entry.key, entry.after) == ("expire", "system:lease-clock", "site:fra", None)
    assert entry.before["state"] == "down"


async def test_an_override_of_which_a_part_is_left(registry: Registry, raw: Redis) -> None:
    """Its end and its seconds tell when it was made."""
    await registry.put(Kind.OVERRIDE, s.override(seconds=600), actor="a", if_match=None, left_s=39.5)
    stored = await registry.get(Kind.OVERRIDE, "site:fra")
    assert stored is not None
    seconds, micros = await raw.time()
    left_s = stored.value.until_ms / 1000 - seconds - micros / 1e6
    assert stored.value.seconds == 600
    assert 37 < left_s <= 39.5
    assert await raw.zscore("dnsd:until", "site:fra") == stored.value.until_ms


async def test_an_override_ended_by_hand_or_renewed_does_not_end_again(registry: Registry, raw: Redis) -> None:
    for target, name in (("site", "fra"), ("service", s.API)):
        await registry.put(Kind.OVERRIDE, s.override(name, target=target), actor="a", if_match=None)
    await registry.put(Kind.OVERRIDE, s.override(seconds=100), actor="a", if_match="*")
    await registry.delete(Kind.OVERRIDE, f"service:{s.API}", actor="a", if_match="*")
    assert await raw.zcard("dnsd:until") == 1
    assert (await registry.tick()).overrides == []


async def test_apply_is_all_or_nothing(registry: Registry) -> None:
    before = await registry.load()
    www = s.service("www.example")
    good = [
        Change("put", Kind.ENDPOINT, s.endpoint("e", service="www.example", site="tyo")),  # before what it refers to
        Change("put", Kind.SITE, s.site("tyo")), Change("put", Kind.SERVICE, www),
        Change("put", Kind.OVERRIDE, s.override("tyo")), Change("delete", Kind.SITE, key="sin")]
    with pytest.raises(errors.Invalid) as caught:
        await registry.apply([
            *good, Change("put", Kind.ENDPOINT, s.endpoint("f", site="nowhere")), Change("delete", Kind.SITE, key="no"),
            Change("delete", Kind.SITE, key="tyo")], actor="a", if_version=None)
    assert caught.value.faults == [Fault("/7", "site tyo is changed twice")]
    with pytest.raises(errors.Invalid) as caught:
        await registry.apply([
            *good, Change("put", Kind.ENDPOINT, s.endpoint("f", site="nowhere")),
            Change("delete", Kind.SITE, key="no")], actor="a", if_version=None)
    assert caught.value.faults == [
        Fault("/6", "there is no such object"), Fault("/5/site", "no such site: nowhere")]
    with pytest.raises(errors.PreconditionFailed):
        await registry.apply(good, actor="a", if_version=before.position.version - 1)
    assert await registry.load() == before

    written = await registry.apply(good, actor="a", if_version=before.position.version)
    assert (written.key, written.version) == ("", before.position.version + 1)
    after = await registry.load()
    assert set(after.sites) == {"fra", "ams", "tyo"}
    assert after.services["www.example"] == www
    assert after.endpoints["www.example/e"].site == "tyo"
    assert after.owned["www.example"] == {"A"}
    told = await registry.events(before.position.cursor, block_ms=0)
    assert {(e.id, e.version) for e in told} == {(after.position.cursor, written.version)}
    assert {(e.kind, e.key) for e in told} == {(c.kind, rules.target(c)) for c in good}
    [entry] = await registry.audit(after=f"{before.position.version}-0")
    assert (entry.action, entry.kind) == ("apply", "")
    assert entry.before["site/tyo"] is None
    assert entry.before["site/sin"]["id"] == "sin"
    assert entry.after["site/sin"] is None
    assert entry.after["endpoint/www.example/e"]["site"] == "tyo"


async def test_apply_moves_users_away_from_what_it_deletes(registry: Registry) -> None:
    await registry.put(Kind.ENDPOINT, s.endpoint("e"), actor="a", if_match=None)
    delete = Change("delete", Kind.SITE, key="fra")
    with pytest.raises(errors.Conflict) as caught:
        await registry.apply([delete], actor="a", if_version=None)
    assert caught.value.faults == [Fault("/0", f"in use by 1 endpoints: {s.API}/e")]
    move = Change("put", Kind.ENDPOINT, s.endpoint("e", site="ams"))
    await registry.apply([delete, move], actor="a", if_version=None)
    assert set((await registry.load()).sites) == {"ams", "sin"}


async def test_the_script_checks_again_what_apply_checked(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check of the whole state and the write another may have written."""
    monkeypatch.setattr("dnsd.registry.rules.check", lambda state, changes: [])
    await registry.put(Kind.ENDPOINT, s.endpoint("e"), actor="a", if_match=None)
    with pytest.raises(errors.RegistryError) as caught:
        await registry.apply([
            Change("delete", Kind.SITE, key="fra"), Change("put", Kind.ENDPOINT, s.endpoint("f", site="nowhere")),
            Change("delete", Kind.SERVICE, key="no.example"), Change("put", Kind.SITE, s.site("ams"), if_match=None),
        ], actor="a", if_version=None)
    assert caught.value.faults == [
        Fault("/0", "in use by 1 endpoints"), Fault("/1/site", "no such site: nowhere"),
        Fault("/2", "there is no such object"), Fault("/3", "it exists: say by If-Match which one is replaced")]
    assert caught.value.status == errors.Invalid.status


async def test_concurrent_writers_get_strictly_unique_versions(registry: Registry) -> None:
    before = await registry.position()
    written = await s.in_turns(
        registry.put(Kind.SITE, s.site(f"s{i % 50}"), actor=f"w{i}", if_match="*") for i in range(200))
    versions = sorted(one.version for one in written)
    assert versions == list(range(before.version + 1, before.version + 201))
    trail = await registry.audit(after=f"{before.version}-0", limit=1000)
    assert [entry.version for entry in trail] == versions
    actors = {one.version: f"w{i}" for i, one in enumerate(written)}
    assert [entry.actor for entry in trail] == [actors[version] for version in versions]
    told = await registry.events(before.cursor, block_ms=0)
    assert [event.version for event in told] == versions


async def test_one_of_many_with_the_same_etag_wins(registry: Registry) -> None:
    made = await registry.put(Kind.SITE, s.site("x"), actor="a", if_match=None)
    outcomes = await asyncio.gather(*(
        registry.put(Kind.SITE, s.site("x", capacity=i + 1), actor="a", if_match=made.etag) for i in range(20)),
        return_exceptions=True)
    assert sum(isinstance(one, errors.PreconditionFailed) for one in outcomes) == 19


async def test_two_registries_share_one_history(server: Server, empty: Registry) -> None:
    other, third = await asyncio.gather(Registry.open(server.url), Registry.open(server.url, prefix="elsewhere"))
    assert await other.position() == await empty.position()
    assert (await third.position()).epoch != (await empty.position()).epoch
    await s.fill(other)
    assert len((await empty.load()).sites) == 3
    assert (await third.load()).sites == {}
    await asyncio.gather(other.close(), third.close())


async def test_an_epoch_grows_with_time(empty: Registry, raw: Redis) -> None:
    first = await empty.position()
    assert 0 < first.epoch < 2**63
    await raw.flushall()
    second = await empty.position()
    assert second.epoch > first.epoch
    assert second.version == 0


async def test_audit_pages_over_both_trails(registry: Registry) -> None:
    for i in range(5):
        await registry.put(Kind.SITE, s.site(f"p{i}"), actor="a", if_match=None)
        await registry.acquire(s.request(f"h{i}", f"e{i}"), actor="b", token_id="t")
    got: list[int] = []
    after = ""
    while page := await registry.audit(after=after, limit=3):
        got += [entry.version for entry in page]
        after = page[-1].id
    assert got == list(range(1, (await registry.position()).version + 1))


async def test_a_refused_write_leaves_no_trace(registry: Registry, raw: Redis) -> None:
    before = await registry.load(), await raw.xlen("dnsd:audit"), await raw.xlen("dnsd:events")
    with pytest.raises(errors.Invalid):
        await registry.put(Kind.ENDPOINT, s.endpoint("e", site="x"), actor="a", if_match=None)
    with pytest.raises(errors.Invalid):
        await registry.acquire(s.request("h", "e", at="x"), actor="a", token_id="t")
    assert (await registry.load(), await raw.xlen("dnsd:audit"), await raw.xlen("dnsd:events")) == before
