"""What control decided of a service, as numbers of its record. The whole round trip: tests/image/test_record.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dnsd.compile.service import record
from dnsd.image import layout
from dnsd.image.record import Plan
from dnsd.image.table import MapTable
from dnsd.model import Fence, Ladder, MapView, Policy, ServiceView
from tests.golden.world import endpoint, service, table_bytes

MAPS = {0: MapView(0, "all", ("s0", "s1")), 1: MapView(1, "one", ("s0",))}
P = Policy()


@pytest.mark.parametrize(("view", "a", "aaaa", "gives"), [
    (service("x", endpoint(1)), Ladder.LIVE, Ladder.LIVE, [[], []]),
    (service("x", endpoint(1), fallback=["192.0.2.1"]), Ladder.LIVE, Ladder.LIVE, [["192.0.2.1"], []]),
    (service("x", endpoint(1, aaaa=False), fallback=["2001:db8::1"]), Ladder.LIVE, Ladder.FALLBACK,
     [[], ["2001:db8::1"]]),
    (service("x", endpoint(1, a=False), last_good=["192.0.2.1"]), Ladder.LAST_GOOD, Ladder.LIVE, [["192.0.2.1"], []]),
    (service("x", fallback=["192.0.2.1"], last_good=["192.0.2.2", "2001:db8::2"]), Ladder.FALLBACK, Ladder.LAST_GOOD,
     [["192.0.2.1"], ["2001:db8::2"]]),
    (service("x"), Ladder.EMPTY, Ladder.EMPTY, [[], []]),
    (service("x", endpoint(1), last_good=["192.0.2.2"]), Ladder.LIVE, Ladder.LIVE, [[], []]),
])
def test_each_type_stands_on_the_first_rung_with_an_address(
    view: ServiceView, a: Ladder, aaaa: Ladder, gives: list[list[str]],
) -> None:
    plan = Plan(record(view, MAPS))
    assert (plan.ladder_a, plan.ladder_aaaa) == (a, aaaa)
    everything = service("x", fallback=gives[0] + gives[1])
    assert (plan.fallback_a, plan.fallback_aaaa) == (list(everything.fallback_a), list(everything.fallback_aaaa))


@pytest.mark.parametrize(("policy", "map_id", "uses"), [
    (P, 0, True), (P, 9, True), (replace(P, uses_client=False), 0, False),
    (P, 1, False),                                   # one site: nobody is nearer to another
    (replace(P, fence=Fence.COUNTRY), 1, True),      # but who is inside the fence still matters
    (replace(P, unknown_fallback=True), 1, True),    # and so does who has a place at all
    (replace(P, no_ecs_fallback=True), 1, False),
])
def test_whether_the_client_matters(policy: Policy, map_id: int, uses: bool) -> None:
    view = service("x", endpoint(1), policy=policy, map_id=map_id)
    assert Plan(record(view, MAPS)).uses_client is uses


def test_a_site_that_the_only_map_lacks_stays_farthest() -> None:
    """Else its endpoints would share with those of the known site, for clients everywhere, until the map is there."""
    plan = Plan(record(service("x", endpoint(1), endpoint(2, "elsewhere"), map_id=1), MAPS))
    assert plan.uses_client
    table = MapTable(table_bytes(1, [[(0, 0)]], ((0, 0),)))
    assert plan.groups(False, 0, table) == [[0], [1]]


def test_columns_are_the_maps() -> None:
    live = [endpoint(1, "s1"), endpoint(2, "s0"), endpoint(3, "elsewhere")]
    assert [c.column for c in Plan(record(service("x", *live), MAPS)).candidates] == [1, 0, None]
    assert [c.column for c in Plan(record(service("x", *live, map_id=5), MAPS)).candidates] == [None] * 3


def test_points() -> None:
    data = record(service("x", policy=replace(P, proximity=40, half_ms=50, match=30)), MAPS)
    points = [int.from_bytes(data[at : at + 4], "little") for at in range(
        layout.RECORD.size, layout.RECORD.size + 4 * (layout.LEVELS + layout.MATCHES), 4)]
    for level, ms in enumerate(layout.LEVEL_MS):
        assert points[level] == 40 * (1000 * 50 // (50 + ms))
    assert set(points[len(layout.LEVEL_MS) : layout.LEVELS]) == {points[len(layout.LEVEL_MS) - 1]}
    assert points[layout.LEVELS :] == [0, *[30_000] * 7]


def test_standing_is_health_and_load_by_weight() -> None:
    live = [endpoint(1, health=1000, load=1000), endpoint(2, health=500, load=0), endpoint(3, health=0, load=250)]
    assert [c.standing for c in Plan(record(service("x", *live), MAPS)).candidates] == [30_000, 10_000, 2_500]
