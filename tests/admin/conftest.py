"""The API over the fakes, and a client that speaks as any of their tokens."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer

from dnsd.admin import app
from tests.admin.fake import SECRETS, FakeControl, FakeRegistry, filled


class Reply(NamedTuple):
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def faults(self) -> dict[str, str]:
        return {fault["pointer"]: fault["message"] for fault in self.body.get("faults", ())}


class Api:
    """`await api.call("GET", "/v1/sites", "reader")`; a token's id stands for the token, "" for none."""

    def __init__(self, client: TestClient[Any, Any], control: FakeControl) -> None:
        self.client = client
        self.control = control
        self.registry: FakeRegistry = control.registry

    async def call(
        self, method: str, path: str, as_: str = "root", body: Any = None, **headers: str,
    ) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if as_:
            sent.setdefault("Authorization", f"Bearer {bearer(as_)}")
        if not isinstance(body, bytes) and body is not None:
            body = json.dumps(body).encode()
        data = None if body is None else io.BytesIO(body)
        async with self.client.request(method, path, data=data, headers=sent) as response:
            raw = await response.read()
            is_json = response.content_type.endswith("json")
            return Reply(response.status, json.loads(raw) if raw and is_json else raw.decode(), response.headers)


def bearer(token_id: str) -> str:
    """The token's text."""
    return f"dnsd_{token_id}_{SECRETS[token_id]}"


@pytest_asyncio.fixture
async def api() -> AsyncIterator[Api]:
    """A fresh API over a filled fake registry."""
    control = FakeControl(filled())
    async with TestClient(TestServer(app.make(control))) as client:
        yield Api(client, control)
