"""The compiled engine against `respond`: any octets, over every kind of door, with limits and without.

Coverage is that of the Python half: what leads `respond` somewhere new leads the engine there too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fuzz.targets import respond
from tests.engine.pairs import CLIENTS, Pair
from tests.engine.test_equality import FORMS, world


def _pairs() -> list[Pair]:
    held, tables = world()
    limited = Pair(held, tables=tables, cookies=1, rate=1000, exempt=["10.0.0.0/8"])
    limited.tick(10**12)
    return [*(Pair(held, tables=tables, **form) for form in FORMS.values()), limited]


PAIRS: Final = _pairs()


def seeds() -> Iterator[bytes]:
    """Those of the door in Python; the first octet chooses pair and client."""
    for number, data in enumerate(respond.seeds()):
        yield bytes([number % 256]) + data[1:]


def check(data: bytes) -> None:
    """Both give the same octets and count the same."""
    if data:
        number, at = divmod(data[0], len(PAIRS))
        PAIRS[at].ask(data[1:], CLIENTS[number % len(CLIENTS)])
        PAIRS[at].check_counts()
