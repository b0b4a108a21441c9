"""Views of services that are checked: what measured states, limits and overrides together leave to answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from dnsd.control import resolve
from dnsd.control.resolve import Health, Resolved
from dnsd.control.standing import Measured
from dnsd.dns import types
from dnsd.registry.fields import Model
from dnsd.steer.health import State
from dnsd.steer.limits import Removal
from tests.control.fleet_samples import NOW, SERVICE, endpoint, fleet, override, service

CHECK = {"kind": "tcp", "port": 80}
A1, A2, A3 = (endpoint(f"a{n}", f"192.0.2.{n}", site=f"s{n}") for n in (1, 2, 3))
BOTH = endpoint("b", "192.0.2.4", "2001:db8::4", site="s4")
DOWN = Measured(State.DOWN, result="timeout")
UNTIL = datetime.fromtimestamp(NOW / 1000 + 60, UTC).strftime("%H:%M:%SZ")


def resolved(measured: Mapping[tuple[str, int], Measured], *objects: Model, checked: bool = True,
             before: Mapping[int, tuple[Removal, ...]] | None = None, now: int = NOW, at: int = 0,
             **more: object) -> Resolved:
    """The service of these endpoints, measured so; what is not measured is up."""
    made = fleet(service(check=CHECK if checked else "none", ttl=8, ttl_floor=2, **more), *objects)
    health = Health(lambda id_, type_: measured.get((id_, type_), Measured()), before or {}, at)
    return resolve.resolve(made, SERVICE, {}, now, health=health)


def live(found: Resolved) -> list[str]:
    return [f"{e.id}:{'4' if e.a else ''}{'6' if e.aaaa else ''}" for e in found.view.live]


@pytest.mark.parametrize(("measured", "expected"), [
    ({}, ["a1:4", "a2:4", "b:46"]),
    ({("a1", 1): DOWN}, ["a2:4", "b:46"]),
    ({("b", 1): DOWN}, ["a1:4", "a2:4", "b:6"]),        # each family by itself
    ({("b", 28): DOWN}, ["a1:4", "a2:4", "b:46"]),      # its only one: health is not believed
    ({("a1", 1): Measured(State.UNKNOWN)}, ["a2:4", "b:46"]),
    ({(id_, 1): Measured(State.UNKNOWN) for id_ in ("a1", "a2", "b")}, ["a1:4", "a2:4", "b:46"]),
])
def test_who_is_left(measured: Mapping[tuple[str, int], Measured], expected: list[str]) -> None:
    assert live(resolved(measured, A1, A2, BOTH)) == expected


def test_without_a_check_nothing_is_measured() -> None:
    found = resolved({("a1", 1): DOWN}, A1, A2, checked=False)
    assert live(found) == ["a1:4", "a2:4"]
    assert (found.sifted, found.due_ms) == ({}, 0)


def test_forced_beats_measured() -> None:
    found = resolved({("a1", 1): DOWN, ("a2", 1): DOWN}, A1, A2, A3, override("endpoint", A1.key, "up"))
    assert live(found) == ["a1:4", "a3:4"]
    assert {e.health for e in found.view.live} == {1000}, "or its equals would always come before it"
    assert live(resolved({}, A1, A2, override("endpoint", A1.key, "down"))) == ["a2:4"]


def test_reasons_and_limits_are_told() -> None:
    found = resolved({("a1", 1): DOWN, ("a2", 1): DOWN}, A1, A2, A3)
    assert live(found) == ["a2:4", "a3:4"]
    assert {m.endpoint.id: m.reason for m in found.members} == {
        "a1": "IPv4 down: timeout", "a2": f"IPv4 answered though down: timeout; held by velocity until {UNTIL}",
        "a3": "live"}
    assert found.due_ms == NOW + 60_000
    assert found.sifted[types.A].removals == (Removal("a1", NOW),)
    later = resolved({("a1", 1): DOWN, ("a2", 1): DOWN}, A1, A2, A3, now=NOW + 60_000,
                     before={types.A: found.sifted[types.A].removals})
    assert live(later) == ["a3:4"]
    assert not later.due_ms


def test_panic_and_the_fallback() -> None:
    all_down = {("a1", 1): DOWN, ("a2", 1): DOWN}
    found = resolved(all_down, A1, A2)
    assert (live(found), found.view.panic) == (["a1:4", "a2:4"], True)
    found = resolved(all_down, A1, A2, fallback={"a": ["203.0.113.1"]})
    assert (live(found), found.view.panic) == ([], False)
    assert found.view.fallback_a
    assert found.view.ttl == 8


def test_what_is_held_is_answered_like_its_equals() -> None:
    found = resolved({("a1", 1): DOWN, ("a2", 1): DOWN}, A1, A2, A3)
    assert {e.id: e.health for e in found.view.live} == {"a2": 1000, "a3": 1000}
    assert found.view.ttl == 2


def test_a_drained_one_that_is_up_stands_in_for_dead_ones() -> None:
    drained = override("endpoint", A1.key, "drain")
    assert live(resolved({}, A1, A2, drained)) == ["a2:4"]
    found = resolved({("a2", 1): DOWN}, A1, A2, drained)
    assert (live(found), found.view.panic) == (["a1:4"], False)
    assert {m.endpoint.id: m.reason for m in found.members} == {
        "a1": "endpoint forced drain: test", "a2": "IPv4 down: timeout"}
    assert live(resolved({("a2", 1): DOWN}, A1, A2, drained, fallback={"a": ["203.0.113.1"]})) == []
    assert live(resolved({("a2", 1): DOWN, ("a1", 1): DOWN}, A1, A2, drained)) == ["a2:4"]
    # one family of it may be needed, the other not
    found = resolved({("b", 1): DOWN}, BOTH, endpoint("c", "192.0.2.5", "2001:db8::5", site="s5"),
                     override("endpoint", f"{SERVICE}/c", "drain"))
    assert live(found) == ["b:6", "c:4"]


def test_doubt_shortens_the_ttl() -> None:
    assert resolved({("a1", 1): Measured(doubt=True)}, A1, A2).view.ttl == 2
    assert resolved({("a1", 1): DOWN}, A1, A2).view.ttl == 8


def test_weights_ramp_up_and_slow_ones_lose_points() -> None:
    found = resolved(
        {("a1", 1): Measured(share=125, step_ms=NOW + 1250), ("b", 28): Measured(State.DEGRADED)}, A1, A2, BOTH)
    by_id = {e.id: (e.weight, e.health) for e in found.view.live}
    assert by_id == {"a1": (12, 1000), "a2": (100, 1000), "b": (100, 500)}
    assert found.due_ms == NOW + 1250
    tiny = endpoint("a1", "192.0.2.1", site="s1", weight=1)
    zero = endpoint("a2", "192.0.2.2", site="s2", weight=0)
    found = resolved({(id_, 1): Measured(share=125) for id_ in ("a1", "a2")}, tiny, zero)
    assert [e.weight for e in found.view.live] == [12, 0]


def test_what_was_decided_is_decided_again_as_of_then() -> None:
    """So a node that goes by it comes to the same, however late it is."""
    measured = {("a1", 1): DOWN, ("a2", 1): DOWN, ("b", 1): Measured(State.DEGRADED)}
    found = resolved(measured, A1, A2, A3, BOTH)
    assert found.removals == {types.A: (Removal("a1", NOW),)}
    later = resolved(measured, A1, A2, A3, BOTH, before=found.removals, now=NOW + 90_000, at=NOW)
    assert (later.view, later.removals, later.members) == (found.view, found.removals, found.members)
    assert live(resolved(measured, A1, A2, A3, BOTH, before=found.removals, now=NOW + 90_000)) == ["a3:4", "b:46"]


def test_the_memory_of_the_limits_goes_round() -> None:
    """All of it, by type: who is out as down, as slow, and who was."""
    slow = Measured(State.DEGRADED)
    first = resolved({("a1", 1): slow}, A1, A2, A3, BOTH)
    assert first.removals == {types.A | resolve.SLOW: (Removal("a1", NOW),)}
    assert live(first) == ["a2:4", "a3:4", "b:46"]
    second = resolved({}, A1, A2, A3, BOTH, before=first.removals, now=NOW + 10)
    assert second.removals == {types.A | resolve.SLOW | resolve.PAST: (Removal("a1", NOW),)}
    dead = resolved({("a1", 1): DOWN}, A1, A2, A3, BOTH)
    back = resolved({}, A1, A2, A3, BOTH, before=dead.removals, now=NOW + 10)
    assert back.removals == {types.A | resolve.PAST: (Removal("a1", NOW),)}
    held = resolved({("a2", 1): DOWN}, A1, A2, A3, before=back.removals, now=NOW + 20)
    assert (live(held), held.due_ms) == (["a1:4", "a3:4"], 0), "one may always go"
    held = resolved({("a2", 1): slow}, A1, A2, A3, before=second.removals, now=NOW + 20)
    assert (live(held), held.due_ms) == (["a1:4", "a2:4", "a3:4"], NOW + 60_000)


FAILOVER = {"preset": "failover"}
STANDBY = endpoint("z", "192.0.2.9", site="s9", tier=1, weight=5)


def test_trickle_is_tier_and_weight() -> None:
    found = resolved({}, A1, A2, STANDBY, policy={**FAILOVER, "trickle": 20})
    assert [(e.id, e.tier, e.weight) for e in found.view.live] == [("a1", 0, 100), ("a2", 0, 100), ("z", 0, 50)]
    assert found.members[-1].reason == "trickle, 20 % of the answers"
    found = resolved({}, A1, A2, STANDBY, policy={**FAILOVER, "trickle": 20}, checked=False)
    assert [(e.id, e.tier, e.weight) for e in found.view.live] == [("a1", 0, 100), ("a2", 0, 100), ("z", 0, 50)]
    found = resolved({}, A1, A2, STANDBY, policy=FAILOVER)
    assert [(e.id, e.tier, e.weight) for e in found.view.live] == [("a1", 0, 100), ("a2", 0, 100), ("z", 1, 5)]
    found = resolved({("z", 1): DOWN}, A1, A2, STANDBY, policy={**FAILOVER, "trickle": 20})
    assert [e.id for e in found.view.live] == ["a1", "a2"]


def test_a_primary_that_recovers_takes_over_in_steps() -> None:
    found = resolved({("a1", 1): Measured(share=125, step_ms=NOW + 10)}, A1, STANDBY, policy=FAILOVER)
    assert [(e.id, e.tier, e.weight) for e in found.view.live] == [("a1", 0, 12), ("z", 0, 87)]
    assert {m.endpoint.id: m.reason for m in found.members} == {
        "a1": "IPv4 ramp 1/8", "z": "stands in, 87.5 % of the answers"}


def test_who_stands_by_gets_half_while_velocity_holds_a_dead_tier() -> None:
    measured = {(id_, 1): DOWN for id_ in ("a1", "a2", "a3")}
    found = resolved(measured, A1, A2, A3, STANDBY, policy=FAILOVER)
    assert [(e.id, e.tier, e.weight) for e in found.view.live] == [("a2", 0, 100), ("a3", 0, 100), ("z", 0, 200)]
    before, now = found.removals, NOW
    for expected in (["a3", "z"], ["z"]):
        now += 60_000
        found = resolved(measured, A1, A2, A3, STANDBY, policy=FAILOVER, before=before, now=now)
        assert [e.id for e in found.view.live] == expected
        before = found.removals
    assert (found.view.live[0].tier, found.view.live[0].weight) == (1, 5)


@pytest.mark.parametrize("policy", [
    {"preset": "geo", "trickle": 5}, {"preset": "failover", "trickle": 5, "fence": "country"},
    {"preset": "failover", "trickle": 21}, {"preset": "weighted", "trickle": 5, "proximity": 1},
])
def test_a_trickle_needs_a_policy_that_does_not_look_at_the_client(policy: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="trickle"):
        service(policy=policy)
    service(policy={**policy, "trickle": 0})
