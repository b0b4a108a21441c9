"""Workers' frames to samples: whose they are, which site's, and what is passed over."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from dnsd.control.measurements import Taken
from dnsd.control.resolvers import Resolvers

GOOD = (3, struct.pack("<II", 12_300, 400) + bytes([198, 51, 100]))


class Intake:
    """`Measurements` that believes all, or takes nothing more."""

    node = "n1"

    def __init__(self, site: str, full: bool = False) -> None:
        self.site, self.full = site, full
        self.taken: list[Any] = []

    def take(self, reporter: str, site: str, samples: Sequence[Any]) -> Taken | None:
        self.taken.append((reporter, site, [(one.client, one.rtt_ms, one.count, one.spread_ms) for one in samples]))
        return None if self.full else Taken(len(samples), {})


def test_a_frame_is_a_batch_of_this_nodes_site() -> None:
    intake = Intake("ams")
    resolvers = Resolvers(intake)  # type: ignore[arg-type]
    six = (1, struct.pack("<II", 50, 0) + bytes.fromhex("20010db80007"))
    resolvers.take([GOOD, six])
    assert intake.taken == [
        ("tcp:n1", "ams", [("198.51.100.0", 12.3, 3, 0.4), ("2001:db8:7::", 0.05, 1, 0.0)])]
    assert resolvers.accepted == 2


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(8), bytes(12), bytes(15)])
def test_what_is_no_figure_is_passed_over(data: bytes) -> None:
    intake = Intake("ams")
    resolvers = Resolvers(intake)  # type: ignore[arg-type]
    resolvers.take([(1, data)])
    assert (intake.taken, resolvers.accepted) == ([], 0)
    resolvers.take([(1, data), GOOD])
    assert resolvers.accepted == 1


def test_without_a_site_nothing_is_taken() -> None:
    intake = Intake("")
    Resolvers(intake).take([GOOD])  # type: ignore[arg-type]
    assert intake.taken == []


def test_more_than_may_be_taken_is_not_counted() -> None:
    resolvers = Resolvers(Intake("ams", full=True))  # type: ignore[arg-type]
    resolvers.take([GOOD])
    assert resolvers.accepted == 0
