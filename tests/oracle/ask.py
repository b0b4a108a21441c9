"""Many DNS questions over UDP from many ports, and what came back, through dnspython.

Lives here: sending in windows, matching replies, reading answers, scope and name server id. Does not live here: what is
right.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

WINDOW = 64
TRIES = 3
SECONDS = 2.0


class Question(NamedTuple):
    """A name and type, the client subnet sent with it (None: no ECS), the local address it is asked from."""

    name: str
    type: str
    subnet: IPv4Network | IPv6Network | None = None
    source: str = "127.0.0.1"


class Answer(NamedTuple):
    """What a reply said. `scope` is None where it carried no ECS; `worker` and `stamp` are parts of the NSID."""

    rcode: str
    addresses: tuple[str, ...]
    ttl: int | None
    scope: int | None
    worker: str
    stamp: str


def ask(port: int, questions: Sequence[Question], *, host: str = "127.0.0.1") -> list[Answer]:
    """The answers, in the questions' order; each question from one of many ports, lost ones asked again."""
    answers: list[Answer | None] = [None] * len(questions)
    for _ in range(TRIES):
        left = [number for number, answer in enumerate(answers) if answer is None]
        for first in range(0, len(left), WINDOW):
            _window(host, port, questions, answers, left[first : first + WINDOW])
    lost = [question for question, answer in zip(questions, answers, strict=True) if answer is None]
    assert not lost, f"{len(lost)} of {len(questions)} questions were never answered, the first: {lost[0]}"
    return [answer for answer in answers if answer is not None]


def wire(question: Question, number: int) -> bytes:
    """The query as octets."""
    options: list[dns.edns.Option] = [dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")]
    if question.subnet is not None:
        options.append(dns.edns.ECSOption(str(question.subnet.network_address), question.subnet.prefixlen, 0))
    query = dns.message.make_query(question.name, question.type, use_edns=0, payload=1232, options=options, flags=0)
    query.id = number & 0xFFFF
    return query.to_wire()


def read(data: bytes) -> Answer:
    """A reply's octets as an Answer; anything malformed raises."""
    reply = dns.message.from_wire(data)
    assert reply.flags & dns.flags.QR
    rrset = reply.answer[-1] if reply.answer else None
    addresses = tuple(str(rdata) for rdata in rrset) if rrset is not None else ()
    scope, words = None, ["", "", ""]
    for option in reply.options:
        if isinstance(option, dns.edns.ECSOption):
            scope = option.scopelen
        elif option.otype == dns.edns.OptionType.NSID:
            text = option.nsid if isinstance(option, dns.edns.NSIDOption) else getattr(option, "data", b"")
            words = bytes(text).decode().split()
    return Answer(dns.rcode.to_text(reply.rcode()), addresses, rrset.ttl if rrset is not None else None, scope,
                  words[1], words[-1])


def _window(host: str, port: int, questions: Sequence[Question], answers: list[Answer | None],
            numbers: Sequence[int]) -> None:
    """Asks these questions at once, each from a socket of its own."""
    sockets: dict[socket.socket, int] = {}
    try:
        for number in numbers:
            question = questions[number]
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            sockets[sock] = number
            if ":" not in host:
                sock.bind((question.source, 0))
            sock.connect((host, port))
            sock.send(wire(question, number))
        deadline, waiting = time.monotonic() + SECONDS, set(sockets)
        while waiting and time.monotonic() < deadline:
            for sock in select.select(list(waiting), [], [], 0.1)[0]:
                data = sock.recv(65535)
                if data[:2] == (sockets[sock] & 0xFFFF).to_bytes(2, "big"):
                    answers[sockets[sock]] = read(data)
                    waiting.discard(sock)
    finally:
        for sock in sockets:
            sock.close()
