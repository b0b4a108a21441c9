"""The decided table: its file says what it held or refuses, its digest is of the content alone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.rtt import blocks
from dnsd.rtt.table import Table


def a_table() -> Table:
    numbers = [blocks.of(ip_address(one)) for one in ("192.0.2.7", "198.51.100.1", "2001:db8::1", "2001:db8:1::1")]
    table = Table.zeros(("ams", "fra", "nyc"), np.array(numbers, np.uint64), number=7, at_ms=123_456)
    table.ms[:] = np.arange(12).reshape(4, 3)
    table.error[:], table.seen[:], table.weight[:] = 2, 470_000, [1, 2, 3, 4.5]
    table.between[0, 2] = 800
    return table


@pytest.mark.parametrize(("address", "prefix"), [
    ("192.0.2.77", "192.0.2.0/24"), ("255.255.255.255", "255.255.255.0/24"), ("0.0.0.1", "0.0.0.0/24"),
    ("2001:db8:1:2::3", "2001:db8:1::/48"), ("::ffff:192.0.2.77", "192.0.2.0/24"), ("ffff::", "ffff::/48"),
])
def test_an_address_is_in_its_blocks_prefix(address: str, prefix: str) -> None:
    assert blocks.network_of(blocks.of(ip_address(address))) == ip_network(prefix)


@given(st.ip_addresses(), st.ip_addresses())
def test_blocks_are_ordered_as_prefixes_are(one: object, other: object) -> None:
    first, second = (ip_address(str(address)) for address in (one, other))
    if first.version == second.version and not getattr(first, "ipv4_mapped", None) and not getattr(
            second, "ipv4_mapped", None):
        assert (blocks.of(first) <= blocks.of(second)) == (
            blocks.network_of(blocks.of(first)) <= blocks.network_of(blocks.of(second)))


def test_the_file_says_what_the_table_held(tmp_path: Path) -> None:
    table = a_table()
    table.write(tmp_path / "table")
    again = Table.read(tmp_path / "table")
    assert (again.number, again.at_ms, again.sites, again.digest) == (7, 123_456, table.sites, table.digest)
    for part in ("blocks", "ms", "error", "count", "seen", "reporters", "weight", "between"):
        np.testing.assert_array_equal(getattr(again, part), getattr(table, part))
        assert getattr(again, part).dtype == getattr(table, part).dtype


def test_the_digest_is_of_the_content() -> None:
    table = a_table()
    assert replace(table, number=8, at_ms=1).digest == table.digest
    assert replace(table, ms=table.ms + np.uint16(1)).digest != table.digest
    assert replace(table, sites=("ams", "fra", "sin")).digest != table.digest


def test_a_block_is_found_or_not() -> None:
    table = a_table()
    assert table.find(blocks.of(ip_address("198.51.100.200"))) == 1
    assert table.find(blocks.of(ip_address("2001:db8:1:9::"))) == 3
    assert table.find(blocks.of(ip_address("203.0.113.1"))) is None
    assert Table.empty().find(5) is None


@given(st.data())
def test_no_damaged_file_is_taken(data: st.DataObject) -> None:
    octets = bytearray(a_table().to_bytes())
    at = data.draw(st.integers(0, len(octets) - 1))
    octets[at] ^= data.draw(st.integers(1, 255))
    if 16 <= at < 32:  # number and time, which no checksum holds
        assert Table.from_bytes(bytes(octets)).digest == a_table().digest
        return
    for damaged in (octets, octets[:at]):
        with pytest.raises(ValueError, match=r"damaged|shorter|version"):
            Table.from_bytes(bytes(damaged))


def test_arrays_that_contradict_each_other_are_not_written(tmp_path: Path) -> None:
    table = a_table()
    for wrong in (replace(table, blocks=table.blocks[::-1]), replace(table, ms=table.ms[:2]),
                  replace(table, sites=("ams", "ams", "nyc")), replace(table, weight=table.weight * np.float32("nan"))):
        with pytest.raises(ValueError, match="RTT table"):
            wrong.write(tmp_path / "table")
    assert not (tmp_path / "table").exists()


def test_no_file_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there"):
        Table.read(tmp_path / "table")
