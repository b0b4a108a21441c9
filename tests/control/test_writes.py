"""A write that has begun is done before anything is written after it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dnsd.control import writes


@pytest.mark.asyncio
async def test_who_is_cancelled_goes_on_when_it_is_written() -> None:
    """On leaving, the last state was replaced by an older one that a thread still had in hand."""
    begun, may, written = threading.Event(), threading.Event(), []

    def write() -> None:
        begun.set()
        may.wait(10)
        written.append("before")

    task = asyncio.create_task(writes.done(write))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    written.append("last")
    assert written == ["before", "last"]


@pytest.mark.asyncio
async def test_what_goes_wrong_is_told() -> None:
    def write() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await writes.done(write)
