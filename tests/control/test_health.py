"""What is measured: services to targets, results to states, what a restart keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dnsd.control import targets
from dnsd.control.clock import Clock
from dnsd.control.health import KEPT_MS, Health, Said
from dnsd.control.standing import Measured
from dnsd.control.state import Fleet
from dnsd.registry.fields import Model
from dnsd.steer.health import State
from dnsd.steer.limits import Removal
from dnsd.watch.outcome import Outcome, Reason
from dnsd.watch.schedule import Standing, Target
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, gone, service

GOOD, BAD = Outcome(True, Reason.OK, 3, 5, 2), Outcome(False, Reason.TIMEOUT)
CHECK = {"kind": "http", "port": 8080}
ONE, TWO = endpoint("one", "192.0.2.1", "2001:db8::1"), endpoint("two", "192.0.2.2")


class Time(Clock):
    """A clock that is set. `off_ms`: how wrong its time of day is."""

    now_ms = NOW
    off_ms = 0

    def unix_ms(self) -> int:
        return self.now_ms + self.off_ms

    def monotonic(self) -> float:
        return self.now_ms / 1000


class Rig:
    """Health with a schedule that remembers what is wanted, and a publisher that remembers what is marked."""

    def __init__(self, *objects: Model) -> None:
        self.fleet = Fleet()
        self.clock = Time()
        self.wanted: dict[str, set[str]] = {}
        self.last: dict[Target, Outcome] = {}
        self.refused: str | None = None
        self.marked: list[set[str]] = []
        self.health = Health(self.fleet, self, self.clock)  # type: ignore[arg-type]
        self.health.schedule = self
        self.change(*objects)

    def watch(self, target: Target, asking: str, service: str) -> str | None:
        assert asking == service
        self.wanted.setdefault(asking, set()).add(targets.text(target))
        return self.refused

    def forget(self, target: Target, asking: str) -> None:
        self.wanted.setdefault(asking, set()).discard(targets.text(target))
        self.last.pop(target, None)

    def standing(self, target: Target) -> Standing:
        return Standing(self.last.get(target), self.clock.now_ms, 500, 300, None, self.refused, ("x",))

    def dump(self) -> dict[str, float]:
        return {"x": 2.5}

    def restore(self, baselines: dict[str, float]) -> None:
        self.usual = baselines

    def mark(self, services: set[str]) -> None:
        self.marked.append(set(services))

    def change(self, *objects: Model, removed: tuple[Model, ...] = ()) -> None:
        touched = self.fleet.apply(events(self.fleet.version + 1, *objects), NOW) if objects else None
        if removed:
            touched = self.fleet.apply(gone(self.fleet.version + 1, *removed), NOW)
        for name in touched.services if touched is not None else ():
            self.health.renew(name)

    def result(self, id_: str) -> str:
        """The last result of an endpoint's IPv4 address, as people are told it."""
        told = self.health.told(SERVICE, id_, 1)
        assert told is not None
        return str(told["result"])

    def see(self, id_: str, results: str, type_: int = 1, name: str = SERVICE) -> None:
        target = self.health._targets[name][id_, type_]
        for one in results:
            self.last[target] = GOOD if one == "+" else BAD
            self.health.took(target, self.last[target], self.clock.unix_ms())

    def state(self, id_: str, type_: int = 1, name: str = SERVICE) -> Measured:
        return self.health.measured(name, id_, type_)


def test_every_address_that_is_handed_out_is_a_target() -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    assert rig.wanted == {SERVICE: {"http 192.0.2.1:8080", "http [2001:db8::1]:8080", "http 192.0.2.2:8080"}}
    rig.change(removed=(TWO,))
    assert rig.wanted[SERVICE] == {"http 192.0.2.1:8080", "http [2001:db8::1]:8080"}
    rig.change(service(check="none"))
    assert rig.wanted[SERVICE] == set()
    assert rig.health.described()["targets"] == 0
    assert rig.state("one") == Measured()


