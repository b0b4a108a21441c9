"""NOTIFY to secondaries that hear, do not, or say no."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.tsig
import pytest

from dnsd.control import notify, transfer
from dnsd.control.clock import Clock
from dnsd.control.notify import Notifier, Target
from dnsd.control.transfer import Content
from dnsd.dns import names
from tests.golden import world

pytestmark = pytest.mark.asyncio

APEX = names.to_wire("demo.example")
KEY = dns.tsig.Key("sec.", base64.b64encode(b"0123456789abcdef").decode(), "hmac-sha256")


def content(serial: int) -> Content:
    zone = world.zone("demo.example.", "")
    return Content(transfer.with_serial(zone, serial), (), (), "d")


class Quick(Clock):
    """Sleeps pass at once, and are written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0.001)


class Secondary:
    """What it hears, and what it says to it."""

    def __init__(self, answer: Callable[[dns.message.Message, bytes], bytes | None], key: dns.tsig.Key | None = None,
                 family: socket.AddressFamily = socket.AF_INET) -> None:
        self.heard: list[dns.message.Message] = []
        self._answer, self._key = answer, key
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self.sock, self._readable)

    def _readable(self) -> None:
        data, peer = self.sock.recvfrom(4096)
        message = dns.message.from_wire(data, keyring=self._key)
        self.heard.append(message)
        reply = self._answer(message, data)
        if reply is not None:
            self.sock.sendto(reply, peer)

    @property
    def serials(self) -> list[int]:
        return [each.answer[0][0].serial for each in self.heard]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()


def yes(message: dns.message.Message, _: bytes) -> bytes:
    return dns.message.make_response(message).to_wire()


def no(message: dns.message.Message, _: bytes) -> bytes:
    reply = dns.message.make_response(message)
    reply.set_rcode(dns.rcode.REFUSED)
    return reply.to_wire()


class Rig:
    def __init__(self, secondary: Secondary, key: dns.tsig.Key | None = None) -> None:
        self.contents = {APEX: content(1)}
        self.taken = asyncio.Event()
        self.clock = Quick()
        self.target = Target(APEX, *secondary.sock.getsockname()[:2], key)
        self.order: list[str] = []
        self.notifier = Notifier([self.target], lambda: self.contents, self._everywhere, self.clock)
        self.task = asyncio.create_task(self.notifier.run(self.taken))

    async def _everywhere(self) -> None:
        self.order.append("everywhere")

    def serve(self, serial: int) -> None:
        self.contents = {APEX: content(serial)}
        self.taken.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not done():
                await asyncio.sleep(0.002)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "signed"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
async def test_every_new_serial_is_told_once(key: dns.tsig.Key | None, family: socket.AddressFamily) -> None:
    secondary = Secondary(yes, key, family)
    rig = Rig(secondary, key)
    rig.taken.set()  # at start
    await rig.until(lambda: rig.target.heard == 1)
    rig.taken.set()
    rig.serve(2)
    await rig.until(lambda: rig.target.heard == 2)
    rig.serve(2)
    await asyncio.sleep(0.02)
    assert secondary.serials == [1, 2]
    message = secondary.heard[0]
    assert (message.opcode(), message.flags & ~0x7800) == (dns.opcode.NOTIFY, dns.flags.AA)
    assert [message.question[0].rdtype, message.had_tsig] == [dns.rdatatype.SOA, key is not None]
    assert len({each.id for each in secondary.heard}) == 2
    [told] = rig.notifier.described("demo.example.")
    assert (told["serial"], told["error"]) == (2, None)
    assert told["address"] == rig.target.address
    assert rig.notifier.described("else.example.") == []
    await rig.close()
    secondary.close()


async def test_a_refusal_is_tried_again_longer_and_longer_and_not_for_ever() -> None:
    secondary = Secondary(no)
    rig = Rig(secondary)
    rig.taken.set()
    await rig.until(lambda: len(secondary.heard) == notify.ATTEMPTS)
    await asyncio.sleep(0.05)
    assert len(secondary.heard) == notify.ATTEMPTS
    assert rig.clock.slept[:8] == [1, 2, 4, 8, 16, 32, 64, 64]
    assert (rig.target.heard, rig.target.error) == (None, "answered REFUSED")
    rig.serve(2)
    await rig.until(lambda: len(secondary.heard) == 2 * notify.ATTEMPTS)
    await rig.close()
    secondary.close()


async def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "ANSWER_S", 0.01)
    secondary = Secondary(lambda message, data: None)
    rig = Rig(secondary)
    rig.taken.set()
    await rig.until(lambda: rig.target.attempts == notify.ATTEMPTS)
    await rig.until(lambda: rig.target.error == "no answer")
    await rig.close()
    secondary.close()


async def test_nobody_there_is_said() -> None:
    secondary = Secondary(yes)
    rig = Rig(secondary)
    secondary.close()
    rig.taken.set()
    await rig.until(lambda: rig.target.error == "Connection refused")
    await rig.close()


@pytest.mark.parametrize(("answer", "error"), [
    (lambda message, data: b"\0" * 12, "no answer"),
    (lambda message, data: data[:2] + bytes([data[2]]) + data[3:], "no answer"),
    (lambda message, data: data[:2] + b"\xa4", "no answer"),
    (lambda message, data: data[:2] + b"\xa4\0\0\7\0\0\0\0\0\0", "its answer cannot be read"),
    (lambda message, data: data[:2] + b"\x84\0" + bytes(8), "no answer"),
    (lambda message, data: data[:2] + b"\xa4\0" + bytes(8), ""),
])
async def test_strange_answers(monkeypatch: pytest.MonkeyPatch, error: str,
                               answer: Callable[[dns.message.Message, bytes], bytes]) -> None:
    monkeypatch.setattr(notify, "ANSWER_S", 0.05)
    monkeypatch.setattr(notify, "ATTEMPTS", 1)
    secondary = Secondary(answer)
    rig = Rig(secondary)
    rig.taken.set()
    await rig.until(lambda: rig.target.error.startswith(error) if error else rig.target.heard == 1)
    await rig.close()
    secondary.close()


async def test_an_unsigned_answer_to_a_signed_notify_is_none() -> None:
    def unsigned(message: dns.message.Message, data: bytes) -> bytes:
        return message.id.to_bytes(2, "big") + b"\xa4\0" + bytes(8)

    secondary = Secondary(unsigned, KEY)
    rig = Rig(secondary, KEY)
    rig.taken.set()
    await rig.until(lambda: "requires a TSIG" in rig.target.error)
    await rig.close()
    secondary.close()


async def test_a_zone_that_is_not_transferred_is_not_told() -> None:
    secondary = Secondary(yes)
    rig = Rig(secondary)
    rig.contents = {APEX: content(1)._replace(faults=("no fallback",))}
    rig.taken.set()
    await rig.until(lambda: rig.target.error == "not told: no fallback")
    assert not secondary.heard
    rig.serve(2)
    await rig.until(lambda: rig.target.heard == 2)
    assert rig.target.error == ""
    await rig.close()
    secondary.close()
