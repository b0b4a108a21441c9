"""Every offset of every flat structure that workers read: image file, records, map tables, frames.

Lives here: field lists and sizes, magic numbers, section kinds, limits. A compiled engine's header comes from here.
Does not live here: reading (`image.reading`, `image.table`), writing (`compile.image`, `atlas.tablefile`), meaning.

All is little-endian and naturally aligned. A structure is a `Flat`: named fields at fixed offsets.

    image file   HEADER | SECTION x n | sections...
                 ZONES NODES RRSETS     fixed-size structures, referred to by index
                 NAMES DATA             blobs, referred to by offset inside the blob
                 HASH                   open addressing, u32 node index + 1 (0 = free), by crc32 of the lower-case name
                 RECORDS                RECORD_SLOT x count, then the records' bytes
                 MAPS                   MAP_REF x count: which table file each map id is
    record       RECORD | prox u32 x LEVELS | match u32 x 8 | ENDPOINT x n | fallback a 4 x n | fallback aaaa 16 x n
                 | https head | https rest
    map table    MAP_HEADER | level_ms | rows | starts4 rows4 index4 | starts6 rows6 index6 | fine4 | fine6
    frame        FRAME | (ITEM | bytes) x count       a journal is frames one after another
"""

from __future__ import annotations

import struct
from typing import Final

from dnsd.steer.row import LEVEL_MS as LEVEL_MS

_CODES: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}


class Flat:
    """A fixed structure: `Flat("u32 name", "u8 labels", "16s aaaa")`; checks that every field is naturally aligned."""

    __slots__ = ("at", "fields", "names", "pack_into", "size", "struct", "unpack_from")

    def __init__(self, *fields: str) -> None:
        self.fields: tuple[tuple[str, str], ...] = tuple((f.split()[1], f.split()[0]) for f in fields)
        self.names = tuple(name for name, _ in self.fields)
        self.struct = struct.Struct("<" + "".join(_CODES.get(kind, kind) for _, kind in self.fields))
        self.size = self.struct.size
        self.at: dict[str, int] = {}
        offset = 0
        for name, kind in self.fields:
            width = struct.calcsize("<" + _CODES.get(kind, kind))
            if kind in _CODES and offset % width:
                raise ValueError(f"{name} is not aligned at {offset}")
            self.at[name] = offset
            offset += width
        self.unpack_from = self.struct.unpack_from
        self.pack_into = self.struct.pack_into

    def pack(self, **values: int | bytes) -> bytes:
        """The structure as bytes; every field must be given, and no other."""
        if values.keys() != self.at.keys():
            raise ValueError(f"fields differ: {sorted(values.keys() ^ self.at.keys())}")
        return self.struct.pack(*(values[name] for name in self.names))

    def read(self, buffer: bytes | memoryview, offset: int = 0) -> dict[str, int]:
        """The structure's fields by name; for tools and tests, the query path unpacks positionally."""
        return dict(zip(self.names, self.unpack_from(buffer, offset), strict=True))


LAYOUT: Final = 1
NONE: Final = 0xFFFFFFFF

# --- image file -------------------------------------------------------------------------------------------------------

IMAGE_MAGIC: Final = b"DNSDIMG\0"
HEADER: Final = Flat(
    "8s magic", "u32 layout", "u32 sections", "u64 epoch", "u64 version", "u64 node_seq", "u64 made_ms",
    "u64 size", "u32 crc", "u32 depth",
)  # crc: of the whole file, itself counted as zero; depth: labels of the deepest name, root not counted
SECTION: Final = Flat("u32 kind", "u32 count", "u64 offset", "u64 size")

S_ZONES: Final = 1
S_NODES: Final = 2
S_RRSETS: Final = 3
S_NAMES: Final = 4
S_DATA: Final = 5
S_HASH: Final = 6
S_RECORDS: Final = 7
S_MAPS: Final = 8

ZONE: Final = Flat("u32 node", "u32 soa", "u32 negative", "u32 ns", "u32 serial", "u32 flags")
# node: the apex; soa, negative, ns: rrset indexes; `negative` is the SOA with its TTL cut to the minimum (RFC 2308 §3)

NODE: Final = Flat(
    "u32 name", "u8 name_len", "u8 labels", "u16 flags", "u32 zone", "u32 rrsets", "u32 record", "u32 wildcard",
    "u32 cut", "u32 bitmap", "u16 bitmap_len", "u16 rrset_count", "u32 denial",
)  # record: index or NONE; wildcard: node of `*.` below, or NONE; cut: node of the cut at or above, or NONE;
#    bitmap: RFC 4034 §4.1.2 type bitmap in DATA; denial: rrset index of the NSEC to prove it, or NONE (unsigned)
N_APEX: Final = 1
N_CUT: Final = 2
N_SERVICE: Final = 4
N_CNAME: Final = 8
N_DNAME: Final = 16
N_EMPTY: Final = 32

RRSET: Final = Flat(
    "u16 type", "u16 count", "u32 ttl", "u32 data", "u32 size", "u32 sig", "u32 sig_size", "u16 sig_count",
    "u16 extra_count", "u32 extra", "u32 extra_size",
)  # data: finished RRs, each owner C0 0C; sig: the RRSIGs likewise, what DO adds; extra: additional RRs, full owners

HASH_SEED: Final = 0x64_6E_73_64

RECORD_SLOT: Final = Flat("u64 version", "u32 offset", "u32 size")
MAP_REF: Final = Flat("u32 id", "u32 file", "u32 file_len", "u32 sites")  # file: name in the NAMES blob

