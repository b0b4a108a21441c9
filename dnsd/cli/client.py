"""One HTTP exchange with a running daemon's admin API, and what its refusals mean to a shell.

Lives here: `Admin` (address and token, found or given), `Reply`, the mapping of HTTP statuses to exit codes.
Does not live here: which paths exist (the commands know), printing.

A command makes one or two calls and ends, so each call has its own session and the caller stays synchronous.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dnsd import model
from dnsd.cli.failure import Exit, Failure

# 409 conflict, 412 changed meanwhile, 428 no If-Match given: try again after looking
_PRECONDITIONS = (409, 412, 428)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the daemon said: HTTP status, decoded JSON (or text), its ETag and when to ask again, if it has them."""

    status: int
    body: Any
    etag: str | None
    retry_after_s: float | None = None

    def faults(self) -> list[model.Fault]:
        """What a problem+json says is wrong, each with its place; none in any other answer."""
        told = self.body.get("faults") if isinstance(self.body, dict) else None
        return [model.Fault(str(fault.get("pointer", "")), str(fault.get("message", "")))
                for fault in (told if isinstance(told, list) else ()) if isinstance(fault, dict)]


@dataclass(frozen=True, slots=True)
class Admin:
    """A daemon's admin API: base address without a final slash, bearer token or None, seconds for one exchange.

    `socket`: the daemon's own, by which its user needs no token; the address then only names it.
    """

    url: str
    token: str | None = None
    patience: float = 30.0
    socket: Path | None = None

    def call(self, method: str, path: str, *, body: Any = None, query: dict[str, Any] | None = None,
             etag: str | None = None, create_only: bool = False) -> Reply:
        """One exchange; raises `Failure` unless the answer is 2xx.

        `etag` is sent as If-Match; `create_only` as If-None-Match: *. Query values that are None are left out.
        """
        reply = self.ask(method, path, body=body, query=query, etag=etag, create_only=create_only)
        if not 200 <= reply.status < 300:
            raise refusal(reply, f"{method} {path}")
        return reply

    def ask(self, method: str, path: str, *, body: Any = None, query: dict[str, Any] | None = None,
            etag: str | None = None, create_only: bool = False) -> Reply:
        """The same for callers to whom a refusal is an answer: raises only when no daemon answers."""
        import asyncio

        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if etag:
            headers["If-Match"] = etag
        if create_only:
            headers["If-None-Match"] = "*"
        params = {key: str(value) for key, value in (query or {}).items() if value is not None}
        return asyncio.run(self._exchange(method, path, body, headers, params))

    def wait_version(self, version: int, seconds: float) -> bool:
        """Whether every worker serves `version` within `seconds`."""
        query = {"wait_version": version, "timeout": min(seconds, 60.0)}
        patient = replace(self, patience=seconds + 5)
        return bool(patient.call("GET", "/v1/status", query=query).body["reached"])

    def wait_ready(self, seconds: float) -> None:
        """Until the node says that it is ready; a `Failure` with what it said last when that takes longer."""
        brief, deadline = replace(self, patience=2.0), time.monotonic() + seconds
        while True:
            try:
                reply = brief.ask("GET", "/readyz")
                if reply.status == 200:
                    return
                failure = Failure(Exit.FAILED, f"not ready: {json.dumps(reply.body)}")
            except Failure as unreachable:
                failure = unreachable
            if time.monotonic() >= deadline:
                raise failure
            time.sleep(0.05)

    async def _exchange(
        self, method: str, path: str, body: Any, headers: dict[str, str], query: dict[str, str],
    ) -> Reply:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=self.patience, connect=5)
        handle = None
        try:
            connector = None
            if self.socket is not None:  # by its folder's descriptor: a path may be longer than an address holds
                handle = os.open(self.socket.parent, os.O_PATH | os.O_CLOEXEC)
                connector = aiohttp.UnixConnector(f"/proc/self/fd/{handle}/{self.socket.name}")
            async with (
                aiohttp.ClientSession(timeout=limit, connector=connector) as session,
                session.request(method, self.url + path, json=body, headers=headers, params=query) as response,
            ):
                text = await response.text(errors="replace")
                return Reply(response.status, _decode(text, response.content_type), response.headers.get("ETag"),
                             _seconds(response.headers.get("Retry-After")))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise Failure(Exit.UNREACHABLE, f"no daemon answers at {self.socket or self.url}: {reason}") from error
        finally:
            if handle is not None:
                os.close(handle)


def segment(text: str) -> str:
    """A key as one part of a path: `service/id` keeps its slash, all else is quoted."""
    return quote(text, safe="/:")


def _seconds(text: str | None) -> float | None:
    """A `Retry-After`, which is seconds or a date (RFC 9110 §10.2.3); None where there is none that can be read."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _decode(text: str, content_type: str) -> Any:
    if not text:
        return None
    if not content_type.endswith("json"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(Exit.FAILED, f"the daemon's answer is no JSON: {error}") from error


def refusal(reply: Reply, what: str) -> Failure:
    """A refusal: problem+json as a failure: all its faults, and the exit code its status stands for."""
    problem = reply.body if isinstance(reply.body, dict) else {}
    title = problem.get("title") or f"HTTP {reply.status}"
    detail = problem.get("detail")
    if reply.status == 401:
        detail = detail or "give a token with --token or DNSD_TOKEN, or run as the user who owns the state directory"
    code = Exit.PRECONDITION if reply.status in _PRECONDITIONS else Exit.FAILED
    if reply.status == 503 and not problem:
        code = Exit.UNREACHABLE
    return Failure(code, f"{what}: {title}" + (f": {detail}" if detail and detail != title else ""), reply.faults())
