"""The child's engine through its octets: tables by number, taking over, what is lost, who is not believed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from dnsd.rtt import child, frames, shards
from dnsd.rtt.cells import HALF_LIFE_S, blocks_of, columns_of
from dnsd.rtt.child import FROZEN_S, REFRESH_S, UNHURRIED_S
from dnsd.rtt.table import Table
from tests.rtt.measuring import SITES, InProcess, entry

SEEN = [(block, site, 20.0 + 10 * site) for block in range(40) for site in range(3)]


def running(*, until_s: int = 1010, **options: Any) -> InProcess:
    one = InProcess(**options)
    for now_s in range(1000, until_s + 1, 5):
        one.now_s = now_s
        one.fold(entry(now_s, SEEN))
    return one


def test_a_table_comes_of_it_once() -> None:
    one = running()
    told = one.round()
    assert (told["number"], told["decided"], told["cells"], told["round"]["churn"]) == (1, 120, 120, 0.0)
    table = one.table()
    assert (table.sites, len(table.blocks), table.number) == (SITES, 40, 1)
    assert table.ms.tolist() == [[200, 300, 400, 0]] * 40
    assert set(table.count[:, 0].tolist()) == {32}  # fifteen samples
    assert table.weight[0] == pytest.approx(45 / (HALF_LIFE_S / 3600 / np.log(2)), rel=0.01)
    again = one.round()
    assert "written" not in again
    assert again["number"] == 1


def test_a_small_move_waits_and_a_large_one_does_not() -> None:
    one = running(until_s=1040)
    one.round()
    for seconds in (5, 10, 15, 20, 25):
        one.now_s = 1040 + seconds
        one.fold(entry(one.now_s, [(1, 2, 80.0)]))  # the farthest site of one block
        assert "written" not in one.round()
    one.now_s = 1040 + UNHURRIED_S
    assert one.round()["written"] == [int(shards.shard_of(np.array([1], np.uint64))[0])]
    for seconds in (5, 10, 15):
        one.now_s = 1070 + seconds
        one.fold(entry(one.now_s, [(block, 0, 70.0) for block in range(40)]))
    told = one.round()
    assert told["round"]["churn"] == pytest.approx(0.2, abs=0.01)
    assert (told["round"]["moved"], told["round"]["deferred"]) == (8, 32)


def test_a_part_that_goes_on_as_it_is_is_written_now_and_then() -> None:
    one = running()
    one.round()
    one.now_s = 1000 + REFRESH_S - 5
    one.fold(entry(one.now_s, SEEN))
    assert "written" not in one.round()
    one.now_s += 20
    before = one.table()
    assert "written" in one.round()
    assert (one.table().seen > before.seen).any()
    assert one.table().ms.tolist() == before.ms.tolist()


def test_another_child_goes_on_from_what_was_kept() -> None:
    one = running()
    one.round()
    kept = one.ask("keep", now_ms=one.now_ms)
    assert kept.head == {"left": False}
    other = InProcess()
    other.now_s = one.now_s
    other.ask("begin", kept.parts[:1], number=1, between={}, now_ms=one.now_ms)
    other.ask("rows", kept.parts[1:])
    other.ask("shards", list(one.parts.values()))
    assert "written" not in other.round()
    other.ask("round", now_ms=other.now_ms, mend=list(range(shards.SHARDS)))
    for each in (one, other):
        each.now_s += 5
        each.round(mend=list(range(shards.SHARDS)))
    np.testing.assert_array_equal(one.table().ms, other.table().ms)
    np.testing.assert_array_equal(one.table().error, other.table().error)


def test_what_did_not_arrive_is_said_again() -> None:
    one = running()
    first = one.round()
    again = one.round(again=True)
    assert (again["number"], again["written"]) == (2, first["written"])
    kept = one.ask("keep", now_ms=one.now_ms)
    assert len(one.ask("keep", now_ms=one.now_ms).parts) == 1
    assert one.ask("keep", now_ms=one.now_ms, again=True).parts[1:] == []  # only the last is
    one.fold(entry(one.now_s, SEEN))
    lost = one.ask("keep", now_ms=one.now_ms)
    assert len(lost.parts) == len(kept.parts) == 81
    assert sorted(one.ask("keep", now_ms=one.now_ms, again=True).parts) == sorted(lost.parts)


def test_an_emptied_store_gets_back_what_the_node_has() -> None:
    one = running()
    one.round()
    table = one.table()
    other = InProcess()
    other.now_s = one.now_s + 3600
    other.ask("seed", [table.to_bytes()])
    other.round()
    assert other.state["number"] == 2
    np.testing.assert_array_equal(other.table().ms, table.ms)
    other.wait(20 * HALF_LIFE_S)  # and it fades as it would have
    other.round()
    assert len(other.table().blocks) == 0


def test_a_site_that_is_gone_is_a_column_that_is_gone() -> None:
    one = running()
    one.fold(entry(one.now_s, (), between={"s0": {"s1": 30.0, "s2": 9.0}, "s1": {"s0": 31.0}}))
    one.round()
    one.ask("sites", sites=["s0", "s2"])
    one.now_s += 5
    one.round()
    table = one.table()
    assert table.sites == ("s0", "s2")
    assert table.ms.tolist() == [[200, 400]] * 40
    assert table.between.tolist() == [[0, 90], [0, 0]]
    rows = one.ask("keep", now_ms=one.now_ms)
    assert len(rows.parts) == 81


def test_between_sites_it_moves_past_a_margin() -> None:
    one = running()
    for ms, expected in ((30.0, 30.0), (32.0, 30.0), (34.0, 34.0)):
        one.fold(entry(one.now_s, (), between={"s0": {"s1": ms}}))
        one.now_s += 5
        one.round()
        assert one.state["between"] == {"s0": {"s1": expected}}
    one.wait(90_000)
    one.round()
    assert one.state["between"] == {}


def test_damaged_entries_parts_and_names_are_counted() -> None:
    one = InProcess()
    one.ask("fold", [b"", b"RTT1", entry(1, SEEN).to_bytes()[:-1], entry(1000, SEEN).to_bytes()], now_ms=one.now_ms)
    one.ask("shards", [b"", b"no zlib"])
    assert one.round()["damaged"] == 5
    assert one.state["cells"] == 120
    one.ask("begin", [b"no names"], number=1, between={}, now_ms=one.now_ms)
    assert one.round()["damaged"] == 1


def test_who_is_not_believed_is_said_and_decides_nothing_new() -> None:
    one = running()
    one.round()
    for _ in range(4):
        one.now_s += 5
        one.fold(entry(one.now_s, [(block, site, ms + 60) for block, site, ms in SEEN], fast={"one": 900}))
        one.round()
    assert "faster than light" in one.state["reporters"]["one"]["distrusted"]
    assert one.table().ms[0].tolist() == [200, 300, 400, 0]  # as it was while it was believed
    one.fold(entry(one.now_s, [(100, 0, 20.0)]))
    one.wait(FROZEN_S - 60)
    one.fold(entry(one.now_s, SEEN, fast={"one": 10**6}))
    one.round()
    assert one.state["decided"] == 120
    one.now_s += 120
    one.round()
    assert (one.state["decided"], len(one.table().blocks)) == (0, 0)


def test_one_busy_block_at_a_wrong_place_does_not_speak_against_its_reporter() -> None:
    """A /24 that half of all connections come from, and that the atlas has on another continent."""
    one = running()
    for _ in range(20):
        one.now_s += 1
        one.fold(entry(one.now_s, SEEN[:40], count=5, fast={"one": 1}))
    one.round()
    assert "distrusted" not in one.state["reporters"]["one"]
    for _ in range(20):
        one.now_s += 1
        one.fold(entry(one.now_s, SEEN[:40], count=60_000, fast={"one": 20}))
    one.round()
    assert "faster than light" in one.state["reporters"]["one"]["distrusted"]


def test_a_new_site_does_not_get_what_was_kept_of_one_that_is_gone() -> None:
    """Names are kept before rows: a child that dies in between must not leave a row whose numbers mean another site."""
    one = running()
    one.round()
    before = one.ask("keep", now_ms=one.now_ms)
    one.ask("sites", sites=["s0", "s1"])
    one.fold(entry(one.now_s, [(1, 2, 99.0)], sites=("s0", "s1", "new")))
    after = one.ask("keep", now_ms=one.now_ms)
    other = InProcess()
    other.now_s = one.now_s
    other.ask("begin", after.parts[:1], number=1, between={}, now_ms=one.now_ms)
    other.ask("rows", before.parts[1:])  # those after were not kept any more
    kept = {other.engine.cells.sites[column] for column in columns_of(other.engine.cells.keys).tolist()}
    assert "new" not in kept
    for _ in range(3):  # kept for good by now: numbers may be given again
        one.ask("keep", now_ms=one.now_ms)
    one.fold(entry(one.now_s, [(1, 2, 99.0)], sites=("s0", "s1", "newer")))
    assert one.engine.cells.sites == ["s0", "s1", "newer", None, "new"]


def test_who_is_silent_for_days_leaves_its_number_to_another() -> None:
    """Tokens are replaced: there are more in the end than there may be at once."""
    one = running()
    one.round()
    rows: dict[bytes, bytes] = {}

    def keep() -> frames.Frame:
        kept = one.ask("keep", now_ms=one.now_ms)
        rows.update(zip(kept.parts[1::2], kept.parts[2::2], strict=True))
        return kept

    keep()
    for _ in range(3 * 24 * 6):  # three days in which the first, having spoken of all, says nothing any more
        one.now_s += 600
        one.fold(entry(one.now_s, SEEN[:30], reporter="two"))
        one.round()
    cells = one.engine.cells
    assert (cells.reporters, set(cells["reporter"].ravel().tolist())) == (["", "one", "two"], {0, 2})
    keep()
    assert cells.reporters == ["", "one", "two"], "rows with its number may be kept somewhere"
    keep()
    assert cells.reporters == ["", None, "two"]
    one.fold(entry(one.now_s, SEEN[:3], reporter="three"))
    kept = keep()
    assert cells.reporters == ["", "three", "two"]
    assert cells.trusted.tolist() == [True] * 3
    other = InProcess()
    other.now_s = one.now_s
    other.ask("begin", kept.parts[:1], number=1, between={}, now_ms=one.now_ms)
    other.ask("rows", [part for row in rows.items() if row[1] for part in row])
    taken = other.engine.cells
    assert len(taken) == len(cells) == 30
    assert sorted(np.sort(taken["reporter"], axis=1).tolist()) == sorted(np.sort(cells["reporter"], axis=1).tolist())


def test_a_row_of_one_who_has_no_name_any_more_is_left_out_and_written_anew() -> None:
    one = running()
    kept = one.ask("keep", now_ms=one.now_ms)
    names = kept.parts[0].replace(b'"one"', b"null")
    other = InProcess()
    other.ask("begin", [names], number=1, between={}, now_ms=one.now_ms)
    assert other.ask("rows", kept.parts[1:]).head["damaged"] == 0
    assert not len(other.engine.cells)
    assert len(other.ask("keep", now_ms=one.now_ms).parts) == 1 + 2 * 40


def test_a_third_child_understands_what_the_first_has_kept() -> None:
    """The second has other numbers for sites and reporters: one site is gone, one reporter is not believed."""
    one = running()
    for _ in range(3):
        one.fold(entry(one.now_s, SEEN, reporter="two"))
    one.fold(entry(one.now_s, (), fast={"two": 9000}, reporter="two"))
    one.round()
    one.ask("sites", sites=["s1", "s2"])
    one.round()
    assert "distrusted" in one.state["reporters"]["two"]
    rows: dict[bytes, bytes] = {}
    for generation in range(3):
        kept = one.ask("keep", now_ms=one.now_ms)
        rows |= dict(zip(kept.parts[1::2], kept.parts[2::2], strict=True))
        following = InProcess()
        following.now_s = one.now_s
        following.ask("begin", kept.parts[:1], number=generation, between={}, now_ms=one.now_ms)
        following.ask("rows", [part for row in rows.items() for part in row])
        assert said(following) == said(one)
        one = following


def said(one: InProcess) -> dict[tuple[int, str | None, str], int]:
    """What each reporter says of each block and site."""
    cells = one.engine.cells
    return {(int(blocks_of(cells.keys)[cell]), cells.sites[columns_of(cells.keys)[cell]],
             cells.reporters[cells["reporter"][cell, slot]]): int(cells["rtt"][cell, slot])
            for cell, slot in zip(*np.nonzero(cells["reporter"]), strict=True)}


def test_another_child_knows_who_was_not_believed() -> None:
    one = running()
    one.fold(entry(one.now_s, SEEN, reporter="two", fast={"two": 9000}))
    one.round()
    kept = one.ask("keep", now_ms=one.now_ms)
    other = InProcess()
    other.ask("begin", kept.parts[:1], number=1, between={}, now_ms=one.now_ms)
    assert other.engine.why == {"two": "as it was before"}
    cells = other.engine.cells
    assert dict(zip(cells.reporters, cells.trusted.tolist(), strict=True)) == {"": True, "one": True, "two": False}


YEAR_S = 365 * 86_400


def in_spring() -> InProcess:
    """Not at the beginning of time."""
    one = running()
    one.now_s += 90 * 86_400
    for _ in range(4):
        one.now_s += 5
        one.fold(entry(one.now_s, SEEN))
    one.round(mend=list(range(shards.SHARDS)))
    return one


@pytest.mark.parametrize("by_s", [YEAR_S, -3600])
def test_nothing_ages_by_a_clock_that_leaps(by_s: int) -> None:
    """The builder's clock is set, and set right again half an hour later; who measures has had the right time."""
    one = in_spring()
    before = one.table()
    for leap_s in (by_s, -by_s):
        one.now_s += leap_s
        for _ in range(30):
            one.now_s += 60
            right = one.now_s - max(leap_s, 0) if leap_s == by_s else one.now_s
            one.fold(entry(right, SEEN))
            one.round()
            assert (one.state["decided"], len(one.table().blocks)) == (120, 40)
    assert one.table().ms.tolist() == before.ms.tolist()
    assert (one.table().count >= before.count).all()
    for _ in range(4):  # and what changes is followed
        one.now_s += 5
        one.fold(entry(one.now_s, [(block, site, ms + 70 * (site == 2)) for block, site, ms in SEEN]))
        one.round()
    one.now_s += UNHURRIED_S
    one.round()
    assert one.table().ms[:, 2].tolist() == [1100] * 40


