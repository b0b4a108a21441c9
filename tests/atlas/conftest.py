"""The atlas of the bundled data, built once for all tests and all test processes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dnsd.atlas import compiled, store
from tests.atlas.samples import DATA, ROOT


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the compiled loops, and with the numpy beside them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lines", "rows", "runs", "walk"):
            if request.param == "numpy":
                patch.setattr(compiled, name, None)
            elif getattr(compiled, name) is None:
                (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("the atlas's loops are not compiled")
        yield request.param


class Bundled(NamedTuple):
    directory: Path
    report: dict[str, Any]
    atlas: store.Atlas


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Bundled:
    """Built by the command, in a process of its own, so that its report tells the whole memory it took."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    out, note = shared / "bundled-atlas", shared / "bundled-atlas.json"
    with (shared / "bundled-atlas.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists():
            settings = shared / "bundled-atlas.toml"
            settings.write_text(f'state = "{shared}"\n[data]\ndirectory = "{DATA}"\natlas = "{out}"\n')
            done = subprocess.run(
                [sys.executable, "-m", "dnsd", "data", "build", "--json", "-c", str(settings)], cwd=ROOT,
                capture_output=True, text=True, check=True)
            note.write_text(done.stdout)
    return Bundled(out, json.loads(note.read_text()), store.open_atlas(out))
