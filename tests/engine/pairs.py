"""`respond` and the compiled engine side by side: the same packets to both, the same octets and counts from both.

Lives here: a `Pair` of doors over one image, packets of every kind. Does not live here: images, tests.

The engine has a Python context beside it for what it passes on, as a worker has; both share the guard's buckets. So the
sum of what both counted must be what the reference counted.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dnsd import metrics
from dnsd.answer import respond
from dnsd.context import Context
from dnsd.dns.cookies import Cookies
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes
from dnsd.engine import door as engine
from dnsd.image.reading import Image
from tests.golden import packets as golden
from tests.golden.world import NOW, query
from tests.hostile import packets as hostile

CLIENTS = [
    bytes((192, 0, 2, 53)), bytes((10, 0, 6, 1)), bytes((10, 1, 7, 9)), bytes((192, 0, 2, 53)), bytes(15) + b"\1",
    bytes.fromhex("24000000000006010000000000000001"), bytes.fromhex("0064ff9b00000000000000000a000601"),
    bytes.fromhex("2002 0a00 0601 0000 0000 0000 0000 0001"), bytes.fromhex("00000000000000000000ffff0a010701")]
SECRETS = [bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))]
_LABELS = [
    "www", "nothing", "b", "x.y.w", "x.wc", "al", "al2", "al3", "al4", "al5", "al6", "al7", "al8", "al9", "al10",
    "al12", "al13", "al14", "al15", "alweb", "loop1", "self", "chain0", "chain5", "x.sub", "sub", "nods", "www.d", "d",
    "dout", "x.dloop", "www.nested", "nested", "api", "x.svc", "v4only", "dark", "half", "fall", "stale", "panic",
    "all", "geo", "region", "sticky", "web", "rest", "both", "huge", "big", "odd", "in.service.tree", "nul\\000octet"]
_TYPES = ["A", "AAAA", "HTTPS", "NS", "SOA", "CNAME", "DNAME", "DS", "TXT", "MX", "ANY", "AXFR", "TYPE0", "TYPE65400"]


class Pair:
    """Both doors. `rate`: answers a second that the guard lets through, None: there is no guard."""

    def __init__(self, image: Image, *, tables: Mapping[int, bytes] | None = None, tcp: bool = False, pad: bool = False,
                 keepalive: int = -1, cookies: int = 0, listed: Sequence[str] | None = None, rate: int | None = None,
                 exempt: Sequence[str] = (), raised: Sequence[str] = ()) -> None:
        self.image = image
        self.tables = dict(tables or {})
        self.counts = [memoryview(bytearray(8 * metrics.SLOTS)).cast("Q") for _ in range(3)]
        reference, self.engine_count, passed = self.counts
        self.reference, self.passed = Context(reference, tcp=tcp), Context(passed, tcp=tcp)
        for context in (self.reference, self.passed):
            context.pad, context.keepalive = pad, keepalive
            context.cookies = Cookies(SECRETS[:cookies]) if cookies else None
            context.ecs_from = None if listed is None else Prefixes(listed)
            context.strict = rate is not None
            context.guard = None if rate is None else Guard(
                memoryview(bytearray(8 * 64)).cast("Q"), answers=rate, others=max(1, rate // 2), burst_s=1.5,
                raised_by=3, exempt=Prefixes(exempt), raised=Prefixes(raised), key=2**64 - 59)
        self.door = engine.Door(self.engine_count, tcp=tcp, limit=self.reference.limit, keepalive=keepalive, pad=pad)
        self.door.cookies(SECRETS[:cookies])
        self.door.guard(self.passed.guard.flat() if self.passed.guard else None)
        self.door.ecs_from(None if listed is None else self.reference.ecs_from.ranges())  # type: ignore[union-attr]
        self.door.strict = rate is not None
        self.answered = self.handed = 0
        self.take()

    def take(self) -> None:
        """The engine takes over the image as it is now."""
        self.sight = engine.Sight(
            self.image.buffer, self.image.patched, self.tables, self.reference.identity(self.image.stamp))

    def delta(self, items: list[tuple[int, bytes]]) -> None:
        """Records are replaced, on both sides."""
        self.image.apply(items, self.image.stamp._replace(version=self.image.stamp.version + 1))
        self.image.nodes.clear()
        self.sight = self.sight.patched(items, self.reference.identity(self.image.stamp))

    def shed(self, number: int) -> None:
        """Both shed so much."""
        for context in (self.reference, self.passed):
            context.shed = number
        self.door.shed = number

    def tick(self, nanoseconds: int) -> None:
        """The guards' clock."""
        for context in (self.reference, self.passed):
            assert context.guard is not None
            context.guard.tick(nanoseconds)
        assert self.reference.guard is not None
        self.door.guard_now = self.reference.guard.now

    def ask(self, packet: bytes, client: bytes = CLIENTS[0], now: int = NOW) -> bytes | None:
        """The reply both give; AssertionError with the packet where they differ in octets, counts or buckets."""
        expected = respond(packet, client, self.image, now, self.reference)
        found: Any = self.door.answer(packet, client, now, self.sight)
        if isinstance(found, int):
            assert reason(packet, found), (metrics.PASS_REASONS[found], packet.hex())
            self.handed += 1
            found = respond(packet, client, self.image, now, self.passed)
        else:
            self.answered += 1
        assert found == expected, (packet.hex(), client.hex(), now)
        if self.reference.guard and self.passed.guard:
            one, other = self.reference.guard.flat(), self.passed.guard.flat()
            assert bytes(one.table) == bytes(other.table), packet.hex()  # type: ignore[arg-type]
            assert one.slipped == other.slipped, packet.hex()
        return expected

    def check_counts(self) -> None:
        """What both halves of the engine's side counted is what the reference did."""
        reference, own, passed = (count.tolist() for count in self.counts)
        passing = range(metrics.PASSED, metrics.PASSED + len(metrics.PASS_REASONS))
        assert sum(own[slot] for slot in passing) == self.handed
        for slot in range(metrics.SLOTS):
            if slot not in passing:
                assert reference[slot] == own[slot] + passed[slot], metrics.TABLE[slot]


