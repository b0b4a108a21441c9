"""The policy: reserved blocks, disguises, own addresses and sockets, ports; and what is wrong with a check."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.dns.prefixes import Prefixes
from dnsd.watch import own
from dnsd.watch.target import NEVER, Check, Policy, faults, forms, literal, special

PUBLIC = ["1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
          "128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255",
          "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888",
          "2001:200::1", "2a00:1450::1", "3ffd:ffff::1", "3fff:1000::1", "2003::1", "2001:db9::1"]

# The registries, block by block, as they stood in 2025, typed in once more: the code's table is not read here.
RESERVED = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/31", "192.0.2.0/24",
    "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.88.99.2/32", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",
    "::1/128", "::/128", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32",
    "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28",
    "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16",
    "fc00::/7", "fe80::/10",
    "ff00::/8", "fec0::/10", "::/96", "::ffff:0:0:0/96", "4000::/2", "8000::/2", "c000::/3", "e000::/4", "f000::/5",
    "0200::/7", "0400::/6", "0800::/5", "1000::/4", "0:1::/32",
]

DISGUISES = ["::ffff:{}", "::{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}", "64:ff9b:1:2:3:4:{}"]


def packed(text: str) -> bytes:
    return ip_address(text).packed


def refused(text: str, port: int = 443, **policy: object) -> str | None:
    return Policy(**policy).refused(packed(text), port)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", PUBLIC)
def test_the_public_internet_may_be_probed(text: str) -> None:
    assert refused(text) is None


@pytest.mark.parametrize("block", RESERVED)
def test_reserved_blocks_are_refused_from_end_to_end(block: str) -> None:
    network = ip_network(block)
    for at in (0, network.num_addresses // 2, network.num_addresses - 1):
        assert refused(str(network[at])), network[at]


@pytest.mark.parametrize("text", [
    # what `ipaddress.is_global` of Python 3.11.7 lets through
    "224.0.0.1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "::127.0.0.1", "3fff::1",
    "5f00::1", "192.88.99.1", "192.0.0.8",
    # metadata services and what else clouds hide behind an address
    "169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "169.254.170.2",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
    # Teredo: server 127.0.0.1; client 127.0.0.1, inverted
    "2001:0:7f00:1::", "2001:0:808:808:0:0:80ff:fffe",
    # ISATAP under a public prefix
    "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:127.0.0.1",
    # after 48, 56 and 64 bits of the local NAT64 prefix
    "64:ff9b:1:7f00:0:100::", "64:ff9b:1:7f:0:1::", "64:ff9b:1:0:7f:0:100:0",
])
def test_known_ways_in(text: str) -> None:
    assert refused(text)


@given(st.sampled_from(DISGUISES), st.sampled_from(["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1"]))
def test_no_disguise_helps_even_if_its_outside_is_allowed(disguise: str, inner: str) -> None:
    text = disguise.format(inner)
    assert refused(text)
    assert packed(inner) in forms(packed(text))
    assert refused(text, allow=Prefixes(["::/0"])), "the inside needs its own permission"
    assert refused(text, allow=Prefixes(["::/0", "0.0.0.0/0"])) is None


@pytest.mark.parametrize(("text", "inside"), [
    ("2606:4700::1", []), ("8.8.8.8", []),
    ("::ffff:1.2.3.4", ["1.2.3.4"]), ("::1.2.3.4", ["1.2.3.4"]), ("::ffff:0:1.2.3.4", ["1.2.3.4"]),
    ("64:ff9b::1.2.3.4", ["1.2.3.4"]), ("2002:102:304::9", ["1.2.3.4"]),
    ("2001:0:102:304::fafa:f9f8", ["1.2.3.4", "5.5.6.7"]), ("2606:4700::5efe:1.2.3.4", ["1.2.3.4"]),
    ("64:ff9b:1:102:3:400::", ["1.2.3.4", "2.3.4.0"]), ("64:ff9b:1:1:2:304::", ["1.2.3.4", "2.3.4.0"]),
    ("64:ff9b:1:0:1:203:400:0", ["1.2.3.4", "4.0.0.0"]), ("64:ff9b:1::1.2.3.4", ["1.2.3.4"]),
])
def test_what_an_address_may_carry(text: str, inside: list[str]) -> None:
    assert set(forms(packed(text))) >= {packed(text), *map(packed, inside)}


@given(st.ip_addresses(v=4))
def test_nat64_is_as_good_as_what_is_inside(inner: IPv4Address) -> None:
    outer = packed("64:ff9b::") [:12] + inner.packed
    assert bool(Policy().refused(outer, 443)) == bool(Policy().refused(inner.packed, 443))


@given(st.ip_addresses(v=6))
def test_only_global_unicast_is_left_of_ipv6(address: IPv6Address) -> None:
    if Policy().refused(address.packed, 443) is None:
        assert address in ip_network("2000::/3") or address in ip_network("64:ff9b::/96")
        assert not address.is_private


@given(st.ip_addresses())
def test_what_the_library_calls_private_is_refused(address: IPv4Address | IPv6Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_loopback:
        assert Policy().refused(address.packed, 443) or address in ip_network("64:ff9b::/96")


def test_a_private_fleet_enters_by_the_allow_list() -> None:
    allow = Prefixes(["10.0.0.0/8", "fd00:1::/32"])
    assert refused("10.1.2.3", allow=allow) is None
    assert refused("fd00:1::5", allow=allow) is None
    assert refused("192.168.0.1", allow=allow)
    assert refused("fd00:2::5", allow=allow)
    assert refused("::ffff:10.1.2.3", allow=allow), "written as what it is, or not at all"
    assert refused("2001:db8:64::1", deny=Prefixes(["2001:db8:64::/96"]), allow=Prefixes(["::/0"]))


def test_own_addresses_need_the_allow_list_and_own_sockets_never_pass() -> None:
    mine = frozenset({packed("8.8.8.8"), packed("2606:4700::1")})
    sockets = frozenset({(b"", 8053), (packed("9.9.9.9"), 6400)})
    every = Prefixes(["0.0.0.0/0", "::/0"])
    assert refused("8.8.8.8", own=mine) == "an address of our own"
    assert refused("64:ff9b::8.8.8.8", own=mine) == "an address of our own"
    assert refused("8.8.8.8", own=mine, allow=every) is None
    for text in ("8.8.8.8", "2606:4700::1", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1",
                 "64:ff9b::8.8.8.8", "2002:7f00:1::", "64:ff9b:1::7f00:1"):
        assert refused(text, 8053, own=mine, sockets=sockets, allow=every) == "a socket of our own", text
    assert refused("9.9.9.9", 6400, sockets=sockets) == "a socket of our own"
    assert refused("::ffff:9.9.9.9", 6400, sockets=sockets, allow=every) == "a socket of our own"
    assert refused("9.9.9.9", 8053, sockets=sockets) is None, "another machine's port is not ours"


def test_ports() -> None:
    for port in (22, 25, 6379, 2375, 10250, 11211, 3306, 5432, 26379):
        assert port in NEVER
        assert refused("8.8.8.8", port)
        assert refused("10.0.0.1", port, allow=Prefixes(["10.0.0.0/8"])), "an address is no port"
    for port in (53, 80, 443, 853, 8080, 8443, 50051, 65535):
        assert refused("8.8.8.8", port) is None
    assert refused("8.8.8.8", 5432, ports=frozenset({5432})) is None, "configuration may name one"
    assert refused("8.8.8.8", 443, ports=frozenset({5432}))
    for port in (0, -1, 65536):
        assert refused("8.8.8.8", port)
    assert Policy().refused(b"", 443) == Policy().refused(b"12345", 443) == "not an address"


def test_reasons_name_the_block() -> None:
    assert special(packed("169.254.169.254")) == "link local, metadata services (RFC 3927)"
    assert special(packed("4000::1")) == "not in use (RFC 4291)"
    assert special(packed("8.8.8.8")) is None


@pytest.mark.parametrize("text", [
    "localhost", "0x7f.1", "127.1", "2130706433", "0177.0.0.1", "127.0.0.1 ", "127.0.0.1\0", "[::1]", "fe80::1%lo",
    "::1%1", "", "10.0.0.0/8", "example.com", "127.0.0.1:80", "127.0.0.01",
])
def test_only_plain_literals_are_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        literal(text)


def test_a_literal_is_packed() -> None:
    assert literal("192.0.2.1") == b"\xc0\0\2\1"
    assert literal("::1") == bytes(15) + b"\1"


GOOD = [
    Check("tcp", 5432), Check("http", 80, "/healthz?full=1", "api.example.com", "HEAD"), Check("tls", 853),
    Check("https", 443, host="192.0.2.1"), Check("https", 443, host="2001:db8::1", status=(200, 200), text=b"ok"),
    Check("grpc", 50051, "/my.Service", tls=True), Check("dns", 53, qname="example.com", qtype=1, text=b"192.0.2.1"),
]


@pytest.mark.parametrize("check", GOOD)
def test_good_checks(check: Check) -> None:
    assert faults(check) == []


@pytest.mark.parametrize(("check", "places"), [
    (Check("icmp", 0), ["/kind", "/port"]),  # type: ignore[arg-type]
    (Check("http", 80, "healthz"), ["/path"]),
    (Check("http", 80, "/a b"), ["/path"]),
    (Check("http", 80, "/\r\nX-Evil: 1"), ["/path"]),
    (Check("http", 80, "/" + "a" * 1024), ["/path"]),
    (Check("http", 80, host="a\r\nX: 1"), ["/host"]),
    (Check("http", 80, host="a:80"), ["/host"]),
    (Check("http", 80, host="a/b"), ["/host"]),
    (Check("http", 80, host="a\n"), ["/host"]),
    (Check("http", 80, host="-a"), ["/host"]),
    (Check("http", 80, method="POST"), ["/method"]),  # type: ignore[arg-type]
    (Check("http", 80, status=(300, 200)), ["/status"]),
    (Check("http", 80, method="HEAD", text=b"ok"), ["/text"]),
    (Check("tcp", 80, text=b"x" * 257), ["/text", "/text"]),
    (Check("tcp", 80, tls=True), ["/tls"]),
    (Check("dns", 53, qname="a..b", qtype=0), ["/qname", "/qtype"]),
    (Check("tcp", 80, interval_ms=99, timeout_ms=1001, address=b"abc"), ["/interval_ms", "/timeout_ms", "/address"]),
])
def test_all_that_is_wrong_is_told_at_once(check: Check, places: list[str]) -> None:
    assert [fault.place for fault in faults(check)] == places


def test_own_addresses_are_what_the_kernel_has() -> None:
    found = own.addresses()
    assert packed("127.0.0.1") in found
    assert {len(address) for address in found} <= {4, 16}


def test_a_broken_answer_of_the_kernel_ends() -> None:
    found: set[bytes] = set()
    for data in (b"", b"\0" * 16, b"\xff" * 64, b"\x14\0\0\0\x14\0" + bytes(10) + b"\2\0\0\0\0\0\0\0\0\0\0\0"):
        own._read(data, found)
    assert not found
