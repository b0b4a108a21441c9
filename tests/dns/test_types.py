"""Mnemonics against dnspython's table."""

from __future__ import annotations

import dns.rcode
import dns.rdatatype
import pytest

from dnsd.dns import types


@pytest.mark.parametrize("number", range(300))
def test_what_is_named_has_its_iana_name(number: int) -> None:
    text = types.type_text(number)
    assert types.type_number(text) == types.type_number(text.lower()) == types.type_number(f"TYPE{number}") == number
    if not text.startswith("TYPE"):
        assert dns.rdatatype.from_text(text) == number


@pytest.mark.parametrize("name", [
    "A", "NS", "CNAME", "SOA", "HINFO", "AAAA", "DNAME", "OPT", "DS", "RRSIG", "NSEC", "HTTPS", "IXFR", "AXFR", "ANY"])
def test_constants(name: str) -> None:
    assert getattr(types, name) == dns.rdatatype.from_text(name)


@pytest.mark.parametrize("name", [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "BADVERS"])
def test_rcodes(name: str) -> None:
    assert getattr(types, name) == dns.rcode.from_text(name)


@pytest.mark.parametrize(("text", "number"), [("TYPE0", 0), ("type65535", 65535), ("TYPE00001", 1), ("aaaa", 28)])
def test_numbers(text: str, number: int) -> None:
    assert types.type_number(text) == number


@pytest.mark.parametrize("text", [
    "", "TYPE", "TYPE65536", "TYPE-1", "TYPE 1", "TYPE1.0", "TYPE\u0661", "28", "QUAD", "A "])
def test_no_type(text: str) -> None:
    with pytest.raises(ValueError, match="is no record type"):
        types.type_number(text)
