"""What follows from what was seen: with notes that are made up, and how a drill is ordered and drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, cast

import pytest

from dnsd.drill import fleet, picture, session, watching
from dnsd.drill.faults import FAULTS
from dnsd.drill.trial import Trial

FIRST, SECOND, THIRD = "10.20.1.10", "10.21.1.10", "10.22.1.10"
WIDE = {"10.20.1.20", "10.21.1.20", "10.22.1.20"}


class Tier:
    def __init__(self, address: str) -> None:
        self.address = address


def trial(fault: str, *, published: float = 1.6, failed: float | None = 3.0) -> Trial:
    """A run whose fault began at 100 s and ended at 112 s: all workers turned at once, requests are each second."""
    made = Trial(cast(fleet.Fleet, None), fault, 1, ttl=8, seed=1)
    stage, notes = made.stage, made.notes
    stage.tiers = cast(Any, {"first": Tier(FIRST), "second": Tier(SECOND), "third": Tier(THIRD)})
    stage.expected = {stage.api: frozenset({FIRST}), stage.wide: frozenset(WIDE)}
    stage.at_site = {"fra": {FIRST, "10.20.1.20"}, "iad": {SECOND, "10.21.1.20"}, "syd": {THIRD, "10.22.1.20"}}
    notes.began, notes.ended, notes.done = 100.0, 112.0, 118.0
    for node in fleet.NODES:
        made.workers.append(watching.Worker(node, "w0", cast(Any, None), notes.turns))
        turn(made, 90, node, stage.api, {FIRST})
        turn(made, 90, node, stage.wide, WIDE)
        if FAULTS[fault].dies and node in made.judged:
            turn(made, 100 + published, node, stage.api, {SECOND})
            turn(made, 113, node, stage.api, {FIRST})
            notes.decisions.append(watching.Decision(101.5, node, "first", False, "IPv4 down: timeout"))
    for second in range(95, 118):
        bad = failed is not None and 0 <= second - 100 <= failed
        notes.requests.append(watching.Request(second, 0.02, FIRST, not bad))
    return made


def turn(made: Trial, at: float, node: str, name: str, addresses: set[str]) -> None:
    made.notes.turns.append(watching.Turn(at, node, "w0", name, frozenset(addresses)))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_in_which_all_went_right(fault: str) -> None:
    made = trial(fault, failed=3.0 if FAULTS[fault].dies else None)
    made.judge()
    made.result.back = 1.0
    assert made.result.missed == []
    assert made.result.wrong == []
    if FAULTS[fault].dies:
        assert made.result.detect == 1.5
        assert made.result.publish == pytest.approx(1.6)
        assert made.result.last_failed == 3.0
        assert (made.result.requests, made.result.failed) == (12, 4)
    else:
        assert (made.result.detect, made.result.publish, made.result.requests) == (None, None, 18)


def test_one_worker_that_does_not_turn_is_enough() -> None:
    made = trial("hole")
    turn(made, 111, "syd-1", made.stage.api, {FIRST})
    made.judge()
    assert made.result.publish is None


def test_nodes_of_a_lost_site_need_not_do_right() -> None:
    made = trial("site")
    turn(made, 103, "fra-1", made.stage.wide, {"10.20.1.20"})
    turn(made, 103, "iad-1", made.stage.wide, {"10.21.1.20", "10.22.1.20"})
    made.workers[0].silent.append(104)
    made.judge()
    assert made.judged == ("iad-1", "iad-2", "syd-1")
    assert (made.result.wrong, made.result.unanswered) == ([], 0)


@pytest.mark.parametrize(("fault", "at", "service", "addresses", "wrong"), [
    ("hole", 103, "wide", WIDE - {"10.22.1.20"}, True),
    ("hole", 99, "wide", WIDE - {"10.22.1.20"}, False),
    ("site", 103, "wide", WIDE - {"10.22.1.20"}, True),
    ("site", 103, "wide", WIDE - {"10.20.1.20"}, False),
    ("hole", 103, "api", {THIRD}, True),
    ("hole", 103, "api", set(), True),
    ("store", 103, "api", {SECOND}, True),
    ("isolated", 117, "wide", set(), True),
])
def test_who_is_missing_wrongly(fault: str, at: float, service: str, addresses: set[str], wrong: bool) -> None:
    made = trial(fault, failed=None)
    turn(made, at, "iad-2", getattr(made.stage, service), addresses)
    made.judge()
    assert bool(made.result.wrong) is wrong


def test_silence_counts() -> None:
    made = trial("store", failed=None)
    made.workers[2].silent += [101.0, 105.0]
    made.judge()
    assert made.result.unanswered == 2


def test_requests_that_fail_where_nothing_may() -> None:
    made = trial("control", failed=0.5)
    made.judge()
    made.result.back = 0.0
    assert made.result.missed == ["requests failed"]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_picture_is_svg_and_has_a_lane_for_everybody(fault: str) -> None:
    made = trial(fault)
    made.judge()
    made.result.back = 1.0
    made.notes.requests.append(watching.Request(116.5, 5.0, "", False))
    root = ET.fromstring(picture.draw(made))
    text = " ".join(root.itertext())
    assert all(f"{node} w0" in text for node in fleet.NODES)
    assert fault in text
    assert ("published 1.60 s" in text) == FAULTS[fault].dies
    width = float(root.attrib["width"])
    shapes = root.iter("{http://www.w3.org/2000/svg}rect")
    assert all(0 <= float(one.get("x", 0)) <= width for one in shapes)


def test_what_goes_together_goes_first() -> None:
    plan = session.Plan(["site", "rst", "store"], Path("redis"), 1, runs=2, ttls=(8, 5))
    assert len(plan.trials()) == 12
    assert plan.trials()[0] == ("site", 8)
    together = session.Plan(["site", "rst", "store"], Path("redis"), 1, runs=2, at_once=2)
    assert [fault for fault, _ in together.trials()] == ["rst", "rst", "site", "site", "store", "store"]
    assert frozenset(FAULTS) - {"rst", "hole", "500", "slow"} == session.ALONE
