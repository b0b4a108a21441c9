"""Views kept up to date, and the memory of last good answers over a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from dnsd.control.resolve import LAST_GOOD_MS, Removals
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.control.views import Views
from dnsd.dns import types
from dnsd.model import Fault, ServiceView
from dnsd.steer.health import State
from tests.control.fleet_samples import (
    HOUR,
    NOW,
    SERVICE,
    endpoint,
    events,
    fleet,
    gone,
    loaded,
    override,
    service,
    site,
)

LEASED = endpoint("l", "192.0.2.7", lease="x")
LIVE = service(types=["A"])


def views(made: Fleet) -> Views:
    return Views(made, lambda _: 0)


def test_refresh_gives_views_and_who_is_gone() -> None:
    made = fleet(LIVE, LEASED, service("b.example.com"))
    kept = views(made)
    found = kept.refresh([SERVICE, "b.example.com", "never.example.com"], NOW)
    assert set(found) == {SERVICE, "b.example.com"}
    made.apply(gone(2, service("b.example.com")), NOW)
    assert kept.refresh(["b.example.com"], NOW) == {"b.example.com": None}
    assert kept.refresh(["b.example.com"], NOW) == {}
    assert set(kept.resolved) == {SERVICE}


def test_what_time_changes_is_said_once() -> None:
    kept = views(fleet(LIVE, LEASED, override("site", "one", "down", until_ms=NOW + 10)))
    assert kept.changed_by_time(NOW) == set()
    assert kept.changed_by_time(NOW + 10) == {SERVICE}
    assert kept.changed_by_time(NOW + 11) == set()


@pytest.mark.parametrize("looks", [(), (NOW - 500,)])
def test_what_ends_between_resolving_and_the_next_look_is_seen(looks: tuple[int, ...]) -> None:
    kept = views(fleet(LIVE, LEASED, override("site", "one", "down", until_ms=NOW + 10)))
    for at_ms in looks:
        kept.changed_by_time(at_ms)
    kept.refresh([SERVICE], NOW)
    assert kept.changed_by_time(NOW + 400) == {SERVICE}
    assert kept.changed_by_time(NOW + 900) == set()


def test_what_was_resolved_while_the_clock_was_wrong_is_looked_at() -> None:
    kept = views(fleet(LIVE, LEASED, override("site", "one", "down", until_ms=NOW + 10)))
    kept.refresh([SERVICE], NOW + 100)
    assert kept.changed_by_time(NOW + 100) == set()
    kept.refresh([SERVICE], NOW - 15_000)
    assert kept.changed_by_time(NOW + 110) == {SERVICE}, "it was forced down again for a moment"
    kept.refresh([SERVICE], NOW + 15_000)
    kept.changed_by_time(NOW + 15_000)
    kept.refresh([SERVICE], NOW + 120)
    assert kept.changed_by_time(NOW + 121) == set()


def saved(path: Path, made: Fleet, now: int = NOW) -> Views:
    kept = views(made)
    kept.refresh(made.services, now)
    assert kept.unsaved
    path.write_bytes(kept.dump(now, "7-0/abc"))
    assert not kept.unsaved
    return kept


def test_the_memory_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    saved(path, fleet(LIVE, LEASED, endpoint("p", "192.0.2.8")))
    again = views(fleet(LIVE))  # the lease ended while nobody looked; the permanent one was deleted
    assert again.restore(path) == "7-0/abc"
    again.refresh([SERVICE], NOW + HOUR)
    view = again.resolved[SERVICE].view
    assert view.last_good_a == (b"\xc0\0\x02\x07",)
    late = views(fleet(LIVE))
    late.restore(path)
    late.refresh([SERVICE], NOW + LAST_GOOD_MS)  # a day after it was last seen live
    assert late.resolved[SERVICE].view.last_good_a == ()


def test_a_service_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    made = fleet(LIVE, LEASED)
    kept = saved(tmp_path / "node.json", made)
    made.apply(gone(2, LIVE), NOW)
    kept.refresh([SERVICE], NOW)
    assert kept.unsaved
    assert json.loads(kept.dump(NOW, ""))["service"] == []


def test_the_day_goes_on_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    made = fleet(LIVE, LEASED)
    kept = saved(path, made)
    made.apply(gone(2, LEASED), NOW + HOUR)
    kept.refresh([SERVICE], NOW + HOUR)
    path.write_bytes(kept.dump(NOW + 2 * HOUR, "c"))
    again = views(fleet(LIVE))
    again.restore(path)
    assert again.memories[SERVICE][types.A].left_ms == NOW + HOUR


def node_file(**parts: object) -> str:
    return json.dumps({"format": 1, "seen_ms": 1, "cursor": "", "override": [], "site": [], "service": [], **parts})


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", node_file(format=2), node_file(seen_ms="x"), node_file(site=[{"id": "x"}]),
    node_file(service=[[{"name": "a"}, {"1": [0, [["k", "s", None, "zz"]]]}]]), node_file(service=[[{"name": "a"}, 5]]),
    node_file(service=[[{"name": "."}, {}]]), node_file(override=[5]), node_file(service=None),
    node_file().replace('"seen_ms": 1', '"seen_ms": 1e999'), "[" * 100_000,
])
def test_a_memory_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.json"
    path.write_text(text)
    kept = views(fleet(LIVE))
    with pytest.raises(ValueError, match=r"node\.json cannot be read"):
        kept.restore(path)
    kept.refresh([SERVICE], NOW)


def test_what_the_store_has_spoilt_is_still_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    permanent, down = endpoint("p", "192.0.2.8"), override("site", "two", "down")
    saved(path, fleet(LIVE, permanent, site("one"), down, service("b.example.com", types=["A"]),
                      endpoint("q", "192.0.2.9", service="b.example.com")))
    again = views(Fleet())
    again.restore(path)
    places = [f"service/{SERVICE}", "site/one", f"override/{down.key}", "endpoint/b.example.com/q"]
    again.fleet.load(loaded(permanent, service("b.example.com", types=["A"]))._replace(
        corrupt=[Fault(place, "spoilt") for place in places]), NOW)
    assert (again.fleet.services[SERVICE], again.fleet.sites, again.fleet.overrides) == (
        LIVE, {"one": site("one")}, {down.key: down})
    again.refresh([SERVICE, "b.example.com"], NOW)
    assert [e.id for e in again.resolved[SERVICE].view.live] == ["p"]
    assert again.resolved["b.example.com"].view.last_good_a == (b"\xc0\0\x02\x09",)


def test_a_changed_service_is_written_down(tmp_path: Path) -> None:
    made = fleet(LIVE, LEASED)
    kept = saved(tmp_path / "node.json", made)
    made.apply(events(2, service(types=["A"], ttl=60)), NOW)
    kept.refresh([SERVICE], NOW)
    assert kept.unsaved
    assert json.loads(kept.dump(NOW, ""))["service"][0][0]["ttl"] == 60


def test_no_memory_at_all(tmp_path: Path) -> None:
    assert views(fleet()).restore(tmp_path / "none") == ""


def test_a_change_of_load_is_no_reason_to_write(tmp_path: Path) -> None:
    made = fleet(LIVE, LEASED)
    kept = saved(tmp_path / "node.json", made)
    made.apply(events(2, LEASED.model_copy(update={"load": 5})), NOW)
    kept.refresh([SERVICE], NOW)
    assert not kept.unsaved


class Measuring:
    """Health as views ask for it: what is down, and what the limits remember."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.kept: dict[str, Removals] = {}
        self.renewed: list[str] = []

    def renew(self, name: str) -> None:
        self.renewed.append(name)

    def measured(self, service: str, id_: str, type_: int) -> Measured:
        return Measured(State.DOWN if id_ in self.down else State.UP)

    def removals(self, service: str) -> Removals:
        return self.kept.get(service, {})

    def keep(self, service: str, removals: Removals) -> None:
        self.kept[service] = removals

    def decided(self, service: str) -> int:
        return 0

    def speaks(self, service: str) -> bool:
        return False


