"""Prefix sets against the standard library's own idea of membership."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.dns.prefixes import Prefixes


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.mark.parametrize(("texts", "inside", "outside"), [
    (["192.0.2.0/24"], ["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0", "::c000:201"]),
    (["192.0.2.7"], ["192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
    (["2001:db8::/33", "2001:db8:ffff::1"], ["2001:db8::", "2001:db8:7fff::9", "2001:db8:ffff::1"],
     ["2001:db8:8000::", "2001:db8:ffff::", "32.1.13.184"]),
    (["0.0.0.0/0"], ["0.0.0.0", "255.255.255.255"], ["::", "::1"]),
    (["::/0"], ["::", "ffff::"], ["0.0.0.0", "192.0.2.1"]),
    (["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"], ["10.1.2.3", "10.2.0.0", "11.255.0.1"], ["12.0.0.0"]),
    ([], [], ["0.0.0.0", "192.0.2.1", "::"]),
])
def test_membership(texts: list[str], inside: list[str], outside: list[str]) -> None:
    prefixes = Prefixes(texts)
    assert bool(prefixes) == bool(texts)
    assert [text for text in inside if packed(text) not in prefixes] == []
    assert [text for text in outside if packed(text) in prefixes] == []


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.1/24 has host bits set; .*'nowhere'.*; .*'10/40'") as raised:
        Prefixes(["192.0.2.1/24", "10.0.0.0/8", "nowhere", "::/64", "10/40"])
    assert "::/64" not in str(raised.value)


def _networks(bits: int, kind: type[IPv4Network] | type[IPv6Network]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda address, length: str(kind((address >> bits - length << bits - length, length))),
        st.integers(0, (1 << bits) - 1), st.integers(0, bits))


@given(st.lists(_networks(32, IPv4Network) | _networks(128, IPv6Network), max_size=8), st.data())
def test_as_ipaddress_says(texts: list[str], data: st.DataObject) -> None:
    prefixes, networks = Prefixes(texts), [ip_network(text) for text in texts]
    near = [address for network in networks for address in (network[0], network[-1])]
    anywhere = st.ip_addresses() | st.sampled_from(near) if near else st.ip_addresses()
    address = data.draw(anywhere)
    assert (address.packed in prefixes) == any(address in network for network in networks)


@pytest.mark.parametrize(("texts", "longest"), [
    ([], (0, 0)), (["0.0.0.0/0", "::/0"], (0, 0)), (["10.0.0.0/8", "192.0.2.0/24", "10.1.0.0/16"], (24, 0)),
    (["2001:db8::/56", "192.0.2.1"], (32, 56)), (["::1", "127.0.0.0/8"], (8, 128))])
def test_longest(texts: list[str], longest: tuple[int, int]) -> None:
    assert Prefixes(texts).longest() == longest


@pytest.mark.parametrize(("texts", "v4", "v6"), [
    ([], [], []),
    (["0.0.0.0/0", "10.0.0.0/8"], [(0, 2**32 - 1)], []),
    (["11.0.0.0/8", "10.0.0.0/8", "10.1.0.0/16"], [(10 << 24, (12 << 24) - 1)], []),
    (["192.0.2.7", "192.0.2.9", "::/0"], [(0xC0000207, 0xC0000207), (0xC0000209, 0xC0000209)], [(0, 2**128 - 1)]),
    (["255.255.255.255", "0.0.0.0", "::", "::1"], [(0, 0), (2**32 - 1, 2**32 - 1)], [(0, 1)]),
])
def test_ranges(texts: list[str], v4: list[tuple[int, int]], v6: list[tuple[int, int]]) -> None:
    assert Prefixes(texts).ranges() == (v4, v6)


@given(st.lists(_networks(32, IPv4Network) | _networks(128, IPv6Network), max_size=8), st.data())
def test_ranges_say_the_same_in_order_and_as_few_as_can_be(texts: list[str], data: st.DataObject) -> None:
    prefixes = Prefixes(texts)
    for bits, ranges in zip((32, 128), prefixes.ranges(), strict=True):
        assert all(first <= last for first, last in ranges)
        assert all(before[1] + 1 < behind[0] for before, behind in pairwise(ranges))
        near = {0, (1 << bits) - 1}.union(*({first - 1, first, last, last + 1} for first, last in ranges))
        for address in near | data.draw(st.sets(st.integers(0, (1 << bits) - 1), max_size=3)):
            if 0 <= address < 1 << bits:
                within = any(first <= address <= last for first, last in ranges)
                assert (address.to_bytes(bits // 8, "big") in prefixes) == within