@pytest.mark.parametrize("by_s", [YEAR_S, -30 * 86_400])
def test_a_node_whose_clock_is_wrong_neither_keeps_nor_takes_away(by_s: int) -> None:
    one = in_spring()
    for _ in range(30):
        one.now_s += 30
        one.fold(entry(one.now_s + by_s, SEEN))
        one.round()
        assert (one.state["decided"], one.state["cells"]) == (120, 120)
    one.wait(20 * HALF_LIFE_S)
    one.round()
    assert one.state["cells"] == 0


def test_another_child_with_another_clock_goes_on_from_what_was_kept() -> None:
    one = running()
    one.round()
    kept = one.ask("keep", now_ms=one.now_ms)
    other = InProcess()
    other.now_s = one.now_s + YEAR_S
    other.ask("begin", kept.parts[:1], number=1, between={"s0": {"s1": 5.0}}, now_ms=other.now_ms)
    other.ask("rows", kept.parts[1:])
    other.ask("shards", list(one.parts.values()))
    other.fold()
    other.round()
    assert (other.state["decided"], other.state["between"]) == (120, {"s0": {"s1": 5.0}})
    kept = other.ask("keep", now_ms=other.now_ms)
    assert len(kept.parts) == 81  # in its own time
    third = InProcess()
    third.now_s = other.now_s + 5
    third.ask("begin", kept.parts[:1], number=1, between={}, now_ms=third.now_ms)
    third.ask("rows", kept.parts[1:])
    third.round()
    assert third.state["cells"] == 120


