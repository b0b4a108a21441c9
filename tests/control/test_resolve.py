"""Views of services: overrides, drain, types, the ladder and its memory, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control import resolve
from dnsd.control.resolve import LAST_GOOD_MS, Memory
from dnsd.control.state import Fleet
from dnsd.dns import types
from dnsd.model import Fence
from dnsd.registry.fields import Model
from tests.control.fleet_samples import HOUR, NOW, SERVICE, endpoint, events, fleet, gone, override, service, site

A1, A2 = endpoint("a1", "192.0.2.1"), endpoint("a2", "192.0.2.2", site="two")
B1 = endpoint("b1", "192.0.2.3", "2001:db8::3", site="two")
V6 = endpoint("v6", None, "2001:db8::6", site="two")
ANYCAST = {"a": ["203.0.113.1"], "aaaa": ["2001:db8::1"]}


def live(made: Fleet, memory: Memory | None = None, now: int = NOW) -> list[str]:
    """`id:families` of what is live, in order."""
    view = resolve.resolve(made, SERVICE, memory or {}, now).view
    return [f"{e.id}:{'4' if e.a else ''}{'6' if e.aaaa else ''}" for e in view.live]


@pytest.mark.parametrize(("objects", "expected"), [
    ([A1, A2, B1], ["a1:4", "a2:4", "b1:46"]),
    ([A1, A2, override("endpoint", A1.key, "down")], ["a2:4"]),
    ([A1, A2, override("site", "two", "down")], ["a1:4"]),
    ([A1, A2, override("service", SERVICE, "down")], []),
    ([A1, A2, override("service", "other.example.com", "down")], ["a1:4", "a2:4"]),
    # the nearest wins
    ([A1, A2, override("service", SERVICE, "down"), override("site", "two", "up")], ["a2:4"]),
    ([A1, A2, override("site", "two", "down"), override("endpoint", A2.key, "up")], ["a1:4", "a2:4"]),
    ([A1, A2, override("service", SERVICE, "up"), override("endpoint", A1.key, "down")], ["a2:4"]),
    # drain: only while there is nothing else of the family
    ([A1, A2, override("endpoint", A1.key, "drain")], ["a2:4"]),
    ([A1, A2, override("endpoint", A1.key, "drain"), override("site", "two", "drain")], ["a1:4", "a2:4"]),
    ([A1, A2, override("endpoint", A1.key, "drain"), override("site", "two", "down")], ["a1:4"]),
    ([A1, B1, override("endpoint", B1.key, "drain")], ["a1:4", "b1:6"]),
    ([A1, service(fallback=ANYCAST), override("service", SERVICE, "drain")], []),
    ([A1, V6, service(fallback={"a": ["203.0.113.1"]}), override("service", SERVICE, "drain")], ["v6:6"]),
    # an override that has ended says nothing, also before the registry removes it
    ([A1, override("endpoint", A1.key, "down", until_ms=NOW)], ["a1:4"]),
    ([A1, override("endpoint", A1.key, "down", until_ms=NOW + 1)], []),
])
def test_overrides(objects: list[Model], expected: list[str]) -> None:
    assert live(fleet(service(), *objects)) == expected


def test_reasons_name_the_override() -> None:
    made = fleet(service(), A1, A2, override("site", "two", "down"))
    found = resolve.resolve(made, SERVICE, {}, NOW).members
    assert [(m.endpoint.id, m.reason, m.a, m.aaaa) for m in found] == [
        ("a1", "live", True, False), ("a2", "site forced down: test", False, False)]
    assert found[1].forced == override("site", "two", "down")


def test_view_carries_the_policy_and_the_endpoint_numbers() -> None:
    spec = {"preset": "latency", "take": 2, "fence": "region", "no_ecs": "fallback", "split4": 20, "split6": 40}
    loaded = endpoint("a1", "192.0.2.1", weight=7, tier=2, load=3)
    view = resolve.resolve(fleet(service(policy=spec, ttl=30), loaded), SERVICE, {}, NOW, 5).view
    assert view.owner == b"\x03api\x07example\x03com\0"
    policy = view.policy
    assert (policy.proximity, policy.take, policy.fence, policy.split4) == (100, 2, Fence.REGION, 20)
    assert policy.no_ecs_fallback
    assert (view.ttl, view.map_id, view.panic) == (30, 5, False)
    (one,) = view.live
    assert (one.id, one.site, one.a, one.aaaa, one.tier, one.weight, one.health, one.load) == (
        "a1", "one", b"\xc0\0\x02\x01", None, 2, 7, 1000, 625)


@pytest.mark.parametrize(("objects", "owned", "expected"), [
    ([service()], (), set()),
    ([service(), A1], (), {types.A}),
    ([service(), B1], (), {types.A, types.AAAA}),
    ([service(), A1], ("AAAA",), {types.A, types.AAAA}),
    ([service(fallback=ANYCAST)], (), {types.A, types.AAAA}),
    ([service(types=["AAAA"]), A1], ("A",), {types.AAAA}),
    ([service(types=[]), A1], ("A",), set()),
    ([service(https={}), A1], (), {types.A, types.HTTPS}),
    ([service(https={}), A1], ("AAAA",), {types.A, types.AAAA, types.HTTPS}),
    ([service(https={}, types=["AAAA"]), A1], (), {types.AAAA, types.HTTPS}),
    ([service(https={})], (), {types.HTTPS}),
])
def test_owned_types(objects: list[Model], owned: tuple[str, ...], expected: set[int]) -> None:
    made = fleet(*objects)
    made.owned = {SERVICE: frozenset(owned)}
    assert resolve.resolve(made, SERVICE, {}, NOW).view.types == expected


@pytest.mark.parametrize(("https", "params"), [
    (None, ()), ({}, ()), ({"alpn": ["h2", "http/1.1"]}, ((1, b"\2h2\x08http/1.1"),)),
    ({"port": 443}, ((3, b"\1\xbb"),)), ({"ech": "AAj+DQAEYWJjZA=="}, ((5, b"\0\x08\xfe\x0d\0\4abcd"),)),
    ({"ech": "AAj+DQAEYWJjZA==", "port": 1, "alpn": ["h3"]},
     ((1, b"\2h3"), (3, b"\0\1"), (5, b"\0\x08\xfe\x0d\0\4abcd"))),
])
def test_https_as_svcparams(https: dict[str, object] | None, params: tuple[tuple[int, bytes], ...]) -> None:
    """RFC 9460 §7.1, §7.2; RFC 9848 §3 for ech."""
    view = resolve.resolve(fleet(service(https=https), A1), SERVICE, {}, NOW).view
    assert view.https == params
    assert (types.HTTPS in view.types) is (https is not None)


@pytest.mark.parametrize(("level", "points"), [(0, 1000), (4, 500), (7, 125)])
def test_load_points(level: int, points: int) -> None:
    assert resolve.load_points(level) == points


class Story:
    """A service lived through: each step changes the fleet and resolves."""

    def __init__(self, *objects: Model) -> None:
        self.fleet = fleet(site("one"), site("two"), *objects)
        self.memory: Memory = {}
        self.version = 1
        self.now = NOW
        self.resolve()

    def resolve(self) -> None:
        found = resolve.resolve(self.fleet, SERVICE, self.memory, self.now)
        self.view, self.memory = found.view, found.memory

    def put(self, *objects: Model) -> None:
        self._apply(events(self.version + 1, *objects))

    def drop(self, *objects: Model) -> None:
        self._apply(gone(self.version + 1, *objects))

    def wait(self, ms: int) -> None:
        self.now += ms
        self.resolve()

    def restart(self) -> None:
        """As after a restart of the process: memory from its file, no graves."""
        self.fleet.ended.clear()
        self.resolve()

    def _apply(self, change: list) -> None:  # type: ignore[type-arg]
        self.version += 1
        self.fleet.apply(change, self.now)
        self.resolve()


LEASED = endpoint("l", "192.0.2.7", lease="x")


def test_last_good_after_the_lease_ended() -> None:
    story = Story(service(), LEASED)
    story.fleet.owned[SERVICE] = frozenset({"A"})  # as the registry says with each endpoint
    assert story.view.ttl == 8
    story.drop(LEASED)
    assert (story.view.live, story.view.last_good_a, story.view.ttl) == ((), (b"\xc0\0\x02\x07",), 2)
    story.put(A1)
    assert (story.view.last_good_a, story.view.ttl) == ((), 8)
    assert story.memory[types.A].left_ms == 0


def test_last_good_needs_the_type_to_be_owned() -> None:
    story = Story(service(types=["A"]), LEASED)
    story.drop(LEASED)
    assert story.view.last_good_a
    story.put(service(types=["AAAA"]))
    assert not story.view.last_good_a
    assert story.memory == {}


def owner(**more: object) -> Model:
    return service(types=["A"], **more)


def test_last_good_ends_after_a_day() -> None:
    story = Story(owner(), LEASED)
    story.wait(10 * 24 * HOUR)  # live all the time: the day starts when it ceases
    story.drop(LEASED)
    story.wait(LAST_GOOD_MS - 1)
    assert story.view.last_good_a
    assert resolve.changed_by_time(story.fleet, {SERVICE: story.memory}, story.now, story.now + 1) == {SERVICE}
    story.wait(1)
    assert not story.view.last_good_a
    assert story.memory == {}


def test_last_good_is_never_what_an_operator_deleted() -> None:
    story = Story(owner(), A1)
    story.drop(A1)
    assert not story.view.last_good_a


def test_last_good_is_never_what_an_operator_forces_down() -> None:
    story = Story(owner(), A1, A2)
    story.put(override("endpoint", A1.key, "down"), override("site", "two", "down"))
    assert not story.view.last_good_a
    story.drop(override("endpoint", A1.key, "down"))
    assert [e.id for e in story.view.live] == ["a1"]


def test_an_address_forced_down_is_forgotten_though_its_endpoint_is_gone() -> None:
    story = Story(owner(), LEASED)
    story.drop(LEASED)
    story.put(override("site", "one", "down"))
    assert not story.view.last_good_a
    story.drop(override("site", "one", "down"))
    assert not story.view.last_good_a


def test_last_good_is_only_what_was_live_last() -> None:
    other = endpoint("m", "192.0.2.8", lease="y")
    story = Story(owner(), LEASED, other)
    story.drop(LEASED)
    story.drop(other)
    assert story.view.last_good_a == (b"\xc0\0\x02\x08",)


def test_an_endpoint_that_changed_its_address_took_the_old_one_away() -> None:
    story = Story(owner(), A1)
    story.put(endpoint("a1", "192.0.2.99"), override("endpoint", A1.key, "down"))
    assert not story.view.last_good_a


def test_fallback_comes_before_last_good_and_keeps_the_ttl() -> None:
    story = Story(owner(fallback=ANYCAST), LEASED)
    story.drop(LEASED)
    assert (story.view.fallback_a, story.view.ttl) == ((b"\xcb\0\x71\x01",), 8)
    assert story.view.last_good_a == (b"\xc0\0\x02\x07",)


def test_memory_after_a_restart() -> None:
    story = Story(owner(), LEASED)
    story.drop(LEASED)
    story.restart()
    assert story.view.last_good_a  # it had a lease, so it ended
    story = Story(owner(), A1)
    story.fleet.apply(gone(2, A1), NOW)
    story.restart()
    assert not story.view.last_good_a  # it had none, so it was deleted


def test_last_good_is_bounded_and_each_address_once() -> None:
    many = [endpoint(f"l{i}", f"192.0.2.{i // 2 + 1}", lease="x") for i in range(40)]
    story = Story(owner(), *many)
    story.drop(*many)
    assert len(story.view.last_good_a) == len(set(story.view.last_good_a)) == 8


def test_families_have_ladders_of_their_own() -> None:
    story = Story(service(types=["A", "AAAA"]), A1, endpoint("l6", None, "2001:db8::9", lease="x"))
    story.drop(endpoint("l6", None, "2001:db8::9", lease="x"))
    assert [e.id for e in story.view.live] == ["a1"]
    assert len(story.view.last_good_aaaa) == 1
    assert not story.view.last_good_a
    assert story.view.ttl == 2


def test_what_time_changes() -> None:
    made = fleet(service(), A1, override("site", "one", "down", until_ms=NOW + 10), override("site", "two", "up"))
    assert resolve.changed_by_time(made, {}, NOW, NOW + 9) == set()
    assert resolve.changed_by_time(made, {}, NOW + 9, NOW + 10) == {SERVICE}
    assert resolve.changed_by_time(made, {}, NOW + 10, NOW + 11) == set()
    assert resolve.changed_by_time(made, {}, NOW + 11, NOW + 5) == {SERVICE}, "the clock was set back: it holds again"


_endpoints = st.sampled_from([A1, A2, B1, V6, LEASED])
_overrides = st.builds(
    override, st.just("site"), st.sampled_from(["one", "two"]), st.sampled_from(["up", "drain"]))


@given(st.lists(st.tuples(st.booleans(), st.one_of(_endpoints, _overrides)), max_size=25))
def test_a_leased_service_never_falls_empty_by_itself(steps: list[tuple[bool, Model]]) -> None:
    """Rule 1: what had an answer keeps one unless an operator ended it; here nobody deletes or forces anything down."""
    story = Story(service(types=["A"]))
    had = False
    for put, thing in steps:
        if put:
            story.put(thing)
        elif thing is LEASED or not hasattr(thing, "lease"):
            story.drop(thing)
        answered = any(e.a for e in story.view.live) or bool(story.view.last_good_a)
        assert answered or not had
        had = had or answered
