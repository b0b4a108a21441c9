"""The engine's rate limiting takes from every bucket what `dns.guard` takes, and writes it down alike."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.dns.guard import AHEAD, KINDS, PACES, RAISED, TIME, UNIT_NS, Guard
from dnsd.dns.prefixes import Prefixes
from dnsd.engine import door as engine

SECOND = 1_000_000_000 // UNIT_NS
MODULUS = (1 << 61) - 1  # of Python's hash of whole numbers
WORD = (1 << 64) - 1
KEYS = [0, 1, 0x0123456789ABCDEF, MODULUS - 1, MODULUS, MODULUS + 1, 1 << 62, 1 << 63, WORD]
CLIENT = bytes((192, 0, 2, 1))
NETWORKS = [
    CLIENT, bytes((192, 0, 2, 255)), bytes((192, 0, 3, 0)), bytes(4), b"\xff" * 4, bytes(16), b"\xff" * 16,
    bytes.fromhex("20010db8000000ffffffffffffffffff"), bytes.fromhex("20010db8000001000000000000000000"),
    bytes.fromhex("20010db8000000800000000000000001"), bytes.fromhex("0000000000000200") + bytes(8)]
COST = -(-SECOND // 10)  # of a token, in what follows
LISTS: list[tuple[list[str], list[str]]] = [
    ([], []), (["127.0.0.0/8", "::1"], []), (["192.0.2.0/24"], ["192.0.2.1"]), (["192.0.2.1"], ["192.0.2.0/23"]),
    (["192.0.2.128/25", "2001:db8::/57"], ["2001:db8::/32", "0.0.0.0/0"]), ([], ["2001:db8::ff:0:0:0:0/72", "::/0"])]


class Both:
    """A guard and an engine's door that took it over, each with its own table of the same words."""

    def __init__(self, words: Sequence[int] = (0,) * 64, *, answers: int = 10, others: int = 5, burst_s: float = 1.0,
                 raised_by: int = 3, lists: tuple[list[str], list[str]] = ([], []), key: int = KEYS[2]) -> None:
        def made(table: array[int]) -> Guard:
            return Guard(table, answers=answers, others=others, burst_s=burst_s, raised_by=raised_by, key=key,
                         exempt=Prefixes(lists[0]), raised=Prefixes(lists[1]))

        self.table, self.engines = array("Q", words), array("Q", words)
        self.guard = made(self.table)
        self.door = door(made(self.engines).flat())

    def at(self, now: int) -> None:
        """Set the time of both, in the guard's units."""
        self.guard.now = self.door.guard_now = now & TIME

    def over(self, client: bytes = CLIENT, zone: int = 1, kind: int = 0) -> bool:
        """What both say, after the same has been written down."""
        found = self.door.over(client, zone, kind)
        assert found is self.guard.over(client, zone, kind)
        assert self.engines == self.table
        return found


def door(parts: Any) -> engine.Door:
    """A door with a guard's buckets."""
    made = engine.Door(memoryview(bytearray(8 * metrics.SLOTS)).cast("Q"))
    made.guard(parts)
    return made


def place(key: int, prefix: int, zone: int, kind: int, size: int) -> tuple[int, int]:
    """(Slot, tag) of a bucket, as the guard's docstring has them."""
    hashed = hash((key, prefix, zone << 4 | kind))
    return hashed & size - 1, hashed & WORD ^ hashed & TIME