@pytest.mark.parametrize(("check", "field", "value"), [
    ({"kind": "http"}, "port", 80), ({"kind": "https"}, "port", 443), ({"kind": "tls"}, "port", 443),
    ({"kind": "http"}, "host", SERVICE), ({"kind": "http", "host": "a.b"}, "host", "a.b"),
    ({"kind": "dns"}, "port", 53),
    ({"kind": "dns"}, "qname", SERVICE), ({"kind": "dns", "host": "q.example"}, "qname", "q.example"),
    ({"kind": "http", "text": "ok"}, "text", b"ok"), ({"kind": "https", "verify": False}, "verify", False),
    ({"kind": "http", "method": "HEAD", "path": "/x", "status": [200, 204]}, "status", (200, 204)),
    ({"kind": "http", "interval_ms": 900, "timeout_ms": 200}, "interval_ms", 900),
])
def test_what_a_check_leaves_out(check: dict[str, Any], field: str, value: object) -> None:
    rig = Rig(service(check=check), ONE)
    [target, _] = rig.health._targets[SERVICE].values()
    assert getattr(target.check, field) == value


def test_a_wildcard_service_is_asked_for_the_name_it_stands_for() -> None:
    rig = Rig(service("*.w.example.com", check=CHECK), endpoint("e", "192.0.2.9", service="*.w.example.com"))
    [target] = rig.health._targets["*.w.example.com"].values()
    assert target.check.host == "w.example.com"


def test_a_declared_target_stands_for_all() -> None:
    rig = Rig(service(check={**CHECK, "address": "192.0.2.100"}), ONE, TWO)
    assert rig.wanted[SERVICE] == {"http 192.0.2.100:8080"}
    rig.see("one", "---")
    assert {rig.state(id_, type_).state for id_, type_ in (("one", 1), ("one", 28), ("two", 1))} == {State.DOWN}


def test_states_and_who_is_told() -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    assert rig.state("one").state is State.UNKNOWN
    rig.see("one", "+")
    assert rig.state("one") == Measured(State.UP)
    assert rig.marked == [{SERVICE}]
    rig.see("one", "+++")
    assert len(rig.marked) == 1, "nothing has changed"
    rig.see("one", "-")
    assert (rig.state("one").state, rig.state("one").doubt, len(rig.marked)) == (State.UP, True, 2)
    rig.see("one", "--")
    assert (rig.state("one").state, rig.state("one").result, len(rig.marked)) == (State.DOWN, "timeout", 3)
    rig.see("one", "++")
    assert (rig.state("one").state, rig.state("one").share, rig.state("one").step_ms) == (State.UP, 125, NOW + 1250)
    rig.clock.now_ms += 10_000
    assert (rig.state("one").share, rig.state("one").step_ms) == (1000, 0)
    assert rig.state("one", 28).state is State.UNKNOWN, "each address by itself"


def test_two_services_share_a_target() -> None:
    other = "other.example.com"
    rig = Rig(service(check={**CHECK, "host": "x"}), service(other, check={**CHECK, "host": "x"}), TWO,
              endpoint("two", "192.0.2.2", service=other))
    rig.see("two", "---")
    assert rig.marked[-1] == {SERVICE, other}
    assert rig.state("two", name=other).state is State.DOWN
    rig.change(removed=(TWO,))
    assert rig.state("two", name=other).state is State.DOWN, "still somebody's"


def test_each_service_judges_a_shared_target_by_its_own_rules() -> None:
    other = "other.example.com"
    rig = Rig(service(check={**CHECK, "host": "x", "fall": 10}),
              service(other, check={**CHECK, "host": "x", "fall": 2, "initial": "up"}), TWO,
              endpoint("two", "192.0.2.2", service=other))
    assert (rig.state("two").state, rig.state("two", name=other).state) == (State.UNKNOWN, State.UP)
    rig.see("two", "+--")
    assert (rig.state("two").state, rig.state("two", name=other).state) == (State.UP, State.DOWN)
    assert rig.marked == [{SERVICE}, {SERVICE, other}, {other}], "who it makes a difference to"
    assert rig.health.described()["targets"] == 1
    assert [one["services"] for one in rig.health.described()["not_up"]] == [[other]]
    rig.change(removed=(endpoint("two", "192.0.2.2", service=other),))
    rig.see("two", "-" * 8)
    assert rig.state("two").state is State.DOWN


def test_other_rules_hold_at_once() -> None:
    rig = Rig(service(check={**CHECK, "fall": 10}), TWO)
    rig.see("two", "+--")
    rig.change(service(check={**CHECK, "fall": 3}), TWO)
    assert (rig.state("two").state, rig.state("two").doubt) == (State.UP, True), "and nothing is forgotten"
    rig.see("two", "-")
    assert rig.state("two").state is State.DOWN


