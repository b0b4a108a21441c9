"""dnstap frames, read back by the library and the messages inside by dnspython."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dnstap_pb
import fstrm
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control import dnstap
from dnsd.image import samples
from dnsd.image.samples import Address, Origin, Sample

LOCAL = Address(bytes((192, 0, 2, 53)), 853)
V4, V6 = Address(bytes((198, 51, 100, 77)), 4321), Address(bytes.fromhex("20010db8000100ff0000000000000001"), 99)
TIME = 1_700_000_000_123_456_789


def taps(sample: Sample, transport: int = samples.UDP, *, whole: bool) -> list[dnstap_pb.Dnstap]:
    made = dnstap.Frames("n1", "1.2", whole=whole).frames(Origin(50, 3, transport, TIME, LOCAL), sample)
    codec, found = fstrm.FstrmCodec(), []
    codec.append(made)
    while codec.process():
        kind, _, payload = codec.decode()
        assert kind == fstrm.FSTRM_DATA_FRAME
        found.append(dnstap_pb.Dnstap.FromString(payload))
    assert codec.buf == b""
    return found


def asked(subnet: str = "") -> bytes:
    options = [dns.edns.ECSOption.from_text(subnet)] if subnet else []
    return dns.message.make_query("www.example.com", "A", use_edns=0, options=options).to_wire()


def answered(query: bytes, subnet: str = "", scope: int = 0) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(query))
    if subnet:
        address, length = subnet.split("/")
        reply.use_edns(0, 0, 1232, options=[dns.edns.ECSOption(address, int(length), scope)])
    return reply.to_wire()


@pytest.mark.parametrize(("transport", "protocol"), [
    (samples.UDP, dnstap_pb.UDP), (samples.TCP, dnstap_pb.TCP), (samples.TLS, dnstap_pb.DOT)])
def test_a_query_and_its_answer(transport: int, protocol: int) -> None:
    query = asked("203.0.113.77/32")
    reply = answered(query)
    one, two = taps(Sample(V4, query, reply), transport, whole=True)
    for tap in (one, two):
        assert (tap.identity, tap.version, tap.extra) == (b"n1", b"dnsd 1.2", b"every=50 worker=3")
        assert tap.type == dnstap_pb.Dnstap.MESSAGE
        message = tap.message
        assert (message.socket_protocol, message.socket_family) == (protocol, dnstap_pb.INET)
        assert (message.query_address, message.query_port) == V4
        assert (message.response_address, message.response_port) == LOCAL
        assert (message.query_time_sec, message.query_time_nsec) == divmod(TIME, 10**9)
    assert one.message.type == dnstap_pb.Message.AUTH_QUERY
    assert (one.message.query_message, one.message.HasField("response_message")) == (query, False)
    assert two.message.type == dnstap_pb.Message.AUTH_RESPONSE
    assert (two.message.response_message, two.message.HasField("query_message")) == (reply, False)
    assert (two.message.response_time_sec, two.message.response_time_nsec) == divmod(TIME, 10**9)


def test_a_query_without_an_answer() -> None:
    [one] = taps(Sample(V6, asked(), b""), whole=True)
    assert one.message.type == dnstap_pb.Message.AUTH_QUERY
    assert (one.message.socket_family, one.message.query_address) == (dnstap_pb.INET6, V6.host)


@pytest.mark.parametrize(("client", "shown"), [
    (V4, "c6336400"), (V6, "20010db8000100000000000000000000")])
@pytest.mark.parametrize(("subnet", "kept"), [
    ("203.0.113.77/32", "203.0.113.0"), ("203.0.113.64/26", "203.0.113.0"), ("203.0.113.0/24", "203.0.113.0"),
    ("203.0.0.0/16", "203.0.0.0"), ("2001:db8:1:2ff::1/128", "2001:db8:1:200::"), ("0.0.0.0/0", "0.0.0.0"), ("", "")])
def test_only_prefixes_of_clients(client: Address, shown: str, subnet: str, kept: str) -> None:
    query = asked(subnet)
    one, two = taps(Sample(client, query, answered(query, subnet, 20)), whole=False)
    for tap in (one, two):
        assert tap.message.query_address.hex() == shown
        assert not tap.message.HasField("query_port")
    for octets, scope in ((one.message.query_message, 0), (two.message.response_message, 20)):
        message = dns.message.from_wire(octets)
        assert str(message.question[0].name) == "www.example.com."
        if subnet:
            [option] = message.options
            assert isinstance(option, dns.edns.ECSOption)
            assert (option.address, option.srclen, option.scopelen) == (kept, int(subnet.split("/")[1]), scope)
        else:
            assert not message.options


def test_of_what_cannot_be_read_only_the_question_is_told() -> None:
    query = asked("203.0.113.77/32")
    torn = query[:-1]
    [one] = taps(Sample(V4, torn, b""), whole=False)
    assert one.message.query_message == query[:33]
    assert query[33:36] == b"\0\0\x29"
    [one] = taps(Sample(V4, torn, b""), whole=True)
    assert one.message.query_message == torn


@given(st.binary(max_size=80), st.binary(max_size=80), st.booleans())
def test_anything_at_all(query: bytes, reply: bytes, whole: bool) -> None:
    found = taps(Sample(V4, query, reply), whole=whole)
    assert len(found) == (2 if reply else 1)
    if whole:
        assert found[0].message.query_message == query
