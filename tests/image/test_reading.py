"""Images read back: damage at any octet, deltas, and that a delta and a full image answer alike."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.compile import image as compiler
from dnsd.compile.service import record
from dnsd.image import layout
from dnsd.image.reading import Entry, Image, ImageError, checksum
from dnsd.image.table import MapTable
from dnsd.model import MapView, Policy, ServiceView, Stamp, ZoneView
from tests.golden.world import Door, endpoint, image, query, service, standard_bytes, table_bytes, wire, zone

TEXT = "www A 192.0.2.2\n*.w TXT x\nsub NS ns.sub\nns.sub A 192.0.2.3\n*.sub TXT hidden\nal CNAME www\n"
ZONES = [zone("example.com", TEXT)]
MAPS = [MapView(0, "map-0", ("s0", "s1")), MapView(7, "map-seven", ("s1",))]
SERVICES = [service("a.example.com", endpoint(1), endpoint(2, "s1")), service("b.example.com", fallback=["192.0.2.77"])]
BEFORE, AFTER = Stamp(5, 10, 0), Stamp(5, 11, 2)


def built(services: list[ServiceView] = SERVICES, zones: list[ZoneView] = ZONES, stamp: Stamp = BEFORE) -> bytes:
    """A small image's file."""
    return compiler.build(zones, services, MAPS, stamp, 1234).data


SMALL = built()


def test_what_the_head_says() -> None:
    found = Image(memoryview(SMALL))
    assert found.stamp == BEFORE
    assert found.made_ms == 1234
    assert found.map_refs == {0: "map-0", 7: "map-seven"}
    assert found.records == 2
    assert found.depth == 4
    assert [(z.apex, z.serial) for z in found.zones] == [(wire("example.com"), 1)]


def test_nodes_are_unfolded_as_they_are_asked_for() -> None:
    found = Image(SMALL)
    assert found.nodes == {}
    node = found.get(wire("www.example.com"))
    assert node is not None
    assert found.nodes == {wire("www.example.com"): node}
    assert found.get(wire("www.example.com")) is node
    assert found.get(wire("nothing.example.com")) is None
    entry = node.answers[b"\0\1\0\1"]
    assert isinstance(entry, Entry)
    assert (entry.type, entry.count, entry.sig, entry.sig_count) == (1, 1, b"", 0)
    assert found.get(wire("w.example.com")) is not None
    assert wire("*.w.example.com") in found.nodes


def test_a_wildcard_below_a_cut_is_unfolded_either_way_round() -> None:
    for first in ("sub.example.com", "*.sub.example.com"):
        found = Image(SMALL)
        found.get(wire(first))
        cut, wild = found.nodes[wire("sub.example.com")], found.nodes[wire("*.sub.example.com")]
        assert cut.wildcard is wild
        assert wild.cut is cut.cut is cut
        assert wild.answers == {}


# --- damage -----------------------------------------------------------------------------------------------------------

def test_a_flip_of_any_octet_is_seen() -> None:
    """Also in the head: a stamp or a depth that lies would be served."""
    for at in range(len(SMALL)):
        for flip in (1, 0x80):
            with pytest.raises(ImageError):
                Image(SMALL[:at] + bytes([SMALL[at] ^ flip]) + SMALL[at + 1 :])


def test_an_image_cut_anywhere_is_seen() -> None:
    for size in range(len(SMALL)):
        with pytest.raises(ImageError):
            Image(SMALL[:size])
    with pytest.raises(ImageError, match="its header says"):
        Image(SMALL + bytes(8))


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_octets_are_no_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        Image(data)
    with pytest.raises(ImageError):
        Image(layout.IMAGE_MAGIC + data)


def resealed(change: Callable[[bytearray], None]) -> bytes:
    """The image with something changed and its checksum right."""
    data = bytearray(SMALL)
    change(data)
    struct.pack_into("<I", data, layout.HEADER.at["crc"], checksum(data))
    return bytes(data)


def test_another_layout_is_not_read() -> None:
    def change(data: bytearray) -> None:
        data[layout.HEADER.at["layout"]] += 1

    with pytest.raises(ImageError, match="no image of layout"):
        Image(resealed(change))


def test_sections_are_all_there_and_inside() -> None:
    def fewer(data: bytearray) -> None:
        data[layout.HEADER.at["sections"]] -= 2

    with pytest.raises(ImageError, match=r"sections \[4, 5\] are missing"):
        Image(resealed(fewer))

    def outside(data: bytearray) -> None:
        struct.pack_into("<Q", data, layout.HEADER.size + layout.SECTION.at["size"], len(data))

    with pytest.raises(ImageError, match="section 1 ends behind the file"):
        Image(resealed(outside))
    assert Image(resealed(lambda data: None)).stamp == BEFORE


# --- deltas -----------------------------------------------------------------------------------------------------------

