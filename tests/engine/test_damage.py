"""Files that are not what they should be: the engine refuses them, or answers from them without leaving them.

That nothing outside is read is what the sanitizers watch (`make asan`); without them only a crash would show.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from dnsd import metrics
from dnsd.compile.service import record
from dnsd.engine import door as engine
from dnsd.image import layout
from tests.engine.pairs import CLIENTS, draw
from tests.engine.test_equality import MAPS, world
from tests.golden import packets as golden
from tests.golden.world import NOW

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def damaged(rnd: random.Random, octets: bytes, first: int, last: int) -> bytes:
    """A few octets changed between two offsets; sometimes the end cut off."""
    found = bytearray(octets)
    for _ in range(rnd.randint(1, 3)):
        at = rnd.randrange(first, min(last, len(found)))
        found[at] = rnd.choice(INTERESTING) if rnd.random() < 0.7 else rnd.randrange(256)
    return bytes(found[: rnd.randrange(len(found))] if rnd.random() < 0.05 else found)


def answers(sight: Any, rnd: random.Random) -> None:
    """Whatever it says, it says it in the bounds of a reply."""
    door = engine.Door(memoryview(bytearray(8 * metrics.SLOTS)).cast("Q"))
    for _ in range(25):
        packet = draw(rnd)
        reply = door.answer(packet, rnd.choice(CLIENTS), NOW, sight)
        assert reply is None or isinstance(reply, int) or (len(reply) <= 1232 and reply[:2] == packet[:2])


def taken(buffer: bytes, records: dict[int, bytes], tables: dict[int, bytes]) -> Any:
    """The Sight, None where the engine refuses."""
    try:
        return engine.Sight(buffer, records, tables, b"id")
    except ValueError:
        return None


@pytest.mark.parametrize("part", ["head", "nodes", "rrsets", "zones", "all"])
def test_images(part: str) -> None:
    held, tables = world()
    whole = bytes(held.buffer)
    sections = [layout.SECTION.read(whole, layout.HEADER.size + i * layout.SECTION.size) for i in range(8)]
    places = {found["kind"]: (found["offset"], found["offset"] + found["size"]) for found in sections}
    first, last = {
        "head": (8, layout.HEADER.size + 8 * layout.SECTION.size), "nodes": places[layout.S_NODES],
        "rrsets": places[layout.S_RRSETS], "zones": places[layout.S_ZONES], "all": (0, len(whole))}[part]
    rnd = random.Random(part)
    refused = 0
    for _ in range(150):
        sight = taken(damaged(rnd, whole, first, last), {}, tables)
        if sight is None:
            refused += 1
        else:
            answers(sight, rnd)
    assert 0 < refused < 150


def test_each_slot_of_the_hash_refers_to_a_node() -> None:
    held, _ = world()
    whole = bytes(held.buffer)
    sections = [layout.SECTION.read(whole, layout.HEADER.size + i * layout.SECTION.size) for i in range(8)]
    found = next(one for one in sections if one["kind"] == layout.S_HASH)
    for at in range(found["offset"], found["offset"] + found["size"], 4):
        with pytest.raises(ValueError, match="refers to no node"):
            engine.Sight(whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :], {}, {}, b"id")


def test_tables() -> None:
    held, tables = world()
    rnd = random.Random(1)
    sections = layout.map_sections(3, 3, 4, 4, 1, 0)
    refused = 0
    for number in range(200):
        first, last = (8, layout.MAP_HEADER.size) if number % 4 == 0 else rnd.choice([
            (offset, offset + max(1, count) * 4) for offset, count, _ in sections.values() if count])
        sight = taken(bytes(held.buffer), {}, {0: damaged(rnd, tables[0], first, last)})
        if sight is None:
            refused += 1
        else:
            answers(sight, rnd)
    assert 0 < refused < 200


def test_records() -> None:
    held, tables = world()
    rnd = random.Random(2)
    refused = 0
    views = golden.services()
    for number in range(400):
        view = views[number % len(views)]
        node = held.get(view.owner)
        assert node is not None
        octets = record(view, MAPS)
        sight = taken(bytes(held.buffer), {node.record: damaged(rnd, octets, 0, len(octets))}, tables)
        if sight is None:
            refused += 1
        else:
            answers(sight, rnd)
    assert 0 < refused < 400


@pytest.mark.parametrize("buffer", [b"", b"DNSDIMG\0", bytes(64), bytes(4096)])
def test_no_image_at_all(buffer: bytes) -> None:
    with pytest.raises(ValueError, match=r"image|sections"):
        engine.Sight(buffer, {}, {}, b"id")


def test_what_is_refused_leaves_what_was() -> None:
    held, tables = world()
    sight = engine.Sight(held.buffer, {}, tables, b"id")
    with pytest.raises(ValueError, match="no such record"):
        sight.patched([(10**6, b"")], b"id")
    with pytest.raises(ValueError, match="not a record"):
        sight.patched([(0, bytes(200))], b"id")
    with pytest.raises(ValueError, match="identity"):
        sight.patched([], bytes(600))
    answers(sight, random.Random(3))
