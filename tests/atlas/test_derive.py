"""Rows against what the rule says for each address, on small data and on the bundled."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import astuple
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import geoip2.database
import geoip2.errors
import numpy as np
import pyasn
import pytest

from dnsd.atlas import build, derive, levels, store, tablefile
from dnsd.atlas.derive import SiteError, SiteSpec
from dnsd.image.table import MapTable
from dnsd.model import Match
from dnsd.steer import distance
from dnsd.steer.row import LEVEL_MS, level_of
from tests.atlas.conftest import Bundled
from tests.atlas.samples import BERLIN, DATA, LIMA, PARIS, ROOT, TOKYO, cidrs, directory

EUROPE = SiteSpec("fra", 50.11, 8.68, "DE", "eu", "nimbus", ("ringnet",), (64500,))
ASIA = SiteSpec("osa", 34.69, 135.50, "JP", "as", "nimbus", (), (64510, 64501))
AMERICA = SiteSpec("gru", -23.55, -46.63, "BR", "sa", None, ("longline", "unheard-of"))


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("small")
    own = cidrs(tmp_path / "own.csv", ["10.1.2.0/25,,,,,,nimbus,", "50.0.0.0/8,,,,64500,,,", "51.0.0.0/8,,,,64499,,,",
                                       "52.0.0.0/8,PE,,,,,,", "53.0.0.0/8,,,,,,,tagged"])
    build.build(directory(tmp_path / "d"), tmp_path / "atlas", cidrs=own)
    return tmp_path / "atlas"


def derived(atlas: Path, sites: list[SiteSpec]) -> tuple[MapTable, derive.MapReport]:
    report = derive.derive(atlas, sites, atlas.parent / "map")
    return MapTable((atlas.parent / "map").read_bytes()), report


def row(table: MapTable, address: str) -> tuple[list[int], list[int]]:
    levels, match, _ = table.row(table.find_resolver(ip_address(address).packed))
    return list(levels), list(match)


def own_levels(place: tuple[float, float, str, str], sites: list[SiteSpec]) -> list[int]:
    ms = [distance.rtt_ms(distance.km(*place[:2], site.latitude, site.longitude)) for site in sites]
    return [level_of(value - min(ms)) for value in ms]


P, C, A, N, R = (int(bit) for bit in (Match.PROVIDER, Match.CARRIER, Match.ASN, Match.COUNTRY, Match.REGION))


@pytest.mark.parametrize(("address", "place", "match"), [
    ("10.2.0.1", BERLIN, [A | N | R, 0, 0]),
    ("10.1.0.1", PARIS, [C | R, A, 0]),
    ("10.1.64.1", PARIS, [R, A, C]),
    ("10.1.2.1", PARIS, [P | C | R, P | A, 0]),  # the operator's fine prefix, asked with a whole address
    ("20.0.0.1", TOKYO, [P, P | A | N | R, 0]),
    ("30.0.0.1", LIMA, [0, 0, R]),
    ("2a00:1::1", BERLIN, [N | R, 0, C]),
    ("2002:1e00:1::", LIMA, [0, 0, R]),
])
def test_levels_and_match_bits(
        atlas: Path, address: str, place: tuple[float, float, str, str], match: list[int]) -> None:
    table, _ = derived(atlas, [EUROPE, ASIA, AMERICA])
    assert row(table, address)[1] == match
    expected = own_levels(place, [EUROPE, ASIA, AMERICA])
    if place in (TOKYO, LIMA):  # none is like it in near levels and bits, so its far levels are its own
        assert row(table, address)[0] == expected
    far = level_of(levels.FAR_MS)
    assert [min(level, far) for level in row(table, address)[0]] == [min(level, far) for level in expected]


@pytest.mark.parametrize("most", [0, derive.MOST_BITS])
def test_thousands_of_as_numbers_cost_no_more_than_there_are_networks(
        atlas: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that name 60,000 AS numbers, three carriers and two providers: not bits for each way to combine them."""
    few, opened = [EUROPE, ASIA, AMERICA], store.open_atlas(atlas)
    many = [site._replace(asns=(*site.asns, *range(100_000 * n, 100_000 * n + 20_000)))
            for n, site in enumerate(few, 1)]
    wanted = derive.make(opened, few)
    asked: list[int] = []
    bits = derive._network_bits
    monkeypatch.setattr(derive, "MOST_BITS", most)
    monkeypatch.setattr(derive, "_network_bits", lambda *a: (asked.append(len(a[2])), bits(*a))[1])
    for found, whole in zip(astuple(derive.make(opened, few)), astuple(wanted), strict=True):
        assert np.array_equal(found, whole)
    derive.make(opened, many * 12)
    assert max(asked) < 100


