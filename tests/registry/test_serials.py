"""Serials of transferred zones: one for each content, the same for all nodes, never back at a node."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from dnsd.registry.store import Registry
from dnsd.registry.values import ZoneContent
from tests.registry.conftest import Server

pytestmark = pytest.mark.asyncio

ZONE = "demo.example."
TOP = 2**32


class Node:
    """What a node remembers of the zone."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.served: int | None = None
        self.digest = ""

    async def serve(self, digest: str, floor: int = 1) -> int:
        content = ZoneContent(ZONE, digest, floor, self.served, digest == self.digest)
        [serial] = await self.registry.serials([content])
        assert self.served is None or (serial - self.served) % TOP < TOP // 2, "went back"
        assert digest == self.digest or serial != self.served, "other content, same serial"
        self.served, self.digest = serial, digest
        return serial


async def test_the_first_serial_is_the_files(empty: Registry) -> None:
    assert await Node(empty).serve("aa", 2026010100) == 2026010100


async def test_the_serial_moves_with_the_content_and_only_with_it(empty: Registry) -> None:
    node = Node(empty)
    assert [await node.serve(digest) for digest in ("aa", "aa", "bb", "bb", "cc")] == [1, 1, 2, 2, 3]
    assert await node.serve("cc", 50) == 3, "another serial in the file is no other content"
    assert await node.serve("dd", 50) == 50
    assert await node.serve("ee", 7) == 51


async def test_two_nodes_agree_and_one_that_is_late_bumps_nothing(empty: Registry) -> None:
    first, second = Node(empty), Node(empty)
    assert (await first.serve("aa"), await second.serve("aa")) == (1, 1)
    assert await first.serve("bb") == 2
    for _ in range(5):
        assert (await second.serve("aa"), await first.serve("bb")) == (1, 2)
    fresh = Node(empty)  # has lost its memory, and still the old file
    assert await fresh.serve("aa") == 1
    assert await second.serve("bb") == 2


async def test_what_is_taken_back_is_new_to_secondaries(empty: Registry) -> None:
    first, second = Node(empty), Node(empty)
    assert (await first.serve("aa"), await second.serve("aa")) == (1, 1)
    assert (await first.serve("bb"), await second.serve("bb")) == (2, 2)
    assert (await first.serve("aa"), await second.serve("aa")) == (3, 3)


async def test_a_store_that_has_lost_all_believes_the_nodes(empty: Registry, raw: Redis) -> None:
    first, second, third = Node(empty), Node(empty), Node(empty)
    for digest in ("aa", "bb", "cc"):
        await first.serve(digest, 40)
        await third.serve(digest, 40)
    await second.serve("aa", 40)
    await raw.flushall()
    assert await second.serve("aa", 40) == 40
    assert await first.serve("cc", 40) == 42
    assert await second.serve("aa", 40) == 40
    assert await third.serve("dd", 40) == 43
    assert await second.serve("dd", 40) == 43


async def test_more_contents_than_are_kept(empty: Registry, raw: Redis) -> None:
    node, late = Node(empty), Node(empty)
    await late.serve("ff00")
    assert [await node.serve(f"{n:04x}") for n in range(40)] == list(range(2, 42))
    assert len((await raw.hget("dnsd:serials", ZONE)).split()) == 16
    assert await late.serve("ff00") == 1, "it has not moved, and does not move others"
    assert await node.serve(f"{39:04x}") == 41
    assert await late.serve(f"{39:04x}") == 41


async def test_serials_are_counted_in_a_circle(empty: Registry) -> None:
    node = Node(empty)
    assert [await node.serve(digest, TOP - 1) for digest in ("aa", "bb", "cc")] == [TOP - 1, 0, 1]
    assert await node.serve("dd", 0) == 2


async def test_many_zones_at_once(empty: Registry) -> None:
    contents = [ZoneContent(f"z{n}.example.", "ab", n) for n in range(250)]
    assert await empty.serials(contents) == list(range(250))
    assert await empty.serials([]) == []


async def test_no_event_comes_of_it(empty: Registry) -> None:
    before = await empty.position()
    await Node(empty).serve("aa")
    assert await empty.position() == before


@pytest.mark.parametrize("spoilt", ["", "junk", "9", "zz:zz", "99999999999999999999:aa", "7:bb junk 8:cc"])
async def test_a_spoilt_value_is_no_obstacle(empty: Registry, raw: Redis, spoilt: str) -> None:
    await raw.hset("dnsd:serials", ZONE, spoilt)
    node = Node(empty)
    first = await node.serve("aa", 5)
    assert 0 <= first < TOP
    assert await node.serve("bb", 5) == (first + 1) % TOP


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["aa", "bb", "cc", "dd"])), max_size=25))
async def test_whatever_nodes_do(empty: Registry, raw: Redis, steps: list[tuple[int, str]]) -> None:
    """No node goes back or gives other content the same serial (`Node.serve`); who settle on one content agree."""
    await raw.flushall()
    nodes = [Node(empty) for _ in range(3)]
    for number, digest in steps:
        await nodes[number].serve(digest)
    for _ in range(2):
        last = {await node.serve("ee") for node in nodes}
    assert len(last) == 1


async def test_the_server_is_the_one_asked(server: Server) -> None:
    registry = await Registry.open(server.url, prefix="other")
    try:
        assert await Node(registry).serve("aa", 3) in range(1, TOP)
    finally:
        await registry.close()
