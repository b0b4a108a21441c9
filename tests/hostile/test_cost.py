"""What a packet may cost: 3 times the median accepted packet, and so much more for each of its first 512 octets.

Counted, not timed: every bytecode instruction that `respond` executes, and every octet it takes out of the packet (what
C code then does with them is linear in those). `HOSTILE_COST=1` prints the worst. Each packet is counted when it comes
the second time: names and heads are unfolded once, and there are only so many of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from statistics import median
from types import FrameType
from typing import Any

import pytest

from dnsd import chase
from dnsd.answer import respond
from tests.golden.world import Door
from tests.hostile.doors import KNOWN, doors
from tests.hostile.packets import Packet, chains, hostile, typical

TIMES = 3
FIRST = 512
AN_OCTET = 14  # instructions; a walk over a name of 1-octet labels takes 12.5
READ = 8       # times that an octet of the first 512 may be taken out of the packet
HEAD = 600     # octets taken out of any packet, whatever its size

DOORS = doors()
TYPICAL = list(typical(known=KNOWN))


def instructions(ask: Callable[[], object]) -> int:
    """How many bytecode instructions a call executes."""
    executed = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal executed
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        executed += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ask()
    finally:
        sys.settrace(before)
    return executed


def cost(asked: Door, packet: bytes) -> int:
    """Instructions for a packet whose like was answered before."""
    asked.octets(packet)
    return instructions(lambda: respond(packet, asked.client, asked.image, asked.now, asked.context))


@cache
def usual(kind: str) -> float:
    """The median of what resolvers send."""
    return median(cost(DOORS[kind], packet) for _, packet in TYPICAL)


def worst(kind: str, packets: Iterable[Packet], times: int = 1) -> tuple[float, str]:
    """The greatest share of what a packet may cost, and which packet's it is."""
    found = []
    for name, packet in packets:
        allowed = times * (TIMES * usual(kind) + AN_OCTET * min(len(packet), FIRST))
        found.append((cost(DOORS[kind], packet) / allowed, name))
    if os.environ.get("HOSTILE_COST"):
        print(f"\n{kind}: median {usual(kind):.0f}")
        print(*(f"{share:.3f} {name}" for share, name in sorted(found)[-8:]), sep="\n")
    return max(found)


def test_typical_packets_are_accepted() -> None:
    for name, packet in TYPICAL:
        reply, _ = DOORS["loaded udp"].octets(packet)
        assert reply is not None, name
        assert reply[3] & 15 in (0, 3), name


@pytest.mark.parametrize("kind", DOORS)
def test_instructions(kind: str) -> None:
    share, name = worst(kind, (*TYPICAL, *hostile()))
    assert share <= 1, name


@pytest.mark.parametrize("kind", DOORS)
def test_instructions_along_the_zones_own_aliases(kind: str) -> None:
    """Each alias that is followed costs no more than a packet; how many there are is the operator's choice."""
    share, name = worst(kind, chains(), chase.CHAIN_MAX)
    assert share <= 1, name


class Metered(bytes):
    """A packet that counts the octets taken out of it. What is not counted is not allowed."""

    taken = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.taken += len(found) if isinstance(found, bytes) else 1
        return found

    def find(self, sub: Any, start: Any = 0, end: Any = sys.maxsize) -> int:
        """As of bytes; the octets between start and what was found."""
        found = super().find(sub, start, end)
        self.taken += (found if found >= 0 else min(end, len(self))) - start
        return found


def _refused(*_: object) -> Any:
    raise AssertionError("looks at the whole packet")


for _method in (
        "__contains__", "__iter__", "__hash__", "__eq__", "__add__", "count", "index", "lower", "upper", "split",
        "strip", "startswith", "endswith", "hex", "join", "partition", "replace", "rfind", "rindex", "translate"):
    setattr(Metered, _method, _refused)


@pytest.mark.parametrize("kind", DOORS)
def test_octets(kind: str) -> None:
    """Nothing is searched, folded or hashed beyond what a name and 32 options take."""
    asked = DOORS[kind]
    for name, packet in (*TYPICAL, *hostile(), *chains()):
        metered = Metered(packet)
        reply = respond(metered, asked.client, asked.image, asked.now, asked.context)
        assert metered.taken <= HEAD + READ * min(len(packet), FIRST), f"{name}: {metered.taken} of {len(packet)}"
        assert reply is None or len(reply) <= asked.context.limit
