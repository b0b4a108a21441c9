"""The fleet on disk: all of it comes back, with events since, and nothing that does not go on from it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dnsd.control import keeping
from dnsd.control.keeping import JOURNALS, Keeping
from dnsd.control.state import Fleet
from dnsd.model import Stamp
from dnsd.registry.models import Judged, Lease, Verdict
from tests.control.fleet_samples import NOW, SERVICE, endpoint, events, gone, loaded, override, service, site
from tests.control.rig import FakeClock

A1, A2 = endpoint("a1", "192.0.2.1", lease="h1"), endpoint("a2", None, "2001:db8::2", weight=7, tier=1)
LEASE = Lease(id="h1", holder="h1", fence=3, ttl=20, deadline=5, endpoints=(A1.key,), token="t")
EPOCH = 7


def sample() -> Fleet:
    made = Fleet()
    state = loaded(
        site("one"), service(), service("empty.example.com", types=("A",)), A1, A2, override("site", "one", "drain"),
        endpoint("old", "192.0.2.9"), version=5, owned={SERVICE: frozenset({"A", "AAAA"})})
    verdict = Verdict(service=SERVICE, at_ms=NOW, cells={"a1/A@x": Judged(3, 3, NOW)}, removals={"1": (("a1", NOW),)})
    made.load(state._replace(leases={"h1": LEASE}, verdicts={SERVICE: verdict}), NOW)
    made.apply(gone(6, endpoint("old", "192.0.2.9")), NOW)
    return made


def write(state: Path, fleet: Fleet) -> Keeping:
    kept = Keeping(state, fleet, FakeClock())
    kept.replaced(EPOCH, f"{fleet.version}-0/c")
    asyncio.run(kept.write())
    return kept


def read(state: Path) -> keeping.Known | None:
    return keeping.read(state / keeping.FILE, [state / name for name in JOURNALS])


def same(one: Fleet, other: Fleet) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in (
        "version", "sites", "services", "overrides", "owned", "members", "ended", "verdicts", "held", "leases"))


def test_all_comes_back(tmp_path: Path) -> None:
    fleet = sample()
    write(tmp_path, fleet)
    known = read(tmp_path)
    assert known is not None
    assert (known.epoch, known.cursor) == (EPOCH, "6-0/c")
    assert same(known.fleet, fleet)
    assert (tmp_path / keeping.FILE).stat().st_mode & 0o777 == 0o600


def test_what_is_forced_here_alone_is_not_the_registrys(tmp_path: Path) -> None:
    fleet = sample()
    fleet.force(override("site", "one", "up"))
    fleet.force(override("service", SERVICE, "down"))
    write(tmp_path, fleet)
    known = read(tmp_path)
    assert known is not None
    assert {key: one.state for key, one in known.fleet.overrides.items()} == {"site:one": "drain"}


def test_events_since_are_applied(tmp_path: Path) -> None:
    fleet = sample()
    kept = write(tmp_path, fleet)
    for more in (
            events(7, endpoint("a3", "192.0.2.3")), gone(8, A1), events(9, override("service", SERVICE, "up"))):
        fleet.apply(more, 0)
        kept.follow(EPOCH, more)
    known = read(tmp_path)
    assert known is not None
    assert known.cursor == "9-0"
    assert same(known.fleet, fleet)


@pytest.mark.parametrize("torn", [1, 20])
def test_a_torn_line_ends_it(tmp_path: Path, torn: int) -> None:
    fleet = sample()
    kept = write(tmp_path, fleet)
    kept.follow(EPOCH, events(7, A2))
    kept.follow(EPOCH, events(8, A2))
    [journal] = [tmp_path / name for name in JOURNALS if (tmp_path / name).exists()]
    journal.write_bytes(journal.read_bytes()[:-torn])
    known = read(tmp_path)
    assert known is not None
    assert known.fleet.version == 7


def test_what_does_not_go_on_is_left_out(tmp_path: Path) -> None:
    kept = write(tmp_path, sample())
    kept.follow(EPOCH, events(8, A2))  # 7 was not written down
    kept.follow(EPOCH + 1, events(7, A2))  # another history
    known = read(tmp_path)
    assert known is not None
    assert known.fleet.version == 6


def test_the_file_is_written_anew_and_journals_do_not_grow(tmp_path: Path) -> None:
    fleet = sample()
    kept = write(tmp_path, fleet)
    for version in range(7, 30):
        fleet.apply(events(version, A2), 0)
        kept.follow(EPOCH, events(version, A2))
        if version % 5 == 0:
            asyncio.run(kept.write())
    assert sum((tmp_path / name).exists() for name in JOURNALS) == 1
    known = read(tmp_path)
    assert known is not None
    assert same(known.fleet, fleet)


def test_a_disk_that_is_full_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = sample()
    kept = write(tmp_path, fleet)

    def full(*_: object) -> int:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "_write", full)
        fleet.apply(events(7, A2), 0)
        kept.follow(EPOCH, events(7, A2))
        asyncio.run(kept.write())
    assert kept.problem == "no space left"
    fleet.apply(events(8, A2), 0)
    kept.follow(EPOCH, events(8, A2))  # not written: the file comes first
    known = read(tmp_path)
    assert known is not None
    assert known.fleet.version == 7
    asyncio.run(kept.write())
    assert not kept.problem
    known = read(tmp_path)
    assert known is not None
    assert same(known.fleet, fleet)


@pytest.mark.parametrize(("image", "used"), [
    (Stamp(EPOCH, 6, 0), True), (Stamp(EPOCH, 5, 0), True), (Stamp(EPOCH, 7, 0), False), (Stamp(8, 6, 0), False)])
def test_only_what_the_image_is_of_is_used(tmp_path: Path, image: Stamp, used: bool) -> None:
    fleet, later = sample(), Fleet()
    write(tmp_path, fleet)
    later.force(override("service", SERVICE, "down"))
    found = asyncio.run(Keeping(tmp_path, later, FakeClock()).recall(later, image))
    assert found == ((EPOCH, "6-0/c") if used else None)
    assert bool(later.members) == used
    assert later.overrides[f"service:{SERVICE}"].state == "down"  # what is forced here stays


@pytest.mark.parametrize("data", [b"", b"{}", b"[1,2]\n", b'{"format":9,"epoch":1,"version":1,"cursor":""}\n'])
def test_nonsense_is_said_to_be(tmp_path: Path, data: bytes) -> None:
    (tmp_path / keeping.FILE).write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path)
    assert asyncio.run(Keeping(tmp_path, Fleet(), FakeClock()).recall(Fleet(), Stamp(EPOCH, 6, 0))) is None


def test_nothing_was_written(tmp_path: Path) -> None:
    assert read(tmp_path) is None
