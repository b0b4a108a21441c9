"""TCP under torture: framing however it is cut, order, and every limit; on both event loops."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd import metrics
from dnsd.image.reading import Image
from dnsd.serve import stream, turn, udp
from dnsd.serve.crowd import Crowd, Limits
from dnsd.serve.stream import Door
from tests.serve.doors import Rig, Streams, ended, framed, large, numbered, reply, run, until
from tests.serve.samples import addresses, counters, image_bytes, query

# --- framing ----------------------------------------------------------------------------------------------------------


def test_a_query_is_answered_from_the_image(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        for name, kind in (("www.demo.example", "A"), ("big.demo.example", "TXT")):
            writer.write(framed(query(name, kind)))
            found = await reply(reader)
            assert dns.message.from_wire(found).rcode() == dns.rcode.NOERROR
            if kind == "A":
                assert addresses(found) == ["192.0.2.80"]
            else:
                assert len(found) > 1500, "no truncation over TCP"

    rig = run(loop, scenario)
    assert rig.count[metrics.QUERIES_TCP] == rig.count[metrics.RESPONSES_TCP] == 2


@pytest.mark.usefixtures("echo")
def test_one_octet_at_a_time(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in framed(numbered(1), numbered(2)):
            writer.write(bytes([octet]))
            await asyncio.sleep(0.001)
        assert [await reply(reader), await reply(reader)] == [numbered(1), numbered(2)]

    run(loop, scenario)


@pytest.mark.usefixtures("echo")
def test_pipelined_queries_are_answered_in_order(loop: str) -> None:
    number = 5000

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(*map(numbered, range(number))))
        for i in range(number):
            assert await reply(reader) == numbered(i)

    rig = run(loop, scenario)
    assert rig.count[metrics.QUERIES_TCP] == rig.count[metrics.RESPONSES_TCP] == number
    assert rig.count[metrics.BYTES_IN_TCP] == rig.count[metrics.BYTES_OUT_TCP] == 14 * number


class Recorder:
    """A transport that keeps what is written; no loop."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = self.reading = False

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: None

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


@given(sizes=st.lists(st.integers(12, 300), max_size=12), cuts=st.lists(st.integers(0, 4000), max_size=12))
def test_where_the_octets_are_cut_does_not_matter(sizes: list[int], cuts: list[int]) -> None:
    messages = [bytes([i]) * size for i, size in enumerate(sizes)]
    whole = framed(*messages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "respond", lambda packet, *rest: packet)
        connection = Door(udp.Serving(Image(image_bytes()), counters(), "n1"), Crowd(Limits())).connection()
        transport = Recorder()
        connection.connection_made(transport)  # type: ignore[arg-type]
        edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
        parts = [whole[a:b] for a, b in itertools.pairwise(edges)]
        for part in parts:
            connection.data_received(part)
    assert b"".join(transport.written) == whole
    assert len(transport.written) <= len(parts), "one write a read"


@pytest.mark.usefixtures("echo")
def test_a_client_that_has_asked_all_still_gets_its_answers(loop: str) -> None:
    number = 1000  # more than one turn

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(*map(numbered, range(number))) + b"\0")
        writer.write_eof()
        assert await reader.read() == framed(*map(numbered, range(number)))

    assert run(loop, scenario).closed() == {"client": 1}


@pytest.mark.parametrize("octets", [b"\0\0", framed(b"x" * 11)])
@pytest.mark.usefixtures("echo")
def test_what_has_no_header_ends_the_connection(loop: str, octets: bytes) -> None:
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(numbered(1)) + octets + framed(numbered(2)))
        assert await reader.read() == framed(numbered(1))

    assert run(loop, scenario).closed() == {"malformed": 1}


def test_a_message_may_go_unanswered(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "respond", lambda packet, *rest: packet if packet[1] % 2 else None)

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(*map(numbered, range(4))))
        assert [await reply(reader), await reply(reader)] == [numbered(1), numbered(3)]

    rig = run(loop, scenario)
    assert (rig.count[metrics.QUERIES_TCP], rig.count[metrics.RESPONSES_TCP]) == (4, 2)


