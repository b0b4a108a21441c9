"""Great circles against the formula itself, kinds of rows against what they are said to be, one by one; with the
compiled loops and with numpy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.atlas import levels
from dnsd.steer import distance
from dnsd.steer.row import LEVEL_MS, level_of

pytestmark = pytest.mark.usefixtures("loops")
FAR = level_of(levels.FAR_MS)


class Site(NamedTuple):
    latitude: float
    longitude: float
    shift_ms: float = 0.0


places = st.tuples(st.floats(-90, 90), st.floats(-180, 180)) | st.sampled_from(
    [(90.0, 0.0), (-90.0, 77.0), (0.0, 180.0), (0.0, -180.0), (12.5, 7.25), (-12.5, -172.75)])


def extra(here: list[tuple[float, float]], sites: list[Site]) -> levels.F64:
    return levels.extra_ms(np.array([one[0] for one in here]), np.array([one[1] for one in here]), sites)


@given(st.lists(places, min_size=1, max_size=5), st.lists(st.builds(
    lambda place, shift: Site(*place, shift), places, st.sampled_from([0.0, 0.0, 30.0])), min_size=1, max_size=9))
def test_milliseconds_are_the_formulas(here: list[tuple[float, float]], sites: list[Site]) -> None:
    found = extra(here, sites)
    for one, said in zip(here, found, strict=True):
        ms = [distance.rtt_ms(distance.km(*one, site.latitude, site.longitude)) + site.shift_ms for site in sites]
        assert said == pytest.approx([other - min(ms) for other in ms], abs=1e-5)
        assert said.min() == 0
    assert [said.tolist() for said in extra(here, sites[::-1])] == [said[::-1].tolist() for said in found]


def test_sites_in_one_place_are_equally_far() -> None:
    assert not extra([(52.5, 13.4), (-90.0, 0.0)], [Site(48.9, 2.4)] * 3).any()


def test_where_a_place_is_not_known_nothing_is_nearer() -> None:
    found = extra([(float("nan"), float("nan")), (52.5, 13.4)], [Site(48.9, 2.4), Site(35.7, 139.7)])
    assert found[0].tolist() == [0, 0]
    assert found[1, 0] == 0 < found[1, 1]
    assert extra([(1.0, 2.0)], []).shape == (1, 0)


@st.composite
def clients(draw: st.DrawFn) -> tuple[levels.F64, Any, levels.F64]:
    sites = draw(st.integers(1, 9))
    ms = st.sampled_from([0.0, 1.0, 7.9, 8.0, 59.9, 60.0, 61.0, 200.0, 1e4]) | st.floats(0, 500)
    some = draw(st.lists(st.lists(ms, min_size=sites, max_size=sites), min_size=1, max_size=12))
    bits = draw(st.lists(st.lists(st.sampled_from([0, 0, 8, 24]), min_size=sites, max_size=sites),
                         min_size=len(some), max_size=len(some)))
    weights = draw(st.lists(st.sampled_from([1.0, 2.0, 65536.0]), min_size=len(some), max_size=len(some)))
    return np.array(some), np.array(bits, np.uint8), np.array(weights)


@given(clients())
def test_kinds_are_near_levels_and_the_mean_of_the_far(case: tuple[levels.F64, Any, levels.F64]) -> None:
    some, bits, weights = case
    found = levels.kinds(some, bits, weights)
    near = [[min(level_of(ms), FAR) for ms in one] for one in some.tolist()]
    alike = [(*a, *b) for a, b in zip(near, bits.tolist(), strict=True)]
    for one in range(len(some)):
        like = [other for other in range(len(some)) if alike[other] == alike[one]]
        mean = [sum(weights[other] * some[other, site] for other in like) / weights[like].sum()
                for site in range(some.shape[1])]
        expected = [level if level < FAR else level_of(max(levels.FAR_MS, ms - 1e-9))
                    for level, ms in zip(near[one], mean, strict=True)]
        other = [level if level < FAR else level_of(max(levels.FAR_MS, ms + 1e-9))
                 for level, ms in zip(near[one], mean, strict=True)]
        said = found.rows[found.of[one]].tolist()
        assert said[: len(mean)] in (expected, other)
        assert said[len(mean):] == bits[one].tolist()
    rows = [tuple(row) for row in found.rows.tolist()]
    assert rows == sorted(set(rows))
    assert len(rows) == len(set(alike))


@given(st.integers(1, 20), st.data())
def test_distinct_rows(width: int, data: st.DataObject) -> None:
    octet = st.sampled_from([0, 0, 1, 255])
    rows = data.draw(st.lists(st.lists(octet, min_size=width, max_size=width), min_size=1, max_size=20))
    found = levels.distinct(np.array(rows, np.uint8))
    assert found.rows.tolist() == sorted({tuple(row): row for row in rows}.values())
    assert found.rows[found.of].tolist() == rows


def test_no_columns_are_one_row() -> None:
    found = levels.distinct(np.zeros((5, 0), np.uint8))
    assert (found.rows.shape, found.of.tolist()) == ((1, 0), [0] * 5)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.data(), st.booleans())
def test_pairs(sites: int, kinds: int, nets: int, data: st.DataObject, sparse: bool) -> None:
    def rows(count: int, first: int) -> Any:
        """Different ones, for a network all of them bits."""
        return np.array([[(first + 5 * i) * (j >= sites) or i * (not j) for j in range(2 * sites)]
                         for i in range(count)], np.uint8)

    place = levels.Kinds(rows(kinds, 0), np.array(data.draw(st.lists(
        st.integers(0, kinds - 1), min_size=6, max_size=6)), np.uint32))
    users = data.draw(st.integers(0, 8))
    part = np.array(data.draw(st.lists(st.integers(0, 5), min_size=users, max_size=users)), np.uint32)
    net = levels.Kinds(rows(nets, 64)[:, sites:], np.array(data.draw(st.lists(
        st.integers(0, nets - 1), min_size=users, max_size=users)), np.uint32))
    unknown = np.array(data.draw(st.lists(st.booleans(), min_size=users, max_size=users)), np.bool_)
    with pytest.MonkeyPatch.context() as patch:
        if sparse:
            patch.setattr(levels, "DENSE", 1)
        found, row = levels.paired(place, part, net, unknown)
    assert not found[0].any()
    for user in range(users):
        if unknown[user]:
            assert row[user] == 0
            continue
        here = place.rows[place.of[part[user]]]
        assert row[user] > 0
        assert found[row[user]].tolist() == [*here[:sites], *(here[sites:] | net.rows[net.of[user]])]
    assert sorted({0, *row.tolist()}) == list(range(len(found)))


def test_levels_begin_at_whole_milliseconds() -> None:
    assert [levels._LEVEL_OF[int(ms)] for ms in LEVEL_MS] == list(range(len(LEVEL_MS)))
