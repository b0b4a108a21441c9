"""When the compiled engine is used, and why it is not."""

from __future__ import annotations

import sys

import pytest

from dnsd.engine import constants, door, finding


def test_it_is_found_where_it_was_built() -> None:
    assert finding.find(finding.AUTO) == finding.find(finding.REQUIRE) == (door, "")


def test_it_is_not_looked_for_where_python_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dnsd.engine.door", None)
    assert finding.find(finding.PYTHON) == (None, "")


@pytest.mark.parametrize("problem", ["is not there", "was built for another dnsd"])
def test_it_is_not_used_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    if problem == "is not there":
        monkeypatch.delattr("dnsd.engine.door")
        monkeypatch.setitem(sys.modules, "dnsd.engine.door", None)
    else:
        monkeypatch.setattr(constants, "digest", lambda: door.digest() ^ 1)
    found = finding.find(finding.AUTO)
    assert found.door is None
    assert problem in found.problem
    with pytest.raises(finding.NoEngineError, match=problem):
        finding.find(finding.REQUIRE)
