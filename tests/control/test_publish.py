"""Publishing, with real compile, answer and worker images: deltas, whole images, the journal, what is refused."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dnsd.compile import service as compile_service
from dnsd.control import live, publish
from dnsd.dns import names, types
from dnsd.image import frames, layout
from dnsd.image.record import Plan
from dnsd.model import MapView, RRset, Stamp
from dnsd.serve.images import Images
from tests.control.fleet_samples import SERVICE, endpoint, override, service, site
from tests.control.rig import EPOCH, Rig, kinds, zone

pytestmark = pytest.mark.asyncio
Make = Callable[..., Awaitable[Rig]]
A1, A2 = endpoint("a1", "192.0.2.1"), endpoint("a2", "192.0.2.2", site="two")
ADDRESS1, ADDRESS2 = b"\xc0\0\x02\x01", b"\xc0\0\x02\x02"
SERVFAIL, NXDOMAIN = types.SERVFAIL, types.NXDOMAIN


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    rigs: list[Rig] = []

    async def start(*objects: object, **options: object) -> Rig:
        rig = Rig(tmp_path, *objects, **options)  # type: ignore[arg-type]
        rigs.append(rig)
        await rig.open()
        return rig

    yield start
    for rig in rigs:
        rig.close()


async def test_the_first_image_reaches_every_worker(make: Make) -> None:
    rig = await make(site("one"), service(), A1)
    for worker in rig.workers:
        assert worker.stamp == Stamp(EPOCH, 1, 1)
        assert worker.ask(SERVICE) == (0, [ADDRESS1])
        assert worker.ask("static.example.com") == (0, [b"\xc0\0\x02\x51"])
    assert rig.publisher.reached(1)
    assert rig.publisher.following
    assert rig.publisher.live.counts.images == 1


async def test_a_change_of_an_endpoint_is_one_small_frame(make: Make) -> None:
    rig = await make(service(), A1)
    version = rig.put(A2.model_copy(update={"tier": 1}))
    await rig.publish()
    version = rig.put(override("site", "one", "down"))
    await rig.publish()
    for worker in rig.workers:
        assert kinds(worker.frames) == [layout.F_REMAP, layout.F_RECORDS, layout.F_RECORDS]
        assert worker.ask(SERVICE) == (0, [ADDRESS2])
        assert worker.stamp == Stamp(EPOCH, version, 1)
    assert rig.publisher.reached(version)


async def test_a_version_that_changes_no_record_still_moves_on(make: Make) -> None:
    rig = await make(service(), A1)
    version = rig.put(site("three"))
    await rig.publish()
    assert [worker.stamp for worker in rig.workers] == [Stamp(EPOCH, version, 1)] * 2
    assert rig.workers[0].frames[-1].items == []
    sent = len(rig.workers[0].frames)
    rig.publisher.mark([SERVICE])
    await rig.publish()
    assert len(rig.workers[0].frames) == sent  # nothing at all has changed


async def test_own_findings_count_node_seq(make: Make) -> None:
    rig = await make(service(), A1, override("site", "one", "down"), endpoint("b", "192.0.2.9", site="two"))
    rig.clock.ms += 3600 * 1000
    rig.publisher.mark([SERVICE])  # the override has ended by itself
    await rig.publish()
    assert rig.workers[0].stamp == Stamp(EPOCH, 1, 2)


@pytest.mark.parametrize("change", ["new service", "service gone", "other types"])
async def test_structure_goes_out_whole(make: Make, change: str) -> None:
    rig = await make(service(), A1, service("b.example.com"))
    if change == "new service":
        rig.put(service("new.deep.example.com"), endpoint("n", "192.0.2.3", service="new.deep.example.com"))
    elif change == "service gone":
        rig.drop(service("b.example.com"))
    else:
        rig.put(endpoint("v6", None, "2001:db8::6"))
    await rig.publish()
    worker = rig.workers[1]
    assert kinds(worker.frames) == [layout.F_REMAP, layout.F_REMAP]
    if change == "new service":
        assert worker.ask("new.deep.example.com") == (0, [b"\xc0\0\x02\x03"])
        assert worker.ask("deep.example.com") == (0, [])
    elif change == "service gone":
        assert worker.ask("b.example.com") == (NXDOMAIN, [])
    else:
        assert worker.ask(SERVICE, types.AAAA)[0] == 0
    assert worker.ask(SERVICE) == (0, [ADDRESS1])


async def test_last_good_and_the_empty_rung(make: Make) -> None:
    leased = endpoint("l", "192.0.2.7", lease="x")
    rig = await make(service(types=["A"]), leased)
    rig.drop(leased)
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [b"\xc0\0\x02\x07"])
    rig.put(override("service", SERVICE, "down"))
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (SERVFAIL, [])


async def test_a_restarted_worker_reads_image_and_journal(make: Make) -> None:
    rig = await make(service(), A1)
    rig.put(A2)
    await rig.publish()
    rig.drop(A1)
    await rig.publish()
    rig.workers[0].images = Images(rig.state, rig.workers[0].count)
    assert rig.workers[0].images.load()
    assert rig.workers[0].stamp == rig.publisher.live.stamp
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS2])


@pytest.mark.parametrize("damage", [b"", b"no image", None])
@pytest.mark.parametrize("held", [False, True])
async def test_an_image_file_that_is_spoilt_is_mended_for_a_worker_that_starts(
    make: Make, damage: bytes | None, held: bool,
) -> None:
    rig = await make(service(), A1)
    rig.put(A2.model_copy(update={"tier": 1}))
    await rig.publish()
    if held:
        rig.publisher.hold()
    rig.files.image.unlink()
    if damage is not None:
        rig.files.image.write_bytes(damage)
    worker = rig.workers[0]
    worker.images = Images(rig.state, worker.count)
    assert not worker.images.load()
    await rig.publisher.mend()
    assert not worker.images.load(), "nobody has asked for it"
    worker.sock.send(frames.encode(layout.F_ACK, Stamp(0, 0, 0), Stamp(0, 0, 0)))
    await rig.settle()
    await rig.publisher.mend()
    assert worker.images.load()
    assert worker.stamp == rig.publisher.live.stamp
    assert worker.ask(SERVICE) == (0, [ADDRESS1])


async def test_a_worker_that_was_away_catches_up_from_the_files(make: Make) -> None:
    rig = await make(service(), A1)
    lazy, busy = rig.workers
    rig.workers = [busy]
    rig.publisher.feeds.feeds[0].behind = True  # as if its socket had been full
    rig.put(A2)
    rig.drop(A1)
    await rig.publish()
    assert lazy.turn() == []
    rig.put(A2.model_copy(update={"load": 7}))
    rig.publisher.feeds._writable(rig.publisher.feeds.feeds[0])
    await rig.publish()
    assert kinds(lazy.turn()) == [layout.F_REMAP, layout.F_RECORDS]
    assert lazy.stamp == busy.stamp
    assert lazy.ask(SERVICE) == (0, [ADDRESS2])


async def test_a_record_that_does_not_answer_is_not_published(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(service(), A1, service("b.example.com"), endpoint("b", "192.0.2.9", service="b.example.com"))
    real = compile_service.record

    def broken(view: object, maps: object) -> bytes:
        data = real(view, maps)  # type: ignore[arg-type]
        if view.owner == names.to_wire(SERVICE):  # type: ignore[attr-defined]
            data = data.replace(ADDRESS2, b"\x0a\0\0\x63")
        return data

    monkeypatch.setattr(compile_service, "record", broken)
    rig.put(A2, endpoint("b2", "192.0.2.10", service="b.example.com"))
    rig.drop(A1)
    version = rig.drop(endpoint("b", "192.0.2.9", service="b.example.com"))
    await rig.publish()
    for worker in rig.workers:
        assert worker.ask(SERVICE) == (0, [ADDRESS1])  # the last good record stays
        assert worker.ask("b.example.com") == (0, [b"\xc0\0\x02\x0a"])  # the others are published
        assert worker.stamp is not None
        assert worker.stamp.version == version
    assert rig.publisher.live.counts.refused == 1
    assert list(rig.publisher.live.refused) == [names.to_wire(SERVICE)]
    rig.publisher.mark(structure="test")  # a whole image keeps the last good one too
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS1])
    monkeypatch.undo()
    rig.publisher.mark([SERVICE], structure="test")
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS2])
    assert rig.publisher.live.refused == {}


async def test_https_comes_changes_and_goes(make: Make) -> None:
    """To own the type is structure, what it says is a record's."""
    rig = await make(service(types=["A"]), A1)
    (worker, *_) = rig.workers
    assert worker.ask(SERVICE, types.HTTPS) == (0, [])
    hint = b"\0\4\0\4" + ADDRESS1
    for https, params, kind in (
        ({}, hint, layout.F_REMAP),
        ({"alpn": ["h2"]}, b"\0\1\0\3\2h2" + hint, layout.F_RECORDS),
        ({"port": 8443, "alpn": ["h2"]}, b"\0\1\0\3\2h2\0\3\0\2\x20\xfb" + hint, layout.F_RECORDS),
    ):
        rig.put(service(types=["A"], https=https))
        await rig.publish()
        assert worker.frames[-1].kind == kind
        assert worker.ask(SERVICE, types.HTTPS) == (0, [b"\0\1\0" + params])
        assert worker.ask(SERVICE) == (0, [ADDRESS1])
    rig.drop(A1)
    await rig.publish()
    assert worker.ask(SERVICE, types.HTTPS) == worker.ask(SERVICE) == (SERVFAIL, [])
    rig.put(service(types=["A"]), A1)
    await rig.publish()
    assert worker.ask(SERVICE, types.HTTPS) == (0, [])
    assert rig.publisher.live.counts.refused == 0


