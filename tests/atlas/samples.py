"""Small data directories for the atlas's tests, and the atlas of the bundled data, built once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter
from netaddr import IPSet

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
Network = IPv4Network | IPv6Network

BERLIN = (52.52, 13.40, "DE", "EU")
PARIS = (48.85, 2.35, "FR", "EU")
TOKYO = (35.68, 139.69, "JP", "AS")
LIMA = (-12.05, -77.04, "PE", "SA")

GEO: dict[str, tuple[float, float, str, str]] = {
    "10.0.0.0/8": BERLIN, "10.1.0.0/16": PARIS, "20.0.0.0/8": TOKYO, "30.0.0.0/8": LIMA,
    "2400::/12": TOKYO, "2a00::/12": BERLIN, "2a01::/16": PARIS,
}
ASN = ("10.0.0.0/8\t64500\n10.1.0.0/17\t64501\n20.0.0.0/8\t64510\n30.1.0.0/16\t64510\n"
       "2a01::/16\t64501\n2400::/12\t64510\n")


def record(place: tuple[float, float, str, str]) -> dict[str, Any]:
    latitude, longitude, country, continent = place
    return {"country": {"iso_code": country}, "continent": {"code": continent},
            "location": {"latitude": latitude, "longitude": longitude}}


def write_mmdb(path: Path, networks: Mapping[str, Any], *, version: int = 6, kind: str = "Test-City") -> Path:
    """An mmdb of these records; wider networks are put in first, for the last one written wins."""
    writer = MMDBWriter(version, kind, ipv4_compatible=version == 6, float_type="f64")
    for text in sorted(networks, key=lambda text: ip_network(text).prefixlen):
        writer.insert_network(IPSet([text]), networks[text])
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.to_db_file(str(path))
    return path


def directory(folder: Path, *, geo: Mapping[str, tuple[float, float, str, str]] | None = None, asn: str = ASN) -> Path:
    """A data directory with every kind of file."""
    write_mmdb(folder / "geo" / "places.mmdb", {net: record(place) for net, place in (geo or GEO).items()})
    (folder / "asn").mkdir()
    (folder / "asn" / "table.dat").write_text("; a comment: with a colon\n" + asn)
    (folder / "asn" / "asnames.json").write_text(json.dumps({"64500": "Köln Net", "64510": "Far East", "1": "unused"}))
    (folder / "providers").mkdir()
    (folder / "providers" / "asn_providers.csv").write_text(
        "provider,kind,asn\nnimbus,cloud,64510\nringnet,carrier,64501\n")
    (folder / "providers" / "carrier_lists.csv").write_text("file,carrier\nlong.txt,longline\n")
    (folder / "providers" / "long.txt").write_text("10.1.64.0/18\n2a00:1::/32\n")
    (folder / "sources.toml").write_text(
        '[[source]]\nfile = "geo/*"\nlicence = "CC0"\nattribution = "Us"\nurl = "https://example.org"\n')
    return folder


def cidrs(path: Path, lines: Iterable[str]) -> Path:
    """A file of operator prefixes."""
    path.write_text("\n".join(["prefix,country,latitude,longitude,asn,carrier,provider,tag", *lines, ""]))
    return path
