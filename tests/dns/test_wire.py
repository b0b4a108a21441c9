"""The pieces of replies and the bounded parser, where the door alone would not show a fault."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.dns import wire
from dnsd.dns.wire import FormError

rrs = st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=6)


@given(st.integers(0, 16), st.booleans(), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.booleans(),
       st.integers(0, 15), st.integers(0, 1), st.booleans(), st.booleans())
def test_heads(rcode: int, aa: bool, answers: int, authority: int, extra: int, tc: bool, opcode: int, questions: int,
               rd: bool, opt: bool) -> None:
    heads = wire.heads(rcode, aa, answers, authority, extra, tc, opcode, questions)
    flags, *counts = struct.unpack(">5H", heads[rd + 2 * opt])
    assert counts == [questions, answers, authority, extra + opt]
    expected = dns.flags.QR | opcode << 11 | rcode & 15
    for bit, on in ((dns.flags.AA, aa), (dns.flags.TC, tc), (dns.flags.RD, rd)):
        expected |= bit if on else 0
    assert flags == expected


@given(rrs)
def test_reown(records: list[tuple[int, int, bytes]]) -> None:
    tails = [struct.pack(">HHIH", type_, 1, ttl, len(rdata)) + rdata for type_, ttl, rdata in records]
    finished = b"".join(b"\xc0\x0c" + tail for tail in tails)
    for owner in (b"\xc1\x23", b"\7example\3com\0", b"\0"):
        assert wire.reown(finished, len(records), owner) == b"".join(owner + tail for tail in tails)


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("extended", [0, 1, 255])
def test_opt_is_read_by_dnspython(do: bool, extended: int) -> None:
    options = wire.option(3, b"me") + wire.error_option(22, "nobody: é")
    message = dns.message.from_wire(
        struct.pack(">6H", 1, 0x8000, 0, 0, 0, 1) + wire.opt(do, options, extended))
    assert (message.payload, message.edns, message.rcode()) == (1232, 0, extended << 4)
    assert bool(message.ednsflags & dns.flags.DO) == do
    nsid, error = message.options
    assert (nsid.otype, nsid.to_wire()) == (3, b"me")
    assert isinstance(error, dns.edns.EDEOption)
    assert (int(error.code), error.text) == (22, "nobody: é")


@pytest.mark.parametrize("do", [False, True])
def test_the_short_ways_to_an_opt_are_the_long_one(do: bool) -> None:
    assert wire.PLAIN_OPT[do] == wire.opt(do)
    for length in range(256):
        head = b"\0\0\x29\x04\xd0\0\0" + (b"\x80\0" if do else b"\0\0") + length.to_bytes(2, "big")
        assert wire.opt(do, bytes(length)) == head + bytes(length)


subnets = st.builds(
    lambda v6, source, bits: (v6, source, bits >> ((128 if v6 else 32) - source) << ((128 if v6 else 32) - source)),
    st.booleans(), st.integers(0, 32), st.integers(0, 2**32 - 1)) | st.builds(
    lambda source, bits: (True, source, bits >> (128 - source) << (128 - source)),
    st.integers(0, 128), st.integers(0, 2**128 - 1))


@given(subnets, st.binary(max_size=9), st.integers(0, 128))
def test_client_subnet_key_and_echo(subnet: tuple[bool, int, int], before: bytes, scope: int) -> None:
    """The key is what a table is asked with: 24 bits of IPv4, all of IPv6; the echo is the option with its scope."""
    v6, source, address = subnet
    packed = address.to_bytes(16 if v6 else 4, "big")[: (source + 7) // 8]
    option = struct.pack(">HHHBB", 8, 4 + len(packed), 2 if v6 else 1, source, 0) + packed
    options = struct.pack(">HH", 65001, len(before)) + before + option
    packet = b"\0\0\x29\4\xd0\0\0\0\0" + struct.pack(">H", len(options)) + options
    size, version, do, found, wishes = wire.parse_opt(packet, 0)
    assert (size, version, do, wishes) == (1232, 0, False, None)
    assert found is not None
    assert found[:3] == (v6, address if v6 else address >> 8, source)
    assert wire.ecs_echo(packet, found, scope) == option[:7] + bytes([scope]) + option[8:]


@given(st.binary(max_size=300))
def test_question_labels_are_dnspythons(data: bytes) -> None:
    packet = bytes(12) + data
    try:
        offsets = wire.question_labels(packet)
    except FormError:
        offsets = None
    plain = True
    at, lengths = 12, []
    while plain and at < len(packet) and packet[at]:
        plain = packet[at] < 64
        lengths.append(at)
        at += packet[at] + 1
    whole = plain and at + 5 <= len(packet) and at - 12 + 1 <= 255
    assert offsets == ([*lengths, at] if whole else None)
    if whole:
        assert dns.name.from_wire(packet, 12)[1] == at - 11


def test_the_longest_name_and_one_more() -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0"
    assert wire.question_labels(bytes(12) + longest + bytes(4))[-1] == 12 + 254
    with pytest.raises(FormError):
        wire.question_labels(bytes(12) + longest[:192] + b"\x3e" + b"b" * 62 + b"\0" + bytes(4))
