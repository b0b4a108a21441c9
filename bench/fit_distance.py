"""Fits the line of `dnsd.steer.distance` to measured round-trip times: `python bench/fit_distance.py [data/rtt]`.

Least absolute deviations by reweighting; least squares is printed beside it. Prints what to put into BASE_MS and
MS_PER_KM and how far the measured times lie from the line.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from dnsd.steer import distance

ROUNDS = 200


def main(folder: Path) -> None:
    with (folder / "aws_regions.csv").open(newline="") as file:
        places = {row["region"]: (float(row["latitude"]), float(row["longitude"])) for row in csv.DictReader(file)}
    with (folder / "aws_rtt.csv").open(newline="") as file:
        pairs = [row for row in csv.DictReader(file) if row["source"] != row["destination"]]
    km = np.array([distance.km(*places[row["source"]], *places[row["destination"]]) for row in pairs])
    ms = np.array([float(row["rtt_ms"]) for row in pairs])
    terms = np.stack((np.ones_like(km), km), axis=1)
    squares = np.linalg.lstsq(terms, ms, rcond=None)[0]
    line = squares
    for _ in range(ROUNDS):
        weight = 1 / np.maximum(1e-6, np.abs(terms @ line - ms))
        line = np.linalg.solve(terms.T @ (terms * weight[:, None]), terms.T @ (weight * ms))
    print(f"{len(pairs)} pairs of {len(places)} places")
    for name, (base, slope) in (("least squares", squares), ("least absolute deviations", line)):
        off = np.abs(base + slope * km - ms)
        wide = f"off by {off.mean():.1f} ms, median {np.median(off):.1f}"
        print(f"{name:26} BASE_MS {base:6.2f}  MS_PER_KM {slope:.5f}  {wide}")
    print(f"declared{'':18} BASE_MS {distance.BASE_MS:6.2f}  MS_PER_KM {distance.MS_PER_KM:.5f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "data" / "rtt")
