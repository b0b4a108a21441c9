"""The vectorised walk against maxminddb's own iteration, and files that are damaged or say nonsense."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import maxminddb
import mmdb_writer
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.atlas import mmdb, prefixes
from dnsd.atlas.mmdb import Place
from dnsd.atlas.prefixes import SourceError
from dnsd.model import Fault
from tests.atlas.samples import BERLIN, DATA, PARIS, record, write_mmdb

pytestmark = pytest.mark.usefixtures("loops")

MAXMIND = sorted((DATA / "mmdb-test").glob("*.mmdb"))
ALIASES = [IPv6Network(text) for text in ("::ffff:0:0/96", "2002::/16", "2001::/32")]


def walked(path: Path) -> dict[tuple[int, int, int], Any]:
    """(version, key, length) -> record, as the walk sees a file."""
    networks = mmdb.read(path)
    return {(version, key, length): networks.records[value] for version, found in networks.prefixes.items()
            for key, length, value in zip(*(column.tolist() for column in (found.keys, found.lengths, found.values)),
                                          strict=True)}


def iterated(path: Path) -> dict[tuple[int, int, int], Any]:
    """The same as maxminddb iterates it; networks longer than /64 in IPv6 left out."""
    with maxminddb.open_database(str(path)) as reader:
        return {(net.version, int(net.network_address) >> (64 if net.version == 6 else 0), net.prefixlen): found
                for net, found in reader if net.version == 4 or net.prefixlen <= 64}


@pytest.mark.parametrize("path", MAXMIND, ids=lambda path: path.stem)
def test_maxminds_own_test_files(path: Path) -> None:
    expected = iterated(path)
    assert len(expected) > 50
    assert walked(path).items() >= expected.items()


@pytest.mark.parametrize("bits", [24, 28, 32])
@pytest.mark.parametrize("version", [4, 6])
def test_every_record_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, version: int) -> None:
    def force(self: Any) -> None:
        self.record_size = bits
        self.data_offset = bits * 2 / 8 * self._node_counter

    monkeypatch.setattr(mmdb_writer.TreeWriter, "_adjust_record_size", force)
    networks: dict[str, Any] = {f"{i}.{i * 3 % 256}.0.0/16": {"n": i} for i in range(1, 200)}
    if version == 6:
        networks |= {f"2a0{i:x}:{i}::/32": {"n": i} for i in range(16)} | {"2001:db8:1:2::/64": {"n": 7}}
    path = write_mmdb(tmp_path / "t.mmdb", networks, version=version)
    assert walked(path) == iterated(path)
    assert len(walked(path)) == len(networks)


def network(bits: int) -> st.SearchStrategy[str]:
    kind = IPv4Network if bits == 32 else IPv6Network
    first = 0 if bits == 32 else 1 << 125
    return st.integers(4 if bits == 128 else 1, bits).flatmap(
        lambda length: st.integers(0, (1 << min(length, 20)) - 1).map(
            lambda top: str(kind(((top << (bits - length)) % (1 << (bits - 3)) | first, length), strict=False))))


@given(st.dictionaries(st.one_of(network(32), network(128)), st.integers(0, 3), min_size=1, max_size=15))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_tree(tmp_path: Path, networks: dict[str, int]) -> None:
    path = write_mmdb(tmp_path / "t.mmdb", {net: {"n": value} for net, value in networks.items()})
    found = {net: value for net, value in walked(path).items() if net[0] == 4 or net[2] < 64}
    assert found == {net: value for net, value in iterated(path).items() if net[0] == 4 or net[2] < 64}


def test_records_behind_64_bits_are_read_where_they_are(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "t.mmdb", {"2001:db8::8000:0:0:0/65": {"n": 1}, "2001:db8::7/128": {"n": 2}})
    networks = mmdb.read(path)
    found = networks.prefixes[6]
    assert [networks.records[value] for value in found.values] == [{"n": 2}, {"n": 1}]  # the widest last: it counts
    assert found.lengths.tolist() == [64, 64]
    assert set(found.clamped.tolist()) == {0x20010DB8 << 32}


def test_a_family_that_is_one_leaf(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "t.mmdb", {"::/1": {"n": 1}, "8000::/1": {"n": 2}})
    assert walked(path) == {(4, 0, 0): {"n": 1}, (6, 0, 1): {"n": 1}, (6, 1 << 63, 1): {"n": 2}}


def test_places(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "t.mmdb", {
        "1.0.0.0/8": record(BERLIN), "2.0.0.0/8": record(PARIS), "3.0.0.0/8": {**record(BERLIN), "city": {"names": {}}},
        "4.0.0.0/8": {"country": {"iso_code": "fr"}}, "5.0.0.0/8": {"registered_country": {"iso_code": "FR"}},
        "6.0.0.0/8": {},
    })
    faults: list[Fault] = []
    found, places = mmdb.places(path, mmdb.read(path), faults)
    assert not faults
    assert places[0] == mmdb.NOWHERE
    assert len(places) == 4  # nowhere, Berlin once though two records say it, Paris, somewhere in France
    by_octet = {int(key) >> 24: places[value] for key, value in zip(found[4].keys, found[4].values, strict=True)}
    assert by_octet[1] == by_octet[3] == Place(52.52, 13.40, "DE", "eu")
    assert by_octet[4] == by_octet[5]
    assert (by_octet[4].country, by_octet[4].region) == ("FR", "")
    assert by_octet[4].latitude != by_octet[4].latitude
    assert by_octet[6] == mmdb.NOWHERE


@pytest.mark.parametrize("bad", [
    {"location": {"latitude": "x", "longitude": 1.0}}, {"location": {"latitude": 91.0, "longitude": 1.0}},
    {"location": {"latitude": 1.0}}, {"location": {"latitude": True, "longitude": 1.0}}, {"location": 3},
    {"country": {"iso_code": "DEU"}}, {"country": {"iso_code": 5}}, {"continent": {"code": "é1"}}, 7,
])
def test_every_bad_record_is_named(tmp_path: Path, bad: Any) -> None:
    path = write_mmdb(tmp_path / "t.mmdb",
                      {"1.0.0.0/8": record(BERLIN), "7.0.0.0/8": bad, "9.8.0.0/16": {"country": 1}})
    faults: list[Fault] = []
    mmdb.places(path, mmdb.read(path), faults)
    assert sorted(fault.place for fault in faults) == [f"{path} at 7.0.0.0/8", f"{path} at 9.8.0.0/16"]


def test_as_numbers(tmp_path: Path) -> None:
    path = write_mmdb(tmp_path / "t.mmdb", {
        "1.0.0.0/8": {"autonomous_system_number": 64500}, "2.0.0.0/8": {},
        "3.0.0.0/8": {"autonomous_system_number": "x"}})
    faults: list[Fault] = []
    found = mmdb.as_numbers(path, mmdb.read(path), faults)[4]
    assert dict(zip((found.keys >> 24).tolist(), found.values.tolist(), strict=True)) == {1: 64500, 2: 0, 3: 0}
    assert [fault.place for fault in faults] == [f"{path} at 3.0.0.0/8"]


def test_damaged_files(tmp_path: Path) -> None:
    good = write_mmdb(tmp_path / "good.mmdb", {f"{i}.0.0.0/8": record(BERLIN) for i in range(1, 100)}).read_bytes()
    metadata = good.rindex(b"\xab\xcd\xefMaxMind.com")
    loop = bytearray(good)
    loop[0:6] = bytes(6)  # the root's children are the root
    wild = bytearray(good)
    wild[3:6] = b"\xff\xff\xf0"  # a record far behind the file's end
    for name, data in {
        "empty": b"", "text": b"prefix,country\n" * 100, "cut": good[: len(good) // 2], "headless": good[:metadata],
        "tail only": good[metadata:], "loop": bytes(loop), "wild pointer": bytes(wild),
    }.items():
        path = tmp_path / f"{name}.mmdb"
        path.write_bytes(data)
        with pytest.raises(SourceError) as caught:
            mmdb.read(path)
        assert [fault.place for fault in caught.value.faults] == [str(path)], name
    with pytest.raises(SourceError):
        mmdb.read(tmp_path / "missing.mmdb")


@pytest.mark.parametrize("path", [path for path in MAXMIND if "City" in path.stem], ids=lambda path: path.stem)
def test_repeats_of_the_ipv4_tree_are_not_followed(path: Path) -> None:
    with maxminddb.open_database(str(path)) as reader:
        assert reader.get(IPv6Address("2002:5102:4500::")) == reader.get(IPv4Address("81.2.69.0"))  # it has aliases
    for alias in ALIASES:
        low, high = int(alias.network_address) >> 64, int(alias.broadcast_address) >> 64
        keys = mmdb.read(path).prefixes[6].keys
        assert not ((keys >= low) & (keys <= high)).any(), alias
    assert prefixes.V6.bits == 64
