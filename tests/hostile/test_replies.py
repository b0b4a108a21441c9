"""No reply to a reply, ever: two servers, or a server and itself under a false address, would never stop talking."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from dnsd import metrics
from dnsd.serve.udp import servfail
from tests.golden.packets import door, read
from tests.golden.world import Door
from tests.golden.world import wire as name
from tests.hostile.packets import asked, chains, hostile, typical
from tests.node import Node
from tests.oracle.ask import Question, wire
from tests.oracle.ask import read as read_reply

WORLD = door()
DOORS = [WORLD, Door(WORLD.image, tcp=True)]
TALKERS = (7, 13, 19, 53, 0)
"""Ports of services that answer whatever comes (echo, daytime, chargen), a server's own, and any."""


def replies() -> Iterator[bytes]:
    """The golden replies, and what is answered to typical and to hostile packets."""
    yield from (case.reply for case in read() if case.reply)
    for one in DOORS:
        for _, packet in (*typical(), *hostile(), *chains()):
            reply, _ = one.octets(packet)
            if reply:
                yield reply
                last_resort = servfail(packet)
                if last_resort:
                    yield last_resort


def test_no_reply_to_any_reply_of_ours() -> None:
    said = list(replies())
    assert len(said) > 5000
    for reply in said:
        for one in DOORS:
            assert one.octets(reply) == (None, {metrics.DROPPED: 1})
        assert servfail(reply) is None


@pytest.mark.parametrize("flags", range(0x80, 0x100))
def test_no_reply_to_any_packet_with_the_reply_bit(flags: int) -> None:
    for _, packet in typical():
        packet = packet[:2] + bytes([flags]) + packet[3:]
        assert DOORS[flags & 1].octets(packet) == (None, {metrics.DROPPED: 1})
        assert servfail(packet) is None


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_our_replies_sent_back_to_us(node: Callable[..., Node]) -> None:
    """From the ports that talkative services have, each of our replies is met with silence."""
    one = node(workers=1)
    own = name("static.demo.example")
    usual = [packet for _, packet in typical("demo.example")][:40]
    sent = [*usual, asked(own), asked(own, b"\0\xff\0\1"), b"x" * 600]
    for port in TALKERS:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            host = f"127.9.{port}.1"  # another prefix each: limits are for prefixes
            try:
                sock.bind((host, port))
            except PermissionError:  # then any port has to do
                sock.bind((host, 0))
            sock.connect((one.address, one.port))
            sock.settimeout(2)
            said = []
            for packet in sent:
                sock.send(packet)
                said.append(sock.recv(4096))
            for reply in said:
                sock.send(reply)
            sock.send(wire(Question("static.demo.example", "A"), 99))
            last = sock.recv(4096)
            assert last[:2] == b"\0\x63", "the first thing it says after our replies is the answer to a question"
            assert read_reply(last).addresses == ("192.0.2.81",)
