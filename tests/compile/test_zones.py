"""The tree of names: what exists, where the cuts are, and every fault at once."""

from __future__ import annotations

import pytest

from dnsd.compile import zones as compiled
from dnsd.compile.zones import CompileError
from dnsd.dns import names
from dnsd.model import RRset, ServiceView, ZoneView
from tests.golden.world import endpoint, service, wire, zone

A, NS, CNAME, SOA, TXT, DNAME = 1, 2, 5, 6, 16, 39
A_DATA, NS_DATA, TXT_DATA = b"\xc0\0\2\1", wire("ns1.example.com"), b"\1x"
SOA_DATA = wire("ns1") + wire("h") + bytes(20)


def zone_of(apex: str, *rrsets: tuple[str, int, tuple[bytes, ...]]) -> ZoneView:
    """A zone with SOA and NS, and rrsets as they are given, however wrong."""
    whole = [(apex, SOA, (SOA_DATA,)), (apex, NS, (NS_DATA,)), *rrsets]
    return ZoneView(wire(apex), tuple(RRset(wire(owner), type_, 300, data) for owner, type_, data in whole))


E = "example.com"
FAULTS: list[tuple[str, list[ZoneView], list[ServiceView], list[tuple[str, str]]]] = [
    ("zone twice", [zone_of(E), zone_of(E)], [], [
        ("example.com.", "zone is there twice")]),
    ("no SOA, no NS", [ZoneView(wire(E), ())], [], [
        ("example.com.", "zone has no SOA at its apex"), ("example.com.", "zone has no NS at its apex")]),
    ("two SOAs", [ZoneView(wire(E), (RRset(wire(E), SOA, 1, (SOA_DATA, SOA_DATA)), RRset(wire(E), NS, 1, (NS_DATA,))))],
     [], [("example.com.", "more than one SOA")]),
    ("SOA below the apex", [zone_of(E, (f"a.{E}", SOA, (SOA_DATA,)))], [], [
        ("a.example.com.", "SOA at a name that is not the apex")]),
    ("outside", [zone_of(E, ("www.example.org", A, (A_DATA,)))], [], [
        ("www.example.org.", "is outside of zone example.com.")]),
    ("rrset twice", [zone_of(E, (f"a.{E}", A, (A_DATA,)), (f"a.{E}", A, (A_DATA,)))], [], [
        ("a.example.com.", "A rrset is there twice")]),
    ("empty rrset", [zone_of(E, (f"a.{E}", TXT, ()))], [], [("a.example.com.", "TXT rrset is empty")]),
    ("CNAME beside A", [zone_of(E, (f"a.{E}", CNAME, (NS_DATA,)), (f"a.{E}", A, (A_DATA,)))], [], [
        ("a.example.com.", "CNAME and other data")]),
    ("A beside CNAME", [zone_of(E, (f"a.{E}", A, (A_DATA,)), (f"a.{E}", CNAME, (NS_DATA,)))], [], [
        ("a.example.com.", "CNAME and other data")]),
    ("TXT beside CNAME", [zone_of(E, (f"a.{E}", CNAME, (NS_DATA,)), (f"a.{E}", TXT, (TXT_DATA,)))], [], [
        ("a.example.com.", "CNAME and other data")]),
    ("two CNAMEs", [zone_of(E, (f"a.{E}", CNAME, (NS_DATA, wire("b"))))], [], [
        ("a.example.com.", "more than one CNAME")]),
    ("two DNAMEs", [zone_of(E, (f"a.{E}", DNAME, (NS_DATA, wire("b"))))], [], [
        ("a.example.com.", "more than one DNAME")]),
    ("NS at a wildcard", [zone_of(E, (f"*.{E}", NS, (NS_DATA,)))], [], [
        ("*.example.com.", "NS at a wildcard has no meaning")]),
    ("below a DNAME", [zone_of(E, (f"d.{E}", DNAME, (NS_DATA,)), (f"a.d.{E}", A, (A_DATA,)))], [], [
        ("a.d.example.com.", "lies below the DNAME d.example.com.")]),
    ("a cut below a DNAME", [zone_of(E, (f"d.{E}", DNAME, (NS_DATA,)), (f"a.d.{E}", NS, (NS_DATA,)))], [], [
        ("a.d.example.com.", "lies below the DNAME d.example.com.")]),
    ("in the zone inside", [zone_of(E, (f"a.in.{E}", TXT, (TXT_DATA,))), zone_of(f"in.{E}")], [], [
        ("a.in.example.com.", "TXT of zone example.com. lies in the zone inside it")]),
    ("service outside", [zone_of(E)], [service("a.example.org")], [
        ("a.example.org.", "service is in no zone of this server")]),
    ("service twice", [zone_of(E)], [service(f"a.{E}"), service(f"a.{E}")], [
        ("a.example.com.", "service is there twice")]),
    ("service beside A", [zone_of(E, (f"a.{E}", A, (A_DATA,)))], [service(f"a.{E}")], [
        ("a.example.com.", "service owns A, AAAA here, but the zone has static A")]),
    ("service beside AAAA and A", [zone_of(E, (f"a.{E}", A, (A_DATA,)), (f"a.{E}", 28, (bytes(16),)))],
     [service(f"a.{E}")], [("a.example.com.", "service owns A, AAAA here, but the zone has static A, AAAA")]),
    ("service beside CNAME", [zone_of(E, (f"a.{E}", CNAME, (NS_DATA,)))], [service(f"a.{E}")], [
        ("a.example.com.", "service owns A, AAAA here, but the zone has static CNAME")]),
    ("service at a cut", [zone_of(E, (f"a.{E}", NS, (NS_DATA,)))], [service(f"a.{E}")], [
        ("a.example.com.", "service lies at or below the cut a.example.com.")]),
    ("service below a cut", [zone_of(E, (f"a.{E}", NS, (NS_DATA,)))], [service(f"x.y.a.{E}")], [
        ("x.y.a.example.com.", "service lies at or below the cut a.example.com.")]),
    ("service below a DNAME", [zone_of(E, (f"d.{E}", DNAME, (NS_DATA,)))], [service(f"a.d.{E}")], [
        ("a.d.example.com.", "lies below the DNAME d.example.com.")]),
    ("everything at once", [zone_of(E, (f"a.{E}", TXT, ()), ("x.org", A, (A_DATA,)))],
     [service("b.org"), service("c.org")],
     [("a.example.com.", "TXT rrset is empty"), ("x.org.", "is outside of zone example.com."),
      ("b.org.", "service is in no zone of this server"), ("c.org.", "service is in no zone of this server")]),
]


