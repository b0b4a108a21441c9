"""What a power cut takes from the store: its log as it was at its last fsync, at random moments, and who was told what.

Lives here: the store under strace, the cut, the comparison. Does not live here: a killed store, which loses nothing the
kernel has (`tests/registry/test_outage.py`).

The log only grows, so all that a cut can leave is its beginning, up to what had been written when the last fdatasync
that ended before the cut began. strace tells the length of each write and when each fdatasync began and ended, before
the store goes on; so what it says of an fdatasync is never later than the reply that waited for it. A write counts as
acknowledged when its answer reached the client before the cut.
"""

from __future__ import annotations

import asyncio
import bisect
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from dnsd.registry import embedded
from dnsd.registry.models import EndpointSpec, Kind, LeaseRequest, Service, Site
from dnsd.registry.store import Registry
from tests.node import until

WRITES = int(os.environ.get("TEST_CUT_WRITES", "1000"))
CUTS = int(os.environ.get("TEST_CUTS", "5"))
WRITERS = 8
STRACE = shutil.which("strace")
SERVER = shutil.which("redis-server")
API = "api.demo.example"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (STRACE and SERVER) and os.environ.get("CI") != "true", reason="no strace or redis-server"),
]
_CALL = re.compile(
    r"^(?P<pid>\d+) +(?P<at>\d+\.\d+) (?:<\.\.\. )?(?P<call>write|fdatasync)"
    r"(?:\(\d+<(?P<path>[^>]*)>)?(?P<rest>.*)$")
_RESULT = re.compile(r"= (?P<value>-?\d+)(?: [^<]*)?<(?P<took>\d+\.\d+)>$")


class Synced(NamedTuple):
    """An fdatasync of the log: when it had ended, and how long the log was when it began."""

    ended: float
    octets: int


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dnsd-cut-") as name:
        yield Path(name)


def command(state: Path, *more: str) -> list[str]:
    """The embedded store's own settings; the log is not rewritten meanwhile, so that it only grows."""
    embedded.folder_of(state).mkdir(mode=0o700, parents=True, exist_ok=True)
    return [str(SERVER), *embedded.command(state)[1:], "--auto-aof-rewrite-percentage", "0", *more]


def ready(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False
        until(answers, 20, "the store")


async def write(url: str) -> list[tuple[float, str, int]]:
    """Leases acquired by some writers at once: when each was acknowledged, its holder and its fence."""
    registry = await Registry.open(url)
    site = Site.model_validate({"id": "fra", "latitude": 50, "longitude": 8, "country": "DE", "region": "eu"})
    await registry.put(Kind.SITE, site, actor="a", if_match=None)
    await registry.put(Kind.SERVICE, Service(name=API), actor="a", if_match=None)
    told: list[tuple[float, str, int]] = []
    numbers = iter(range(WRITES))

    async def writer() -> None:
        for number in numbers:
            spec = EndpointSpec.model_validate({"id": f"e{number}", "service": API, "site": "fra", "a": "192.0.2.1"})
            request = LeaseRequest(holder=f"h{number}", ttl=600, endpoints=(spec,))
            granted = await registry.acquire(request, actor="a", token_id="t")
            told.append((time.time(), granted.lease.id, granted.lease.fence))

    await asyncio.gather(*(writer() for _ in range(WRITERS)))
    await registry.close()
    return told


def synced(trace: Path) -> list[Synced]:
    """The fdatasyncs of the growing log, in the order they ended."""
    length, began, found = 0, dict[str, tuple[float, int]](), []
    path_of: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        call = _CALL.match(line)
        if call is None:
            continue
        pid, at = call["pid"], float(call["at"])
        if call["path"] is not None:
            path_of[pid] = call["path"]
            began[pid] = (at, length)
        result = _RESULT.search(call["rest"])
        if result is None or not path_of.get(pid, "").endswith(".incr.aof"):
            continue
        assert int(result["value"]) >= 0, line
        if call["call"] == "write":
            length += int(result["value"])
        else:
            start, octets = began[pid]
            found.append(Synced(start + float(result["took"]), octets))
    return sorted(found)


async def survivors(state: Path, after: Path, octets: int) -> dict[str, int]:
    """Leases and fences of a store that starts from the first octets of the log."""
    shutil.copytree(embedded.folder_of(state), embedded.folder_of(after), ignore=lambda _, names: [
        name for name in names if name.endswith(".sock")])
    [log] = embedded.folder_of(after).rglob("*.incr.aof")
    os.truncate(log, octets)
    with subprocess.Popen(command(after), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            ready(embedded.url(after))
            registry = await Registry.open(embedded.url(after))
            loaded = await registry.load()
            await registry.close()
        finally:
            process.kill()
    assert loaded.corrupt == []
    return {lease.id: lease.fence for lease in loaded.leases.values()}


def record(state: Path, fsync: str) -> tuple[list[tuple[float, str, int]], list[Synced]]:
    """All writes to a store under strace, and its fdatasyncs."""
    trace = state / "trace"
    server = command(state, "--appendfsync", fsync)
    argv = [str(STRACE), "-f", "-y", "-ttt", "-T", "-s", "0", "-e", "trace=write,fdatasync", "-e", "signal=none",
            "-o", str(trace), *server]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            ready(embedded.url(state))
            told = asyncio.run(write(embedded.url(state)))
        finally:
            with redis.Redis.from_url(embedded.url(state)) as client:
                client.shutdown(nosave=True)
            process.wait(20)
    return told, synced(trace)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_power_cut(folder: Path, fsync: str) -> None:
    """With fsync always nothing acknowledged is lost; with everysec something is, or the cut would show nothing."""
    told, syncs = record(folder / "state", fsync)
    assert len(told) == WRITES
    seed = int(os.environ.get("TEST_SEED", "1"))
    moments = random.Random(seed)
    lost = []
    for number in range(CUTS):
        cut = moments.uniform(told[0][0], told[-1][0])
        done = bisect.bisect_right(syncs, cut, key=lambda one: one.ended)
        octets = max((one.octets for one in syncs[:done]), default=0)
        left = asyncio.run(survivors(folder / "state", folder / f"cut{number}", octets))
        acknowledged = {holder: fence for at, holder, fence in told if at <= cut}
        lost.append(len(acknowledged.items() - left.items()))
        print(f"{fsync}: cut {number}: {len(acknowledged)} acknowledged, {len(left)} left, {lost[-1]} lost")
    if fsync == "always":
        assert sum(lost) == 0, (seed, lost)
    else:
        assert sum(lost) > 0, (seed, lost)
