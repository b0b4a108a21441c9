"""Records: a service as finished numbers and bytes, and the plan a worker unfolds from one.

Lives here: reading a record's bytes, the memo of its orders by row, the answer's address bytes for one draw.
Does not live here: writing (`compile.service`), which row a client has (`image.table`).

A `Plan` is made from a record's bytes at first use and thrown away with them, and its memo with it: a memo never
outlives the record it was made from. Only another table for the record's map makes it `forget`.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from dnsd.dns import types
from dnsd.image import layout
from dnsd.image.table import MapTable
from dnsd.model import Ladder
from dnsd.steer import draw, rank, spill

MEMO: Final = 131072
"""Orders all of an image's records remember together, about 100 octets each; a record's share is its part of that, but
at least `MEMO_LEAST`. A full memo is emptied, which costs a ranking each (some µs)."""

MEMO_LEAST: Final = 16

V6_BLOCK: Final = 1 << 62
"""Set in the draw's block of IPv6 clients, so that 10.0.0.0/24 and an IPv6 block do not share draws."""


class Plan:
    """A record, unfolded. Attributes are the record's fields; see `layout.RECORD` and `layout.ENDPOINT`.

    `plain` says of A, AAAA and HTTPS whether nothing stands between a client and the top group: the type is live, no
    rung is declared for clients without a place, no fence, no split, one address to give. Then the short way through
    `choose` is enough. HTTPS never is, being made of both. Of methods, `v6` is 0 for A and 1 for AAAA.
    """

    __slots__ = (
        "_groups_a", "_groups_aaaa", "_memo", "_reach", "candidates", "fallback_a", "fallback_aaaa", "first_a",
        "first_aaaa", "flags", "https_head", "https_rest", "key", "keys", "ladder_a", "ladder_aaaa", "map_id", "plain",
        "rrs_a", "rrs_aaaa", "rules", "split4", "split6", "take", "tops_a", "tops_aaaa", "ttl", "uses_client",
        "weights",
    )

    def __init__(self, data: bytes | memoryview, records: int = 1) -> None:
        """Unfold a record's bytes; ValueError where they are none. `records`: how many share the memory for memos."""
        self.key: int
        self.split4: int
        self.split6: int
        self.ttl: int
        self.map_id: int
        self.take: int
        (self.key, self.flags, self.ttl, self.map_id, band_ms, endpoints, fallback_a, fallback_aaaa, self.take, fence,
         self.split4, self.split6, self.ladder_a, self.ladder_aaaa, head, rest) = layout.RECORD.unpack_from(data, 0)
        points = struct.unpack_from(f"<{layout.LEVELS + layout.MATCHES}I", data, layout.RECORD.size)
        self.rules = rank.Rules(points[: layout.LEVELS], points[layout.LEVELS :], band_ms, fence)
        at = layout.RECORD.size + 4 * len(points)
        self.candidates = [_candidate(data, at + i * layout.ENDPOINT.size) for i in range(endpoints)]
        at += endpoints * layout.ENDPOINT.size
        self.fallback_a = [bytes(data[at + 4 * i : at + 4 * i + 4]) for i in range(fallback_a)]
        at += 4 * fallback_a
        self.fallback_aaaa = [bytes(data[at + 16 * i : at + 16 * i + 16]) for i in range(fallback_aaaa)]
        at += 16 * fallback_aaaa
        self.https_head, self.https_rest = bytes(data[at : at + head]), bytes(data[at + head : at + head + rest])
        if at + head + rest != len(data):
            raise ValueError(f"record of {len(data)} octets, its counts need {at + head + rest}")
        self.uses_client = bool(self.flags & layout.R_USES_CLIENT)
        plain = (self.uses_client and self.take == 1 and not self.split4 and not fence
                 and not self.flags & layout.R_DECLARED)
        self.plain = (plain and self.ladder_a == Ladder.LIVE, plain and self.ladder_aaaa == Ladder.LIVE, False)
        self.keys = [c.key for c in self.candidates]
        self.weights = [c.weight for c in self.candidates]
        self.rrs_a = [_rr(1, self.ttl, c.a) if c.a else b"" for c in self.candidates]
        self.rrs_aaaa = [_rr(28, self.ttl, c.aaaa) if c.aaaa else b"" for c in self.candidates]
        self.first_a = _first_tier([(i, c) for i, c in enumerate(self.candidates) if c.a])
        self.first_aaaa = _first_tier([(i, c) for i, c in enumerate(self.candidates) if c.aaaa])
        self._memo = max(MEMO_LEAST, MEMO // records)
        self.tops_a: dict[int, tuple[int, ...]]
        self.tops_aaaa: dict[int, tuple[int, ...]]
        self._groups_a: dict[int, list[list[int]]]
        self._groups_aaaa: dict[int, list[list[int]]]
        self._reach: list[int]
        self.forget()

    def forget(self) -> None:
        """Drop what is remembered by row: the map's table is another one."""
        self.tops_a, self.tops_aaaa, self._groups_a, self._groups_aaaa, self._reach = {}, {}, {}, {}, []

    def top(self, v6: int, row: int, table: MapTable) -> tuple[int, ...]:
        """The best group for that row, as `groups` would have it first; for plain records, and remembered by row.

        Written for speed: only the first tier, only its best level, only what the band holds is looked at.
        """
        tops = self.tops_aaaa if v6 else self.tops_a
        found = tops.get(row)
        if found is not None:
            return found
        first = self.first_aaaa if v6 else self.first_a
        if first is None:
            found = tuple(self.groups(v6, row, table)[0])
        else:
            columns, numbers, standings = first
            data = table.row_bytes(row)
            levels = [data[column] for column in columns]
            reach = (self._reach or self._reaches(table.level_ms))[min(levels)]
            best, group = -1, []
            proximity, match, sites = self.rules.proximity, self.rules.match, table.sites
            for level, column, number, standing in zip(levels, columns, numbers, standings, strict=True):
                if level <= reach:
                    score = proximity[level] + match[data[sites + column] & 7] + standing
                    if score > best:
                        best, group = score, [number]
                    elif score == best:
                        group.append(number)
            found = tuple(group)
        if len(tops) >= self._memo:
            tops.clear()
        tops[row] = found
        return found

    def _reaches(self, level_ms: list[int]) -> list[int]:
        band = self.rules.band_ms
        self._reach = [bisect_right(level_ms, ms + band) - 1 for ms in level_ms]
        return self._reach

    def groups(self, v6: int, row: int, table: MapTable | None) -> list[list[int]]:
        """Groups of equal endpoints for that row, best first; none where the fence lets the fallback answer.

        Remembered by row. Without a table that is row 0, which tells no sites apart either.
        """
        memo = self._groups_aaaa if v6 else self._groups_a
        found = memo.get(row)
        if found is None:
            judged = self.judge(v6, row, table)
            if len(memo) >= self._memo:
                memo.clear()
            found = memo[row] = [] if judged is None else rank.groups(judged)
        return found

    def judge(self, v6: int, row: int, table: MapTable | None) -> list[rank.Judged] | None:
        """The judgement behind `groups`; None where the fence leaves nobody and there is a fallback for the type.

        Without a table (the client does not matter, or the map is not here yet) no row tells sites apart.
        """
        levels, bits, level_ms = table.row(row) if table else (_ZEROS, _ZEROS, [0])
        ghosts = self.flags & layout.R_SPILL
        candidates = [(i, c) for i, c in enumerate(self.candidates)
                      if (c.aaaa if v6 else c.a) or (ghosts and (c.ghost_aaaa if v6 else c.ghost_a))]
        inside = rank.fenced(bits, self.rules.fence, candidates)
        if not inside:
            if self.fallback_aaaa if v6 else self.fallback_a:
                return None
            inside = candidates
        return rank.judge(levels, bits, level_ms, self.rules, inside)

    def pick(self, v6: int, groups: Sequence[Sequence[int]], block: int, now: int) -> tuple[int, bytes]:
        """How many addresses a draw gives and their finished RRs, owners C0 0C. `block`: the client's, with family."""
        rrs = self.rrs_aaaa if v6 else self.rrs_a
        chosen = self.drawn(groups, self.seed(block, now), v6)
        return len(chosen), b"".join([rrs[i] for i in chosen])

    def seed(self, block: int, now: int) -> int:
        """The seed of a block's draw at that time; sticky services have one window for ever."""
        return draw.seed(self.key, block, 0 if self.split4 else now // self.ttl)

    def drawn(self, groups: Sequence[Sequence[int]], seed: int, v6: int = 0) -> list[int]:
        """The first `take` endpoints (numbers) of the whole order, each group in the order of this draw."""
        if self.flags & layout.R_SPILL:
            return self._spilled(v6, groups, seed)
        chosen: list[int] = []
        for group in groups:
            chosen += draw.order(seed, group, self.keys, self.weights)
            if len(chosen) >= self.take:
                break
        return chosen[: self.take]

    def way(self, v6: int, groups: Sequence[Sequence[int]], seed: int) -> Iterator[spill.Stand]:
        """A client's order as `steer.spill` walks it."""
        for group in groups:
            for number in draw.order(seed, group, self.keys, self.weights):
                one = self.candidates[number]
                yield spill.Stand(number, one.tier if one.weight else one.tier + rank.NEVER_FIRST,
                                  (one.aaaa if v6 else one.a) is not None, one.spread)

    def _spilled(self, v6: int, groups: Sequence[Sequence[int]], seed: int) -> list[int]:
        """Who takes the client, and behind it others in the order; nobody where all in it are ghosts."""
        first = spill.walk(seed, self.way(v6, groups, seed))
        if first < 0 or self.take == 1:
            return [first] if first >= 0 else []
        rest = [one.number for one in self.way(v6, groups, seed) if one.alive and one.number != first]
        return [first, *rest][: self.take]

    def https(self, a: bytes, aaaa: bytes) -> bytes:
        """The finished HTTPS RR whose hints are the addresses of these finished A and AAAA RRs (RFC 9460 §7.3)."""
        hints4 = b"".join([a[at + 12 : at + 16] for at in range(0, len(a), 16)])
        hints6 = b"".join([aaaa[at + 12 : at + 28] for at in range(0, len(aaaa), 28)])
        return _rr(types.HTTPS, self.ttl, b"".join((
            b"\0\1\0", self.https_head, b"\0\4" + len(hints4).to_bytes(2, "big") + hints4 if hints4 else b"",
            self.https_rest, b"\0\6" + len(hints6).to_bytes(2, "big") + hints6 if hints6 else b"")))

    def rung(self, v6: int) -> tuple[int, bytes]:
        """How many addresses the fallback (or last good) rung gives, and their finished RRs."""
        addresses = self.fallback_aaaa if v6 else self.fallback_a
        type_ = 28 if v6 else 1
        return len(addresses), b"".join([_rr(type_, self.ttl, address) for address in addresses])


_ZEROS: Final = bytes(layout.NO_COLUMN)

_First = tuple[list[int], list[int], list[int]]
"""Columns, numbers and standings of a tier's candidates."""


def _first_tier(candidates: list[tuple[int, rank.Candidate]]) -> _First | None:
    """The lowest tier, unless weights of 0 or sites without a column make it a case for `rank.judge`."""
    if not candidates or any(c.column is None or not c.weight for _, c in candidates):
        return None
    lowest = min(c.tier for _, c in candidates)
    tier = [(i, c) for i, c in candidates if c.tier == lowest]
    return [c.column for _, c in tier if c.column is not None], [i for i, _ in tier], [c.standing for _, c in tier]


def _candidate(data: bytes | memoryview, at: int) -> rank.Candidate:
    key, standing, weight, column, tier, flags, _, _, a, aaaa, site, keep, take = layout.ENDPOINT.unpack_from(data, at)
    return rank.Candidate(
        None if column == layout.NO_COLUMN else column, tier, standing, weight, key,
        a if flags & layout.E_V4 else None, aaaa if flags & layout.E_V6 else None,
        spill.Spread(site, keep, take), flags & layout.E_GHOST4 != 0, flags & layout.E_GHOST6 != 0)


def _rr(type_: int, ttl: int, rdata: bytes) -> bytes:
    return struct.pack(">HHHIH", 0xC00C, type_, 1, ttl, len(rdata)) + rdata
