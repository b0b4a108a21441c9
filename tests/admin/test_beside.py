"""The API by the socket in the state directory: who needs no token there, and what holds on this node alone."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from dnsd import sockets
from dnsd.admin import app, listening
from dnsd.control.local import Entry
from dnsd.registry.models import Override
from tests.admin.conftest import bearer
from tests.admin.fake import FakeControl, filled

pytestmark = pytest.mark.asyncio
PATH = "/v1/overrides/service:api.a.example"
BODY = {"state": "down", "seconds": 60, "reason": "x"}


class Alone:
    """This node's own overrides."""

    def __init__(self) -> None:
        self.apart = True
        self.unsaved = False
        self.forced: dict[str, str] = {}
        self.entries: dict[str, Entry] = {}

    async def force(self, override: Override, by: str) -> Entry:
        self.forced[override.key] = by
        self.entries[override.key] = Entry(override, 1, by)
        return self.entries[override.key]

    async def clear(self, key: str, by: str) -> bool:
        self.entries.pop(key, None)
        return self.forced.pop(key, None) is not None


class Beside:
    """A client by the socket."""

    def __init__(self, session: aiohttp.ClientSession, control: FakeControl) -> None:
        self.session, self.control = session, control

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, "http://localhost" + path, json=body, headers=sent) as response:
            return response.status, await response.json()


@pytest_asyncio.fixture
async def beside(tmp_path: Path) -> AsyncIterator[Beside]:
    control = FakeControl(filled())
    runner = await listening.start(app.make(control), [sockets.listen_beside(tmp_path, "control.sock")])
    folder = os.open(tmp_path, os.O_PATH)
    connector = aiohttp.UnixConnector(f"/proc/self/fd/{folder}/control.sock")
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Beside(session, control)
    os.close(folder)
    await runner.cleanup()


async def test_the_owner_needs_no_token_and_no_registry(beside: Beside) -> None:
    status, _ = await beside.call("PUT", "/v1/services/new.a.example", {})
    assert status == 201
    assert beside.control.registry.trail[-1].actor == f"socket:uid-{os.geteuid()}"
    beside.control.registry.away = True
    status, told = await beside.call("GET", "/v1/registry")
    assert (status, told["etag"]) == (200, "7-1")
    status, told = await beside.call("POST", "/v1/registry/restore", If_Match='"7-1"')
    assert (status, told["version"]) == (200, 10)
    assert beside.control.custody.calls == [("restore", "7-1", f"socket:uid-{os.geteuid()}")]
    assert (await beside.call("POST", "/v1/registry/accept"))[0] == 428
    assert (await beside.call("POST", "/v1/registry/accept", If_Match='"6-1"'))[0] == 412


async def test_a_token_that_is_sent_counts(beside: Beside) -> None:
    assert (await beside.call("GET", "/v1/tokens", Authorization=f"Bearer {bearer('reader')}"))[0] == 403
    assert (await beside.call("GET", "/v1/sites", Authorization="Bearer nonsense"))[0] == 401


async def test_others_of_the_machine_need_one(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "peer_uid", lambda transport: os.geteuid() + 4711)
    assert (await beside.call("GET", "/v1/sites"))[0] == 401
    monkeypatch.setattr(listening, "peer_uid", lambda transport: 0)
    assert (await beside.call("GET", "/v1/sites"))[0] == 200


async def test_overrides_hold_here_alone_only_while_the_registry_is_away(beside: Beside) -> None:
    beside.control.local = alone = Alone()
    status, told = await beside.call("PUT", PATH, BODY)
    assert (status, told["local"], told["version"]) == (201, True, 0)
    assert alone.forced == {"service:api.a.example": f"uid-{os.geteuid()}"}
    beside.control.registry.away = True
    assert (await beside.call("DELETE", PATH))[0] == 200
    assert (await beside.call("DELETE", PATH))[0] == 503  # the registry's cannot be ended here
    beside.control.registry.away = False
    ops = f"Bearer {bearer('ops')}"
    assert (await beside.call("PUT", PATH, BODY, Authorization=ops))[1].get("local") is None
    alone.apart = False
    status, told = await beside.call("PUT", PATH, BODY, If_Match="*")
    assert (status, told.get("local"), alone.forced) == (200, None, {})


@pytest.mark.parametrize("registered", [False, True])
async def test_what_is_ended_before_it_is_merged_does_not_come_back(beside: Beside, registered: bool) -> None:
    """The registry is there again, the local override is not there yet: ended is ended, by whoever may end it."""
    beside.control.local = alone = Alone()
    ops, narrow = (f"Bearer {bearer(name)}" for name in ("ops", "ops-net"))
    if registered:
        assert (await beside.call("PUT", PATH, BODY, Authorization=ops))[0] == 201
    await beside.call("PUT", PATH, BODY)
    alone.apart = False
    assert (await beside.call("DELETE", PATH, If_Match="*", Authorization=narrow))[0] in (401, 403)
    assert alone.forced
    status, told = await beside.call("DELETE", PATH, If_Match="*", Authorization=ops)
    assert (status, told.get("local", False), alone.forced) == (200, not registered, {})
    assert (await beside.call("DELETE", PATH, If_Match="*", Authorization=ops))[0] == 404


async def test_what_could_not_be_written_down_is_not_said_to_be(beside: Beside) -> None:
    beside.control.local = alone = Alone()
    assert (await beside.call("PUT", PATH, BODY))[1]["durability"] == "fsync"
    alone.unsaved = True
    assert (await beside.call("PUT", PATH, BODY))[1]["durability"] == "unknown"


async def test_who_is_at_the_other_end() -> None:
    class Transport:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def get_extra_info(self, name: str) -> socket.socket | None:
            return self.sock if name == "socket" else None

    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as other:
        assert listening.peer_uid(Transport(ours)) == os.geteuid()  # type: ignore[arg-type]
        assert listening.peer_uid(Transport(other)) is None  # type: ignore[arg-type]
    assert listening.peer_uid(None) is None


async def test_a_long_path_and_a_leftover_are_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    for _ in range(2):
        with sockets.listen_beside(folder, "control.sock"):
            assert (folder / "control.sock").stat().st_mode & 0o777 == 0o600
