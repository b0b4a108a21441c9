"""The deciding child: `python -m dnsd.rtt.child`, frames in, frames out, niced, with no connection to anything.

Lives here: what each frame does, when a round is worth a new table, the loop. Does not live here: the store, who may
decide, following the log (`control.deciding`), cells and their rules (`rtt.cells`, `rtt.decide`, `rtt.trust`).

It holds all cells in memory and answers one frame after another, so no lock and no clock of its own are needed: the
time is in the frames. They come each minute at least, so a time that leaps is a clock that was set, or nobody has
decided meanwhile: nothing ages by it. When it dies another one is given what the store has and goes on from there; what
came since the cells were kept is still in the log.

    begin      number, half_life_s; parts: names of rows        rows     key, words, key, words, …
    shards     decided parts as the store has them              seed     a whole table, where the store has none
    fold       now_ms; entries of the log                       sites    those there are now
    round      now_ms  -> head of the state, changed parts      keep     now_ms  -> names, rows that changed
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

import numpy as np

from dnsd.rtt import decide, frames, neighbours, rows, shards, together, trust
from dnsd.rtt.cells import CELLS_MOST, EPOCH_S, GONE, HALF_LIFE_S, I64, TIMES, U64, Cells, blocks_of, key_of
from dnsd.rtt.items import Entry
from dnsd.rtt.table import BLOCKS_MOST, TENTHS, Table

NICE: Final = 10
FORGET_S: Final = 60
FROZEN_S: Final = 6 * 3600
"""What was decided by the word of one that is not believed any more stays so long: it was believed then. Its new words
decide nothing."""

UNHURRIED_S: Final = 30
"""Small moves are gathered so long: each new table is a new map on every node."""

URGENT: Final = 0.002
"""Share of the measured weight whose best site changes from which on a round is a table at once."""

REFRESH_S: Final = 600
"""A part whose cells go on as they were is written again so often: counts, ages and errors are in it."""

FADES: Final = 0.8
"""How much of the counts of samples faster than light is left after each round."""

BETWEEN_S: Final = 86_400
LEAP_S: Final = 900
"""Forward or back; less is a child that was busy."""

KEPT_MOST: Final = 20_000
RESTORED: Final = "restored"
REPORTED: Final = 50


class Engine:
    """The cells and all that is done with them. `answer` takes a frame and gives one."""

    def __init__(self) -> None:
        self.cells = Cells()
        self.number = 0
        self.between: dict[tuple[str, str], tuple[float, int]] = {}
        self.why: dict[str, str] = {}
        self._names = rows.Names((), ("",), (), 0)
        self._fast: dict[str, tuple[float, float]] = {}
        self._left_out_s: dict[str, int] = {}  # since when reporters are not believed
        self._stale: set[int] = set()  # parts to be written with the next table
        self._urgent = False
        self._written_s = self._forgot_s = self._refreshed_s = self._now_s = 0
        self._clean: set[int] = set()  # resting columns of which nothing is kept, once the last rows are
        self._silent: set[int] = set()  # reporters likewise
        self._gone: set[int] = set()  # blocks whose rows are to be deleted
        self._last: tuple[set[int], list[int]] = (set(), [])
        self._churn = (0.0, 0, 0)  # of the last table: weight whose best site changed, cells, blocks that wait
        self._weight = 0.0
        self._damaged = 0

    def answer(self, frame: frames.Frame) -> bytes:
        """What a frame does, and what is said to it."""
        head = dict(frame.head)
        if head["do"] != "begin" and "now_ms" in head:
            self._pass(_second(head["now_ms"]))
        return frames.packed(*getattr(self, f"_{head.pop('do')}")(frame.parts, **head))

    def _pass(self, now_s: int) -> None:
        """It is that late now."""
        by_s, self._now_s = now_s - self._now_s, now_s
        if abs(by_s) < LEAP_S:
            return
        _leap(self.cells, by_s)
        self.between = {pair: (ms, at_s + by_s) for pair, (ms, at_s) in self.between.items()}
        self._left_out_s = {name: at_s + by_s for name, at_s in self._left_out_s.items()}
        self._written_s, self._forgot_s, self._refreshed_s = (
            at_s + by_s for at_s in (self._written_s, self._forgot_s, self._refreshed_s))

    # --- taking over ---

    def _begin(self, parts: Sequence[bytes], number: int, between: Mapping[str, Mapping[str, float]], now_ms: int, *,
               half_life_s: float = HALF_LIFE_S, cells_most: int = CELLS_MOST, blocks_most: int = BLOCKS_MOST) -> Told:
        self.__init__()  # type: ignore[misc]
        self.cells = Cells(half_life_s=half_life_s, cells_most=cells_most, blocks_most=blocks_most)
        self.number = number
        self._now_s = _second(now_ms)
        if parts:
            try:
                self._names = rows.names_from(parts[0])
                self._now_s = self._names.now_s
            except ValueError:
                self._damaged += 1
        self.between = {(one, other): (ms, self._now_s) for one, row in between.items() for other, ms in row.items()}
        self._written_s = self._refreshed_s = self._now_s
        rows.named(self.cells, self._names)
        self.why = dict.fromkeys(self._names.distrusted, "as it was before")
        return {}, ()

    def _rows(self, parts: Sequence[bytes]) -> Told:
        damaged, blocks = rows.unpack(self.cells, list(zip(parts[::2], parts[1::2], strict=True)), self._names)
        self._damaged += damaged
        self._gone |= set(blocks.tolist())
        return {"damaged": self._damaged}, ()

    def _shards(self, parts: Sequence[bytes]) -> Told:
        for part in parts:
            try:
                self._decided(shards.read(part))
            except ValueError:
                self._damaged += 1
        return {"damaged": self._damaged}, ()

    def _seed(self, parts: Sequence[bytes]) -> Told:
        """The store is empty: what this node's table says is both evidence and decided."""
        table = Table.from_bytes(parts[0])
        numbers, row, column = self._decided(table)
        self._now_s = _second(table.at_ms)
        bare = ~self.cells["reporter"][numbers].any(axis=1)  # where the store has cells, but no state, these stay
        numbers, row, column = numbers[bare], row[bare], column[bare]
        cells, at = self.cells, (numbers, np.zeros(len(numbers), np.int64))
        cells["reporter"][at] = cells.reporter(RESTORED)
        cells["rtt"][at], cells["spread"][at] = table.ms[row, column], table.error[row, column] * np.uint16(TENTHS)
        cells["weight"][at] = np.maximum(table.samples()[row, column], 2 * GONE)
        cells["at"][at] = table.seen[row, column] * np.uint32(60)
        cells["km"][numbers] = 0xFFFF
        cells["dirty"][numbers] = True
        for one, other in zip(*np.nonzero(table.between), strict=True):
            ms = float(table.between[one, other]) / TENTHS
            self.between[table.sites[one], table.sites[other]] = ms, _second(table.at_ms)
        self.number = max(self.number, table.number)
        self._stale |= set(shards.shard_of(table.blocks).tolist())
        self._urgent = True
        return {}, ()

    def _decided(self, table: Table) -> tuple[I64, I64, I64]:
        """Takes over what is decided: the cells, their rows and columns in the table."""
        columns = np.array([self.cells.column(site) for site in table.sites] or [0])
        row, column = np.nonzero(table.ms)
        row, column = row[columns[column] >= 0], column[columns[column] >= 0]
        numbers = self.cells.put(key_of(table.blocks[row], columns[column]))
        self.cells["ms"][numbers] = table.ms[row, column]
        return numbers, row, column

    # --- going on ---

    def _fold(self, parts: Sequence[bytes], now_ms: int) -> Told:
        now_s, groups = _second(now_ms), 0
        for part in parts:
            try:
                entry = Entry.from_bytes(part)
            except ValueError:
                self._damaged += 1
                continue
            decide.watch(self.cells, self.cells.fold(entry, now_s), now_s)
            decide.watch(self.cells, together.shifted(self.cells, now_s), now_s)
            groups += len(entry.groups)
            self._note(entry, now_s)
        return {"groups": groups, "damaged": self._damaged, "waiting": bool(self.cells["pending"].any())}, ()

    def _note(self, entry: Entry, now_s: int) -> None:
        """What of an entry is not about cells."""
        for one, row in entry.between.items():
            for other, ms in row.items():
                before = self.between.get((one, other), (0.0, 0))[0]
                if abs(ms - before) > max(3.0, 0.1 * before):
                    self._urgent = True
                else:
                    ms = before  # within the margin: as it was, but seen now
                self.between[one, other] = ms, now_s
        fast = entry.fast
        counts = np.bincount(entry.groups["reporter"], minlength=len(entry.reporters))  # by blocks, not by busy ones
        for name, count in zip(entry.reporters, counts.tolist(), strict=True):
            came, too_fast = self._fast.get(name, (0.0, 0.0))
            self._fast[name] = came + count + fast.get(name, 0), too_fast + fast.get(name, 0)

    def _sites(self, parts: Sequence[bytes], sites: Sequence[str]) -> Told:
        """Sites that are gone take their cells along."""
        for site in [one for one in self.cells.sites if one is not None and one not in sites]:
            self._let_go(self.cells.drop_site(site))
            self._urgent = True
        self.between = {pair: seen for pair, seen in self.between.items() if set(pair) <= set(sites)}
        return {}, ()

    def _let_go(self, blocks: U64) -> None:
        """Cells of these blocks are gone."""
        self._stale |= set(shards.shard_of(blocks).tolist())
        left = np.unique(blocks_of(self.cells.keys))
        self._gone |= set(np.setdiff1d(blocks, left).tolist())

    def _round(self, parts: Sequence[bytes], now_ms: int, again: bool = False, mend: Sequence[int] = ()) -> Told:
        """Decide; a new table where there is one. `again`: the last one did not arrive; `mend`: lost parts."""
        now_s = _second(now_ms)
        if mend:
            self._stale |= set(mend)
            self._urgent = True
        if again:
            self._stale |= self._last[0]
            self._urgent = True
        self._look_after(now_s)
        one = decide.settle(self.cells, now_s, lambda: self._weigh(now_s))
        churn, moved, _ = self._churn
        self._churn = churn + one.churn, moved + len(one.moved) - one.new, one.deferred
        self._stale |= set(shards.shard_of(blocks_of(self.cells.keys[one.moved])).tolist())
        self._urgent |= one.churn >= URGENT or (bool(self._stale) and not self.number) or one.deferred > 0
        waited = now_s - self._written_s
        if not self._urgent and (not self._stale or 0 <= waited < UNHURRIED_S):
            return {"number": self.number, "unwritten": bool(self._stale), **self._told()}, ()
        self.number += 1
        found = shards.made(self.cells, self._stale, self.number, now_s)
        told = {"number": self.number, "written": sorted(found), "round": {
            "churn": round(self._churn[0], 5), "moved": self._churn[1], "deferred": self._churn[2]}}
        self._last, self._churn = (self._stale, self._last[1]), (0.0, 0, one.deferred)
        self._stale, self._urgent, self._written_s = set(), False, now_s
        return {**told, **self._told()}, [found[shard] for shard in sorted(found)]

    def _look_after(self, now_s: int) -> None:
        """What is done once in a while."""
        if not 0 <= now_s - self._forgot_s < FORGET_S:
            self._forgot_s = now_s
            self._let_go(self.cells.forget(now_s))
            self.between = {pair: seen for pair, seen in self.between.items() if now_s - seen[1] < BETWEEN_S}
        self._trust(now_s)  # before anything is decided: who turns has said it in all its cells
        if not 0 <= now_s - self._refreshed_s < REFRESH_S:
            self._refreshed_s = now_s
            self._stale |= set(shards.shard_of(np.unique(blocks_of(self.cells.keys[self.cells["ms"] > 0]))).tolist())

    def _trust(self, now_s: int) -> None:
        """Who is believed; the cells of whom that has changed for are looked at anew."""
        between = {pair: ms for pair, (ms, _) in self.between.items()}
        self.why = neighbours.judged(self.cells, now_s, between) | trust.judged(self.cells, now_s, self._fast)
        self._fast = {name: (came * FADES, fast * FADES) for name, (came, fast) in self._fast.items() if came > 1}
        trusted = np.array([name not in self.why for name in self.cells.reporters])
        changed = trusted != self.cells.trusted
        self.cells.trusted = trusted
        if changed.any():
            numbers = np.flatnonzero(changed[self.cells["reporter"]].any(axis=1))
            decide.watch(self.cells, numbers, now_s)
            self._stale |= set(shards.shard_of(np.unique(blocks_of(self.cells.keys[numbers]))).tolist())
        self._left_out_s = {name: self._left_out_s.get(name, now_s) for name in self.why}
        late = np.array([now_s - self._left_out_s.get(name or "", now_s) > FROZEN_S for name in self.cells.reporters])
        if late.any():
            numbers = np.flatnonzero(late[self.cells["reporter"]].any(axis=1))
            gone = decide.withdraw(self.cells, numbers, now_s)
            self._stale |= set(shards.shard_of(blocks_of(self.cells.keys[gone])).tolist())
            self._urgent |= len(gone) > 0

    def _weigh(self, now_s: int) -> float:
        self._weight = decide.weight(self.cells, now_s)
        return self._weight

    def _told(self) -> dict[str, Any]:
        """What all nodes may know of it."""
        cells = self.cells
        of = np.bincount(cells["reporter"].ravel(), minlength=len(cells.reporters))
        first = np.argsort(-of[1:])[:REPORTED] + 1
        named = {name for one in first.tolist() if (name := cells.reporters[one])} | self.why.keys()
        between: dict[str, dict[str, float]] = {}
        for (one, other), (ms, _) in sorted(self.between.items()):
            between.setdefault(one, {})[other] = round(ms, 1)
        return {
            "cells": len(cells), "decided": int(np.count_nonzero(cells["ms"])), "between": between,
            "sites": [site for site in cells.sites if site is not None], "weight": round(self._weight, 1),
            "waiting": int(np.count_nonzero(cells["pending"])), "crowded": cells.crowded, "evicted": cells.evicted,
            "damaged": self._damaged, "reporters": {
                name: {"cells": int(of[cells.reporters.index(name)]) if name in cells.reporters else 0,
                       **({"distrusted": self.why[name]} if name in self.why else {})}
                for name in sorted(named)}}

    def _keep(self, parts: Sequence[bytes], now_ms: int, again: bool = False) -> Told:
        """Rows that changed since they were kept, as many as one frame takes; `again`: the last ones were not kept."""
        cells = self.cells
        if not again:  # what was given to be kept before is
            cells.resting -= self._clean
            for number in self._silent & rows.silent(cells):
                cells.reporters[number] = None
            self._clean, self._silent = set(), set()
        if again and self._last[1]:
            blocks = np.array(self._last[1], np.uint64)
            self._gone |= set(self._last[1])
            cells["dirty"][np.isin(blocks_of(cells.keys), blocks)] = True
        changed = rows.blocks_with(cells, np.flatnonzero(cells["dirty"]))
        gone = np.array(sorted(self._gone), np.uint64)
        some = np.union1d(changed, gone)[:KEPT_MOST]
        made = rows.pack(cells, some)
        cells["dirty"][np.isin(blocks_of(cells.keys), some)] = False
        self._gone -= set(some.tolist())
        self._last = self._last[0], some.tolist()
        left = len(changed) + len(gone) > len(some)
        self._clean, self._silent = (set(), set()) if left else (set(cells.resting), rows.silent(cells))
        return {"left": left}, [rows.names_of(cells, _second(now_ms)), *(part for row in made for part in row)]


Told = tuple[Mapping[str, Any], Sequence[bytes]]


def _second(now_ms: int) -> int:
    """Seconds since `cells.EPOCH_S`."""
    return max(0, now_ms // 1000 - EPOCH_S)


def _leap(cells: Cells, by_s: int) -> None:
    """The clock has leapt: everything is as old as it was before."""
    for name in TIMES:
        array = cells[name]
        array[:] = np.clip(array.astype(np.int64) + by_s, 0, (1 << 32) - 1)
    cells["dirty"][:] = True
    cells.seen, cells.looked_s = [], -1000
    cells.usual = {column: (wide, at_s + by_s) for column, (wide, at_s) in cells.usual.items()}


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer frames until there are no more."""
    engine = Engine()
    while True:
        head = source.read(frames.HEAD.size)
        if len(head) < frames.HEAD.size:
            return
        text, body = frames.sizes(head)
        frame = frames.unpacked(source.read(text), source.read(body))
        sink.write(engine.answer(frame))
        sink.flush()


def main() -> int:
    """The child."""
    os.nice(NICE)
    serve(sys.stdin.buffer, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
