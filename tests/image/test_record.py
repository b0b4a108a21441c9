"""Records there and back, and the short way to a top group against the judgement that `explain` prints."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.compile.service import key_of, record
from dnsd.image import layout
from dnsd.image import record as records
from dnsd.image.record import Plan
from dnsd.image.table import MapTable
from dnsd.model import EndpointView, Fence, Ladder, MapView, Policy, ServiceView
from dnsd.steer import rank
from dnsd.steer.row import LEVEL_MS
from tests.golden.world import Row, endpoint, service, table_bytes

SITES = ("s0", "s1", "s2", "s3")
MAPS = {0: MapView(0, "m", SITES)}
TOP = len(LEVEL_MS) - 1

octets4, octets16 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
policies = st.builds(
    Policy, st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(1, 10_000),
    st.integers(0, 10_000), st.integers(1, 32), st.booleans(), st.sampled_from(list(Fence)), st.booleans(),
    st.booleans(), st.integers(0, 24), st.integers(0, 56))
endpoints = st.lists(st.builds(
    EndpointView, st.text("abcdef0123456789-", min_size=1, max_size=8), st.sampled_from([*SITES, "elsewhere"]),
    st.none() | octets4, st.none() | octets16, st.sampled_from([0, 0, 1, 255]), st.sampled_from([0, 1, 100, 65535]),
    st.integers(0, 1000), st.integers(0, 1000)), max_size=8, unique_by=lambda e: e.id).map(tuple)
few4, few16 = st.lists(octets4, max_size=3).map(tuple), st.lists(octets16, max_size=3).map(tuple)
params = st.dictionaries(st.sampled_from([1, 3, 5]), st.binary(max_size=20)).map(lambda found: tuple(found.items()))
services = st.builds(
    ServiceView, st.sampled_from([b"\1a\0", b"\3api\7example\0"]), policies, st.integers(1, 86_400),
    st.sets(st.sampled_from([1, 28, 65])).map(frozenset), endpoints, few4, few16, few4, few16, st.just(0),
    st.booleans(), params)


@settings(max_examples=60)
@given(services)
def test_everything_of_a_service_is_in_its_plan(view: ServiceView) -> None:
    plan = Plan(record(view, MAPS))
    policy = view.policy
    assert (plan.key, plan.ttl, plan.map_id, plan.take) == (key_of(view.owner), view.ttl, 0, policy.take)
    assert (plan.split4, plan.split6, plan.rules.band_ms, plan.rules.fence) == (
        policy.split4, policy.split6, policy.band_ms, policy.fence)
    assert plan.uses_client is policy.uses_client
    assert list(plan.rules.match) == rank.match_points(policy.match)
    points = rank.proximity_points(policy.proximity, policy.half_ms, LEVEL_MS)
    assert list(plan.rules.proximity[: len(LEVEL_MS)]) == points
    flags = {
        layout.R_OWNS_A: 1 in view.types, layout.R_OWNS_AAAA: 28 in view.types, layout.R_OWNS_HTTPS: 65 in view.types,
        layout.R_USES_CLIENT: policy.uses_client, layout.R_NO_ECS_FALLBACK: policy.no_ecs_fallback,
        layout.R_UNKNOWN_FALLBACK: policy.unknown_fallback, layout.R_PANIC: view.panic}
    assert plan.flags == sum(flag for flag, on in flags.items() if on)
    live = sorted(view.live, key=lambda e: e.id)
    assert [(c.key, c.weight, c.tier, c.a, c.aaaa) for c in plan.candidates] == [
        (key_of(e.id.encode()), e.weight, e.tier, e.a, e.aaaa) for e in live]
    assert [c.column for c in plan.candidates] == [
        SITES.index(e.site) if e.site in SITES else None for e in live]
    assert [c.standing for c in plan.candidates] == [policy.health * e.health + policy.load * e.load for e in live]
    for v6, fallback, last_good in ((False, view.fallback_a, view.last_good_a),
                                    (True, view.fallback_aaaa, view.last_good_aaaa)):
        ladder = plan.ladder_aaaa if v6 else plan.ladder_a
        addresses = [e.aaaa if v6 else e.a for e in live]
        if any(addresses):
            assert ladder == Ladder.LIVE
        elif fallback:
            assert ladder == Ladder.FALLBACK
        else:
            assert ladder == (Ladder.LAST_GOOD if last_good else Ladder.EMPTY)
        given_up = last_good if ladder == Ladder.LAST_GOOD else fallback
        head = struct.pack(">HHHIH", 0xC00C, 28 if v6 else 1, 1, view.ttl, 16 if v6 else 4)
        assert plan.rung(v6) == (len(given_up), b"".join(head + address for address in given_up))
    assert (plan.https_head, plan.https_rest) == (
        b"".join(param(key, value) for key, value in sorted(view.https) if key < 4),
        b"".join(param(key, value) for key, value in view.https if key == 5))


def param(key: int, value: bytes) -> bytes:
    """RFC 9460 §2.2."""
    return struct.pack(">HH", key, len(value)) + value


@given(params, st.lists(octets4, max_size=3), st.lists(octets16, max_size=3))
def test_an_https_record_is_what_was_declared_and_the_hints_in_the_order_of_keys(
    found: tuple[tuple[int, bytes], ...], four: list[bytes], six: list[bytes],
) -> None:
    plan = Plan(record(replace(FULL, https=found, ttl=77), MAPS))
    a, aaaa = (b"".join(struct.pack(">HHHIH", 0xC00C, type_, 1, 77, len(address)) + address for address in addresses)
               for type_, addresses in ((1, four), (28, six)))
    hints = [(key, b"".join(addresses)) for key, addresses in ((4, four), (6, six)) if addresses]
    rdata = b"\0\1\0" + b"".join(param(*each) for each in sorted([*found, *hints]))
    assert plan.https(a, aaaa) == struct.pack(">HHHIH", 0xC00C, 65, 1, 77, len(rdata)) + rdata


@settings(max_examples=30)
@given(services, st.integers(0, 7))
def test_the_order_of_endpoints_given_is_nothing(view: ServiceView, turn: int) -> None:
    turned = (*view.live[turn:], *view.live[:turn])
    assert record(replace(view, live=turned), MAPS) == record(view, MAPS)


FULL = service("a.example", *(endpoint(n, f"s{n}") for n in range(3)), fallback=["192.0.2.1", "2001:db8::1"])


@pytest.mark.parametrize("view", [
    FULL, service("a.example"), replace(FULL, https=((1, b"\2h2"), (5, b"ech")))], ids=["full", "empty", "https"])
def test_a_record_of_another_length_is_none(view: ServiceView) -> None:
    data = record(view, MAPS)
    Plan(data)
    for size in range(len(data)):
        with pytest.raises((ValueError, struct.error)):
            Plan(data[:size])
    with pytest.raises(ValueError, match="record of"):
        Plan(data + b"\0")


def test_keys_are_the_same_in_every_release() -> None:
    """Draws are keyed by them: another hash would move every client at once."""
    assert key_of(b"") == 0x8CD1D68A50D226C2
    assert key_of(b"e001") == 0x9EDBC90086B45B8B
    assert key_of(b"\3api\7example\3com\0") == 0x8A72F8D28E9A2C4D


# --- rows -------------------------------------------------------------------------------------------------------------

rows = st.lists(st.tuples(st.integers(0, TOP), st.integers(0, 31)), min_size=len(SITES), max_size=len(SITES))


NOBODY = [(0, 0)] * len(SITES)
live_services = services.filter(lambda view: any(e.a for e in view.live) and any(e.aaaa for e in view.live))


def table_of(*found: Row) -> MapTable:
    """A map table with those rows from 1 on."""
    return MapTable(table_bytes(len(SITES), [NOBODY, *found], ((0, 0),)))


@settings(max_examples=40)
@given(live_services, rows, st.integers(0, 2), st.booleans())
def test_top_is_the_first_group_of_the_judgement(view: ServiceView, row: Row, number: int, v6: bool) -> None:
    plan, table = Plan(record(view, MAPS)), table_of(row)
    judged = plan.judge(v6, number, table)
    if judged is None:
        assert plan.groups(v6, number, table) == []
        assert plan.rules.fence
        assert plan.rung(v6)[0]
        return
    groups = plan.groups(v6, number, table)
    assert groups == rank.groups(judged)
    assert sorted(i for group in groups for i in group) == sorted(one.number for one in judged)
    if not plan.rules.fence:
        assert list(plan.top(v6, number, table)) == groups[0]
        assert plan.top(v6, number, table) is plan.top(v6, number, table)


@pytest.mark.parametrize("level", range(1, TOP + 1))
@pytest.mark.parametrize(("short", "wins"), [(0, True), (1, False)])
def test_the_band_holds_its_last_millisecond(level: int, short: int, wins: bool) -> None:
    """A site that matches is preferred up to the band's end, and not a millisecond beyond, on the short way too."""
    policy = Policy(proximity=1, match=100, band_ms=LEVEL_MS[level] - short)
    plan = Plan(record(service("api.example.com", endpoint(1, "s0"), endpoint(2, "s1"), policy=policy), MAPS))
    table = table_of([(0, 0), (level, 1), (TOP, 0), (TOP, 0)])
    assert plan.top(False, 1, table) == ((1,) if wins else (0,))
    assert plan.groups(False, 1, table)[0] == list(plan.top(False, 1, table))


