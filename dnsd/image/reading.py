"""Images as workers see them: a mapped file, one dictionary of names, nodes and plans unfolded as they are asked for.

Lives here: checking and reading the file, the node and entry a look-up ends at, the records and what deltas do to them.
Does not live here: writing (`compile.image`), ranking (`image.record`), when to apply a delta (`serve.worker`).

Nothing is copied out of the file at load but the names: a node is unfolded at its first query. One response sees one
image state, because whoever holds an image applies deltas between datagrams, never during one.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import error as StructError
from typing import Final
from zlib import crc32

from dnsd.dns import types, wire
from dnsd.image import layout
from dnsd.image.record import Plan
from dnsd.image.table import MapTable
from dnsd.model import Stamp


class ImageError(ValueError):
    """The bytes are no image this version reads, or a damaged one."""


class Entry:
    """A static answer, finished: `count` RRs in `data`, each owned by C0 0C, and the head of a reply with just them.

    `sig` is what DO adds (the RRSIGs, none while the zone is unsigned); `extra` is glue with owners of its own.
    """

    __slots__ = ("count", "data", "extra", "extra_count", "heads", "sig", "sig_count", "type")

    def __init__(self, type_: int, count: int, data: bytes, sig: tuple[int, bytes], extra: tuple[int, bytes]) -> None:
        self.type = type_
        self.count = count
        self.data = data
        self.sig_count, self.sig = sig
        self.extra_count, self.extra = extra
        self.heads = wire.heads(answers=count)


class Zone:
    """A zone's part of negative answers: the SOA behind its owner, cut to the negative TTL (RFC 2308 §3)."""

    __slots__ = ("apex", "nodata", "number", "nxdomain", "serial", "soa_tail")

    def __init__(self, apex: bytes, soa_tail: bytes, serial: int, number: int) -> None:
        self.apex = apex
        self.number = number + 1  # 0: of no zone
        self.soa_tail = soa_tail
        self.serial = serial
        self.nodata = wire.heads(authority=1)
        self.nxdomain = wire.heads(types.NXDOMAIN, authority=1)


class Node:
    """A name; `answers`: a question's type and class octets -> an Entry, or of a service 0 (A), 1 (AAAA), 2 (HTTPS)."""

    __slots__ = ("answers", "bitmap", "cut", "flags", "index", "name", "record", "referral", "wildcard", "zone")

    def __init__(self, index: int, name: bytes, flags: int, zone: Zone, bitmap: bytes) -> None:
        self.index = index
        self.name = name
        self.flags = flags
        self.zone = zone
        self.bitmap = bitmap
        self.answers: dict[bytes, Entry | int] = {}
        self.record = layout.NONE
        self.cut: Node | None = None
        self.referral: Entry | None = None
        self.wildcard: Node | None = None


_IN: Final = b"\0\1"
KEY_A: Final = b"\0\1\0\1"
KEY_AAAA: Final = b"\0\x1c\0\1"
KEY_HTTPS: Final = b"\0\x41\0\1"
KEY_DS: Final = b"\0\x2b\0\1"
KEY_CNAME: Final = b"\0\5\0\1"
KEY_DNAME: Final = b"\0\x27\0\1"


