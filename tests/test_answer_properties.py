"""What holds for any octets at the door: nothing is raised, no reply to a reply, limits, echoes, readable replies."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd import metrics as m
from dnsd.answer import respond
from dnsd.image.reading import Image
from tests.golden.holds import check
from tests.golden.world import NOW, Door, query, standard_bytes, wire

BUILT = standard_bytes()
DOORS = [Door(Image(BUILT)), Door(Image(BUILT), tcp=True), Door(Image(BUILT), client=bytes(15) + b"\1")]

NAMES = [
    "www.example.com", "nothing.example.com", "b.example.com", "x.y.w.example.com", "x.wc.example.com",
    "al.example.com", "al3.example.com", "al5.example.com", "al8.example.com", "loop1.example.com",
    "chain0.example.com", "x.sub.example.com", "sub.example.com", "www.d.example.com", "x.dloop.example.com",
    f"{'z' * 60}.dlong.example.com",
    "www.nested.example.com", "nested.example.com", "api.example.com", "x.svc.example.com", "dark.example.com",
    "fall.example.com", "stale.example.com", "all.example.com", "huge.example.com", "big.example.com", "example.com",
    "example.org", "www.example.net", ".", "nul\\000octet.example.com", "a." * 120 + "example.com",
]
TYPES = ["A", "AAAA", "NS", "SOA", "CNAME", "DNAME", "DS", "TXT", "MX", "ANY", "AXFR", "IXFR", "HTTPS", "RRSIG",
         "TYPE0", "OPT", "TYPE65535"]
ECS = ["10.0.0.0/24", "10.1.2.3/32", "0.0.0.0/0", "2001:db8::/56", "::/0", "::ffff:10.0.0.0/104", "128.0.0.0/1"]

queries = st.builds(
    lambda name, type_, class_, ecs, do, nsid, payload, edns: query(
        name, type_, class_, ecs=ecs, do=do, nsid=nsid, payload=payload, edns=edns),
    st.sampled_from(NAMES), st.sampled_from(TYPES), st.sampled_from(["IN", "IN", "IN", "CH", "ANY"]),
    st.none() | st.sampled_from(ECS), st.booleans(), st.booleans(), st.sampled_from([0, 512, 600, 1232, 4096]),
    st.booleans())


@settings(max_examples=400)
@given(st.sampled_from(DOORS), st.binary(max_size=80) | st.binary(min_size=12, max_size=600))
def test_any_octets(door: Door, packet: bytes) -> None:
    check(door, packet)


@settings(max_examples=400)
@given(st.sampled_from(DOORS), st.binary(max_size=60), st.integers(0, 1), st.integers(0, 255))
def test_any_octets_behind_a_querys_header(door: Door, rest: bytes, extra: int, rd: int) -> None:
    check(door, struct.pack(">HBB4H", 7, rd & 0x87, 0, 1, 0, 0, extra) + rest)


@settings(max_examples=300)
@given(st.sampled_from(DOORS), queries)
def test_any_query(door: Door, packet: bytes) -> None:
    check(door, packet)


@settings(max_examples=300)
@given(st.sampled_from(DOORS), queries, st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
       st.integers(0, 3000), st.binary(max_size=12))
def test_any_damaged_query(
    door: Door, packet: bytes, flips: list[tuple[int, int]], cut: int, tail: bytes,
) -> None:
    data = bytearray(packet)
    for at, value in flips:
        data[at % len(data)] = value
    check(door, bytes(data))
    check(door, bytes(data[:cut]) + tail)
    check(door, bytes(data[: cut % (len(data) + 1)]) + tail)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=24)), max_size=5), st.integers(0, 2))
def test_any_options(options: list[tuple[int, bytes]], lie: int) -> None:
    data = b"".join(struct.pack(">HH", code % 20, len(value)) + value for code, value in options)
    packet = (struct.pack(">6H", 1, 0, 1, 0, 0, 1) + wire("api.example.com") + b"\0\1\0\1\0\0\x29\4\xd0\0\0\0\0"
              + struct.pack(">H", len(data) + lie) + data)
    check(DOORS[0], packet)


@settings(max_examples=60)
@given(st.integers(0, 8), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=20))
def test_any_client_subnet(family: int, source: int, scope: int, address: bytes) -> None:
    data = struct.pack(">HHHBB", 8, 4 + len(address), family, source, scope) + address
    packet = (struct.pack(">6H", 1, 0, 1, 0, 0, 1) + wire("api.example.com") + b"\0\1\0\1\0\0\x29\4\xd0\0\0\0\0"
              + struct.pack(">H", len(data)) + data)
    check(DOORS[0], packet)
    reply = respond(packet, DOORS[0].client, DOORS[0].image, NOW, DOORS[0].context)
    assert reply is not None
    bits = len(address) * 8
    valid = (
        scope == 0 and family in (0, 1, 2) and source <= (0, 32, 128)[family] and len(address) == (source + 7) // 8
        and not int.from_bytes(address, "big") & ((1 << (bits - source)) - 1))
    assert (reply[3] & 15) == (0 if valid else 1)


@pytest.mark.parametrize("name", ["www.example.com", "nothing.example.com", "x.sub.example.com", "api.example.com",
                                  "x.w.example.com", "www.d.example.com", "al.example.com", "example.net", "."])
def test_every_type_has_an_answer(name: str) -> None:
    """Types in class IN: all that are assigned or private, and samples of what lies between."""
    door = DOORS[1]
    question = wire(name)
    for number in (*range(300), *range(300, 65280, 97), *range(65280, 65536)):
        packet = struct.pack(">6H", 9, 0, 1, 0, 0, 0) + question + struct.pack(">HH", number, 1)
        reply = respond(packet, door.client, door.image, door.now, door.context)
        assert reply is not None
        assert reply[3] & 15 in ((5, 9) if number in (251, 252) else (0, 2, 3, 5))
        assert reply[12 : len(packet)] == packet[12:]


@pytest.mark.parametrize("class_", [0, 2, 3, 4, 254, 255, 65535])
def test_every_other_class_is_refused(class_: int) -> None:
    door = DOORS[0]
    for name in NAMES:
        packet = struct.pack(">6H", 9, 0, 1, 0, 0, 0) + wire(name) + struct.pack(">HH", 1, class_)
        reply, moved = door.octets(packet)
        assert reply is not None
        assert (reply[3] & 15, moved) == (5, {m.KIND_REFUSED: 1, m.RCODE + 5: 1})


@settings(max_examples=100)
@given(queries, st.integers(0, 2**33))
def test_an_answer_is_a_function_of_packet_client_image_and_time(packet: bytes, now: int) -> None:
    """Two images of the same sources, one asked before and one not, give the same octets."""
    fresh = Door(Image(BUILT), client=DOORS[0].client)
    answers = {respond(packet, door.client, door.image, now, door.context) for door in (DOORS[0], fresh, fresh)}
    assert len(answers) == 1
