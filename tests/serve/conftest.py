"""Fixtures of the doors' tests."""

from __future__ import annotations

import pytest

from dnsd.serve import stream
from tests.serve.doors import LOOPS


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Both event loops, one after the other."""
    return str(request.param)


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message is its own reply."""
    monkeypatch.setattr(stream, "respond", lambda packet, *rest: packet)
