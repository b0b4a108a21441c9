"""The engine's thread over real sockets: batches, the ring of what it passes on, samples, what it counts."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.engine import door
from dnsd.serve import mmsg
from tests.serve import engines
from tests.serve.engines import Rig, malformed, odd, plain, silent, until
from tests.serve.samples import addresses, counters

PLACES, SAMPLES = 1024, 64  # engine/ring.pxi
FAMILIES = [socket.AF_INET, socket.AF_INET6]
ODD = metrics.PASSED + metrics.PASS_REASONS.index("odd")


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*families: int, free: int = -1, every: int = 0) -> Rig:
        made.append(Rig(*families, free=free, every=every))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_both_families_are_answered_where_they_asked_from(rig: Callable[..., Rig]) -> None:
    one = rig(*FAMILIES).start()
    clients = [(engines.client_of(server), 100 * lane + i) for lane, server in enumerate(one.servers) for i in range(5)]
    for client, number in clients:
        client.send(plain(number))
    for client, number in clients:
        reply = client.recv(4096)
        assert int.from_bytes(reply[:2], "big") == number
        assert addresses(reply) == ["192.0.2.80"]
        client.close()


def test_an_answer_leaves_from_the_address_that_was_asked() -> None:
    servers = [engines.bound(socket.AF_INET, f"127.0.0.{i}") for i in (1, 2, 3)]
    loop = door.Loop([(server.fileno(), False) for server in servers])
    loop.publish(engines.sight(), door.Door(counters()))
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        for server in servers:
            client.sendto(plain(1), server.getsockname())
            assert client.recvfrom(4096)[1] == server.getsockname()
    loop.stop()
    thread.join(5)
    assert not thread.is_alive()
    for server in servers:
        server.close()


@given(kinds=st.lists(st.sampled_from([plain, odd, silent, malformed]), min_size=1, max_size=150))
def test_what_gets_no_answer_shifts_nothing(kinds: list[Callable[[int], bytes]]) -> None:
    """Everything is there before the thread begins, so that it comes in whole batches."""
    with Rig() as one:
        _mixed(one, kinds)


def _mixed(one: Rig, kinds: list[Callable[[int], bytes]]) -> None:
    packets = [kind(number) for number, kind in enumerate(kinds)]
    for packet in packets:
        one.clients[0].send(packet)
    one.loop.stop()
    one.start().thread.join()
    answered = [number for number, kind in enumerate(kinds) if kind in (plain, malformed)]
    assert [int.from_bytes(one.clients[0].recv(4096)[:2], "big") for _ in answered] == answered
    assert one.passed(most=200) == [packet for packet, kind in zip(packets, kinds, strict=True) if kind is odd]
    assert one.count[metrics.RESPONSES_UDP] == len(answered)
    assert one.count[ODD] == kinds.count(odd)
    assert one.count[metrics.DROPPED] == kinds.count(silent)
    assert one.count[metrics.UDP_BATCHES] == -(-len(packets) // mmsg.BATCH)


def test_octets_are_counted(rig: Callable[..., Rig]) -> None:
    one = rig().start()
    packets = [plain(1), odd(2), b"", malformed(3), odd(4) + bytes(5000)]
    one.ask(packets)
    replies = [one.clients[0].recv(4096) for _ in range(2)]
    until(lambda: one.count[metrics.RESPONSES_UDP] == 2)
    assert one.passed() == [odd(2), packets[4][: mmsg.SLOT]], "what is too long arrives cut"
    assert one.count[metrics.BYTES_IN_UDP] == sum(len(packet[: mmsg.SLOT]) for packet in packets)
    assert one.count[metrics.BYTES_OUT_UDP] == sum(map(len, replies))


# --- what is passed on ------------------------------------------------------------------------------------------------


def test_what_is_passed_on_comes_with_its_socket_and_address(rig: Callable[..., Rig]) -> None:
    one = rig(*FAMILIES).start()
    for number, lane in enumerate((0, 0, 1, 0)):
        one.ask([odd(number)], lane)
    assert one.heard()
    one.loop.hear()
    runs = []
    while (lane := one.loop.waiting()) >= 0:
        assert one.loop.take(1 - lane, 64) == [], "another socket's turn is later"
        runs.append((lane, one.loop.take(lane, 64)))
    assert [(lane, [packet for packet, _, _ in run]) for lane, run in runs] == [
        (0, [odd(0), odd(1)]), (1, [odd(2)]), (0, [odd(3)])]
    for lane, run in runs:
        for _, name, reply in run:
            assert reply == b""
            assert mmsg.peer_of(one.servers[lane].family, name) == one.clients[lane].getsockname()
    assert not one.heard(0)


def test_the_bell_rings_once_until_it_is_heard_and_then_again(rig: Callable[..., Rig]) -> None:
    one = rig().start()
    for _ in range(3):
        one.ask([odd(1), odd(2)])
        one.ask([odd(3)])
        assert one.heard()
        one.loop.hear()
        assert one.passed() == [odd(1), odd(2), odd(3)]


def test_a_full_ring_drops_and_counts_and_goes_on(rig: Callable[..., Rig]) -> None:
    one = rig().start()
    one.ask([odd(number) for number in range(PLACES + 100)])
    one.ask([plain(7)])
    assert one.clients[0].recv(4096)[:2] == b"\0\7", "who is answered here does not wait for Python"
    assert (one.count[metrics.PASS_FULL], one.count[ODD]) == (100, PLACES)
    taken = [packet for _ in range(PLACES // 64) for packet in one.passed()]
    assert taken == [odd(number) for number in range(PLACES)]
    assert one.passed() == []
    one.ask([odd(5)])
    until(lambda: one.loop.waiting() == 0)
    assert one.passed() == [odd(5)]


def test_the_ring_goes_round(rig: Callable[..., Rig]) -> None:
    one = rig().start()
    sent = taken = 0
    for portion in (700, 900, 64, 1000, 1, 1024, 333):
        one.ask([odd(number & 0xFFFF) for number in range(sent, sent + portion)])
        sent += portion
        until(lambda: one.count[ODD] == sent)  # noqa: B023 - called in this turn
        while sent - taken > 100:
            for packet in one.passed(most=37):
                assert packet == odd(taken & 0xFFFF)
                taken += 1
        if sent - taken + 1024 > PLACES:
            for packet in one.passed(most=2000):
                assert packet == odd(taken & 0xFFFF)
                taken += 1
    assert one.count[metrics.PASS_FULL] == 0


def test_an_image_that_cannot_be_used_leaves_all_to_python(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.loop.publish(None, one.door)
    one.start().ask([plain(1), odd(2), silent(3)])
    until(lambda: one.count[metrics.PASSED + metrics.PASS_REASONS.index("image")] == 3)
    assert one.passed() == [plain(1), odd(2), silent(3)]
    one.loop.publish(engines.sight(), one.door)
    assert one.told() == "identity"


# --- samples ----------------------------------------------------------------------------------------------------------


def test_one_in_so_many_of_those_answered_is_sampled(rig: Callable[..., Rig]) -> None:
    one = rig(*FAMILIES, every=3).start()
    for number in range(9):
        one.ask([odd(100), plain(number) if number % 2 else silent(number)], number % 2)
    until(lambda: sum(one.count[slot] for slot in (metrics.RESPONSES_UDP, metrics.DROPPED)) == 9)
    found = one.loop.samples()
    assert [(lane, query) for lane, (query, _, _) in found] == [(0, silent(2)), (1, plain(5)), (0, silent(8))]
    assert [bool(reply) for _, (_, _, reply) in found] == [False, True, False]
    assert addresses(found[1][1][2]) == ["192.0.2.80"]
    for lane, (_, name, _) in found:
        assert mmsg.peer_of(one.servers[lane].family, name) == one.clients[lane].getsockname()


def test_samples_nobody_fetches_are_dropped_and_counted(rig: Callable[..., Rig]) -> None:
    one = rig(every=1).start()
    one.ask([silent(number) for number in range(SAMPLES + 10)])
    until(lambda: one.count[metrics.DROPPED] == SAMPLES + 10)
    assert one.count[metrics.CAPTURE_DROPPED] == 10
    assert [query for _, (query, _, _) in one.loop.samples()] == [silent(number) for number in range(SAMPLES)]
    assert one.loop.samples() == []


# --- what the kernel refuses ------------------------------------------------------------------------------------------


class Local:
    """The loop over a Unix datagram socket: there a client can be gone, or read nothing."""

    def __init__(self) -> None:
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.server.bind(b"")  # a name of the kernel's choice
        self.server.setblocking(False)
        self.count = counters()
        self.loop = door.Loop([(self.server.fileno(), False)])
        self.loop.publish(engines.sight(), door.Door(self.count))
        self.thread = threading.Thread(target=self.loop.run, daemon=True)

    def client(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(b"")
        sock.connect(self.server.getsockname())
        sock.settimeout(5)
        return sock

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(5)
        self.server.close()


def test_a_client_that_is_gone_costs_only_its_own_answer() -> None:
    one = Local()
    clients = [one.client() for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(plain(number))
    for gone in (0, 2, 3):
        clients[gone].close()
    one.thread.start()
    for number in (1, 4):
        assert clients[number].recv(4096)[:2] == bytes((0, number))
        clients[number].close()
    until(lambda: one.count[metrics.UDP_SEND_ERRORS] == 3)
    until(lambda: one.count[metrics.RESPONSES_UDP] == 2)
    assert one.count[metrics.BYTES_OUT_UDP] % 2 == 0
    one.close()


def test_where_the_buffer_is_full_a_moment_is_waited_then_it_is_counted() -> None:
    one = Local()
    client = one.client()
    one.thread.start()
    sent = 0
    while not one.count[metrics.UDP_SEND_FULL]:
        client.send(plain(sent))
        sent += 1
        assert sent < 10_000
    until(lambda: one.count[metrics.QUERIES_UDP] == sent)
    until(lambda: one.count[metrics.RESPONSES_UDP] + one.count[metrics.UDP_SEND_FULL] == sent)
    got = [client.recv(4096) for _ in range(one.count[metrics.RESPONSES_UDP])]
    assert one.count[metrics.BYTES_OUT_UDP] == sum(map(len, got))
    client.close()
    one.close()


# --- the end ----------------------------------------------------------------------------------------------------------


def test_stopping_empties_the_queues(rig: Callable[..., Rig]) -> None:
    one = rig(*FAMILIES)
    for number in range(200):
        one.clients[number % 2].send((plain if number % 4 < 2 else odd)(number))
    one.loop.stop()
    one.start().thread.join(5)
    assert not one.thread.is_alive()
    assert not one.loop.running
    assert one.heard(), "the main thread is told"
    answered = {int.from_bytes(one.clients[number % 2].recv(4096)[:2], "big") for number in range(100)}
    assert answered == {number for number in range(200) if number % 4 < 2}
    assert [len(one.passed(0, 100)), len(one.passed(1, 100))] == [50, 50]


def test_stopping_under_a_flood_is_bounded(rig: Callable[..., Rig]) -> None:
    one = rig().start()
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            one.clients[0].send(silent(1))

    flooder = threading.Thread(target=flood)
    flooder.start()
    until(lambda: one.count[metrics.QUERIES_UDP] > 1000)
    began = time.monotonic()
    one.loop.stop()
    one.thread.join(5)
    assert time.monotonic() - began < 3
    over.set()
    flooder.join()


def test_a_loop_needs_something_to_serve_and_runs_once(rig: Callable[..., Rig]) -> None:
    with pytest.raises(ValueError, match="nothing to serve"):
        door.Loop([]).run()
    one = rig().start()
    until(lambda: one.loop.running)
    with pytest.raises(RuntimeError):
        one.loop.run()
    with pytest.raises(RuntimeError):
        one.loop.__init__([])  # type: ignore[misc]


def test_a_socket_that_is_closed_is_left_alone(rig: Callable[..., Rig]) -> None:
    one = rig(*FAMILIES).start()
    one.servers[0].close()
    assert one.told(1) == "identity"
    began = time.thread_time(), time.process_time()
    time.sleep(0.1)
    assert time.process_time() - began[1] < 0.05, "and the thread does not spin"


def test_sockets_of_the_kernel_are_as_long_as_a_place_of_the_ring() -> None:
    assert struct.calcsize("=HHI16sI") == 28
