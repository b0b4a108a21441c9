"""The engine chooses what `choose.choose` chooses, also for records that no compiler would write.

Asked through whole answers over TCP, so that 32 addresses fit. Every field of a record is drawn by itself: points,
bands and weights at their limits, equal keys (draws that tie), sites the map lacks, any rung, fence, split and take.
"""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest

from dnsd import metrics
from dnsd.image import layout
from dnsd.image.table import MapTable
from dnsd.model import Ladder
from dnsd.steer.row import LEVEL_MS
from tests.engine.pairs import CLIENTS, Pair
from tests.engine.test_equality import world
from tests.golden import packets as golden
from tests.golden.world import NOW, query, table_bytes, v4, v6
from tests.hostile.packets import asked, ecs

SITES = 3
NAMES = ("web", "both", "rest")
QUESTIONS = {
    name: [query(f"{name}.example.com", type_, ecs=subnet) for type_ in ("A", "AAAA", "HTTPS", "A")
           for subnet in (None, *golden.SUBNETS)]
    + [asked(query(f"{name}.example.com")[12:-4], options=ecs(0, 0, b""))] for name in NAMES}
FULL = 2**32 - 1
OWNED = layout.R_OWNS_A | layout.R_OWNS_AAAA | layout.R_OWNS_HTTPS


def any_table(rnd: random.Random) -> bytes:
    """A table whose rows know all levels and bits there are."""
    rows = [[(rnd.randrange(len(LEVEL_MS)), rnd.randrange(32)) for _ in range(SITES)] for _ in range(5)]
    runs4 = [(0, 0), (v4("10.0.0.0"), 1), (v4("10.0.6.0"), rnd.randrange(6)), (v4("10.1.0.0"), 3), (v4("11.0.0.0"), 4)]
    runs6 = [(0, 0), (v6("2400::"), 2), (v6("2400:0:0:600::"), rnd.randrange(6)), (v6("2401::"), 0)]
    return table_bytes(SITES, rows, runs4, runs6, [(0xC0000235, 0xC0000235, rnd.randrange(5))])


def any_record(rnd: random.Random, flags: int = 0) -> bytes:
    """A record of any values. A live type has an address, as compile sees to."""
    endpoints = _endpoints(rnd)
    has = [any(flag & family for _, flag in endpoints) for family in (layout.E_V4, layout.E_V6)]
    # Half the records are plain: that is the way that nearly all take.
    plain = rnd.random() < 0.5
    if not plain:
        flags |= rnd.choice([0, 0, 0, layout.R_NO_ECS_FALLBACK, layout.R_UNKNOWN_FALLBACK, layout.R_PANIC,
                             layout.R_DECLARED])
        flags |= rnd.choice([0, layout.R_SPILL])
    flags |= OWNED if rnd.random() < 0.8 else layout.R_OWNS_HTTPS | rnd.choice([layout.R_OWNS_A, layout.R_OWNS_AAAA])
    flags |= layout.R_USES_CLIENT if plain or rnd.random() < 0.7 else 0
    few4, few16 = (rnd.choice([0, 0, 1, 3]) for _ in range(2))
    head, rest = (rnd.randbytes(rnd.choice([0, 0, 7, 300])) for _ in range(2))
    ladders = [int(Ladder.LIVE) if live and (plain or rnd.random() < 0.8) else rnd.choice(_LOWER) for live in has]
    fixed = _packed(
        layout.RECORD, rnd.getrandbits(64), flags, rnd.choice([1, 2, 8, 300, FULL]), rnd.choice([0, 0, 0, 0, 7]),
        rnd.choice([0, 1, 20, 10_000, FULL]), len(endpoints), few4, few16,
        1 if plain else rnd.choice([1, 2, 3, 32]), 0 if plain else rnd.choice([0, 0, 1, 8, 16, 255]),
        0 if plain else rnd.choice([0, 0, 1, 20, 24]), rnd.choice([0, 1, 40, 56]), *ladders, len(head), len(rest))
    most = rnd.choice([0, 3, 10_000, FULL])
    points = [rnd.randint(0, most) for _ in range(layout.LEVELS + layout.MATCHES)]
    return b"".join((
        fixed, struct.pack(f"<{len(points)}I", *points), *(octets for octets, _ in endpoints),
        rnd.randbytes(4 * few4 + 16 * few16), head, rest))