times = st.sampled_from([0, 1, SECOND, TIME - SECOND, TIME - 1, TIME, TIME // 2]) | st.integers(0, TIME)
takes = st.tuples(
    st.sampled_from(NETWORKS) | st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    st.sampled_from([0, 1, 2, (1 << 32) - 1]), st.integers(0, KINDS - 1), st.integers(1, 12))
moves = st.lists(
    st.tuples(st.sampled_from([0, 1, SECOND // 10, 3 * SECOND, 61 * SECOND, -SECOND, AHEAD]), takes), max_size=40)


@given(st.integers(1, 5), st.data(), times, moves, st.sampled_from(LISTS),
       st.sampled_from(KEYS) | st.integers(0, WORD), st.integers(1, 2000), st.floats(0.1, 60))
def test_the_same_of_any_table_at_any_time(
        bits: int, data: st.DataObject, now: int, steps: list[tuple[int, tuple[bytes, int, int, int]]],
        lists: tuple[list[str], list[str]], key: int, rate: int, burst_s: float) -> None:
    words = data.draw(st.lists(st.just(0) | st.integers(0, WORD), min_size=1 << bits, max_size=1 << bits))
    both = Both(words, answers=rate, others=7, burst_s=burst_s, lists=lists, key=key)
    for step, (client, zone, kind, number) in steps:
        now += step
        both.at(now)
        for _ in range(number):
            both.over(client, zone, kind)


@pytest.mark.parametrize("key", KEYS)
def test_any_key_gives_the_same_slots_and_tags(key: int) -> None:
    """Keys from 2^61 - 1 on are reduced by Python's hash; half of the hashes are negative there."""
    both = Both([0] * 4096, key=key)
    both.at(SECOND)
    signs = set()
    for number in range(64):
        client, zone = struct.pack(">I", number * 0x03F1_0100), number * 0x0401_1F01
        assert not both.over(client, zone, number % KINDS)
        slot, tag = place(key, int.from_bytes(client[:3], "big"), zone, number % KINDS, 4096)
        assert both.engines[slot] & ~TIME == tag or both.engines[slot ^ 1] & ~TIME == tag
        signs.add(hash((key, int.from_bytes(client[:3], "big"), zone << 4 | number % KINDS)) < 0)
    assert signs == {True, False}


def key_for(hashed: int, prefix: int, rest: int) -> int:
    """The key with which xxHash's rounds end at a number: CPython's tuplehash, backwards."""
    first, second, start = 11400714785074694791, 14029467366897019727, 2870177450012600261
    value = hashed - (3 ^ start ^ 3527539)
    for lane in (rest, prefix, 0):
        value = value * pow(first, -1, 1 << 64) & WORD
        value = ((value >> 31 | value << 33) & WORD) - lane * second
    return (value - start) * pow(second, -1, 1 << 64) & WORD


def test_the_hash_that_python_does_not_give() -> None:
    """-1 means an error there, and is replaced."""
    zone, key = next((zone, key) for zone in range(99) if (key := key_for(WORD, 0xC00002, zone << 4)) < MODULUS)
    assert hash((key, 0xC00002, zone << 4)) == 1546275796
    both = Both(key=key)
    both.at(SECOND)
    assert not both.over(zone=zone)
    assert both.engines[1546275796 & 63] == SECOND + COST


@pytest.mark.parametrize(("text", "prefix"), [
    ("0.0.0.255", 0), ("255.255.255.0", 0xFFFFFF), ("192.0.2.1", 0xC00002), ("::", 1 << 56),
    ("2001:db8:0:ff:ffff::", 0x20010DB8000000 | 1 << 56), ("2001:db8:0:100::", 0x20010DB8000001 | 1 << 56),
    ("0:0:0:200::", 2 | 1 << 56), ("ffff:ffff:ffff:ff00::", (1 << 56) - 1 | 1 << 56)])
def test_whose_bucket_it_is(text: str, prefix: int) -> None:
    both = Both()
    both.at(SECOND)
    assert not both.over(ip_address(text).packed, 9, 2)
    slot, tag = place(KEYS[2], prefix, 9, 2, 64)
    assert [word & ~TIME for word in both.engines if word] == [tag]
    assert both.engines[slot]


@pytest.mark.parametrize("now", [0, 5, SECOND, TIME - COST, TIME - 1, TIME])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("ahead", "over"), [
    (0, False), (1, False), (9 * COST, False), (9 * COST + 1, True), (10 * COST, True), (AHEAD - 1, True),
    (AHEAD, True), (AHEAD + 1, False), (TIME - 1, False), (TIME, False)])
def test_how_full_a_bucket_is(now: int, beside: bool, ahead: int, over: bool) -> None:
    """Up to the burst, up to what is too far ahead to be true, past the wrap; in its slot or in the neighbour."""
    slot, tag = place(KEYS[2], 0xC00002, 1, 0, 64)
    words = [0] * 64
    words[slot ^ beside] = tag | now + ahead & TIME
    words[slot ^ 1 ^ beside] = (tag ^ 1 << 63) | now
    both = Both(words)
    both.at(now)
    assert both.over() is over
    after = words[slot ^ beside] if over else tag | now + (0 if ahead > AHEAD else ahead) + COST & TIME
    assert both.engines[slot ^ beside] == after
    assert both.engines[slot ^ 1 ^ beside] == words[slot ^ 1 ^ beside]


@pytest.mark.parametrize("now", [0, SECOND, TIME])
@pytest.mark.parametrize(("here", "there", "taken"), [
    (0, 0, 0), (0, 1, 0), (1, 0, 1), (5, 5, 0), (AHEAD, AHEAD, 0), (AHEAD, AHEAD - 1, 1), (AHEAD - 1, AHEAD, 0),
    (AHEAD + 1, 0, 0), (AHEAD + 1, AHEAD, 0), (0, AHEAD + 1, 1), (AHEAD, AHEAD + 1, 1), (AHEAD + 1, AHEAD + 1, 0),
    (TIME, 1, 0), (1, TIME, 1), (TIME, TIME, 0)])
@pytest.mark.parametrize("other", [1 << 44, 1 << 63, WORD ^ TIME])
def test_which_of_two_strangers_goes(now: int, here: int, there: int, taken: int, other: int) -> None:
    """The emptier one, and one that is long past before any."""
    slot, tag = place(KEYS[2], 0xC00002, 1, 0, 2)
    words = [0, 0]
    words[slot], words[slot ^ 1] = tag ^ other | now + here & TIME, tag ^ other | now + there & TIME
    both = Both(words)
    both.at(now)
    assert both.over() is False
    assert both.engines[slot ^ taken] == tag | now + COST & TIME
    assert both.engines[slot ^ 1 ^ taken] == words[slot ^ 1 ^ taken]


@pytest.mark.parametrize("lists", LISTS)
@pytest.mark.parametrize("kind", range(KINDS))
def test_exempt_and_raised_clients(lists: tuple[list[str], list[str]], kind: int) -> None:
    both = Both([0] * 1024, lists=lists)
    both.at(SECOND)
    exempt, raised = Prefixes(lists[0]), Prefixes(lists[1])
    for client in NETWORKS:
        over = [both.over(client, 1, kind) for _ in range(40)]
        assert not any(over) or client not in exempt
        assert over.count(False) <= (40 if client in exempt else (30, 15)[kind > 0] if client in raised else 10)
    assert not any(both.over(client, 1, kind) for client in NETWORKS if client in exempt)


def _networks(bits: int, kind: type[IPv4Network] | type[IPv6Network]) -> st.SearchStrategy[str]:
    lengths = st.integers(0, bits) | st.integers(bits - 4, bits) | st.sampled_from([24, 25, bits // 2])
    return st.builds(
        lambda address, length: str(kind((address >> bits - length << bits - length, length))),
        st.integers(0, (1 << bits) - 1) | st.sampled_from([0, (1 << bits) - 1, 1 << bits // 2]), lengths)


networks = st.lists(_networks(32, IPv4Network) | _networks(128, IPv6Network), max_size=8)


@given(networks, networks, st.data())
def test_any_lists(exempt: list[str], raised: list[str], data: st.DataObject) -> None:
    """With no tokens for the usual kinds and many for the raised, who is over tells in which list an address is."""
    it = Guard(array("Q", [0, 0]), answers=1, others=1, burst_s=1, raised_by=1, key=1, exempt=Prefixes(exempt),
               raised=Prefixes(raised))
    tokens = (0,) * RAISED + (TIME,) * (PACES - RAISED)
    alone = door(it.flat()._replace(mosts=(0,) * PACES, apart4=False, apart6=False))
    with_raised = door(it.flat()._replace(mosts=tokens, apart4=True, apart6=True))
    near = [0, 1, (1 << 32) - 1, 1 << 64, (1 << 128) - 1]
    for text in exempt + raised:
        network = ip_network(text)
        near += [int(network[0]) + d for d in (-1, 0, 1)] + [int(network[-1]) + d for d in (-1, 0, 1)]
    for address in near + data.draw(st.lists(st.integers(0, (1 << 128) - 1), max_size=4)):
        for size in (4, 16):
            client = (address & (1 << 8 * size) - 1).to_bytes(size, "big")
            assert alone.over(client, 0, 0) is (client not in Prefixes(exempt))
            assert with_raised.over(client, 0, 0) is (client not in Prefixes(exempt) and client not in Prefixes(raised))


def test_python_and_the_engine_take_of_one_bucket() -> None:
    one = Guard(array("Q", [0] * 64), answers=10, others=5, burst_s=1, raised_by=1, key=7, exempt=Prefixes([]),
                raised=Prefixes([]))
    other = door(one.flat())
    one.now = other.guard_now = TIME - 2
    found = [one.over(CLIENT, 1, 0) if turn % 3 else other.over(CLIENT, 1, 0) for turn in range(20)]
    assert found == [False] * 10 + [True] * 10
    one.now = other.guard_now = TIME - 2 + SECOND & TIME
    assert [other.over(CLIENT, 1, 0), one.over(CLIENT, 1, 0)].count(False) == 2


def test_a_door_takes_another_guard() -> None:
    """Lists of any length one after the other: nothing of those before is left."""
    made = engine.Door(memoryview(bytearray(8 * metrics.SLOTS)).cast("Q"))
    for number in (1, 300, 0, 2):
        exempt = [text for at in range(number) for text in (f"10.{at >> 8}.{at & 255}.1", f"2001:db8:{at:x}::1")]
        it = Guard(array("Q", [0, 0]), answers=1, others=1, burst_s=1, raised_by=1, key=1, exempt=Prefixes(exempt),
                   raised=Prefixes([]))
        made.guard(None)
        made.guard(it.flat()._replace(mosts=(0,) * PACES))
        for at in (0, 1, 2, 299, 300):
            assert made.over(bytes((10, at >> 8, at & 255, 1)), 0, 0) is (at >= number)
            assert made.over(ip_address(f"2001:db8:{at:x}::1").packed, 0, 0) is (at >= number)


@pytest.mark.parametrize("change", [{"mask": 3}, {"mask": 0}, {"key": -1}, {"slipped": bytearray()}])
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    it = Guard(array("Q", [0, 0]), answers=1, others=1, burst_s=1, raised_by=1, key=1, exempt=Prefixes([]),
               raised=Prefixes([]))
    with pytest.raises((ValueError, OverflowError)):
        door(it.flat()._replace(**change))
