"""The atlas end to end: small data whose origins are known, faults, and the bundled data against geoip2 and pyasn."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.atlas import build, check, flatten, sources, store
from dnsd.atlas.prefixes import U64, Family, Prefixes, SourceError
from tests.atlas.conftest import Bundled
from tests.atlas.samples import BERLIN, DATA, LIMA, PARIS, TOKYO, cidrs, directory


def built(tmp_path: Path, lines: Iterable[str] = (), **parts: Any) -> store.Atlas:
    own = cidrs(tmp_path / "own.csv", lines)
    build.build(directory(tmp_path / "d", **parts), tmp_path / "atlas", cidrs=own)
    return store.open_atlas(tmp_path / "atlas")


def brief(atlas: store.Atlas, address: str) -> dict[str, Any]:
    """An address's origin, fields that are None left out."""
    said = asdict(atlas.origin(ip_address(address)))
    if said["latitude"] is not None:
        said["at"] = (said.pop("latitude"), said.pop("longitude"))
    return {key: value for key, value in said.items() if value is not None}


def place(of: tuple[float, float, str, str]) -> dict[str, Any]:
    return {"at": of[:2], "country": of[2], "region": of[3].lower()}


FAR_EAST = {"asn": 64510, "as_name": "Far East", "provider": "nimbus"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> store.Atlas:
    return built(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(("address", "origin"), [
    ("10.2.0.1", {"network": "10.2.0.0/15", **place(BERLIN), "asn": 64500, "as_name": "Köln Net"}),
    ("10.1.0.1", {"network": "10.1.0.0/18", **place(PARIS), "asn": 64501, "carrier": "ringnet"}),
    ("10.1.64.1", {"network": "10.1.64.0/18", **place(PARIS), "asn": 64501, "carrier": "longline"}),
    ("10.1.128.1", {"network": "10.1.128.0/17", **place(PARIS), "asn": 64500, "as_name": "Köln Net"}),
    ("20.255.255.255", {"network": "20.0.0.0/8", **place(TOKYO), **FAR_EAST}),
    ("30.0.0.1", {"network": "30.0.0.0/16", **place(LIMA)}),
    ("11.0.0.1", {"network": "11.0.0.0/8"}),
    ("0.0.0.0", {"network": "0.0.0.0/5"}),
    ("255.255.255.255", {"network": "128.0.0.0/1"}),
    ("2a01::1", {"network": "2a01::/16", **place(PARIS), "asn": 64501, "carrier": "ringnet"}),
    ("2a00:1::1", {"network": "2a00:1::/32", **place(BERLIN), "carrier": "longline"}),
    ("240f:ffff::", {"network": "2400::/12", **place(TOKYO), **FAR_EAST}),
    ("::1", {"network": "::/3"}),
    ("::ffff:10.1.0.1", {"network": "10.1.0.0/18", **place(PARIS), "asn": 64501, "carrier": "ringnet"}),
    ("64:ff9b::30.0.0.1", {"network": "30.0.0.0/16", **place(LIMA)}),
    ("2002:1e00:1::", {"network": "30.0.0.0/16", **place(LIMA)}),
    ("2001:0:1:2:3:4:e1ff:fffe", {"network": "30.0.0.0/16", **place(LIMA)}),  # Teredo, the client's IPv4 inverted
])
def test_origins(small: store.Atlas, address: str, origin: dict[str, Any]) -> None:
    assert brief(small, address) == origin


def test_operator_prefixes_change_only_the_fields_they_fill(tmp_path: Path) -> None:
    atlas = built(tmp_path, [
        "10.0.0.0/8,,,,,,,corp", "10.1.0.0/16,CH,,,,,,", "10.1.2.0/24,,47.4,8.5,64510,,,",
        "10.3.0.0/16,,,,,longline,own,", "99.0.0.0/8,,,,,,,lab", "2a01:5::/32,,,,0,,,v6"])
    assert brief(atlas, "10.2.0.1")["tag"] == "corp"
    assert brief(atlas, "10.1.1.1") == {
        "network": "10.1.0.0/23", **place(PARIS), "country": "CH", "asn": 64501, "carrier": "ringnet", "tag": "corp"}
    assert brief(atlas, "10.1.2.1") == {  # provider and carrier by AS number follow the AS number the operator gives
        "network": "10.1.2.0/24", "at": (47.4, 8.5), "country": "CH", "region": "eu", **FAR_EAST, "tag": "corp"}
    assert {"carrier": "longline", "provider": "own", "asn": 64500}.items() <= brief(atlas, "10.3.0.1").items()
    assert brief(atlas, "99.1.1.1") == {"network": "99.0.0.0/8", "tag": "lab"}
    assert brief(atlas, "2a01:5::1") == {"network": "2a01:5::/32", **place(PARIS), "tag": "v6"}


def test_finer_operator_prefixes_are_for_whole_addresses_only(tmp_path: Path) -> None:
    atlas = built(tmp_path, [
        "10.1.2.0/25,,,,,,,low", "10.1.2.64/26,,,,,,cloudy,", "10.1.2.70/32,,,,,,,one", "10.1.2.0/24,CH,,,,,,",
        "2a01:0:0:10::/60,,,,,,,six"])
    paris = {**place(PARIS), "asn": 64501, "carrier": "ringnet"}
    base = {**paris, "country": "CH"}
    for address, expected in {
        "10.1.2.1": {"network": "10.1.2.0/26", **base, "tag": "low"},
        "10.1.2.64": {"network": "10.1.2.64/30", **base, "tag": "low", "provider": "cloudy"},
        "10.1.2.70": {"network": "10.1.2.70/32", **base, "tag": "one", "provider": "cloudy"},
        "10.1.2.127": {"network": "10.1.2.96/27", **base, "tag": "low", "provider": "cloudy"},
        "10.1.2.128": {"network": "10.1.2.0/24", **base},
        "2a01:0:0:1f::1": {"network": "2a01:0:0:10::/60", **paris, "tag": "six"},
        "2a01:0:0:20::1": {"network": "2a01::/16", **paris},
    }.items():
        assert brief(atlas, address) == expected, address
    assert len(atlas.arrays["fine_origins4"]) == 4
    assert len(atlas.arrays["fine_origins6"]) == 1
    runs = atlas.arrays["starts4"]
    at = int(np.searchsorted(runs, 0x0A0102))
    assert runs[at : at + 2].tolist() == [0x0A0102, 0x0A0103]  # the /24 itself has one origin, without the finer ones


def test_disguised_ipv4_has_no_origin_of_its_own(tmp_path: Path) -> None:
    atlas = built(tmp_path, ["::/0,,,,,,,all"], asn="2002::/16\t5\n2001::/16\t6\n64:ff9b::/96\t7\n2000::/3\t8\n")
    starts, origins = atlas.arrays["starts6"], atlas.arrays["origins6"]
    for key in (0, 0x0064FF9B << 32, 0x2002 << 48, 0x2002FFFF << 32, 0x20010000 << 32, (0x20010001 << 32) - 256):
        assert origins[np.searchsorted(starts, np.uint64(key), "right") - 1] == 0, hex(key)
    assert brief(atlas, "2001:1::1") == {"network": "2001:1::/32", "asn": 6, "tag": "all"}
    assert brief(atlas, "2003::1")["asn"] == 8


def test_a_unit_of_several_networks_gets_the_largest_of_each_layer(tmp_path: Path) -> None:
    atlas = built(tmp_path, geo={"40.0.0.0/26": BERLIN, "40.0.0.64/26": PARIS, "40.0.0.192/26": PARIS},
                  asn="40.0.0.0/25\t1\n40.0.0.128/25\t2\n40.0.1.64/32\t3\n")
    assert brief(atlas, "40.0.0.1") == {"network": "40.0.0.0/24", **place(PARIS), "asn": 1, "as_name": "unused"}
    assert brief(atlas, "40.0.1.200") == {"network": "40.0.1.0/24", "asn": 3}


def bad_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that shifts every run by one unit, as an error in the flattening would."""
    real = flatten.units

    def shifted(table: Prefixes, family: Family) -> tuple[flatten.Runs, U64]:
        runs, voted = real(table, family)
        return flatten.Runs(np.append(np.uint64(0), runs.starts[1:] + np.uint64(256)), runs.values), voted

    monkeypatch.setattr(flatten, "units", shifted)


def test_what_was_built_stays_when_a_build_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = built(tmp_path)
    kept = before.path.read_bytes()
    with monkeypatch.context() as patch:
        bad_check(patch)
        with pytest.raises(check.CheckError, match=r"of \d+ addresses differ from the files; \S+: built .* files say"):
            build.build(tmp_path / "d", tmp_path / "atlas")
    (tmp_path / "d" / "asn" / "table.dat").write_text("nonsense\n")
    with pytest.raises(SourceError, match=r"table.dat:1"):
        build.build(tmp_path / "d", tmp_path / "atlas")
    assert before.path.read_bytes() == kept
    assert [path.name for path in (tmp_path / "atlas").iterdir()] == ["atlas"]


def test_equal_data_make_an_equal_digest(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    first, second = (build.build(folder, tmp_path / name) for name in ("a", "b"))
    assert first.digest == second.digest
    assert first.checked > 50
    (folder / "asn" / "asnames.json").write_text('{"64500": "Renamed"}')
    assert build.build(folder, tmp_path / "c").digest != first.digest


def test_progress_only_grows(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    build.build(directory(tmp_path / "d"), tmp_path / "a", progress=lambda stage, share: told.append((stage, share)))
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert told[0][1] == 0.0
    assert told[-1] == ("done", 1.0)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_any_layers_give_what_longest_prefixes_give(tmp_path: Path, data: st.DataObject) -> None:
    """All layers at once, in plain Python, for networks of whole units."""
    nets = st.integers(12, 24).flatmap(lambda length: st.integers(0, (1 << (length - 12)) - 1).map(
        lambda part: f"{ip_address(0x0A000000 + (part << (32 - length)))}/{length}"))
    table = data.draw(st.dictionaries(nets, st.integers(64499, 64511), max_size=12))
    listed = data.draw(st.sets(nets, min_size=1, max_size=5))
    tags = data.draw(st.dictionaries(nets, st.sampled_from(["t1", "t2"]), max_size=6))
    tmp_path = tmp_path / str(len(list(tmp_path.iterdir())))
    folder = directory(tmp_path / "d", asn="".join(f"{net}\t{asn}\n" for net, asn in table.items()))
    (folder / "providers" / "long.txt").write_text("".join(f"{net}\n" for net in listed))
    own = cidrs(tmp_path / "own.csv", [f"{net},,,,,,,{tag}" for net, tag in tags.items()])
    build.build(folder, tmp_path / "atlas", cidrs=own)
    atlas = store.open_atlas(tmp_path / "atlas")
    for address in data.draw(st.lists(st.integers(0x0A000000, 0x0A0FFFFF).map(ip_address), min_size=20, max_size=40)):
        asn = longest(table, address)
        said = atlas.origin(address)
        assert (said.asn, said.tag) == (asn, longest(tags, address))
        listed_here = any(address in ip_network(net) for net in listed)
        assert said.carrier == ("longline" if listed_here else {64501: "ringnet"}.get(asn or 0))
        assert said.provider == {64510: "nimbus"}.get(asn or 0)


def longest(table: dict[str, Any], address: Any) -> Any:
    found = [net for net in table if address in ip_network(net)]
    return table[max(found, key=lambda net: ip_network(net).prefixlen)] if found else None


def test_bundled_budget(bundled: Bundled) -> None:
    assert bundled.report["peak_mib"] <= 800
    assert bundled.report["checked"] > 4000
    assert bundled.report["places"] > 1000
    assert all(source["licence"] for source in bundled.report["sources"] if source["role"] != "carrier lists")


@pytest.mark.parametrize(("address", "expected"), [
    ("8.8.8.8", {"country": "US", "region": "na", "asn": 15169, "provider": "gcp"}),
    ("114.114.114.114", {"country": "CN", "region": "as", "carrier": "china_telecom"}),
    ("1.24.0.1", {"country": "CN", "carrier": "china_unicom"}),
    ("2400:3200::1", {"country": "CN", "asn": 37963, "provider": "alibaba"}),
    ("2409:8000::1", {"country": "CN", "carrier": "china_mobile"}),
    ("10.0.0.1", {"country": None, "asn": None}),
    ("::1", {"country": None, "asn": None}),
])
def test_bundled_spots(bundled: Bundled, address: str, expected: dict[str, Any]) -> None:
    said = asdict(bundled.atlas.origin(ip_address(address)))
    assert {key: said[key] for key in expected} == expected


def test_bundled_clients_are_where_their_list_says(bundled: Bundled) -> None:
    """The client lists were made from the unmerged data by other code: country, AS and carrier must mostly agree."""
    agree = {"country": 0, "asn": 0, "carrier": 0}
    rows = []
    for version in (4, 6):
        with (DATA / "clients" / f"clients_v{version}.csv").open(newline="") as file:
            rows += list(csv.DictReader(file))
    for row in rows:
        said = bundled.atlas.origin(ip_network(row["prefix"]).network_address)
        agree["country"] += said.country == row["country"]
        agree["asn"] += str(said.asn or "") == row["asn"]
        agree["carrier"] += (said.carrier or "") == row["carrier"]
    assert {key: count / len(rows) > 0.97 for key, count in agree.items()} == dict.fromkeys(agree, True), agree


def test_bundled_carrier_lists_beat_as_numbers(bundled: Bundled) -> None:
    found = sources.read(DATA)
    keys, lengths, values = (column.astype(np.int64) for column in (
        found.carriers[4].keys, found.carriers[4].lengths, found.carriers[4].values))
    for key in keys[::97]:
        said = bundled.atlas.origin(ip_address(int(key)))
        over = np.flatnonzero(keys >> (32 - lengths) == key >> (32 - lengths))
        claimed = found.carrier_names[values[over[np.argmax(lengths[over])]]]
        assert said.carrier == (claimed or found.asn_carrier.get(said.asn or 0))


def test_a_prefix_that_two_carriers_claim_is_decided_by_its_as_number(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    (folder / "providers" / "carrier_lists.csv").write_text("file,carrier\nlong.txt,longline\nrival.txt,rival\n")
    (folder / "providers" / "rival.txt").write_text("10.1.64.0/18\n10.1.96.0/24\n20.1.0.0/16\n20.2.0.0/16\n")
    (folder / "providers" / "long.txt").write_text("10.0.0.0/8\n10.1.64.0/18\n20.2.0.0/16\n")
    build.build(folder, tmp_path / "atlas")
    atlas = store.open_atlas(tmp_path / "atlas")
    for address, carrier in {"10.1.65.0": "ringnet", "10.1.96.0": "rival", "10.9.0.0": "longline", "20.1.0.0": "rival",
                             "20.2.0.0": None}.items():
        assert atlas.origin(ip_address(address)).carrier == carrier, address
