"""Feeds: never waiting, who is behind, acknowledgements and those who wait for them."""

from __future__ import annotations

import asyncio
import socket

import pytest
import pytest_asyncio

from dnsd.control.feeds import Feeds
from dnsd.image import frames, layout
from dnsd.model import Stamp

REMAP = frames.encode(layout.F_REMAP, Stamp(1, 9, 0), Stamp(1, 9, 0))


class Ends:
    """Feeds and the workers' ends of their sockets."""

    def __init__(self, count: int = 2) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        self.feeds = Feeds([ours for ours, _ in pairs], lambda: REMAP)
        self.ends = [theirs for _, theirs in pairs]
        for end in self.ends:
            end.setblocking(False)
        self._all = [sock for pair in pairs for sock in pair]
        self.feeds.start()

    def ack(self, slot: int, *stamp: int) -> None:
        at = Stamp(*stamp)
        self.ends[slot].send(frames.encode(layout.F_ACK, at, at))

    def drain(self, slot: int) -> list[bytes]:
        found = []
        try:
            while True:
                found.append(self.ends[slot].recv(layout.FRAME_MAX))
        except BlockingIOError:
            return found

    def close(self) -> None:
        self.feeds.close()
        for sock in self._all:
            sock.close()


@pytest_asyncio.fixture
async def ends():  # type: ignore[no-untyped-def]
    made = Ends()
    yield made
    made.close()


pytestmark = pytest.mark.asyncio


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_frame_goes_to_every_worker(ends: Ends) -> None:
    ends.feeds.send(b"frame")
    assert [ends.drain(0), ends.drain(1)] == [[b"frame"], [b"frame"]]


async def test_a_worker_that_does_not_read_is_told_to_read_the_files(ends: Ends) -> None:
    frame = bytes(layout.FRAME_MAX)
    while not ends.feeds.feeds[0].behind:
        ends.feeds.send(frame)
        ends.drain(1)
    ends.feeds.send(b"later")
    ends.feeds.remap()
    assert ends.drain(1) == [b"later", REMAP]
    await turns()
    assert ends.feeds.feeds[0].behind  # still full
    assert set(ends.drain(0)) == {frame}
    await turns()
    assert not ends.feeds.feeds[0].behind
    assert ends.drain(0) == [REMAP]
    assert [f.remaps for f in ends.feeds.feeds] == [1, 1]


async def test_acknowledgements(ends: Ends) -> None:
    assert not ends.feeds.reached(1, 0)
    ends.ack(0, 1, 5, 0)
    ends.ack(0, 1, 6, 2)
    ends.ends[1].send(b"noise")
    ends.ends[1].send(REMAP)
    await turns()
    assert [f.stamp for f in ends.feeds.feeds] == [Stamp(1, 6, 2), None]
    ends.ack(1, 1, 5, 0)
    await turns()
    assert ends.feeds.reached(1, 5)
    assert not ends.feeds.reached(1, 6)
    assert not ends.feeds.reached(2, 1)
    assert [(s["slot"], s["version"], s["behind"]) for s in ends.feeds.status()] == [(0, 6, False), (1, 5, False)]


async def test_serving_is_of_one_epoch(ends: Ends) -> None:
    assert not ends.feeds.serve(Stamp(2, 0, 0))
    for slot, stamp in enumerate(((2, 5, 3), (2, 6, 0))):
        ends.ack(slot, *stamp)
    await turns()
    assert all(ends.feeds.serve(Stamp(2, *at)) for at in ((5, 2), (5, 3), (4, 9)))
    assert not any(ends.feeds.serve(Stamp(*at)) for at in ((2, 5, 4), (2, 6, 0), (1, 5, 0), (3, 0, 0)))


async def test_a_worker_without_an_image_says_so(ends: Ends) -> None:
    ends.ack(0, 1, 5, 0)
    ends.ack(1, 1, 5, 0)
    await turns()
    assert (ends.feeds.reached(1, 5), ends.feeds.bare.is_set()) == (True, False)
    ends.ack(1, 0, 0, 0)
    await turns()
    assert [f.stamp for f in ends.feeds.feeds] == [Stamp(1, 5, 0), None]
    assert (ends.feeds.reached(1, 5), ends.feeds.bare.is_set()) == (False, True)


async def test_waiting(ends: Ends) -> None:
    waiting = asyncio.create_task(ends.feeds.wait(lambda: ends.feeds.reached(1, 5), 5))
    ends.ack(0, 1, 5, 0)
    await turns()
    assert not waiting.done()
    ends.ack(1, 1, 7, 0)
    assert await waiting
    assert await ends.feeds.wait(lambda: ends.feeds.reached(1, 5), 0)
    assert not await ends.feeds.wait(lambda: ends.feeds.reached(1, 9), 0.01)


async def test_waking_those_who_wait_for_something_else(ends: Ends) -> None:
    state: list[int] = []
    waiting = asyncio.create_task(ends.feeds.wait(lambda: bool(state), 5))
    await turns()
    state.append(1)
    ends.feeds.wake()
    assert await waiting


async def test_a_feed_whose_other_end_is_gone(ends: Ends) -> None:
    ends.ends[0].close()
    await turns()
    ends.feeds.send(b"frame")
    ends.feeds.remap()
    assert ends.drain(1) == [b"frame", REMAP]
    assert [s["behind"] for s in ends.feeds.status()] == [True, False]


async def test_round_trips_are_given_on_and_acknowledge_nothing(ends: Ends) -> None:
    found: list[object] = []
    ends.feeds.trips = found.append
    ends.ends[0].send(frames.encode(layout.F_TRIPS, Stamp(0, 0, 0), Stamp(0, 0, 0), [(3, b"\1" * 11)]))
    await turns()
    assert found == [[(3, b"\1" * 11)]]
    assert ends.feeds.feeds[0].stamp is None
    assert not ends.feeds.bare.is_set()