@pytest.mark.usefixtures("capsys")
def test_a_query_that_raises_costs_only_itself(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(packet: bytes, *rest: object) -> bytes:
        if packet[1] == 1:
            raise IndexError("boom")
        return packet

    monkeypatch.setattr(stream, "respond", fragile)

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(*map(numbered, range(3))))
        found = [await reply(reader) for _ in range(3)]
        assert [found[0], found[2]] == [numbered(0), numbered(2)]
        assert dns.message.from_wire(found[1]).rcode() == dns.rcode.SERVFAIL

    assert run(loop, scenario).count[metrics.INTERNAL_ERRORS] == 1


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_client_that_never_reads_holds_little_and_not_for_long(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, number = 30_000, 3000
    large(monkeypatch, size)

    async def scenario(rig: Rig) -> None:
        _, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(*map(numbered, range(number))))
        await until(rig.blocked)
        [connection] = rig.connections()
        answered = rig.count[metrics.QUERIES_TCP]
        assert answered < 40, "reading went on although nothing was taken"
        assert connection._transport.get_write_buffer_size() <= turn.WRITE_AT + size
        assert len(connection._pending) <= 256 * 1024
        await asyncio.sleep(0.05)
        assert rig.count[metrics.QUERIES_TCP] == answered
        other, writer2 = await rig.connect()
        writer2.write(framed(numbered(7)))
        assert (await reply(other))[:2] == b"\0\7", "others are served meanwhile"
        rig.pass_time(rig.crowd.limits.stall_seconds - 0.1)
        assert connection in rig.crowd
        rig.pass_time(0.2)
        assert connection not in rig.crowd

    assert run(loop, scenario).closed()["stalled"] == 1


def test_a_slow_reader_gets_everything(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, number = 5000, 300
    large(monkeypatch, size)

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(*map(numbered, range(number))))
        writer.write_eof()
        await until(rig.blocked)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for i in range(number):
            assert (await reply(reader))[:2] == numbered(i)[:2]
        assert await reader.read() == b""

    assert run(loop, scenario).closed() == {"client": 1}


def test_unread_answers_of_a_closed_connection_are_dropped_in_time(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large(monkeypatch, 60_000)

    async def scenario(rig: Rig) -> None:
        _, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(*map(numbered, range(8))) + b"\0\0")
        writer.write_eof()
        await until(lambda: rig.count[metrics.QUERIES_TCP] > 0)

        def dropped() -> bool:  # it stalls from its last step on, which need not be behind it
            rig.pass_time(rig.crowd.limits.stall_seconds + 0.1)
            return not len(rig.crowd)

        await until(dropped)

    assert run(loop, scenario).count[metrics.TCP_OPEN] == 0


