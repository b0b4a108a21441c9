"""Everything to one image file.

Lives here: laying out sections, finished RRs, the name hash, type bitmaps. Does not live here: what exists
(`compile.zones`), records (`compile.service`), offsets (`image.layout`), files (control writes them).

Pure: the same zones, services, maps and stamp give the same bytes on every node.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from dnsd.compile import service as record
from dnsd.compile.zones import Branch, Tree, tree
from dnsd.dns import names, types
from dnsd.image import layout
from dnsd.image.reading import checksum
from dnsd.model import MapView, RRset, ServiceView, Stamp, ZoneView

_REFERRAL: Final = 512 - 12 - 64 - 4 - 11
"""Octets for a referral's records: RFC 1035 §4.2.1, without head, a label below the cut, type and class, OPT."""


class Built(NamedTuple):
    """An image's bytes, and which record is whose (owner -> number), for the deltas that follow."""

    data: bytes
    records: dict[bytes, int]


def build(zones: Sequence[ZoneView], services: Sequence[ServiceView], maps: Sequence[MapView], stamp: Stamp,
          made_ms: int) -> Built:
    """The image; `zones.CompileError` names everything that cannot be served together."""
    names_tree = tree(zones, services)
    by_id = {view.id: view for view in maps}
    draft = _Draft(names_tree, [zone.apex for zone in zones])
    for zone in zones:
        draft.add_zone(zone)
    for branch in names_tree.values():
        draft.add_node(branch, services)
    numbers = {service.owner: number for number, service in enumerate(services)}
    sections: list[tuple[int, int, bytes | bytearray]] = [
        (layout.S_ZONES, len(zones), draft.zones), (layout.S_NODES, len(names_tree), draft.nodes),
        (layout.S_RRSETS, draft.rrset_count, draft.rrsets), (layout.S_HASH, *_hash(names_tree)),
        (layout.S_RECORDS, len(services), _records([record.record(s, by_id) for s in services], stamp.version)),
        (layout.S_MAPS, len(maps), draft.map_refs(maps)),
        (layout.S_NAMES, len(names_tree), draft.names), (layout.S_DATA, 0, draft.data),
    ]
    depth = max((names.labels(name) for name in names_tree), default=0)
    return Built(_file(sections, stamp, made_ms, depth), numbers)


class _Draft:
    """Blobs and tables while they grow."""

    def __init__(self, found: Tree, apexes: Sequence[bytes]) -> None:
        self.tree, self.apexes = found, apexes
        self.number = {name: number for number, name in enumerate(found)}
        self.zones, self.nodes, self.rrsets = bytearray(), bytearray(), bytearray()
        self.names, self.data = bytearray(), bytearray()
        self.rrset_count = 0

    def add_zone(self, zone: ZoneView) -> None:
        """The zone's entry; its SOA once more with the TTL of negative answers."""
        soa = self.tree[zone.apex].rrsets[types.SOA]
        serial, minimum = _soa_numbers(soa)
        negative = self._add_rrset(RRset(soa.owner, soa.type, min(soa.ttl, minimum), soa.rdatas), b"", 0)
        self.zones += layout.ZONE.pack(node=self.number[zone.apex], soa=layout.NONE, negative=negative, ns=layout.NONE,
                                       serial=serial, flags=0)

    def add_node(self, branch: Branch, services: Sequence[ServiceView]) -> None:
        """The node with its rrsets, in the order of types."""
        owned: set[int] = set()
        flags = 0
        if branch.service is not None:
            owned, flags = set(services[branch.service].types), layout.N_SERVICE
        present = branch.rrsets.keys() | owned
        first = self.rrset_count
        for type_ in sorted(branch.rrsets):
            rrset = branch.rrsets[type_]
            delegates = type_ == types.NS and branch.cut == branch.name
            extra, extra_count = self._glue(rrset, branch) if delegates else (b"", 0)
            self._add_rrset(rrset, extra, extra_count)
        for type_, flag in ((types.SOA, layout.N_APEX), (types.CNAME, layout.N_CNAME), (types.DNAME, layout.N_DNAME)):
            flags |= flag if type_ in branch.rrsets else 0
        flags |= layout.N_CUT if branch.cut == branch.name else 0
        flags |= layout.N_EMPTY if not branch.rrsets and branch.service is None else 0
        bits = bitmap(present)
        at, bits_at = len(self.names), len(self.data)
        self.names += branch.name
        self.data += bits
        self.nodes += layout.NODE.pack(
            name=at, name_len=len(branch.name), labels=names.labels(branch.name), flags=flags, zone=branch.zone,
            rrsets=first, record=layout.NONE if branch.service is None else branch.service,
            wildcard=self.number.get(b"\x01*" + branch.name, layout.NONE),
            cut=layout.NONE if branch.cut is None else self.number[branch.cut],
            bitmap=bits_at, bitmap_len=len(bits), rrset_count=len(branch.rrsets), denial=layout.NONE)

    def _add_rrset(self, rrset: RRset, extra: bytes, extra_count: int) -> int:
        data = finished(rrset, b"\xc0\x0c")
        at = len(self.data)
        self.data += data
        extra_at = len(self.data)
        self.data += extra
        self.rrsets += layout.RRSET.pack(
            type=rrset.type, count=len(rrset.rdatas), ttl=rrset.ttl, data=at, size=len(data), sig=0, sig_size=0,
            sig_count=0, extra_count=extra_count, extra=extra_at, extra_size=len(extra))
        self.rrset_count += 1
        return self.rrset_count - 1

    def _glue(self, ns: RRset, cut: Branch) -> tuple[bytes, int]:
        """Addresses of the cut's name servers inside the zone (RFC 1034 §4.3.2 3b).

        All at or below a cut, because nobody else can give them (RFC 9471 §3); of the others, which can be asked for,
        as many as leave a referral of this size whole without EDNS.
        """
        room = _REFERRAL - len(cut.name) - sum(12 + len(target) for target in ns.rdatas)
        found: list[bytes] = []
        count = 0
        known = [self.tree[target.lower()] for target in ns.rdatas if target.lower() in self.tree]
        for branch in sorted(known, key=lambda one: one.cut is None):
            if not names.under(branch.name, self.apexes[cut.zone]):
                continue
            held = [branch.rrsets[type_] for type_ in (types.A, types.AAAA) if type_ in branch.rrsets]
            data = b"".join(finished(rrset, branch.name) for rrset in held)
            if branch.cut is None and len(data) > room:
                continue
            room -= len(data)
            found.append(data)
            count += sum(len(rrset.rdatas) for rrset in held)
        return b"".join(found), count

    def map_refs(self, maps: Sequence[MapView]) -> bytes:
        """Which table file each map is."""
        refs = b""
        for view in maps:
            file = view.file.encode()
            refs += layout.MAP_REF.pack(id=view.id, file=len(self.names), file_len=len(file), sites=len(view.sites))
            self.names += file
        return refs


