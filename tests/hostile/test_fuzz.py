"""The fuzz targets: kept inputs as they are, and of each a bounded run under atheris that is the same every time.

`make fuzz` runs them by the clock.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from fuzz import run

RUNS = {"respond": 5000, "zone": 300, "capture": 800}
OTHERS = 3000


@pytest.mark.parametrize("name", run.names())
def test_kept_inputs(name: str) -> None:
    """What once broke a target, and what reaches most of its code."""
    target = import_module(f"fuzz.targets.{name}")
    inputs = [*target.seeds(), *run.kept(name)]
    assert inputs
    for data in (b"", b"\0", *inputs):
        target.check(data)


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.version_info >= (3, 15), reason="no build of atheris here")
@pytest.mark.parametrize("name", run.names())
def test_new_inputs(name: str) -> None:
    assert find_spec("atheris"), "installed by requirements-dev.lock"
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.run", "--runs", str(RUNS.get(name, OTHERS)), name], cwd=run.ROOT,
        capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r": (\d+) inputs", done.stdout)
    assert tried, done.stdout
    assert int(tried[1]) >= RUNS.get(name, OTHERS)  # a few more where libFuzzer was in the middle of something
