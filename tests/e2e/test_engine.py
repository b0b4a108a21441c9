"""Who answers over UDP: the compiled engine where it is built, Python where it is told to; both say so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.node import ROOT, Node

pytestmark = pytest.mark.e2e

WHO = {"require": "compiled", "python": "python"}


@pytest.mark.parametrize("wanted", list(WHO))
def test_either_answers_and_is_told_apart(node: Callable[..., Node], wanted: str) -> None:
    one = node(workers=2, more=f'engine = "{wanted}"\ndrain_seconds = 0')
    one.apply()
    assert one.dig("static.demo.example", "+short").split() == ["192.0.2.81"]
    assert "NOTIMP" in one.dig("static.demo.example", "+opcode=status"), "which Python says in any case"
    status = one.api("GET", "/v1/status").body
    assert [worker["engine"] for worker in status["workers"]] == [WHO[wanted]] * 2
    metrics = one.api("GET", "/metrics").body
    for worker in (0, 1):
        assert f'dnsd_engine{{worker="{worker}"}} {int(wanted == "require")}' in metrics
    passed = sum(int(line.split()[-1]) for line in metrics.splitlines() if line.startswith("dnsd_engine_passed_total{"))
    assert (passed > 0) is (wanted == "require")
    assert one.stop() == 0


def test_the_version_tells_it() -> None:
    words = [sys.executable, "-m", "dnsd", "version", "--json"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout
    assert json.loads(told)["engine"] == "compiled"
