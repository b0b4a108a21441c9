"""The image's bytes against independent readings of them: dnspython for rdata, bitmaps and RRs, a walk for the hash."""

from __future__ import annotations

import struct
from zlib import crc32

import dns.message
import dns.rdata
import dns.rdtypes.ANY.NSEC
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.compile import image as compiler
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.model import MapView, RRset, ServiceView, Stamp, ZoneView
from tests.golden.world import EXAMPLE, Door, endpoint, image, service, standard_bytes, standard_services, wire, zone

MAPS = [MapView(0, "zero", ("s0", "s1", "s2")), MapView(12, "twelve-Ü", ("s9",))]


def build(zones: list[ZoneView], services: list[ServiceView] | None = None) -> compiler.Built:
    """An image with two maps."""
    return compiler.build(zones, services or [], MAPS, Stamp(1, 2, 3), 4)


def sections(data: bytes) -> dict[int, tuple[int, memoryview]]:
    """kind -> (count, bytes)."""
    view = memoryview(data)
    header = layout.HEADER.read(view)
    found = {}
    for i in range(header["sections"]):
        kind, count, offset, size = layout.SECTION.unpack_from(view, layout.HEADER.size + i * layout.SECTION.size)
        found[kind] = count, view[offset : offset + size]
    return found


def test_same_input_same_bytes() -> None:
    zones = [zone("example.com", EXAMPLE)]
    assert build(zones, standard_services()[:3]) == build(zones, standard_services()[:3])


def test_records_are_numbered_as_services_came() -> None:
    services = [service("b.example.com", endpoint(1)), service("a.example.com", endpoint(2))]
    built = build([zone("example.com", "")], services)
    assert built.records == {wire("b.example.com"): 0, wire("a.example.com"): 1}
    count, part = sections(built.data)[layout.S_RECORDS]
    assert count == 2
    for number in range(2):
        version, offset, size = layout.RECORD_SLOT.unpack_from(part, number * layout.RECORD_SLOT.size)
        assert version == 2
        assert offset % 8 == 0
        assert bytes(part[offset : offset + size]) == Image(built.data).record(number)


def test_sections_are_aligned_inside_and_apart() -> None:
    data = standard_bytes()
    spans = []
    header = layout.HEADER.read(data)
    for i in range(header["sections"]):
        at = layout.HEADER.size + i * layout.SECTION.size
        _, _, offset, size = layout.SECTION.unpack_from(data, at)
        assert offset % 8 == 0
        spans.append((offset, offset + size))
    assert all(a_end <= b for (_, a_end), (b, _) in zip(sorted(spans), sorted(spans)[1:], strict=False))
    assert header["size"] == len(data)
    assert set(sections(data)) == set(range(layout.S_ZONES, layout.S_MAPS + 1))


def test_hash_finds_every_name_and_no_other() -> None:
    found = sections(standard_bytes())
    slots, part = found[layout.S_HASH]
    table = struct.unpack(f"<{slots}I", part)
    count, nodes = found[layout.S_NODES]
    blob = bytes(found[layout.S_NAMES][1])
    assert slots & (slots - 1) == 0
    assert slots >= 2 * count

    def name_at(number: int) -> bytes:
        node = layout.NODE.read(nodes, number * layout.NODE.size)
        return blob[node["name"] : node["name"] + node["name_len"]]

    def look(name: bytes) -> int | None:
        at = crc32(name, layout.HASH_SEED) & (slots - 1)
        while table[at]:
            if name_at(table[at] - 1) == name:
                return table[at] - 1
            at = (at + 1) & (slots - 1)
        return None

    names = [name_at(number) for number in range(count)]
    assert len(set(names)) == count
    assert [look(name) for name in names] == list(range(count))
    assert [look(name) for name in (b"\0", wire("nothing.example.com"), b"")] == [None] * 3
    assert Image(standard_bytes()).index == {name: number for number, name in enumerate(names)}


def test_nodes_say_what_is_at_them() -> None:
    held = Image(standard_bytes())
    for text, flags, types in [
        ("example.com", layout.N_APEX, [2, 6]), ("www.example.com", 0, [1, 16, 28]),
        ("b.example.com", layout.N_EMPTY, []), ("sub.example.com", layout.N_CUT, [2, 43]),
        ("al.example.com", layout.N_CNAME, [5]),
        ("d.example.com", layout.N_DNAME, [16, 39]), ("api.example.com", layout.N_SERVICE, [1, 16, 28]),
        ("v4only.example.com", layout.N_SERVICE, [1]), ("odd.example.com", 0, [65400]),
        ("nested.example.com", layout.N_APEX, [2, 6, 43]), ("dark.example.com", layout.N_SERVICE, [1, 28]),
    ]:
        node = held.get(wire(text))
        assert node is not None
        assert node.flags == flags, text
        nsec = b"\0" + node.bitmap
        assert read_bitmap(dns.rdata.from_wire("IN", "NSEC", nsec, 0, len(nsec))) == types


