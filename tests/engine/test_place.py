"""The engine finds the rows and scopes that `MapTable` finds, in any table, and takes over none it could leave.

Asked through whole answers: each row has a site of its own at level 0, so the address tells the row, and the client
subnet that is sent back tells the scope.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any
from zlib import crc32

import pytest

from dnsd.compile import image as compiler
from dnsd.dns import types
from dnsd.engine import door as engine
from dnsd.image import layout
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import EndpointView, MapView, Policy, ServiceView
from tests.engine.pairs import Pair
from tests.golden.world import NOW, RESOLVER, STAMP, table_bytes, v6, wire, zone
from tests.hostile.packets import asked, ecs

SITES = 12
ROWS = [[(0 if column == row else 18, 0) for column in range(SITES)] for row in range(SITES)]
OWNER = wire("www.example.com")
MAPPED, NAT64, TEREDO = "00000000000000000000ffff", "0064ff9b0000000000000000", "20010000000000000000ffff"
EDGES6 = [v6(text) for text in ("::", "0:0:0:1::", "64:ff9b::", "64:ff9c::", "2000::", "2001::", "2001:1::", "2002::",
                                "2003::", "2400::", "3fff:ffff::", "4000::", "fc00::")]
Runs = list[tuple[int, int]]
Fine = list[tuple[int, int, int]]


@cache
def built() -> bytes:
    """One service with an endpoint in each of the map's sites; nothing but distance counts."""
    sites = tuple(f"s{number:02d}" for number in range(SITES))
    live = tuple(EndpointView(f"e{number:02d}", site, bytes((10, 9, 9, number)), None)
                 for number, site in enumerate(sites))
    view = ServiceView(OWNER, Policy(proximity=1, band_ms=0), 8, frozenset({types.A}), live)
    return compiler.build([zone("example.com", "")], [view], [MapView(0, "map", sites)], STAMP, 0).data


def pair_of(octets: bytes) -> Pair:
    """Python and the engine over that table."""
    held = Image(built())
    held.set_map(0, MapTable(octets))
    return Pair(held, tables={0: octets})