def reason(packet: bytes, number: int) -> bool:
    """Whether the engine may pass a packet on for that reason."""
    name = metrics.PASS_REASONS[number]
    plain = packet[2] & 0x78 == 0 and packet[4:6] == b"\0\1" and packet[6:11] == bytes(5) and packet[11] < 2
    if name == "odd":
        end = _question_end(packet)
        return not plain or len(packet) < 17 or packet[end : end + 3] != b"\0\0\x29"
    if not plain:
        return False
    kind, class_ = struct.unpack_from(">HH", packet, _question_end(packet) - 4)
    if name == "class":
        return bool(class_ != 1)
    if name == "desk":
        return kind in (251, 252) or (kind == 16 and packet[12:17].lower() == b"\4_why")
    return name == "dname"


def _question_end(packet: bytes) -> int:
    at = 12
    while at < len(packet) and packet[at]:
        at += 1 + packet[at]
    return at + 5


@cache
def pool() -> tuple[bytes, ...]:
    """Packets of every kind: golden, typical, hostile, chains, and every name with every type."""
    found = [packet for _, packet in golden.questions()]
    for maker in (hostile.typical, hostile.hostile, hostile.chains):
        found += [packet for _, packet in maker()]
    rnd = random.Random(1)
    for label in _LABELS:
        for type_ in _TYPES:
            found.append(query(f"{label}.example.com", type_, do=rnd.random() < 0.5, nsid=rnd.random() < 0.2,
                               payload=rnd.choice([0, 512, 600, 1232, 4096]), edns=rnd.random() < 0.7))
    return tuple(packet for packet in found if len(packet) < 5000)


def draw(rnd: random.Random, cookies: Cookies | None = None, client: bytes = CLIENTS[0]) -> bytes:
    """A packet of the pool: as it is, in mixed case, with other options, damaged, or cut."""
    packet = bytearray(rnd.choice(pool()))
    how = rnd.random()
    if how < 0.25:
        for at in range(12, min(len(packet), 80)):
            if 97 <= packet[at] <= 122 and rnd.random() < 0.5:
                packet[at] ^= 0x20
    elif how < 0.5 and len(packet) > 16 and packet[4:12] == b"\0\1\0\0\0\0\0\0":
        packet[11] = 1
        packet += hostile.opt(_options(rnd, cookies, client), size=rnd.choice([0, 512, 1232, 4096]),
                              flags=rnd.choice([0, 0x8000]))
    elif how < 0.65:
        for _ in range(rnd.randint(1, 4)):
            packet[rnd.randrange(len(packet))] = rnd.randrange(256)
    elif how < 0.7:
        del packet[rnd.randrange(len(packet)) :]
    return bytes(packet)


def _options(rnd: random.Random, cookies: Cookies | None, client: bytes) -> bytes:
    found = []
    if rnd.random() < 0.7:
        source = rnd.choice([0, 8, 20, 23, 24, 24, 24, 25, 32])
        address = bytes((10, rnd.randrange(3), rnd.randrange(9), 0))[: (source + 7) // 8]
        if source % 8 and address:
            address = address[:-1] + bytes([address[-1] & 0xFF << 8 - source % 8 & 0xFF])
        found.append(hostile.ecs(1, source, address))
    if rnd.random() < 0.3:
        address = bytes.fromhex(rnd.choice(["24000000000006", "00000000000000", "20020a00060000", "30000000000000"]))
        found.append(hostile.ecs(2, 56, address))
    if rnd.random() < 0.6:
        mine = rnd.randbytes(8)
        made = NOW - rnd.choice([-400, -300, -1, 0, 5, 1800, 1801, 3600, 3601, 1 << 31])
        server = cookies.made(mine, rnd.choice([client, CLIENTS[1]]), made) if cookies else bytes(16)
        found.append(hostile.option(10, rnd.choice([mine, mine + server, mine + rnd.randbytes(rnd.randrange(34))])))
    found += [hostile.option(code) for code in (3, 11, 12, 65001) if rnd.random() < 0.2]
    rnd.shuffle(found)
    return b"".join(found)
