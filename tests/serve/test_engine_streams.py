"""TCP connections that the engine's thread answers while they are new, and what it hands over of the others."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import dns.message
import pytest

from dnsd import metrics
from dnsd.engine import door
from tests.serve.doors import framed
from tests.serve.engines import HOSTS, malformed, odd, plain, sight, silent, until
from tests.serve.samples import addresses, counters, image_bytes, query

PLACES = 8


class Rig:
    """A loop over a listening socket of each family; `tick` is the worker's."""

    def __init__(self, queries: int = 1_000_000, places: int = PLACES, trips: bool = False) -> None:
        self.listening = [self._listening(family) for family in (socket.AF_INET, socket.AF_INET6)]
        self.count = counters()
        self.loop = door.Loop(
            [], streams=[(sock.fileno(), sock.family == socket.AF_INET6) for sock in self.listening], queries=queries,
            places=places, trips=trips)
        self.publish(sight())
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()
        self.clients: list[socket.socket] = []
        self.handed: list[tuple[socket.socket, bytes, bytes, int]] = []

    def publish(self, seen: door.Sight | None) -> None:
        self.loop.publish(seen, door.Door(self.count), door.Door(self.count, tcp=True, limit=65535))

    @staticmethod
    def _listening(family: int) -> socket.socket:
        sock = socket.socket(family)
        sock.bind((HOSTS[socket.AddressFamily(family)], 0))
        sock.listen(100)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return sock

    def connect(self, lane: int = 0, *, receive: int = 0) -> socket.socket:
        client = socket.socket(self.listening[lane].family)
        if receive:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        client.settimeout(5)
        client.connect(self.listening[lane].getsockname())
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients.append(client)
        return client

    def take(self) -> list[tuple[socket.socket, bytes, bytes, int]]:
        """What has been handed over so far."""
        self.loop.hear()
        self.handed += [(socket.socket(fileno=one[0]), *one[1:]) for one in self.loop.handed()]
        return self.handed

    def grow_old(self) -> None:
        for _ in range(2):
            self.loop.tick()
            time.sleep(0.005)

    def closed(self) -> dict[str, int]:
        return {reason: self.count[slot] for reason, slot in metrics.TCP_CLOSED.items() if self.count[slot]}

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.take()
        assert self.count[metrics.TCP_OPEN] == 0
        assert self.count[metrics.TCP_ACCEPTED] == len(self.handed) + sum(self.closed().values())
        for sock in (*self.listening, *self.clients, *(one[0] for one in self.handed)):
            sock.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.close()


def message(client: socket.socket) -> bytes:
    """The next one."""
    (size,) = struct.unpack(">H", octets(client, 2))
    return octets(client, size)


def octets(client: socket.socket, number: int) -> bytes:
    found = b""
    while len(found) < number:
        more = client.recv(number - len(found))
        if not more:
            raise EOFError
        found += more
    return found


@pytest.mark.parametrize("lane", [0, 1])
def test_a_connection_that_asks_once_never_leaves_the_thread(rig: Rig, lane: int) -> None:
    for number in range(50):
        with rig.connect(lane) as client:
            client.sendall(framed(plain(number)))
            found = message(client)
        assert int.from_bytes(found[:2], "big") == number
        assert addresses(found) == ["192.0.2.80"]
    until(lambda: rig.closed() == {"client": 50})
    assert rig.count[metrics.QUERIES_TCP] == rig.count[metrics.RESPONSES_TCP] == rig.count[metrics.TCP_ACCEPTED] == 50
    assert rig.count[metrics.BYTES_IN_TCP] == 50 * len(plain(0))
    assert rig.count[metrics.BYTES_OUT_TCP] == 50 * len(found)
    assert rig.take() == []


def test_whatever_way_its_octets_are_cut(rig: Rig) -> None:
    client = rig.connect()
    for octet in framed(plain(1), silent(2), malformed(3)):
        client.sendall(bytes([octet]))
        time.sleep(0.0005)
    assert [message(client)[:2], message(client)[:2]] == [b"\0\1", b"\0\3"]
    client.sendall(framed(*map(plain, range(2000))))
    for number in range(2000):
        assert int.from_bytes(message(client)[:2], "big") == number
        if number == 1500 and not rig.handed:
            rig.take()
    client.shutdown(socket.SHUT_WR)
    assert rig.handed or client.recv(1) == b"", "its answers, and the end"