@pytest.mark.parametrize(("first", "results", "then", "state"), [
    (CHECK, "+", {**CHECK, "path": "/x"}, State.UP),
    (CHECK, "+---", {**CHECK, "path": "/x"}, State.DOWN),
    (CHECK, "", {**CHECK, "path": "/x"}, State.UNKNOWN),
    (CHECK, "+", {**CHECK, "address": "192.0.2.100"}, State.UP),
    ({**CHECK, "address": "192.0.2.100"}, "+", CHECK, State.UP),
    ("none", "", CHECK, State.UP),
])
def test_another_check_begins_with_what_the_former_one_found(
    first: dict[str, Any] | str, results: str, then: dict[str, Any], state: State) -> None:
    """Else the first address with a result would get everything, until the others have one too."""
    rig = Rig(service(check=first), TWO)
    rig.see("two", results) if results else None
    rig.change(service(check=then))
    assert rig.state("two").state is state
    assert not rig.state("two").doubt
    rig.change(endpoint("three", "192.0.2.3"), endpoint("two", "192.0.2.22"))
    if "address" not in then:
        assert (rig.state("three").state, rig.state("two").state) == (State.UNKNOWN, State.UNKNOWN), "they are new"


def test_a_connection_is_the_same_whoever_asks() -> None:
    other = "other.example.com"
    check = {"kind": "tcp", "port": 80}
    rig = Rig(service(check=check), service(other, check={**check, "path": "/x"}), TWO,
              endpoint("two", "192.0.2.2", service=other))
    assert rig.health._targets[SERVICE] == rig.health._targets[other]


def test_what_was_never_up_is_told_apart() -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    rig.see("one", "---")
    rig.see("two", "+---")
    assert (rig.state("one").proven, rig.state("two").proven) == (False, True)


def test_what_is_our_own_fault_says_nothing_of_a_target() -> None:
    rig = Rig(service(check=CHECK), TWO)
    [target] = rig.health._targets[SERVICE].values()
    rig.last[target] = Outcome(False, Reason.NO_ROUTE)  # the schedule tells no verdict of it
    assert rig.state("two").state is State.UNKNOWN
    assert rig.result("two") == "no route from here"
    rig.refused = "private use"
    assert rig.result("two") == "not probed: private use"
    rig.health.took(Target(target.check, b"\1\2\3\4"), BAD, NOW)  # one that nobody wants any more
    assert rig.marked == []


def test_slow_is_degraded() -> None:
    rig = Rig(service(check=CHECK), TWO)
    [target] = rig.health._targets[SERVICE].values()
    for _ in range(3):
        assert rig.state("two").state is not State.DEGRADED
        rig.health.took(target, Outcome(True, Reason.OK, 900, 950, 900), NOW)
    assert rig.state("two").state is State.DEGRADED


def test_initially_up() -> None:
    rig = Rig(service(check={**CHECK, "initial": "up"}), TWO)
    assert rig.state("two").state is State.UP


def test_a_restart_keeps_states(tmp_path: Path) -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    rig.see("one", "+---")
    rig.see("two", "+")
    path = tmp_path / "health.json"
    path.write_bytes(rig.health.dump()())
    again = Rig()
    again.health.restore(path)
    again.change(service(check=CHECK), ONE, TWO)
    assert (again.state("one").state, again.state("two").state, again.state("one", 28).state) == (
        State.DOWN, State.UP, State.UNKNOWN)
    late = Rig()
    late.clock.now_ms += KEPT_MS + 1
    late.health.restore(path)
    late.change(service(check=CHECK), ONE)
    assert late.state("one").state is State.UNKNOWN
    late.health.restore(tmp_path / "nothing")


def test_what_is_kept_grows_too_old_while_nobody_asks_for_it(tmp_path: Path) -> None:
    rig = Rig(service(check=CHECK), TWO)
    rig.see("two", "+---")
    path = tmp_path / "health.json"
    path.write_bytes(rig.health.dump()())
    again = Rig()
    again.health.restore(path)
    again.clock.now_ms += KEPT_MS + 1
    again.change(service(check=CHECK), TWO)
    assert again.state("two").state is State.UNKNOWN


def test_a_restart_keeps_what_the_limits_remember(tmp_path: Path) -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    rig.health.unsaved = False
    rig.health.keep(SERVICE, {1: (Removal("one", NOW),)})
    assert rig.health.unsaved
    path = tmp_path / "health.json"
    path.write_bytes(rig.health.dump()())
    again = Rig()
    again.health.restore(path)
    again.change(service(check=CHECK), ONE, TWO)
    assert again.health.removals(SERVICE) == {1: (Removal("one", NOW),)}
    again.health.unsaved = False
    again.health.keep(SERVICE, {1: (Removal("one", NOW),), 28: ()})
    assert not again.health.unsaved
    again.change(service(check="none"))
    assert again.health.removals(SERVICE) == {}


