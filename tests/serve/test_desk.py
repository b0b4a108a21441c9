"""The worker's end of the desk, behind real sockets: who plays the control process is the test."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dns.message
import dns.rcode
import dns.tsig
import pytest

from dnsd import metrics
from dnsd.context import Desk as Takes
from dnsd.dns.prefixes import Prefixes
from dnsd.image import desk
from dnsd.image.reading import Image
from dnsd.serve import desk as serve_desk
from dnsd.serve import mmsg, udp
from dnsd.serve.crowd import Limits
from dnsd.serve.desk import Desk
from tests.serve import doors
from tests.serve.doors import LOOPS, framed, numbered
from tests.serve.samples import counters, image_bytes, query

AXFR = query("demo.example", "AXFR")
TAKES = Takes(Prefixes(["127.0.0.0/8", "::1"]))


class Control:
    """The other end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def say(self, number: int, message: bytes, *, more: bool = False) -> None:
        self.sock.send(desk.encode(desk.Reply(number, more, message)))

    async def heard(self) -> desk.Word:
        async with asyncio.timeout(5):
            return desk.decode(await asyncio.get_running_loop().sock_recv(self.sock, desk.PACKET_MAX))

    def silent(self) -> bool:
        try:
            self.sock.recv(desk.PACKET_MAX)
        except BlockingIOError:
            return True
        return False


