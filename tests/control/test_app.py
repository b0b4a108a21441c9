"""The whole process against a real embedded store, with worker images at the other end of its feeds; no API, no DNS."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dnsd import metrics
from dnsd.admin import exposition
from dnsd.control import app, reply
from dnsd.control.app import Process, Settings
from dnsd.dns import names, types
from dnsd.image import samples
from dnsd.image.samples import Address, Origin, Sample
from dnsd.registry import embedded
from dnsd.registry.errors import Unavailable
from dnsd.registry.models import Kind, LeaseRequest, Override
from dnsd.registry.store import Registry
from tests.control.fleet_samples import SERVICE, service, site
from tests.control.rig import ZONE, Worker

pytestmark = [pytest.mark.asyncio]
ADDRESS = b"\xc0\0\x02\x01"


class Store:
    """An embedded store in a short folder (a socket's path has a limit)."""

    def __init__(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="dnsd-"))
        embedded.folder_of(self.state).mkdir(mode=0o700)
        self.argv = embedded.command(self.state)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def empty(self) -> None:
        """As a disk that was replaced: killed, and started with nothing."""
        self.kill()
        for entry in embedded.folder_of(self.state).iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.start()


@pytest.fixture
def store() -> Iterator[Store]:
    try:
        made = Store()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield made
    made.kill()
    shutil.rmtree(made.state)


class Running:
    """A control process in this loop, and two workers that take their frames as they come."""

    def __init__(self, store: Store, zone: str = ZONE, workers: int = 2) -> None:
        self.state = store.state
        self.zone_file = self.state / "zone"
        if zone:
            self.zone_file.write_text(zone)
        stats = self.state / "stats"
        stats.write_bytes(bytes(workers * metrics.REGION))
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        ours, self.tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.lifeline, self._end = os.pipe()
        self.settings = Settings(
            node="test", state=self.state, feeds=[os.dup(ours.fileno()) for ours, _ in self.pairs],
            lifeline=self.lifeline, store_url=embedded.url(self.state), stats=stats, atlas=self.state / "atlas",
            zones=[{"name": "example.com", "file": self.zone_file}], tap=ours.detach(),
            capture={"log": self.state / "queries", "dnstap": str(self.state / "tap")})
        self.workers = [Worker(slot, theirs, self.state) for slot, (_, theirs) in enumerate(self.pairs)]
        loop = asyncio.get_running_loop()
        for worker in self.workers:
            loop.add_reader(worker.sock, worker.turn)
        self.process = Process(self.settings)
        self.control = self.process.control
        self.task = loop.create_task(self.process.run())

    async def until(self, done: Callable[[], Any], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"not within {seconds} s; {list(self.control.conditions())}"
            assert not self.task.done(), self.task
            await asyncio.sleep(0.002)

    async def ready(self) -> None:
        await self.until(lambda: self.control.ready()[0] and self.process.publisher.following)

    async def served(self, version: int) -> None:
        assert await self.control.wait_version(version, 10), list(self.control.conditions())

    def ask(self, name: str = SERVICE, type_: int = types.A) -> tuple[int, list[bytes]]:
        return self.workers[0].ask(name, type_)

    async def close(self) -> int:
        """As the supervisor's end: the lifeline closes."""
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
        try:
            return await asyncio.wait_for(self.task, 10)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.lifeline)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        for worker in self.workers:
            loop.remove_reader(worker.sock)
        for feed in self.process.feeds.feeds:
            feed.sock.close()
        for pair in self.pairs:
            for sock in pair:
                sock.close()
        self.tap.close()
        os.close(self.lifeline)


@pytest_asyncio.fixture
async def start(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Running]]:
    monkeypatch.setattr(app, "_room", lambda name: NoTokens)
    made: list[Running] = []

    def run(**options: Any) -> Running:
        made.append(Running(store, **options))
        return made[-1]

    yield run
    for running in made:
        if not running.task.done():
            await running.close()


class NoTokens:
    """In the API's place: a registry that has its tokens."""

    @staticmethod
    async def ensure_admin(registry: Registry, state: Path) -> str | None:
        await registry.position()
        return None


@pytest_asyncio.fixture
async def registry(store: Store) -> AsyncIterator[Registry]:
    """A registry with two sites and a service, as the API would write to it."""
    deadline = time.monotonic() + 10
    while True:
        try:
            found = await Registry.open(embedded.url(store.state))
            break
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    for value in (site("one"), site("two")):
        await found.put(Kind.SITE, value, actor="test", if_match=None)
    await found.put(Kind.SERVICE, service(), actor="test", if_match=None)
    yield found
    await found.close()


Start = Callable[..., Running]


def lease(holder: str, *addresses: str, ttl: int = 60) -> LeaseRequest:
    endpoints = [
        {"id": f"{holder}{i}", "service": SERVICE, "site": "one", "a": address} for i, address in enumerate(addresses)]
    return LeaseRequest.model_validate({"holder": holder, "ttl": ttl, "endpoints": endpoints})


