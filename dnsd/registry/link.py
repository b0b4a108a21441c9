"""The connection to the store: one URL, bounded waiting, one exception when it cannot be asked.

Lives here: clients from a URL (TCP, TLS, unix socket, Sentinel), running scripts, what redis raises turned into
`errors.Unavailable`, what the store promises about durability. Does not live here: what is asked (`store`).

Nothing is retried after it was sent: a write that timed out may have happened. Only `NOSCRIPT` is, as then nothing ran.
A connection found closed when it is taken from the pool is opened again, so a restarted store needs no help from here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError

from dnsd.registry.errors import Unavailable
from dnsd.registry.scripts import KEYS, READ, Script
from dnsd.registry.values import Durability

CONNECT_SECONDS: Final = 1.0
OPERATION_SECONDS: Final = 2.0
LOAD_SECONDS: Final = 20.0
DURABILITY_SECONDS: Final = 60.0
CONNECTIONS: Final = 16
SENTINEL_PORT: Final = 26379
FSYNC: Final[dict[bytes | None, Durability]] = {b"always": "fsync", b"everysec": "aof"}

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]


class Link:
    """Two pools to one store: short commands, and those that wait or read much."""

    def __init__(self, url: str, prefix: str) -> None:
        self.keys = {name: f"{prefix}:{name}".encode() for name in KEYS}
        self._key_list = [self.keys[name] for name in KEYS]
        self._durability: tuple[float, Durability] | None = None
        self._short = self._client(url, OPERATION_SECONDS)
        self._long = self._client(url, None)

    def _client(self, url: str, timeout: float | None) -> Any:  # redis-py types its calls only in part
        made = client(
            url, socket_timeout=timeout, socket_connect_timeout=CONNECT_SECONDS, protocol=2, driver_info=None,
            redis_connect_func=self._connected)
        made.response_callbacks.clear()  # replies as the store sends them: scripts and commands answer alike
        return made

    async def _connected(self, connection: AbstractConnection) -> None:
        self._durability = None  # perhaps another server, or the same with another configuration
        await connection.on_connect()

    async def close(self) -> None:
        """Closes every connection."""
        await close(self._short)
        await close(self._long)

    async def run(self, script: Script, *args: str | bytes | int) -> list[Any]:
        """Runs a script over all keys. Raises Unavailable."""
        tail = (len(self._key_list), *self._key_list, *args)
        try:
            try:
                return await self._ask(self._short.execute_command("EVALSHA", script.sha, *tail), OPERATION_SECONDS)
            except NoScriptError:
                return await self._ask(self._short.execute_command("EVAL", script.text, *tail), OPERATION_SECONDS)
        except OutOfMemoryError as error:
            raise Unavailable(f"the store is full: {error}") from error

    async def together(self, *commands: Command, seconds: float = OPERATION_SECONDS) -> list[Any]:
        """Runs reading commands at one moment: their replies show one state of the store. Raises Unavailable.

        A store at its memory limit queues no transaction; there a script does it, at three times the store's time.
        """
        target = self._short if seconds <= OPERATION_SECONDS else self._long
        pipeline = target.pipeline(transaction=True)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            replies: list[Any] = await self._ask(pipeline.execute(), seconds)
        except OutOfMemoryError:
            texts = [[part.decode() if isinstance(part, bytes) else str(part) for part in one] for one in commands]
            replies = await self.run(READ, json.dumps(texts))
        return replies

    async def wait(self, *command: str | bytes | int, seconds: float) -> Any:
        """Runs a command that itself waits up to `seconds`. Raises Unavailable."""
        return await self._ask(self._long.execute_command(*command), seconds + OPERATION_SECONDS)

    async def durability(self) -> Durability:
        """What an accepted write has survived: asked at most once a minute and after each new connection."""
        if self._durability is None or time.monotonic() - self._durability[0] > DURABILITY_SECONDS:
            self._durability = (time.monotonic(), await self._ask_durability())
        return self._durability[1]

    async def _ask_durability(self) -> Durability:
        try:
            reply = await self._ask(
                self._short.execute_command("CONFIG", "GET", "appendonly", "appendfsync"), OPERATION_SECONDS)
        except Unavailable:  # CONFIG is often forbidden by ACL or by a hosted store
            return "unknown"
        options = dict(pairs(reply))
        if options.get(b"appendonly") != b"yes":
            return "unknown"
        return FSYNC.get(options.get(b"appendfsync"), "unknown")

    async def _ask(self, call: Awaitable[T], seconds: float) -> T:
        """Waits for a reply. Raises Unavailable; NoScriptError and OutOfMemoryError are left to the caller."""
        try:
            async with asyncio.timeout(seconds + CONNECT_SECONDS):
                return await call
        except (NoScriptError, OutOfMemoryError):
            raise
        except ResponseError as error:
            raise Unavailable(f"the store refuses: {error}") from error
        except TimeoutError as error:
            raise Unavailable("the store does not answer") from error
        except (RedisError, OSError) as error:
            raise Unavailable(f"the store cannot be reached: {error}") from error


def client(url: str, **options: Any) -> Redis:
    """A client for `redis://`, `rediss://`, `unix://` or `redis+sentinel://[user:password@]host[:port],…/master[/db]`."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis+sentinel", "rediss+sentinel"):
        pool = BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=OPERATION_SECONDS, **options)
        return Redis.from_pool(pool)
    login, _, place = rest.rpartition("@")
    hosts, _, path = place.partition("/")
    name, _, database = path.partition("/")
    if not hosts or not name:
        raise ValueError(f"{url}: a Sentinel URL is redis+sentinel://host[:port],host[:port]/master-name")
    if login:
        user, _, password = login.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    options |= {"db": int(database or 0), "ssl": scheme.startswith("rediss")}
    to_sentinel = {
        "socket_timeout": CONNECT_SECONDS, "socket_connect_timeout": CONNECT_SECONDS, "retry": Retry(NoBackoff(), 0),
        "driver_info": None, "protocol": 2}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [_host(text) for text in hosts.split(",")], sentinel_kwargs=to_sentinel)
    master: Redis = sentinel.master_for(unquote(name), **options)
    return master


async def close(of: Any) -> None:
    """Closes a client's connections, those to Sentinels too."""
    await of.aclose()
    if isinstance(of.connection_pool, SentinelConnectionPool):
        for sentinel in of.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or SENTINEL_PORT


def pairs(flat: Sequence[T]) -> list[tuple[T, T]]:
    """A flat reply of fields and values as pairs."""
    return list(zip(flat[::2], flat[1::2], strict=True))