@pytest.mark.parametrize(("zones", "services", "faults"), [case[1:] for case in FAULTS],
                         ids=[case[0] for case in FAULTS])
def test_faults(zones: list[ZoneView], services: list[ServiceView], faults: list[tuple[str, str]]) -> None:
    found = compiled.check(zones, services)
    assert len(found) == len(faults), found
    for fault, (place, message) in zip(found, faults, strict=True):
        assert fault.place == place
        assert message in fault.message
    with pytest.raises(CompileError) as caught:
        compiled.tree(zones, services)
    assert caught.value.faults == found
    assert all(fault.message in str(caught.value) for fault in found)


SOUND = [
    ("CNAME with its signatures", [
        zone_of(E, (f"a.{E}", CNAME, (NS_DATA,)), (f"a.{E}", 46, (b"s",)), (f"a.{E}", 47, (b"n",)))]),
    ("DNAME at the apex", [zone_of(E, (E, DNAME, (NS_DATA,)))]),
    ("DNAME with data beside it", [zone_of(E, (f"d.{E}", DNAME, (NS_DATA,)), (f"d.{E}", A, (A_DATA,)))]),
    ("glue of the zone inside", [zone_of(E, (f"in.{E}", NS, (wire(f"ns.in.{E}"),)), (f"ns.in.{E}", A, (A_DATA,))),
                                 zone_of(f"in.{E}")]),
    ("a hidden DNAME below a cut", [zone_of(E, (f"c.{E}", NS, (NS_DATA,)), (f"d.c.{E}", DNAME, (NS_DATA,)),
                                            (f"a.d.c.{E}", A, (A_DATA,)))]),
    ("a zone of its own below a DNAME", [
        zone_of(E, (f"d.{E}", DNAME, (NS_DATA,))), zone_of(f"in.d.{E}", (f"a.in.d.{E}", A, (A_DATA,)))]),
    ("the root", [zone_of(".", ("com", NS, (NS_DATA,)))]),
]