@pytest.mark.parametrize("wrong", [
    lambda rr: rr.replace(b"\2h2", b"\2h3"), lambda rr: rr.replace(ADDRESS2, ADDRESS1),
    lambda rr: rr.replace(b"\0\0\0\x08", b"\0\0\0\x09"), lambda rr: rr.replace(b"\0\x41", b"\0\x40")],
    ids=["parameter", "hint", "ttl", "type"])
async def test_an_https_record_that_says_something_else_is_not_published(
    make: Make, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[bytes], bytes],
) -> None:
    rig = await make(service(https={"alpn": ["h2"]}), A1)
    before = rig.workers[0].ask(SERVICE, types.HTTPS)
    real = Plan.https
    with monkeypatch.context() as patched:
        patched.setattr(Plan, "https", lambda *args: wrong(real(*args)))
        rig.put(A2)
        rig.drop(A1)
        await rig.publish()
        [fault] = rig.publisher.live.refused.values()
        assert fault.startswith("api.example.com. HTTPS: ")
    assert rig.workers[0].ask(SERVICE, types.HTTPS) == before
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS1])


async def test_a_record_that_cannot_be_made_stays_as_it_was(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(service(), A1)

    def fails(view: object, maps: object) -> bytes:
        raise OverflowError("too large")

    monkeypatch.setattr(compile_service, "record", fails)
    version = rig.put(A2)
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS1])
    assert rig.publisher.reached(version)
    assert "too large" in rig.publisher.live.refused[names.to_wire(SERVICE)]


