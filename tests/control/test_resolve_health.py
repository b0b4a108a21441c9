"""Views of services that are checked: what measured states, limits and overrides together leave to answer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

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


def resolved(measured: Mapping[tuple[str, int], Measured], *objects: Model, checked: bool = True,
             before: Mapping[int, tuple[Removal, ...]] | None = None, now: int = NOW, **more: object) -> Resolved:
    """The service of these endpoints, measured so; what is not measured is up."""
    made = fleet(service(check=CHECK if checked else "none", ttl=8, ttl_floor=2, **more), *objects)
    return resolve.resolve(
        made, SERVICE, {}, now, health=Health(lambda id_, type_: measured.get((id_, type_), Measured()), before or {}))


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
        "a1": "IPv4 down: timeout", "a2": "IPv4 answered though down: health may not remove so much at once",
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
    assert [e.weight for e in found.view.live] == [1, 0]
