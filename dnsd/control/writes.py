"""Files written beside the event loop, where a last write may follow.

Lives here: that a write which has begun is waited for. Does not live here: how a file is written (`disk`), when and
what (`watching`, `reports`, `app`).

A task that is cancelled leaves a thread it waits for behind; what is then written last, on leaving, would be replaced
by what that thread has still in hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def done(write: Callable[[], None]) -> None:
    """Calls it in a thread. Whoever waits for this and is cancelled goes on only when it has been written."""
    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
