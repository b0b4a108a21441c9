"""Queries and replies by an independent decoder, and octets that are no reply."""

from __future__ import annotations

import ipaddress

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control import reply
from dnsd.dns import names


@pytest.mark.parametrize("subnet", [None, "192.0.2.0/24", "10.0.0.0/9", "2001:db8::/56", "0.0.0.0/0", "::/0"])
def test_queries_are_what_dnspython_reads(subnet: str | None) -> None:
    network = ipaddress.ip_network(subnet) if subnet else None
    message = dns.message.from_wire(reply.query(names.to_wire("api.example.com"), 28, network))
    assert [(str(q.name), q.rdtype) for q in message.question] == [("api.example.com.", dns.rdatatype.AAAA)]
    assert message.edns == 0
    if network is None:
        assert message.options == ()
    else:
        (option,) = message.options
        assert isinstance(option, dns.edns.ECSOption)
        assert (option.address, option.srclen, option.scopelen) == (
            str(network.network_address), network.prefixlen, 0)


def test_replies_that_dnspython_writes() -> None:
    query = dns.message.make_query("www.example.com", "A", use_edns=0, payload=1232)
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.AA
    answer.answer = [dns.rrset.from_text("www.example.com.", 5, "IN", "CNAME", "x.example.com."),
                     dns.rrset.from_text("x.example.com.", 6, "IN", "A", "192.0.2.1", "192.0.2.2")]
    answer.authority = [dns.rrset.from_text("example.com.", 7, "IN", "NS", "ns.example.com.")]
    answer.additional = [dns.rrset.from_text("ns.example.com.", 8, "IN", "AAAA", "2001:db8::1")]
    answer.use_edns(0, 0, 1232, options=[
        dns.edns.ECSOption("192.0.2.0", 24, 17), dns.edns.EDEOption(3, "old"), dns.edns.GenericOption(99, b"x")])
    answer.set_rcode(16)
    found = reply.parse(answer.to_wire())
    assert (found.rcode, found.scope, found.errors) == (16, 17, [(3, "old")])
    assert [(names.to_text(rr.owner), rr.type, rr.ttl) for rr in found.answer] == [
        ("www.example.com.", 5, 5), ("x.example.com.", 1, 6), ("x.example.com.", 1, 6)]
    assert {rr.rdata for rr in found.answer[1:]} == {b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"}
    assert [len(found.authority), len(found.additional)] == [1, 1]


GOOD = b"\0\0\x84\0\0\1\0\1\0\0\0\0\x01a\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc0\0\2\1"


@pytest.mark.parametrize(("data", "fault"), [
    (GOOD[:-1], "behind"), (GOOD + b"x", "behind the reply"), (GOOD[:11], "too early"), (b"", "too early"),
    (GOOD.replace(b"\xc0\x0c\0\1", b"\xc0\x13\0\1"), "lead back"),
    (GOOD.replace(b"\xc0\x0c\0\1\0\1", b"\xc0\x0c\0\1\0\3"), "class 3"),
    (GOOD.replace(b"\xc0\x0c\0\1", b"\xc0\xff\0\1"), "lead back"),
])
def test_octets_that_are_no_reply(data: bytes, fault: str) -> None:
    assert reply.parse(GOOD).answer[0].rdata == b"\xc0\0\2\1"
    with pytest.raises(ValueError, match=fault):
        reply.parse(data)


@given(st.binary(max_size=60), st.integers(0, len(GOOD)))
def test_no_octets_raise_anything_else(noise: bytes, at: int) -> None:
    try:
        reply.parse(GOOD[:at] + noise + GOOD[at + len(noise):])
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either is fine, nothing else is
