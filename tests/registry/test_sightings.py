"""What nodes tell each other, over the real scripts and over the double that stands for them elsewhere."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dnsd.registry import scripts, sightings
from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.models import Judged, Kind, Verdict
from dnsd.registry.store import Registry
from tests.registry import samples, sightings_double

pytestmark = pytest.mark.asyncio
Store = sightings.Sightings | sightings_double.Sightings
OTHER = "other.demo.example"


class Stand(NamedTuple):
    """A store of either kind, and its clock moved by so many ms."""

    store: Store
    later: Callable[[int], Awaitable[None]]


def double() -> Stand:
    time = [1_900_000_000_000]
    made = sightings_double.Sightings(lambda: time[0])
    made.services = {samples.API, OTHER}

    async def later(ms: int) -> None:
        time[0] += ms

    return Stand(made, later)


@pytest_asyncio.fixture
async def real(registry: Registry, raw: Redis) -> Stand:
    """The scripts. Their clock is the machine's, so what has been is moved back instead."""
    await registry.put(Kind.SERVICE, samples.service(OTHER), actor="test", if_match=None)

    async def later(ms: int) -> None:
        for node, text in (await raw.hgetall("dnsd:observers")).items():
            seen, _, group = text.partition(" ")
            await raw.hset("dnsd:observers", node, f"{int(seen) - ms} {group}")
        till = int(await raw.hget("dnsd:meta", "builder_till") or 0)
        await raw.hset("dnsd:meta", "builder_till", till - ms)

    return Stand(registry.sightings, later)


@pytest_asyncio.fixture(params=["double", "real"])
async def stand(request: pytest.FixtureRequest, real: Stand) -> Stand:
    return double() if request.param == "double" else real


def body(n: int, votes: dict[str, Any], *, whole: bool = False, run: str = "r", blind: bool = False) -> dict[str, Any]:
    return {"votes": votes, "whole": whole, "blind": blind, "run": run, "n": n}


def verdict(name: str = samples.API, at_ms: int = 5, **cells: int) -> Verdict:
    return Verdict(service=name, at_ms=at_ms, cells={key: Judged(state, state) for key, state in cells.items()})


async def test_who_is_there(stand: Stand) -> None:
    store = stand.store
    first = await store.observe("a", "eu", builds=0)
    assert (first.builder, first.fence, first.ready, set(first.nodes)) == ("", 0, False, {"a"})
    await store.observe("b", "", builds=0)
    await store.observe("c", "-", builds=0)
    await stand.later(4000)
    seen = (await store.observe("a", "eu us", builds=0)).nodes
    assert {name: one.group for name, one in seen.items()} == {"a": "eu us", "b": ""}, "who sees nothing is no observer"
    assert seen["a"].ago_ms < 1000 <= 4000 <= seen["b"].ago_ms < 5000
    again = (await store.observe("c", "-", builds=0)).nodes
    assert again["a"].seen == seen["a"].seen
    await stand.later(1)
    assert (await store.observe("b", "", builds=0)).nodes["b"].seen != seen["b"].seen


async def test_who_is_gone_for_long_is_forgotten_with_its_votes(stand: Stand) -> None:
    store = stand.store
    await store.observe("a", "eu", builds=0, votes=body(1, {"x": [1, 0, ""]}))
    await stand.later(59_000)
    assert set((await store.observe("b", "eu", builds=0)).nodes) == {"a", "b"}
    await stand.later(2000)
    assert set((await store.observe("b", "eu", builds=0)).nodes) == {"b"}
    assert (await store.votes())[1] == {}


async def test_one_of_those_who_can_builds(stand: Stand) -> None:
    store = stand.store
    assert (await store.observe("a", "", builds=1)).builder == "a"
    other = await store.observe("b", "", builds=1)
    assert (other.builder, other.fence) == ("a", 1)
    await stand.later(1300)
    assert (await store.observe("c", "", builds=0)).builder == "", "its time is over"
    taken = await store.observe("b", "", builds=1)
    assert (taken.builder, taken.fence) == ("b", 2)
    assert (await store.observe("a", "", builds=1)).builder == "b"
    assert (await store.observe("b", "", builds=1)).fence == 2, "it goes on"
    assert (await store.observe("b", "", builds=0)).builder == "", "it cannot any more"
    assert (await store.observe("a", "", builds=1)).fence == 3