@pytest.mark.parametrize("band_ms", [0, 1, 2, 29, 30, 31, 32, 60, 249, 250, 10_000])
def test_the_short_way_knows_the_edge_of_the_band(band_ms: int) -> None:
    """Two sites at every pair of levels, the farther with a match, so that the band decides."""
    pairs = [(near, far) for near in range(TOP + 1) for far in range(near, TOP + 1)]
    table = table_of(*([(near, 0), (far, 1), (0, 0), (0, 0)] for near, far in pairs))
    live = [endpoint(1, "s0"), endpoint(2, "s1")]
    plan = Plan(record(service("a.example", *live, policy=Policy(match=100, band_ms=band_ms)), MAPS))
    for row, (near, far) in enumerate(pairs, 1):
        inside = LEVEL_MS[far] - LEVEL_MS[near] <= band_ms
        assert list(plan.top(False, row, table)) == ([1] if inside else [0])
        assert plan.groups(False, row, table)[0] == ([1] if inside else [0])


@settings(max_examples=30)
@given(live_services, rows, st.booleans(), st.integers(0, 2**62), st.integers(0, 2**32))
def test_picks_are_of_the_first_groups_and_different(
    view: ServiceView, row: Row, v6: bool, block: int, now: int,
) -> None:
    plan, table = Plan(record(view, MAPS)), table_of(row)
    groups = plan.groups(v6, 1, table)
    chosen = plan.drawn(groups, plan.seed(block, now))
    assert len(chosen) == len(set(chosen)) == min(plan.take, sum(map(len, groups)))
    of_group = [next(n for n, group in enumerate(groups) if i in group) for i in chosen]
    assert of_group == sorted(of_group)
    assert set(chosen).issuperset(i for group in groups[: max(of_group, default=0)] for i in group)
    count, rrs = plan.pick(v6, groups, block, now)
    assert count == len(chosen)
    assert rrs == b"".join((plan.rrs_aaaa if v6 else plan.rrs_a)[i] for i in chosen)


