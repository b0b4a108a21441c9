"""What a repeated POST gets: the answer of the first, for 24 hours, in bounded memory.

Lives here: `Memory`, keyed by token and Idempotency-Key. Does not live here: which routes use it.

Only answers of success are kept: a refused request changed nothing and may be tried again. A repeat that asks for
something else is a mistake (422); a repeat while the first is still running is told to wait (409). Lost at a restart of
the control process, where the same holder simply acquires again.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from aiohttp import web

from dnsd.admin.problem import Problem, invalid
from dnsd.model import Fault

KEPT_SECONDS: Final = 24 * 3600.0
KEPT_MAX: Final = 10_000
KEPT_MAX_TOKEN: Final = 1_000
KEPT_BYTES: Final = 16 << 20
KEY_MAX: Final = 200


@dataclass(slots=True)
class _Kept:
    request: bytes
    at: float
    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] | None = None


class Memory:
    """Answers by (token id, key); the oldest go first, of the same token when it alone is over its share."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._per_token: Counter[str] = Counter()
        self._bytes = 0

    async def once(
        self, token_id: str, key: str | None, said: bytes, act: Callable[[], Awaitable[web.Response]],
    ) -> web.Response:
        """The answer of `act`, or the kept one of an earlier call with the same key that `said` the same."""
        if key is None:
            return await act()
        if not 1 <= len(key) <= KEY_MAX or not key.isascii() or not key.isprintable():
            raise invalid([Fault("Idempotency-Key", f"1 to {KEY_MAX} printable characters")])
        place = (token_id, key)
        request = hashlib.sha256(said).digest()
        kept = self._kept.get(place)
        if kept is not None and self._monotonic() - kept.at < KEPT_SECONDS:
            return _again(kept, request)
        kept = self._keep(place, request)
        try:
            response = await act()
        except BaseException:
            self._drop(place, kept)
            raise
        if self._kept.get(place) is kept and isinstance(response.body, bytes):
            kept.status, kept.body, kept.headers = response.status, response.body, _shown(response)
            self._bytes += len(kept.body)
            while self._bytes > KEPT_BYTES:
                self._drop_oldest()
        return response

    def _keep(self, place: tuple[str, str], request: bytes) -> _Kept:
        self._drop(place, self._kept.get(place))
        kept = self._kept[place] = _Kept(request, self._monotonic())
        self._per_token[place[0]] += 1
        if self._per_token[place[0]] > KEPT_MAX_TOKEN:
            oldest = next(other for other in self._kept if other[0] == place[0])
            self._drop(oldest, self._kept[oldest])
        elif len(self._kept) > KEPT_MAX:
            self._drop_oldest()
        return kept

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._kept))
        self._drop(oldest, self._kept[oldest])

    def _drop(self, place: tuple[str, str], kept: _Kept | None) -> None:
        if kept is None or self._kept.get(place) is not kept:
            return
        del self._kept[place]
        self._bytes -= len(kept.body)
        self._per_token[place[0]] -= 1
        if not self._per_token[place[0]]:
            del self._per_token[place[0]]


def _again(kept: _Kept, request: bytes) -> web.Response:
    if kept.request != request:
        raise invalid([Fault("Idempotency-Key", "was used with another request")])
    if not kept.status:
        raise Problem(
            HTTPStatus.CONFLICT, "still-running", "the first request with this Idempotency-Key is not answered yet",
            headers={"Retry-After": "1"})
    headers = {**(kept.headers or {}), "Idempotency-Replayed": "true"}
    return web.Response(body=kept.body, status=kept.status, content_type="application/json", headers=headers)


def _shown(response: web.Response) -> dict[str, str]:
    return {name: response.headers[name] for name in ("Location", "ETag") if name in response.headers}