def test_large_answers_are_whole(rig: Rig) -> None:
    client = rig.connect()
    client.sendall(framed(query("big.demo.example", "TXT")))
    found = message(client)
    assert len(found) > 1500
    assert dns.message.from_wire(found).answer


def test_one_that_lasts_is_handed_over_with_what_is_not_whole(rig: Rig) -> None:
    client, other = rig.connect(), rig.connect()
    client.sendall(framed(plain(1)) + framed(plain(2))[:7])
    message(client)
    other.sendall(framed(plain(5)))
    message(other)
    assert rig.take() == []
    rig.grow_old()
    until(lambda: len(rig.take()) == 2)
    assert [one[1:] for one in rig.handed] == [(framed(plain(2))[:7], b"", 1), (b"", b"", 1)]
    assert rig.handed[0][0].getpeername() == client.getsockname()
    assert rig.handed[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    rig.handed[0][0].sendall(b"later")
    assert octets(client, 5) == b"later"
    client.close()
    until(lambda: rig.count[metrics.TCP_OPEN] == 0)
    assert rig.closed() == {}, "it is Python's"


def test_what_is_pythons_to_answer_goes_there_in_its_place(rig: Rig) -> None:
    client = rig.connect()
    client.sendall(framed(plain(1), plain(2), odd(3), plain(4)))
    assert [message(client)[:2], message(client)[:2]] == [b"\0\1", b"\0\2"]
    until(rig.take)
    assert rig.handed[0][1:] == (framed(odd(3), plain(4)), b"", 2)
    assert sum(rig.count[metrics.PASSED + i] for i in range(len(metrics.PASS_REASONS))) == 0, "who answers it counts it"


def test_without_an_image_it_can_use_all_is_pythons(rig: Rig) -> None:
    rig.publish(None)
    client = rig.connect()
    client.sendall(framed(plain(1)))
    until(rig.take)
    assert rig.handed[0][1:] == (framed(plain(1)), b"", 0)


@pytest.mark.parametrize("bad", [b"\0\0", b"\0\x0b" + bytes(11)])
def test_what_is_no_message_ends_it_behind_the_answers(rig: Rig, bad: bytes) -> None:
    client = rig.connect()
    client.sendall(framed(plain(1)) + bad)
    assert message(client)[:2] == b"\0\1"
    assert client.recv(1) == b""
    until(lambda: rig.closed() == {"malformed": 1})


def test_a_reset_is_an_error(rig: Rig) -> None:
    client = rig.connect()
    client.sendall(framed(plain(1)))
    message(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    until(lambda: rig.closed() == {"error": 1})


def test_no_more_queries_than_one_may_ask() -> None:
    rig = Rig(queries=10)
    client = rig.connect()
    for number in range(10):
        client.sendall(framed(plain(number)))
        message(client)
    assert client.recv(1) == b""
    until(lambda: rig.closed() == {"queries": 1})
    rig.close()


def test_one_that_takes_nothing_is_handed_over_with_its_answers(rig: Rig) -> None:
    client = rig.connect(receive=4096)
    big, sent = framed(query("big.demo.example", "TXT")), 0
    client.setblocking(False)
    deadline = time.monotonic() + 5
    while not rig.take() and time.monotonic() < deadline:
        with suppress(BlockingIOError):
            sent += client.send((big * 100)[sent % len(big) :])
    [(sock, pending, unsent, queries)] = rig.handed
    assert unsent
    client.settimeout(5)
    sock.setblocking(True)
    taken, answered = b"", queries

    def rest() -> None:
        sock.sendall(unsent)
        sock.shutdown(socket.SHUT_WR)

    threading.Thread(target=rest, daemon=True).start()
    while more := client.recv(65536):
        taken += more
    at = 0
    while at < len(taken):
        size = int.from_bytes(taken[at : at + 2], "big")
        assert dns.message.from_wire(taken[at + 2 : at + 2 + size]).answer
        at, answered = at + 2 + size, answered - 1
    assert at == len(taken)
    assert answered == 0, "every query that was taken has its whole answer"
    assert sent >= queries * len(big) + len(pending)


def test_when_all_places_are_taken_the_oldest_goes(rig: Rig) -> None:
    clients = []
    for number in range(PLACES + 3):
        clients.append(rig.connect())
        clients[-1].sendall(framed(plain(number)))
        message(clients[-1])
    until(lambda: len(rig.take()) == 3)
    assert [one[0].getpeername() for one in rig.handed] == [client.getsockname() for client in clients[:3]]
    assert rig.count[metrics.TCP_OPEN] == PLACES
    clients[-1].sendall(framed(plain(99)))
    assert message(clients[-1])[:2] == b"\0\x63"


def test_silent_ones_in_numbers_are_all_handed_over(rig: Rig) -> None:
    """None is lost, none is answered twice, and who asks meanwhile is answered."""
    silents = [rig.connect(number % 2) for number in range(300)]
    asking = rig.connect()
    asking.sendall(framed(plain(1)))
    message(asking)
    rig.grow_old()
    until(lambda: len(rig.take()) == 301)
    assert {one[0].getpeername() for one in rig.handed} == {one.getsockname() for one in (*silents, asking)}


def test_where_python_takes_no_more_they_are_closed() -> None:
    rig = Rig(places=1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    try:
        for _ in range(1040):  # HANDED is 1,024
            rig.connect()
        until(lambda: rig.count[metrics.TCP_ACCEPTED] == 1040)
        assert rig.closed() == {"limit": 15}
        rig.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_descriptors_it_waits_and_does_not_spin(rig: Rig) -> None:
    waiting = rig.connect()
    waiting.sendall(framed(plain(7)))
    message(waiting)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    client.settimeout(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(10, client.fileno() + 1), before[1]))
    try:
        client.connect(rig.listening[0].getsockname())
        client.sendall(framed(plain(8)))
        time.sleep(0.05)
        begun = time.thread_time_ns(), time.process_time_ns()
        time.sleep(0.2)
        assert time.process_time_ns() - begun[1] < 100_000_000, "nobody is busy"
        assert rig.count[metrics.TCP_ACCEPTED] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    rig.loop.tick()
    assert message(client)[:2] == b"\0\x08"
    client.close()


def test_shutting_hands_over_all_and_takes_no_more(rig: Rig) -> None:
    clients = [rig.connect() for _ in range(4)]
    for client in clients:
        client.sendall(framed(plain(1)) + b"\0")
        message(client)
    rig.loop.shut()
    until(lambda: rig.loop.is_shut)
    assert len(rig.take()) == 4
    assert {one[1] for one in rig.handed} == {b"\0"}
    late = rig.connect()
    late.sendall(framed(plain(1)))
    late.settimeout(0.05)
    with pytest.raises(TimeoutError):
        late.recv(1)


def test_all_it_answers_is_of_the_image_served_last(rig: Rig) -> None:
    client = rig.connect()
    for number in range(30):
        rig.publish(sight(b"state %d" % number, image_bytes()))
        client.sendall(framed(query("www.demo.example", nsid=True)))
        assert b"state %d" % number in message(client)
    assert rig.loop.reclaim() <= 2


def test_what_clients_are_told_of_idling_follows(rig: Rig) -> None:
    asked = dns.message.make_query("www.demo.example", "A", use_edns=0, options=[
        dns.edns.GenericOption(11, b"")]).to_wire()
    client = rig.connect()
    for value in (100, 0):
        rig.loop.keepalive(value)
        until(lambda value=value: _told(client, asked, value))  # what the thread is reading just now has the old one


def _told(client: socket.socket, asked: bytes, value: int) -> bool:
    client.sendall(framed(asked))
    return struct.pack(">HHH", 11, 2, value) in message(client)


def test_streams_need_a_door() -> None:
    sock = Rig._listening(socket.AF_INET)
    loop = door.Loop([], streams=[(sock.fileno(), False)])
    with pytest.raises(ValueError, match="streams"):
        loop.publish(sight(), door.Door(counters()))
    sock.close()


@pytest.mark.parametrize("trips", [True, False])
def test_handshakes_are_kept_where_they_are_wanted_and_as_many_as_there_is_room_for(trips: bool) -> None:
    rig = Rig(trips=trips)
    try:
        for number in range(1100):
            with rig.connect(0 if number else 1) as client:
                if number % 100 == 0:
                    client.sendall(framed(plain(number)))
                    message(client)
            rig.clients.clear()
        until(lambda: rig.count[metrics.TCP_ACCEPTED] == 1100)
        found = rig.loop.trips()
        assert len(found) == (1024 if trips else 0)
        clients = {socket.inet_aton("127.0.0.1"), bytes(15) + b"\1"}
        assert {client for client, _ in found} == (clients if trips else set())
        assert all(0 < microseconds < 1_000_000 for _, microseconds in found)
        assert rig.loop.trips() == []
    finally:
        rig.close()
