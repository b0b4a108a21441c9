"""The fleet the oracle is asked about: many sites, and services that between them use every rule.

Lives here: sites, services, endpoints, leases with load, operator prefixes. Does not live here: what follows from it
(`scoring`).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

ZONE: Final = "oracle.example"
REGIONS: Final = (
    ("aws", "us-east-1", "US", "na"), ("azure", "eastus", "US", "na"), ("gcp", "us-west1", "US", "na"),
    ("aws", "sa-east-1", "BR", "sa"), ("aws", "eu-central-1", "DE", "eu"), ("gcp", "europe-west3", "DE", "eu"),
    ("azure", "uksouth", "GB", "eu"), ("aws", "af-south-1", "ZA", "af"), ("aws", "me-south-1", "BH", "as"),
    ("aws", "ap-south-1", "IN", "as"), ("alibaba", "ap-southeast-1", "SG", "as"), ("azure", "japaneast", "JP", "as"),
    ("gcp", "asia-northeast1", "JP", "as"), ("aws", "ap-southeast-2", "AU", "oc"),
)
CHINA: Final[tuple[dict[str, Any], ...]] = (
    {"id": "telecom-shanghai", "latitude": 31.2304, "longitude": 121.4737, "carriers": ["china_telecom"],
     "asns": [4812]},
    {"id": "unicom-beijing", "latitude": 39.9042, "longitude": 116.4074, "carriers": ["china_unicom"], "asns": [4808]},
    {"id": "mobile-guangzhou", "latitude": 23.1291, "longitude": 113.2644, "carriers": ["china_mobile", "cernet"]},
)

CIDRS: Final = """\
prefix,country,latitude,longitude,asn,carrier,provider,tag
127.0.0.0/8,DE,50.1,8.7,,,,lab
127.16.0.0/12,JP,35.7,139.8,,,,
127.16.8.0/24,,,,4812,,,
127.16.8.128/25,CN,31.2,121.5,,,,
127.16.8.200/32,,,,,china_unicom,,
127.32.0.0/11,,-33.9,18.4,,,aws,
8.8.0.0/16,BR,-23.5,-46.6,,,,
9.9.9.0/24,,,,4808,,,
2001:db8:a::/48,AU,-33.9,151.2,,,,
2001:db8:a:100::/56,,,,,china_mobile,,
2600:1f00::/24,,50.1,8.7,,,gcp,
"""
"""Operator prefixes; those of 127.0.0.0/8 place the addresses that the tests ask from."""


def sites(data: Path) -> list[dict[str, Any]]:
    """All sites; positions of the regions are those of the data."""
    with (data / "providers" / "cloud_regions.csv").open(encoding="utf-8", newline="") as file:
        rows = {(row["provider"], row["region"]): row for row in csv.DictReader(file)}
    found: list[dict[str, Any]] = [
        {"id": f"{provider}-{region}", "latitude": float(rows[provider, region]["latitude"]),
         "longitude": float(rows[provider, region]["longitude"]), "country": country, "region": continent,
         "provider": provider, "carriers": [], "asns": [16509, 14618] if provider == "aws" else []}
        for provider, region, country, continent in REGIONS]
    return found + [{"country": "CN", "region": "as", "provider": None, "asns": [], **site} for site in CHINA]


SERVICES: Final[tuple[dict[str, Any], ...]] = (
    {"name": f"geo.{ZONE}", "policy": {"preset": "geo"}, "ttl": 8},
    {"name": f"near.{ZONE}", "policy": {"preset": "latency"}, "ttl": 20},
    {"name": f"three.{ZONE}", "policy": {"preset": "geo", "take": 3}, "ttl": 8},
    {"name": f"country.{ZONE}", "policy": {"preset": "geo", "fence": "country"}, "ttl": 8,
     "fallback": {"a": ["192.0.2.251", "192.0.2.252"], "aaaa": ["2001:db8:ffff::1"]}},
    {"name": f"region.{ZONE}", "policy": {"preset": "weighted", "fence": "region"}, "ttl": 8},
    {"name": f"tiers.{ZONE}", "policy": {"preset": "geo", "take": 4}, "ttl": 8},
    {"name": f"loaded.{ZONE}", "policy": {"preset": "geo"}, "ttl": 8},
    {"name": f"far.{ZONE}", "policy": {"preset": "geo", "take": 2}, "ttl": 8},
    {"name": f"wide.{ZONE}", "policy": {"preset": "geo", "match": 80, "half_ms": 20, "band_ms": 100}, "ttl": 8},
    {"name": f"strict.{ZONE}", "policy": {"preset": "geo", "no_ecs": "fallback", "unknown_client": "fallback"},
     "ttl": 8, "fallback": {"a": ["192.0.2.253"], "aaaa": ["2001:db8:ffff::3"]}},
    {"name": f"first.{ZONE}", "policy": {"preset": "failover"}, "ttl": 8},
    {"name": f"shared.{ZONE}", "policy": {"preset": "weighted", "take": 2}, "ttl": 8},
)


def endpoints(places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The permanent endpoints of all services."""
    ids = [place["id"] for place in places]
    found: list[dict[str, Any]] = []

    def add(service: str, number: int, site: str, name: str = "", **more: Any) -> None:
        """One endpoint with addresses of its own; `a=None` or `aaaa=None` leaves one out."""
        low = len(found) + 1
        found.append({
            "id": name or f"{site}-{number}", "service": f"{service}.{ZONE}", "site": site,
            "a": f"198.18.{low >> 8}.{low & 255}", "aaaa": f"2001:db8:1::{low:x}", "weight": 100, "tier": 0, **more})

    for number, site in enumerate(ids):
        add("geo", 1, site)
        if number % 3 == 0:
            add("geo", 2, site, weight=50)
        add("three", 1, site, weight=10 + number)
        add("far", 1, site, aaaa=f"2001:db8:2::{number + 1:x}" if number in (3, 13) else None)
        add("wide", 1, site)
        add("tiers", 1, site, tier=number % 2, weight=0 if number % 5 == 0 else 100)
    for site in ids[::2]:
        add("near", 1, site)
        add("strict", 1, site)
    for site in ids[1::3]:
        add("country", 1, site)
        add("country", 2, site, a=None)
        add("region", 1, site)
    for number, site in enumerate(ids[:4]):
        add("first", 1, site, tier=number // 2)
        add("shared", 1, site, weight=1 + number)
    return [{name: value for name, value in one.items() if value is not None} for one in found]


def leases(places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lease requests of `loaded`: two instances at each site, each with an endpoint; loads come by renewal."""
    return [
        {"holder": f"loaded-{number}", "ttl": 3600, "endpoints": [
            {"id": f"i{number}", "service": f"loaded.{ZONE}", "site": place["id"], "a": f"198.19.0.{number + 1}",
             "aaaa": f"2001:db8:3::{number + 1:x}"}]}
        for number, place in enumerate([*places, *places])]


def load_of(number: int) -> float:
    """The share in use that the instance of that number reports."""
    return (number * 7 % 32 + 0.5) / 32