def finished(rrset: RRset, owner: bytes) -> bytes:
    """The rrset's RRs as they go out, class IN."""
    middle = struct.pack(">HHI", rrset.type, 1, rrset.ttl)
    return b"".join(owner + middle + len(rdata).to_bytes(2, "big") + rdata for rdata in rrset.rdatas)


def bitmap(present: set[int]) -> bytes:
    """RFC 4034 §4.1.2: window blocks of the types at a name."""
    out = b""
    for window in sorted({type_ >> 8 for type_ in present}):
        bits = bytearray(32)
        for type_ in present:
            if type_ >> 8 == window:
                bits[(type_ & 255) >> 3] |= 0x80 >> (type_ & 7)
        kept = bytes(bits).rstrip(b"\0")
        out += bytes((window, len(kept))) + kept
    return out


def _soa_numbers(soa: RRset) -> tuple[int, int]:
    serial, _, _, _, minimum = struct.unpack(">5I", soa.rdatas[0][-20:])
    return serial, minimum


def _hash(found: Tree) -> tuple[int, bytes]:
    """Open addressing at most half full; slots hold node number + 1. For the engine; Python has a dictionary."""
    slots = 8
    while slots < 2 * len(found):
        slots *= 2
    table = [0] * slots
    for number, name in enumerate(found):
        at = crc32(name, layout.HASH_SEED) & (slots - 1)
        while table[at]:
            at = (at + 1) & (slots - 1)
        table[at] = number + 1
    return slots, struct.pack(f"<{slots}I", *table)


def _records(records: Sequence[bytes], version: int) -> bytes:
    offset = layout.RECORD_SLOT.size * len(records)
    slots, body = b"", bytearray()
    for data in records:
        slots += layout.RECORD_SLOT.pack(version=version, offset=offset + len(body), size=len(data))
        body += data + bytes(-len(data) % 8)
    return slots + bytes(body)


def _file(sections: Sequence[tuple[int, int, bytes | bytearray]], stamp: Stamp, made_ms: int, depth: int) -> bytes:
    directory = bytearray()
    body = bytearray()
    start = layout.HEADER.size + layout.SECTION.size * len(sections)
    start += -start % 8
    for kind, count, data in sections:
        body += bytes(-len(body) % 8)
        directory += layout.SECTION.pack(kind=kind, count=count, offset=start + len(body), size=len(data))
        body += data
    directory += bytes(start - layout.HEADER.size - len(directory))
    rest = bytes(directory + body)
    header = layout.HEADER.pack(
        magic=layout.IMAGE_MAGIC, layout=layout.LAYOUT, sections=len(sections), epoch=stamp.epoch,
        version=stamp.version, node_seq=stamp.node_seq, made_ms=made_ms, size=layout.HEADER.size + len(rest),
        crc=0, depth=depth)
    file = bytearray(header + rest)
    struct.pack_into("<I", file, layout.HEADER.at["crc"], checksum(file))
    return bytes(file)
