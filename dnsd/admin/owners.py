"""Whose lease is whose, as far as this process has seen: what lets a renewal cost the registry one call.

Lives here: `Owners`. Does not live here: deciding who may touch a lease (`admin.leases`).

A lease's token changes only together with its fence, so a memory that has grown old lets at most a renewal through that
the fence then refuses.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

OWNERS_MAX: Final = 200_000
BELIEVED_SECONDS: Final = 300.0


class Owners:
    """Lease id -> token id, as last seen; bounded, the longest unused are forgotten."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._tokens: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def learn(self, lease: str, token: str) -> None:
        """Remember whose lease it is."""
        self._tokens[lease] = token, self._monotonic()
        self._tokens.move_to_end(lease)
        if len(self._tokens) > OWNERS_MAX:
            self._tokens.popitem(last=False)

    def is_of(self, lease: str, token: str) -> bool:
        """Whether the lease is known to be the token's."""
        known, at = self._tokens.get(lease, ("", 0.0))
        return known == token and self._monotonic() - at < BELIEVED_SECONDS

    def forget(self, lease: str) -> None:
        """The lease is gone."""
        self._tokens.pop(lease, None)
