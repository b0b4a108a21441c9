"""Map tables against brute force: rows, exact scopes, index edges, IPv4 in IPv6 disguise, fine prefixes, damage.

The tables are written from `image.layout` alone (tests.golden.world), so nothing of the writer is believed.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.image import layout
from dnsd.image.table import MapTable
from tests.golden.world import Runs, table_bytes, v4, v6

ROWS = [[(n, 0), (15 - n, n)] for n in range(6)]
Fine = Sequence[tuple[int, int, int]]
FULL6 = (1 << 128) - 1


def table(runs4: Runs = ((0, 0),), runs6: Runs = ((0, 0),), fine4: Fine = (), fine6: Fine = ()) -> MapTable:
    """A map of two sites and six rows."""
    return MapTable(table_bytes(2, ROWS, runs4, runs6, fine4, fine6))


def address6(text: str) -> int:
    """An IPv6 address as a number."""
    return int(ipaddress.IPv6Address(text))


# --- the model: what every single address is, and which rows a block holds --------------------------------------------

def row_of(runs: Runs, key: int) -> int:
    """The row of the last run that starts at or before the key."""
    row = -1
    for start, this in runs:
        if start <= key:
            row = this
    return row


def rows_between(runs: Runs, low: int, high: int) -> set[int]:
    """Every row that some key in [low, high] has."""
    return {row_of(runs, low)} | {row for start, row in runs if low <= start <= high}


def widest(runs: Runs, key: int, bits: int) -> int:
    """The shortest prefix length at which the block around the key lies in one run; runs next to each other differ."""
    for length in range(bits + 1):
        low = key >> (bits - length) << (bits - length)
        high = low | (1 << (bits - length)) - 1
        if not any(low < start <= high for start, _ in runs):
            return length
    raise AssertionError


CARRIERS = [  # low and high of the disguise, and the part of an IPv4 address that a sub-block of it stands for
    (address6("::ffff:0:0"), address6("::ffff:ffff:ffff"), 96),
    (address6("64:ff9b::"), address6("64:ff9b::ffff:ffff"), 96),
    (address6("2002::"), address6("2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 16),
]
TEREDO = address6("2001::"), address6("2001:0:ffff:ffff:ffff:ffff:ffff:ffff")

DISGUISES = [*((low, high) for low, high, _ in CARRIERS), TEREDO]


def rows_in(runs4: Runs, runs6: Runs, address: int, length: int) -> set[int]:
    """The rows of all clients in a block of IPv6, whole addresses known."""
    low = address >> (128 - length) << (128 - length)
    high = low | (1 << (128 - length)) - 1
    found: set[int] = set()
    plain = [(low, high)]
    for first, last, before in [*CARRIERS, (*TEREDO, -1)]:
        inside_low, inside_high = max(low, first), min(high, last)
        if inside_low > inside_high:
            continue
        plain = [piece for a, b in plain for piece in ((a, min(b, first - 1)), (max(a, last + 1), b))
                 if piece[0] <= piece[1]]
        if before >= 0:
            four = [end >> (128 - before - 32) & 0xFFFFFFFF for end in (inside_low, inside_high)]
        elif length > 96:
            four = [~end & 0xFFFFFFFF for end in (inside_high, inside_low)]
        else:
            four = [0, 0xFFFFFFFF]
        found |= rows_between(runs4, four[0] >> 8, four[1] >> 8)
    for a, b in plain:
        found |= rows_between(runs6, a >> 64, b >> 64)
    return found


# --- random runs ------------------------------------------------------------------------------------------------------

def runs_of(starts: set[int], numbers: list[int]) -> Runs:
    """Runs with those starts and 0; rows next to each other differ."""
    rows = []
    for index, _ in enumerate(sorted(starts | {0})):
        row = numbers[index % len(numbers)]
        rows.append((row + 1) % len(ROWS) if rows and rows[-1] == row else row)
    return list(zip(sorted(starts | {0}), rows, strict=True))


numbers = st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=8)
near4 = st.builds(lambda slot, step: max(0, min((slot << 8) + step, (1 << 24) - 1)), st.integers(0, 1 << 16),
                  st.integers(-2, 2))
keys4 = near4 | st.integers(0, (1 << 24) - 1)
EDGES6 = [v6(text) for text in ("::", "::1:0:0:0:0", "64:ff9b::", "2000::", "2001::", "2001:1::", "2002::", "2003::",
                                "2400::", "3fff::", "4000::", "fc00::")]
near6 = st.builds(
    lambda edge, step: max(0, min(edge + step, (1 << 64) - 1)), st.sampled_from(EDGES6), st.integers(-2, 2))
slots6 = st.builds(
    lambda slot, step: layout.INDEX6_BASE + (slot << layout.INDEX6_SHIFT) + step,
    st.integers(0, layout.INDEX6_SLOTS - 1), st.integers(0, 2))
keys6 = st.integers(0, (1 << 64) - 1) | near6 | slots6


@settings(max_examples=40)
@given(st.sets(keys4, max_size=12), numbers, st.lists(keys4, max_size=20))
def test_v4_rows_and_scopes_are_brute_forces(starts: set[int], rows: list[int], asked: list[int]) -> None:
    runs = runs_of(starts, rows)
    found = table(runs)
    edges = {edge for start, _ in runs for edge in (start - 1, start, start + 1)} | {(1 << 24) - 1}
    for key in [*asked, *(edge for edge in edges if 0 <= edge < 1 << 24)]:
        assert found.find4(key) == (row_of(runs, key), widest(runs, key, 24))


def known6(starts: set[int], rows: list[int]) -> Runs:
    """Runs in which, as in every atlas, the disguises are nowhere: row 0."""
    runs = dict(runs_of(starts, rows))
    for first, last, _ in [*CARRIERS, (*TEREDO, -1)]:
        low, high = first >> 64, last >> 64
        ordered = sorted(runs.items())
        after = row_of(ordered, high + 1)
        runs = {start: row for start, row in runs.items() if not low <= start <= high + 1} | {low: 0, high + 1: after}
    merged: list[tuple[int, int]] = []
    for start, row in sorted(runs.items()):
        if not merged or merged[-1][1] != row:
            merged.append((start, row))
    return merged


@settings(max_examples=40)
@given(st.sets(keys6, max_size=12), numbers, st.sets(keys4, max_size=3), numbers, st.lists(keys6, max_size=20))
def test_v6_scopes_hold_one_row_and_could_not_be_wider(
    starts: set[int], rows: list[int], starts4: set[int], rows4: list[int], asked: list[int],
) -> None:
    runs4, runs6 = runs_of(starts4, rows4), known6(starts, rows)
    found = table(runs4, runs6)
    edges = {edge for start, _ in runs6 for edge in (start - 1, start, start + 1) if 0 <= edge < 1 << 64}
    for key in [*asked, *edges, 0, (1 << 64) - 1]:
        for address in (key << 64, key << 64 | 1, key << 64 | (1 << 64) - 1):
            row, scope = found.find6(address)
            assert rows_in(runs4, runs6, address, 128) == {row}
            assert rows_in(runs4, runs6, address, scope) == {row}
            if row and not any(low <= address <= high for low, high in DISGUISES):
                assert scope == widest(runs6, key, 64)


@settings(max_examples=60)
@given(st.sets(keys4, max_size=8), numbers, st.integers(0, 0xFFFFFFFF), st.integers(0, 32),
       st.integers(0, (1 << 64) - 1))
def test_ipv4_in_disguise_is_judged_by_the_ipv4(
    starts: set[int], rows: list[int], four: int, known: int, server: int,
) -> None:
    runs4 = runs_of(starts, rows)
    found = table(runs4, known6({v6("2400::")}, [0, 3]))
    four = four >> (32 - known) << (32 - known)
    row, scope = found.find4(four >> 8)
    assert found.find6(address6("2002::") | four << 80, 16 + known) == (row, 16 + scope)
    teredo = address6("2001::") | server << 32
    for base in (address6("::ffff:0:0"), address6("64:ff9b::"), teredo):
        address = base | (~four if base == teredo else four) & 0xFFFFFFFF
        assert found.find6(address) == (row, 96 + scope)
        if known >= 8:
            assert found.find6(address, 96 + known) == (row, 96 + scope)
        else:
            # Less than the IPv4's first octet says nothing: unknown, and the scope asks for more (RFC 7871 §7.2.1).
            assert found.find6(base, 96 + known) == (0, 104)


DISGUISED = [
    ("::ffff:10.1.2.3", 128, "10.1.2.3"), ("::ffff:10.1.2.0", 120, "10.1.2.0"), ("64:ff9b::10.1.2.3", 128, "10.1.2.3"),
    ("64:ff9b::10.0.0.0", 104, "10.0.0.0"), ("2002:0a01:0203::1", 128, "10.1.2.3"),
    ("2002:0a01:0200::", 40, "10.1.2.0"),
    ("2001:0:4136:e378:8000:63bf:f5fe:fdfc", 128, "10.1.2.3"),  # RFC 4380 §4: the client inverted
]


@pytest.mark.parametrize(("text", "source", "four"), DISGUISED)
def test_disguises(text: str, source: int, four: str) -> None:
    found = table([(0, 0), (v4("10.0.0.0"), 3), (v4("10.1.0.0"), 4), (v4("10.2.0.0"), 5), (v4("11.0.0.0"), 0)])
    assert found.find6(address6(text), source)[0] == found.find4(v4(four))[0] == (4 if four[3] == "1" else 3)
    assert found.find_resolver(ipaddress.IPv6Address(text).packed) == found.find4(v4(four))[0]


@pytest.mark.parametrize("text", [
    "::1", "::", "::fffe:10.1.2.3", "64:ff9b:1::10.1.2.3", "64:ff9b::1:a01:203", "2003::1", "2001:1::1",
    "::ffff:0:10.1.2.3",
])
def test_no_disguise(text: str) -> None:
    found = table([(0, 5)], [(0, 0)])
    row, scope = found.find6(address6(text))
    assert row == 0
    assert rows_in([(0, 5)], [(0, 0)], address6(text), scope) == {0}


# --- index and ends ---------------------------------------------------------------------------------------------------

def test_one_run_is_the_whole_space() -> None:
    found = table([(0, 3)], [(0, 4)])
    assert {found.find4(key) for key in (0, 1 << 23, (1 << 24) - 1)} == {(3, 0)}
    assert {found.find6(key << 64) for key in (1 << 60, 5 << 61, (1 << 64) - 1)} == {(4, 0)}


def test_a_run_for_every_key_of_a_slot() -> None:
    base = v4("10.1.0.0")
    runs = [(0, 0), *((base + n, 1 + n % 2) for n in range(256)), (base + 256, 0)]
    found = table(runs)
    assert [found.find4(base + n) for n in range(256)] == [(1 + n % 2, 24) for n in range(256)]
    assert found.find4(base - 1) == (0, widest(runs, base - 1, 24))
    assert found.find4(base + 256) == (0, widest(runs, base + 256, 24))


def test_runs_outside_of_the_v6_index() -> None:
    runs = [(0, 0), (v6("1000::"), 1), (v6("2000::"), 2), (v6("3fff:ffff::"), 3), (v6("4000::"), 4), (v6("ff00::"), 5)]
    found = table(runs6=runs)
    assert [found.find6(start << 64)[0] for start, _ in runs] == [0, 1, 2, 3, 4, 5]
    assert [found.find6((start << 64) - 1)[0] for start, _ in runs[1:]] == [0, 1, 2, 3, 4]
    assert found.find6(FULL6) == (5, 8)


# --- prefixes finer than a scope --------------------------------------------------------------------------------------

FINE4 = [(0x0A010204, 0x0A010207, 4), (0x0A010208, 0x0A010208, 5), (0xFFFFFFFF, 0xFFFFFFFF, 3)]
FINE6 = [(v6("2001:db8::"), v6("2001:db8:0:3::"), 4), (v6("2001:db8:0:8::"), v6("2001:db8:0:8::"), 5)]


@pytest.mark.parametrize(("text", "row"), [
    ("10.1.2.3", 1), ("10.1.2.4", 4), ("10.1.2.7", 4), ("10.1.2.8", 5), ("10.1.2.9", 1), ("0.0.0.0", 1),
    ("255.255.255.255", 3), ("255.255.255.254", 1), ("2001:db8::1", 4), ("2001:db8:0:3:ffff::", 4),
    ("2001:db8:0:4::", 2), ("2001:db8:0:8::1", 5), ("2001:db8:0:9::", 2), ("2001:db7:ffff:ffff::", 2),
    ("::ffff:10.1.2.4", 1), ("64:ff9b::10.1.2.4", 1),
])
def test_fine_prefixes_are_for_whole_addresses(text: str, row: int) -> None:
    found = table([(0, 1)], [(0, 2)], FINE4, FINE6)
    assert found.find_resolver(ipaddress.ip_address(text).packed) == row
    bare = table([(0, 1)], [(0, 2)])
    assert bare.find_resolver(ipaddress.ip_address(text).packed) == (2 if ":" in text and "." not in text else 1)
    if "." in text and ":" not in text:
        assert found.find4(v4(text)) == (1, 0)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 60), max_size=12), st.integers(0, 63))
def test_fine_prefixes_are_brute_forces(edges: set[int], last: int) -> None:
    pairs = sorted(edges | {62, 63})
    fine = [(low, high, 1 + i % 5) for i, (low, high) in enumerate(zip(pairs[::2], pairs[1::2], strict=False))]
    found = table(fine4=fine, fine6=fine)
    for address in (*range(64), last):
        expected = next((row for low, high, row in fine if low <= address <= high), 0)
        assert found.find_resolver(address.to_bytes(4, "big")) == expected
        assert found.find_resolver((address << 64 | last).to_bytes(16, "big")) == expected


# --- rows and damage --------------------------------------------------------------------------------------------------

def test_rows() -> None:
    found = table()
    assert found.row(3) == (bytes([3, 12]), bytes([0, 3]), list(layout.LEVEL_MS))
    assert found.row(99) == found.row(0)
    assert (found.sites, found.rows, found.runs4, found.runs6, found.atlas, found.made_ms) == (2, 6, 1, 1, 1, 2)


GOOD = table_bytes(2, ROWS, [(0, 1), (v4("10.0.0.0"), 2)], [(0, 2)], FINE4, FINE6)
_SECTIONS = layout.map_sections(2, len(ROWS), 2, 1, len(FINE4), len(FINE6))


@pytest.mark.parametrize("name", [name for name in _SECTIONS if name != "end"])
def test_damage_in_any_array_is_seen(name: str) -> None:
    offset, count, _ = _SECTIONS[name]
    for at in {offset, offset + count // 2, offset + count - 1}:
        with pytest.raises(ValueError, match="damaged"):
            MapTable(GOOD[:at] + bytes([GOOD[at] ^ 0x10]) + GOOD[at + 1 :])


@pytest.mark.parametrize(("field", "value"), [
    ("magic", None), ("layout", layout.LAYOUT + 1), ("sites", 3), ("rows", 60), ("runs4", 5), ("runs6", 9),
    ("fine4", 7), ("fine6", 0), ("crc", 1), ("size", 5), ("runs4", 0), ("runs6", 0), ("runs4", 0xFFFFFFFF),
])
def test_a_head_that_lies_is_seen(field: str, value: int | None) -> None:
    data = bytearray(GOOD)
    at = layout.MAP_HEADER.at[field]
    if value is None:
        data[at] ^= 1
    else:
        data[at : at + 4] = value.to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"map table|damaged"):
        MapTable(data)


@pytest.mark.parametrize("size", [0, 1, 7, 8, layout.MAP_HEADER.size - 1, layout.MAP_HEADER.size, 1000, len(GOOD) - 1])
def test_a_torn_table_is_seen(size: int) -> None:
    with pytest.raises(ValueError, match="map table"):
        MapTable(GOOD[:size])
    with pytest.raises(ValueError, match="map table"):
        MapTable(GOOD + bytes(8))


def test_the_builders_index_is_what_the_layout_says() -> None:
    """The test's own writer, once, against the definition."""
    runs = runs_of({5, 256, 257, 70_000, 1 << 23}, [1, 2, 3])
    data = table_bytes(2, ROWS, runs)
    offset, count, _ = layout.map_sections(2, len(ROWS), len(runs), 1, 0, 0)["index4"]
    index = memoryview(data)[offset : offset + 4 * count].cast("I").tolist()
    starts = [start for start, _ in runs]
    assert index == [bisect_right(starts, slot << 8) - 1 for slot in range(layout.INDEX4_SLOTS + 1)]
