"""Prefix text: the quick reading and the slow one say the same, and every fault is named."""

from __future__ import annotations

import gzip
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.atlas import flatten, prefixes
from dnsd.atlas.prefixes import V6, Prefixes, SourceError
from dnsd.model import Fault

pytestmark = pytest.mark.usefixtures("loops")


def as_rows(found: Prefixes) -> list[tuple[int, int, int]]:
    return list(zip(found.keys.tolist(), found.lengths.tolist(), found.values.tolist(), strict=True))


@pytest.mark.parametrize(("text", "version", "key", "length"), [
    ("1.2.3.0/24", 4, 0x01020300, 24),
    ("1.2.3.4", 4, 0x01020304, 32),
    ("0.0.0.0/0", 4, 0, 0),
    ("2001:db8::/32", 6, 0x20010DB8 << 32, 32),
    ("2001:db8::1", 6, 0x20010DB8 << 32, 128),
    ("::ffff:1.2.3.4/128", 6, 0, 128),
])
def test_parse(text: str, version: int, key: int, length: int) -> None:
    found = prefixes.parse(text)
    assert (found.family.version, found.key, found.length) == (version, key, length)


@pytest.mark.parametrize("text", [
    "", "x", "1.2.3", "1.2.3.4/33", "1.2.3.4/24", "1.2.3.0/", "1.2.3.0/-1", "1.2.3.0/+8", "2001:db8::/129",
    "2001:db8::1/64", "1.2.3.0/24/24", "1.2.3.0/²", "::1%eth0",
])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|length|bits"):
        prefixes.parse(text)


def network(bits: int) -> st.SearchStrategy[str]:
    kind = IPv4Network if bits == 32 else IPv6Network
    return st.integers(0, bits).flatmap(
        lambda length: st.integers(0, (1 << length) - 1).map(lambda top: str(kind((top << (bits - length), length)))))


tables = st.tuples(st.lists(st.tuples(network(32), st.integers(0, 2**32 - 1)), max_size=20),
                   st.lists(st.tuples(network(128), st.integers(0, 2**32 - 1)), max_size=20))


@given(tables)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_quick_and_slow_reading_agree(tmp_path: Path, rows: tuple[list[tuple[str, int]], ...]) -> None:
    lines = [f"{net}\t{asn}" for part in rows for net, asn in part]
    quick, slow = tmp_path / "quick.dat", tmp_path / "slow.dat"
    quick.write_text("; head: er\n" + "".join(f"{line}\n" for line in lines))
    slow.write_text("".join(f"  {line} \r\n" for line in reversed(lines)))  # what the quick reading does not take
    faults: list[Fault] = []
    read, again = prefixes.read_table(quick, faults), prefixes.read_table(slow, faults)
    assert not faults
    expected = {4: [], 6: []}
    for part in rows:
        for net, asn in part:
            prefix = prefixes.parse(net)
            expected[prefix.family.version].append((prefix.key, min(prefix.length, prefix.family.bits), asn))
    for version in (4, 6):
        assert sorted(as_rows(read[version])) == sorted(as_rows(again[version])) == sorted(expected[version])


@pytest.mark.parametrize("bad", [
    "1.2.3.0/24 64500 x", "1.2.3.1/24\t1", "1.2.3.0/24\t4294967296", "1.2.3.0/24\t-1", "1.2.3.0/24", "256.0.0.0/8\t1",
    "1.0.0.0/40\t1", "1.0.0.0/8\tx", "2001:db8::1/32\t1", "2001:db8::/129\t1", "2001:db8::/32\t1_0",
    "12345678901.0.0.0/8\t1",
    "2001:db8::1/127\t1", "2001:db8::/32\t99999999999999999999",
])
def test_every_fault_of_a_table_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "t.dat"
    path.write_text(f"; comment\n10.0.0.0/8\t1\n{bad}\n11.0.0.0/8\t2\n\nnonsense\n2001:db8::/32\t3\n")
    faults: list[Fault] = []
    prefixes.read_table(path, faults)
    assert [fault.place for fault in faults] == [f"{path}:3", f"{path}:6"]


def test_faults_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.dat"
    path.write_text("x\n" * 2500)
    faults: list[Fault] = []
    prefixes.read_table(path, faults)
    assert len(faults) == prefixes.MAX_FAULTS + 1
    assert faults[-1] == Fault(str(path), "and 1500 more faults")


def test_a_line_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"10.0.0.0/8\n\xff\xfe\n11.0.0.0/8\n")
    faults: list[Fault] = []
    assert len(prefixes.read_list(path, 1, faults)) == 2
    assert [fault.place for fault in faults] == [f"{path}:2"]


def test_packed_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "t.dat.gz"
    packed = gzip.compress(b"10.0.0.0/8\t7\n")
    path.write_bytes(packed)
    assert as_rows(prefixes.read_table(path, [])[4]) == [(10 << 24, 8, 7)]
    for damaged in (packed[:-6], b"not gzip", packed[:-8] + bytes(8)):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"cannot be read"):
            prefixes.read_table(path, [])
    with pytest.raises(SourceError, match=r"cannot be read"):
        prefixes.read_table(tmp_path / "missing.dat", [])


def test_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "t.dat"
    path.write_text("")
    assert {version: len(found) for version, found in prefixes.read_table(path, []).items()} == {4: 0, 6: 0}


def test_of_prefixes_inside_one_64_the_widest_stands_for_it() -> None:
    rows = [(5, 128, 1), (5, 65, 2), (5, 65, 3), (5, 128, 4), (9, 64, 5), (9, 100, 6)]
    found = prefixes.columns(rows)
    runs = flatten.flatten(found, V6)
    assert flatten.at(runs, np.array([4, 5, 6, 9], np.uint64)).tolist() == [0, 2, 0, 5]
    assert set(found.clamped.tolist()) == {5, 9}
