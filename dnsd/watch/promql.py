"""Asking a Prometheus: one instant query to one number for each endpoint, or for all.

Lives here: the HTTP exchange and its bounds, reading the answer. Does not live here: what the numbers mean
(`steer.rule`), when to ask (`control.rules`).

The address is this node's setting and never a tenant's; only the query is. An answer that is not as declared is none.
"""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp

LARGEST: Final = 1 << 20
LABEL: Final = "endpoint"
WHOLE: Final = ""
"""In an answer: the one number that is said of all."""


class NoAnswer(Exception):
    """There is none, and why."""


class Prometheus:
    """One server. `token_file` holds a bearer token, read for each question; `timeout_s` is for all of an exchange."""

    def __init__(self, url: str, *, token_file: Path | None = None, timeout_s: float = 2.0) -> None:
        self._url = url.rstrip("/") + "/api/v1/query"
        self._token_file, self._timeout_s = token_file, timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, query: str) -> dict[str, float]:
        """Endpoint id -> its number now, or `WHOLE` -> the one of all. NoAnswer."""
        form = {"query": query, "timeout": f"{self._timeout_s:.3f}s"}
        try:
            async with self._open().post(
                    self._url, data=form, headers=self._headers(), allow_redirects=False) as response:
                body = await _read(response)
                status = response.status
        except TimeoutError:
            raise NoAnswer("timeout") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}"[:200]) from error
        return numbers(body, status)

    async def close(self) -> None:
        """Let connections go."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s), cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False, headers={"Accept-Encoding": "identity"})
        return self._session

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        return {"Authorization": f"Bearer {self._token_file.read_text(encoding='ascii').strip()}"}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > LARGEST:
            raise NoAnswer(f"more than {LARGEST} octets")
    return bytes(body)


def numbers(body: bytes, status: int) -> dict[str, float]:
    """What an answer of the query API says (https://prometheus.io/docs/prometheus/latest/querying/api/). NoAnswer."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise NoAnswer(f"HTTP {status}, no JSON") from None
    if not isinstance(found, dict) or found.get("status") != "success" or status != HTTPStatus.OK:
        said = found.get("error") if isinstance(found, dict) else None
        raise NoAnswer(f"HTTP {status}{f': {said}' if isinstance(said, str) else ''}"[:200])
    try:
        return _numbers(found["data"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
        raise NoAnswer("not the answer to an instant query") from None


def _numbers(data: Any) -> dict[str, float]:
    kind, result = data["resultType"], data["result"]
    if kind == "scalar":
        samples = [("", float(result[1]))]
    elif kind == "vector":
        samples = [(str(one["metric"].get(LABEL, "")), float(one["value"][1])) for one in result]
    else:
        raise NoAnswer(f"a {str(kind)[:20]}, not a vector or scalar")
    found = dict(samples)
    if len(found) < len(samples):
        raise NoAnswer(f"several samples for one {LABEL}")
    if WHOLE in found and len(found) > 1:
        raise NoAnswer(f"some samples have no label {LABEL}")
    return {name: value for name, value in found.items() if math.isfinite(value)}
