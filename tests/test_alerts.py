"""The alert rules speak of metrics that exist, and the page for operators of every rule."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dnsd import metrics
from dnsd.admin import exposition

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES = {block.partition("\n")[0].strip(): block for block in TEXT.split("- alert:")[1:]}
KNOWN = set(re.findall(r"^# TYPE (\S+) ", exposition.text(
    memoryview(bytearray(metrics.REGION)), True, {"stale_for": 0.0}, {}, exposition.Meter()), re.MULTILINE))
STATUS = {name for name, *_ in exposition._STATUS}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_whole(name: str) -> None:
    rule = RULES[name]
    expression = re.search(r"^ +expr: (.+)$", rule, re.MULTILINE)
    assert expression is not None
    used = set(re.findall(r"\bdnsd_\w+", expression[1]))
    assert used
    assert used <= KNOWN | STATUS
    assert re.search(r"^ +labels: \{severity: (critical|warning|info)\}$", rule, re.MULTILINE)
    assert re.search(r'^ +annotations: \{summary: ".{20,}"\}$', rule, re.MULTILINE)
    assert re.search(r"^ +for: \d+[sm]$", rule, re.MULTILINE) or "increase(" in rule or "_over_time(" in rule or (
        "held" in rule or "_alarm" in rule)


def test_counters_are_looked_at_over_a_time_and_gauges_as_they_are() -> None:
    for name, rule in RULES.items():
        for function, metric in re.findall(r"(?:(increase|rate)\()?\b(dnsd_\w+)", rule):
            assert bool(function) == metric.endswith("_total"), (name, metric)


def test_the_page_speaks_of_every_rule_and_of_no_other() -> None:
    told = [name for row in re.findall(r"^\| (Dnsd[\w, ]+) \|", PAGE, re.MULTILINE) for name in row.split(", ")]
    assert sorted(told) == sorted(RULES)