class Image:
    """An image over a buffer (mapped file or bytes) that stays valid as long as the object; ImageError if it is none.

    `buffer` is that buffer; `patched` has the records that deltas brought, by index, and `replaced` the indexes of
    those that came since who follows them emptied it last. `nodes` holds what was unfolded; `get(name)` unfolds.
    `maps` are the tables by id, which the holder opens (they are other files) and gives to `set_map`; a record whose
    map is missing is answered by weights alone until it is there.
    """

    def __init__(self, buffer: bytes | memoryview) -> None:
        self.buffer = self._view = memoryview(buffer)
        self._sections = _sections(self._view)
        header = layout.HEADER.read(self._view)
        self.stamp = Stamp(header["epoch"], header["version"], header["node_seq"])
        self.made_ms = header["made_ms"]
        self.depth = header["depth"]
        self.nodes: dict[bytes, Node] = {}
        self.maps: dict[int, MapTable] = {}
        self._names = self._part(layout.S_NAMES)
        self._data = self._part(layout.S_DATA)
        self._node_part = self._part(layout.S_NODES)
        self._rrset_part = self._part(layout.S_RRSETS)
        self.index = dict(self._read_names())
        self.zones = [self._zone(i) for i in range(self._sections[layout.S_ZONES][0])]
        self.map_refs = dict(self._read_maps())
        records, self._slots = self._sections[layout.S_RECORDS][0], self._part(layout.S_RECORDS)
        self.patched: dict[int, bytes] = {}
        self.replaced: set[int] = set()
        self._plans: list[Plan | None] = [None] * records

    def get(self, name: bytes) -> Node | None:
        """The node of a lower-case wire name, empty non-terminals and names below cuts among them."""
        return self.nodes.get(name) or (self.unfold(name) if name in self.index else None)

    def unfold(self, name: bytes) -> Node:
        """The node of a name that is in `index`, for the first time or again."""
        return self._node(self.index[name])

    def plan(self, index: int) -> Plan:
        """The record's plan, unfolded at first use."""
        plan = self._plans[index]
        if plan is None:
            plan = self._plans[index] = Plan(self.record(index), len(self._plans))
        return plan

    def record(self, index: int) -> bytes:
        """The record's bytes as they stand now."""
        patched = self.patched.get(index)
        if patched is not None:
            return patched
        _, offset, size = layout.RECORD_SLOT.unpack_from(self._slots, index * layout.RECORD_SLOT.size)
        return bytes(self._slots[offset : offset + size])

    @property
    def records(self) -> int:
        """How many records there are."""
        return len(self._plans)

    def apply(self, items: list[tuple[int, bytes]], stamp: Stamp) -> None:
        """Replace records; all of them are read first, so a bad one changes nothing (ImageError)."""
        try:
            plans = [(index, data, Plan(data, len(self._plans))) for index, data in items]
            if any(index >= len(self._plans) for index, _ in items):
                raise IndexError("no such record")
        except (IndexError, ValueError, StructError) as error:
            raise ImageError(f"delta to {stamp} does not fit: {error}") from error
        for index, data, plan in plans:
            self.patched[index] = data
            self.replaced.add(index)
            self._plans[index] = plan
        self.stamp = stamp

    def set_map(self, number: int, table: MapTable) -> None:
        """Use that table for that map from now on. Row numbers mean nothing in another table: orders are forgotten."""
        if self.maps.get(number) is not table:
            self.maps[number] = table
            for plan in self._plans:
                if plan is not None and plan.map_id == number:
                    plan.forget()

    # --- reading, in order of use ---

    def _part(self, kind: int) -> memoryview:
        _, offset, size = self._sections[kind]
        return self._view[offset : offset + size]

    def _read_names(self) -> Iterator[tuple[bytes, int]]:
        names, part, size = bytes(self._names), self._node_part, layout.NODE.size
        unpack = layout.NODE.unpack_from
        for index in range(self._sections[layout.S_NODES][0]):
            at, length, *_ = unpack(part, index * size)
            yield names[at : at + length], index

    def _read_maps(self) -> Iterator[tuple[int, str]]:
        part = self._part(layout.S_MAPS)
        for i in range(self._sections[layout.S_MAPS][0]):
            id_, at, length, _ = layout.MAP_REF.unpack_from(part, i * layout.MAP_REF.size)
            yield id_, bytes(self._names[at : at + length]).decode()

    def _zone(self, index: int) -> Zone:
        node, _, negative, _, serial, _ = layout.ZONE.unpack_from(self._part(layout.S_ZONES), index * layout.ZONE.size)
        at, length, *_ = layout.NODE.unpack_from(self._node_part, node * layout.NODE.size)
        return Zone(bytes(self._names[at : at + length]), self._entry(negative).data[2:], serial, index)

    def _node(self, index: int) -> Node:
        (at, length, _, flags, zone, rrsets, record, wildcard, cut, bitmap, bitmap_len, count, _) = (
            layout.NODE.unpack_from(self._node_part, index * layout.NODE.size))
        node = Node(index, bytes(self._names[at : at + length]), flags, self.zones[zone],
                    bytes(self._data[bitmap : bitmap + bitmap_len]))
        owned = self.plan(record).flags if record != layout.NONE else 0
        self.nodes[node.name] = node  # before the nodes it refers to: a wildcard below a cut refers back to it
        if cut != layout.NONE:
            node.cut = node if cut == index else self._other(cut)
        if wildcard != layout.NONE:
            node.wildcard = self._other(wildcard)
        node.record = record
        for i in range(rrsets, rrsets + count):
            entry = self._entry(i)
            # At a cut only DS is ours to answer (RFC 4035 §3.1.4.1), below it nothing; the NS make the referral.
            if node.cut is node and entry.type == types.NS:
                node.referral = entry
            elif node.cut is None or (node.cut is node and entry.type == types.DS):
                node.answers[entry.type.to_bytes(2, "big") + _IN] = entry
        if owned & layout.R_OWNS_A:
            node.answers[KEY_A] = 0
        if owned & layout.R_OWNS_AAAA:
            node.answers[KEY_AAAA] = 1
        if owned & layout.R_OWNS_HTTPS:
            node.answers[KEY_HTTPS] = 2
        return node

    def _other(self, index: int) -> Node:
        at, length, *_ = layout.NODE.unpack_from(self._node_part, index * layout.NODE.size)
        name = bytes(self._names[at : at + length])
        return self.nodes.get(name) or self.unfold(name)

    def _entry(self, index: int) -> Entry:
        (type_, count, _, data, size, sig, sig_size, sig_count, extra_count, extra, extra_size) = (
            layout.RRSET.unpack_from(self._rrset_part, index * layout.RRSET.size))
        blob = self._data
        return Entry(type_, count, bytes(blob[data : data + size]), (sig_count, bytes(blob[sig : sig + sig_size])),
                     (extra_count, bytes(blob[extra : extra + extra_size])))


