"""Round trips in the control process: quotas, the log, deciding by fence, this node's table, and what may be lost.

The store is in memory and the child's engine in this process; both real ones are in `tests/registry` and `tests/e2e`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnsd.control import deciding as deciding_module
from dnsd.control.deciding import Deciding, Died, Fence
from dnsd.control.maps import Maps
from dnsd.control.measured import Measured
from dnsd.control.measurements import BURST, GATHER_S, RATE, WAITING, Measurements
from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.measurements import Kept
from dnsd.registry.roundtrips import RoundTrip
from dnsd.rtt import frames
from dnsd.rtt.cells import EPOCH_S
from dnsd.rtt.child import Engine
from dnsd.rtt.items import Entry
from dnsd.rtt.table import Table
from tests.control.fleet_samples import fleet, site
from tests.control.rig import FakeClock

pytestmark = pytest.mark.asyncio
FENCE = Fence(1, 1)
CLIENTS = [f"203.0.113.{number}" for number in range(5)]


class Store:
    """`registry.measurements` in memory; `away` makes it refuse, `fence` is the one it takes writes with."""

    def __init__(self) -> None:
        self.away = False
        self.fence = 1
        self.log_: list[bytes] = []
        self.state_: str | None = None
        self.names, self.cursor = b"", "0"
        self.parts_: dict[str, bytes] = {}
        self.rows: dict[bytes, bytes] = {}

    def ask(self, fence: int | None = None) -> None:
        if self.away:
            raise Unavailable("away")
        if fence is not None and fence != self.fence:
            raise Conflict("another node builds now")

    async def log(self, entry: bytes) -> None:
        self.ask()
        self.log_.append(entry)

    async def logged(self) -> bool:
        self.ask()
        return bool(self.log_)

    async def follow(self, after: str, *, block_ms: int) -> tuple[str, list[bytes]]:
        self.ask()
        return str(len(self.log_)), self.log_[int(after):]

    async def state(self) -> dict[str, Any] | None:
        self.ask()
        return json.loads(self.state_) if self.state_ is not None else None

    async def kept(self, *, sound: bool = True) -> Kept:
        self.ask()
        try:
            state = json.loads(self.state_) if self.state_ is not None else None
        except ValueError:
            if sound:
                raise
            state = None
        return Kept(state, self.names, self.cursor)

    async def parts(self, fields: Sequence[str]) -> dict[str, bytes]:
        self.ask()
        return {one: self.parts_[one] for one in fields if one in self.parts_}

    async def cells(self) -> AsyncIterator[list[tuple[bytes, bytes]]]:
        self.ask()
        yield list(self.rows.items())

    async def decide(self, node: str, fence: int, parts: Mapping[str, bytes], state: Mapping[str, Any]) -> None:
        self.ask(fence)
        self.parts_ |= parts
        self.state_ = json.dumps(state)

    async def discard(self, node: str, fence: int, kept: Iterable[str]) -> None:
        self.ask(fence)
        self.parts_ = {one: self.parts_[one] for one in kept if one in self.parts_}

    async def keep(self, node: str, fence: int, names: bytes, rows: Sequence[tuple[bytes, bytes]]) -> None:
        self.ask(fence)
        self.names = names
        for key, words in rows:
            self.rows.pop(key, None)
            if words:
                self.rows[key] = words

    async def reach(self, node: str, fence: int, cursor: str) -> None:
        self.ask(fence)
        self.cursor = cursor


class Here:
    """The child in this process; `dies` makes it not answer."""

    def __init__(self) -> None:
        self.engine, self.dies = Engine(), False
        self.process = SimpleNamespace(pid=1, returncode=None)

    async def ask(self, do: str, parts: Sequence[bytes] = (), **head: Any) -> frames.Frame:
        if self.dies:
            raise Died("not there")
        answer = self.engine.answer(frames.Frame({"do": do, **json.loads(json.dumps(head))}, list(parts)))
        text, body = frames.sizes(answer[:8])
        return frames.unpacked(answer[8 : 8 + text], answer[8 + text : 8 + text + body])

    async def end(self) -> None:
        self.dies = True


@dataclass
class Node:
    """One node's parts, stepped by hand."""

    store: Store
    state: Path
    clock: FakeClock = field(default_factory=FakeClock)
    site: str = ""
    fence: Fence | None = FENCE
    children: list[Here] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock.ms = (EPOCH_S + 1000) * 1000
        self.fleet = fleet(site("ams", 52.4, 4.9), site("sin", 1.35, 103.8))
        maps = Maps(self.fleet, self.state, self.state, clock=self.clock)
        self.health = SimpleNamespace(handshakes=lambda: iter(()))
        self.intake = Measurements(
            self.store, self.fleet, maps, self.health, node="n", site=self.site,  # type: ignore[arg-type]
            clock=self.clock)
        self.measured = Measured(self.store, self.state, clock=self.clock)  # type: ignore[arg-type]
        self.measured.changed = lambda path, _: self.changed.append(path)
        self.deciding = Deciding(
            self.store, node="n", fence=lambda: self.fence, sites=lambda: sorted(self.fleet.sites),  # type: ignore[arg-type]
            seed=lambda: self.measured.table.to_bytes() if self.measured.table else None, clock=self.clock)
        self.deciding.mend = lambda: self.measured.corrupt
        self.deciding.begin = self._begin  # type: ignore[method-assign,assignment]

    async def _begin(self) -> Here:
        self.children.append(Here())
        return self.children[-1]

    async def measure(self, ams: float = 180.0, sin: float = 12.0, seconds: int = 20) -> None:
        """Said each 5 s, taken and decided on."""
        for _ in range(0, seconds, 5):
            for name, ms in (("ams", ams), ("sin", sin)):
                self.intake.take("agent", name, [RoundTrip(client=one, rtt_ms=ms, count=5) for one in CLIENTS])
            await self.intake.flush()
            self.clock.ms += 5000
            await self.step()

    async def step(self) -> None:
        await self.deciding.turn()
        await self.measured.look()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def node(store: Store, tmp_path: Path) -> Node:
    return Node(store, tmp_path)


