"""Kilometres against known distances, milliseconds against the data the line was fitted to."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.steer import distance

RTT = Path(__file__).resolve().parents[2] / "data" / "rtt"
degrees = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@pytest.mark.parametrize(("here", "there", "km"), [
    ((0, 0), (0, 0), 0.0),
    ((0, 0), (0, 90), 10007.6),
    ((0, -179.5), (0, 179.5), 111.2),
    ((90, 0), (-90, 50), 20015.1),
    ((52.3667, 4.9), (35.6895, 139.6917), 9291.0),    # Amsterdam, Tokyo
    ((-33.8688, 151.2093), (40.7128, -74.006), 15989.0),  # Sydney, New York
])
def test_kilometres(here: tuple[float, float], there: tuple[float, float], km: float) -> None:
    assert distance.km(*here, *there) == pytest.approx(km, rel=2e-3, abs=0.1)


@given(degrees, degrees)
def test_kilometres_are_a_distance(here: tuple[float, float], there: tuple[float, float]) -> None:
    assert 0 <= distance.km(*here, *there) <= 20015.2
    assert distance.km(*here, *there) == pytest.approx(distance.km(*there, *here), abs=1e-6)


def test_the_line_is_the_median_path_of_the_data() -> None:
    with (RTT / "aws_regions.csv").open(newline="") as file:
        place = {row["region"]: (float(row["latitude"]), float(row["longitude"])) for row in csv.DictReader(file)}
    with (RTT / "aws_rtt.csv").open(newline="") as file:
        off = [float(row["rtt_ms"]) - distance.rtt_ms(distance.km(*place[row["source"]], *place[row["destination"]]))
               for row in csv.DictReader(file) if row["source"] != row["destination"]]
    assert len(off) == 420
    assert abs(median(off)) < 1
    assert sum(abs(ms) for ms in off) / len(off) < 28
