"""Capture: whatever was asked, with whatever was answered, is one line of the query log and frames of dnstap.

The first octet: whether addresses are told whole, whether the answer is ours or the rest of the octets once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from dnsd.control import dnstap, querylog
from dnsd.image import samples
from tests.golden.world import RESOLVER
from tests.hostile.doors import CLIENT6, doors
from tests.hostile.packets import hostile, typical

_DOOR: Final = doors()["loaded tcp"]
_ORIGIN: Final = samples.Origin(10, 0, samples.TCP, 1_700_000_000_123_456_789, samples.Address(RESOLVER, 53))
_FRAMES: Final = [dnstap.Frames("n1", "1", whole=whole) for whole in (False, True)]


def seeds() -> Iterator[bytes]:
    """What resolvers send, and some of what nobody should."""
    for number, (_, packet) in enumerate((*typical(), *list(hostile())[::9])):
        if len(packet) < 1500:
            yield bytes([number % 8]) + packet


def check(data: bytes) -> None:
    """JSON on one line of ASCII; a subnet or client longer than a /24 or /56 is in it only when that was wished."""
    choice, query = data[0] if data else 0, data[1:]
    whole = bool(choice & 1)
    reply = query if choice & 2 else _DOOR.octets(query)[0] or b""
    sample = samples.Sample(samples.Address(CLIENT6 if choice & 4 else RESOLVER, 5353), query, reply)
    line = querylog.line(_ORIGIN, sample, node="n1", whole=whole)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    told = json.loads(line)
    if not whole:
        assert told["client"] in ("192.0.2.0/24", "2001:db8::/56")
        assert told["ecs"] is None or int(told["ecs"].rpartition("/")[2]) <= (56 if ":" in told["ecs"] else 24)
    assert _FRAMES[whole].frames(_ORIGIN, sample)