@pytest.mark.parametrize("spoilt", [
    b"", b"[]", b"\xff", b"[" * 100_000, b'{"at_ms": 1e999, "cells": {}, "removed": {}}',
    b'{"at_ms": %d, "fields": ["state"], "cells": {"a": [9]}, "removed": {}}' % NOW,
    b'{"at_ms": %d, "fields": ["weight"], "cells": {"a": [1e999]}, "removed": {}}' % NOW,
    b'{"at_ms": %d, "cells": {}, "removed": {"a": {"1": [["x"]]}}}' % NOW, b'{"at_ms": %d}' % NOW])
def test_a_spoilt_file_is_a_fault_and_no_crash(tmp_path: Path, spoilt: bytes) -> None:
    rig = Rig()
    path = tmp_path / "health.json"
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match="cannot be read"):
        rig.health.restore(path)
    rig.change(service(check=CHECK), TWO)
    assert rig.state("two").state is State.UNKNOWN


def test_described() -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    rig.see("one", "+---")
    told = rig.health.described()
    assert (told["targets"], told["down"], told["unknown"], told["up"], told["changes"]) == (3, 1, 2, 0, 2)
    assert told["results"] == {"ok": 1, "timeout": 3}
    assert told["probes"] == 4
    assert {one["target"]: one["state"] for one in told["not_up"]} == {
        "http 192.0.2.1:8080": "down", "http [2001:db8::1]:8080": "unknown", "http 192.0.2.2:8080": "unknown"}



def heard(rig: Rig) -> dict[str, Said]:
    """What others are told from now on, by target in words and what it is judged by."""
    told: dict[str, Said] = {}
    rig.health.changed = lambda _, said: told.update(said)
    return told


def test_what_no_result_has_confirmed_is_no_vote() -> None:
    """Two nodes: one that starts must not say that a dead address is up, only because its service takes it to be."""
    rig = Rig()
    told = heard(rig)
    rig.change(service(check={**CHECK, "initial": "up"}), TWO)
    assert rig.state("two").state is State.UP
    assert set(told.values()) == {Said(State.UNKNOWN)}
    rig.see("two", "--")
    assert (rig.state("two").doubt, set(told.values())) == (True, {Said(State.UNKNOWN)})
    rig.see("two", "-")
    assert set(told.values()) == {Said(State.DOWN, why="timeout")}


@pytest.mark.parametrize(("was", "seen", "said"), [
    ("+", "+", Said(State.UP)), ("+", "--", Said(State.UNKNOWN)), ("+", "---", Said(State.DOWN, why="timeout")),
    ("+---", "-", Said(State.DOWN, why="timeout")), ("+---", "+", Said(State.UNKNOWN)), ("+---", "++", Said(State.UP)),
    ("", "+", Said(State.UP)), ("", "-", Said(State.UNKNOWN))])
def test_what_a_former_process_knew_is_no_vote_until_it_is_seen(
    tmp_path: Path, was: str, seen: str, said: Said) -> None:
    rig = Rig(service(check=CHECK), TWO)
    rig.see("two", was)
    path = tmp_path / "health.json"
    path.write_bytes(rig.health.dump()())
    again = Rig()
    again.health.restore(path)
    told = heard(again)
    again.change(service(check=CHECK), TWO)
    assert set(told.values()) == {Said(State.UNKNOWN)}
    assert again.state("two").state is rig.state("two").state, "here it holds"
    again.see("two", seen)
    assert set(told.values()) == {said}


def test_what_another_way_only_assumes_is_no_vote_either(tmp_path: Path) -> None:
    rig = Rig(service(check=CHECK), TWO)
    rig.see("two", "+---")
    path = tmp_path / "health.json"
    path.write_bytes(rig.health.dump()())
    again, other = Rig(), "other.example.com"
    again.health.restore(path)
    told = heard(again)
    again.change(service(check={**CHECK, "host": SERVICE}), service(other, check={**CHECK, "host": SERVICE, "fall": 9}),
                 TWO, endpoint("two", "192.0.2.2", service=other))
    assert len(told) == 2
    assert set(told.values()) == {Said(State.UNKNOWN)}


