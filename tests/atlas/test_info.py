"""Reports on the atlas, its maps and one address."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from dnsd.atlas import build, derive, info, store
from tests.atlas.samples import BERLIN, cidrs, directory, record, write_mmdb


@pytest.fixture
def state(tmp_path: Path) -> Path:
    build.build(directory(tmp_path / "d"), tmp_path / "atlas",
                cidrs=cidrs(tmp_path / "own.csv", ["10.2.0.0/28,,,,,,,desk"]))
    (tmp_path / "maps").mkdir()
    sites = [derive.SiteSpec("a", 0, 0), derive.SiteSpec("b", 50, 10)]
    derive.derive(tmp_path / "atlas", sites, tmp_path / "maps" / "m0")
    return tmp_path


def test_info(state: Path) -> None:
    said = info.info(state / "atlas", state / "maps")
    json.dumps(said)
    atlas = said["atlas"]
    assert (atlas["prefixes4"], atlas["prefixes6"]) == (11 + 4 + 1 + 1, 6 + 2 + 1)
    assert (atlas["places"], atlas["fine4"], atlas["fine6"]) == (5, 1, 0)
    assert atlas["age"] < 3600
    assert atlas["cidrs"] == str(state / "own.csv")
    assert said["credits"] == ["Us (CC0) https://example.org"]
    assert [source["role"] for source in said["sources"]][:2] == ["geo", "asn"]
    (map0,) = said["maps"]
    assert (map0["file"], map0["sites"], map0["current"]) == ("m0", 2, True)
    assert map0["blocks4"] >= map0["runs4"] > 1


def test_a_map_of_another_atlas_and_a_damaged_one(state: Path) -> None:
    build.build(directory(state / "other", asn="10.0.0.0/8\t5\n"), state / "atlas")
    (state / "maps" / "m1").write_bytes(b"nonsense" * 50)
    (state / "maps" / ".m2.123").write_bytes(b"being written")
    first, second = info.info(state / "atlas", state / "maps")["maps"]
    assert first["current"] is False
    assert second["file"] == "m1"
    assert "no map table" in second["problem"]


def test_no_maps_yet_and_no_atlas(state: Path, tmp_path: Path) -> None:
    assert info.info(state / "atlas", state / "nowhere")["maps"] == []
    with pytest.raises(store.AtlasError):
        info.info(tmp_path / "none", state / "maps")


def test_lookup_puts_the_files_beside_the_atlas(state: Path) -> None:
    said = info.lookup(state / "atlas", ip_address("10.2.0.3"))
    json.dumps(said)
    assert said["origin"]["tag"] == "desk"
    assert said["origin"]["network"] == "10.2.0.0/28"
    assert said["files"] == {"latitude": 52.52, "longitude": 13.4, "country": "DE", "region": "eu",
                             "geo_network": "10.2.0.0/15", "asn": 64500, "asn_network": "10.0.0.0/8"}
    disguised = info.lookup(state / "atlas", ip_address("::ffff:10.2.0.3"))
    assert (disguised["inside"], disguised["origin"]) == ("10.2.0.3", said["origin"])
    unknown = info.lookup(state / "atlas", ip_address("2600::1"))
    assert set(unknown["files"].values()) == {None}
    assert unknown["origin"]["country"] is None


def test_lookup_without_the_files(state: Path) -> None:
    (state / "d" / "geo" / "places.mmdb").unlink()
    said = info.lookup(state / "atlas", ip_address("10.2.0.3"))
    assert said["files"] is None
    assert "cannot be read" in said["problem"]
    assert said["origin"]["country"] == "DE"


def test_lookup_with_an_mmdb_of_as_numbers(tmp_path: Path) -> None:
    write_mmdb(tmp_path / "d" / "geo" / "a.mmdb", {"1.0.0.0/8": record(BERLIN)})
    write_mmdb(tmp_path / "d" / "asn" / "b.mmdb", {"1.2.0.0/16": {"autonomous_system_number": 64500}}, kind="Test-ASN")
    assert build.build(tmp_path / "d", tmp_path / "atlas").checked > 20
    said = info.lookup(tmp_path / "atlas", ip_address("1.2.3.4"))
    assert (said["origin"]["asn"], said["files"]["asn"], said["files"]["asn_network"]) == (64500, 64500, "1.2.0.0/16")
    assert info.lookup(tmp_path / "atlas", ip_address("1.3.3.4"))["files"]["asn"] is None