async def test_a_lease_from_the_future_holds_nobody_up(stand: Stand) -> None:
    """The store's clock was set back an hour: nobody waits so long."""
    store = stand.store
    await store.observe("a", "", builds=1)
    await stand.later(-3_600_000)
    assert (await store.observe("b", "", builds=1)).builder == "b"


async def test_all_is_decided_once_a_builder_says_so_until_nobody_built_for_long(stand: Stand) -> None:
    store = stand.store
    assert not (await store.observe("a", "", builds=1)).ready
    assert (await store.observe("a", "", builds=2)).ready
    await stand.later(9000)
    assert (await store.observe("b", "", builds=1)).ready, "who takes over goes on from what was decided"
    await stand.later(20_000)
    assert (await store.observe("c", "", builds=0)).ready, "nobody builds, and so nobody goes by it"
    assert not (await store.observe("a", "", builds=1)).ready
    await stand.later(20_000)
    assert (await store.observe("a", "", builds=2)).ready


async def test_what_is_said_is_followed(stand: Stand) -> None:
    store = stand.store
    start, found = await store.votes()
    assert (start, found) == ("0-0", {})
    await store.observe("a", "eu", builds=0, news=body(1, {"x": [1, 0, ""]}))
    await store.tell("b", {"reports": [1]})
    cursor, news = await store.follow(start, block_ms=1)
    assert [(one.node, one.body) for one in news] == [("a", body(1, {"x": [1, 0, ""]})), ("b", {"reports": [1]})]
    assert news[0].at_ms <= news[1].at_ms
    assert await store.follow(cursor, block_ms=1) == (cursor, [])
    await store.observe("a", "eu", builds=0)
    assert (await store.follow(cursor, block_ms=1))[1] == [], "being there is no news"
    assert (await store.votes())[0] == cursor


@pytest.mark.parametrize(("kept", "said", "known"), [
    (body(1, {"x": [1, 0, ""]}), body(2, {"x": [3, 0, "timeout"]}), {"x": [3, 0, "timeout"]}),
    (body(1, {"x": [1, 0, ""]}), body(2, {"y": [3, 0, ""]}), {"x": [1, 0, ""], "y": [3, 0, ""]}),
    (body(1, {"x": [1, 0, ""]}), body(2, {"y": [3, 0, ""]}, whole=True), {"y": [3, 0, ""]}),
    (body(2, {"x": [1, 0, ""]}), body(2, {"x": [3, 0, ""]}), {"x": [1, 0, ""]}),
    (body(1, {"x": [1, 0, ""]}, run="new"), body(9, {"x": [3, 0, ""]}), {"x": [1, 0, ""]}),
    (body(1, {"x": [1, 0, ""]}), {"reports": []}, {"x": [1, 0, ""]}),
    (body(1, {"x": [1, 0, ""]}), {"votes": 7, "run": "r", "n": 2}, {"x": [1, 0, ""]}),
    (body(1, {"x": [1, 0, ""]}), {"votes": {}, "run": "r", "n": "2"}, {"x": [1, 0, ""]}),
    ({"votes": 5, "run": "r", "n": 1}, body(2, {"x": [3, 0, ""]}), 5),
    ({"votes": {}}, {"votes": {"x": 1}}, {}),
])
async def test_who_comes_later_misses_nothing(
    stand: Stand, kept: dict[str, Any], said: dict[str, Any], known: object) -> None:
    """A node keeps all its votes a moment after it has said the last of them."""
    store = stand.store
    await store.observe("a", "eu", builds=0, votes=kept)
    await store.observe("a", "eu", builds=0, news=said)
    cursor, found = await store.votes()
    assert found["a"]["votes"] == known
    assert await store.follow(cursor, block_ms=1) == (cursor, [])


async def test_votes_that_cannot_be_read_are_none(registry: Registry, raw: Redis) -> None:
    await raw.hset("dnsd:votes", mapping={"a": "no", "b": "[]", "c": "{}"})
    await raw.xadd("dnsd:seen", {"node": "d", "news": "\udcff".encode("utf-8", "surrogateescape")})
    await raw.xadd("dnsd:seen", {"other": "field"})
    await raw.xadd("dnsd:seen", {"node": "d", "news": "[]"})
    last = await raw.xadd("dnsd:seen", {"node": "d", "news": "{}"})
    assert (await registry.sightings.votes())[1] == {"c": {}}
    cursor, news = await registry.sightings.follow("0-0", block_ms=1)
    assert (cursor, [one.body for one in news]) == (last, [{}])