def test_a_delta_replaces_records_and_the_stamp() -> None:
    found = Image(SMALL)
    door = Door(found)
    assert door.ask("b.example.com").addresses == ["192.0.2.77"]
    plan = found.plan(0)
    data = record(service("b.example.com", endpoint(9)), {})
    found.apply([(1, data)], AFTER)
    assert door.ask("b.example.com").addresses == ["198.51.100.9"]
    assert found.stamp == AFTER
    assert found.record(1) == data
    assert found.plan(0) is plan
    found.apply([], Stamp(5, 12, 0))
    assert found.stamp == Stamp(5, 12, 0)


GOOD = record(service("a.example.com", endpoint(1)), {})


@pytest.mark.parametrize("items", [
    [(2, GOOD)], [(0xFFFFFFFF, GOOD)], [(0, b"")], [(0, GOOD + b"\0")], [(0, GOOD), (1, GOOD[:-1])],
    *([(0, GOOD), (1, GOOD[:size])] for size in range(0, len(GOOD), 7)),
], ids=lambda items: f"{[(index, len(data)) for index, data in items]}")
def test_a_delta_that_does_not_fit_changes_nothing(items: list[tuple[int, bytes]]) -> None:
    found = Image(SMALL)
    before = [found.record(i) for i in range(2)]
    plans = [found.plan(i) for i in range(2)]
    with pytest.raises(ImageError, match=r"delta to .* does not fit"):
        found.apply(items, AFTER)
    assert found.stamp == BEFORE
    assert [found.record(i) for i in range(2)] == before
    assert [found.plan(i) for i in range(2)] == plans


live = st.lists(st.builds(endpoint, st.integers(1, 9), st.sampled_from(["s0", "s1", "s9"]), a=st.booleans(),
                          aaaa=st.booleans(), tier=st.integers(0, 1), weight=st.sampled_from([0, 1, 100])),
                max_size=4, unique_by=lambda e: e.id)
changed = st.builds(
    lambda endpoints, policy, ttl, fallback, last_good, panic: (endpoints, policy, ttl, fallback, last_good, panic),
    live, st.builds(Policy, take=st.integers(1, 3), uses_client=st.booleans(), no_ecs_fallback=st.booleans()),
    st.integers(1, 30), st.sampled_from([[], ["192.0.2.7"], ["2001:db8::7", "192.0.2.8"]]),
    st.sampled_from([[], ["192.0.2.9"]]), st.booleans())
ROWS = [[(0, 0), (0, 0)], [(0, 1), (9, 0)], [(9, 0), (0, 0)]]
TABLE = MapTable(table_bytes(2, ROWS, [(0, 0), (0x0A0000, 1), (0x0B0000, 2)]))


def views(changes: list[tuple]) -> list[ServiceView]:  # type: ignore[type-arg]
    """Services s0, s1, … as the changes have them."""
    return [service(f"s{n}.example.com", *endpoints, policy=policy, ttl=ttl, fallback=fallback, last_good=last_good,
                    panic=panic) for n, (endpoints, policy, ttl, fallback, last_good, panic) in enumerate(changes)]


@settings(max_examples=30)
@given(st.lists(changed, min_size=3, max_size=3), st.lists(st.tuples(st.integers(0, 2), changed), max_size=4),
       st.integers(0, 10**6))
def test_deltas_and_a_full_image_answer_alike(first: list[tuple], changes: list[tuple], now: int) -> None:  # type: ignore[type-arg]
    """Whatever came before, the octets of every answer are those of an image built of the last state."""
    state = list(first)
    grown = Image(built(views(state)))
    grown.set_map(0, TABLE)
    door = Door(grown, now=now)
    maps = {view.id: view for view in MAPS}
    asked = [query(f"s{n}.example.com", type_, ecs=ecs) for n in range(3) for type_ in ("A", "AAAA", "MX")
             for ecs in (None, "10.0.0.0/24", "11.1.0.0/16", "2001:db8::/56")]
    for step, (number, change) in enumerate(changes):
        for packet in asked[::5]:
            door.octets(packet)
        state[number] = change
        grown.apply([(number, record(views(state)[number], maps))], Stamp(5, 11 + step, 0))
    full = Image(built(views(state), stamp=grown.stamp))
    full.set_map(0, TABLE)
    other = Door(full, now=now)
    for packet in asked:
        assert door.octets(packet) == other.octets(packet)


def test_the_standard_world_is_one_image_whoever_builds_it() -> None:
    assert standard_bytes() == standard_bytes()


def test_maps_are_given_by_number() -> None:
    held = image(ZONES, [replace(SERVICES[0], map_id=7)], MAPS, {7: TABLE})
    assert held.maps == {7: TABLE}
    held.plan(0)
    held.set_map(0, TABLE)
    assert held.maps == {7: TABLE, 0: TABLE}