async def test_services_that_cannot_stand_are_left_out_and_the_others_served(make: Make) -> None:
    bad = [service("api.example.net"), service("static.example.com")]
    rig = await make(service(), A1, *bad, endpoint("s", "192.0.2.3", service="static.example.com"))
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS1])
    assert rig.workers[0].ask("static.example.com") == (0, [b"\xc0\0\x02\x51"])
    left_out = {names.to_text(owner) for owner in rig.publisher.live.left_out}
    assert left_out == {"api.example.net.", "static.example.com."}
    images = rig.publisher.live.counts.images
    version = rig.put(endpoint("s2", "192.0.2.4", service="static.example.com"))
    await rig.publish()
    assert rig.publisher.live.counts.images == images
    assert rig.publisher.reached(version)


async def test_bad_zones_leave_what_is_served(make: Make) -> None:
    rig = await make(service(), A1)
    good = rig.publisher.zones
    rig.publisher.zones = (*good, good[0])
    version = rig.put(A2)
    rig.publisher.mark(structure="zones")
    assert not await rig.publisher.publish()
    assert rig.publisher.faults
    await rig.settle()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS1])
    rig.publisher.zones = good
    await rig.publish()
    assert rig.publisher.reached(version)
    assert rig.publisher.faults == []


async def test_new_zones_go_out_whole(make: Make, tmp_path: Path) -> None:
    rig = await make(service(), A1)
    rig.publisher.zones = (*rig.publisher.zones, zone(tmp_path, "@ 9 SOA a b 1 2 3 4 5\n@ NS a.test.\n", "example.org"))
    rig.publisher.mark(structure="zones")
    await rig.publish()
    assert rig.workers[0].ask("example.org", types.NS) == (0, [b"\x01a\x04test\0"])
    assert rig.workers[0].stamp == Stamp(EPOCH, 1, 2)


