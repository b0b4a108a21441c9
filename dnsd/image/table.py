"""Map tables: a client's address to its row, and the scope that row is good for.

Lives here: reading the mapped file that `atlas.tablefile` writes, folding IPv4 out of IPv6 disguises.
Does not live here: offsets (`image.layout`), what a row is worth (`steer.rank`).

A look-up is an index slot, a bisection between two of its neighbours and two XORs: the run found is widened to the
largest aligned block inside it. IPv6 that only carries IPv4 (mapped, NAT64, 6to4, Teredo) is judged by the IPv4 inside
as far as the question gives those bits, so that a phone behind NAT64 is not placed at the translator.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple
from zlib import crc32

from dnsd.image import layout
from dnsd.steer.row import ROW_UNKNOWN
from dnsd.steer.scope import block_length

MAPPED: Final = 0xFFFF                       # ::ffff:0:0/96, RFC 4291 §2.5.5.2
NAT64: Final = 0x0064FF9B << 64              # 64:ff9b::/96, RFC 6052 §2.1
SIX_TO_FOUR: Final = 0x2002                         # 2002::/16, RFC 3056 §2
TEREDO: Final = 0x20010000                   # 2001::/32, RFC 4380 §4; the last 32 bits are the client's IPv4, inverted


class Found(NamedTuple):
    """A row and the prefix length, in the asked family, inside which every client has it."""

    row: int
    scope: int


class MapTable:
    """One map's table over a buffer (mapped file or bytes), kept as `buffer`; ValueError where it is not one."""

    def __init__(self, buffer: bytes | memoryview) -> None:
        self.buffer = view = memoryview(buffer)
        if len(view) < layout.MAP_HEADER.size:
            raise ValueError("map table is shorter than its header")
        (magic, version, self.sites, self.rows, self.runs4, self.runs6, self.fine4, self.fine6, crc, self.atlas,
         self.made_ms, size) = layout.MAP_HEADER.unpack_from(view, 0)
        if magic != layout.MAP_MAGIC or version != layout.LAYOUT:
            raise ValueError(f"not a map table of layout {layout.LAYOUT}")
        sections = layout.map_sections(self.sites, self.rows, self.runs4, self.runs6, self.fine4, self.fine6)
        if size != len(view) or size != sections["end"][0] or not self.runs4 or not self.runs6:
            raise ValueError(f"map table of {len(view)} octets, its header says {size}")
        if crc32(view[layout.MAP_HEADER.size :]) != crc:
            raise ValueError("map table is damaged: checksum differs")
        self.size = size

        def array(name: str) -> memoryview:
            offset, count, code = sections[name]
            if code == "Q":
                return view[offset : offset + 8 * count].cast("Q")
            return view[offset : offset + 4 * count].cast("I") if code == "I" else view[offset : offset + count]

        steps = array("level_ms").tolist()
        self.level_ms = [ms for i, ms in enumerate(steps) if not i or ms > steps[i - 1]]
        self._rows = array("rows")
        self._starts4, self._rows4, self._index4 = array("starts4"), array("rows4"), array("index4")
        self._starts6, self._rows6, self._index6 = array("starts6"), array("rows6"), array("index6")
        self._fine4, self._fine_rows4 = array("fine4"), array("fine_rows4")
        self._fine6, self._fine_rows6 = array("fine6"), array("fine_rows6")

    def find4(self, key: int) -> tuple[int, int]:
        """Row and scope (0..24) of an IPv4 key, that is address >> 8."""
        slot = key >> layout.INDEX4_SHIFT
        index, starts = self._index4, self._starts4
        at = bisect_right(starts, key, index[slot], index[slot + 1] + 1)
        low = starts[at - 1]
        # steer.scope.block_length, written out: this is the query path's largest single cost
        below = key ^ (low - 1 if low else 0x1000000)
        above = key ^ (starts[at] if at < self.runs4 else 0x1000000)
        return self._rows4[at - 1], 25 - (below if below < above else above).bit_length()

    def find6(self, address: int, source: int = 128) -> tuple[int, int]:
        """Row and scope of an IPv6 address (128 bits) of which the first `source` bits are known."""
        inside = embedded4(address, source)
        if inside is not None:
            key, before = inside
            row, scope = self.find4(key)
            return row, before + scope
        key = address >> 64
        starts = self._starts6
        slot = (key - layout.INDEX6_BASE) >> layout.INDEX6_SHIFT
        if 0 <= slot < layout.INDEX6_SLOTS:
            at = bisect_right(starts, key, self._index6[slot], self._index6[slot + 1] + 1)
        else:
            at = bisect_right(starts, key)
        row, low = self._rows6[at - 1], starts[at - 1]
        high = starts[at] - 1 if at < self.runs6 else (1 << layout.KEY6_BITS) - 1
        if not row:
            return row, _bare_length(key, low, high)
        return row, block_length(key, low, high, layout.KEY6_BITS)

    def find_resolver(self, packed: bytes) -> int:
        """The row of a whole address (4 or 16 octets) that is no ECS: prefixes finer than a scope count too."""
        if len(packed) == 4:
            row = _fine(self._fine4, self._fine_rows4, int.from_bytes(packed, "big")) if self.fine4 else None
            return self.find4(int.from_bytes(packed[:3], "big"))[0] if row is None else row
        if self.fine6:
            row = _fine(self._fine6, self._fine_rows6, int.from_bytes(packed[:8], "big"))
            if row is not None:
                return row
        return self.find6(int.from_bytes(packed, "big"))[0]

    def row_bytes(self, row: int) -> bytes:
        """A row's levels by column and, behind them, its match bits by column."""
        at = (row if row < self.rows else ROW_UNKNOWN) * 2 * self.sites
        return bytes(self._rows[at : at + 2 * self.sites])

    def row(self, row: int) -> tuple[bytes, bytes, list[int]]:
        """A row's levels and match bits by column, and the milliseconds each level stands for."""
        data = self.row_bytes(row)
        return data[: self.sites], data[self.sites :], self.level_ms


