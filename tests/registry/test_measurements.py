"""Round trips in real stores: the log and its bounds, parts and state, fences, what a reader meets."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from redis.asyncio import Redis

from dnsd.registry import measurements
from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.store import Registry

pytestmark = pytest.mark.asyncio
STATE = {"number": 3, "sites": ["a"], "parts": {"7": 3}, "between": {}}


@pytest.fixture
def store(registry: Registry) -> measurements.Measurements:
    return registry.measurements


async def fence(registry: Registry, node: str = "a") -> int:
    return (await registry.sightings.observe(node, "", builds=1)).fence


async def test_what_is_logged_is_read_in_order(store: measurements.Measurements) -> None:
    assert not await store.logged()
    assert await store.follow("0-0", block_ms=0) == ("0-0", [])
    for number in range(3):
        await store.log(b"entry\0%d" % number)
    assert await store.logged()
    cursor, found = await store.follow("0-0", block_ms=0)
    assert found == [b"entry\x000", b"entry\x001", b"entry\x002"]
    assert await store.follow(cursor, block_ms=10) == (cursor, [])
    await store.log(b"late")
    assert (await store.follow(cursor, block_ms=1000))[1] == [b"late"]


async def test_the_log_is_bounded(store: measurements.Measurements, raw: Redis) -> None:
    for _ in range(70):
        await store.log(b"x" * (1 << 20))
    assert 60 <= await raw.xlen("dnsd:rtt-log") <= 64
    assert int(await raw.hget("dnsd:meta", "rtt_log_bytes")) <= 64 << 20
    assert len((await store.follow("0-0", block_ms=0))[1]) == await raw.xlen("dnsd:rtt-log")


async def test_a_table_is_its_state_and_its_parts(registry: Registry, store: measurements.Measurements) -> None:
    assert await store.state() is None
    mine = await fence(registry)
    await store.decide("a", mine, {"7:3": b"\0part", "8:2": b"old"}, STATE)
    assert await store.state() == STATE
    assert await store.parts(["7:3", "9:9", "8:2"]) == {"7:3": b"\0part", "8:2": b"old"}
    await store.discard("a", mine, ["7:3"])
    assert await store.parts(["7:3", "8:2"]) == {"7:3": b"\0part"}
    assert await store.parts([]) == {}


async def test_cells_are_kept_and_read_back(registry: Registry, store: measurements.Measurements) -> None:
    mine = await fence(registry)
    rows = [(n.to_bytes(8, "big"), bytes([n % 256]) * 300) for n in range(5000)]
    await store.keep("a", mine, b"names", rows)
    await store.keep("a", mine, b"names 2", [(rows[0][0], b""), (rows[1][0], b"new")])
    await store.reach("a", mine, "5-1")
    found = {key: value async for page in store.cells() for key, value in page}
    assert found == dict(rows[2:]) | {rows[1][0]: b"new"}
    assert await store.kept() == measurements.Kept(None, b"names 2", "5-1")


async def test_only_the_builder_writes(registry: Registry, store: measurements.Measurements, raw: Redis) -> None:
    mine = await fence(registry)
    await raw.hset("dnsd:meta", mapping={"builder": "b", "builder_fence": mine + 1})
    for call in (store.decide("a", mine, {"1:1": b"x"}, STATE), store.keep("a", mine, b"n", []),
                 store.reach("a", mine, "1-1"), store.discard("a", mine, [])):
        if call.__name__ == "discard":
            await call  # nothing to delete: nothing is written
            continue
        with pytest.raises(Conflict):
            await call
    assert await store.state() is None


@pytest.mark.parametrize("text", ["", "[]", "no json", '{"number": "3"}', '{"number": 3, "parts": [], "sites": []}'])
async def test_a_state_that_cannot_be_read(store: measurements.Measurements, raw: Redis, text: str) -> None:
    await raw.hset("dnsd:rtt-state", "state", text)
    with pytest.raises(ValueError, match=r"state|JSON|Expecting"):
        await store.state()
    with pytest.raises(ValueError, match=r"state|JSON|Expecting"):
        await store.kept()
    assert (await store.kept(sound=False)).state is None


async def test_without_a_history_nothing_is_written(store: measurements.Measurements, raw: Redis) -> None:
    await raw.flushall()
    for call in (store.log(b"x"), store.decide("a", 1, {"1:1": b"x"}, STATE), store.reach("a", 1, "1-1")):
        with pytest.raises(Unavailable, match="no history"):
            await call


async def test_measurements_are_no_change_of_the_fleet(registry: Registry, store: measurements.Measurements) -> None:
    before = await registry.position()
    mine = await fence(registry)
    await store.log(b"x")
    await store.decide("a", mine, {"1:1": b"x"}, STATE)
    await store.keep("a", mine, b"n", [(b"8 octets", b"x")])
    assert await registry.position() == before
    assert len((await registry.load()).corrupt) == 0


async def test_the_user_of_the_documentation_may_do_it(registry: Registry, raw: Redis, server: Any) -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/registry.md").read_text("utf-8")
    [line] = [line.strip() for line in text.splitlines() if line.strip().startswith("ACL SETUSER")]
    await raw.execute_command(*line.replace("<password>", "secret").split())
    other = await Registry.open(server.url.replace("unix://", "unix://dnsd:secret@"))
    try:
        mine = await fence(other)
        store = other.measurements
        await store.log(b"x")
        await store.follow("0-0", block_ms=10)
        await store.decide("a", mine, {"1:1": b"x", "1:2": b"y"}, STATE)
        await store.discard("a", mine, ["1:2"])
        await store.keep("a", mine, b"n", [(b"8 octets", b"x")])
        assert [page async for page in store.cells()] == [[(b"8 octets", b"x")]]
        assert (await store.parts(["1:1", "1:2"])) == {"1:2": b"y"}
        assert await store.kept() is not None
        assert await store.logged()
    finally:
        await other.close()
        await raw.execute_command("ACL", "DELUSER", "dnsd")


@pytest.mark.parametrize("value", [
    b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, *(json.dumps(STATE | wrong).encode() for wrong in (
        {"number": "3"}, {"number": -1}, {"number": True}, {"number": 2.5}, {"sites": "a"}, {"sites": [1]},
        {"parts": {"256": 1}}, {"parts": {"x": 1}}, {"parts": {"1": None}}, {"parts": {"1": 1.5}}, {"parts": []},
        {"between": []}, {"between": {"a": 1}}, {"between": {"a": {"b": "1"}}}, {"between": {"a": {"b": math.inf}}},
        {"between": {"a": {"b": math.nan}}}, {"at_ms": None}, {"at_ms": 1e400}, {"by": 1}, {"reporters": 1},
        {"reporters": {"a": 1}}, {"reporters": {"a": {"distrusted": 1}}}))])
async def test_what_is_no_state(store: measurements.Measurements, raw: Redis, value: bytes) -> None:
    await raw.hset("dnsd:rtt-state", "state", value)
    with pytest.raises(ValueError, match="no state of measurements"):
        await store.state()


async def test_a_state_with_all_there_may_be(registry: Registry, store: measurements.Measurements) -> None:
    state = STATE | {"between": {"a": {"b": 0.0, "c": 150}}, "at_ms": 5, "by": "n", "reporters": {
        "one": {"cells": 5}, "two": {"cells": 1, "distrusted": "it lies"}}}
    await store.decide("a", await fence(registry), {}, state)
    assert await store.state() == state
