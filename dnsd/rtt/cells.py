"""Cells: what reporters say of one client block at one site, as decaying aggregates, and one estimate of it.

Lives here: the arrays, folding groups in, the estimate, forgetting. Does not live here: when an estimate is decided
on (`rtt.decide`), which reporters are believed (`rtt.trust`), how cells are kept in the store (`rtt.rows`).

A cell has up to three reporters. Each has a round trip that new medians join by weight, a spread, and a weight that
halves every `half_life_s`. A median further off than three spreads (5 ms at least) does not join; but the third in a
row on the same side is no outlier, it is what the path has become, and is followed at once. The estimate is the
median of the reporters, so of three one may lie. All is done for thousands of cells at a time; a cell costs
some 80 octets.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnsd.rtt import blocks
from dnsd.rtt.items import FAR, Entry, Groups
from dnsd.rtt.lookup import Lookup
from dnsd.rtt.table import BLOCKS_MOST, EPOCH_MINUTES, SITES_MOST

SLOTS: Final = 3
HALF_LIFE_S: Final = 6 * 3600.0
CELLS_MOST: Final = 1 << 24
REPORTERS_MOST: Final = 4096
OTHERS: Final = "*"
EPOCH_S: Final = EPOCH_MINUTES * 60
LEAST_OFF: Final = 50
"""Tenths of a millisecond that a median may always be off and still join."""

SPREADS: Final = 3.0
SHIFT: Final = 3
"""Medians in a row on one side that are a shift."""

CALM_S: Final = 1800
DAMPED_MOST: Final = 3
"""Each shift within half an hour of the one before needs twice as many medians, up to eight times, unless it leads back
to what is decided: a path that goes to and fro is noise."""

LEARNS: Final = 1.08
"""How fast a spread follows the middle of what medians are off by: a share of each, whatever the few wild ones are."""

SLOWEST: Final = 1 / 32
"""A new median counts so much at least, however much was seen before."""

WHOLE: Final = 8.0
"""Samples from which on a reporter's word weighs no more: many samples of one are not many witnesses."""

GONE: Final = 0.25
"""Decayed samples below which a reporter's word is forgotten."""

SHARE_MOST: Final = 0.5
"""Of all cells there may be, one reporter may open so many."""

EVICTED: Final = 0.05
LATE_S: Final = 600
"""An entry is taken for so old at most: what is said to be older comes from a clock that is wrong, and would fade at
once, with all that its reporter had said before."""

_RUN_MOST: Final = 100
_MASK: Final = np.uint64((1 << 48) - 1)
_COLUMN: Final = np.uint64(8)

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Array = NDArray[Any]


class Estimate(NamedTuple):
    """Of some cells: tenths of a millisecond (0: nobody's word is left), one sigma in ms, decayed samples, reporters,
    the second of the newest sample."""

    tenths: F64
    error: F64
    samples: F64
    reporters: I64
    last_s: I64


class Seen(NamedTuple):
    """Medians of one fold: when, of which cells and reporters' places, how far they were off (tenths)."""

    at_s: int
    numbers: I64
    slots: I64
    off: F64


_FIELDS: Final[dict[str, tuple[Any, bool]]] = {  # name: type, whether there is one for each reporter
    "reporter": (np.uint16, True), "rtt": (np.uint16, True), "spread": (np.uint16, True), "weight": (np.float32, True),
    "at": (np.uint32, True), "streak": (np.int8, True), "off": (np.uint32, True), "aim": (np.uint16, True),
    "turns": (np.uint8, True), "turned": (np.uint32, True),
    "km": (np.uint16, False), "ms": (np.uint16, False), "since": (np.uint32, False), "pending": (np.bool_, False),
    "dirty": (np.bool_, False)}

TIMES: Final = ("at", "off", "turned", "since")


