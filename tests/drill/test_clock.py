"""Clocks of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnsd.drill import clock

SHOWS = "import sys, time\nfor line in sys.stdin: print(time.time(), time.monotonic(), flush=True)"


@pytest.mark.needs("cc")
def test_a_clock_is_put_ahead_while_its_process_runs(tmp_path: Path) -> None:
    clocks = clock.Clocks(tmp_path / "clocks")
    assert clocks.missing == ""
    with subprocess.Popen([sys.executable, "-c", SHOWS], env=os.environ | clocks.environment("one"), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for ahead_ms in (0, 15_250, 0):
            clocks.put_ahead("one", ahead_ms)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, monotonic = map(float, process.stdout.readline().split())
            assert abs(wall - time.time() - ahead_ms / 1000) < 0.2
            assert abs(monotonic - time.monotonic()) < 0.2
        process.stdin.close()


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    clocks = clock.Clocks(tmp_path / "clocks")
    assert "cc" in clocks.missing
    assert clocks.environment("one") == {}


@pytest.mark.needs("cc")
def test_what_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SOURCE", "this is no C")
    assert clock.Clocks(tmp_path / "clocks").missing.startswith("cc: ")
