"""The store away, stuck, restarted, killed, full, locked down: bounded waiting, nothing acknowledged lost."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from dnsd.registry import errors
from dnsd.registry.link import client, close
from dnsd.registry.models import Kind, Renewal
from dnsd.registry.store import Registry
from dnsd.registry.values import Change
from tests.node import free_port
from tests.registry import samples as s
from tests.registry.conftest import PATIENCE, Server, let_gap, pass_lease_time

pytestmark = pytest.mark.asyncio
BOUND = 3.5  # connect 1 s + operation 2 s, and some for a busy machine


def every_call(registry: Registry, cursor: str) -> dict[str, Awaitable[object]]:
    site = s.site("x")
    return {
        "position": registry.position(), "load": registry.load(), "get": registry.get(Kind.SITE, "fra"),
        "list": registry.list(Kind.SITE), "put": registry.put(Kind.SITE, site, actor="a", if_match="*"),
        "delete": registry.delete(Kind.SITE, "fra", actor="a", if_match="*"),
        "acquire": registry.acquire(s.request("h", "e"), actor="a", token_id="t"),
        "renew": registry.renew([Renewal(id="h", fence=1)], actor="a"), "release": registry.release("h", 1, actor="a"),
        "tick": registry.tick(), "events": registry.events(cursor, block_ms=5000), "audit": registry.audit(),
        "apply": registry.apply([Change("put", Kind.SITE, site)], actor="a", if_version=None)}


async def all_unavailable(registry: Registry, cursor: str) -> None:
    async def one(name: str, call: Awaitable[object]) -> None:
        began = time.monotonic()
        with pytest.raises(errors.Unavailable) as caught:
            await call
        assert time.monotonic() - began < BOUND, name
        assert caught.value.status == 503

    await asyncio.gather(*(one(name, call) for name, call in every_call(registry, cursor).items()))


async def test_killed_and_back(own_server: Server) -> None:
    registry = await Registry.open(own_server.url)
    await s.fill(registry)
    before = await registry.load()
    own_server.kill()
    await all_unavailable(registry, before.position.cursor)
    with pytest.raises(errors.Unavailable):
        await Registry.open(own_server.url)
    own_server.start()
    assert await registry.load() == before
    assert await registry.events(before.position.cursor, block_ms=0) == []
    await registry.put(Kind.SITE, s.site("new"), actor="a", if_match=None)
    [event] = await registry.events(before.position.cursor, block_ms=0)
    assert event.key == "new"
    await registry.close()


@pytest.mark.parametrize("binary", ["redis"], indirect=True)
async def test_stuck_and_going_on(own_server: Server) -> None:
    """A stopped process accepts connections and answers nothing; late replies must not answer later questions."""
    registry = await Registry.open(own_server.url)
    await s.fill(registry)
    cursor = (await registry.position()).cursor
    own_server.signal(signal.SIGSTOP)
    await all_unavailable(registry, cursor)
    own_server.signal(signal.SIGCONT)
    for name in s.SITES:
        stored = await registry.get(Kind.SITE, name)
        assert stored is None or stored.value == s.site(name)  # the delete that timed out may have happened
    results = await asyncio.gather(*(registry.get(Kind.SITE, s.SITES[1 + i % 2]) for i in range(50)))
    assert [one.value.id for one in results if one] == [s.SITES[1 + i % 2] for i in range(50)]
    await registry.close()


async def test_a_kill_loses_no_acknowledged_write(own_server: Server) -> None:
    registry = await Registry.open(own_server.url)
    await s.fill(registry)
    acknowledged: dict[str, int] = {}

    async def write(worker: int) -> None:
        with contextlib.suppress(errors.Unavailable):
            for i in range(100_000):
                granted = await registry.acquire(s.request(f"h{worker}-{i}", f"e{worker}-{i}"), actor="a", token_id="t")
                acknowledged[granted.lease.id] = granted.lease.fence

    writers = [asyncio.create_task(write(worker)) for worker in range(8)]
    while len(acknowledged) < 500:
        await asyncio.sleep(0.005)
    own_server.kill()
    await asyncio.gather(*writers)
    own_server.start()
    loaded = await registry.load()
    assert loaded.corrupt == []
    assert {lease.id: lease.fence for lease in loaded.leases.values()}.items() >= acknowledged.items()
    assert {e.lease for e in loaded.endpoints.values()} == set(loaded.leases)
    trail = await registry.audit(limit=100_000)
    assert [entry.version for entry in trail] == list(range(1, loaded.position.version + 1))
    # What was in flight happened wholly or not at all.
    assert loaded.position.version == 4 + len(loaded.leases)
    await registry.close()


async def test_no_lease_ends_while_the_store_is_away(own_server: Server) -> None:
    registry = await Registry.open(own_server.url)
    await s.fill(registry)
    await s.in_turns(
        registry.acquire(s.request(f"h{i}", f"e{i}", ttl=3), actor="a", token_id="t") for i in range(500))
    await registry.tick()
    async with Redis.from_url(own_server.url) as raw:
        await let_gap(raw, 60_000)  # the outage, without waiting for it
    own_server.kill()
    with pytest.raises(errors.Unavailable):
        await registry.tick()
    own_server.start()
    tick = await registry.tick()
    assert tick.expired == []
    assert tick.shifted_ms >= 60_000
    assert len((await registry.load()).leases) == 500
    await registry.close()


async def test_scripts_that_the_store_forgot(registry: Registry, raw: Redis) -> None:
    await raw.script_flush()
    await registry.put(Kind.SITE, s.site("x"), actor="a", if_match=None)
    await asyncio.gather(*(
        registry.acquire(s.request(f"h{i}", f"e{i}"), actor="a", token_id="t") for i in range(20)))
    assert len((await registry.load()).leases) == 20


async def test_a_store_emptied_under_a_writer(empty: Registry, raw: Redis) -> None:
    before = await empty.position()
    await raw.flushall()
    written = await empty.put(Kind.SITE, s.site("x"), actor="a", if_match=None)
    assert written.version == 1
    assert (await empty.position()).epoch > before.epoch


async def test_a_store_emptied_again_and_again_is_away(empty: Registry, raw: Redis) -> None:
    """Between the history that a writer has begun and the write itself: its reply is no lease, tick or version."""
    begin = empty._begin

    async def begun() -> Any:
        await begin()
        await raw.flushall()

    empty._begin = begun  # type: ignore[method-assign]
    for work in (empty.tick, lambda: empty.put(Kind.SITE, s.site("x"), actor="a", if_match=None)):
        await raw.flushall()
        with pytest.raises(errors.Unavailable, match="again and again"):
            await work()
    assert await raw.dbsize() == 0


async def test_a_full_store_refuses_whole_writes_and_lets_go(registry: Registry, raw: Redis) -> None:
    lease = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    await registry.acquire(s.request("over", "f", ttl=2), actor="a", token_id="t")
    before = await registry.load()
    await pass_lease_time(raw, 5_000)
    await raw.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(errors.Unavailable, match="maxmemory"):
            await registry.acquire(s.request("h2", "g"), actor="a", token_id="t")
        with pytest.raises(errors.Unavailable, match="maxmemory"):
            await registry.put(Kind.SITE, s.site("x"), actor="a", if_match=None)
        loaded = await registry.load()
        assert (loaded.position, loaded.endpoints, loaded.leases) == (
            before.position, before.endpoints, before.leases)
        assert await registry.get(Kind.LEASE, "h")
        assert await registry.events(before.position.cursor, block_ms=0) == []
        await registry.delete(Kind.SITE, "sin", actor="a", if_match="*")
        assert (await registry.renew([Renewal(id="h", fence=lease.fence)], actor="a"))[0].ok
        assert (await registry.tick()).expired == ["over"]
        await registry.release("h", lease.fence, actor="a")
    finally:
        await raw.config_set("maxmemory", "0")
    assert (await registry.load()).leases == {}


@pytest.mark.parametrize(("appendonly", "appendfsync", "durability"), [
    ("yes", "always", "fsync"), ("yes", "everysec", "aof"), ("yes", "no", "unknown"), ("no", "always", "unknown")])
async def test_durability_is_what_the_store_is_configured_for(
    empty: Registry, raw: Redis, server: Server, appendonly: str, appendfsync: str, durability: str,
) -> None:
    try:
        await raw.config_set("appendfsync", appendfsync)
        await raw.config_set("appendonly", appendonly)
        registry = await Registry.open(server.url)
        assert (await registry.put(Kind.SITE, s.site("x"), actor="a", if_match=None)).durability == durability
        await registry.close()
    finally:
        await raw.config_set("appendfsync", "always")
        await raw.config_set("appendonly", "yes")


async def test_a_user_with_only_what_is_needed(empty: Registry, raw: Redis, server: Server) -> None:
    """The ACL that docs/registry.md gives is enough; CONFIG is forbidden, so durability is not known."""
    rule = next(
        line.strip() for line in (Path(__file__).parents[2] / "docs/registry.md").read_text().splitlines()
        if line.strip().startswith("ACL SETUSER dnsd"))
    await raw.execute_command(*rule.replace("<password>", "secret").split())
    registry = await Registry.open(server.url.replace("unix://", "unix://dnsd:secret@"))
    await s.fill(registry)
    written = await registry.put(Kind.ENDPOINT, s.endpoint("fix"), actor="a", if_match=None)
    assert written.durability == "unknown"
    cursor = (await registry.position()).cursor
    lease = (await registry.acquire(s.request("h", "e"), actor="a", token_id="t")).lease
    await registry.renew([Renewal(id="h", fence=lease.fence, loads={f"{s.API}/e": 1})], actor="a")
    await registry.tick()
    await registry.release("h", lease.fence, actor="a")
    assert len(await registry.events(cursor, block_ms=10)) == 3
    await registry.apply([Change("delete", Kind.ENDPOINT, key=f"{s.API}/fix")], actor="a", if_version=None)
    assert len(await registry.audit()) == (await registry.position()).version
    assert (await registry.list(Kind.SITE))[0]
    assert await registry.get(Kind.SITE, "fra")
    await registry.close()
    with pytest.raises(errors.Unavailable):
        await Registry.open(server.url.replace("unix://", "unix://dnsd:wrong@"))
    with pytest.raises(errors.Unavailable):
        await Registry.open(server.url.replace("unix://", "unix://dnsd:secret@"), prefix="other")
    await raw.execute_command("ACL", "DELUSER", "dnsd")


@pytest.mark.parametrize("url", ["http://localhost/", "redis+sentinel://", "redis+sentinel://h:1", "redis+sentinel:///m"])
async def test_urls_it_cannot_use(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|scheme"):
        await Registry.open(url)


async def test_nothing_listens() -> None:
    began = time.monotonic()
    for url in (f"redis://127.0.0.1:{free_port()}", f"redis+sentinel://127.0.0.1:{free_port()}/main"):
        with pytest.raises(errors.Unavailable):
            await Registry.open(url)
    assert time.monotonic() - began < 2 * BOUND


@contextlib.contextmanager
def running(*argv: str) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def answers(port: int, *command: str, **options: Any) -> bool:
    with redis.Redis(port=port, **options) as asked:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(redis.RedisError):
                if asked.execute_command(*command):
                    return True
            time.sleep(0.02)
    return False


@pytest.mark.needs("redis-server")
async def test_sentinel_names_the_master(tmp_path: Path) -> None:
    port, sentinel = str(free_port()), str(free_port())
    server = shutil.which("redis-server") or ""
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {sentinel}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {port} 1\n")
    master = running(server, "--port", port, "--bind", "127.0.0.1", "--save", "")
    with master, running(server, str(config), "--sentinel"):
        assert answers(int(port), "PING")
        assert answers(int(sentinel), "SENTINEL", "CKQUORUM", "main")
        registry = await Registry.open(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel}/main")
        await s.fill(registry)
        assert len((await registry.load()).sites) == 3
        await registry.close()


@pytest.mark.needs("redis-server", "openssl")
async def test_tls(tmp_path: Path) -> None:
    port = str(free_port())
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    server = shutil.which("redis-server") or ""
    with running(server, "--port", "0", "--tls-port", port, "--bind", "127.0.0.1", "--tls-cert-file", certificate,
                 "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no", "--save", ""):
        assert answers(int(port), "PING", ssl=True, ssl_ca_certs=certificate)
        with pytest.raises(errors.Unavailable):
            await Registry.open(f"rediss://127.0.0.1:{port}")  # its issuer is not known
        registry = await Registry.open(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}")
        await s.fill(registry)
        await registry.close()


async def test_sentinel_urls() -> None:
    made = client("rediss+sentinel://us%40er:p%2Fw@[::1]:5000,h2/main/3", socket_timeout=1)
    pool = made.connection_pool
    assert pool.service_name == "main"
    options = pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("us@er", "p/w", 3)
    assert [(one.connection_pool.connection_kwargs["host"], one.connection_pool.connection_kwargs["port"])
            for one in pool.sentinel_manager.sentinels] == [("::1", 5000), ("h2", 26379)]
    assert "SSL" in pool.connection_class.__name__
    await close(made)
