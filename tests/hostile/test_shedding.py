"""What is dropped first when too much comes: the unreadable, the misdirected, what does not exist; the good, never."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from dnsd import metrics
from dnsd.image.reading import Image
from dnsd.serve import mmsg, udp
from dnsd.serve.contexts import SHED_MOST
from tests.golden.packets import door
from tests.golden.world import Door, query, standard_bytes
from tests.hostile.doors import loaded
from tests.hostile.packets import header, hostile, opt, typical
from tests.serve.samples import counters

HELD = door().image
LEAST_USEFUL = [
    (1, "malformed", header(extra=1) + b"\3www\xc0\x0c\0\1\0\1"),
    (1, "no question", header(questions=0)),
    (1, "two questions", header(questions=2) + b"\0\0\1\0\1" * 2),
    (1, "NOTIMP", header(0x1000) + b"\0\0\1\0\1"),
    (1, "BADVERS", query("www.example.com", edns=True)[:-6] + b"\0\1\0\0\0\0"),
    (2, "not our zone", query("www.example.net")),
    (2, "class we do not have", query("www.example.com", class_="HS")),
    (3, "NXDOMAIN", query("nothing.example.com")),
    (3, "NXDOMAIN with DO", query("no.such.name.example.com", do=True)),
]
GOOD = [
    query("www.example.com"), query("www.example.com", "MX"), query("geo.example.com", ecs="10.0.0.0/24"),
    query("x.sub.example.com"), query("al.example.com"), query("x.y.w.example.com", "TXT"), query("www.d.example.com"),
    query("www.example.com", "ANY"), query("all.example.com", do=True, nsid=True), query("example.com", "SOA"),
]


def shedding(level: int) -> Door:
    """A door that sheds what is least useful, up to `level`."""
    return loaded(HELD, shed=level)


@pytest.mark.parametrize(("level", "what", "packet"), LEAST_USEFUL, ids=[what for _, what, _ in LEAST_USEFUL])
def test_order(level: int, what: str, packet: bytes) -> None:
    assert [bool(shedding(shed).octets(packet)[0]) for shed in range(SHED_MOST + 1)] == [
        shed < level for shed in range(SHED_MOST + 1)]
    reply, moved = shedding(level).octets(packet)
    assert reply is None
    assert moved.pop(metrics.SHED) == 1
    assert not set(moved) & set(range(metrics.RCODE, metrics.RCODE + len(metrics.RCODES))), "counted as an answer"


@pytest.mark.parametrize("level", range(1, SHED_MOST + 1))
def test_good_is_answered_as_ever(level: int) -> None:
    plain, busy = loaded(HELD), shedding(level)
    for packet in GOOD:
        assert busy.octets(packet)[0] == plain.octets(packet)[0]
    for name, packet in typical():
        if not name.startswith("nothing"):
            assert busy.octets(packet)[0], name


def test_what_is_shed_has_nothing_to_say() -> None:
    """Of all that is hostile, only replies without data in them are left out."""
    plain, busy = loaded(HELD), shedding(SHED_MOST)
    dropped = 0
    for name, packet in hostile():
        reply, _ = plain.octets(packet)
        if reply and not busy.octets(packet)[0]:
            dropped += 1
            assert reply[6:8] == b"\0\0" or reply[3] & 15 == 3, name
            assert reply[3] & 15 or opt()[:3] in reply, name  # BADVERS says so in its OPT
    assert dropped > 1000


class Queue:
    """A channel that has so many datagrams waiting, all the same, and remembers what was answered."""

    def __init__(self, packet: bytes, waiting: int) -> None:
        self.packet, self.waiting, self.number = packet, waiting, 0
        self.answered = 0
        self.room = True  # whether what waits is too much for the kernel's buffer

    def receive(self) -> int:
        """See `mmsg.Channel`, here and below."""
        self.number = min(self.waiting, mmsg.BATCH)
        self.waiting -= self.number
        return self.number

    def batch(self) -> Iterator[tuple[mmsg.Slot, int, tuple[bytes]]]:
        return iter([(self.packet, len(self.packet), (b"\x7f\0\0\1",))] * self.number)

    def crowded(self) -> bool:
        return self.room and self.waiting > 0

    def send(self, replies: Sequence[bytes | None]) -> None:
        self.answered += sum(map(bool, replies))


TURN = mmsg.BATCH * udp.ROUNDS


def listener(packet: bytes, serving: udp.Serving | None = None) -> tuple[udp.Serving, Queue, udp.Listener]:
    """A listener whose queue never empties."""
    serving = serving or udp.Serving(Image(standard_bytes()), counters(), "n1 w0")
    queue = Queue(packet, 1 << 40)
    return serving, queue, udp.Listener(cast(mmsg.Channel, queue), serving)


def test_turns_that_leave_the_queue_full_shed_more_and_others_less() -> None:
    serving, queue, one = listener(query("nothing.example.com"))
    for turn in range(5):
        assert serving.udp.shed == min(turn, SHED_MOST)
        one.readable()
    assert queue.answered == 3 * TURN, "an NXDOMAIN is what goes last"
    assert serving.count[metrics.SHED] == 2 * TURN
    for left in range(SHED_MOST - 1, -1, -1):
        queue.waiting = 10
        one.readable()
        assert serving.udp.shed == left
    queue.waiting = 10
    one.readable()
    assert queue.answered == 3 * TURN + 10 + 10 + 10, "answered as soon as no more than two kinds are shed"


def test_known_good_is_never_shed() -> None:
    serving, queue, one = listener(query("www.example.com"))
    for _ in range(6):
        one.readable()
    assert queue.answered == 6 * TURN
    assert serving.count[metrics.SHED] == 0
    assert serving.tcp.shed == serving.tls.shed == 0, "who has connected has shown that he is there"


def test_each_socket_sheds_by_itself() -> None:
    """A quiet address neither ends what a flooded one has to do nor pays for it."""
    serving, flooded, one = listener(query("nothing.example.com"))
    _, quiet, other = listener(query("nothing.example.com"), serving)
    for turn in range(1, 7):
        one.readable()
        quiet.waiting = 1
        other.readable()
        assert quiet.answered == turn
    assert flooded.answered == 3 * TURN
    assert serving.count[metrics.SHED] == 3 * TURN


def test_a_flood_long_over_costs_nobody_an_answer() -> None:
    serving, queue, one = listener(query("nothing.example.com"))
    for _ in range(5):
        one.readable()
    for _ in range(2):
        serving.contexts.tick()
    before, queue.waiting = queue.answered, 1
    one.readable()
    assert queue.answered == before + 1
    assert not serving.udp.shed


def test_a_busy_worker_whose_queue_is_short_sheds_nothing() -> None:
    """Clients that wait for answers before they ask again keep a worker busy, and lose nothing by it."""
    packet = query("nothing.example.com")
    serving, queue, it = listener(packet)
    queue.room = False
    for _ in range(8):
        queue.waiting = 10 * TURN
        it.readable()
    assert (serving.udp.shed, queue.answered) == (0, 8 * TURN)