async def test_a_large_change_is_split_and_a_larger_one_goes_out_whole(make: Make) -> None:
    count = 200
    many = [service(f"s{i}.example.com") for i in range(count)]
    rig = await make(*many, *(endpoint("e", "192.0.2.1", service=s.name) for s in many))
    version = rig.put(*(endpoint(f"f{j}", f"192.0.2.{j + 2}", service=s.name) for s in many for j in range(6)))
    await rig.publish()
    taken = rig.workers[0].frames[1:]
    assert len(taken) > 1
    assert set(kinds(taken)) == {layout.F_RECORDS}
    stamps = [frame.stamp for frame in taken]
    assert stamps == sorted(set(stamps))
    assert [stamp.version for stamp in stamps] == [1] * (len(taken) - 1) + [version]
    assert rig.workers[0].stamp == rig.publisher.live.stamp
    big = [endpoint(f"g{j}", f"192.0.{j // 250}.{j % 250 + 1}", service="s0.example.com") for j in range(1400)]
    version = rig.put(*big)
    await rig.publish()
    assert kinds(rig.workers[0].frames)[-1] == layout.F_REMAP
    assert rig.publisher.reached(version)


async def test_the_image_file_is_written_anew_while_deltas_go_on(make: Make) -> None:
    rig = await make(service(), A1)
    rig.put(A2)
    await rig.publish()
    assert rig.files.journal_size
    await rig.publisher.rewrite()
    assert rig.files.journal_size == 0
    assert os.path.getsize(rig.files.journal) == 0
    on_disk = rig.files.load()
    assert on_disk is not None
    assert on_disk.stamp == rig.publisher.live.stamp
    assert rig.publisher.live.counts.rewrites == 1
    assert layout.F_REMAP not in kinds(rig.workers[0].frames[1:])
    rig.drop(A1)
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS2])


async def test_deltas_during_a_rewrite_stay_in_the_journal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(service(), A1)
    rig.put(A2)
    await rig.publish()
    inside, go_on = asyncio.Event(), asyncio.Event()
    real = asyncio.to_thread

    async def slow(function: Callable[..., object], *args: object) -> object:
        inside.set()
        await go_on.wait()
        return await real(function, *args)

    monkeypatch.setattr(publish.asyncio, "to_thread", slow)
    task = asyncio.create_task(rig.publisher.rewrite())
    await inside.wait()
    rig.drop(A1)
    await rig.publish()
    go_on.set()
    await task
    assert rig.files.written is not None
    assert rig.files.written < rig.publisher.live.stamp
    assert [stamp for stamp, _ in rig.files.frames] == [rig.publisher.live.stamp]
    on_disk = rig.files.load()
    assert on_disk is not None
    assert on_disk.stamp == rig.publisher.live.stamp


async def test_a_whole_image_beats_a_rewrite_that_began_before(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(service(), A1)
    rig.put(A2)
    await rig.publish()
    go_on = asyncio.Event()
    real = asyncio.to_thread
    first = True

    async def slow(function: Callable[..., object], *args: object) -> object:
        nonlocal first
        if first:
            first = False
            await go_on.wait()
        return await real(function, *args)

    monkeypatch.setattr(publish.asyncio, "to_thread", slow)
    task = asyncio.create_task(rig.publisher.rewrite())
    await asyncio.sleep(0)
    rig.put(service("new.example.com"))
    await rig.publish()
    go_on.set()
    await task
    assert rig.publisher.live.counts.rewrites == 0
    on_disk = rig.files.load()
    assert on_disk is not None
    assert on_disk.stamp == rig.publisher.live.stamp


async def test_a_full_disk_stops_no_delta(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(service(), A1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: 3)
        rig.put(A2)
        await rig.publish()
    rig.drop(A1)
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS2])
    assert rig.files.broken
    await rig.publisher.rewrite()
    assert not rig.files.broken
    on_disk = rig.files.load()
    assert on_disk is not None
    assert on_disk.stamp == rig.publisher.live.stamp


