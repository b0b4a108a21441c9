"""Bars, and results as text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dnsd.drill.result import Result, document, line, spread, table

GOOD = Result("rst", 1, 7, 8, dies=True, fast=True, detect=1.4, publish=1.6, last_failed=4.0, back=0.9, requests=110,
              failed=40)
QUIET = Result("store", 2, 7, 8, dies=False, fast=True, back=0.0, requests=180)


@pytest.mark.parametrize(("result", "change", "missed"), [
    (GOOD, {}, []),
    (GOOD, {"publish": 2.0}, []),
    (GOOD, {"publish": 2.01}, ["published after 2 s"]),
    (GOOD, {"publish": 3.5, "fast": False}, []),
    (GOOD, {"publish": None}, ["never published"]),
    (GOOD, {"last_failed": 11.99}, []),
    (GOOD, {"last_failed": 12.0}, ["requests failed after 12 s"]),
    (GOOD, {"last_failed": 9.0, "ttl": 5}, ["requests failed after 9 s"]),
    (GOOD, {"last_failed": 8.9, "ttl": 5}, []),
    (GOOD, {"last_failed": None}, []),
    (GOOD, {"wrong": ["1.00 s fra-1"]}, ["1 wrong removals"]),
    (GOOD, {"lost": ["10.0.0.1"]}, ["1 lost registrations"]),
    (GOOD, {"unanswered": 3}, ["3 questions were not answered"]),
    (GOOD, {"back": None}, ["not all came back"]),
    (QUIET, {}, []),
    (QUIET, {"failed": 1, "last_failed": 0.4}, ["requests failed"]),
    (QUIET, {"refused": "no compiler", "back": None, "failed": 3}, []),
])
def test_bars(result: Result, change: dict[str, Any], missed: list[str]) -> None:
    changed = replace(result, **change)
    assert changed.missed == missed
    assert changed.data()["passed"] is (not missed and not changed.refused)


def test_a_line_says_all_of_a_run() -> None:
    assert line(GOOD) == (
        "rst             run 1   TTL 8  detect 1.40 s  publish 1.60 s  last failed 4.00 s  back 0.90 s  40/110 failed, "
        "0 wrong, 0 lost  passed")
    assert line(replace(GOOD, back=None)).endswith("MISSED: not all came back")
    assert line(replace(QUIET, refused="no compiler")).endswith("refused: no compiler")


def test_the_table_has_a_line_for_each_fault_and_ttl() -> None:
    runs = [replace(GOOD, publish=1 + i / 100, ttl=8) for i in range(20)] + [replace(GOOD, ttl=5), QUIET,
                                                                         replace(QUIET, refused="no")]
    lines = table(runs).splitlines()
    assert len(lines) == 5
    assert "| 1.09 s | 1.18 s | 1.19 s |" in lines[2]
    assert lines[4].startswith("| store | 8 | 1 | - |")
    assert len({text.count("|") for text in lines}) == 1


@pytest.mark.parametrize(("values", "text"), [([], ["-"] * 3), ([2.0], ["2.00 s"] * 3),
                                              ([3.0, 1.0], ["1.00 s", "3.00 s", "3.00 s"])])
def test_spread(values: list[float], text: list[str]) -> None:
    assert spread(values) == text


def test_the_document_is_json() -> None:
    found = json.loads(json.dumps(document([GOOD, QUIET], {"seed": 7})))
    assert (found["seed"], found["passed"], [run["fault"] for run in found["runs"]]) == (7, True, ["rst", "store"])
    assert not document([replace(GOOD, publish=None)], {})["passed"]
