"""The query log's lines: one JSON object each, whatever was asked; the fields against dnspython's reading."""

from __future__ import annotations

import json
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control import querylog
from dnsd.image import samples
from dnsd.image.samples import Address, Origin, Sample

FIELDS = ["time", "node", "worker", "every", "transport", "client", "port", "qname", "qclass", "qtype", "flags", "edns",
          "ecs", "rcode", "answer_flags", "answers", "ttl", "scope", "errors", "query_size", "size"]
ORIGIN = Origin(1000, 2, samples.TCP, 1_700_000_000_123_456_789, Address(bytes((192, 0, 2, 53)), 53))
V4, V6 = Address(bytes((198, 51, 100, 77)), 4321), Address(bytes.fromhex("20010db8000100ff0000000000000001"), 99)


def line(query: bytes, reply: bytes = b"", *, client: Address = V4, whole: bool = True) -> dict[str, Any]:
    text = querylog.line(ORIGIN, Sample(client, query, reply), node="n1", whole=whole)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    assert text.isascii()
    told: dict[str, Any] = json.loads(text)
    assert list(told) == FIELDS
    return told


def asked(name: str = "WWW.example.com", type_: str = "A", *, subnet: str = "") -> dns.message.Message:
    options = [dns.edns.ECSOption.from_text(subnet)] if subnet else []
    return dns.message.make_query(name, type_, use_edns=0, payload=1400, want_dnssec=True, options=options)


def answered(query: dns.message.Message, *records: str, scope: int | None = None) -> bytes:
    reply = dns.message.make_response(query, our_payload=1232)
    reply.flags |= dns.flags.AA
    for text in records:
        name, ttl, *rest = text.split(" ", 4)
        reply.answer.append(dns.rrset.from_text(name, int(ttl), *rest))
    if scope is not None:
        reply.use_edns(0, 0, 1232, options=[dns.edns.ECSOption("203.0.113.0", 24, scope)])
    return reply.to_wire(max_size=65535)


def test_a_query_and_its_answer() -> None:
    query = asked(subnet="203.0.113.0/24")
    reply = answered(query, "WWW.example.com. 300 IN CNAME web.example.net.", "web.example.net. 8 IN A 192.0.2.1",
                     "web.example.net. 8 IN TXT \"two words\"", scope=20)
    told = line(query.to_wire(), reply)
    assert told == {
        "time": "2023-11-14T22:13:20.123456Z", "node": "n1", "worker": 2, "every": 1000, "transport": "tcp",
        "client": "198.51.100.77", "port": 4321, "qname": "WWW.example.com.", "qclass": "IN", "qtype": "A",
        "flags": ["rd"], "edns": {"version": 0, "size": 1400, "do": True}, "ecs": "203.0.113.0/24",
        "rcode": "NOERROR", "answer_flags": ["qr", "aa", "rd"],
        "answers": ["CNAME web.example.net.", "A 192.0.2.1", 'TXT "two words"'], "ttl": 8, "scope": 20, "errors": [],
        "query_size": len(query.to_wire()), "size": len(reply)}


@pytest.mark.parametrize(("client", "subnet", "shown", "ecs"), [
    (V4, "203.0.113.77/32", "198.51.100.0/24", "203.0.113.0/24"),
    (V6, "2001:db8:1:203::/64", "2001:db8:1::/56", "2001:db8:1:200::/56"),
    (V4, "203.0.0.0/16", "198.51.100.0/24", "203.0.0.0/16"),
    (V4, "", "198.51.100.0/24", None), (V4, "0.0.0.0/0", "198.51.100.0/24", "0.0.0.0/0"),
])
def test_only_prefixes_of_clients(client: Address, subnet: str, shown: str, ecs: str | None) -> None:
    told = line(asked(subnet=subnet).to_wire(), client=client, whole=False)
    assert (told["client"], told["port"], told["ecs"]) == (shown, None, ecs)


def test_no_answer() -> None:
    told = line(asked().to_wire())
    assert told["rcode"] is told["answers"] is told["ttl"] is told["scope"] is None
    assert told["size"] == 0


def test_a_long_answer_is_not_read() -> None:
    query = asked()
    reply = answered(query, *(f"www.example.com. 8 IN TXT {'x' * 200}{i}" for i in range(30)))
    assert len(reply) > querylog.WHOLE
    told = line(query.to_wire(), reply)
    assert (told["rcode"], told["answers"], told["size"]) == ("NOERROR", None, len(reply))
    many = answered(query, *(f"www.example.com. 8 IN A 192.0.2.{i}" for i in range(50)))
    assert len(line(query.to_wire(), many)["answers"]) == querylog.ANSWERS


def test_a_signed_query_is_read_up_to_its_signature() -> None:
    query = asked(subnet="203.0.113.0/24")
    query.use_tsig(dns.tsig.Key("key", b"0123456789abcdef"))
    told = line(query.to_wire())
    assert (told["ecs"], told["edns"]["do"]) == ("203.0.113.0/24", True)


@pytest.mark.parametrize("label", [
    b'"\n\r{}', b"\x00\x1b[31m", "\u2028\x85".encode(), b"\xff" * 63, b"a.b\\", b'","qname":"evil'])
def test_hostile_names_stay_in_their_line(label: bytes) -> None:
    packet = bytes(4) + b"\0\1" + bytes(6) + bytes([len(label)]) + label + b"\0\0\1\0\1"
    told = line(packet)
    parsed = dns.message.from_wire(packet)
    assert dns.name.from_text(told["qname"]) == parsed.question[0].name
    assert (told["qclass"], told["qtype"]) == ("IN", "A")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_anything_at_all(query: bytes, reply: bytes) -> None:
    told = line(query, reply)
    assert told["query_size"] == len(query)


@given(st.binary(max_size=60), st.integers(0, 65535), st.integers(0, 65535))
def test_anything_behind_a_question(tail: bytes, type_: int, class_: int) -> None:
    question = b"\3www\0" + type_.to_bytes(2, "big") + class_.to_bytes(2, "big")
    told = line(bytes(4) + b"\0\1\0\0\0\0\0\1" + question + tail)
    assert told["qname"] == "www."