async def test_only_who_builds_decides(stand: Stand) -> None:
    store = stand.store
    fence = (await store.observe("a", "", builds=1)).fence
    before = await store.decide("a", fence, [(samples.API, verdict(x=3))])
    assert await store.decide("a", fence, []) in (0, before)
    for node, of in (("b", fence), ("a", fence - 1), ("a", fence + 1)):
        with pytest.raises(Conflict):
            await store.decide(node, of, [(samples.API, verdict(x=1))])
    await stand.later(1300)
    assert await store.decide("a", fence, [(samples.API, verdict(x=1))]) == before + 1, "while no other has begun"
    await store.observe("b", "", builds=1)
    with pytest.raises(Conflict):
        await store.decide("a", fence, [(samples.API, verdict(x=3))])


async def test_what_is_gone_is_not_decided_on(stand: Stand) -> None:
    store = stand.store
    fence = (await store.observe("a", "", builds=1)).fence
    first = await store.decide("a", fence, [(samples.API, verdict(x=3)), ("gone.example", verdict("gone.example"))])
    assert await store.decide("a", fence, [("gone.example", verdict("gone.example")), (OTHER, None)]) == first
    assert await store.decide("a", fence, [(samples.API, None)]) == first + 1
    assert await store.decide("a", fence, [(samples.API, None)]) == first + 1


@pytest.mark.parametrize("seed", range(4))
async def test_the_double_says_what_the_scripts_say(real: Stand, seed: int) -> None:
    other, chance = double(), random.Random(seed)
    assert isinstance(other.store, sightings_double.Sightings)
    other.store.unkept_ms = 1 << 50  # the real one's stream has no other time
    for step in range(60):
        node, what = chance.choice("abc"), chance.randrange(6)
        said = body(step, {chance.choice("xyz"): [chance.randrange(4), 0, ""]}, whole=chance.random() < 0.3)
        calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
            ("observe", (node, "-" if node == "c" else "eu"), {
                "builds": chance.randrange(3), "news": chance.choice([None, said]),
                "votes": chance.choice([None, said])}),
            ("votes", (), {}), ("tell", (node, {"reports": step}), {}),
            ("decide", (node, chance.randrange(4), [
                (chance.choice([samples.API, OTHER, "gone.example"]), chance.choice([None, verdict(x=1)]))]), {}),
            ("follow", ("0-0",), {"block_ms": 1}),
        ]
        if what == 5:
            ms = chance.choice([500, 1500, 5000, 30_100])
            await real.later(ms)
            await other.later(ms)
            continue
        name, args, more = calls[what]
        assert await _reply(real.store, name, *args, **more) == await _reply(other.store, name, *args, **more), (
            step, name)