def decided(node: Node) -> list[list[int]]:
    assert node.measured.table is not None
    return node.measured.table.ms.tolist()


async def test_from_samples_to_the_table(node: Node) -> None:
    await node.step()
    assert (node.children, node.changed, node.measured.described()["number"]) == ([], [], 0)  # nobody measures
    await node.measure()
    assert decided(node) == [[1800, 120]]
    assert node.measured.table is not None
    assert node.measured.table.sites == ("ams", "sin")
    assert node.changed == [node.state / "rtt" / f"{node.measured.table.digest}.table"]
    assert Table.read(node.changed[0]).digest == node.measured.table.digest
    assert node.deciding.described() == {"decides": True, "pid": 1, "starts": 1, "tables": 1, "fault": None}
    assert node.intake.described()["accepted"] == 40


async def test_another_node_reads_the_same(node: Node, store: Store, tmp_path: Path) -> None:
    await node.measure()
    other = Node(store, tmp_path / "other", fence=None)
    other.state.mkdir()
    await other.step()
    assert other.children == []
    assert other.measured.table is not None
    assert node.measured.table is not None
    assert other.measured.table.digest == node.measured.table.digest


async def test_a_new_builder_goes_on(node: Node, store: Store, tmp_path: Path) -> None:
    await node.measure(seconds=60)
    assert store.rows
    other = Node(store, tmp_path / "other", fence=Fence(1, 2))
    other.state.mkdir()
    other.clock.ms = node.clock.ms
    store.fence = 2
    await other.measure(ams=10, sin=180, seconds=40)
    assert decided(other) == [[100, 1800]]
    assert other.measured.table is not None
    assert other.measured.table.number > 1
    node.intake.take("agent", "ams", [RoundTrip(client=CLIENTS[0], rtt_ms=500, count=50)])
    await node.intake.flush()
    node.clock.ms += 61_000
    with pytest.raises(Conflict):  # the old one writes nothing any more
        await node.deciding.turn()


async def test_a_child_that_dies_is_replaced_and_nothing_is_lost(node: Node, store: Store) -> None:
    await node.measure(seconds=10)
    before = decided(node)
    node.children[0].dies = True
    node.intake.take("agent", "ams", [RoundTrip(client="198.51.100.7", rtt_ms=30, count=50)])
    await node.intake.flush()
    with pytest.raises(Died):
        await node.deciding.turn()
    await node.deciding._end()
    for _ in range(12):
        node.clock.ms += 5000
        await node.step()
    assert len(node.children) == 2
    assert decided(node) == [[300, 0], *before]


