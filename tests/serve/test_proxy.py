"""PROXY v2: what each header means, however it is cut, and that no octets at all raise anything but ValueError."""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dnsd.serve import proxy

V4 = ip_address("192.0.2.7").packed + ip_address("198.51.100.1").packed + struct.pack(">HH", 4711, 53)
V6 = ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed + struct.pack(">HH", 4711, 53)
MAPPED = ip_address("::ffff:192.0.2.7").packed + V6[16:]
UNIX = b"/run/balancer".ljust(108, b"\0") * 2
TLV = b"\x04\0\x05hello" + b"\x03\0\4\1\2\3\4"


def header(command: int = 0x21, kind: int = 0x11, block: bytes = V4) -> bytes:
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes((command, kind)) + struct.pack(">H", len(block)) + block


MEANINGS = {
    "IPv4": (header(), "192.0.2.7"),
    "IPv4 from a datagram": (header(kind=0x12), "192.0.2.7"),
    "IPv6": (header(kind=0x21, block=V6), "2001:db8::7"),
    "IPv6 from a datagram": (header(kind=0x22, block=V6), "2001:db8::7"),
    "IPv4 in IPv6 disguise": (header(kind=0x21, block=MAPPED), "192.0.2.7"),
    "IPv4 and TLVs": (header(block=V4 + TLV), "192.0.2.7"),
    "IPv6 and TLVs": (header(kind=0x21, block=V6 + TLV), "2001:db8::7"),
    "the largest": (header(block=V4 + bytes(508)), "192.0.2.7"),
    "local": (header(0x20, 0, b""), None),
    "local with addresses": (header(0x20), None),
    "local of an unknown family": (header(0x20, 0xFF, b"x"), None),
    "unspecified": (header(kind=0, block=b""), None),
    "unspecified with octets": (header(kind=0, block=V4), None),
    "UNIX": (header(kind=0x31, block=UNIX), None),
    "UNIX datagram": (header(kind=0x32, block=UNIX), None),
}
FAULTS = {
    "version 1": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 53\r\n",
    "a query": bytes.fromhex("001d0001010000010000000000000377777704746573740000010001"),
    "signature, one octet wrong": header()[:11] + b"\r" + header()[12:],
    "version 3": header(0x31),
    "version 0": header(0x01),
    "unknown command": header(0x22),
    "unknown family": header(kind=0x41),
    "unknown transport": header(kind=0x13),
    "family without transport": header(kind=0x10),
    "IPv4 too short": header(block=V4[:11]),
    "IPv6 too short": header(kind=0x21, block=V6[:35]),
    "UNIX too short": header(kind=0x31, block=UNIX[:215]),
    "too long": header(block=V4 + bytes(509)),
    "local and too long": header(0x20, 0, bytes(521)),
    "65535 octets": header()[:14] + b"\xff\xff",
}


@pytest.mark.parametrize("name", MEANINGS)
def test_a_header_is_read_when_its_last_octet_is_there(name: str) -> None:
    data, client = MEANINGS[name]
    expected = proxy.Head(len(data), ip_address(client).packed if client else b"")
    for end in range(len(data)):
        assert proxy.read(data[:end]) is None
    assert proxy.read(data) == expected
    assert proxy.read(data + b"\0\x1d what follows") == expected


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_header_is_found_out_without_waiting(name: str) -> None:
    data = FAULTS[name]
    known = next(end for end in range(len(data) + 1) if faulty(data[:end]))
    assert known <= proxy.FIXED
    assert all(faulty(data[:end]) for end in range(known, len(data) + 1))


def faulty(data: bytes) -> bool:
    try:
        proxy.read(data)
    except ValueError:
        return True
    return False


@given(st.binary(max_size=600) | st.binary(max_size=600).map(lambda tail: proxy.SIGNATURE + tail)
       | st.tuples(st.sampled_from((0x20, 0x21)), st.sampled_from((0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32)),
                   st.binary(max_size=540)).map(lambda each: header(*each)))
@example(b"")
def test_nothing_else_is_raised_and_nothing_too_long_is_waited_for(data: bytes) -> None:
    with suppress(ValueError):
        head = proxy.read(data)
        if head is None:
            assert len(data) < proxy.LARGEST
        else:
            assert proxy.FIXED <= head.size <= min(len(data), proxy.LARGEST)
            assert len(head.client) in (0, 4, 16)