_LOWER = [int(rung) for rung in Ladder if rung != Ladder.LIVE]


def _endpoints(rnd: random.Random) -> list[tuple[bytes, int]]:
    """Endpoints and their families."""
    count = rnd.choice([0, 1, 2, 3, 4, 10, 10, 30, 30, 300])
    keys = [rnd.getrandbits(64) for _ in range(rnd.choice([1, 2, count + 1]))]
    weights = rnd.choice([[100], [100, 100, 300], [0, 1, 100, 65535], [0]])
    tiers = rnd.choice([[0], [0], [0, 1], [3, 1, 2], [0, 255]])
    columns = rnd.choice([[0], [0, 1, 2], [0, 1, 2, layout.NO_COLUMN], [layout.NO_COLUMN]])
    standings = rnd.choice([[0], [500], [0, 1000], [0, 1, FULL]])
    families = rnd.choice([[3], [3], [1, 2, 3], [1], [0, 3]])
    ghosts = rnd.choice([[0], [0, 12], [0, 4, 8, 12]])
    sites = [rnd.getrandbits(32) for _ in range(rnd.choice([1, 3, 10]))]
    shares = rnd.choice([[0], [65535], [0, 65535], [0, 1, 30_000, 65535], [10, 200, 3000]])
    found = []
    for _ in range(count):
        flag = rnd.choice(families)
        found.append((_packed(
            layout.ENDPOINT, rnd.choice(keys), rnd.choice(standings), rnd.choice(weights), rnd.choice(columns),
            rnd.choice(tiers), flag | rnd.choice(ghosts), 0, 0, rnd.randbytes(4), rnd.randbytes(16), rnd.choice(sites),
            rnd.choice(shares), rnd.choice(shares)), flag))
    return found


def _packed(flat: layout.Flat, *values: int | bytes) -> bytes:
    found = bytearray(flat.size)
    flat.pack_into(found, 0, *values)
    return bytes(found)


def asking(rnd: random.Random, *, records: int, flags: int = 0) -> Pair:
    """As many states of three services, each asked by many, some of them at the turn of a window."""
    table = any_table(rnd)
    held, _ = world()
    held.set_map(0, MapTable(table))
    pair = Pair(held, tables={0: table}, tcp=True)
    places = [node.record for node in (held.get(query(f"{name}.example.com")[12:-4]) for name in NAMES) if node]
    assert len(places) == len(NAMES)
    for _ in range(records):
        pair.delta([(place, any_record(rnd, flags)) for place in places])
        for name in NAMES:
            for _ in range(30):
                pair.ask(rnd.choice(QUESTIONS[name]), rnd.choice(CLIENTS), rnd.choice([NOW, NOW + 7, NOW + 8, 0]))
    return pair


@pytest.mark.parametrize("seed", range(24))
def test_any_record(seed: int) -> None:
    pair = asking(random.Random(seed), records=12)
    pair.check_counts()
    assert pair.handed == 0


def test_these_records_make_everything_happen() -> None:
    """Else the test above would show little: every outcome is among them, each many times."""
    counted: Counter[int] = Counter()
    for seed in range(100, 106):
        pair = asking(random.Random(seed), records=12)
        counted.update(dict(enumerate(pair.counts[1])))
    for slot in (metrics.NO_PLACE, metrics.LADDER_EMPTY, metrics.LADDER_FALLBACK, metrics.LADDER_LAST_GOOD,
                 metrics.DECLARED_FALLBACK, metrics.PANIC, metrics.KIND_SERVICE, metrics.KIND_SERVFAIL):
        assert counted[slot] > 20, metrics.TABLE[slot]
