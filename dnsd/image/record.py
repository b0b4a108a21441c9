"""Records: a service as finished numbers and bytes, and the plan a worker unfolds from one.

Lives here: reading a record's bytes, the memo of its orders by row, the answer's address bytes for one draw.
Does not live here: writing (`compile.service`), which row a client has (`image.table`).

A `Plan` is made from a record's bytes at first use and thrown away with them, and its memo with it: a memo never
outlives the record it was made from, so nothing has to be invalidated.
"""

from __future__ import annotations

import struct
from typing import Final

from dnsd.image import layout
from dnsd.image.table import MapTable
from dnsd.steer import draw, rank

MEMO: Final = 4096
"""Orders remembered per record and type; a full memo is emptied, which costs a ranking each (some µs)."""

V6_BLOCK: Final = 1 << 62
"""Set in the draw's block of IPv6 clients, so that 10.0.0.0/24 and an IPv6 block do not share draws."""

FENCED_OUT: Final[tuple[tuple[int, ...], ...]] = ()
"""The order of a row whose fence leaves nobody while the record has a fallback: the fallback answers."""


class Plan:
    """A record, unfolded. Attributes are the record's fields; see `layout.RECORD` and `layout.ENDPOINT`."""

    __slots__ = (
        "_memo_a", "_memo_aaaa", "candidates", "fallback_a", "fallback_aaaa", "flags", "key", "keys", "ladder_a",
        "ladder_aaaa", "map_id", "rrs_a", "rrs_aaaa", "rules", "split4", "split6", "take", "ttl", "uses_client",
        "weights",
    )

    def __init__(self, data: bytes | memoryview) -> None:
        self.key: int
        self.split4: int
        self.split6: int
        (self.key, self.flags, self.ttl, self.map_id, band_ms, endpoints, fallback_a, fallback_aaaa, self.take, fence,
         self.split4, self.split6, self.ladder_a, self.ladder_aaaa, _) = layout.RECORD.unpack_from(data, 0)
        at = layout.RECORD.size
        proximity = memoryview(data)[at : at + 4 * layout.LEVELS].cast("I").tolist()
        at += 4 * layout.LEVELS
        match = memoryview(data)[at : at + 4 * layout.MATCHES].cast("I").tolist()
        at += 4 * layout.MATCHES
        self.rules = rank.Rules(proximity, match, band_ms, fence)
        self.candidates: list[rank.Candidate] = []
        for _ in range(endpoints):
            key, standing, weight, column, tier, flags, _, _, a, aaaa, _ = layout.ENDPOINT.unpack_from(data, at)
            self.candidates.append(rank.Candidate(
                None if column == layout.NO_COLUMN else column, tier, standing, weight, key,
                a if flags & layout.E_V4 else None, aaaa if flags & layout.E_V6 else None))
            at += layout.ENDPOINT.size
        self.fallback_a = [bytes(data[at + 4 * i : at + 4 * i + 4]) for i in range(fallback_a)]
        at += 4 * fallback_a
        self.fallback_aaaa = [bytes(data[at + 16 * i : at + 16 * i + 16]) for i in range(fallback_aaaa)]
        if at + 16 * fallback_aaaa != len(data):
            raise ValueError(f"record of {len(data)} octets, its counts need {at + 16 * fallback_aaaa}")
        self.uses_client = bool(self.flags & layout.R_USES_CLIENT)
        self.keys = [c.key for c in self.candidates]
        self.weights = [c.weight for c in self.candidates]
        self.rrs_a = [_rr(1, self.ttl, c.a) if c.a else b"" for c in self.candidates]
        self.rrs_aaaa = [_rr(28, self.ttl, c.aaaa) if c.aaaa else b"" for c in self.candidates]
        self._memo_a: dict[int, tuple[tuple[int, ...], ...]] = {}
        self._memo_aaaa: dict[int, tuple[tuple[int, ...], ...]] = {}

    def order(self, v6: bool, row: int, table: MapTable | None) -> tuple[tuple[int, ...], ...]:
        """Groups of equal endpoints for that row, best first; without a table the row is nobody's in particular."""
        memo = self._memo_aaaa if v6 else self._memo_a
        found = memo.get(row)
        if found is None:
            if len(memo) >= MEMO:
                memo.clear()
            found = memo[row] = self._rank(v6, row, table)
        return found

    def _rank(self, v6: bool, row: int, table: MapTable | None) -> tuple[tuple[int, ...], ...]:
        judged = self.judge(v6, row, table)
        if judged is None:
            return FENCED_OUT
        return tuple(tuple(group) for group in rank.groups(judged))

    def judge(self, v6: bool, row: int, table: MapTable | None) -> list[rank.Judged] | None:
        """The judgement behind `order`; None where the fence leaves nobody and there is a fallback for the type."""
        levels, bits, level_ms = table.row(row) if table else _nobody()
        candidates = [(i, c) for i, c in enumerate(self.candidates) if (c.aaaa if v6 else c.a)]
        inside = rank.fenced(bits, self.rules.fence, candidates)
        if not inside:
            if self.fallback_aaaa if v6 else self.fallback_a:
                return None
            inside = candidates
        return rank.judge(levels, bits, level_ms, self.rules, inside)

    def pick(self, v6: bool, groups: tuple[tuple[int, ...], ...], block: int, now: int) -> tuple[int, bytes]:
        """How many addresses a draw gives and their finished RRs, owners C0 0C. `block`: the client's, with family."""
        rrs = self.rrs_aaaa if v6 else self.rrs_a
        group = groups[0]
        if self.take == 1 and len(group) == 1:
            return 1, rrs[group[0]]
        window = 0 if self.split4 else now // self.ttl
        if self.take == 1:
            return 1, rrs[draw.first(draw.seed(self.key, block, window), group, self.keys, self.weights)]
        chosen = self.drawn(groups, draw.seed(self.key, block, window))
        return len(chosen), b"".join([rrs[i] for i in chosen])

    def drawn(self, groups: tuple[tuple[int, ...], ...], seed: int) -> list[int]:
        """The first `take` endpoints (indexes) of the whole order, each group in the order of this draw."""
        chosen: list[int] = []
        for group in groups:
            chosen += draw.order(seed, group, self.keys, self.weights)
            if len(chosen) >= self.take:
                break
        return chosen[: self.take]

    def rung(self, v6: bool) -> tuple[int, bytes]:
        """How many addresses the fallback (or last good) rung gives, and their finished RRs."""
        addresses = self.fallback_aaaa if v6 else self.fallback_a
        type_ = 28 if v6 else 1
        return len(addresses), b"".join([_rr(type_, self.ttl, address) for address in addresses])


def _rr(type_: int, ttl: int, rdata: bytes) -> bytes:
    return struct.pack(">HHHIH", 0xC00C, type_, 1, ttl, len(rdata)) + rdata


def _nobody() -> tuple[bytes, bytes, list[int]]:
    """A row for a policy that never looks at one: every column level 0, no match."""
    return bytes(256), bytes(256), [0]
