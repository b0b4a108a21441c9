"""The fleet by events and loads: what is there, what is touched, who revoked what."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dnsd.control.state import ENDED_KEPT, Fleet, from_loaded
from dnsd.model import Fault
from dnsd.registry.models import Kind
from tests.control.fleet_samples import (
    HOUR,
    NOW,
    SERVICE,
    endpoint,
    event,
    events,
    fleet,
    gone,
    loaded,
    override,
    service,
    site,
)

E1, E2 = endpoint("e1", "192.0.2.1"), endpoint("e2", "192.0.2.2", site="two")
L1, L2 = endpoint("l1", "192.0.2.3", lease="x"), endpoint("l2", "192.0.2.4", lease="x")


def test_events_make_the_same_fleet_as_a_load() -> None:
    objects = (site("one"), site("two"), service(), E1, E2, L1, override("site", "one", "down"))
    by_events, by_load = fleet(*objects), from_loaded(loaded(*objects))
    assert (by_events.sites, by_events.services, by_events.overrides, by_events.members, by_events.held) == (
        by_load.sites, by_load.services, by_load.overrides, by_load.members, by_load.held)
    assert by_events.version == by_load.version == 1


def test_what_each_event_touches() -> None:
    made = fleet(site("one"), site("two"), service(), service("b.example.com"), E1)
    for change, services, sites in (
        (events(2, E1.model_copy(update={"load": 3})), {SERVICE}, False),
        (events(3, E2), {SERVICE}, True),
        (events(4, service(ttl=30)), {SERVICE}, False),
        (events(5, override("site", "two", "down")), {SERVICE}, False),
        (events(6, override("service", "b.example.com", "down")), {"b.example.com"}, False),
        (events(7, override("endpoint", E1.key, "drain")), {SERVICE}, False),
        (events(8, site("one", latitude=1)), set(), True),
        (gone(9, override("site", "two", "down")), {SERVICE}, False),
        (gone(10, E2), {SERVICE}, True),
        (gone(11, E1), {SERVICE}, True),
        (gone(12, service()), {SERVICE}, False),
        ([event(13, Kind.LEASE, "x", None)], set(), False),
        ([event(14, Kind.TOKEN, "t", None)], set(), False),
    ):
        touched = made.apply(change, NOW)
        assert (touched.services, touched.sites) == (services, sites), change
    assert made.version == 14
    assert SERVICE not in made.members


def test_a_moved_override_touches_old_and_new() -> None:
    made = fleet(service(), E1, E2)
    made.apply(events(2, override("site", "one", "down")), NOW)
    made.apply(gone(3, E1), NOW)
    assert made.apply(events(4, override("site", "one", "up")), NOW).services == set()


def test_owned_types_follow_events() -> None:
    made = fleet(service())
    made.apply([event(2, Kind.ENDPOINT, E1.key, E1, frozenset({"A"}))], NOW)
    assert made.owned == {SERVICE: frozenset({"A"})}
    made.apply([event(3, Kind.SERVICE, SERVICE, None)], NOW)
    assert made.owned == {}


def test_who_revoked_an_endpoint() -> None:
    made = fleet(service(), E1, L1, L2)
    made.apply(gone(2, E1), NOW)          # permanent: only an operator can have deleted it
    made.apply(gone(3, L1), NOW + 1)      # its lease still holds another: the holder dropped it
    made.apply(gone(4, L2), NOW + 2)      # the lease's last: it ended
    graves = made.ended[SERVICE]
    assert {key: (g.revoked, g.at_ms) for key, g in graves.items()} == {
        E1.key: (True, NOW), L1.key: (True, NOW + 1), L2.key: (False, NOW + 2)}
    made.apply(events(5, E1), NOW)
    assert E1.key not in made.ended[SERVICE]


def test_a_lease_that_ends_whole_revokes_nothing() -> None:
    made = fleet(service(), L1, L2)
    made.apply(gone(2, L1, L2), NOW)
    assert [g.revoked for g in made.ended[SERVICE].values()] == [False, False]


def test_a_holder_that_moves_its_endpoint_in_one_write() -> None:
    made = fleet(service(), L1)
    made.apply([*gone(2, L1), *events(2, L2)], NOW)
    assert made.ended[SERVICE][L1.key].revoked


def test_writes_in_one_batch_are_judged_apart() -> None:
    made = fleet(service(), L1)
    made.apply([*gone(2, L1), *events(3, L2)], NOW)  # expired, then acquired anew
    assert not made.ended[SERVICE][L1.key].revoked


def test_graves_are_bounded_and_go_with_their_service() -> None:
    made = fleet(service(), *(endpoint(f"e{i}", f"192.0.2.{i + 1}") for i in range(40)))
    for i in range(40):
        made.apply(gone(2 + i, endpoint(f"e{i}", "192.0.2.1")), NOW)
    assert list(made.ended[SERVICE]) == [f"{SERVICE}/e{i}" for i in range(40 - ENDED_KEPT, 40)]
    made.apply(gone(100, service()), NOW)
    assert made.ended == {}


def test_load_notices_what_went_meanwhile() -> None:
    made = fleet(service(), E1, L1, L2, endpoint("y1", "192.0.2.9", lease="y"))
    touched = made.load(loaded(service(), L2, version=50), NOW + HOUR)
    assert touched.services == {SERVICE}
    assert touched.sites
    assert made.version == 50
    assert {key.rpartition("/")[2]: g.revoked for key, g in made.ended[SERVICE].items()} == {
        "e1": True, "l1": True, "y1": False}


def test_load_keeps_the_last_sound_value_of_what_is_corrupt() -> None:
    down = override("site", "one", "down")
    made = fleet(site("one"), service(), E1, down)
    state = loaded(version=9)._replace(corrupt=[
        Fault(f"site/{'one'}", "x"), Fault(f"service/{SERVICE}", "x"), Fault(f"endpoint/{E1.key}", "x"),
        Fault("endpoint/never/seen", "x"), Fault(f"override/{down.key}", "x"), Fault("token/t", "x")])
    made.load(state, NOW)
    assert (made.sites, made.services, made.members, made.overrides) == (
        {"one": site("one")}, {SERVICE: service()}, {SERVICE: {E1.key: E1}}, {down.key: down})
    assert made.ended == {}


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([None, "x", "y"]), st.booleans()), max_size=40))
def test_counts_of_leases_stay_true(steps: list[tuple[str, str | None, bool]]) -> None:
    made = Fleet(services={SERVICE: service()})
    for version, (id_, lease, put) in enumerate(steps, 1):
        value = endpoint(id_, "192.0.2.1", lease=lease)
        made.apply(events(version, value) if put else gone(version, value), NOW)
    held = [e.lease for e in made.endpoints() if e.lease is not None]
    assert made.held == {lease: held.count(lease) for lease in held}
