"""A directory of data files: what is read, and every fault of every file at once."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dnsd.atlas import sources
from dnsd.atlas.prefixes import SourceError
from tests.atlas.samples import BERLIN, cidrs, directory, record, write_mmdb

pytestmark = pytest.mark.usefixtures("loops")


def faults(folder: Path, lines: Path | None = None) -> list[tuple[str, str]]:
    with pytest.raises(SourceError) as caught:
        sources.read(folder, lines)
    return [(fault.place.replace(str(folder), "."), fault.message) for fault in caught.value.faults]


def test_all_files_are_read_and_noted(tmp_path: Path) -> None:
    found = sources.read(directory(tmp_path / "d"), cidrs(tmp_path / "own.csv", ["10.9.0.0/16,,,,,,,mine"]))
    assert found.asn_provider == {64510: "nimbus"}
    assert found.asn_carrier == {64501: "ringnet"}
    assert found.as_names[64500] == "Köln Net"
    assert found.carrier_names == ["", "longline"]
    assert [(file.role, file.networks4, file.networks6) for file in found.files] == [
        ("geo", 11, 6), ("asn", 4, 2), ("asn names", 0, 0), ("providers", 0, 0), ("carrier list", 1, 1),
        ("carrier lists", 0, 0), ("operator prefixes", 1, 0)]
    geo = found.files[0]
    assert (geo.path, geo.licence, geo.attribution) == ("geo/places.mmdb", "CC0", "Us")
    assert len(geo.sha256) == 64


def test_only_places_are_required(tmp_path: Path) -> None:
    write_mmdb(tmp_path / "geo" / "a.mmdb", {"1.0.0.0/8": record(BERLIN)})
    found = sources.read(tmp_path)
    assert [file.role for file in found.files] == ["geo"]
    assert not len(found.asn[4])


def test_as_numbers_from_an_mmdb(tmp_path: Path) -> None:
    write_mmdb(tmp_path / "geo" / "a.mmdb", {"1.0.0.0/8": record(BERLIN)})
    write_mmdb(tmp_path / "asn" / "b.mmdb", {"1.0.0.0/8": {"autonomous_system_number": 64500}}, kind="Test-ASN")
    assert sources.read(tmp_path).asn[4].values.tolist() == [64500]


def test_faults_of_all_files_come_at_once(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    (folder / "geo" / "places.mmdb").write_bytes(b"nothing")
    (folder / "asn" / "table.dat").write_text("10.0.0.0/8 x\n")
    (folder / "asn" / "asnames.json").write_text('{"x": "name", "5": 7}')
    (folder / "providers" / "asn_providers.csv").write_text(
        "provider,kind,asn\nnimbus,cloud,1\ncumulus,cdn,1\nBad Name,cloud,2\nx,shop,3\nx,cloud,y\nx,cloud\n")
    (folder / "providers" / "carrier_lists.csv").write_text(
        "file,carrier\nlong.txt,\nnone.txt,lost\nlong.txt,longline\n")
    (folder / "providers" / "long.txt").write_text("10.0.0.0/8\n10.0.0.1/8\n")
    (folder / "sources.toml").write_text("[[source\n")
    own = cidrs(tmp_path / "own.csv", ["10.0.0.0/8,DEU,,,,,,", "10.0.0.0/99,,,,,,,"])
    named = [place for place, _ in faults(folder, own)]
    assert sorted(named) == sorted([
        "./sources.toml", "./geo/places.mmdb", "./asn/table.dat:1", "./asn/asnames.json:/x", "./asn/asnames.json:/5",
        *(f"./providers/asn_providers.csv:{line}" for line in (3, 4, 5, 6, 7)),
        "./providers/carrier_lists.csv:2", "./providers/none.txt", "./providers/long.txt:2", f"{own}:2", f"{own}:3"])


@pytest.mark.parametrize(("line", "says"), [
    ("10.0.0.1/8,,,,,,,", "has bits set behind its length"),
    ("10.0.0.0/8,D,,,,,,", "country 'D' is not two letters"),
    ("10.0.0.0/8,,91,0,,,,", "is not on Earth"),
    ("10.0.0.0/8,,nan,0,,,,", "is not on Earth"),
    ("10.0.0.0/8,,1,181,,,,", "is not on Earth"),
    ("10.0.0.0/8,,1,,,,,", "is not two numbers"),
    ("10.0.0.0/8,,x,1,,,,", "is not two numbers"),
    ("10.0.0.0/8,,,,x,,,", "no AS number"),
    ("10.0.0.0/8,,,,,Big Carrier,,", "carrier 'Big Carrier' is not"),
    ("10.0.0.0/8,,,,,,,-", "tag '-' is not"),
    ("10.0.0.0/8,,,,,,", "7 fields, the first line names 8"),
    ("2001:db8::/65,,,,,,,", "finer than /64"),
    ("2002:a00::/24,,,,,,,x", "write the IPv4 prefix instead"),
    ("2001:0:1::/48,,,,,,,x", "write the IPv4 prefix instead"),
    ("::ffff:10.0.0.0/104,,,,,,,x", "finer than /64"),
    ("20.0.0.0/8,,,,,,,again", "is already at"),
])
def test_each_operator_line_is_checked(tmp_path: Path, line: str, says: str) -> None:
    own = cidrs(tmp_path / "own.csv", ["# a comment", "20.0.0.0/8,,,,,,,once", "", line])
    (place, message), = faults(directory(tmp_path / "d"), own)
    assert place == f"{own}:5"
    assert says in message


def test_one_line_tells_all_that_is_wrong_in_it(tmp_path: Path) -> None:
    own = cidrs(tmp_path / "own.csv", ["10.0.0.0/99,DEU,91,0,AS,Big,,"])
    (_, message), = faults(directory(tmp_path / "d"), own)
    assert message.count(";") == 4


def test_columns_are_named_and_may_stand_in_any_order(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    own = tmp_path / "own.csv"
    own.write_text("prefix,country\n10.0.0.0/8,DE\n")
    assert faults(folder, own) == [(f"{own}:1", "columns missing: latitude, longitude, asn, carrier, provider, tag")]
    own.write_text("")
    assert faults(folder, own) == [(f"{own}:1", "has no line that names the columns")]
    own.write_text("tag,provider,carrier,asn,note,longitude,latitude,country,prefix\n"
                   "t,,,AS7,\"a, b\",2,1,de,10.0.0.0/8\n")
    line, = sources.read(folder, own).operators
    assert (line.tag, line.asn, line.position, line.country, line.provider) == ("t", 7, (1.0, 2.0), "DE", None)
    assert faults(folder, tmp_path / "missing.csv")[0][0] == str(tmp_path / "missing.csv")


def test_which_file_must_be_clear(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    (folder / "asn" / "table2.dat.gz").write_bytes(gzip.compress(b"10.0.0.0/8\t1\n"))
    write_mmdb(folder / "geo" / "more.mmdb", {"1.0.0.0/8": record(BERLIN)})
    assert faults(folder) == [("./geo", "several files, keep one: more.mmdb, places.mmdb"),
                              ("./asn", "several files, keep one: table.dat, table2.dat.gz")]
    assert faults(tmp_path / "empty") == [("./geo", "no file *.mmdb")]


def test_a_database_of_another_kind(tmp_path: Path) -> None:
    write_mmdb(tmp_path / "geo" / "a.mmdb", {"1.0.0.0/8": {"autonomous_system_number": 1}}, kind="Test-ASN")
    assert "not City or Country" in faults(tmp_path)[0][1]
