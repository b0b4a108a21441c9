"""The compiled loops give what numpy gives, octet for octet, also of files that are damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.atlas import build, compiled, flatten, levels, mmdb, prefixes
from dnsd.atlas.flatten import Runs
from dnsd.atlas.prefixes import V4, V6, SourceError
from dnsd.model import Fault
from tests.atlas.samples import BERLIN, DATA, PARIS, directory, record, write_mmdb
from tests.atlas.test_flatten import nested
from tests.atlas.test_levels import Site, clients, extra, places

LOOPS = ("lines", "rows", "runs", "walk")
MAXMIND = sorted((DATA / "mmdb-test").glob("*.mmdb"))
needs_loops = pytest.mark.skipif(compiled.walk is None, reason="the atlas's loops are not compiled")


def both(make: Callable[[], Any]) -> tuple[Any, Any]:
    """What it gives with the compiled loops, and with numpy."""
    assert all(getattr(compiled, name) is not None for name in LOOPS)
    found = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmdb, "MODE_AUTO", mmdb.MODE_MMAP)  # of damaged files, on which the extension may crash
        for name in LOOPS:
            patch.setattr(compiled, name, None)
        return found, make()


def plain(found: Any) -> Any:
    """Arrays as lists, so that they can be compared; NaN as text."""
    if isinstance(found, np.ndarray):
        return [found.dtype.str, [repr(one) if one != one else one for one in found.tolist()]]
    if isinstance(found, prefixes.Prefixes):
        return [plain(part) for part in (found.keys, found.lengths, found.values, found.clamped)]
    if isinstance(found, mmdb.Places):
        return [plain(part) for part in (found.latitude, found.longitude, found.country, found.region)]
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    return [plain(one) for one in found] if isinstance(found, tuple | list) else found


@needs_loops
@given(nested())
def test_nested_prefixes(case: tuple[prefixes.Family, list[tuple[int, int, int]]]) -> None:
    family, rows = case
    for make in (lambda: flatten.flatten(prefixes.columns(rows), family),
                 lambda: flatten.units(prefixes.columns(rows), family)):
        one, other = both(make)
        assert plain(one) == plain(other)


@needs_loops
@given(st.data())
def test_layers(data: st.DataObject) -> None:
    def runs(most: int) -> Runs:
        starts = sorted(data.draw(st.sets(st.integers(1, 1 << 20), max_size=8)))
        values = data.draw(st.lists(st.integers(0, most), min_size=len(starts) + 1, max_size=len(starts) + 1))
        return flatten.merge(np.array([0, *starts], np.uint64), np.array(values, np.uint32))

    wide = data.draw(st.sampled_from([3, 2**20, 2**32 - 1]))  # so wide that three do not fit into one word
    layers, mask = [runs(wide) for _ in range(data.draw(st.integers(1, 3)))], runs(1)
    one, other = (
        (found.starts.tolist(), [[column[at] for at in found.which] for column in found.layers])
        for found in both(lambda: flatten.cells(layers, mask)))
    whole = [sorted(set(part[0])) for part in (one, other)]

    def said(found: Any, key: int) -> list[int]:
        at = np.searchsorted(np.array(found[0], np.uint64), key, "right") - 1
        return [int(column[at]) for column in found[1]]

    assert all(said(one, key) == said(other, key) for key in {*whole[0], *whole[1]})


@needs_loops
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.sampled_from([np.uint32, np.uint64]), st.data())
def test_runs(which: list[int], kind: type, data: st.DataObject) -> None:
    more = len(which) - 1
    later = data.draw(st.sets(st.integers(1, (1 << 24) - 1), min_size=more, max_size=more))
    starts = np.array([0, *sorted(later)], kind)
    numbers = np.array(data.draw(st.lists(st.integers(0, 5), min_size=10, max_size=10)), np.uint32)
    runs = np.array(which, np.uint32)
    words = numbers[runs].astype(np.uint64) << np.uint64(40) | runs
    for make in (lambda: flatten.merged(starts, runs, numbers), lambda: flatten.number(words),
                 lambda: flatten.ranked(words), lambda: flatten.blocks(starts, 24),
                 lambda: flatten.translate(runs.copy(), numbers),
                 lambda: flatten.weighed(starts.astype(np.uint32), runs, numbers, 1 << 24)):
        one, other = both(make)
        assert plain(one) == plain(other)


@needs_loops
@pytest.mark.parametrize("call", [flatten.merged, lambda *parts: flatten.weighed(*parts, 9)])
def test_numbers_that_are_not_there(call: Callable[..., Any]) -> None:
    for outcome in both(lambda: raised(lambda: call(
            np.array([0], np.uint32), np.array([4], np.uint32), np.array([1], np.uint32)))):
        assert outcome is IndexError


def raised(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (IndexError, ValueError) as error:
        return type(error)


@needs_loops
@given(st.lists(st.one_of(
    st.builds("{}/{}\t{}\n".format, st.ip_addresses(), st.integers(0, 130), st.integers(0, 2**33)),
    st.sampled_from([
        "10.0.0.0/8\t1\n", "2a00::/12\t2\n", "010.0.0.0/8\t1\n", "10.0.0.0/8 1\n", "10.0.0.1/8\t1\n", "1.2.3/24\t1\n",
        "::/0\t1\n", "2a00::1/127\t1\n", "2a00::/128\t0\n", "a\n", "\n", "# x\n", "\x00\n"])),
    max_size=6))
@settings(max_examples=150)
def test_tables(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "table.dat"
    path.write_text("".join(lines))

    def read() -> Any:
        faults: list[Fault] = []
        return prefixes.read_table(path, faults), faults

    one, other = both(read)
    assert plain(one) == plain(other)


@needs_loops
@pytest.mark.parametrize("path", MAXMIND, ids=lambda path: path.stem)
def test_files(path: Path) -> None:
    one, other = both(lambda: read(path))
    assert one == other


def read(path: Path) -> Any:
    """All that is taken of a file, or what is wrong with it; by address, whatever order it was found in."""
    faults: list[Fault] = []
    try:
        found, places = mmdb.places(path, mmdb.read(path), faults)
        numbers = mmdb.as_numbers(path, mmdb.read(path), faults)
    except SourceError as error:
        return error.faults[0].place
    said = [(version, *one, repr(places[value])) for version, some in found.items() for *one, value in zip(
        some.keys.tolist(), some.lengths.tolist(), some.values.tolist(), strict=True)]
    return (sorted(said), sorted(fault.place for fault in faults),
            sorted((version, key, value) for version, some in numbers.items() for key, value in zip(
                some.keys.tolist(), some.values.tolist(), strict=True)))


@needs_loops
@pytest.mark.parametrize("part", ["tree", "records", "anywhere"])
def test_damaged_files(tmp_path: Path, part: str) -> None:
    """What sanitizers watch: whatever a file says, nothing outside it is read. maxminddb may refuse a file for what no
    atlas needs of a record, and is not asked where the compiled loops find all they need."""
    rnd = random.Random(part)
    whole = write_mmdb(tmp_path / "whole.mmdb", {
        f"{one}.0.0.0/8": {**record(rnd.choice([BERLIN, PARIS])), "autonomous_system_number": one}
        for one in range(1, 40)
    } | {f"2a00:{one}::/32": record(PARIS) for one in range(9)}).read_bytes()
    middle = whole.rindex(b"\xab\xcd\xefMaxMind.com") // 2
    first, last = {"tree": (0, middle), "records": (middle, 2 * middle), "anywhere": (0, len(whole))}[part]
    path, kinds = tmp_path / "damaged.mmdb", set()
    for _ in range(120):
        octets = bytearray(whole)
        for _ in range(rnd.randint(1, 4)):
            octets[rnd.randrange(first, last)] = rnd.choice([0, 1, 0x1F, 0x20, 0x7F, 0xE0, 0xFF, rnd.randrange(256)])
        path.write_bytes(octets[: rnd.randrange(len(octets))] if rnd.random() < 0.1 else octets)
        one, other = both(lambda: read(path))
        assert one == other or (isinstance(other, str) and isinstance(one, tuple))
        kinds.add((type(one), type(other)))
    assert kinds >= {(str, str), (tuple, tuple)}


@needs_loops
def test_an_atlas(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    first, second = both(lambda: build.build(folder, tmp_path / "atlas").digest)
    assert first == second


def test_prefixes_with_host_bits_do_not_nest_without_end() -> None:
    if compiled.runs is None:
        pytest.skip("the atlas's loops are not compiled")
    keys = np.arange(200, dtype=np.uint64)
    with pytest.raises(ValueError, match="host bits"):
        compiled.runs.flatten(keys, np.full(200, 8, np.uint8), np.ones(200, np.uint32), V4.bits, False)
    assert V6.bits == 64


@needs_loops
@given(clients())
def test_compiled_and_numpy_give_the_same_octets(case: tuple[levels.F64, Any, levels.F64]) -> None:
    one, other = both(lambda: levels.kinds(*case))
    assert plain(one) == plain(other)


@needs_loops
@given(st.lists(places, min_size=1, max_size=5), st.lists(st.builds(
    lambda place, shift: Site(*place, shift), places, st.sampled_from([0.0, 1 / 3])), min_size=1, max_size=9))
def test_compiled_and_numpy_find_the_same_milliseconds(here: list[tuple[float, float]], sites: list[Site]) -> None:
    one, other = both(lambda: extra([*here, (float("nan"), 0.0)], sites))
    assert one.tobytes() == other.tobytes()


@needs_loops
@pytest.mark.parametrize("call", [
    lambda rows: rows.extra(np.zeros((2, 3)), np.zeros((1, 3)), np.zeros(1), 1.0, np.zeros(8), np.zeros((3, 1))),
    lambda rows: rows.extra(np.zeros((2, 3)), np.zeros((1, 3)), np.zeros(1), 1.0, np.zeros(7), np.zeros((2, 1))),
    lambda rows: rows.near(np.zeros((2, 3)), np.zeros(9, np.uint8), 3, np.zeros((2, 5), np.uint8)),
    lambda rows: rows.add(np.zeros((2, 3)), np.zeros(2), np.array([0, 1], np.uint32), np.zeros((1, 3))),
    lambda rows: rows.add(np.zeros((2, 3)), np.zeros(1), np.array([0, 0], np.uint32), np.zeros((1, 3))),
    lambda rows: paired(rows, part=1),
    lambda rows: paired(rows, kind=1),
    lambda rows: paired(rows, users=2),
    lambda rows: networks(rows, carrier=3),
    lambda rows: networks(rows, provider=1),
    lambda rows: networks(rows, asn=64500),
])
def test_what_is_outside_is_not_touched(call: Callable[[Any], Any]) -> None:
    with pytest.raises((ValueError, IndexError)):
        call(compiled.rows)


def networks(rows: Any, asn: int = 0, carrier: int = 0, provider: int = 0) -> Any:
    return rows.networks(
        np.array([asn], np.uint32), np.array([carrier], np.uint16), np.array([provider], np.uint16),
        np.array([0, 64500], np.uint32), np.zeros(1, np.uint32), np.zeros(1, np.uint32), np.zeros(1, np.uint32), 1)


def paired(rows: Any, kind: int = 0, part: int = 0, users: int = 1) -> Any:
    return rows.paired(np.array([kind], np.uint32), np.array([part] * users, np.uint32), np.zeros(1, np.uint32),
                       np.zeros(1, np.uint8), 1, 2)