@pytest.mark.parametrize("zones", [zones for _, zones in SOUND], ids=[name for name, _ in SOUND])
def test_what_may_stand_together(zones: list[ZoneView]) -> None:
    assert compiled.check(zones, []) == []


def test_a_dname_at_the_apex_lets_nothing_stand_below() -> None:
    faults = compiled.check([zone_of(E, (E, DNAME, (NS_DATA,)), (f"a.{E}", A, (A_DATA,)))], [])
    assert [fault.place for fault in faults] == ["a.example.com."]


# --- the tree ---------------------------------------------------------------------------------------------------------

def cuts(tree: compiled.Tree) -> dict[str, str | None]:
    """Every name's cut, as texts."""
    return {names.to_text(name): branch.cut and names.to_text(branch.cut) for name, branch in tree.items()}


def test_every_name_between_an_owner_and_its_apex_exists() -> None:
    tree = compiled.tree([zone_of(E, (f"a.b.c.{E}", A, (A_DATA,)))], [service(f"x.y.{E}", endpoint(1))])
    assert sorted(map(names.to_text, tree)) == [
        "a.b.c.example.com.", "b.c.example.com.", "c.example.com.", "example.com.", "x.y.example.com.",
        "y.example.com."]
    depths = [names.labels(name) for name in tree]
    assert depths == sorted(depths)
    assert tree[wire(f"x.y.{E}")].service == 0
    assert tree[wire(f"y.{E}")].service is None
    assert not tree[wire(f"y.{E}")].rrsets


def test_the_topmost_cut_counts() -> None:
    tree = compiled.tree([zone_of(
        E, (f"c.{E}", NS, (NS_DATA,)), (f"d.c.{E}", NS, (NS_DATA,)), (f"a.d.c.{E}", A, (A_DATA,)),
        (f"ok.{E}", A, (A_DATA,)))], [])
    assert cuts(tree) == {
        "example.com.": None, "c.example.com.": "c.example.com.", "ok.example.com.": None,
        "d.c.example.com.": "c.example.com.", "a.d.c.example.com.": "c.example.com."}


def test_names_above_an_inner_zone_are_the_outers() -> None:
    outer = zone_of(E, (f"in.side.{E}", NS, (NS_DATA,)), (f"in.side.{E}", 43, (b"ds",)))
    inner = zone_of(f"in.side.{E}", (f"a.in.side.{E}", A, (A_DATA,)))
    for order in ([outer, inner], [inner, outer]):
        tree = compiled.tree(order, [])
        zone_numbers = {names.to_text(name): order[branch.zone].apex for name, branch in tree.items()}
        assert zone_numbers == {
            "example.com.": outer.apex, "side.example.com.": outer.apex, "in.side.example.com.": inner.apex,
            "a.in.side.example.com.": inner.apex}
        assert set(cuts(tree).values()) == {None}
        assert 43 in tree[wire(f"in.side.{E}")].rrsets
        assert tree[wire(f"in.side.{E}")].rrsets[NS].rdatas == (NS_DATA,)


def test_a_zone_inside_a_cut_of_the_outer_is_served() -> None:
    tree = compiled.tree([zone_of(E, (f"c.{E}", NS, (NS_DATA,))), zone_of(f"x.y.c.{E}")], [])
    assert cuts(tree) == {
        "example.com.": None, "c.example.com.": "c.example.com.", "y.c.example.com.": "c.example.com.",
        "x.y.c.example.com.": None}


@pytest.mark.parametrize(("name", "number"), [
    ("example.com", 0), ("www.example.com", 0), ("in.example.com", 1), ("x.y.in.example.com", 1), ("com", None),
    ("example.org", None), (".", None),
])
def test_zone_of(name: str, number: int | None) -> None:
    assert compiled.zone_of(wire(name), {wire(E): 0, wire(f"in.{E}"): 1}) == number


def test_zone_text_of_the_world_compiles() -> None:
    assert compiled.check([zone("example.com", "www A 192.0.2.1\n")], [service("api.example.com", endpoint(1))]) == []