def test_row_0_is_the_unknown_clients_alone(atlas: Path) -> None:
    table, report = derived(atlas, [EUROPE, ASIA])
    for unknown in ("11.0.0.1", "53.0.0.1", "2600::1", "::1"):  # the second has a tag, which moves no answer
        assert table.find_resolver(ip_address(unknown).packed) == 0, unknown
    assert row(table, "11.0.0.1") == ([0, 0], [0, 0])
    assert table.find_resolver(ip_address("51.0.0.1").packed) != 0  # an AS number, though none that a site asks for
    assert row(table, "51.0.0.1") == ([0, 0], [0, 0])
    assert row(table, "50.0.0.1") == ([0, 0], [A, 0])  # no place, but an AS number that a site asks for
    assert table.find_resolver(ip_address("50.0.0.1").packed) != 0
    assert table.rows == report.rows

    table, _ = derived(atlas, [SiteSpec("alone", 0.0, 0.0)])
    known = table.find_resolver(ip_address("30.0.0.1").packed)
    assert (known, row(table, "30.0.0.1")) == (1, ([0], [0]))  # nothing but zeros, yet known
    assert table.find_resolver(ip_address("52.0.0.1").packed) == 1  # a country without a position is known too


def test_far_levels_are_the_mean_of_all_that_are_alike_near(atlas: Path) -> None:
    """Berlin and Paris have Frankfurt and nothing else near; what they have in bits differs, so ask for none."""
    sites = [SiteSpec("fra", 50.11, 8.68), SiteSpec("osa", 34.69, 135.50), SiteSpec("gru", -23.55, -46.63)]
    table, _ = derived(atlas, sites)
    weights = {BERLIN: 65536 - 256 + 1, PARIS: 256 + 1}
    expected = [0]
    for site in sites[1:]:
        extra = {place: distance.MS_PER_KM * (distance.km(*place[:2], site.latitude, site.longitude)
                                              - distance.km(*place[:2], 50.11, 8.68)) for place in weights}
        expected.append(level_of(sum(weights[place] * extra[place] for place in weights) / sum(weights.values())))
    assert row(table, "10.2.0.1")[0] == row(table, "10.1.0.1")[0] == expected
    assert table.find4(0x0A0200) == (row_of := table.find4(0x0A0100)[0], 8)
    assert row_of


