"""The way of a client through the sites of a service that spills over, for `explain`: asked again, not imitated.

Lives here: who is asked in which order and what each says, as a part of the explanation. Does not live here: the rule
(`steer.spill`), all else of the explanation (`control.explain`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dnsd.image import layout
from dnsd.image.record import Plan
from dnsd.image.table import MapTable
from dnsd.steer import rank, spill
from dnsd.steer.spill import WHOLE


def answerable(plan: Plan, v6: int, judged: Sequence[rank.Judged] | None) -> list[rank.Judged]:
    """Without those that are in the order and cannot be answered."""
    return [one for one in judged or ()
            if (plan.candidates[one.number].aaaa if v6 else plan.candidates[one.number].a) is not None]


def told(plan: Plan, v6: int, where: tuple[int, MapTable | None], seed: int, ids: Sequence[tuple[str, str]],
         found: dict[str, Any]) -> dict[str, Any]:
    """The explanation with the client's way in it: `spill`, and a sentence under `why`. `where`: row and its table."""
    if not plan.flags & layout.R_SPILL or found["rung"] != "live":
        return found
    asked: list[dict[str, Any]] = []
    native: list[str] = []

    def hear(stand: spill.Stand, says: str) -> None:
        site = ids[stand.number][1]
        native.append(site)
        if says != "not answerable" or not asked or asked[-1]["site"] != site:
            share = stand.spread.keep if site == native[0] else stand.spread.take
            asked.append({"site": site, "share": round(share / WHOLE, 4), "says": says})

    number = spill.walk(seed, plan.way(v6, plan.groups(v6, *where), seed), hear)
    if number < 0:
        return found
    site = ids[number][1]
    spilled = {"native": native[0], "site": site, "kept": site == native[0], "asked": asked}
    return found | {"spill": spilled, "why": found["why"] | {"spill": _sentence(native[0], site, asked)}}


def _sentence(native: str, site: str, asked: Sequence[dict[str, Any]]) -> str:
    if site == native:
        said = asked[-1]["says"].startswith("kept")
        return f"{site} is the client's native site and keeps it" if said else (
            f"{site} is the client's native site and does not keep it, but nobody takes it")
    first = asked[0]
    why = "cannot be answered" if first["says"] == "not answerable" else f"keeps {first['share']:.1%} of its clients"
    how = ("takes it" if asked[-1]["site"] == site and asked[-1]["says"].startswith("taken")
           else "was drawn by what each takes, for none had taken it")
    return f"its native site {native} {why}; of those that come by, {site} {how}"