def test_windows_last_a_ttl_and_sticky_ones_for_ever() -> None:
    plan = Plan(record(replace(FULL, ttl=30), MAPS))
    assert plan.seed(5, 60) == plan.seed(5, 89) != plan.seed(5, 90)
    sticky = Plan(record(replace(FULL, policy=Policy(split4=20, split6=40)), MAPS))
    assert sticky.seed(5, 0) == sticky.seed(5, 10**9)


def test_a_full_memo_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MEMO_LEAST", 3)
    table = table_of(*([(n, 0), (0, 0), (5, 0), (5, 0)] for n in range(10)))
    fresh = [Plan(record(FULL, MAPS)).groups(False, row, table) for row in range(11)]
    plan = Plan(record(FULL, MAPS), records.MEMO)
    for row in [*range(11), *range(11)]:
        assert list(plan.top(False, row, table)) == fresh[row][0]
        assert plan.groups(False, row, table) == fresh[row]
        assert len(plan.tops_a) <= 3


def test_the_first_tier_leaves_to_the_judge_what_is_special() -> None:
    """Weight 0 and sites without a column: the short way does not apply, the answer is the same."""
    special = [endpoint(1, "s0", weight=0), endpoint(2, "s1"), endpoint(3, "elsewhere")]
    for live in (special[:2], special[1:], special[:1], special[2:]):
        plan = Plan(record(service("a.example", *live), MAPS))
        table = table_of([(0, 7), (3, 0), (0, 0), (0, 0)])
        assert list(plan.top(False, 1, table)) == plan.groups(False, 1, table)[0]
    assert Plan(record(service("a.example"), MAPS)).first_a is None