# --- record -----------------------------------------------------------------------------------------------------------

LEVELS: Final = 32
MATCHES: Final = 8
RECORD: Final = Flat(
    "u64 key", "u32 flags", "u32 ttl", "u32 map", "u32 band_ms", "u16 endpoints", "u16 fallback_a", "u16 fallback_aaaa",
    "u8 take", "u8 fence", "u8 split4", "u8 split6", "u8 ladder_a", "u8 ladder_aaaa",
    "u16 https_head", "u16 https_rest",
)  # https_head, https_rest: octets of HTTPS SvcParams before and behind ipv4hint; ipv6hint is the last (RFC 9460 §2.2)
R_USES_CLIENT: Final = 1
R_OWNS_A: Final = 2
R_OWNS_AAAA: Final = 4
R_OWNS_HTTPS: Final = 8
R_NO_ECS_FALLBACK: Final = 16
R_UNKNOWN_FALLBACK: Final = 32
R_PANIC: Final = 64
R_SPILL: Final = 128
R_DECLARED: Final = R_NO_ECS_FALLBACK | R_UNKNOWN_FALLBACK | R_PANIC | R_SPILL

ENDPOINT: Final = Flat(
    "u64 key", "u32 standing", "u16 weight", "u8 column", "u8 tier", "u8 flags", "u8 health", "u16 load", "4s a",
    "16s aaaa", "u32 site", "u16 keep", "u16 take",
)  # standing: health and load as score points; column: site's column in the map, or NO_COLUMN; site (of its id's hash),
#    keep, take: where the service spills over, else 0 (steer.spill)
E_V4: Final = 1
E_V6: Final = 2
E_GHOST4: Final = 4  # of this family it is there, but cannot be answered: its place in the order counts (R_SPILL)
E_GHOST6: Final = 8
NO_COLUMN: Final = 0xFF

# --- map table --------------------------------------------------------------------------------------------------------

MAP_MAGIC: Final = b"DNSDMAP\0"
MAP_HEADER: Final = Flat(
    "8s magic", "u32 layout", "u32 sites", "u32 rows", "u32 runs4", "u32 runs6", "u32 fine4", "u32 fine6", "u32 crc",
    "u64 atlas", "u64 made_ms", "u64 size",
)  # atlas: digest of the atlas it was derived from; crc: of everything behind the header
INDEX4_SHIFT: Final = 8  # a v4 key is address >> 8, its index slot key >> 8, that is the /16
INDEX4_SLOTS: Final = 1 << 16
INDEX6_BASE: Final = 0x2 << 60  # v6 keys are the upper 64 bits; the index covers 2000::/3 by /20
INDEX6_SHIFT: Final = 44
INDEX6_SLOTS: Final = 1 << 17
KEY4_BITS: Final = 24
KEY6_BITS: Final = 64
ECS_MAX4: Final = 24
ECS_MAX6: Final = 56

def map_sections(
    sites: int, rows: int, runs4: int, runs6: int, fine4: int, fine6: int
) -> dict[str, tuple[int, int, str]]:
    """Where each array of a map table lies: name -> (offset, count, element code B, I or Q), each aligned to 8.

    rows: per row, `sites` levels and then `sites` match bytes. starts4/starts6: sorted first keys of the runs (the
    first is 0), rows4/rows6 their rows, index4[s]..index4[s+1] the runs that can hold a key of slot s: index[s] is the
    number of the run that holds the slot's first key. index6 is over 2000::/3 only. fine4 (lo, hi) full addresses and
    fine6 (lo, hi) upper 64 bits, disjoint and sorted, with rows: operator prefixes finer than ECS_MAX,
    for resolver addresses only.
    """
    sections: dict[str, tuple[int, int, str]] = {}
    offset = (MAP_HEADER.size + 7) & ~7
    for name, count, code in (
        ("level_ms", LEVELS, "I"), ("rows", rows * 2 * sites, "B"),
        ("starts4", runs4, "I"), ("rows4", runs4, "I"), ("index4", INDEX4_SLOTS + 1, "I"),
        ("starts6", runs6, "Q"), ("rows6", runs6, "I"), ("index6", INDEX6_SLOTS + 1, "I"),
        ("fine4", 2 * fine4, "I"), ("fine_rows4", fine4, "I"), ("fine6", 2 * fine6, "Q"), ("fine_rows6", fine6, "I"),
    ):
        sections[name] = (offset, count, code)
        offset = (offset + count * struct.calcsize("<" + code) + 7) & ~7
    sections["end"] = (offset, 0, "B")
    return sections


# --- frames and the journal -------------------------------------------------------------------------------------------

FRAME_MAGIC: Final = 0x46_44_4E_44
FRAME: Final = Flat(
    "u32 magic", "u16 kind", "u16 count", "u64 epoch", "u64 version", "u64 node_seq", "u64 from_version",
    "u64 from_node_seq", "u32 size", "u32 crc",
)  # size: bytes behind the FRAME; crc: of all but itself. from_*: the stamp it must be applied to, within one epoch
ITEM: Final = Flat("u32 index", "u32 size")
F_RECORDS: Final = 1  # items: record index -> bytes
F_MAP: Final = 2      # items: map id -> table file name
F_REMAP: Final = 3    # no items: the image file and its journal were replaced, read them
F_ACK: Final = 4      # worker -> control, no items: the stamp it serves
F_TRIPS: Final = 5    # worker -> control, items: number of round trips -> TRIP and the first 3 or 6 octets of clients
TRIP: Final = Flat("u32 median", "u32 spread")  # microseconds
FRAME_MAX: Final = 64 * 1024
