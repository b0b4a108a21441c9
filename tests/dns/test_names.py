"""Names between text and wire, against dnspython."""

from __future__ import annotations

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.dns import names

label_octets = st.binary(min_size=1, max_size=63)
wires = st.lists(label_octets, max_size=8).map(
    lambda labels: b"".join(bytes([len(label)]) + label for label in labels) + b"\0").filter(
        lambda wire: len(wire) <= 255)


@pytest.mark.parametrize(("text", "wire"), [
    (".", b"\0"), ("", b"\0"), ("example.com", b"\7example\3com\0"), ("example.com.", b"\7example\3com\0"),
    ("EXAMPLE.Com", b"\7example\3com\0"), ("a\\.b.c", b"\3a.b\1c\0"), ("\\065\\097.", b"\2aa\0"),
    ("\\000.x", b"\1\0\1x\0"), ("\\255.x", b"\1\xff\1x\0"), ("*.x", b"\1*\1x\0"), ("_tcp.x-y", b"\4_tcp\3x-y\0"),
    ("a\\\\b.", b"\3a\\b\0"), ("a\\ b.", b"\3a b\0"), ("a@b;c.", b"\5a@b;c\0"), ("1.2.", b"\x011\x012\0"),
    ("a" * 63 + ".", b"\x3f" + b"a" * 63 + b"\0"), ("\\@.", b"\1@\0"),
])
def test_to_wire(text: str, wire: bytes) -> None:
    assert names.to_wire(text) == wire


@pytest.mark.parametrize(("text", "why"), [
    ("..", "empty label"), (".a", "empty label"), ("a..b", "empty label"), ("a..", "empty label"),
    ("a" * 64, "label of 64 octets"), (".".join(["a" * 63] * 4), "name of 257 octets"), ("\\256", "no octet"),
    ("\\999.a", "no octet"), ("a\\", "unfinished"), ("a\\1", "unfinished"), ("a\\12", "unfinished"),
    ("a\\1x2", "unfinished"), ("a\\é", "unfinished"), ("a b", "not allowed"), ("bücher.example", "A-label"),
    ("a\tb", "not allowed"), ("a\x00b", "not allowed"), ("a\x7f", "not allowed"), ("a\u0661", "not allowed"),
    ("a\\\u0661\u0662\u0663", "unfinished"),
])
def test_to_wire_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        names.to_wire(text)


@pytest.mark.parametrize(("wire", "text"), [
    (b"\0", "."), (b"\7example\3com\0", "example.com."), (b"\3a.b\1c\0", "a\\.b.c."), (b"\1\0\1\xff\0", "\\000.\\255."),
    (b"\4*_-1\0", "*_-1."), (b"\3a b\0", "a\\032b."), (b"\2@;\0", "\\@\\;."), (b"\1\x7f\0", "\\127."),
])
def test_to_text(wire: bytes, text: str) -> None:
    assert names.to_text(wire) == text


@given(wires)
def test_round_trip(wire: bytes) -> None:
    assert names.to_wire(names.to_text(wire)) == wire.lower()
    assert dns.name.from_text(names.to_text(wire)).to_wire() == wire


@given(wires)
def test_dnspythons_text_is_read_alike(wire: bytes) -> None:
    text = dns.name.from_wire(wire, 0)[0].to_text()
    assert names.to_wire(text) == wire.lower()


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    try:
        wire = names.to_wire(text)
    except ValueError:
        return
    assert dns.name.from_wire(wire, 0)[1] == len(wire)
    assert dns.name.from_text(text or ".").to_digestable() == wire


@given(wires)
def test_family_of_a_name(wire: bytes) -> None:
    name = dns.name.from_wire(wire, 0)[0]
    parents = list(names.parents(wire))
    assert names.labels(wire) == len(parents) == len(names.split(wire)) == len(name) - 1
    assert tuple(names.split(wire)) == name.labels[:-1]
    assert all(wire.endswith(parent) for parent in parents)
    assert [dns.name.from_wire(parent, 0)[0] for parent in parents] == [
        name.split(length)[1] for length in range(len(name) - 1, 0, -1)]


@pytest.mark.parametrize(("name", "ancestor", "under"), [
    ("a.b.c", "b.c", True), ("b.c", "b.c", True), ("c", "b.c", False), ("ab.c", "b.c", False), ("a.b", ".", True),
    (".", ".", True), ("xb.c", "b.c", False),
])
def test_under(name: str, ancestor: str, under: bool) -> None:
    assert names.under(names.to_wire(name), names.to_wire(ancestor)) is under


@pytest.mark.parametrize("wire", [
    b"", b"\3ab\0", b"\1a", b"\0\0", b"\1a\0\0", b"\xc0\x0c", b"\1a\xc0\0", b"\x40" + b"a" * 64 + b"\0"])
def test_split_takes_no_other_than_whole_names(wire: bytes) -> None:
    with pytest.raises(ValueError, match="name"):
        names.split(wire)