def checked() -> tuple[Views, Measuring]:
    """A service of three endpoints at three sites, of which two are down."""
    made = views(fleet(service(check={"kind": "tcp", "port": 80}, types=["A"]),
                       *(endpoint(f"e{n}", f"192.0.2.{n}", site=f"s{n}") for n in range(3))))
    made.health = measuring = Measuring()
    measuring.down = {"e1", "e2"}
    return made, measuring


def ids(found: Mapping[str, ServiceView | None]) -> list[str]:
    view = found[SERVICE]
    assert view is not None
    return [one.id for one in view.live]


def test_what_health_holds_is_looked_at_when_there_is_room_and_not_before() -> None:
    """Ten thousand services that are held must not be resolved twice a second for a minute."""
    kept, _ = checked()
    assert ids(kept.refresh([SERVICE], NOW)) == ["e0", "e2"]
    assert kept.changed_by_time(NOW) == set()
    assert kept.changed_by_time(NOW + 59_999) == set()
    assert kept.changed_by_time(NOW + 60_000) == {SERVICE}
    assert ids(kept.refresh([SERVICE], NOW + 60_000)) == ["e0"]
    assert kept.changed_by_time(NOW + 200_000) == set()


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    kept, _ = checked()
    kept.refresh([SERVICE], NOW)
    kept.changed_by_time(NOW)
    back = NOW - HOUR
    assert kept.changed_by_time(back) == {SERVICE}
    assert ids(kept.refresh([SERVICE], back)) == ["e0", "e2"]
    assert kept.changed_by_time(back + 60_000) == {SERVICE}
    assert ids(kept.refresh([SERVICE], back + 60_000)) == ["e0"]


def test_what_health_has_removed_stays_removed_over_a_restart() -> None:
    kept, measuring = checked()
    kept.refresh([SERVICE], NOW)
    assert ids(kept.refresh([SERVICE], NOW + 60_000)) == ["e0"]
    again, fresh = checked()
    fresh.kept = measuring.kept
    assert ids(again.refresh([SERVICE], NOW + 61_000)) == ["e0"]