@contextmanager
def ends() -> Iterator[tuple[socket.socket, Control]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        yield ours, Control(theirs)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection for both directions, where a mere end of sending would still want its answers."""
    if not writer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


Scenario = Callable[[doors.Rig, Control], Coroutine[Any, Any, None]]


def over_tcp(loop: str, scenario: Scenario, limits: Limits = Limits()) -> doors.Rig:  # noqa: B008 - a value
    with ends() as (ours, control):
        async def play(rig: doors.Rig) -> None:
            serving = rig.door.serving
            serving.tcp.desk = TAKES
            serving.desk = Desk(ours, serving)
            assert await control.heard() == desk.Gone(0)
            try:
                await scenario(rig, control)
            finally:
                for writer in rig.open:
                    reset(writer)
                asyncio.get_running_loop().remove_reader(ours)

        return doors.run(loop, play, limits)


def test_an_answer_of_several_messages_is_pulled(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(AXFR))
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        assert (ask.transport, ask.client, ask.packet) == (desk.TCP, b"\x7f\0\0\1", AXFR)
        for number in range(3):
            assert control.silent()
            control.say(ask.id, numbered(number), more=number < 2)
            assert await doors.reply(reader) == numbered(number)
            if number < 2:
                assert await control.heard() == desk.Next(ask.id)
        writer.write(framed(query("www.demo.example")))
        assert (await doors.reply(reader))[:2] == b"\0\1"
        assert control.silent()

    rig = over_tcp(loop, scenario)
    assert rig.count[metrics.RESPONSES_TCP] == 4


def test_other_queries_of_the_connection_do_not_wait(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(AXFR, query("www.demo.example", number=7)))
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        assert (await doors.reply(reader))[:2] == b"\0\7"
        rig.pass_time(60)  # it is busy, not idle
        control.say(ask.id, numbered(1))
        assert await doors.reply(reader) == numbered(1)
        rig.pass_time(60)
        assert await doors.ended(reader)

    over_tcp(loop, scenario)


def test_a_client_that_has_said_all_still_gets_its_answer(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(AXFR))
        writer.write_eof()
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        control.say(ask.id, numbered(1), more=True)
        assert await doors.reply(reader) == numbered(1)
        assert await control.heard() == desk.Next(ask.id)
        control.say(ask.id, numbered(2))
        assert await doors.reply(reader) == numbered(2)
        assert await doors.ended(reader)

    over_tcp(loop, scenario)


def test_after_the_last_query_there_may_be_what_was_asked_is_answered(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(AXFR, query("www.demo.example", number=7)))
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        assert (await doors.reply(reader))[:2] == b"\0\7"
        control.say(ask.id, numbered(1), more=True)
        assert await doors.reply(reader) == numbered(1)
        assert await control.heard() == desk.Next(ask.id)
        control.say(ask.id, numbered(2))
        assert await doors.reply(reader) == numbered(2)
        assert await doors.ended(reader)
        assert rig.closed() == {"queries": 1}

    over_tcp(loop, scenario, Limits(queries=2))


def test_a_slow_reader_holds_one_message(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(AXFR))
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        sent = 0
        while not rig.blocked():
            control.say(ask.id, bytes(60000), more=True)
            sent += 1
            assert sent < 200, "never blocked"
            await asyncio.sleep(0.01)
            if not rig.blocked():
                assert await control.heard() == desk.Next(ask.id)
        await asyncio.sleep(0.05)
        assert control.silent(), "asks for more than the client has taken"
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(sent):
            assert len(await doors.reply(reader)) == 60000
        assert await control.heard() == desk.Next(ask.id)
        control.say(ask.id, numbered(1))
        assert await doors.reply(reader) == numbered(1)

    over_tcp(loop, scenario)


def test_one_that_never_reads_is_ended_and_given_up(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        _, writer = await rig.connect(receive=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(framed(AXFR))
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        while not rig.blocked():
            control.say(ask.id, bytes(60000), more=True)
            await asyncio.sleep(0.01)
        rig.pass_time(6)
        word = await control.heard()
        while word == desk.Next(ask.id):
            word = await control.heard()
        assert word == desk.Gone(ask.id)
        assert rig.closed() == {"stalled": 1}

    over_tcp(loop, scenario)


def test_a_client_that_leaves_is_said(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        _, writer = await rig.connect()
        writer.write(framed(AXFR, AXFR))
        asks = [await control.heard(), await control.heard()]
        reset(writer)
        gone = {await control.heard(), await control.heard()}
        assert gone == {desk.Gone(ask.id) for ask in asks}
        control.say(asks[0].id, numbered(1), more=True)  # on its way already
        assert await control.heard() == desk.Gone(asks[0].id)

    over_tcp(loop, scenario)


def test_no_answer_is_servfail_and_half_an_answer_ends_the_connection(
    loop: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve_desk, "STREAM_SECONDS", 0.05)
    monkeypatch.setattr(serve_desk, "SWEEP_SECONDS", 0.01)

    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(AXFR))
        ask = await control.heard()
        reply = dns.message.from_wire(await doors.reply(reader))
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert await control.heard() == desk.Gone(ask.id)
        writer.write(framed(AXFR))
        ask = await control.heard()
        control.say(ask.id, numbered(1), more=True)
        assert await doors.reply(reader) == numbered(1)
        assert await control.heard() == desk.Next(ask.id)
        assert await doors.ended(reader)
        assert rig.count[metrics.DESK_LOST] == 2

    over_tcp(loop, scenario)


def test_a_new_control_process_knows_nothing_of_a_transfer(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect()
        writer.write(framed(AXFR))
        ask = await control.heard()
        control.say(ask.id, numbered(1), more=True)
        assert await doors.reply(reader) == numbered(1)
        control.say(ask.id, b"")
        assert await doors.ended(reader)

    over_tcp(loop, scenario)


def test_over_its_bounds_it_is_answered_as_if_there_were_no_desk(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        reader, writer = await rig.connect("127.0.0.1")
        writer.write(framed(*[AXFR] * (serve_desk.SHARE + 1)))
        assert dns.message.from_wire(await doors.reply(reader)).rcode() == dns.rcode.REFUSED
        other, writer = await rig.connect("127.0.1.1")
        writer.write(framed(*[AXFR] * (serve_desk.STREAMS - serve_desk.SHARE)))
        await asyncio.sleep(0.05)
        third, writer = await rig.connect("127.0.2.1")
        writer.write(framed(AXFR))
        assert dns.message.from_wire(await doors.reply(third)).rcode() == dns.rcode.REFUSED
        assert rig.count[metrics.DESK_FULL] == 2
        ask = await control.heard()
        control.say(ask.id, numbered(1))
        assert await doors.reply(reader) == numbered(1)
        writer.write(framed(AXFR))  # a place has become free
        for _ in range(serve_desk.STREAMS):
            ask = await control.heard()
        control.say(ask.id, numbered(2))
        assert await doors.reply(third) == numbered(2)
        del other

    over_tcp(loop, scenario)


def test_a_signed_query_too_many_is_servfail_not_badkey(loop: str) -> None:
    signed = dns.message.make_query("www.demo.example", "A")
    signed.use_tsig(dns.tsig.Key("sec.", bytes(32), "hmac-sha256"))
    packet = signed.to_wire()

    async def scenario(rig: doors.Rig, control: Control) -> None:
        rig.door.serving.tcp.desk = Takes(signed=True)
        reader, writer = await rig.connect()
        writer.write(framed(*[packet] * (serve_desk.SHARE + 1)))
        assert dns.message.from_wire(await doors.reply(reader)).rcode() == dns.rcode.SERVFAIL
        assert rig.door.serving.tcp.desk == Takes(signed=True)

    over_tcp(loop, scenario)


def test_a_control_process_that_does_not_listen_costs_no_place(loop: str) -> None:
    async def scenario(rig: doors.Rig, control: Control) -> None:
        ours = rig.door.serving.desk._sock  # type: ignore[union-attr]
        with suppress(BlockingIOError):
            while True:
                ours.send(desk.encode(desk.Gone(0)))
        reader, writer = await rig.connect()
        writer.write(framed(AXFR))
        assert dns.message.from_wire(await doors.reply(reader)).rcode() == dns.rcode.REFUSED

    over_tcp(loop, scenario)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "single"])
def test_datagrams_are_answered_late_and_lost_ones_forgotten(
    family: socket.AddressFamily, batched: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve_desk, "DATAGRAM_SECONDS", 0.05)
    monkeypatch.setattr(serve_desk, "SWEEP_SECONDS", 0.01)

    async def play(ours: socket.socket, control: Control, server: socket.socket, client: socket.socket) -> None:
        serving = udp.Serving(Image(image_bytes()), counters(), "n1")
        serving.udp.desk = TAKES
        serving.desk = Desk(ours, serving)
        await control.heard()
        listener = udp.Listener(mmsg.channel(server, serving.count, batched=batched), serving)
        for number in range(serve_desk.SHARE + 1):
            client.send(query("demo.example", "AXFR", number))
        client.send(query("www.demo.example", number=99))
        listener.readable()
        got = {dns.message.from_wire(client.recv(4096)).id for _ in range(2)}
        assert got == {99, serve_desk.SHARE}, "the plain one, and the one too many"
        ask = await control.heard()
        assert isinstance(ask, desk.Ask)
        assert (ask.transport, ask.port) == (desk.UDP, client.getsockname()[1])
        assert ask.client == (b"\x7f\0\0\1" if family == socket.AF_INET else bytes(15) + b"\1")
        control.say(ask.id, numbered(5))
        ask = await control.heard()
        control.say(ask.id, b"")  # no reply
        assert await asyncio.to_thread(client.recv, 4096) == numbered(5)
        await doors.until(lambda: serving.count[metrics.DESK_LOST] == serve_desk.SHARE - 2)
        control.say(ask.id + 1, numbered(6))  # too late
        client.send(query("demo.example", "AXFR", 42))
        listener.readable()
        for _ in range(serve_desk.SHARE - 1):
            ask = await control.heard()
        control.say(ask.id, numbered(7))
        assert await asyncio.to_thread(client.recv, 4096) == numbered(7)
        asyncio.get_running_loop().remove_reader(ours)

    with (ends() as (ours, control), socket.socket(family, socket.SOCK_DGRAM) as server,
          socket.socket(family, socket.SOCK_DGRAM) as client, asyncio.Runner(loop_factory=LOOPS["uvloop"]) as runner):
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        server.setblocking(False)
        client.settimeout(5)
        client.connect(server.getsockname())
        runner.run(play(ours, control, server, client))


def signed_by(key: str, number: int = 0) -> bytes:
    message = dns.message.make_query("www.demo.example", "A", id=number)
    message.use_tsig(dns.tsig.Key(key, bytes(32), "hmac-sha256"))
    return message.to_wire()


def test_strangers_leave_places_to_neighbours(loop: str) -> None:
    """Whoever has not shown a right signature, and is not listed, has a part of the places and of the rate."""
    async def scenario(rig: doors.Rig, control: Control) -> None:
        rig.door.serving.tcp.desk = Takes(Prefixes(["127.0.9.0/24"]), signed=True)
        asked = 0
        for network in range(1, 9):
            _, writer = await rig.connect(f"127.0.{network}.1")
            writer.write(framed(*[signed_by("nobody.")] * serve_desk.SHARE))
        await doors.until(lambda: rig.count[metrics.DESK_FULL] == 8 * serve_desk.SHARE - serve_desk.STREAMS // 2)
        for _ in range(serve_desk.STREAMS // 2):
            word = await control.heard()
            assert isinstance(word, desk.Ask)
            asked += word.client[:3] == b"\x7f\0\1"
        assert asked == serve_desk.STREAMS // 4
        for source in ("127.0.9.1", "127.0.9.2"):
            _, writer = await rig.connect(source)
            writer.write(framed(AXFR))
            assert isinstance(await control.heard(), desk.Ask)

    over_tcp(loop, scenario)


def test_who_has_shown_a_right_signature_is_no_stranger(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_desk, "SPELL_SECONDS", 60.0)
    monkeypatch.setattr(serve_desk, "STRANGERS_RATE", 3 / 60)
    monkeypatch.setattr(serve_desk, "SHARE_RATE", 2 / 60)

    async def answered(control: Control, streams: doors.Streams, *, known: bool = False) -> bool:
        """Whether a signed query is asked; it is answered then."""
        streams[1].write(framed(signed_by("sec.")))
        await asyncio.sleep(0.05)
        try:
            word = desk.decode(control.sock.recv(desk.PACKET_MAX))
        except BlockingIOError:
            assert dns.message.from_wire(await doors.reply(streams[0])).rcode() == dns.rcode.SERVFAIL
            return False
        assert isinstance(word, desk.Ask)
        control.sock.send(desk.encode(desk.Reply(word.id, False, numbered(1), known=known)))
        assert await doors.reply(streams[0]) == numbered(1)
        return True

    async def scenario(rig: doors.Rig, control: Control) -> None:
        rig.door.serving.tcp.desk = Takes(signed=True)
        good, noisy = await rig.connect("127.0.1.1"), await rig.connect("127.0.2.1")
        assert await answered(control, good, known=True)
        assert [await answered(control, noisy) for _ in range(3)] == [True, True, False]
        other = await rig.connect("127.0.3.1")
        assert not await answered(control, other), "all strangers together have a rate"
        assert all([await answered(control, good) for _ in range(5)])
        neighbour = await rig.connect("127.0.1.2")
        assert not await answered(control, neighbour), "an address is known, not its network"

    over_tcp(loop, scenario)