async def test_a_restart_goes_on_from_the_stamp_on_disk(make: Make) -> None:
    rig = await make(service(), A1)
    rig.put(A2)
    await rig.publish()
    before = rig.publisher.live.stamp
    again = Rig(rig.state)
    assert again.publisher.live.stamp == before
    assert not again.publisher.following
    assert again.workers[0].ask(SERVICE)[0] == 0  # the last image answers without us
    again.fleet.version = before.version
    again.put(service(), A2)
    await again.open()
    assert again.publisher.live.stamp > before
    assert again.publisher.live.stamp.epoch == EPOCH
    again.close()


async def test_another_epoch_comes_as_a_whole_image(make: Make) -> None:
    rig = await make(service(), A1)
    rig.publisher.adopt(EPOCH + 1)
    rig.put(A2)
    await rig.publish()
    assert rig.workers[0].stamp == Stamp(EPOCH + 1, 2, 2)
    assert not rig.publisher.feeds.reached(EPOCH, 1)


async def test_what_this_node_finds_is_published_while_held(make: Make) -> None:
    rig = await make(service(), A1, A2)
    rig.publisher.hold()
    rig.publisher.mark(rig.fleet.force(override("endpoint", A1.key, "down")))
    await rig.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS2])
    assert rig.workers[0].stamp is not None
    assert rig.workers[0].stamp.version == 1
    assert not rig.publisher.reached(1)
    rig.publisher.adopt(EPOCH)
    await rig.publish()
    assert rig.publisher.reached(1)


async def test_idle_publishes_at_once_and_busy_gathers_for_50_ms(make: Make) -> None:
    rig = await make(service(), A1)
    rig.clock.ms += 10_000
    rig.clock.slept.clear()
    task = asyncio.create_task(rig.publisher._publisher())
    deltas = rig.publisher.live.counts.deltas
    rig.put(A2)
    await asyncio.sleep(0.001)
    assert (rig.publisher.live.counts.deltas - deltas, rig.clock.slept) == (1, [])
    rig.clock.ms += 20
    rig.put(A2.model_copy(update={"load": 1}))
    rig.put(A2.model_copy(update={"load": 2}))
    await asyncio.sleep(0.001)
    assert (rig.publisher.live.counts.deltas - deltas, rig.clock.slept) == (2, [0.03])
    task.cancel()


async def test_a_whole_image_that_cannot_be_written_stops_no_record(
    make: Make, monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = await make(service(), A1)

    def full(data: bytes) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(rig.files, "put", full)
        version = rig.put(service("b.example.com"), A2)
        rig.drop(A1)
        assert not await rig.publisher.publish()
        assert rig.publisher.faults == ["publishing failed: OSError('no space')"]
        assert not await rig.publisher.publish()  # at once again: what records can say
        await rig.settle()
        assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS2])
        assert not rig.publisher.reached(version)  # for the new service is not there
        assert rig.publisher.live.counts.failures == 1
        rig.clock.ms += int(publish.RETRY_S * 1000)
        assert not await rig.publisher.publish()
        assert rig.publisher.live.counts.failures == 2
    rig.clock.ms += int(publish.RETRY_S * 1000)
    await rig.publish()
    assert rig.publisher.reached(version + 1)
    assert rig.publisher.faults == []


