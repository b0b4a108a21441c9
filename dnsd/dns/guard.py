"""Response rate limiting: how often one network is answered in one zone with one kind of answer.

Lives here: the buckets, in a table that all workers of a node share. Does not live here: what is sent to whom is over
(`answer`), the clock, the table's memory (`supervisor`).

A bucket is one number, the time at which it is empty again (GCRA, ITU-T I.371): a token adds its cost to that time, and
there is one as long as the time stays within the burst. So nothing runs in the background. With a tag to tell whose it
is this fits in one u64, which is read and written whole: no lock. Two workers that take a token of one bucket in the
same microsecond may take only one.

    u64      tag (20) | time (44, in units of 64 ns, wraps after 13 days)
    bucket   (IPv4 /24 or IPv6 /56, zone, kind), in one of two neighbouring slots that its hash gives

The hash has a key of the node, so nobody outside can find networks that share slots. Of two strangers in its slots a
new bucket replaces the emptier one: one that is busy stays.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from struct import Struct
from typing import Final, NamedTuple

from dnsd.dns.prefixes import Prefixes, Ranges

UNIT_NS: Final = 64
KINDS: Final = 5
"""0 answers, 1 NODATA, 2 NXDOMAIN, 3 referrals, 4 refusals and errors."""

_SECOND: Final = 1_000_000_000 // UNIT_NS
TIME: Final = (1 << 44) - 1
_TAG: Final = ~TIME & (1 << 64) - 1
AHEAD: Final = 128 * _SECOND
"""What is further ahead is long past: no burst is longer than 60 s, and no worker's clock so far behind another's."""
PACES: Final = 16
"""Kinds, and from RAISED on the kinds again for raised clients."""
RAISED: Final = 8  # is added to the kind: raised clients have buckets of their own
BUCKETS: Final = 8192
"""Of so many a worker remembers where they are, in about 300 octets each: most queries come from few resolvers."""
_Bucket = tuple[int, int, int, int]
"""Slot and tag, the costs of a token and of a whole burst; no cost: the client is exempt."""
_EXEMPT: Final[_Bucket] = (0, 0, 0, 0)
_V4: Final = Struct(">I").unpack
_V6: Final = Struct(">Q8x").unpack


class GuardParts(NamedTuple):
    """What a compiled engine needs of a guard to take tokens from the same buckets: `costs` and `mosts` by kind, the
    raised kinds behind; `key` as `hash` has it; `exempt` and `raised` as `Prefixes.ranges()`; `slipped` is shared.
    """

    table: MutableSequence[int]
    mask: int
    key: int
    costs: tuple[int, ...]
    mosts: tuple[int, ...]
    exempt: tuple[Ranges, Ranges]
    raised: tuple[Ranges, Ranges]
    slipped: bytearray
    apart4: bool
    apart6: bool
    some_exempt: bool


class Guard:
    """The buckets of a node, as one worker uses them.

    `table` is shared and a power of two long; `answers` (kind 0) and `others` (each other kind) are rates per second;
    `burst_s` is how many seconds of unused rate may be spent at once. Clients of `raised` have `raised_by` times the
    rates, those of `exempt` none. `key`, 64 bits, is the same in all workers. `now` is set by `tick`, once a batch.
    """

    __slots__ = (
        "_apart4", "_apart6", "_buckets", "_exempt", "_key", "_mask", "_pace", "_raised", "_slipped", "_some_exempt",
        "_table", "now")

    def __init__(self, table: MutableSequence[int], *, answers: int, others: int, burst_s: float, raised_by: int,
                 exempt: Prefixes, raised: Prefixes, key: int) -> None:
        if len(table) < 2 or len(table) & len(table) - 1:
            raise ValueError(f"{len(table)} slots are no power of two")
        self._table = table
        self._mask = len(table) - 1
        self._key = key
        self._exempt, self._raised = exempt, raised
        self._some_exempt = bool(exempt)
        # Where no list tells clients of one bucket apart, it is enough to ask whether one is exempt when it is over.
        longest4, longest6 = exempt.longest()
        self._apart4, self._apart6 = bool(raised) or longest4 > 24, bool(raised) or longest6 > 56
        usual = [_pace(answers, burst_s)] + [_pace(others, burst_s)] * (KINDS - 1)
        more = [_pace(answers * raised_by, burst_s)] + [_pace(others * raised_by, burst_s)] * (KINDS - 1)
        self._pace = (*usual, *[(0, 0)] * (RAISED - KINDS), *more)
        self._buckets: dict[tuple[bytes, int, int], _Bucket] = {}
        self._slipped = bytearray(b"\1")
        self.now = 0

    def tick(self, monotonic_ns: int) -> None:
        """Set the time: CLOCK_MONOTONIC, which all processes of a machine share, in nanoseconds."""
        self.now = monotonic_ns // UNIT_NS & TIME

    def over(self, client: bytes, zone: int, kind: int) -> bool:
        """Take a token for a client (4 or 16 octets); True when there is none."""
        slot, tag, cost, most = self._buckets.get((client, zone, kind)) or self._bucket(client, zone, kind)
        if not cost:
            return False
        table, now = self._table, self.now
        empty_at = table[slot] ^ tag
        if empty_at > TIME:
            slot, empty_at = self._place(slot, tag)
        ahead = empty_at - now & TIME
        if ahead > AHEAD:
            ahead = 0
        ahead += cost
        if ahead > most:
            return not (self._some_exempt and client in self._exempt)
        table[slot] = tag | now + ahead & TIME
        return False

    def _bucket(self, client: bytes, zone: int, kind: int) -> _Bucket:
        """The bucket, from now on remembered."""
        if len(client) == 4:
            prefix, apart = _V4(client)[0] >> 8, self._apart4
        else:
            prefix, apart = _V6(client)[0] >> 8 | 1 << 56, self._apart6
        key, exempt = (client, zone, kind), apart and client in self._exempt
        if apart and client in self._raised:
            kind += RAISED
        hashed = hash((self._key, prefix, zone << 4 | kind))  # of whole numbers only: every process has the same
        bucket = _EXEMPT if exempt else (hashed & self._mask, hashed & _TAG, *self._pace[kind])
        if len(self._buckets) >= BUCKETS:
            self._buckets.clear()
        self._buckets[key] = bucket
        return bucket

    def _place(self, slot: int, tag: int) -> tuple[int, int]:
        """The neighbour, if the bucket is there; else the emptier of the two, to become that bucket."""
        beside = slot ^ 1
        table, now = self._table, self.now
        empty_at = table[beside] ^ tag
        if empty_at <= TIME:
            return beside, empty_at
        ahead, ahead_beside = table[slot] - now & TIME, table[beside] - now & TIME
        return (slot if ahead > AHEAD or (ahead <= ahead_beside <= AHEAD) else beside), now

    def slip(self) -> bool:
        """True for every second call."""
        self._slipped[0] ^= 1
        return bool(self._slipped[0])

    def flat(self) -> GuardParts:
        """The guard as a compiled engine takes it."""
        costs, mosts = zip(*self._pace, *[(0, 0)] * (PACES - len(self._pace)), strict=True)
        return GuardParts(
            self._table, self._mask, hash(self._key), costs, mosts, self._exempt.ranges(), self._raised.ranges(),
            self._slipped, self._apart4, self._apart6, self._some_exempt)


def _pace(rate: int, burst_s: float) -> tuple[int, int]:
    """(Cost of a token, cost of a whole burst), in units of time; rounded so that no more than the rate comes out."""
    cost = -(-_SECOND // rate)
    return cost, cost * max(1, int(rate * burst_s))
