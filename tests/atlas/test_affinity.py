"""Whose milliseconds come nearer, by hand and for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dnsd.atlas import affinity

BAND = affinity.BAND_MS
N = False
Y = True
RULES: list[tuple[str, list[float], list[bool], list[bool], list[float]]] = [
    ("nobody at home", [0, 90, 40], [N, N, N], [N, N, N], [0, 90, 40]),
    ("the best is at home", [0, 90, 40], [Y, N, N], [N, N, N], [0, 90, 40]),
    ("within the band", [0, 90, 29], [N, N, Y], [N, N, N], [0, 90, 29]),
    ("inferred, behind", [0, 90, 40], [N, N, Y], [N, N, N], [0, 90, BAND]),
    ("measured alone", [0, 90, 40], [N, N, Y], [N, N, Y], [0, 90, BAND]),
    ("the other measured alone", [0, 90, 40], [N, N, Y], [Y, N, N], [0, 90, BAND]),
    ("both measured", [0, 90, 40], [N, N, Y], [Y, N, Y], [0, 90, 40]),
    ("both measured, close", [0, 15, 40], [N, N, Y], [N, Y, Y], [0, 15, BAND]),
    ("two at home keep their order", [0, 90, 40], [N, Y, Y], [N, N, N], [0, 80, BAND]),
    ("one at home is near, so the other may be far", [0, 90, 10], [N, Y, Y], [N, N, N], [0, 90, 10]),
    ("one at home is measured to be slow", [0, 90, 40], [N, Y, Y], [Y, N, Y], [0, BAND, 40]),
]


@pytest.mark.parametrize(("extra", "home", "measured", "expected"), [rule[1:] for rule in RULES],
                         ids=[rule[0] for rule in RULES])
def test_rules(extra: list[float], home: list[bool], measured: list[bool], expected: list[float]) -> None:
    found = affinity.kept(np.array([extra], float), np.array([home]), np.array([measured]))
    assert found.tolist() == [expected]


@given(arrays.arrays(float, (6, 4), elements=st.integers(0, 200)), arrays.arrays(bool, (6, 4)),
       arrays.arrays(bool, (6, 4)))
def test_what_holds_for_all(extra: np.ndarray, home: np.ndarray, measured: np.ndarray) -> None:
    extra = extra - extra.min(axis=1, keepdims=True)
    found = affinity.kept(extra, home, measured)
    assert (found <= extra).all()
    assert (found[~home] == extra[~home]).all()
    assert (found.min(axis=1) == 0).all(), "who is best stays best"
    assert (found[extra <= BAND] <= BAND).all()
    assert (affinity.kept(found, home, measured) == found).all()
    unmeasured = affinity.kept(extra, home, np.zeros_like(measured))
    for row in range(6):
        if home[row].any():
            assert unmeasured[row][home[row]].min() <= BAND


def test_parts() -> None:
    parts = affinity.part(3, np.array([0, 1, 1, 2, 1, 0], np.uint32), np.array([0, 0, 2, 1, 2, 0]))
    assert parts.vector.tolist() == [0, 1, 2, 1, 2]
    assert parts.kind.tolist() == [0, 0, 0, 2, 1]
    assert parts.of.tolist() == [0, 1, 3, 4, 3, 0]
