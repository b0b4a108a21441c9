"""Fixtures of the doors' tests."""

from __future__ import annotations

import pytest

from dnsd.serve import stream
from tests.serve.doors import HANDED, LOOPS


@pytest.fixture(params=[*LOOPS, HANDED])
def loop(request: pytest.FixtureRequest) -> str:
    """Both event loops, one after the other; then connections that come from the engine's hands."""
    return str(request.param)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message is its own reply."""
    monkeypatch.setattr(stream, "respond", lambda packet, *rest: packet)