@pytest.mark.usefixtures("echo")
def test_the_longest_idle_makes_room(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        first, second = await rig.connect("127.0.1.1"), await rig.connect("127.0.2.1")
        for reader, writer in (second, first):  # the second is now the longer idle one
            writer.write(framed(numbered(1)))
            await reply(reader)
        third = await rig.connect("127.0.3.1")
        assert await ended(second[0])
        for reader, writer in (first, third):
            writer.write(framed(numbered(2)))
            assert await reply(reader) == numbered(2)
        assert rig.count[metrics.TCP_OPEN] == 2

    assert run(loop, scenario, Limits(connections=2)).closed()["limit"] == 1


@pytest.mark.usefixtures("echo")
def test_a_prefix_over_its_share_loses_its_own_longest_idle(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        other = await rig.connect("127.0.2.1")
        first, second = await rig.connect("127.0.1.1"), await rig.connect("127.0.1.2")
        await until(lambda: len(rig.crowd) == 3)
        for reader, writer in (second, first):
            writer.write(framed(numbered(1)))
            assert await reply(reader) == numbered(1)
        third = await rig.connect("127.0.1.3")
        assert await ended(second[0])
        for reader, writer in (other, first, third):
            writer.write(framed(numbered(2)))
            assert await reply(reader) == numbered(2)

    assert run(loop, scenario, Limits(per_prefix=2)).closed()["prefix_limit"] == 1


def test_who_is_owed_answers_is_not_idle(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two the elder has not read its answers: the younger makes room, and it gets all of its own."""
    size, number = 30_000, 200
    large(monkeypatch, size)

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(*map(numbered, range(number))))
        await until(rig.blocked)
        idle, _ = await rig.connect()
        await until(lambda: len(rig.crowd) == 2)
        await rig.connect()
        assert await ended(idle)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for i in range(number):
            assert (await reply(reader))[:2] == numbered(i)[:2]

    assert run(loop, scenario, Limits(connections=2)).closed()["limit"] == 1


def test_idle_time_begins_when_the_answers_are_taken(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, number = 60_000, 20
    large(monkeypatch, size)

    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(*map(numbered, range(number))))
        await until(rig.blocked)
        [connection] = rig.connections()
        rig.pass_time(99)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(number):
            await reply(reader)
        await until(lambda: not rig.blocked())
        rig.pass_time(9.9)
        assert connection in rig.crowd
        rig.pass_time(0.2)
        assert await ended(reader)

    assert run(loop, scenario, Limits(stall_seconds=100)).closed() == {"idle": 1}


@pytest.mark.usefixtures("echo")
def test_under_pressure_idle_ones_go_sooner(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        streams = [await rig.connect() for _ in range(3)]
        for reader, writer in streams:
            writer.write(framed(numbered(1)))
            await reply(reader)
        rig.pass_time(2.4)
        assert len(rig.crowd) == 3
        rig.pass_time(0.2)
        for reader, _ in streams:
            assert await ended(reader)

    assert run(loop, scenario, Limits(connections=4)).closed() == {"idle": 3}


def keepalive(wire: bytes) -> int | None:
    """What a reply tells of how long a connection may stay idle (RFC 7828), in units of 100 ms."""
    for option in dns.message.from_wire(wire).options:
        if option.otype == 11:
            data = option.to_wire()
            assert len(data) == 2
            return int.from_bytes(data, "big")
    return None


def test_clients_are_told_how_long_they_may_stay(loop: str) -> None:
    asking = dns.message.make_query("www.demo.example", "A", use_edns=0, options=[dns.edns.GenericOption(11, b"")])

    async def ask(streams: Streams, wire: bytes) -> int | None:
        streams[1].write(framed(wire))
        return keepalive(await reply(streams[0]))

    async def scenario(rig: Rig) -> None:
        streams = [await rig.connect() for _ in range(2)]
        await until(lambda: len(rig.crowd) == 2)
        assert await ask(streams[0], query("www.demo.example")) is None, "nobody is told who has not asked"
        assert [await ask(each, asking.to_wire()) for each in streams] == [100, 100]
        streams.append(await rig.connect())
        await until(lambda: len(rig.crowd) == 3)
        assert [await ask(each, asking.to_wire()) for each in streams] == [0, 0, 0]

    run(loop, scenario, Limits(connections=4))


@pytest.mark.usefixtures("echo")
def test_so_many_queries_and_no_more(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        reader, writer = await rig.connect()
        for i in range(3):
            writer.write(framed(numbered(i)))
            assert await reply(reader) == numbered(i)
        assert await ended(reader)

    assert run(loop, scenario, Limits(queries=3)).closed() == {"queries": 1}


async def _silent(rig: Rig, streams: Streams) -> None:
    rig.pass_time(4.9)
    assert len(rig.crowd)
    rig.pass_time(0.2)


async def _trickling(rig: Rig, streams: Streams) -> None:
    for octet in framed(numbered(1))[:10]:
        streams[1].write(bytes([octet]))
        await asyncio.sleep(0.001)
        rig.pass_time(0.52)


async def _idle_after_one(rig: Rig, streams: Streams) -> None:
    rig.pass_time(4)
    streams[1].write(framed(numbered(1)))
    await reply(streams[0])
    streams[1].write(b"\0\x0e part of a message")
    rig.pass_time(9.9)
    assert len(rig.crowd)
    rig.pass_time(0.2)


async def _busy(rig: Rig, streams: Streams) -> None:
    for i in range(61):
        streams[1].write(framed(numbered(i)))
        await reply(streams[0])
        assert len(rig.crowd)
        rig.pass_time(9.9)


@pytest.mark.parametrize(("behaviour", "reason"), [
    (_silent, "first_query"), (_trickling, "first_query"), (_idle_after_one, "idle"), (_busy, "lifetime")])
@pytest.mark.usefixtures("echo")
def test_time_limits(loop: str, behaviour: Callable[[Rig, Streams], Awaitable[None]], reason: str) -> None:
    async def scenario(rig: Rig) -> None:
        streams = await rig.connect()
        await until(lambda: len(rig.crowd) == 1)
        await behaviour(rig, streams)
        assert await ended(streams[0])

    assert run(loop, scenario).closed() == {reason: 1}


@pytest.mark.usefixtures("echo")
def test_draining_answers_what_was_asked_and_takes_nothing_new(loop: str) -> None:
    number = 2000

    async def scenario(rig: Rig) -> None:
        idle, busy = await rig.connect(), await rig.connect()
        await until(lambda: len(rig.crowd) == 2)
        busy[1].write(framed(*map(numbered, range(number))))
        await until(lambda: rig.count[metrics.QUERIES_TCP] > 0)
        rig.crowd.drain()
        assert await ended(idle[0])
        received = await busy[0].read()
        assert len(received) == 16 * rig.count[metrics.RESPONSES_TCP] >= 16 * turn.TURN
        late, _ = await rig.connect()
        assert await ended(late)

    assert run(loop, scenario).closed() == {"drain": 3}


class Desk:
    """Takes what it is asked and answers when it is told to; refuses the number 9."""

    def __init__(self) -> None:
        self.asked: list[tuple[stream.Connection, bytes]] = []
        self.was_ready = 0
        self.left = 0

    def stream(self, connection: stream.Connection, packet: bytes) -> bytes | None:
        if packet == numbered(9):
            return b"refused"
        connection.asked += 1
        self.asked.append((connection, packet))
        return None

    def ready(self, connection: stream.Connection) -> None:
        self.was_ready += 1

    def gone(self, connection: stream.Connection) -> None:
        self.left += 1


def with_desk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Even numbers are the door's own, odd ones the desk's."""
    monkeypatch.setattr(stream, "respond", lambda packet, *rest: b"" if packet[1] % 2 else packet)
    desk = Desk()
    rig.door.serving.desk = desk  # type: ignore[assignment]
    return desk


def test_the_desks_answers_come_when_they_are_ready(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        desk = with_desk(rig, monkeypatch)
        reader, writer = await rig.connect()
        writer.write(framed(*map(numbered, (1, 2, 9, 4))))
        writer.write_eof()
        assert [await reply(reader) for _ in range(3)] == [numbered(2), b"refused", numbered(4)]
        rig.pass_time(99)
        [connection] = rig.connections()
        assert connection.busy, "neither idle nor done: it is owed an answer"
        connection.deliver(b"one", last=False)
        connection.deliver(b"two", last=True)
        assert await reader.read() == framed(b"one", b"two")
        connection.deliver(b"late", last=True)
        assert len(desk.asked) == 1

    rig = run(loop, scenario)
    assert rig.closed() == {"client": 1}
    assert (rig.count[metrics.QUERIES_TCP], rig.count[metrics.RESPONSES_TCP]) == (4, 5)


def test_draining_waits_for_the_desk(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        desk = with_desk(rig, monkeypatch)
        reader, writer = await rig.connect()
        writer.write(framed(numbered(1)))
        await until(lambda: bool(desk.asked))
        rig.crowd.drain()
        writer.write(framed(numbered(2)))
        await asyncio.sleep(0.01)
        rig.connections()[0].deliver(b"one", last=True)
        assert await reply(reader) == b"one"
        assert await ended(reader), "what was asked after the drain began is not answered"

    assert run(loop, scenario).closed() == {"drain": 1}


def test_the_desk_learns_who_takes_and_who_is_gone(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: Rig) -> None:
        desk = with_desk(rig, monkeypatch)
        _, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(numbered(1)))
        await until(lambda: bool(desk.asked))
        [connection] = rig.connections()
        while connection.ready:
            connection.deliver(bytes(60_000), last=False)
        assert desk.was_ready == 0
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await until(lambda: desk.was_ready == 1)
        assert connection.ready
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(lambda: desk.left == 1)
        assert not connection.ready

    run(loop, scenario)


@pytest.mark.usefixtures("echo")
def test_a_connection_that_is_reset_leaves_nothing_behind(loop: str) -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(50):
            _, writer = await rig.connect()
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.write(framed(numbered(1)))
            writer.transport.abort()
        await until(lambda: rig.accepted >= 50 and sum(rig.closed().values()) >= 50 and not len(rig.crowd))

    closed = run(loop, scenario).closed()
    assert closed.keys() <= {"error", "client"}
