"""Zone files: what is read, every fault with file and line at once, what is only warned of."""

from __future__ import annotations

import re
import time
from pathlib import Path

import dns.zone
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.control import zonefile, zonetext
from dnsd.dns import names, types
from dnsd.model import ZoneView

HEAD = "$TTL 300\n@ SOA ns1 hostmaster 1 3600 600 86400 60\n@ NS ns1\n@ NS ns2\nns1 A 192.0.2.1\nns2 AAAA 2001:db8::2\n"
HEAD_LINES = HEAD.count("\n")


def write(folder: Path, text: str | bytes, name: str = "z") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rrset(view: ZoneView, owner: str, type_: int) -> tuple[int, tuple[bytes, ...]] | None:
    wire = names.to_wire(owner)
    return next(((r.ttl, r.rdatas) for r in view.rrsets if (r.owner, r.type) == (wire, type_)), None)


def faults(path: Path, origin: str = "example.com") -> list[tuple[str, str]]:
    """Faults as (line or file name:line, message)."""
    with pytest.raises(zonefile.ZoneFault) as caught:
        zonefile.read(path, origin)
    return [(Path(f.place).name.removeprefix("z:"), f.message) for f in caught.value.faults]


def test_reads_what_a_master_file_can_say(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "here A 192.0.2.60\n$INCLUDE deeper\n@ TXT \"of the included origin\"\n", "part")
    write(tmp_path / "sub", "deep A 192.0.2.61\n", "deeper")
    path = write(tmp_path, (
        "\ufeff$TTL 1h\n"
        "@ IN SOA ns1 hostmaster.example.com. (\n  2024 ; serial\n  1h 10m\n  1d 60 )\r\n"
        "  NS ns1\n  NS ns2.other.net.\n"
        "NS1 60 IN A 192.0.2.1\n"
        "    IN 60 A 192.0.2.2\n"
        "www CNAME @\n"
        "txt TXT \"a ; b\" (\"c )\"\n \"d\")\n"
        "odd\\.dot A 192.0.2.9\n"
        "unknown TYPE65534 \\# 3 010203\n"
        "known A \\# 4 C0000205\n"
        "svc HTTPS 1 . alpn=h2 ipv4hint=192.0.2.7\n"
        "*.wild MX 10 mail\n"
        "mail A 192.0.2.25\n"
        "$GENERATE 1-3 g${0,3} A 192.0.2.$\n"
        "$GENERATE 0-4/2 p$ 90 IN CNAME www\n"
        "$INCLUDE sub/part inc\n"
        "$ORIGIN sub\n"
        "x A 192.0.2.50\n"
        "$ORIGIN example.com.\n"
        "y A 192.0.2.51\n"))
    loaded = zonefile.load(path, "Example.COM")
    view = loaded.view
    assert view.apex == b"\x07example\x03com\0"
    assert rrset(view, "example.com", types.SOA) == (3600, (
        b"\x03ns1\x07example\x03com\0\x0ahostmaster\x07example\x03com\0"
        b"\0\0\x07\xe8\0\0\x0e\x10\0\0\x02\x58\0\x01\x51\x80\0\0\0\x3c",))
    assert rrset(view, "example.com", types.NS) == (
        3600, (b"\x03ns1\x07example\x03com\0", b"\x03ns2\x05other\x03net\0"))
    assert rrset(view, "ns1.example.com", types.A) == (60, (b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"))
    assert rrset(view, "txt.example.com", 16) == (3600, (b"\x05a ; b\x03c )\x01d",))
    assert rrset(view, "odd\\.dot.example.com", types.A) == (3600, (b"\xc0\0\x02\x09",))
    assert rrset(view, "unknown.example.com", 65534) == (3600, (b"\1\2\3",))
    assert rrset(view, "known.example.com", types.A) == (3600, (b"\xc0\0\x02\x05",))
    assert rrset(view, "svc.example.com", types.HTTPS) is not None
    assert rrset(view, "*.wild.example.com", 15) == (3600, (b"\0\x0a\x04mail\x07example\x03com\0",))
    assert rrset(view, "g003.example.com", types.A) == (3600, (b"\xc0\0\x02\x03",))
    assert rrset(view, "p4.example.com", types.CNAME) == (90, (b"\x03www\x07example\x03com\0",))
    assert rrset(view, "p1.example.com", types.CNAME) is None
    assert rrset(view, "here.inc.example.com", types.A) is not None
    assert rrset(view, "deep.inc.example.com", types.A) is not None
    assert rrset(view, "inc.example.com", 16) is not None
    assert rrset(view, "x.sub.example.com", types.A) is not None
    assert rrset(view, "y.example.com", types.A) is not None
    assert loaded.files == (path, tmp_path / "sub/part", tmp_path / "sub/deeper")
    assert loaded.warnings == []


def test_agrees_with_dnspython_on_a_sound_zone(tmp_path: Path) -> None:
    text = HEAD + (
        "a 10 A 192.0.2.3\nb MX 5 a\n  TXT \"x y\" z\n$GENERATE 0-20/5 ${3,4,x} PTR h$.example.net.\n"
        "c.d.e SRV 1 2 3 a\n")
    view = zonefile.read(write(tmp_path, text), "example.com")
    oracle = dns.zone.from_text(text, "example.com.", relativize=False)
    theirs = {
        (name.to_wire().lower(), int(rdataset.rdtype), rdataset.ttl, frozenset(r.to_wire() for r in rdataset))
        for name, rdataset in oracle.iterate_rdatasets()}
    assert {(r.owner, r.type, r.ttl, frozenset(r.rdatas)) for r in view.rrsets} == theirs


@pytest.mark.parametrize(("entry", "message"), [
    ("a A 192.0.2.300", "192.0.2.300"),
    ("a A", "ends too early|cannot be read|expecting"),
    ("a AAAA 192.0.2.1", "cannot be read|192.0.2.1|malformed"),
    ("a A 192.0.2.1 192.0.2.2", "EOL|expected"),
    ("a WHAT 1", "unknown record type `WHAT`"),
    ("a", "no record type"),
    ("a 300 IN", "no record type"),
    ("a CH TXT x", "class CH: only IN is served"),
    ("a 1x A 192.0.2.1", "`1x` is no TTL"),
    ("a 2147483648 A 192.0.2.1", "TTL 2147483648 is above 2147483647"),
    ("a ANY x", "class ANY"),
    ("a AXFR x", "AXFR is no type of data"),
    ("a OPT \\# 0", "OPT is no type of data"),
    ("a TYPE0 \\# 0", "TYPE0 is no type of data"),
    ("a TYPE65280 abc", "\\\\#|generic"),
    ("a TYPE65280 \\# 2 010203", "length|hex"),
    ("a TXT \"no end", "too early|cannot be read|newline"),
    ("a TXT )", "cannot be read"),
    ("a A 192.0.2.1 (", "parenthes"),
    ("a..b A 192.0.2.1", "empty"),
    ("x" * 64 + " A 192.0.2.1", "63|too long|> 63|more than"),
    ("a.example.org. A 192.0.2.1", "a.example.org. is outside the zone example.com."),
    ("$BOGUS 1", "unknown directive \\$BOGUS"),
    ("$TTL abc", "`abc` is no TTL"),
    ("$TTL", "too early|identifier|cannot be read"),
    ("$ORIGIN", "too early|identifier|cannot be read"),
    ("$INCLUDE", "string|cannot be read|too early"),
    ("$INCLUDE missing", "\\$INCLUDE missing: no such file as .*missing"),
    ("$INCLUDE z", "\\$INCLUDE z: the file includes itself"),
    ("$GENERATE 1-3", "needs a range"),
    ("$GENERATE 3-1 a$ A 192.0.2.$", "range `3-1` is empty"),
    ("$GENERATE 1-3/0 a$ A 192.0.2.$", "range `1-3/0` is empty"),
    ("$GENERATE x a$ A 192.0.2.$", "range `x` is not"),
    ("$GENERATE 0-65536 a$ A 192.0.2.1", "more than 65536 steps"),
    ("$GENERATE 1-2 a${0,128} A 192.0.2.1", "width 128"),
    ("$GENERATE 1-2 a${x} A 192.0.2.1", "modifier"),
    ("$GENERATE 1-2 a${-5,1,n} A 192.0.2.1", "negative"),
    ("$GENERATE 254-300 a$ A 192.0.2.$", "192.0.2.256"),
    ("@ SOA ns1 hostmaster 2 3600 600 86400 60", "a second SOA"),
    ("a SOA ns1 hostmaster 2 3600 600 86400 60", "SOA at a.example.com., which is not the apex"),
    ("ns1 60 A 192.0.2.7", "ns1.example.com. A: TTL 60 differs from 300"),
    ("a CNAME b\na CNAME c", "a second CNAME"),
    ("a CNAME b\na TXT x", "TXT beside the CNAME"),
    ("a DNAME b\na DNAME c", "a second DNAME"),
    ("a DNAME b.example.net.\nx.a A 192.0.2.1", "lies below the DNAME"),
    ("sub NS ns.sub", "no glue"),
    ("a NS b\nb CNAME c", "the target is an alias"),
    ("*.w NS ns1", "NS at a wildcard"),
    ("$GENERATE 1-300 a TXT \"$ " + "x" * 200 + "\"", "do not fit a message"),
])
def test_each_fault_is_named_with_its_line(tmp_path: Path, entry: str, message: str) -> None:
    found = faults(write(tmp_path, HEAD + entry + "\nlast A 192.0.2.99\n"))
    assert len(found) == 1, found
    line = int(found[0][0])
    assert HEAD_LINES - 1 <= line <= HEAD_LINES + 1 + entry.count("\n")
    assert re.search(message, found[0][1]), found


def test_all_faults_at_once(tmp_path: Path) -> None:
    write(tmp_path, "ok A 192.0.2.4\nbad A x\n", "inc")
    text = HEAD + "a A 1\nb FOO 2\nc A 192.0.2.1\n$INCLUDE inc\nd CNAME e\nd A 192.0.2.2\n$NOPE\n"
    found = faults(write(tmp_path, text))
    assert [place for place, _ in found] == [
        str(HEAD_LINES + 1), str(HEAD_LINES + 2), "inc:2", str(HEAD_LINES + 7), str(HEAD_LINES + 6)]


def test_a_fault_inside_parentheses_has_its_own_line(tmp_path: Path) -> None:
    found = faults(write(tmp_path, "$TTL 1\n@ SOA ns1 h (\n 1\n 2\n three\n 4 5 )\n@ NS ns1\nns1 A 192.0.2.1\n"))
    assert [place for place, _ in found] == ["5"]  # and no `no SOA`: it may be the one that could not be read


def test_an_open_parenthesis_spoils_only_its_own_entry(tmp_path: Path) -> None:
    found = faults(write(tmp_path, HEAD + "a TXT ( \"x\"\n  \"y\"\nb A 192.0.2.3\nc A bad\n"))
    assert [int(place) - HEAD_LINES for place, _ in found] == [2, 4]


def test_lines_of_an_unreadable_owner_are_checked_but_not_kept(tmp_path: Path) -> None:
    found = faults(write(tmp_path, HEAD + "a CNAME b\nx..y A 192.0.2.1\n  A 192.0.2.2\n  A nonsense\n"))
    assert [int(place) - HEAD_LINES for place, _ in found] == [2, 4]


def test_apex_faults_name_the_file(tmp_path: Path) -> None:
    found = faults(write(tmp_path, "$TTL 5\na A 192.0.2.1\n"))
    assert found == [("z", "no SOA at example.com."), ("z", "no NS at example.com.")]


def test_no_ttl_anywhere(tmp_path: Path) -> None:
    found = faults(write(tmp_path, "@ NS ns.example.org.\n@ SOA a b 1 2 3 4 5\n"))
    assert found[0] == ("1", "no TTL: neither here, nor by $TTL, nor in a record before")
    view = zonefile.read(write(tmp_path, "@ SOA a b 1 2 3 4 5\n@ NS ns.example.org.\n"), "example.com")
    assert {r.ttl for r in view.rrsets} == {5}  # the SOA's minimum is the last resort


def test_first_entry_without_owner(tmp_path: Path) -> None:
    assert faults(write(tmp_path, " A 192.0.2.1\n" + HEAD))[0][0] == "1"


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p / "none", "No such file"),
    (lambda p: p, "not a file"),
    (lambda p: write(p, HEAD.encode() + b"a TXT \"\xff\"\n"), "not UTF-8"),
])
def test_unreadable_files(tmp_path: Path, make: object, message: str) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    found = faults(path)
    assert len(found) == 1
    assert message in found[0][1]