def test_the_loop_answers_frame_by_frame_and_ends() -> None:
    asked = frames.packed({"do": "begin", "number": 3, "between": {}, "now_ms": 0})
    asked += frames.packed({"do": "round", "now_ms": 10**13})
    sink = io.BytesIO()
    child.serve(io.BytesIO(asked + b"\0\0"), sink)
    first = frames.packed({})
    assert sink.getvalue().startswith(first)
    text, body = frames.sizes(sink.getvalue()[len(first) : len(first) + 8])
    assert frames.unpacked(sink.getvalue()[len(first) + 8 : len(first) + 8 + text], b"").head["number"] == 3
    assert body == 0
    with pytest.raises(ValueError, match="larger than any"):
        frames.sizes(b"\xff" * 8)


def test_tables_are_joined_by_site_and_split_again() -> None:
    one = Table.zeros(("a", "b"), np.array([1, 5], np.uint64))
    one.ms[:] = [[10, 20], [30, 40]]
    other = Table.zeros(("c", "a"), np.array([3, 7], np.uint64))
    other.ms[:] = [[50, 60], [70, 0]]
    joined = shards.joined([one, other], ("a", "b"), {"a": {"b": 4.0, "x": 1.0}}, number=9, at_ms=7)
    assert (joined.blocks.tolist(), joined.ms.tolist()) == ([1, 3, 5], [[10, 20], [60, 0], [30, 40]])
    assert (joined.number, joined.at_ms, joined.between.tolist()) == (9, 7, [[0, 40], [0, 0]])
    assert shards.without(joined, range(shards.SHARDS)).blocks.tolist() == []
    gone = int(shards.shard_of(np.array([3], np.uint64))[0])
    assert 3 not in shards.without(joined, [gone]).blocks.tolist()
    assert len(shards.joined([], (), {}, number=1, at_ms=1).blocks) == 0
