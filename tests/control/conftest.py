"""What several tests of this room start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnsd.atlas import build
from tests.atlas import samples


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an atlas of a few prefixes, one for each file of tests."""
    folder = tmp_path_factory.mktemp("small")
    build.build(samples.directory(folder / "data"), folder / "atlas")
    return folder / "atlas"
