"""What several tests of this room start from: entries of the log, cells fed by steps, a child in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dnsd.rtt import decide, frames, shards
from dnsd.rtt.cells import EPOCH_S, I64, Cells
from dnsd.rtt.child import LEAP_S, Engine
from dnsd.rtt.items import FAR, GROUP, Entry
from dnsd.rtt.table import Table

SITES = ("s0", "s1", "s2", "s3")


def entry(at_s: int, seen: Iterable[tuple[int, int, float]], *, reporter: str = "one", count: int = 5,
          spread: float = 0.5, km: int = FAR, sites: Sequence[str] = SITES, **more: Any) -> Entry:
    """Of block, site's number and ms."""
    rows = [(block, round(ms * 10), round(spread * 10), km, count, site, 0) for block, site, ms in seen]
    return Entry("node", (EPOCH_S + at_s) * 1000, sites, [reporter], np.array(rows, GROUP), **more)


def feed(cells: Cells, at_s: int, seen: Iterable[tuple[int, int, float]], **options: Any) -> I64:
    """Fold and watch, as the child does."""
    touched = cells.fold(entry(at_s, seen, **options), at_s)
    decide.watch(cells, touched, at_s)
    return touched


def settle(cells: Cells, at_s: int) -> decide.Round:
    """One round."""
    return decide.settle(cells, at_s, lambda: decide.weight(cells, at_s))


def ms(cells: Cells, block: int, site: int) -> float:
    """What is decided of a cell, in ms; 0: nothing."""
    from dnsd.rtt.cells import key_of

    number = int(cells.lookup.find(key_of(np.array([block]), np.array([site])))[0])
    return 0.0 if number < 0 else int(cells["ms"][number]) / 10


class InProcess:
    """The child's engine, asked as the child is: through octets."""

    def __init__(self, **begin: Any) -> None:
        self.engine = Engine()
        self.now_s = 1000
        self.parts: dict[int, bytes] = {}
        self.state: dict[str, Any] = {}
        self.ask("begin", number=0, between={}, now_ms=self.now_ms, **begin)

    @property
    def now_ms(self) -> int:
        return (EPOCH_S + self.now_s) * 1000

    def ask(self, do: str, parts: Sequence[bytes] = (), **head: Any) -> frames.Frame:
        asked = frames.packed({"do": do, **head}, parts)
        text, body = frames.sizes(asked[:8])
        answer = self.engine.answer(frames.unpacked(asked[8 : 8 + text], asked[8 + text : 8 + text + body]))
        text, body = frames.sizes(answer[:8])
        return frames.unpacked(answer[8 : 8 + text], answer[8 + text : 8 + text + body])

    def fold(self, *entries: Entry) -> None:
        self.ask("fold", [one.to_bytes() for one in entries], now_ms=self.now_ms)

    def wait(self, seconds: float) -> None:
        """Time passes, with a frame now and then."""
        end_s = self.now_s + int(seconds)
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + LEAP_S - 1)
            self.fold()

    def round(self, **options: Any) -> dict[str, Any]:
        told = self.ask("round", now_ms=self.now_ms, **options)
        for shard, part in zip(told.head.get("written", ()), told.parts, strict=True):
            self.parts[shard] = part
        self.state = told.head
        return told.head

    def table(self) -> Table:
        return shards.joined([shards.read(part) for part in self.parts.values() if part], self.state["sites"],
                             self.state["between"], number=self.state["number"], at_ms=self.now_ms)
