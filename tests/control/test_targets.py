"""Names of targets and of ways to judge them: the same everywhere, another for all that makes a difference."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dnsd.control import targets
from dnsd.registry.models import Service
from dnsd.steer.health import Rules
from dnsd.watch.schedule import Target
from tests.control.fleet_samples import SERVICE, endpoint, service

CHECK = {"kind": "http", "port": 8080}
ONE = endpoint("one", "192.0.2.1", "2001:db8::1")


def named(made: Service) -> dict[tuple[str, int], str]:
    return {key: targets.name(target) for key, target in targets.targets(made, [ONE])}


def test_a_name_is_the_same_in_every_process() -> None:
    code = ("from tests.control.test_targets import *\n"
            "check = service(check=CHECK).check\n"
            "target = Target.of(targets.probed('x', check), b'1234')\n"
            "print(named(service(check=CHECK)), targets.judged(target, targets.way(check)))")
    seen = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={
        "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))}).stdout for seed in ("1", "2")}
    assert len(seen) == 1
    assert str(named(service(check=CHECK))).encode() in seen.pop()


@pytest.mark.parametrize("other", [
    {"port": 81}, {"path": "/x"}, {"host": "x.example"}, {"method": "HEAD"}, {"status": [200, 200]}, {"text": "ok"},
    {"interval_ms": 600}, {"timeout_ms": 200}, {"kind": "tcp"}, {"address": "192.0.2.100"}])
def test_what_makes_a_difference_to_the_probe_is_another_target(other: dict[str, object]) -> None:
    plain, changed = named(service(check=CHECK)), named(service(check={**CHECK, **other}))
    assert plain.keys() == changed.keys()
    assert not set(plain.values()) & set(changed.values())


@pytest.mark.parametrize("other", [{"rise": 9}, {"fall": 9}, {"ramp_ms": 9000}, {"initial": "up"}])
def test_what_makes_a_difference_to_the_judgement_is_another_way(other: dict[str, object]) -> None:
    plain, changed = service(check=CHECK), service(check={**CHECK, **other})
    assert named(plain) == named(changed)
    [target, _] = [target for _, target in targets.targets(plain, [ONE])]
    assert plain.check != "none"
    assert changed.check != "none"
    one, two = (targets.judged(target, targets.way(check)) for check in (plain.check, changed.check))
    assert one != two
    assert targets.name_of(one) == targets.name_of(two) == targets.name(target)


def test_without_a_check_nothing_is_probed() -> None:
    assert named(service(check="none")) == {}


def test_ways_and_words() -> None:
    check = service(check={**CHECK, "rise": 4, "fall": 5, "ramp_ms": 6000, "initial": "up"}).check
    assert check != "none"
    assert targets.way(check) == targets.Way(Rules(4, 5, 6000), True)
    made = targets.probed(SERVICE, check)
    assert targets.text(Target(made, b"\xc0\0\2\1")) == "http 192.0.2.1:8080"
    assert targets.text(Target(made, b"\x20\1\x0d\xb8" + bytes(11) + b"\1")) == "http [2001:db8::1]:8080"