async def test_the_loop_tries_again_by_itself(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await make(service(), A1)
    real, calls = rig.files.put, []

    def full_twice(data: bytes) -> None:
        calls.append(len(data))
        if len(calls) < 3:
            raise OSError("no space")
        real(data)

    monkeypatch.setattr(rig.files, "put", full_twice)
    task = asyncio.create_task(rig.publisher._publisher())
    version = rig.put(service("b.example.com"))
    for _ in range(2000):
        if rig.publisher.reached(version):
            break
        await asyncio.sleep(0.001)
        await rig.settle()
    assert rig.publisher.reached(version)
    assert len(calls) == 3
    task.cancel()


async def test_a_map_is_a_frame_and_moved_columns_are_a_whole_image(make: Make) -> None:
    rig = await make(service(), A1)
    rig.publisher.set_maps({0: MapView(0, "aa.map", ("one", "zero"))}, {}, [SERVICE])
    await rig.publish()
    worker = rig.workers[0]
    assert kinds(worker.frames) == [layout.F_REMAP, layout.F_MAP, layout.F_RECORDS]
    assert worker.images.image is not None
    assert worker.images.image.map_refs == {0: "aa.map"}
    rig.publisher.set_maps({0: MapView(0, "bb.map", ("one", "zero", "two"))}, {}, [SERVICE])
    await rig.publish()
    assert kinds(worker.frames)[3:] == [layout.F_MAP]  # the record's columns are where they were
    assert worker.images.image.map_refs == {0: "bb.map"}
    rig.publisher.set_maps({0: MapView(0, "cc.map", ("two", "one", "zero"))}, {}, [SERVICE])
    await rig.publish()
    assert kinds(worker.frames)[4:] == [layout.F_REMAP]
    assert worker.images.image.map_refs == {0: "cc.map"}
    assert worker.stamp == rig.publisher.live.stamp


async def test_a_zone_that_does_not_answer_its_soa_is_not_published(make: Make) -> None:
    rig = await make(service(), A1)
    first = rig.publisher.zones[0]
    below = RRset(b"\x03sub" + first.apex, types.NS, 5, (b"\x01n\0",))
    inner = rig.publisher.zones[0].__class__(below.owner, ())
    rig.publisher.zones = (first, inner)
    rig.publisher.mark(structure="zones")
    assert not await rig.publisher.publish()
    assert rig.workers[0].ask(SERVICE) == (0, [ADDRESS1])


async def test_what_changes_while_much_is_resolved_is_in_the_version_that_says_so(make: Make) -> None:
    """Others get turns while ten thousand services are resolved: a version that they bring must not go out without."""
    count = 3 * publish.BREATH
    many = [service(f"s{i}.example.com") for i in range(count)]
    rig = await make(*many, *(endpoint("e", "192.0.2.1", service=s.name) for s in many))
    rig.put(*(endpoint("e", "192.0.2.3", service=s.name) for s in many))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while turns < 2:
            await asyncio.sleep(0)
            turns += 1
            rig.put(endpoint("e", f"192.0.2.{10 + turns}", service=f"s{turns}.example.com"))

    task = asyncio.create_task(others())
    await rig.publish()
    await task
    assert turns == 2
    for worker in rig.workers:
        assert worker.stamp is not None
        assert worker.stamp.version == rig.fleet.version
        assert worker.ask("s0.example.com") == (0, [b"\xc0\0\x02\x03"])
        assert worker.ask("s1.example.com") == (0, [b"\xc0\0\x02\x0b"])
        assert worker.ask("s2.example.com") == (0, [b"\xc0\0\x02\x0c"])


async def test_a_large_change_leaves_others_their_turns(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is too large for frames: that is known before all of its records are made."""
    monkeypatch.setattr(live, "BREATH", 5)
    many = [f"s{number}.example.com" for number in range(40)]
    rig = await make(site("one"), site("two"), *map(service, many), *(
        endpoint("a", f"192.0.2.{number}", service=name) for number, name in enumerate(many)))
    made, turns, record = 0, [0], compile_service.record

    def counted(*args: Any) -> bytes:
        nonlocal made
        made += 1
        return record(*args)

    async def others() -> None:
        while True:
            turns.append(made)
            await asyncio.sleep(0)

    monkeypatch.setattr(compile_service, "record", counted)
    ticking = asyncio.create_task(others())
    version = rig.put(*(endpoint("a", f"198.51.100.{number}", service=name) for number, name in enumerate(many)))
    await rig.publish()
    assert made == 40
    assert max(after - before for before, after in itertools.pairwise(turns)) <= 5
    assert rig.publisher.reached(version)
    assert rig.publisher.live.counts.images == 1
    monkeypatch.setattr(live, "FRAMES_MAX", 0)
    made = 0
    changed = {name: replace(rig.views.resolved[name].view, ttl=77) for name in many}
    assert not await rig.publisher.live.change(changed, rig.publisher.maps, version + 1)
    assert made == 5
    ticking.cancel()
