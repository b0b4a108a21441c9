"""What the engine's thread serves: a change is seen at once, and nothing is freed that is used."""

from __future__ import annotations

import gc
import mmap
import threading
import weakref
from collections.abc import Iterator

import pytest

from dnsd import metrics
from dnsd.engine import door
from tests.serve.engines import Rig, client_of, plain, sight, until
from tests.serve.samples import image_bytes, nsid, query


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one.start()
    one.close()


def mapped(data: bytes) -> mmap.mmap:
    """Octets in pages of their own: whoever reads them when they are gone ends the process."""
    pages = mmap.mmap(-1, len(data))
    pages[:] = data
    return pages


def test_who_is_told_of_a_change_is_answered_by_it(rig: Rig) -> None:
    for number in range(300):
        rig.loop.publish(sight(b"state %d" % number), rig.door if number % 3 else door.Door(rig.count))
        assert rig.told() == f"state {number}"


def test_what_is_replaced_goes_as_soon_as_the_thread_rests(rig: Rig) -> None:
    pages = mapped(image_bytes())
    rig.loop.publish(sight(b"first", pages), rig.door)
    assert rig.told() == "first"
    first = weakref.ref(pages)
    del pages
    rig.loop.publish(sight(b"second"), rig.door)
    assert rig.told() == "second"
    until(lambda: rig.loop.reclaim() == 1)
    gc.collect()
    assert first() is None


def test_nothing_is_freed_that_is_used(rig: Rig) -> None:
    """Under load, images come and go in pages of their own; each answer is from one that was served."""
    over, seen, wrong = threading.Event(), [0], list[str]()
    data = image_bytes()
    refs: list[weakref.ref[mmap.mmap]] = []

    def ask() -> None:
        with client_of(rig.servers[0]) as client:
            last = -1
            while not over.is_set():
                for _ in range(16):
                    client.send(query("www.demo.example", nsid=True))
                for _ in range(16):
                    told = nsid(client.recv(4096)).split()
                    if told[0] != "state" or int(told[1]) < last:
                        wrong.append(f"{told} after {last}")
                    last = int(told[1])
                seen[0] += 16

    rig.loop.publish(sight(b"state 0"), rig.door)
    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for number in range(1, 1500):
        pages = mapped(data)
        refs.append(weakref.ref(pages))
        rig.loop.publish(sight(b"state %d" % number, pages), door.Door(rig.count) if number % 5 else rig.door)
        del pages
        if number % 50 == 0:
            asked = seen[0]
            until(lambda: seen[0] > asked)  # noqa: B023 - called in this turn
            assert rig.loop.reclaim() <= 2
            assert sum(each() is not None for each in refs) <= 2
    over.set()
    for asker in askers:
        asker.join()
    assert not wrong
    assert rig.told() == "state 1499"
    until(lambda: rig.loop.reclaim() == 1)
    assert [each() is not None for each in refs].index(True) == len(refs) - 1


def test_counts_go_where_the_door_says() -> None:
    with Rig() as one, Rig() as other:
        one.start().ask([plain(1)])
        one.loop.publish(sight(), door.Door(other.count))
        one.clients[0].send(plain(2))
        until(lambda: other.count[metrics.QUERIES_UDP] == 1)
        assert one.count[metrics.QUERIES_UDP] == 1
