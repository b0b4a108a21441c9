"""Clients of Chinese carriers, by the carriers' own prefix lists, and sites at real places: who stays in the band."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path

import numpy as np
import pytest

from dnsd.atlas import affinity, derive, levels, store, tablefile
from dnsd.atlas.derive import SiteSpec
from dnsd.control.maps import open_table
from dnsd.image.table import MapTable
from dnsd.model import Match
from dnsd.rtt import blocks
from dnsd.rtt.table import Table
from tests.atlas.conftest import Bundled
from tests.atlas.samples import DATA

BAND = affinity.BAND_MS
# Urumqi, Harbin and Lhasa: from most of China another country's city is nearer by more than the band
SITES = [
    SiteSpec("almaty", 43.24, 76.89, "KZ", "as"),
    SiteSpec("hongkong", 22.32, 114.17, "HK", "as"),
    SiteSpec("seoul", 37.57, 126.98, "KR", "as"),
    SiteSpec("telecom", 43.83, 87.62, "CN", "as", carriers=("china_telecom",)),
    SiteSpec("unicom", 45.80, 126.53, "CN", "as", carriers=("china_unicom",)),
    SiteSpec("mobile", 29.65, 91.12, "CN", "as", carriers=("china_mobile",)),
    SiteSpec("away", 34.05, -118.24, "US", "na", carriers=("china_telecom",)),
]
LISTS = {"chinanet.txt": "telecom", "unicom.txt": "unicom", "cmcc.txt": "mobile"}


@pytest.fixture(scope="module")
def table(bundled: Bundled, tmp_path_factory: pytest.TempPathFactory) -> MapTable:
    path = tmp_path_factory.mktemp("affinity") / "map"
    tablefile.write(path, derive.make(bundled.atlas, SITES), atlas=1, made_ms=1)
    return open_table(path)


def listed(name: str) -> list[ipaddress.IPv4Network]:
    text = (DATA / "providers" / "china-operator-ip" / name).read_text(encoding="ascii")
    return [ipaddress.IPv4Network(line) for line in text.split()]


def addresses(name: str, number: int = 400) -> list[ipaddress.IPv4Address]:
    """Addresses of /24 that are whole in a carrier's own list and in no other carrier's, spread over it."""
    folder = DATA / "providers" / "china-operator-ip"
    others = [net for path in folder.glob("*.txt") if path.name != name and "6" not in path.name
              for net in listed(path.name)]
    taken = {(int(net.network_address) >> 8) for net in others if net.prefixlen >= 24}
    wide = {(net.network_address, net.prefixlen) for net in others if net.prefixlen < 24}
    mine = [net for net in listed(name) if net.prefixlen <= 24]
    random.Random(name).shuffle(mine)
    free = (net.network_address for net in mine if int(net.network_address) >> 8 not in taken and not any(
        (net.supernet(new_prefix=length).network_address, length) in wide for length in range(8, net.prefixlen + 1)
        if length <= 23))
    return [address + 1 for address, _ in zip(free, range(number), strict=False)]


@pytest.mark.parametrize("name", LISTS)
def test_clients_of_a_carrier_have_its_site_in_the_band(bundled: Bundled, table: MapTable, name: str) -> None:
    """By the carrier's own published prefixes, not by what the atlas made of them."""
    columns = {site.id: number for number, site in enumerate(SITES)}
    mine, cut, seen, home = columns[LISTS[name]], 0, 0, 0
    for address in addresses(name):
        origin = bundled.atlas.origin(address)
        if origin.country != "CN":
            continue
        seen += 1
        row, _ = table.find4(int(address) >> 8)
        levels, bits, ms = table.row(row)
        home += bool(bits[mine] & Match.CARRIER)
        if not bits[mine] & Match.CARRIER:
            continue  # a longer prefix of another list is inside
        assert ms[levels[mine]] <= BAND, (address, origin)
        extra = extra_ms(bundled.atlas)[_place(bundled.atlas, address)]
        cut += bool(extra[mine] > BAND)
        for other, column in columns.items():
            if other not in ("telecom", "unicom", "mobile"):
                assert ms[levels[column]] >= extra[column] * 0.4 - 3, "nobody else comes nearer"
    assert seen > 200
    assert home > 0.95 * seen
    assert cut > 0.1 * seen, "some of them would have lost it"


def extra_ms(atlas: store.Atlas) -> levels.F64:
    return levels.extra_ms(atlas.arrays["latitude"], atlas.arrays["longitude"], SITES)


def _place(atlas: store.Atlas, address: ipaddress.IPv4Address) -> int:
    at = int(np.searchsorted(atlas.arrays["starts4"], np.uint32(int(address) >> 8), "right")) - 1
    return int(atlas.arrays["place"][atlas.arrays["origins4"][at]])


MEASURED: list[tuple[dict[str, float], bool]] = [
    ({"telecom": 95.0, "hongkong": 12.0}, False), ({"telecom": 95.0}, True), ({"hongkong": 12.0}, True),
    ({"telecom": 35.0, "hongkong": 12.0}, True), ({"telecom": 95.0, "hongkong": 70.0}, True)]


def test_what_is_measured_may_say_otherwise(bundled: Bundled, tmp_path: Path) -> None:
    """Blocks of a carrier's own list in the south, each measured at both sites or at one."""
    south = [one for one in addresses("chinanet.txt", 4000) if _south(bundled.atlas, one)]
    clients = sorted(south[: len(MEASURED)], key=blocks.of)
    columns = {site.id: number for number, site in enumerate(SITES)}
    measured = Table.zeros(tuple(columns), np.array([blocks.of(one) for one in clients], np.uint64), number=1)
    for row, (cells, _) in enumerate(MEASURED):
        for name, ms in cells.items():
            measured.ms[row, columns[name]], measured.error[row, columns[name]] = round(10 * ms), 1
            measured.count[row, columns[name]] = measured.reporters[row, columns[name]] = 1
    path = tmp_path / "map"
    tablefile.write(path, derive.make(bundled.atlas, SITES, measured), atlas=1, made_ms=1)
    table = open_table(path)
    for address, (cells, stays) in zip(clients, MEASURED, strict=True):
        levels, _, ms_of = table.row(table.find4(int(address) >> 8)[0])
        assert (ms_of[levels[columns["telecom"]]] <= BAND) is stays, cells


def _south(atlas: store.Atlas, address: ipaddress.IPv4Address) -> bool:
    origin = atlas.origin(address)
    return origin.country == "CN" and origin.carrier == "china_telecom" and 0 < (origin.latitude or 0) < 25


def test_only_at_home(bundled: Bundled) -> None:
    """A site of the carrier in another country, and clients of the carrier abroad, are as far as they are."""
    found = affinity.homes(bundled.atlas, SITES)
    here = bundled.atlas.arrays
    country, carrier = here["country"][here["place"]], here["carrier"]
    for column, site in enumerate(SITES):
        home = found.kinds[found.of_origin, column]
        assert set(country[home]) == ({site.country.encode()} if site.carriers else set())
        assert {bundled.atlas.texts[number] for number in np.unique(carrier[home])} == set(site.carriers)


def test_without_carriers_nothing_changes(bundled: Bundled, tmp_path: Path) -> None:
    found = affinity.homes(bundled.atlas, [site._replace(carriers=()) for site in SITES])
    assert len(found.kinds) == 1
    assert not found.of_origin.any()
    extra = extra_ms(bundled.atlas)
    assert affinity.kept(extra, np.zeros(extra.shape, bool), np.zeros(extra.shape, bool)) is extra
