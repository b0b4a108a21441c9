"""Where a service may stand in the zones that are served: what the image says and what compiling would say agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dnsd.compile import image as compile_image
from dnsd.compile.zones import check
from dnsd.control.zones import misplaced
from dnsd.dns import names, types
from dnsd.image.reading import Image
from dnsd.model import Policy, ServiceView, Stamp, ZoneView
from tests.control.rig import zone

ZONE = """$TTL 300
@ SOA ns1 hostmaster 1 3600 600 86400 60
@ NS ns1
ns1 A 192.0.2.53
six AAAA 2001:db8::6
both A 192.0.2.1
both AAAA 2001:db8::1
alias CNAME both
text TXT "an address may stand beside it"
a.deep TXT "deep is an empty non-terminal"
*.wild A 192.0.2.9
sub NS ns.sub
ns.sub A 192.0.2.54
moved DNAME both
"""


def service(owner: str) -> ServiceView:
    """A service of nothing but its name."""
    return ServiceView(
        names.to_wire(owner), Policy(), 8, frozenset({types.A}), (), (b"\xc0\0\2\1",), (), (), (), 0)


def served(zones: Sequence[ZoneView]) -> Image:
    """The image of those zones, with one service in it."""
    return Image(compile_image.build(zones, [service("api.example.com")], [], Stamp(1, 1, 0), 0).data)


@pytest.mark.parametrize(("owner", "why"), [
    ("api.example.com", ""),  # is one already
    ("new.example.com", ""),
    ("x.y.z.example.com", ""),
    ("text.example.com", ""),
    ("deep.example.com", ""),
    ("example.com", ""),
    ("x.wild.example.com", ""),
    ("x.api.example.com", ""),
    ("moved.example.com", ""),
    ("ns1.example.com", "static A here"),
    ("six.example.com", "static AAAA here"),
    ("both.example.com", "static A, AAAA here"),
    ("alias.example.com", "static CNAME here"),
    ("*.wild.example.com", "static A here"),
    ("sub.example.com", "the cut sub.example.com."),
    ("ns.sub.example.com", "the cut sub.example.com."),
    ("x.y.sub.example.com", "the cut sub.example.com."),
    ("x.moved.example.com", "the DNAME moved.example.com."),
])
def test_a_place_that_is_taken_is_said(tmp_path: Path, owner: str, why: str) -> None:
    zones = (zone(tmp_path, ZONE),)
    found = misplaced(served(zones), names.to_wire(owner))
    assert (why in found) if why else (found == "")
    assert bool(found) == bool(check(zones, [service(owner)]))


@pytest.mark.parametrize(("owner", "why"), [
    ("web.example.com", "static HTTPS here"), ("new.example.com", ""), ("ns1.example.com", "static A here")])
def test_a_service_with_https_wants_its_name_without_one(tmp_path: Path, owner: str, why: str) -> None:
    """One without stands beside it."""
    zones = (zone(tmp_path, ZONE + "web HTTPS 1 . alpn=h2\n"),)
    with_https = replace(service(owner), types=frozenset({types.A, types.HTTPS}))
    found = misplaced(served(zones), names.to_wire(owner), https=True)
    assert (why in found) if why else (found == "")
    assert bool(found) == bool(check(zones, [with_https]))
    assert misplaced(served(zones), names.to_wire("web.example.com")) == ""
    assert check(zones, [service("web.example.com")]) == []


def test_a_name_in_no_zone_of_this_node_may_be_anothers(tmp_path: Path) -> None:
    assert misplaced(served((zone(tmp_path, ZONE),)), names.to_wire("api.example.net")) == ""