def read_bitmap(rdata: dns.rdata.Rdata) -> list[int]:
    """The types of an NSEC, by dnspython."""
    assert isinstance(rdata, dns.rdtypes.ANY.NSEC.NSEC)
    return [window * 256 + octet * 8 + bit for window, octets in rdata.windows for octet, value in enumerate(octets)
            for bit in range(8) if value & (0x80 >> bit)]


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=20))
def test_bitmap_is_dnspythons(present: set[int]) -> None:
    """RFC 4034 §4.1.2."""
    bits = compiler.bitmap(present)
    rdata = dns.rdata.from_wire("IN", "NSEC", b"\0" + bits, 0, 1 + len(bits))
    assert read_bitmap(rdata) == sorted(present)


def test_bitmap_of_nothing() -> None:
    assert compiler.bitmap(set()) == b""


def test_finished_rrs_are_read_by_dnspython() -> None:
    rrset = RRset(wire("a.example.com"), 1, 77, (b"\1\2\3\4", b"\5\6\7\x08"))
    packet = (struct.pack(">6H", 1, 0x8000, 1, 2, 0, 0) + wire("a.example.com") + b"\0\1\0\1"
              + compiler.finished(rrset, b"\xc0\x0c"))
    message = dns.message.from_wire(packet)
    assert message.answer[0].to_text() == "a.example.com. 77 IN A 1.2.3.4\na.example.com. 77 IN A 5.6.7.8"


@pytest.mark.parametrize(("ttl", "minimum", "negative"), [(3600, 60, 60), (30, 60, 30), (60, 60, 60), (5, 0, 0)])
def test_denials_last_as_long_as_the_shorter_of_ttl_and_minimum(ttl: int, minimum: int, negative: int) -> None:
    """RFC 2308 §3 and §5; the SOA itself keeps its TTL."""
    door = Door(image([zone("example.com", f"@ {ttl} IN SOA ns1 h 1 2 3 4 {minimum}\n")]))
    assert door.ask("x.example.com").authority[0].split()[1] == str(negative)
    assert door.ask("example.com", "SOA").answer[0].split()[1] == str(ttl)


GLUED = """
sub NS NS.Sub
sub NS ns1
sub NS ns.other
sub NS ns.example.org.
sub NS ns.in
ns.sub A 192.0.2.1
ns.sub TXT "not an address"
other NS ns.other
ns.other AAAA 2001:db8::1
"""


def test_a_referral_has_the_addresses_inside_the_zone() -> None:
    """RFC 1034 §4.3.2 3b: first those at or below cuts, whatever the case of their name, then those to be asked for,
    also in a zone inside this one; none of a zone beside it."""
    zones = [zone("example.com", GLUED), zone("in.example.com", "ns A 192.0.2.9\n"),
             zone("example.org", "ns A 192.0.2.9\nsub NS ns.sub.example.com.\n")]
    door = Door(image(zones))
    assert door.ask("x.sub.example.com").additional == [
        "ns.sub.example.com. 300 A 192.0.2.1", "ns.other.example.com. 300 AAAA 2001:db8::1",
        "ns1.example.com. 300 A 192.0.2.1", "ns.in.example.com. 300 A 192.0.2.9"]
    assert door.ask("sub.example.org").additional == []


@pytest.mark.parametrize(("servers", "told"), [(6, 6), (7, 6), (9, 5), (12, 2)])
def test_what_can_be_asked_for_never_cuts_a_referral(servers: int, told: int) -> None:
    """RFC 9471 §3.2: only glue is worth a second question over TCP."""
    text = "".join(f"sub NS n{n}\nn{n} A 192.0.2.{n}\n" for n in range(servers))
    reply = Door(image([zone("example.com", text)])).ask(f"{'x' * 63}.sub.example.com")
    assert (reply.tc, len(reply.authority), len(reply.additional)) == (False, servers, told)


@pytest.mark.parametrize("below", ["sub", "other"])
def test_glue_is_told_whatever_its_size(below: str) -> None:
    """RFC 9471 §3.1: what does not fit sets TC."""
    text = "other NS ns1\n" + "".join(f"sub NS n{n}.{below}\nn{n}.{below} AAAA 2001:db8::{n}\n" for n in range(9))
    door = Door(image([zone("example.com", text)]))
    assert door.ask("sub.example.com").tc
    assert len(Door(door.image, tcp=True).ask("sub.example.com").additional) == 9


def test_maps_are_named() -> None:
    found = Image(build([]).data)
    assert found.map_refs == {0: "zero", 12: "twelve-Ü"}
    count, part = sections(build([]).data)[layout.S_MAPS]
    assert [layout.MAP_REF.read(part, i * layout.MAP_REF.size)["sites"] for i in range(count)] == [3, 1]


def test_zones_have_their_serial() -> None:
    held = Image(build([zone("example.com", "@ IN SOA ns1 h 4294967295 2 3 4 5\n"), zone("example.org", "")]).data)
    assert [(found.apex, found.serial) for found in held.zones] == [
        (wire("example.com"), 4294967295), (wire("example.org"), 1)]


def test_an_image_of_nothing() -> None:
    built = compiler.build([], [], [], Stamp(0, 0, 0), 0)
    assert Image(built.data).depth == 0
    assert built.records == {}