async def _reply(store: Store, name: str, *args: Any, **more: Any) -> object:
    """What a call gives, without what the clocks alone make of it."""
    try:
        found = await getattr(store, name)(*args, **more)
    except (Conflict, Unavailable) as error:
        return type(error)
    match name:
        case "observe":
            return found[1:4], {node: (one.ago_ms // 500, one.group) for node, one in found.nodes.items()}
        case "votes":
            return found[1]
        case "follow":
            return [(one.node, one.body) for one in found[1]]
    return None


async def test_what_is_decided_is_a_write_like_any_other(registry: Registry) -> None:
    fence = (await registry.sightings.observe("a", "", builds=1)).fence
    before = await registry.position()
    version = await registry.sightings.decide("a", fence, [(samples.API, verdict(x=3))])
    assert version == before.version + 1
    [event] = await registry.events(before.cursor, block_ms=1)
    assert (event.kind, event.key, event.value) == (Kind.VERDICT, samples.API, verdict(x=3))
    assert (await registry.load()).verdicts == {samples.API: verdict(x=3)}
    await registry.delete(Kind.SERVICE, samples.API, actor="test", if_match="*")
    assert (await registry.load()).verdicts == {}
    await registry.put(Kind.SERVICE, samples.service(), actor="test", if_match=None)
    assert (await registry.load()).verdicts == {}, "a service that is made again begins anew"


async def test_a_verdict_that_says_nonsense_is_left_out(registry: Registry, raw: Redis) -> None:
    """Of a later version perhaps: it must not stop a node that knows no such state."""
    for spoilt in ('"cells": {"x": [4, 1]}', '"cells": {"x": [1, -1]}', '"cells": {"x": [1, 1, 0, 0, 2000]}',
                   '"removals": {"A": []}', '"up": 5'):
        await raw.hset("dnsd:verdict", samples.API, f'9 {{"service": "{samples.API}", "at_ms": 1, {spoilt}}}')
        loaded = await registry.load()
        assert (loaded.verdicts, [fault.place for fault in loaded.corrupt]) == ({}, [f"verdict/{samples.API}"]), spoilt


async def test_many_verdicts_go_in_portions(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = (await registry.sightings.observe("a", "", builds=1)).fence
    start = (await registry.position()).version
    monkeypatch.setattr(sightings, "DECIDED", 3)
    some = [(samples.API, verdict(at_ms=number)) for number in range(7)]
    assert await registry.sightings.decide("a", fence, some) == start + 3
    monkeypatch.setattr(sightings, "OCTETS", 100)
    wide = [(samples.API, Verdict(service=samples.API, at_ms=1, up=("x" * 60,))) for _ in range(4)]
    assert await registry.sightings.decide("a", fence, wide) == start + 7, "by octets too"


async def test_the_largest_verdict_there_can_be(registry: Registry) -> None:
    """A service of a thousand endpoints with two addresses each, all of them down."""
    fence = (await registry.sightings.observe("a", "", builds=1)).fence
    places = [f"{'e' * 58}{number:05}/{type_}@{'f' * 16}.{'0' * 6}"
              for number in range(1000) for type_ in ("A", "AAAA")]
    cells = {place: Judged(3, 3, 1, 1, 125, True, False, "certificate is not good for it") for place in places}
    removals = {"1": tuple((place[:63], 1_900_000_000_000) for place in places[::2])}
    large = Verdict(service=samples.API, at_ms=1, cells=cells, removals=removals)
    before = await registry.position()
    await registry.sightings.decide("a", fence, [(samples.API, large)])
    [event] = await registry.events(before.cursor, block_ms=1)
    assert event.value == large
    assert len(large.model_dump_json(exclude_defaults=True)) < 512 * 1024


async def test_the_stream_is_bounded_in_octets_and_entries(registry: Registry, raw: Redis) -> None:
    wide = {"votes": {"x": "y" * 1_000_000}}
    for _ in range(19):
        await registry.sightings.tell("a", wide)
    assert 10 <= await raw.xlen("dnsd:seen") <= 17
    assert await raw.xlen("dnsd:seen") >= await raw.llen("dnsd:seen-sizes")
    assert int(await raw.hget("dnsd:meta", "seen_bytes")) <= 16 * 1024 * 1024
    many = raw.pipeline()
    for _ in range(4400):
        many.xadd("dnsd:seen", {"node": "a", "news": "{}"})
        many.rpush("dnsd:seen-sizes", 1)
    await many.execute()
    await registry.sightings.tell("a", {})
    assert 4096 <= await raw.xlen("dnsd:seen") < 4300


async def test_without_a_history_there_is_nothing_to_say(registry: Registry, raw: Redis) -> None:
    await raw.flushall()
    store = registry.sightings
    for call in (store.observe("a", "", builds=1), store.tell("a", {}), store.decide("a", 1, [(OTHER, None)])):
        with pytest.raises(Unavailable, match="no history"):
            await call


async def test_what_a_user_of_the_documentation_may_do_is_enough(registry: Registry, raw: Redis, server: Any) -> None:
    text = (Path(__file__).parents[2] / "docs/registry.md").read_text("utf-8")
    [line] = [line.strip() for line in text.splitlines() if line.strip().startswith("ACL SETUSER")]
    await raw.execute_command(*line.replace("<password>", "secret").split())
    other = Redis.from_url(server.url, username="dnsd", password="secret", protocol=2)
    try:
        for script in (scripts.OBSERVE, scripts.TELL):
            keys = [f"dnsd:{name}" for name in scripts.KEYS]
            words = ("a", "", "1", json.dumps(body(1, {})), "{}")
            await other.execute_command("EVAL", script.text, len(keys), *keys, *words)
        keys = [f"dnsd:{name}" for name in scripts.KEYS]
        reply = await other.execute_command(
            "EVAL", scripts.DECIDE.text, len(keys), *keys, "a", "1", samples.API, verdict(x=1).model_dump_json())
        assert reply[0] == b"ok"
        await other.execute_command("XRANGE", "dnsd:seen", "(1-0", "+")
        await other.execute_command("XREVRANGE", "dnsd:seen", "+", "-", "COUNT", 1)
        await other.execute_command("HGETALL", "dnsd:votes")
    finally:
        await other.aclose()
        await raw.execute_command("ACL", "DELUSER", "dnsd")