def check_runs(atlas: store.Atlas, table: tablefile.Table) -> None:
    """Runs adjoin, start at 0 and always differ; no row is unused or twice."""
    assert table.starts4[0] == 0
    assert table.starts6[0] == 0
    assert (np.diff(table.starts4.astype(np.int64)) > 0).all()
    assert (table.starts6[1:] > table.starts6[:-1]).all()
    assert (table.rows4[1:] != table.rows4[:-1]).all()
    assert (table.rows6[1:] != table.rows6[:-1]).all()
    assert not (table.starts6 & np.uint64(255)).any()
    assert not table.rows[0].any()
    assert len(np.unique(table.rows[1:], axis=0)) == len(table.rows) - 1
    used = np.unique(np.concatenate((table.rows4, table.rows6, table.fine_rows4, table.fine_rows6, [0])))
    assert used.tolist() == list(range(len(table.rows)))
    assert table.rows[:, : table.rows.shape[1] // 2].max(initial=0) < len(LEVEL_MS)


@pytest.mark.parametrize("sites", [[], [EUROPE], [EUROPE, ASIA, AMERICA], [EUROPE, EUROPE]], ids=len)
def test_runs_and_rows(atlas: Path, sites: list[SiteSpec]) -> None:
    opened = store.open_atlas(atlas)
    check_runs(opened, derive.make(opened, sites))


def test_without_sites_only_known_and_unknown_differ(atlas: Path) -> None:
    table, report = derived(atlas, [])
    assert (table.rows, report.sites) == (2, ())
    assert row(table, "10.0.0.1") == ([], [])
    assert [table.find_resolver(ip_address(address).packed) for address in ("10.0.0.1", "11.0.0.1")] == [1, 0]


def test_an_atlas_is_verified_unless_whoever_asks_has_done_it(atlas: Path, tmp_path: Path) -> None:
    """By a stamp of that very file: another one, or none, and it is."""
    copy = tmp_path / "atlas"
    copy.mkdir()
    octets = bytearray((atlas / store.FILE).read_bytes())
    octets[-1] ^= 1  # after the last text: nothing that a map is made of
    (copy / store.FILE).write_bytes(octets)
    stamp = store.open_atlas(copy, verify=False).stamp
    for verified in ((), store.open_atlas(atlas).stamp, (stamp[0], stamp[1] + 1, stamp[2])):
        with pytest.raises(store.AtlasError, match="damaged"):
            derive.derive(copy, [EUROPE], tmp_path / "map", verified=verified)
    assert not (tmp_path / "map").exists()
    assert derive.derive(copy, [EUROPE], tmp_path / "map", verified=stamp).sites == ("fra",)


def test_site_limits(atlas: Path, tmp_path: Path) -> None:
    sites = [SiteSpec(f"s{i}", i / 3 - 42, i - 127.0) for i in range(derive.MAX_SITES + 1)]
    with pytest.raises(SiteError, match="255 sites, a map holds 254"):
        derive.derive(atlas, sites, tmp_path / "map")
    table, _ = derived(atlas, sites[:-1])
    assert table.sites == 254
    assert min(row(table, "10.2.0.1")[0]) == 0


def test_specs_from_stored_sites() -> None:
    stored = {"id": "a", "latitude": 1, "longitude": 2.5, "country": "DE", "region": "eu", "provider": None,
              "carriers": ["x"], "asns": [5], "capacity": 10}
    assert derive.site_specs([stored]) == [SiteSpec("a", 1.0, 2.5, "DE", "eu", None, ("x",), (5,))]
    with pytest.raises(SiteError) as caught:
        derive.site_specs([{}, stored, {**stored, "latitude": "north"}, 7, {**stored, "asns": ["x"]}])  # type: ignore[list-item]
    assert [fault.place for fault in caught.value.faults] == ["/sites/0", "/sites/2", "/sites/3", "/sites/4"]
    assert caught.value.faults[0].message == "id is missing"


def child(task: Any) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([sys.executable, "-m", "dnsd.atlas.derive", json.dumps(task)], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_the_child(atlas: Path, tmp_path: Path) -> None:
    task = {"atlas": str(atlas), "out": str(tmp_path / "map"), "sites": [EUROPE._asdict()]}
    code, report = child(task)
    assert (code, report["sites"], report["size"]) == (0, ["fra"], (tmp_path / "map").stat().st_size)
    before = (tmp_path / "map").read_bytes()
    for wrong, says in (
        ({**task, "sites": [{"id": "x"}]}, "latitude is missing"), ({**task, "atlas": "/nowhere"}, "no atlas here"),
        ({"sites": []}, "KeyError"), ([], "TypeError"), ({**task, "out": str(tmp_path / "no" / "map")}, "FileNotFound"),
    ):
        code, answer = child(wrong)
        assert (code, says in answer["error"]) == (1, True), answer
    assert (tmp_path / "map").read_bytes() == before


CLOUD = [SiteSpec(name, latitude, longitude, country, region, "aws") for name, latitude, longitude, country, region in (
    ("use1", 39.03, -77.46, "US", "na"), ("usw2", 45.84, -119.70, "US", "na"), ("euc1", 50.11, 8.68, "DE", "eu"),
    ("sae1", -23.55, -46.63, "BR", "sa"), ("apne1", 35.69, 139.69, "JP", "as"), ("apse1", 1.35, 103.82, "SG", "as"),
    ("apse2", -33.87, 151.21, "AU", "oc"), ("afs1", -33.92, 18.42, "ZA", "af"))]
CHINA = [SiteSpec("ct", 31.23, 121.47, "CN", "as", None, ("china_telecom",)),
         SiteSpec("cu", 39.90, 116.41, "CN", "as", None, ("china_unicom",), (4837,))]


@pytest.fixture(scope="module")
def cloud(bundled: Bundled, tmp_path_factory: pytest.TempPathFactory) -> tuple[MapTable, derive.MapReport, Path]:
    path = tmp_path_factory.mktemp("map") / "map"
    report = derive.derive(bundled.directory, CLOUD + CHINA, path)
    return MapTable(path.read_bytes()), report, path


def test_bundled_scopes_stay_wide(cloud: tuple[MapTable, derive.MapReport, Path], bundled: Bundled) -> None:
    eight = derive.make(bundled.atlas, CLOUD).blocks()
    assert eight[0] < 1_150_000
    assert eight[1] < 220_000
    assert cloud[1].blocks4 < 1_300_000
    check_runs(bundled.atlas, tablefile.read(cloud[2])[1])


def clients() -> list[str]:
    found = []
    for version in (4, 6):
        with (DATA / "clients" / f"clients_v{version}.csv").open(newline="") as file:
            found += [row["prefix"] for row in csv.DictReader(file)]
    return found


def test_bundled_rows_are_what_the_files_say(cloud: tuple[MapTable, derive.MapReport, Path]) -> None:
    """Each real client, scored from the raw files alone: every near level, who is far, and place and AS bits."""
    table, sites, far = cloud[0], CLOUD + CHINA, level_of(levels.FAR_MS)
    asns = pyasn.pyasn(str(DATA / "asn" / "ipasn.dat.gz"))
    with (DATA / "providers" / "asn_providers.csv").open(newline="") as file:
        provider = {int(line["asn"]): line["provider"] for line in csv.DictReader(file) if line["kind"] != "carrier"}
    alike: dict[tuple[Any, ...], set[tuple[int, ...]]] = defaultdict(set)
    with geoip2.database.Reader(str(DATA / "geo" / "geoaffinity-city-lite.mmdb")) as places:
        for prefix in clients():
            address = ip_network(prefix).network_address
            said, asn = places.city(address), asns.lookup(str(address))[0]
            found, match = row(table, str(address))
            country, region = said.country.iso_code, said.continent.code.lower()
            expected = own_levels((said.location.latitude, said.location.longitude, country, region), sites)
            near = tuple(min(level, far) for level in found)
            assert near == tuple(min(level, far) for level in expected), prefix
            bits = [N * (site.country == country) | R * (site.region == region) for site in sites]
            assert [both & (N | R) for both in match] == bits, prefix
            assert [both & (P | A) for both in match] == [
                P * (site.provider is not None and site.provider == provider.get(asn)) | A * (asn in site.asns)
                for site in sites], prefix
            alike[(near, *bits)].add(tuple(found))
    assert {len(some) for some in alike.values()} == {1}  # far sites never split what is alike near
    assert len(alike) > 100


@pytest.mark.parametrize(("prefix", "site", "bit"), [
    ("114.114.114.114", "ct", C), ("1.24.0.1", "cu", C), ("52.95.110.1", "use1", P)])
def test_bundled_match_bits(cloud: tuple[MapTable, derive.MapReport, Path], prefix: str, site: str, bit: int) -> None:
    columns = [spec.id for spec in CLOUD + CHINA]
    assert row(cloud[0], prefix)[1][columns.index(site)] & bit


def test_bundled_scope_is_exact(cloud: tuple[MapTable, derive.MapReport, Path]) -> None:
    """Inside a scope every unit has the row; one bit shorter holds another."""
    table, _, path = cloud
    starts, rows = (getattr(tablefile.read(path)[1], name) for name in ("starts4", "rows4"))
    for prefix in clients()[:600:7]:
        key = int(ip_network(prefix).network_address) >> 8
        number, scope = table.find4(key)
        for length, same in ((scope, True), (scope - 1, False)):
            low = key >> (24 - length) << (24 - length)
            high = low + (1 << (24 - length))
            inside = rows[np.searchsorted(starts, low, "right") - 1 : np.searchsorted(starts, high)]
            assert (set(inside.tolist()) == {number}) == same