class Cells:
    """All cells of a fleet. `sites` are columns, `reporters` numbers from 1 on; who is gone leaves None.

    For each cell and reporter: `reporter` (0: free), `rtt` and `spread` in tenths, `weight`, second `at`, `streak`
    of medians on one side, since when (`off`) and around what (`aim`). For each cell: `km`, the decided `ms` in
    tenths, whether the estimate is beyond the margin (`pending`) and `since` when, whether it was changed since it
    was kept (`dirty`).
    """

    def __init__(self, *, half_life_s: float = HALF_LIFE_S, cells_most: int = CELLS_MOST,
                 blocks_most: int = BLOCKS_MOST) -> None:
        self.half_life_s, self.cells_most, self.blocks_most = half_life_s, cells_most, blocks_most
        self.sites: list[str | None] = []
        self.resting: set[int] = set()  # columns of sites that are gone, whose rows may still be kept somewhere
        self.reporters: list[str | None] = [""]
        self.trusted = np.ones(1, np.bool_)
        self.opened = np.zeros(1, np.int64)
        self.lookup = Lookup()
        self.crowded = self.folded = self.evicted = 0
        self.seen: list[Seen] = []  # lately, for `rtt.together`
        self.looked_s = -1000
        self.usual: dict[int, tuple[float, int]] = {}  # how wide each column's are, since when
        self._arrays: dict[str, Array] = {
            name: np.zeros((0, SLOTS) if many else 0, kind) for name, (kind, many) in _FIELDS.items()}

    def __len__(self) -> int:
        return len(self.lookup)

    def __getitem__(self, name: str) -> Array:
        """One of the arrays, by cell number."""
        return self._arrays[name][: len(self.lookup)]

    @property
    def keys(self) -> U64:
        """Each cell's key: block and column (`key_of`)."""
        return self.lookup.keys

    def fold(self, entry: Entry, now_s: int) -> I64:
        """Takes an entry in; the numbers of the cells it is about."""
        columns = np.array([self.column(site) for site in entry.sites] or [0], np.int64)
        reporters = np.array([self.reporter(name) for name in entry.reporters] or [0], np.int64)
        groups = entry.groups
        groups = groups[columns[groups["site"]] >= 0]
        at_s = max(0, now_s - LATE_S, min(entry.at_ms // 1000 - EPOCH_S, now_s))
        keys = key_of(groups["block"], columns[groups["site"]])
        who = reporters[groups["reporter"]]
        keys, who, groups = self._admitted(keys, who, groups)
        numbers = self.lookup.add(np.asarray(keys, np.uint64))
        self._grow()
        known = groups["km"] != FAR
        self._arrays["km"][numbers[known]] = groups["km"][known]
        ranks = _ranks(numbers)
        for rank in range(int(ranks.max(initial=-1)) + 1):
            one = ranks == rank
            self._join(numbers[one], who[one], groups[one], at_s)
        self.folded += len(groups)
        touched = np.unique(numbers)
        self._arrays["dirty"][touched] = True
        return touched

    def column(self, site: str) -> int:
        """A site's column, a new one where it has none; -1: there are as many as there may be."""
        if site in self.sites:
            return self.sites.index(site)
        free = [column for column, one in enumerate(self.sites) if one is None and column not in self.resting]
        column = free[0] if free else len(self.sites)
        if column >= SITES_MOST:
            return -1
        self.sites[column : column + 1] = [site]
        return column

    def reporter(self, name: str) -> int:
        """A reporter's number, of one that is gone where there is one; those beyond the bound are one."""
        if name not in self.reporters and None not in self.reporters and len(self.reporters) >= REPORTERS_MOST:
            name = OTHERS
        if name not in self.reporters:
            if None not in self.reporters:
                self.reporters.append(None)
                self.trusted, self.opened = np.append(self.trusted, True), np.append(self.opened, 0)
            number = self.reporters.index(None)
            self.reporters[number], self.trusted[number], self.opened[number] = name, True, 0
        return self.reporters.index(name)

    def named(self, number: int) -> str:
        """Whose a number is; "": nobody's."""
        return self.reporters[number] or ""

    # --- the estimate ---

    def decayed(self, numbers: I64, now_s: int) -> F64:
        """(cells, SLOTS) samples that each reporter's word still weighs; 0 where there is none."""
        age = np.maximum(now_s - self._arrays["at"][numbers].astype(np.int64), 0)
        weight = self._arrays["weight"][numbers] * np.exp2(-age / self.half_life_s)
        return np.where(self._arrays["reporter"][numbers] == 0, 0.0, weight)

    def estimate(self, numbers: I64, now_s: int) -> Estimate:
        """What the believed reporters of these cells come to."""
        weight = self.decayed(numbers, now_s) * self.trusted[self._arrays["reporter"][numbers]]
        weight[weight < GONE] = 0.0
        said = self._arrays["rtt"][numbers].astype(np.float64)
        counted = np.minimum(weight, WHOLE)
        tenths, off = agreed(said, counted)
        samples = weight.sum(axis=1)
        spread = np.divide((self._arrays["spread"][numbers] * counted).sum(axis=1), counted.sum(axis=1),
                           out=np.zeros(len(numbers)), where=samples > 0)
        alone = np.hypot(np.maximum(spread, 10.0) / np.sqrt(np.clip(samples, 1.0, 64.0)), off)
        last = np.where(weight > 0, self._arrays["at"][numbers], 0).max(axis=1, initial=0).astype(np.int64)
        return Estimate(np.where(samples > 0, tenths, 0.0), np.maximum(alone / 10, 1.0), samples,
                        np.count_nonzero(weight, axis=1), last)

    # --- forgetting ---

    def forget(self, now_s: int) -> U64:
        """Lets go what has faded, and the blocks seen longest ago where there are too many; the blocks it concerns."""
        faded = (self.decayed(np.arange(len(self)), now_s) < GONE) & (self["reporter"] > 0)
        self["reporter"][faded] = 0
        self["dirty"][faded.any(axis=1)] = True
        keep = np.count_nonzero(self["reporter"], axis=1) > 0
        block = self.keys >> _COLUMN
        kept, member = np.unique(block[keep], return_inverse=True)
        over = max(len(kept) - min(self.blocks_most, self.cells_most // max(len(self.sites), 1)),
                   (int(keep.sum()) - self.cells_most) * len(kept) // max(int(keep.sum()), 1))
        if over > 0:
            seen = np.zeros(len(kept), np.int64)
            np.maximum.at(seen, member, self["at"][keep].max(axis=1).astype(np.int64))
            last = np.argsort(seen, kind="stable")[: over + int(len(kept) * EVICTED)]
            gone = np.isin(block, kept[last])
            self.evicted += len(last)
            keep &= ~gone
        return self._without(~keep)

    def drop_site(self, site: str) -> U64:
        """A site is gone, and all that was said of it; the blocks it concerns."""
        if site not in self.sites:
            return np.zeros(0, np.uint64)
        column = self.sites.index(site)
        self.usual.pop(column, None)
        concerned = self._without((self.keys & np.uint64(0xFF)) == column)
        self.sites[column] = None
        self.resting.add(column)
        return concerned

    # --- within ---

    def put(self, keys: U64) -> I64:
        """The numbers of cells, new ones for keys that are not there; for what is read back."""
        numbers = self.lookup.add(keys)
        self._grow()
        return numbers

    def _admitted(self, keys: U64, who: I64, groups: Groups) -> tuple[U64, I64, Groups]:
        """Without new cells of reporters that have opened as many as one may."""
        over = self.opened[who] > SHARE_MOST * self.cells_most
        if not over.any():
            return keys, who, groups
        kept = ~over | (self.lookup.find(keys) >= 0)
        self.crowded += int(np.count_nonzero(~kept))
        return keys[kept], who[kept], groups[kept]

    def _grow(self) -> None:
        count = len(self.lookup)
        for name, array in self._arrays.items():
            if len(array) < count:
                shape = max(count, len(array) * 5 // 4 + 1024), *array.shape[1:]
                larger = np.full(shape, FAR if name == "km" else 0, array.dtype)
                larger[: len(array)] = array
                self._arrays[name] = larger

    def _without(self, gone: NDArray[np.bool_]) -> U64:
        """Lets these cells go; their blocks. What is left of these is to be kept anew."""
        if not gone.any():
            return np.zeros(0, np.uint64)
        concerned = np.unique(self.keys[gone] >> _COLUMN)
        self["dirty"][np.isin(self.keys >> _COLUMN, concerned)] = True
        self._keep(~gone)
        return _blocks(concerned)

    def _keep(self, keep: NDArray[np.bool_]) -> None:
        keys = self.keys[keep]
        for name in self._arrays:
            self._arrays[name] = self[name][keep]
        self.lookup, self.seen = Lookup(), []
        # numbers must stay in the order of the arrays, and `add` numbers new keys in their own order
        order = np.argsort(keys)
        self.lookup.add(keys[order])
        for name in self._arrays:
            self._arrays[name] = self._arrays[name][order]
        self.opened = np.bincount(self["reporter"][:, 0], minlength=len(self.reporters)).astype(np.int64)

    def _join(self, numbers: I64, who: I64, groups: Groups, at_s: int) -> None:
        """One group for each cell, each cell once."""
        a = self._arrays
        weight = self.decayed(numbers, at_s)
        here = a["reporter"][numbers]
        mine = here == who[:, None]
        known = mine.any(axis=1)
        standing = weight * self.trusted[here]
        free = standing.argmin(axis=1)
        taken = ~known & (standing.min(axis=1) >= GONE)
        self.crowded += int(np.count_nonzero(taken))
        opens = ~known & (here == 0).all(axis=1)
        np.add.at(self.opened, who[opens], 1)
        slot = np.where(known, mine.argmax(axis=1), free)
        numbers, slot, who, groups, known = (part[~taken] for part in (numbers, slot, who, groups, known))
        weight = weight[~taken, :][np.arange(len(numbers)), slot]
        new = ~known | (weight < GONE)
        self._begin(numbers[new], slot[new], who[new], groups[new], at_s)
        old = ~new
        self._go_on(numbers[old], slot[old], groups[old], weight[old], at_s)

    def _begin(self, numbers: I64, slot: I64, who: I64, groups: Groups, at_s: int) -> None:
        a, at = self._arrays, (numbers, slot)
        a["reporter"][at], a["rtt"][at], a["spread"][at] = who, groups["rtt"], groups["spread"]
        a["weight"][at], a["at"][at], a["streak"][at] = groups["count"], at_s, 0

    def _go_on(self, numbers: I64, slot: I64, groups: Groups, weight: F64, at_s: int) -> None:
        a, at = self._arrays, (numbers, slot)
        rtt, spread, streak = a["rtt"][at].astype(np.float64), a["spread"][at].astype(np.float64), a["streak"][at]
        count, told = groups["count"].astype(np.float64), groups["spread"].astype(np.float64)
        off = groups["rtt"] - rtt
        limit = np.maximum(SPREADS * spread, LEAST_OFF)
        contrary, side = np.abs(off) > limit, np.sign(off).astype(np.int64)
        goes_on = (np.sign(streak) == side) & (np.abs(groups["rtt"] - a["aim"][at].astype(np.float64)) <= limit)
        run = np.minimum(np.where(goes_on, np.abs(streak) + 1, 1), _RUN_MOST)
        begins = contrary & (run == 1)
        a["off"][numbers[begins], slot[begins]] = at_s
        aim = np.where(goes_on, a["aim"][at], groups["rtt"]).astype(np.float64)
        aim = np.rint(aim + (groups["rtt"] - aim) / run)
        restless = np.where(at_s - a["turned"][at].astype(np.int64) < CALM_S, a["turns"][at], 0).astype(np.int64)
        damped = np.where(a["pending"][numbers], 0, np.minimum(restless, DAMPED_MOST))
        shift = contrary & (run >= SHIFT << damped)
        gain = np.maximum(count / (weight + count), SLOWEST)
        wide = np.maximum(1.4826 * np.abs(off), told) > spread
        learned = np.where(wide, spread * LEARNS + 1, spread / LEARNS)
        learned = np.maximum(learned, told * gain)
        a["aim"][at] = aim
        a["rtt"][at] = np.where(shift, aim, np.where(contrary, rtt, np.rint(rtt + gain * off)))
        a["spread"][at] = np.clip(learned, 1, 0xFFFF)
        a["weight"][at] = np.where(shift, count * run, np.where(contrary, weight, weight + count))
        a["streak"][at] = np.where(contrary & ~shift, side * run, 0)
        a["at"][at] = at_s
        self.seen.append(Seen(at_s, numbers[~shift], slot[~shift], off[~shift]))
        self._turn(numbers[shift], slot[shift], restless[shift], at_s)

    def _turn(self, numbers: I64, slot: I64, restless: I64, at_s: int) -> None:
        """These have followed a shift: beyond their margin since it began, and not so soon again."""
        a = self._arrays
        a["turns"][numbers, slot], a["turned"][numbers, slot] = np.minimum(restless + 1, DAMPED_MOST), at_s
        fresh = numbers[~a["pending"][numbers]]
        a["since"][fresh] = a["off"][fresh, slot[~a["pending"][numbers]]]
        a["pending"][numbers] = True


def key_of(block: Array, column: Array) -> U64:
    """A cell's key: in the order of blocks, then of columns."""
    block = np.asarray(block, np.uint64)
    six = (block >> np.uint64(62)) << np.uint64(48)
    return (((block & _MASK) | six) << _COLUMN) | np.asarray(column).astype(np.uint64)


def blocks_of(keys: U64) -> U64:
    """The blocks of cells' keys."""
    return _blocks(keys >> _COLUMN)


def columns_of(keys: U64) -> I64:
    """The columns of cells' keys."""
    return (keys & np.uint64(0xFF)).astype(np.int64)


def agreed(values: F64, weights: F64) -> tuple[F64, F64]:
    """Of each row of three the value (0 where nothing weighs), and how far the others are from it.

    Of three the middle one, whatever they weigh, and the nearer of the others; of two the mean by weight, and half of
    what is between them. A median by weight would jump from one of two to the other as they fade.
    """
    there = weights > 0
    count, total = there.sum(axis=1), weights.sum(axis=1)
    mean = np.divide((values * weights).sum(axis=1), total, out=np.zeros(len(values)), where=total > 0)
    ordered = np.sort(values, axis=1)
    nearer = np.minimum(ordered[:, 1] - ordered[:, 0], ordered[:, 2] - ordered[:, 1])
    apart = np.where(there, values, -np.inf).max(axis=1) - np.where(there, values, np.inf).min(axis=1)
    off = np.where(count == SLOTS, nearer, np.where(count == 2, apart / 2, 0.0))
    return np.where(count == SLOTS, ordered[:, 1], mean), off


def _ranks(numbers: I64) -> I64:
    """How many of the same came before each."""
    order = np.argsort(numbers, kind="stable")
    first = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    ranks = np.zeros(len(numbers), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    return ranks


def _blocks(short: U64) -> U64:
    six = short >> np.uint64(48)
    return (short & _MASK) | (six * np.uint64(blocks.SIX))