def test_bad_zone_name(tmp_path: Path) -> None:
    assert "empty label" in faults(write(tmp_path, HEAD), "a..b")[0][1]


def test_include_is_bounded(tmp_path: Path) -> None:
    for depth in range(zonefile.INCLUDE_DEPTH + 1):
        write(tmp_path, f"$INCLUDE f{depth + 1}\n", f"f{depth}")
    found = faults(write(tmp_path, HEAD + "$INCLUDE f0\n"))
    assert len(found) == 1
    assert "files deep" in found[0][1]


def test_faults_are_bounded(tmp_path: Path) -> None:
    found = faults(write(tmp_path, HEAD + "a A x\n" * 3000))
    assert len(found) <= zonefile.MAX_FAULTS + 1


@pytest.mark.parametrize(("entries", "left_out", "warning"), [
    ("a DNAME x.A", [], "leads below itself"), ("a DNAME a", [], "leads below itself"), ("a DNAME b", [], ""),
    ("sub NS ns1\nx.sub TXT gone", [("x.sub", 16)], "below the cut sub.example.com. is never answered"),
    ("sub NS ns1\nsub TXT gone", [("sub", 16)], "at the cut sub.example.com. is never answered"),
    ("sub NS ns1\nsub DS 1 8 2 " + "00" * 32, [], ""),
    ("sub NS ns.sub\nns.sub A 192.0.2.1\nns.sub TXT gone", [("ns.sub", 16)], "below the cut"),
    ("sub NS ns1\nlow.sub NS ns1", [("low.sub", 2)], "below the cut sub.example.com."),
    ("sub NS sub\nsub A 192.0.2.1", [], ""),
    ("one NS ns.two\ntwo NS ns.two\nns.two A 192.0.2.1", [], ""),
    ("a DS 1 8 2 " + "00" * 32, [], "DS without NS"),
    ("a MX 10 b\nb CNAME ns1", [], "the target is an alias"),
    ("a MX 10 nowhere", [], "no address in the zone"),
    ("@ NS service", [], "no address in the zone (a service may own it)"),
    ("a MX 10 some.wild\n*.wild A 192.0.2.1", [], ""),
    ("a A 192.0.2.1\na A 192.0.2.1", [], "said before at"),
    ("@ NSEC ns1 A\nns1 NSEC @ A", [("@", 47), ("ns1", 47)], "NSEC records are left out"),
])
def test_odd_data_is_warned_of(tmp_path: Path, entries: str, left_out: list[tuple[str, int]], warning: str) -> None:
    loaded = zonefile.load(write(tmp_path, HEAD + entries + "\n"), "example.com")
    assert [w.message for w in loaded.warnings if warning and warning not in w.message] == []
    assert bool(loaded.warnings) == bool(warning)
    gone = {(names.to_wire("example.com" if o == "@" else f"{o}.example.com"), t) for o, t in left_out}
    kept = {(r.owner, r.type) for r in loaded.view.rrsets}
    assert not gone & kept
    assert len(kept | gone) == len({(r.owner, r.type) for r in loaded.view.rrsets}) + len(gone)


