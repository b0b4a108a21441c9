"""What a query costs in the compiled engine, in instructions: callgrind counts them, so neither clocks nor load matter.

Lives here: the kinds of queries, how many instructions each may take, the world they are asked of. Does not live here:
the loop that callgrind runs (`instructions`), times (`bench/compare.py`).

A kind is held to about 1.25 times what was measured (gcc 12, x86-64). The steps are what one kind has more than
another: ECS, place, rank and draw are W3 without W1, case and cookie W7 without W2, the guard's bucket W1 without "not
limited".
INSTRUCTIONS=1 with -s prints what is measured.
"""

from __future__ import annotations

import marshal
import os
import platform
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dnsd import metrics
from dnsd.dns.guard import Guard
from dnsd.dns.prefixes import Prefixes
from dnsd.engine import door as engine
from dnsd.model import MapView, Policy
from tests.engine.pairs import SECRETS
from tests.golden import world
from tests.golden.world import NOW, query

EACH = 400
SITES = [f"s{number}" for number in range(16)]
MOST = {  # kind -> instructions of one query, from octets to octets
    "W1 one name": 1040,
    "W2 many names": 1220,
    "W3 geo name, client subnet": 2820,
    "W4 geo name, resolver": 2640,
    "W5 no such name": 1430,
    "W6 W2 over TCP": 1080,
    "W7 W2, mixed case, cookie": 1800,
    "W8 W3, mixed case, cookie": 3270,
    "W1 not limited": 900,
    "subnet of IPv6": 3060,
    "band of equals, three of them": 5920,
    "no such type": 1300,
    "wildcard": 1440,
    "alias, two deep": 2810,
    "referral": 1460,
    "cut off": 1290,
    "malformed": 1020,
}
ZONE = "\n".join([
    "www A 192.0.2.80", *(f"h{number:05} A 192.0.2.{number % 250}" for number in range(5000)), "*.wild A 192.0.2.81",
    "alias CNAME alias2", "alias2 CNAME www", "sub NS ns.sub", "ns.sub A 192.0.2.82",
    *(f'many TXT "{"x" * 200}{number}"' for number in range(9))])


@pytest.mark.needs("valgrind")
@pytest.mark.skipif(platform.machine() != "x86_64" or "SANITIZE" in os.environ, reason="counted for x86-64 only")
def test_no_kind_of_query_costs_more_instructions_than_it_may(tmp_path: Path) -> None:
    found = {kind: count / EACH for kind, count in zip(MOST, counted(tmp_path), strict=True)}
    if os.environ.get("INSTRUCTIONS"):
        print(*(f"\n{kind:32} {count:8.1f} of {MOST[kind]}" for kind, count in found.items()))
    assert {kind: count for kind, count in found.items() if not 100 < count <= MOST[kind]} == {}