def test_another_checks_findings_are_votes() -> None:
    """They were seen; else nobody would know anything whenever a check is changed."""
    rig = Rig(service(check=CHECK), TWO)
    rig.see("two", "+---")
    told = heard(rig)
    rig.change(service(check={**CHECK, "path": "/x"}))
    assert Said(State.DOWN, why="no result yet") in told.values()


@pytest.mark.parametrize("check", [{**CHECK, "initial": "up"}, CHECK])
def test_a_target_that_is_refused_here_gets_no_vote(check: dict[str, Any]) -> None:
    rig = Rig()
    rig.refused = "private use"
    told = heard(rig)
    rig.health.schedule.watch = lambda *_: rig.refused  # type: ignore[method-assign,union-attr]
    rig.change(service(check=check), TWO)
    assert set(told.values()) == {Said(State.UNKNOWN, why="not probed: private use")}
    rig.health.mine = lambda _: False
    rig.health.divide()
    assert set(told.values()) == {Said(State.UNKNOWN)}
    rig.health.mine = lambda _: True
    rig.health.divide()
    assert set(told.values()) == {Said(State.UNKNOWN, why="not probed: private use")}


def test_what_others_watch_is_not_known_here() -> None:
    rig = Rig(service(check=CHECK), ONE, TWO)
    for id_ in ("one", "two"):
        rig.see(id_, "+---")
    told = heard(rig)
    two = rig.health._targets[SERVICE]["two", 1]
    rig.health.mine = lambda target: target != two
    rig.health.divide()
    assert list(told.values()) == [Said(State.UNKNOWN)]
    assert "http 192.0.2.2:8080" not in rig.wanted[SERVICE]
    spot = rig.health.spot(SERVICE, "two", 1)
    assert spot is not None
    assert (spot.watched, spot.cell.state) == (False, State.UNKNOWN)
    assert spot.name not in rig.health.failing
    assert [id_ for _, id_, *_ in rig.health.sights()] == ["one", "one"]
    described = rig.health.described()
    assert (described["targets"], described["down"], described["unknown"]) == (2, 1, 1), "not this node's business"
    assert rig.health.told(SERVICE, "two", 1) is None
    rig.health.divide()
    rig.health.mine = lambda _: True
    rig.health.divide()
    assert "http 192.0.2.2:8080" in rig.wanted[SERVICE]
    assert rig.state("two").state is State.UNKNOWN
    rig.health.mine = lambda target: target != two
    rig.health.divide()
    rig.change(removed=(TWO,))
    assert two not in rig.health._away, "nothing is left"
    rig.health.mine = lambda _: False
    rig.change(endpoint("new", "192.0.2.9"))
    assert "http 192.0.2.9:8080" not in rig.wanted[SERVICE]


def test_without_a_prober_targets_have_names_and_all_is_up() -> None:
    rig = Rig()
    rig.health.schedule = None
    told = heard(rig)
    rig.change(service(check=CHECK), ONE, TWO)
    assert rig.state("one") == Measured()
    spot = rig.health.spot(SERVICE, "one", 1)
    other = Rig(service(check=CHECK), ONE, TWO).health.spot(SERVICE, "one", 1)
    assert spot is not None
    assert other is not None
    assert (spot.name, spot.watched) == (other.name, False)
    assert (rig.health.described()["targets"], rig.health.watches, told) == (0, False, {})
    rig.health.divide()
    rig.change(service(check={**CHECK, "path": "/x"}), removed=(TWO,))
    rig.change(service(check="none"))
    assert rig.health.spot(SERVICE, "one", 1) is None


def test_what_may_not_be_reached_any_more_has_no_vote_and_again_has_one() -> None:
    """Else a node would say for ever what it found before its policy changed."""
    rig = Rig(service(check=CHECK), TWO)
    said: dict[str, Said] = {}
    rig.health.changed = lambda _, new: said.update(new)
    rig.see("two", "+")
    rig.refused = "private use"
    rig.health.revised()
    assert [(one.state, one.why) for one in said.values()] == [(State.UNKNOWN, "not probed: private use")]
    assert rig.state("two").state is State.UP, "alone it goes on as it was"
    rig.refused = None
    rig.health.revised()
    assert [one.state for one in said.values()] == [State.UP]


def test_usual_handshakes_survive_a_restart(tmp_path: Path) -> None:
    rig = Rig(service(check=CHECK), TWO)
    (tmp_path / "health.json").write_bytes(rig.health.dump()())
    next_one = Rig(service(check=CHECK), TWO)
    next_one.health.restore(tmp_path / "health.json")
    assert next_one.usual == {"x": 2.5}