def question(family: int = 0, source: int = 0, address: bytes = b"") -> bytes:
    """A query for the service; with a client subnet where there is a family."""
    if not family:
        return asked(OWNER)
    cut = bytearray(address[: (source + 7) // 8])
    if source % 8:
        cut[-1] &= 0xFF << 8 - source % 8 & 0xFF
    return asked(OWNER, options=ecs(family, source, bytes(cut)))


def row_told(reply: bytes | None) -> int:
    """The row that an answer's address tells. The address is the last of its RR, which follows the question."""
    assert reply is not None
    at = 12 + len(OWNER) + 4 + 12
    assert reply[3] & 15 == 0
    assert reply[at : at + 3] == bytes((10, 9, 9))
    return reply[at + 3]


def scope_told(reply: bytes, packet: bytes) -> int:
    """The scope in the client subnet that is sent back, which is the last there is."""
    option = packet[12 + len(OWNER) + 4 + 11 :]
    assert reply[-len(option) :][:7] == option[:7]
    return reply[len(reply) - len(option) + 7]


# --- random tables ----------------------------------------------------------------------------------------------------

def key4(rnd: random.Random) -> int:
    """A key near an edge of an index slot, or anywhere."""
    if rnd.random() < 0.5:
        return rnd.randrange(1 << 24)
    return min(max((rnd.randrange(1 << 16) << 8) + rnd.randint(-2, 2), 0), (1 << 24) - 1)


def key6(rnd: random.Random) -> int:
    """Likewise of IPv6, near what is a disguise or outside the index too."""
    slot = layout.INDEX6_BASE + (rnd.randrange(layout.INDEX6_SLOTS) << layout.INDEX6_SHIFT)
    key = rnd.choice([slot, slot, rnd.choice(EDGES6), rnd.getrandbits(64)]) + rnd.randint(-2, 2)
    return min(max(key, 0), (1 << 64) - 1)


def runs_at(starts: Iterable[int], rnd: random.Random, rows: int) -> Runs:
    """Runs with those starts and 0; now and then a row that is not there."""
    return [(start, rnd.choice([0, rnd.randrange(rows), rnd.randrange(rows), rnd.choice([rows, 2**32 - 1])]))
            for start in sorted({0, *starts})]


def fine_at(edges: set[int], rnd: random.Random) -> Fine:
    """Disjoint first and last keys with rows."""
    found = sorted(edges)[: len(edges) // 2 * 2]
    return [(low, high, rnd.randrange(SITES + 2)) for low, high in zip(found[::2], found[1::2], strict=True)]


def table(rnd: random.Random, size: int) -> tuple[bytes, list[int], list[int]]:
    """A table with about that many runs, and the keys at which something begins or ends."""
    crowd = rnd.randrange(1 << 16) << 8  # many runs in one slot
    starts4 = {key4(rnd) for _ in range(size)} | {crowd + rnd.randrange(256) for _ in range(size // 2)}
    starts6 = {key6(rnd) for _ in range(size)} | {v6("2400::") + rnd.randrange(1 << 20) for _ in range(size // 2)}
    fine4 = fine_at({key4(rnd) << 8 | rnd.randrange(256) for _ in range(rnd.choice([0, 2, 40]))}, rnd)
    fine6 = fine_at({key6(rnd) for _ in range(rnd.choice([0, 2, 40]))}, rnd)
    octets = table_bytes(SITES, ROWS, runs_at(starts4, rnd, SITES), runs_at(starts6, rnd, SITES), fine4, fine6)
    keys4 = [*starts4, *(edge >> 8 for low, high, _ in fine4 for edge in (low, high))]
    return octets, [0, *keys4], [0, *starts6, *(edge for low, high, _ in fine6 for edge in (low, high))]


def addresses6(rnd: random.Random, keys4: list[int], keys6: list[int]) -> bytes:
    """A whole IPv6 address near an edge, or a disguise of an IPv4 address near one."""
    four = (max(rnd.choice(keys4) + rnd.randint(-1, 1), 0) << 8 & 0xFFFFFF00 | rnd.randrange(256)).to_bytes(4, "big")
    six = min(max(rnd.choice(keys6) + rnd.randint(-1, 1), 0), (1 << 64) - 1).to_bytes(8, "big")
    return rnd.choice([
        six + rnd.randbytes(8), six + rnd.randbytes(8), six + bytes(8), bytes.fromhex(MAPPED) + four,
        bytes.fromhex(NAT64) + four, b"\x20\2" + four + rnd.randbytes(10),
        bytes.fromhex(TEREDO) + bytes(octet ^ 0xFF for octet in four)])


# --- the same rows and scopes -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("seed", "size"), [(0, 0), (1, 1), (2, 2), (3, 12), (4, 100), (5, 100), (6, 1000), (7, 3000)])
def test_rows_and_scopes(seed: int, size: int) -> None:
    rnd = random.Random(seed)
    octets, keys4, keys6 = table(rnd, size)
    pair, expected = pair_of(octets), MapTable(octets)
    for _ in range(400):
        key = min(max(rnd.choice(keys4) + rnd.randint(-1, 1), 0), (1 << 24) - 1)
        told(pair, question(1, 24, key.to_bytes(3, "big")), expected.find4(key))
        address, source = addresses6(rnd, keys4, keys6), rnd.choice([1, 8, 16, 20, 32, 47, 56, 64, 96, 103, 104, 128])
        packet = question(2, source, address)
        cut = int.from_bytes(packet[12 + len(OWNER) + 4 + 19 :].ljust(16, b"\0"), "big")
        told(pair, packet, expected.find6(cut, source))
        for client in ((key << 8 | rnd.randrange(256)).to_bytes(4, "big"), address):
            row = expected.find_resolver(client)
            assert row_told(pair.ask(question(), client)) == (row if row < SITES else 0)
    pair.check_counts()


def told(pair: Pair, packet: bytes, expected: tuple[int, int]) -> None:
    """Both doors say that row and that scope."""
    row, scope = expected
    reply = pair.ask(packet)
    assert reply is not None
    assert (row_told(reply), scope_told(reply, packet)) == (row if row < SITES else 0, scope), packet.hex()


# --- tables that are not what they should be --------------------------------------------------------------------------

def changed(octets: bytes, rnd: random.Random, *names: str) -> bytes:
    """The table with a good part of those arrays' values replaced by others that are no larger than the runs allow."""
    head = layout.MAP_HEADER.read(octets)
    found = bytearray(octets)
    for name in names:
        most = head["runs4"] if name.endswith("4") else head["runs6"]
        offset, count, code = sections_of(octets)[name]
        values = list(struct.unpack_from(f"<{count}{code}", found, offset))
        for at in range(name.startswith("starts"), count):
            if rnd.random() < 0.5:
                values[at] = rnd.randrange(most) if name.startswith("index") else rnd.getrandbits(8 * _WIDTHS[code])
        struct.pack_into(f"<{count}{code}", found, offset, *values)
    return sealed(found)


_WIDTHS = {"I": 4, "Q": 8}


def sections_of(octets: bytes) -> dict[str, tuple[int, int, str]]:
    """Where its arrays lie."""
    head = layout.MAP_HEADER.read(octets)
    return layout.map_sections(*(head[name] for name in ("sites", "rows", "runs4", "runs6", "fine4", "fine6")))


def sealed(octets: bytearray) -> bytes:
    """With the checksum made good."""
    struct.pack_into(
        "<I", octets, layout.MAP_HEADER.at["crc"], crc32(memoryview(octets)[layout.MAP_HEADER.size :]))
    return bytes(octets)


@pytest.mark.parametrize("seed", range(6))
def test_an_index_that_misleads_misleads_both(seed: int) -> None:
    """Even one that runs backwards: a bisection between slots that lie is the same bisection."""
    rnd = random.Random(seed)
    octets, keys4, keys6 = table(rnd, rnd.choice([3, 50, 500]))
    pair = pair_of(changed(octets, rnd, "index4", "index6"))
    for _ in range(300):
        pair.ask(question(1, 24, rnd.choice(keys4).to_bytes(3, "big")))
        pair.ask(question(2, rnd.choice([32, 56, 128]), addresses6(rnd, keys4, keys6)))
        pair.ask(question(), rnd.choice(keys4).to_bytes(3, "big") + rnd.randbytes(1))
        pair.ask(question(), addresses6(rnd, keys4, keys6))
    pair.check_counts()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_arrays_hold_there_is_an_answer(seed: int) -> None:
    """Nothing is sorted and all rows lie: what is told means nothing, but no read leaves it (`make asan` watches)."""
    rnd = random.Random(seed)
    octets, keys4, keys6 = table(rnd, rnd.choice([3, 50, 500]))
    octets = changed(octets, rnd, "index4", "index6", "starts4", "starts6", "rows4", "rows6")
    octets = changed(octets, rnd, "fine4", "fine6", "fine_rows4", "fine_rows6")
    pair = pair_of(octets)
    for _ in range(300):
        packet, client = rnd.choice([
            (question(1, 24, rnd.choice(keys4).to_bytes(3, "big")), RESOLVER),
            (question(2, 128, addresses6(rnd, keys4, keys6)), RESOLVER),
            (question(), rnd.choice(keys4).to_bytes(3, "big") + rnd.randbytes(1)),
            (question(), addresses6(rnd, keys4, keys6))])
        reply: Any = pair.door.answer(packet, client, NOW, pair.sight)
        row_told(reply)


def taken(octets: Any) -> Any:
    """The Sight over that table."""
    return engine.Sight(built(), {}, {0: octets}, b"id")


def test_what_a_look_up_could_leave_is_refused() -> None:
    rnd = random.Random(1)
    octets, _, _ = table(rnd, 40)
    sections, head = sections_of(octets), layout.MAP_HEADER.read(octets)
    taken(octets)
    bad: list[tuple[str, bytes, int]] = []
    for name, most in (("index4", head["runs4"]), ("index6", head["runs6"])):
        offset, count, _ = sections[name]
        bad += [(f"{name}[{at}] = {value}", struct.pack("<I", value), offset + 4 * at)
                for at in (0, 1, count // 2, count - 1) for value in (most, most + 1, 2**32 - 1)]
    bad += [(f"{name} begins late", struct.pack(code, 1), sections[name][0])
            for name, code in (("starts4", "<I"), ("starts6", "<Q"))]
    for name in ("layout", "sites", "rows", "runs4", "runs6", "fine4", "fine6"):
        # By 8, for one run more or less may lie in what the arrays are filled up with.
        bad += [(f"{name} = {value}", struct.pack("<I", value), layout.MAP_HEADER.at[name])
                for value in {0, head[name] + 8, 255, 2**31, 2**32 - 1} - {head[name]}]
    found = [what for what, value, at in bad if not refused(octets[:at] + value + octets[at + len(value) :])]
    assert found == []


def refused(octets: Any) -> bool:
    """Whether the engine takes that for no table."""
    try:
        taken(octets)
    except ValueError as error:
        return "a table that is none" in str(error)
    return False


def test_a_table_that_ends_early_or_late_is_refused() -> None:
    octets, _, _ = table(random.Random(2), 40)
    ends = {offset + step for offset, _, _ in sections_of(octets).values() for step in (-8, -1, 0, 1)}
    ends = {end for end in {*range(280), *ends} if end < len(octets)}
    assert [end for end in sorted(ends) if not refused(octets[:end])] == []
    assert refused(octets + bytes(8))
    assert refused(memoryview(b"\0" + octets)[1:])  # not where numbers may be read