async def test_a_registration_is_on_every_worker_within_100_ms(registry: Registry, start: Start) -> None:
    running = start()
    await running.ready()
    took = []
    for i in range(20):
        began = time.perf_counter()
        granted = await registry.acquire(lease(f"h{i}", f"192.0.2.{i + 1}"), actor="test", token_id="t")
        await running.served(granted.version)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.1, took
    assert running.process.publisher.live.counts.records >= 19
    assert running.ask()[0] == 0


async def test_leases_overrides_and_their_ends(registry: Registry, start: Start) -> None:
    running = start()
    await running.ready()
    one = await registry.acquire(lease("a", "192.0.2.1"), actor="test", token_id="t")
    two = await registry.acquire(lease("b", "192.0.2.2"), actor="test", token_id="t")
    await running.served(two.version)
    forced = Override(target="endpoint", name=f"{SERVICE}/b0", state="down", seconds=1, reason="test")
    written = await registry.put(Kind.OVERRIDE, forced, actor="test", if_match=None)
    await running.served(written.version)
    assert running.ask() == (0, [ADDRESS])
    released = await registry.release("a", one.lease.fence, actor="test")
    await running.served(released.version)
    assert running.ask() == (0, [ADDRESS])  # what ended stands in as last good, what is forced down does not
    assert running.control.status()["last_good"] == [SERVICE]
    await running.until(lambda: running.ask() == (0, [b"\xc0\0\x02\x02"]), 3)  # the override has ended


async def test_status_and_readiness(registry: Registry, start: Start) -> None:
    running = start()
    await running.ready()
    written = await registry.put(Kind.SERVICE, service("api.example.net"), actor="test", if_match=None)
    await running.served(written.version)
    status = running.control.status()
    json.dumps(status)
    assert (status["node"], status["version"], status["registry"]["up"]) == ("test", written.version, True)
    assert [worker["version"] for worker in status["workers"]] == [written.version] * 2
    assert status["fleet"]["left_out"] == 1
    scraped = exposition.text(running.control.stats, *running.control.ready(), status, exposition.Meter())
    missing = [name for name, *_ in exposition._STATUS if f"\n{name} " not in scraped]
    assert not missing, f"metrics of what no status says: {missing}"
    assert [zone["name"] for zone in status["zones"]] == ["example.com."]
    ready, details = running.control.ready()
    assert ready
    assert details["stale_for"] == 0
    assert any("api.example.net. is not served" in text for text in details["conditions"])
    assert not await running.control.wait_version(written.version + 1, 0.01)
    told = await running.control.explain("static.example.com", "A", None, None)
    assert told["addresses"] == ["192.0.2.81"]
    os.kill(os.getpid(), signal.SIGTERM)
    await running.until(lambda: not running.control.ready()[0])
    assert running.ask("static.example.com")[0] == 0  # draining still answers
    assert await running.close() == 0


async def test_the_store_goes_and_comes_back(store: Store, registry: Registry, start: Start) -> None:
    running = start()
    await running.ready()
    granted = await registry.acquire(lease("a", "192.0.2.1"), actor="test", token_id="t")
    await running.served(granted.version)
    store.kill()
    await running.until(lambda: not running.process.intake.connected)
    assert running.control.ready()[0]
    assert running.ask() == (0, [ADDRESS])
    await running.until(lambda: running.process.intake.stale_for > 0.2)
    store.start()
    await running.until(lambda: running.process.intake.connected)
    assert running.process.intake.loads == 1  # it went on where it was
    granted = await registry.acquire(lease("b", "192.0.2.2"), actor="test", token_id="t")
    await running.served(granted.version)


async def test_an_emptied_store_is_held_off_and_wins_trust_by_its_content(
    store: Store, registry: Registry, start: Start,
) -> None:
    running = start()
    await running.ready()
    granted = await registry.acquire(lease("a", "192.0.2.1"), actor="test", token_id="t")
    await running.served(granted.version)
    store.empty()
    await running.until(lambda: running.process.intake.held)
    assert running.control.ready()[0]
    assert running.ask() == (0, [ADDRESS])
    assert any(text.startswith("held: the registry began anew") for text in running.control.conditions())
    for value in (site("one"), site("two")):
        await registry.put(Kind.SITE, value, actor="test", if_match=None)
    await registry.put(Kind.SERVICE, service(), actor="test", if_match=None)
    granted = await registry.acquire(lease("a", "192.0.2.1"), actor="test", token_id="t")
    await running.served(granted.version)
    assert running.process.intake.held == ""
    assert running.workers[0].stamp is not None
    assert running.workers[0].stamp.epoch == running.process.intake.offered


