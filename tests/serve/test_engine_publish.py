"""What the engine's thread serves: a change is seen at once, and nothing is freed that is used."""

from __future__ import annotations

import gc
import mmap
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from dnsd import metrics
from dnsd.engine import door
from tests.serve.engines import Rig, client_of, plain, sight, until
from tests.serve.samples import image_bytes, nsid, query

FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], int(sys.argv[2])))
packet = bytes.fromhex(sys.argv[3])
while True:
    sock.send(packet)
"""


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one.start()
    one.close()


@pytest.fixture
def flood() -> Iterator[Callable[[socket.socket], None]]:
    """Have another process ask more than can be answered."""
    started: list[subprocess.Popen[bytes]] = []

    def start(server: socket.socket) -> None:
        words = [sys.executable, "-c", FLOOD, *map(str, server.getsockname()), plain(1).hex()]
        started.append(subprocess.Popen(words))

    yield start
    for process in started:
        process.kill()
        process.wait()


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


def test_nothing_is_freed_that_is_used(rig: Rig, flood: Callable[[socket.socket], None]) -> None:
    """While the thread is always at some batch, images come and go in pages of their own."""
    data = image_bytes()
    refs: list[weakref.ref[mmap.mmap]] = []
    kept = []
    flood(rig.servers[0])
    for number in range(3000):
        if number % 50 == 0:  # some turns with the same
            answered = rig.count[metrics.RESPONSES_UDP]
            until(lambda: rig.count[metrics.RESPONSES_UDP] > answered + 1500)  # noqa: B023 - called in this turn
        pages = mapped(data)
        refs.append(weakref.ref(pages))
        rig.loop.publish(sight(b"state %d" % number, pages), door.Door(rig.count) if number % 5 else rig.door)
        del pages
        if number % 50 == 0:
            kept.append(rig.loop.reclaim())
            assert sum(each() is not None for each in refs) <= 2
    assert max(kept) == 2
    assert kept.count(2) > len(kept) / 4, "what the thread is at stays"


def test_answers_go_forward_only(rig: Rig) -> None:
    """Each is of a state that was served when it was asked, or a later one."""
    over, wrong, published = threading.Event(), list[str](), [0]

    def ask() -> None:
        with client_of(rig.servers[0]) as client:
            while not over.is_set():
                least = published[0]
                for _ in range(8):
                    client.send(query("www.demo.example", nsid=True))
                told = [int(nsid(client.recv(4096))) for _ in range(8)]
                if told[0] < least or told != sorted(told):
                    wrong.append(f"{told} after {least}")

    rig.loop.publish(sight(b"0"), rig.door)
    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for number in range(1, 400):
        rig.loop.publish(sight(b"%d" % number), rig.door)
        published[0] = number
    over.set()
    for asker in askers:
        asker.join()
    assert not wrong
    assert rig.told() == "399"


def test_counts_go_where_the_door_says() -> None:
    with Rig() as one, Rig() as other:
        one.start().ask([plain(1)])
        one.loop.publish(sight(), door.Door(other.count))
        one.clients[0].send(plain(2))
        until(lambda: other.count[metrics.QUERIES_UDP] == 1)
        assert one.count[metrics.QUERIES_UDP] == 1