def test_one_name_server_is_warned_of(tmp_path: Path) -> None:
    loaded = zonefile.load(write(tmp_path, "@ 5 SOA a b 1 2 3 4 5\n@ NS ns.example.org.\n"), "example.com")
    assert ["only one name server" in w.message for w in loaded.warnings] == [True]


def test_signed_file_with_several_signatures(tmp_path: Path) -> None:
    sig = "RRSIG {} 8 2 {} 20300101000000 20200101000000 1 example.com. AAAA"
    text = HEAD + f"ns1 300 {sig.format('A', 300)}\nns1 60 {sig.format('NSEC', 60)}\n"
    loaded = zonefile.load(write(tmp_path, text), "example.com")
    assert rrset(loaded.view, "ns1.example.com", types.RRSIG) is None


def test_rdata_text() -> None:
    assert zonefile.rdata_text(types.A, b"\xc0\0\x02\x01") == "192.0.2.1"
    assert zonefile.rdata_text(15, b"\0\x0a\x01a\0") == "10 a."
    assert zonefile.rdata_text(types.A, b"\1") == "\\# 1 01"
    assert zonefile.rdata_text(65534, b"\1\2") == "\\# 2 0102"


def test_twenty_thousand_lines_in_seconds(tmp_path: Path) -> None:
    text = HEAD + "".join(f"h{i} A 192.0.{i >> 8 & 255}.{i & 255}\n" for i in range(20_000))
    path = write(tmp_path, text)
    start = time.process_time()
    assert len(zonefile.read(path, "example.com").rrsets) == 20_004
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("template", "value", "text"), [
    ("a$b", 7, "a7b"), ("$$", 7, "$"), ("\\$", 7, "\\$"), ("${10}", 7, "17"), ("${-3,3}", 7, "004"),
    ("${0,4,x}", 255, "00ff"), ("${0,0,X}", 255, "FF"), ("${0,3,o}", 8, "010"), ("${0,7,n}", 0x1A, "a.1.0.0"),
    ("${0,3,N}", 0xAB, "B.A"), ("${0,8,n}", 1, "1.0.0.0."), ("x", 1, "x"), ("\\", 1, "\\"),
])
def test_generate_substitution(template: str, value: int, text: str) -> None:
    assert zonetext.substitute(template, value) == text


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([
    "@", "a", "$", "\"", "(", ")", ";", "\\", "\n", " ", "A", "192.0.2.1", "$INCLUDE z", "$GENERATE 1-3", "TXT", "\\#",
    "9", "IN", "CNAME", "\r", "\0", "ü", "SOA", "*", "."]), max_size=40))
def test_any_text_is_a_zone_or_faults(tmp_path: Path, parts: list[str]) -> None:
    """No text raises anything but ZoneFault, and every fault has a place."""
    path = write(tmp_path, HEAD + " ".join(parts))
    try:
        zonefile.read(path, "example.com")
    except zonefile.ZoneFault as error:
        found = error.faults
    else:
        return
    assert found
    assert all(fault.place.startswith(str(path)) and fault.message for fault in found)