async def test_a_restart_goes_on(store: Store, registry: Registry, start: Start) -> None:
    first = start()
    await first.ready()
    granted = await registry.acquire(lease("a", "192.0.2.1"), actor="test", token_id="t")
    await first.served(granted.version)
    assert await first.close() == 0
    saved = json.loads((store.state / "node.json").read_text())
    assert saved["service"] == [[{"name": SERVICE}, {"1": [0, [["a0", "one", "a", ADDRESS.hex()]]]}]]
    await registry.release("a", granted.lease.fence, actor="test")
    second = start()
    await second.ready()
    assert second.process.publisher.live.stamp > first.process.publisher.live.stamp
    assert second.ask() == (0, [ADDRESS])  # its last good answer, remembered over the restart
    store.kill()
    assert await second.close() == 0
    third = start()
    await third.until(lambda: third.process.intake.problem)
    await third.until(lambda: third.process.publisher.live.counts.images)  # it knows the fleet without the store
    assert third.process.publisher.live.stamp[:2] == second.process.publisher.live.stamp[:2]
    assert not third.process.publisher.following
    assert third.ask() == (0, [ADDRESS])
    told = await third.control.explain(SERVICE, "A", None, None)
    assert told["addresses"] == ["192.0.2.1"]
    assert await third.control.reload() == []


async def test_reload(registry: Registry, start: Start) -> None:
    running = start()
    await running.ready()
    running.zone_file.write_text(ZONE + "new A 192.0.2.82\n")
    assert await running.control.reload() == []
    assert running.ask("new.example.com") == (0, [b"\xc0\0\x02\x52"]), "who has reloaded is answered by it"
    running.zone_file.write_text(ZONE + "new A 192.0.2.\nother FOO\n")
    faults = await running.control.reload()
    assert [fault.place.rpartition(":")[2] for fault in faults] == ["8", "9"]
    running.zone_file.write_text(ZONE + "api A 192.0.2.3\n")
    faults = await running.control.reload()
    assert [fault.place for fault in faults] == [f"{SERVICE}."]
    assert running.ask("new.example.com") == (0, [b"\xc0\0\x02\x52"])
    running.zone_file.write_text(ZONE + "newer A 192.0.2.83\n")
    os.kill(os.getpid(), signal.SIGHUP)
    await running.until(lambda: running.workers[1].ask("newer.example.com")[0] == 0)
    assert running.ask("new.example.com")[0] == types.NXDOMAIN


async def test_capture_and_its_rotation(start: Start) -> None:
    running = start()
    await running.ready()
    log = running.state / "queries"
    sample = Sample(Address(ADDRESS, 9), reply.query(names.to_wire(r"x\010.example.com"), types.A), b"")
    for turn in range(2):
        await running.until(log.exists)
        running.tap.send(samples.encode(Origin(5, 1, samples.UDP, 0, Address(b"", 0)), [sample]))
        await running.until(lambda: log.read_text().endswith("\n"))
        line = json.loads(log.read_text())
        assert (line["node"], line["worker"], line["qname"]) == ("test", 1, r"x\010.example.com.")
        log.rename(running.state / f"queries.{turn}")
        os.kill(os.getpid(), signal.SIGHUP)
    await running.until(log.exists)
    assert running.control.status()["capture"]["log"]["taken"] == 2
    os.rename(running.state / "tap", running.state / "tap.0")
    running.state.joinpath("tap").mkdir()
    os.kill(os.getpid(), signal.SIGHUP)
    await running.until(lambda: any("tap: Is a directory" in text for text in running.control.conditions()))
    assert running.control.ready()[0]


async def test_faulty_zones_at_start_leave_the_last_image(store: Store, registry: Registry, start: Start) -> None:
    first = start()
    await first.ready()
    granted = await registry.acquire(lease("a", "192.0.2.1"), actor="test", token_id="t")
    await first.served(granted.version)
    await first.close()
    second = start(zone="nothing of the kind\n")
    await second.until(lambda: second.control.zone_faults and second.process.intake.connected)
    assert any(text.startswith("zone: ") for text in second.control.conditions())
    assert second.ask() == (0, [ADDRESS])
    assert second.process.publisher.live.counts.images == 0
    assert await second.control.reload()
    second.zone_file.write_text(ZONE)
    assert await second.control.reload() == []
    await second.ready()
    assert second.control.zone_faults == []


async def test_a_damaged_state_directory_is_no_reason_not_to_start(
    store: Store, registry: Registry, start: Start,
) -> None:
    (store.state / "image").write_bytes(b"junk")
    (store.state / "node.json").write_bytes(b"{")
    running = start()
    await running.ready()
    assert running.ask("static.example.com")[0] == 0


async def test_a_part_that_fails_ends_the_process(
    registry: Registry, start: Start, monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails() -> None:
        raise RuntimeError("bug")

    running = start()
    monkeypatch.setattr(running.process.maps, "run", fails)
    assert await asyncio.wait_for(running.task, 10) == 1
    running.task = asyncio.get_running_loop().create_task(asyncio.sleep(0, 1))
    await running.close()


async def test_the_first_token_is_shown_once(
    registry: Registry, start: Start, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    class Tokens:
        @staticmethod
        async def ensure_admin(registry: Registry, state: Path) -> str | None:
            asked.append(1)
            if len(asked) == 1:
                raise Unavailable("not yet")
            return "dnsd_admin_secret" if len(asked) == 2 else None

    monkeypatch.setattr(app, "_room", lambda name: Tokens)
    running = start()
    await running.until(lambda: len(asked) >= 2)
    await running.close()
    assert capfd.readouterr().out.count("first admin token, shown only now: dnsd_admin_secret") == 1