def counted(folder: Path) -> list[int]:
    """Instructions inside the engine's `answer` for all queries of each kind, in the order of MOST."""
    file = folder / "kinds"
    file.write_bytes(marshal.dumps(things()))
    done = subprocess.run(
        [shutil.which("valgrind") or "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
         "--toggle-collect=__pyx_f_4dnsd_6engine_4door_answer",
         "--dump-before=__pyx_setprop_4dnsd_6engine_4door_4Door_shed",
         sys.executable, "-S", "-E", str(Path(__file__).with_name("instructions.py")), str(engine.__file__), str(file)],
        capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    parts = sorted(folder.glob("out.*"), key=lambda path: int(path.suffix[1:]))
    totals = [re.search(r"^(?:totals|summary): (\d+)", part.read_text(), re.MULTILINE) for part in parts]
    return [int(total[1]) for total in totals if total]


def things() -> tuple[Any, ...]:
    """What `instructions` asks for: a world and the kinds' packets."""
    rows = [[(number * 7 % 12 + (site + number) % 16, 0) for site in range(16)] for number in range(300)]
    runs4 = [(number << 15, number % 300) for number in range(1 << 17)]
    runs6 = [(0, 0), *((0x2000 << 48 | number << 44, number % 300) for number in range(1, 1 << 15))]
    table = world.table_bytes(len(SITES), rows, runs4, runs6)
    live = [world.endpoint(number + 1, site) for number, site in enumerate(SITES)]
    services = [world.service("geo.example.com.", *live, policy=Policy(proximity=100)),
                world.service("three.example.com.", *live, policy=Policy(proximity=10, band_ms=100, take=3))]
    image = world.image([world.zone("example.com.", ZONE)], services, [MapView(0, "map", tuple(SITES))])
    guard = Guard(memoryview(bytearray(8 * 65536)).cast("Q"), answers=10**6, others=10**6, burst_s=1.0, raised_by=1,
                  exempt=Prefixes([]), raised=Prefixes([]), key=1)
    parts = {name: value for name, value in guard.flat()._asdict().items() if name not in ("table", "slipped")}
    return bytes(image.buffer), {0: table}, b"test", metrics.SLOTS, SECRETS[:1], parts, NOW, kinds()


def kinds() -> list[tuple[bool, bool, list[bytes], list[bytes]]]:
    """Limited or not, TCP or not, packets, their clients: in the order of MOST."""
    rnd = random.Random(1)
    hosts = [query(f"h{rnd.randrange(5000):05}.example.com") for _ in range(EACH)]
    subnets = [f"{rnd.randrange(1, 224)}.{rnd.randrange(256)}.{rnd.randrange(256)}.0/24" for _ in range(EACH)]
    geo = [query("geo.example.com", ecs=subnet) for subnet in subnets]
    far = [bytes((rnd.randrange(1, 224), *rnd.randbytes(3))) for _ in range(EACH)]
    home = [world.RESOLVER] * EACH

    def same(name: str, type_: str = "A") -> list[bytes]:
        return [query(name, type_)] * EACH

    return [
        (True, False, same("www.example.com"), home),
        (True, False, hosts, home),
        (True, False, geo, home),
        (True, False, same("geo.example.com"), far),
        (True, False, [query(f"{rnd.getrandbits(48):012x}.example.com") for _ in range(EACH)], home),
        (False, True, hosts, home),
        (True, False, [dressed(packet, rnd) for packet in hosts], home),
        (True, False, [dressed(packet, rnd) for packet in geo], home),
        (False, False, same("www.example.com"), home),
        (True, False, [query("geo.example.com", ecs=f"2{rnd.randrange(4096):03x}:{rnd.randrange(1, 65536):x}::/56")
                       for _ in range(EACH)], home),
        (True, False, [query("three.example.com", ecs=subnet) for subnet in subnets], home),
        (True, False, same("www.example.com", "AAAA"), home),
        (True, False, [query(f"x{number}.wild.example.com") for number in range(EACH)], home),
        (True, False, same("alias.example.com"), home),
        (True, False, [query(f"x{number}.sub.example.com") for number in range(EACH)], home),
        (True, False, same("many.example.com", "TXT"), home),
        (True, False, [packet[:-2] for packet in geo], home),
    ]


def dressed(packet: bytes, rnd: random.Random) -> bytes:
    """The same query in mixed case and with a client's cookie, as resolvers send it."""
    octets = bytearray(packet)
    end = octets.index(b"\0\0\1\0\1", 12)
    for at in range(12, end):
        if 97 <= octets[at] <= 122 and rnd.random() < 0.5:
            octets[at] ^= 0x20
    cookie = b"\0\x0a\0\x08" + rnd.randbytes(8)
    if not octets[11]:
        octets[11] = 1
        return bytes(octets) + b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c" + cookie
    size = end + 5 + 9
    octets[size : size + 2] = (int.from_bytes(octets[size : size + 2], "big") + len(cookie)).to_bytes(2, "big")
    return bytes(octets) + cookie
