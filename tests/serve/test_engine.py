"""The engine in a worker: what it is given to serve, and that Python answers what it leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.message
import dns.opcode
import dns.rcode
import pytest

from dnsd import cookiefile, metrics
from dnsd.dns.cookies import Cookies
from dnsd.engine import door
from dnsd.image import samples as wire
from dnsd.image.reading import Image
from dnsd.image.table import MapTable
from dnsd.model import Stamp
from dnsd.serve import engine
from dnsd.serve.contexts import Answering
from dnsd.serve.crowd import Crowd, Limits
from dnsd.serve.stream import Door
from dnsd.serve.tap import Tap
from dnsd.serve.udp import Serving
from tests.serve import engines, samples
from tests.serve.doors import framed
from tests.serve.engines import odd, plain
from tests.serve.samples import counters, image_bytes, nsid, query

SECOND = Stamp(7, 2, 0)


class Rig:
    """What a worker has, with an engine on two sockets; `run` runs a test inside an event loop."""

    def __init__(self, answering: Answering | None = None) -> None:
        self.image = Image(image_bytes())
        self.count, self.engine_count = counters(), counters()
        self.serving = Serving(self.image, self.count, "n w0", answering)
        self.servers = [engines.bound(family) for family in engines.HOSTS]
        self.clients = [engines.client_of(server) for server in self.servers]
        self.module: Any = door
        self.engine: engine.Engine = None  # type: ignore[assignment] - `run` makes it

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            self.engine = engine.Engine(self.module, self.serving, self.servers, self.engine_count)
            self.engine.start()
            try:
                await test()
            finally:
                self.engine.close()

        with asyncio.Runner() as runner:
            runner.run(asyncio.wait_for(main(), 20))

    async def ask(self, packet: bytes, lane: int = 0) -> bytes:
        """The answer of whoever gives it."""
        await asyncio.to_thread(self.clients[lane].send, packet)
        return await asyncio.to_thread(self.clients[lane].recv, 4096)

    async def told(self) -> str:
        """What the NSID tells of the state served."""
        return nsid(await self.ask(query("www.demo.example", nsid=True))).removeprefix("n w0 0000000000000007.")

    def close(self) -> None:
        for sock in (*self.servers, *self.clients):
            sock.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.close()


def test_what_is_left_to_python_is_answered_from_the_same_socket(rig: Rig) -> None:
    async def test() -> None:
        for lane in (0, 1):
            assert samples.addresses(await rig.ask(plain(1), lane)) == ["192.0.2.80"]
            reply = dns.message.from_wire(await rig.ask(odd(2), lane))
            assert (reply.opcode(), reply.rcode(), reply.id) == (dns.opcode.STATUS, dns.rcode.NOTIMP, 2)

    rig.run(test)
    assert (rig.engine_count[metrics.QUERIES_UDP], rig.count[metrics.QUERIES_UDP]) == (4, 0), "counted once"
    assert (rig.engine_count[metrics.RESPONSES_UDP], rig.count[metrics.RESPONSES_UDP]) == (2, 2)
    assert rig.engine_count[metrics.BYTES_IN_UDP] > 0
    assert rig.count[metrics.BYTES_IN_UDP] == 0
    assert (rig.engine_count[metrics.KIND_NOTIMP], rig.count[metrics.KIND_NOTIMP]) == (0, 2)


def test_much_that_is_left_is_answered_in_the_end(rig: Rig) -> None:
    """More than the event loop takes in one turn, mixed among the sockets."""
    async def test() -> None:
        for number in range(200):
            rig.clients[number % 2].send(odd(number))
        for number in range(200):
            reply = await asyncio.to_thread(rig.clients[number % 2].recv, 4096)
            assert int.from_bytes(reply[:2], "big") == number

    rig.run(test)


def test_a_change_is_served_when_it_is_published(rig: Rig) -> None:
    async def test() -> None:
        assert await rig.told() == "1.0"
        rig.image.apply(samples.delta(2), SECOND)
        assert await rig.told() == "1.0"
        rig.engine.publish()
        assert await rig.told() == "2.0"
        assert samples.addresses(await rig.ask(query("api.demo.example"))) == ["198.51.100.2"]
        rig.serving.image = Image(image_bytes(Stamp(7, 3, 0), 3))
        rig.engine.publish()
        assert await rig.told() == "3.0"
        assert samples.addresses(await rig.ask(query("api.demo.example"))) == ["198.51.100.3"]

    rig.run(test)
    assert rig.engine_count[metrics.KIND_SERVICE] == 2, "the engine answered"


def test_map_tables_are_taken_at_the_next_tick(rig: Rig) -> None:
    async def test() -> None:
        rig.image.apply(samples.two_sites(), SECOND)
        rig.engine.publish()
        for near in (0, 1, 0):
            rig.image.set_map(0, MapTable(samples.table(near)))
            assert rig.engine.tick()
            assert samples.addresses(await rig.ask(query("api.demo.example"))) == [f"198.51.100.{1 + near}"]
        rig.image.set_map(0, MapTable(samples.table(1)))
        rig.image.apply(samples.delta(9), Stamp(7, 3, 0))
        rig.engine.publish()
        assert samples.addresses(await rig.ask(query("api.demo.example"))) == ["198.51.100.9"]

    rig.run(test)


def test_cookies_change_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "cookies"
    cookiefile.ensure(path)
    rig = Rig(Answering(cookies=str(path)))

    async def cookie() -> bytes:
        asked = dns.message.make_query("www.demo.example", "A", use_edns=0, options=[
            dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")])
        reply = dns.message.from_wire(await rig.ask(asked.to_wire()))
        return next(option.to_wire() for option in reply.options if option.otype == dns.edns.OptionType.COOKIE)

    async def test() -> None:
        host = bytes((127, 0, 0, 1))
        for secret in (b"a" * 16, b"b" * 16):
            cookiefile.store(path, [("active", secret)])
            rig.serving.contexts.tick()
            assert rig.engine.tick()
            made = await cookie()
            assert Cookies([secret]).valid(made, host, int.from_bytes(made[12:16], "big"))

    try:
        rig.run(test)
    finally:
        rig.close()


def test_nothing_new_is_nothing_published(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counting(door.Loop):
        def publish(self, *args: Any) -> None:
            made.append(args)
            super().publish(*args)

    rig.module = SimpleNamespace(Loop=Counting, Sight=door.Sight, Door=door.Door)

    async def test() -> None:
        for _ in range(3):
            rig.engine.publish()
            assert rig.engine.tick()

    rig.run(test)
    assert len(made) == 1


def test_an_image_the_engine_cannot_use_is_answered_by_python(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object) -> None:
        raise ValueError("node 7 has no name")

    async def test() -> None:
        rig.module.Sight = fails
        rig.serving.image = Image(image_bytes(SECOND))
        rig.engine.publish()
        assert await rig.told() == "2.0"
        assert rig.engine.tick()
        rig.serving.image.apply([], Stamp(7, 3, 0))
        rig.engine.publish()
        assert await rig.told() == "3.0"
        rig.module.Sight = door.Sight
        rig.serving.image.apply([], Stamp(7, 4, 0))
        rig.engine.publish()
        assert await rig.told() == "4.0"

    rig.module = SimpleNamespace(Loop=door.Loop, Sight=door.Sight, Door=door.Door)
    rig.run(test)
    assert capsys.readouterr().err.count("node 7 has no name") == 1
    assert (rig.count[metrics.RESPONSES_UDP], rig.engine_count[metrics.RESPONSES_UDP]) == (2, 1)


def test_draining_loses_nothing(rig: Rig) -> None:
    async def test() -> None:
        for number in range(400):
            rig.clients[number % 2].send((odd if number % 4 < 2 else plain)(number))
        await rig.engine.drain()

    rig.run(test)
    for lane, client in enumerate(rig.clients):
        numbers = sorted(int.from_bytes(client.recv(4096)[:2], "big") for _ in range(200))
        assert numbers == list(range(lane, 400, 2))
    assert rig.count[metrics.RESPONSES_UDP] + rig.engine_count[metrics.RESPONSES_UDP] == 400


def test_connections_are_pythons_when_the_thread_takes_no_more(rig: Rig) -> None:
    """None is lost, what it had begun to ask is answered, and then each is ended as ever."""
    crowd = Crowd(Limits())
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    listening.setblocking(False)
    clients = [socket.create_connection(listening.getsockname(), 5) for _ in range(20)]

    async def test() -> None:
        front = engine.Engine(
            door, rig.serving, [], rig.engine_count, engine.Streams([listening], Door(rig.serving, crowd)))
        front.start()
        for number, client in enumerate(clients):
            await asyncio.to_thread(client.sendall, framed(plain(number), plain(number + 100)[:-1])[:-1])
            assert (await asyncio.to_thread(client.recv, 4096))[2:4] == number.to_bytes(2, "big")
        await front.shut()
        assert len(crowd) == 20
        crowd.drain()
        for number, client in enumerate(clients):
            assert await asyncio.to_thread(client.recv, 4096) == b"", number
        front.close()

    rig.run(test)
    counts = [rig.count[slot] + rig.engine_count[slot] for slot in (
        metrics.TCP_ACCEPTED, metrics.QUERIES_TCP, metrics.TCP_CLOSED["drain"])]
    assert counts == [20, 20, 20]
    for sock in (listening, *clients):
        sock.close()


def test_samples_of_both_reach_the_tap(rig: Rig) -> None:
    inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for sock in (inner, outer):
        sock.setblocking(False)
    rig.serving.tap = Tap(inner, 1, 3, rig.count)
    replies: list[tuple[int, bytes, bytes]] = []

    async def test() -> None:
        for lane in (0, 1):
            for packet in (plain(1 + lane), odd(3 + lane)):
                replies.append((lane, packet, await rig.ask(packet, lane)))
        await rig.engine.drain()

    rig.run(test)
    found = [wire.decode(outer.recv(wire.PACKET_MAX)) for _ in replies]
    taken = [(origin, sample) for origin, some in found for sample in some]
    assert {(sample.query, sample.reply) for _, sample in taken} == {(packet, reply) for _, packet, reply in replies}
    for origin, sample in taken:
        lane = next(lane for lane, packet, _ in replies if packet == sample.query)
        assert origin[:3] == (1, 3, wire.UDP)
        assert origin.local == rig.engine._channels[lane].local
        assert sample.client.port == rig.clients[lane].getsockname()[1]
        assert sample.client.host == (bytes((127, 0, 0, 1)), bytes(15) + b"\1")[lane]
    assert rig.count[metrics.CAPTURE_TAKEN] == 4
    inner.close()
    outer.close()


def test_a_thread_that_does_not_go_on_is_noticed(rig: Rig) -> None:
    class Stuck(door.Loop):
        busy = True  # type: ignore[assignment]

    rig.module = SimpleNamespace(Loop=Stuck, Sight=door.Sight, Door=door.Door)

    async def test() -> None:
        assert [rig.engine.tick() for _ in range(engine.STUCK_TICKS + 2)] == [True] * engine.STUCK_TICKS + [False] * 2
        await rig.ask(plain(1))
        assert rig.engine.tick(), "it goes on after all"

    rig.run(test)


def test_without_a_batch_meanwhile_an_idle_thread_is_well(rig: Rig) -> None:
    async def test() -> None:
        assert all(rig.engine.tick() for _ in range(3 * engine.STUCK_TICKS))

    rig.run(test)