def embedded4(address: int, source: int) -> tuple[int, int] | None:
    """The IPv4 key inside an IPv6 disguise and how many bits stand before it; None for true IPv6 or too few bits.

    At least the first octet of the IPv4 must be known, else the prefix says nothing of the client.
    """
    if address >> 32 == MAPPED or address >> 32 == NAT64:
        return ((address & 0xFFFFFFFF) >> 8, 96) if source >= 104 else None
    if address >> 112 == SIX_TO_FOUR:
        return ((address >> 80) & 0xFFFFFFFF) >> 8, 16
    if address >> 96 == TEREDO:
        return ((~address & 0xFFFFFFFF) >> 8, 96) if source >= 104 else None
    return None


_DISGUISES: Final = ((0, 0), (NAT64 >> 32, NAT64 >> 32), (TEREDO << 32, (TEREDO << 32) + 0xFFFFFFFF),
                     (SIX_TO_FOUR << 48, (SIX_TO_FOUR << 48) + 0xFFFFFFFFFFFF))
"""First and last keys of the disguises: as IPv6 they are nowhere, so they lie in runs of the unknown client's row."""


def _bare_length(key: int, low: int, high: int) -> int:
    """Scope inside a run that may reach over disguises: their clients are judged by the IPv4 inside, not by this run.

    Where too few bits of a disguise are known, the scope says how many it takes (RFC 7871 §7.2.1).
    """
    for first, last in _DISGUISES:
        if first <= key <= last:
            return 104
        if key < first:
            high = min(high, first - 1)
        else:
            low = max(low, last + 1)
    return block_length(key, low, high, layout.KEY6_BITS)


def _fine(edges: memoryview, rows: memoryview, key: int) -> int | None:
    """The row of the (low, high) pair that holds the key, if any does."""
    low, high = 0, len(rows)
    while low < high:
        middle = (low + high) // 2
        if edges[2 * middle] <= key:
            low = middle + 1
        else:
            high = middle
    if low and key <= edges[2 * low - 1]:
        row: int = rows[low - 1]
        return row
    return None
