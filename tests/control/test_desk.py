"""The desk: whose answer a query gets, signed or not, and what one worker may ask for."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.tsig
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnsd.control import desk as control_desk
from dnsd.control import transfer, tsig
from dnsd.control.clock import Clock
from dnsd.control.desk import Answers, Desk
from dnsd.control.face import Control
from dnsd.control.transfer import Allowed, Content, Transfers
from dnsd.dns import names
from dnsd.image import desk
from dnsd.image.reading import Image
from tests.golden import world
from tests.serve.samples import image_bytes

SECRET = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEY = dns.tsig.Key("sec.", SECRET, "hmac-sha256")
KEYS = tsig.Keys([tsig.KeySettings(name="sec", algorithm="hmac-sha256", secret=SECRET)])
CLIENT = b"\x7f\0\0\1"
APEX = names.to_wire("demo.example")


class Served:
    def __init__(self, content: Content) -> None:
        self.contents = {APEX: content}
        self.zones = frozenset((APEX,))


def answers(allowed: Allowed = Allowed(["127.0.0.1"]), *, image: bool = True) -> Answers:  # noqa: B008 - a value
    zone = world.zone("demo.example.", "\n".join(f"n{i} TXT {'x' * 200}" for i in range(500)))
    content = transfer.content(zone, transfer.digest(zone), ())
    live = SimpleNamespace(image=Image(image_bytes()) if image else None)
    control = SimpleNamespace(node="n1", clock=Clock(), ecs_from=None, publisher=SimpleNamespace(live=live))
    return Answers(cast("Control", control), KEYS, Transfers({APEX: allowed}, Served(content)), Allowed())


def query(name: str, kind: str, *, signed: bool = True, payload: int = 1232) -> dns.message.Message:
    message = dns.message.make_query(name, kind, use_edns=0 if payload else None, payload=payload or None)
    if signed:
        message.use_tsig(KEY)
    return message


def asked(made: Answers, message: dns.message.Message, transport: int = desk.UDP) -> list[dns.message.Message]:
    packet = message.to_wire()
    found, context = [], None
    for reply in made.messages(desk.Ask(1, transport, CLIENT, 53, packet)):
        assert len(reply) <= (1232 if transport == desk.UDP else 16384)
        found.append(dns.message.from_wire(
            reply, keyring=KEY, request_mac=message.mac, xfr=True, multi=True, tsig_ctx=context))
        context = found[-1].tsig_ctx
    return found


@pytest.mark.parametrize("transport", [desk.UDP, desk.TCP, desk.TLS])
@pytest.mark.parametrize(("name", "kind", "rcode", "answers_"), [
    ("www.demo.example", "A", dns.rcode.NOERROR, 1), ("none.demo.example", "A", dns.rcode.NXDOMAIN, 0),
    ("demo.example", "SOA", dns.rcode.NOERROR, 1), ("elsewhere.example", "A", dns.rcode.REFUSED, 0)])
def test_a_signed_query_is_answered_from_the_own_image(
    transport: int, name: str, kind: str, rcode: int, answers_: int,
) -> None:
    [reply] = asked(answers(), query(name, kind), transport)
    assert reply.had_tsig
    assert (reply.rcode(), len(reply.answer)) == (rcode, answers_)


@pytest.mark.parametrize("payload", [0, 512, 600, 1232, 4096])
def test_what_its_signature_makes_too_long_is_cut(payload: int) -> None:
    for name in ("big.demo.example", "www.demo.example"):
        message = query(name, "TXT" if name.startswith("big") else "A", payload=payload)
        [reply] = asked(answers(), message)
        assert bool(reply.flags & dns.flags.TC) == name.startswith("big")
        assert reply.had_tsig
        [whole] = asked(answers(), query(name, "TXT", payload=payload), desk.TCP)
        assert not whole.flags & dns.flags.TC


def test_a_transfer_is_signed_message_by_message() -> None:
    messages = asked(answers(), query("demo.example", "AXFR"), desk.TCP)
    assert len(messages) > 5
    assert all(message.had_tsig for message in messages)
    assert sum(len(rrset) for message in messages for rrset in message.answer) == 500 + 4
    made = answers(Allowed(["key:sec"]))
    assert len(asked(made, query("demo.example", "AXFR"), desk.TCP)) > 5
    [refused] = asked(made, query("demo.example", "AXFR", signed=False), desk.TCP)
    assert refused.rcode() == dns.rcode.REFUSED
    assert made.described()["transfers"] == 2


@pytest.mark.parametrize("transport", [desk.UDP, desk.TCP])
@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "SOA"])
def test_an_unknown_version_of_edns_is_told_signed(kind: str, transport: int) -> None:
    message = query("demo.example", kind)
    message.use_edns(1)
    [reply] = asked(answers(), message, transport)
    assert (reply.rcode(), reply.edns, reply.had_tsig) == (dns.rcode.BADVERS, 0, True)
    assert not reply.answer


@pytest.mark.parametrize("kind", ["SOA", "AXFR"])
def test_what_cannot_be_read_behind_a_right_signature_is_told_signed(kind: str) -> None:
    message = query("demo.example", kind)
    message.use_edns(0, options=[dns.edns.GenericOption(dns.edns.OptionType.ECS, b"\0\1\x19\0\1\2")])
    replies = asked(answers(), message, desk.UDP)
    assert [(reply.rcode(), reply.had_tsig) for reply in replies] == [(dns.rcode.FORMERR, True)]


def test_who_has_shown_a_right_signature_is_known() -> None:
    made = answers()
    wrong = dns.message.make_query("www.demo.example", "A")
    wrong.use_tsig(dns.tsig.Key("sec.", b"x" * 32, "hmac-sha256"))
    right = query("www.demo.example", "A")
    for transport, message in ((desk.TCP, wrong), (desk.TCP, query("demo.example", "AXFR", signed=False)),
                               (desk.UDP, right)):
        list(made.messages(desk.Ask(1, transport, CLIENT, 53, message.to_wire())))
        assert not made.knows(CLIENT), "over UDP an address can be forged"
    asked(made, right, desk.TCP)
    assert made.knows(CLIENT)
    assert not made.knows(b"\x7f\0\0\2")
    for number in range(control_desk.KNOWN):
        list(made.messages(desk.Ask(1, desk.TCP, number.to_bytes(4, "big"), 53, right.to_wire())))
    assert not made.knows(CLIENT), "only the last ones are"


def test_a_bad_signature_is_counted() -> None:
    made = answers()
    message = dns.message.make_query("demo.example", "AXFR")
    message.use_tsig(dns.tsig.Key("other.", SECRET, "hmac-sha256"))
    [reply] = made.messages(desk.Ask(1, desk.TCP, CLIENT, 0, message.to_wire()))
    assert dns.message.from_wire(reply, keyring=False).rcode() == dns.rcode.NOTAUTH
    assert made.described()["bad_signatures"]["BADKEY"] == 1


def test_without_an_image_or_with_a_fault_it_is_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    [reply] = asked(answers(image=False), query("www.demo.example", "A"))
    assert reply.rcode() == dns.rcode.SERVFAIL

    def broken(*_: object) -> bytes:
        raise RuntimeError("a fault")

    monkeypatch.setattr(control_desk, "respond", broken)
    packet = query("www.demo.example", "A").to_wire()
    [data] = answers().messages(desk.Ask(1, desk.UDP, CLIENT, 53, packet))
    assert dns.message.from_wire(data).rcode() == dns.rcode.SERVFAIL


MADE = answers()
SIGNED = query("demo.example", "AXFR").to_wire()


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(
    st.binary(min_size=12, max_size=300),
    st.tuples(st.integers(0, len(SIGNED) - 1), st.integers(0, 255)).map(
        lambda change: SIGNED[: change[0]] + bytes((change[1],)) + SIGNED[change[0] + 1 :]),
    st.integers(12, len(SIGNED)).map(lambda size: SIGNED[:size]),
), st.sampled_from([desk.UDP, desk.TCP]))
def test_nothing_raises_and_everything_is_an_answer(packet: bytes, transport: int) -> None:
    for reply in MADE.messages(desk.Ask(1, transport, CLIENT, 53, packet)):
        assert reply[:2] == packet[:2]
        assert reply[2] & 0x80


# --- sockets ---


class Rig:
    def __init__(self, answer: Callable[[desk.Ask], Iterator[bytes]],
                 knows: Callable[[bytes], bool] = lambda client: False) -> None:
        self.now = 100.0
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.workers = [theirs for _, theirs in pairs]
        self._sockets = [sock for pair in pairs for sock in pair]
        self.desk = Desk([ours for ours, _ in pairs], answer, lambda: self.now, knows)
        for sock in self.workers:
            sock.setblocking(False)
        self.desk.start()

    def say(self, word: desk.Word, worker: int = 0) -> None:
        self.workers[worker].send(desk.encode(word))

    async def hear(self, worker: int = 0) -> desk.Reply:
        async with asyncio.timeout(5):
            data = await asyncio.get_running_loop().sock_recv(self.workers[worker], desk.PACKET_MAX)
        word = desk.decode(data)
        assert isinstance(word, desk.Reply)
        return word

    def close(self) -> None:
        self.desk.close()
        for sock in self._sockets:
            sock.close()


def ask(number: int, transport: int = desk.TCP, packet: bytes = b"x" * 17) -> desk.Ask:
    return desk.Ask(number, transport, CLIENT, 53, packet)


def counting(ask: desk.Ask) -> Iterator[bytes]:
    yield from (b"%d" % number for number in range(3))


@pytest.mark.asyncio
async def test_messages_are_made_as_they_are_pulled() -> None:
    made: list[int] = []

    def lazy(ask: desk.Ask) -> Iterator[bytes]:
        for number in range(4):
            made.append(number)
            yield b"%d" % number

    rig = Rig(lazy)
    rig.say(ask(7))
    assert await rig.hear() == desk.Reply(7, True, b"0")
    assert len(made) == 2, "the next one is known, no more"
    for number in (1, 2, 3):
        rig.say(desk.Next(7))
        assert await rig.hear() == desk.Reply(7, number < 3, b"%d" % number)
    rig.say(desk.Next(7))
    assert await rig.hear() == desk.Reply(7, False, b""), "nothing is known of it any more"
    assert rig.desk.described()["open"] == 0
    rig.close()


@pytest.mark.asyncio
async def test_workers_do_not_share_numbers_and_a_new_one_has_none() -> None:
    rig = Rig(counting)
    for worker in (0, 1):
        rig.say(ask(7), worker)
        assert (await rig.hear(worker)).message == b"0"
    rig.say(desk.Gone(7), 0)
    rig.say(desk.Next(7), 0)
    assert await rig.hear(0) == desk.Reply(7, False, b"")
    rig.say(desk.Next(7), 1)
    assert await rig.hear(1) == desk.Reply(7, True, b"1")
    rig.say(desk.Gone(0), 1)
    rig.say(desk.Next(7), 1)
    assert await rig.hear(1) == desk.Reply(7, False, b"")
    rig.close()


@pytest.mark.asyncio
async def test_over_udp_there_is_one_message() -> None:
    rig = Rig(counting)
    rig.say(ask(7, desk.UDP))
    assert await rig.hear() == desk.Reply(7, False, b"0")
    assert rig.desk.described()["open"] == 0
    rig.close()


@pytest.mark.asyncio
async def test_a_worker_has_a_rate_and_the_other_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_desk, "RATE", 10.0)
    rig = Rig(lambda ask: iter((b"yes",)))
    for number in range(1, 13):
        rig.say(ask(number, desk.UDP))
        assert (await rig.hear()).message == (b"yes" if number <= 10 else b"")
    rig.say(ask(1, desk.UDP), 1)
    assert (await rig.hear(1)).message == b"yes"
    rig.say(ask(1, desk.TCP))
    assert (await rig.hear()).message == b"yes", "who comes by TCP does not pay for forged senders"
    rig.now += 0.2
    for number, message in enumerate((b"yes", b"yes", b""), 20):
        rig.say(ask(number, desk.UDP))
        assert (await rig.hear()).message == message
    assert rig.desk.described() == {"asked": 17, "over_rate": 3, "open": 0}
    rig.close()


@pytest.mark.asyncio
async def test_all_workers_together_have_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_desk, "RATE", 10.0)
    monkeypatch.setattr(control_desk, "RATE_OF_ALL", 10.0)
    rig = Rig(lambda ask: iter((b"yes",)))
    for number in range(1, 8):
        rig.say(ask(number))
        assert (await rig.hear()).message == (b"yes" if number <= 5 else b"")
    rig.say(ask(1), 1)
    assert (await rig.hear(1)).message == b"yes"
    rig.close()


@pytest.mark.asyncio
async def test_a_worker_is_told_whom_this_process_knows() -> None:
    rig = Rig(counting, knows=lambda client: client == CLIENT)
    rig.say(ask(7))
    assert await rig.hear() == desk.Reply(7, True, b"0", known=True)
    rig.say(desk.Ask(8, desk.UDP, b"\x7f\0\0\2", 53, b"x" * 17))
    assert await rig.hear() == desk.Reply(8, False, b"0")
    rig.close()


@pytest.mark.asyncio
async def test_what_is_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_desk, "STREAMS", 3)
    rig = Rig(counting)
    for number in range(1, 6):
        rig.say(ask(number))
        await rig.hear()
    assert rig.desk.described()["open"] == 3
    rig.say(desk.Next(1))
    assert await rig.hear() == desk.Reply(1, False, b"")
    rig.say(desk.Next(5))
    assert await rig.hear() == desk.Reply(5, True, b"1")
    rig.close()


@pytest.mark.asyncio
async def test_a_worker_that_does_not_read_loses_nothing_at_first() -> None:
    rig = Rig(lambda ask: iter((bytes(60000),)))
    for number in range(1, 33):
        rig.say(ask(number, desk.UDP))
    await asyncio.sleep(0.05)
    assert [(await rig.hear()).id for _ in range(32)] == list(range(1, 33))
    rig.say(ask(40))
    assert (await rig.hear()).id == 40
    rig.close()


def test_keys_by_name() -> None:
    with pytest.raises(ValueError, match="base64"):
        tsig.Keys([tsig.KeySettings(name="k", algorithm="hmac-sha256", secret="???")])
    assert not tsig.Keys()
    kept: Any = KEYS.get("SEC")
    assert kept == KEY