async def test_a_part_of_the_log_that_ends_each_child_is_passed_over(
    node: Node, store: Store, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one such entry would keep all nodes from deciding for as long as it is in the log."""
    await node.measure(seconds=10)
    poison = Entry("n", node.clock.ms, ("ams",)).to_bytes()
    await store.log(poison)
    ask = Here.ask

    async def poisoned(child: Here, do: str, parts: Sequence[bytes] = (), **head: Any) -> frames.Frame:
        if poison in parts:
            raise Died("of it")
        return await ask(child, do, parts, **head)

    monkeypatch.setattr(Here, "ask", poisoned)
    deaths = 0
    for _ in range(20):
        node.clock.ms += 5000
        try:
            await node.measure(ams=40, seconds=5)
        except Died:
            deaths += 1
            await node.deciding._end()
    assert deaths <= 4
    assert decided(node) == [[400, 120]]


@pytest.mark.parametrize("state", [
    {"parts": {"7": None}}, {"parts": [7]}, {"number": None}, {"sites": 5},
    {"between": {"a": 5}}, {"between": {"ams": {"sin": "far"}}}, {"at_ms": "now"}, {"reporters": []}])
async def test_a_state_that_makes_no_sense_ends_nobody(
    node: Node, store: Store, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any],
) -> None:
    """The task that reads it would have taken the control process along."""
    await node.measure()
    before = decided(node)
    store.state_ = json.dumps(json.loads(store.state_ or "") | state)

    class Enough(BaseException):
        pass

    async def sleep(_: float) -> None:
        raise Enough

    node.clock.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(Enough):
        await node.measured.run()
    assert decided(node) == before
    monkeypatch.setattr(node.deciding, "turn", lambda: None)  # which cannot be awaited: a TypeError
    with pytest.raises(Enough):
        await node.deciding.run()


async def test_a_child_that_has_ended_is_noticed_without_a_question(node: Node) -> None:
    await node.measure(seconds=10)
    node.children[0].process.returncode = -9
    with pytest.raises(Died, match="-9"):
        await node.deciding.turn()


async def test_what_the_store_did_not_take_is_written_again(node: Node, store: Store) -> None:
    await node.measure(seconds=10)
    number = node.measured.table.number  # type: ignore[union-attr]
    entry = Entry.from_bytes(store.log_[0])
    assert entry.sites == ("ams", "sin")
    store.away = True
    await node.intake.flush()
    with pytest.raises(Unavailable):
        await node.deciding.turn()
    store.away = False
    node.deciding._again = True  # as after a write that failed
    node.clock.ms += 5000
    await node.step()
    assert node.measured.table.number == number + 1  # type: ignore[union-attr]


async def test_an_emptied_store_is_filled_again_from_the_nodes_table(node: Node, store: Store) -> None:
    await node.measure(seconds=40)
    before = decided(node)
    store.__init__()  # type: ignore[misc]
    node.fence = Fence(2, 1)  # another history
    await node.step()
    assert decided(node) == before  # kept meanwhile
    node.clock.ms += 5000
    await node.step()
    assert store.state_ is not None
    assert decided(node) == before
    assert json.loads(store.state_)["number"] >= 2


async def test_a_lost_state_and_a_damaged_part(node: Node, store: Store, tmp_path: Path) -> None:
    await node.measure(seconds=40)
    before = decided(node)
    [part] = store.parts_
    sound, store.parts_[part] = store.parts_[part], b"damaged"
    other = Node(store, tmp_path / "other", fence=None)
    other.state.mkdir()
    await other.measured.look()
    assert other.measured.corrupt == {int(part.partition(":")[0])}
    assert list(other.measured.conditions()) == ["1 parts of the measured round trips cannot be read"]
    assert decided(other) == []
    assert other.measured.described()["corrupt"] == 1
    # where it is the builder that cannot read it, it is written anew
    node.deciding.mend = lambda: other.measured.corrupt
    node.clock.ms += 61_000
    await node.step()
    await other.measured.look()
    assert (other.measured.corrupt, decided(other)) == (set(), before)
    store.state_ = "no json"
    node.fence = Fence(1, 1)
    await node.deciding._end()
    node.clock.ms += 5000
    await node.deciding.turn()
    assert sound


async def test_the_table_survives_a_restart_and_its_age_is_told(node: Node, store: Store) -> None:
    await node.measure()
    again = Node(store, node.state)
    again.measured.take_over()
    assert decided(again) == decided(node)
    assert len(again.changed) == 1
    again.clock.ms = node.clock.ms + 7_300_000
    store.away = True
    with pytest.raises(Unavailable):
        await again.measured.look()
    assert list(again.measured.conditions()) == ["measured round trips are 2 h old"]
    for number in range(3):  # files of tables before are removed, a damaged one too
        (node.state / "rtt" / f"old{number}.table").write_bytes(b"damaged")
    again.measured.take_over()
    assert len(list((node.state / "rtt").glob("*.table"))) == 1


async def test_a_site_that_is_deleted_leaves_the_table(node: Node) -> None:
    await node.measure()
    del node.fleet.sites["sin"]
    node.clock.ms += 5000
    await node.step()
    assert node.measured.table is not None
    assert (node.measured.table.sites, decided(node)) == (("ams",), [[1800]])


async def test_a_reporter_has_a_quota(node: Node) -> None:
    batch = [RoundTrip(client=CLIENTS[0], rtt_ms=20)] * 5000
    taken = [node.intake.take("greedy", "ams", batch) for _ in range(12)]
    assert [one is not None for one in taken] == [True] * int(BURST / 5000) + [False, False]
    assert node.intake.take("other", "ams", batch) is not None
    node.clock.ms += 1000
    assert node.intake.take("greedy", "ams", batch) is not None
    assert node.intake.take("greedy", "ams", batch) is not None
    assert node.intake.take("greedy", "ams", batch) is None
    assert RATE * 1 == 10_000
    assert node.intake.dropped["quota"] == 15_000


async def test_what_is_absurd_is_not_held_against_whom_anybody_can_speak_for(
    node: Node, store: Store, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one page that says it is nearer than light would have all pages' measurements left out."""
    monkeypatch.setattr(node.intake, "_locate", lambda some: (np.full(len(some), 1.35), np.full(len(some), 104)))
    for reporter, anybody in (("agent", False), ("page", True)):
        node.intake.take(reporter, None, [
            RoundTrip(client=CLIENTS[0], rtt_ms=1, site="ams"), RoundTrip(client=CLIENTS[0], rtt_ms=5, site="sin")],
            anybody=anybody)
    await node.intake.flush()
    assert Entry.from_bytes(store.log_[0]).fast == {"agent": 1}


async def test_reasons_are_counted(node: Node) -> None:
    taken = node.intake.take("agent", "ams", [
        RoundTrip(client="x", rtt_ms=20), RoundTrip(client=CLIENTS[0], rtt_ms=9000),
        RoundTrip(client=CLIENTS[0], rtt_ms=20, site="none"), RoundTrip(client=CLIENTS[0], rtt_ms=20)])
    assert taken is not None
    assert (taken.accepted, taken.dropped) == (1, {"address": 1, "range": 1, "site": 1})
    assert node.intake.described()["dropped"]["range"] == 1


async def test_entries_wait_for_the_store_within_a_bound(node: Node, store: Store) -> None:
    store.away = True
    for _ in range(WAITING + 10):
        node.intake.take("agent", "ams", [RoundTrip(client=CLIENTS[0], rtt_ms=20)])
        await node.intake.flush()
    assert (node.intake.described()["waiting"], node.intake.lost) == (WAITING, 10)
    store.away = False
    await node.intake.flush()
    assert (len(store.log_), node.intake.described()["waiting"]) == (WAITING, 0)
    assert GATHER_S == 1.0


async def test_probes_say_how_far_sites_are_from_this_nodes(store: Store, tmp_path: Path) -> None:
    node = Node(store, tmp_path, site="ams")
    node.health.handshakes = lambda: iter([("sin", 171.5), ("sin", 168.25), ("ams", 0.3)])
    for _ in range(3):
        await node.intake.flush()
    assert [Entry.from_bytes(one).between for one in store.log_] == [{"ams": {"sin": 168.25}}]  # once in 30 s
    node.clock.ms += 31_000
    await node.measure(seconds=10)
    assert node.measured.table is not None
    assert node.measured.table.between.tolist() == [[0, 1682], [0, 0]]


async def test_a_fault_is_a_condition_while_this_node_may_decide(node: Node, store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(deciding_module, "RETRY_S", 0.0)
    await node.measure(seconds=10)
    node.children[0].dies = True
    node.deciding.fault = "it ended with -9"
    assert list(node.deciding.conditions()) == ["measured round trips are not decided: it ended with -9"]
