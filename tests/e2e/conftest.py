"""What all end-to-end tests stand on: the atlas of the bundled data, built once by the command an operator would type."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node import Node, write_config


@pytest.fixture(scope="session")
def atlas_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a built atlas; nodes share it."""
    atlas = tmp_path_factory.mktemp("atlas")
    Node(write_config(tmp_path_factory.mktemp("build"), atlas)).cli("data", "build")
    return atlas