def checksum(data: bytes | bytearray | memoryview) -> int:
    """CRC-32 of a whole image, its header too (a stamp or depth that lies is as bad as any), the checksum itself zero.
    """
    at = layout.HEADER.at["crc"]
    return crc32(data[layout.HEADER.size :], crc32(bytes(data[:at]) + bytes(4) + data[at + 4 : layout.HEADER.size]))


def _sections(view: memoryview) -> dict[int, tuple[int, int, int]]:
    """kind -> (count, offset, size), everything checked that a look-up later relies on."""
    if len(view) < layout.HEADER.size:
        raise ImageError("shorter than its header")
    header = layout.HEADER.read(view)
    if bytes(view[:8]) != layout.IMAGE_MAGIC or header["layout"] != layout.LAYOUT:
        raise ImageError(f"no image of layout {layout.LAYOUT}")
    if header["size"] != len(view):
        raise ImageError(f"{len(view)} octets, its header says {header['size']}")
    if checksum(view) != header["crc"]:
        raise ImageError("damaged: checksum differs")
    found: dict[int, tuple[int, int, int]] = {}
    for i in range(header["sections"]):
        kind, count, offset, size = layout.SECTION.unpack_from(view, layout.HEADER.size + i * layout.SECTION.size)
        if offset + size > len(view):
            raise ImageError(f"section {kind} ends behind the file")
        found[kind] = count, offset, size
    missing = set(range(layout.S_ZONES, layout.S_MAPS + 1)) - found.keys()
    if missing:
        raise ImageError(f"sections {sorted(missing)} are missing")
    return found
