"""`dnsd query` against a scripted DNS server whose messages dnspython makes."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from typer.testing import CliRunner

from dnsd.cli import app
from dnsd.cli.failure import Exit
from dnsd.cli.query import parse_subnet
from tests.node import free_port

Answer = Callable[[dns.message.Message, bool], bytes | None]


class Server:
    """One UDP socket and one TCP listener on the same port; `answer(query, tcp)` makes each reply."""

    def __init__(self) -> None:
        self.port = free_port()
        self.seen: list[tuple[dns.message.Message, bool]] = []
        self.answer: Answer = lambda query, tcp: self.reply(query).to_wire()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.tcp = socket.create_server(("127.0.0.1", self.port))
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._datagrams, self._streams)]
        for thread in self.threads:
            thread.start()

    def reply(self, query: dns.message.Message, *rrsets: dns.rrset.RRset) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA
        reply.answer = list(rrsets)
        return reply

    def made(self, wire: bytes, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        self.seen.append((query, tcp))
        return self.answer(query, tcp)

    def _datagrams(self) -> None:
        while True:
            wire, peer = self.udp.recvfrom(4096)
            if not wire:
                return
            reply = self.made(wire, False)
            if reply is not None:
                self.udp.sendto(reply, peer)

    def _streams(self) -> None:
        while True:
            connection, _ = self.tcp.accept()
            with connection:
                head = connection.recv(2)
                if not head:
                    return
                reply = self.made(connection.recv(struct.unpack("!H", head)[0]), True)
                if reply is not None:
                    connection.sendall(struct.pack("!H", len(reply)) + reply)

    def close(self) -> None:
        self.udp.sendto(b"", ("127.0.0.1", self.port))
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self.threads:
            thread.join()
        self.udp.close()
        self.tcp.close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


def query(server: Server, *words: str) -> Any:
    return CliRunner().invoke(app.build(["query"]), ["query", *words, "-s", f"127.0.0.1:{server.port}"])


def asked(server: Server, *words: str) -> dict[str, Any]:
    done = query(server, *words, "--json")
    assert done.exit_code == Exit.OK, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


A = dns.rrset.from_text("www.demo.example.", 60, "IN", "A", "192.0.2.1", "192.0.2.2")


def test_an_answer_as_json(server: Server) -> None:
    server.answer = lambda query, tcp: server.reply(query, A).to_wire()
    found = asked(server, "www.demo.example")
    assert found["status"] == "NOERROR"
    assert found["flags"] == ["qr", "aa"]
    assert sorted(found["answer"], key=lambda record: record["data"]) == [  # dnspython shuffles what it writes
        {"name": "www.demo.example.", "ttl": 60, "type": "A", "data": data} for data in ("192.0.2.1", "192.0.2.2")]
    sent, tcp = server.seen[0]
    assert (sent.question[0].to_text(), tcp, sent.flags & dns.flags.RD) == ("www.demo.example. IN A", False, 0)
    assert sent.payload == 1232


def test_subnet_scope_nsid_and_error_texts(server: Server) -> None:
    def answer(query: dns.message.Message, tcp: bool) -> bytes:
        reply = server.reply(query, A)
        options = [
            dns.edns.ECSOption("203.0.113.0", 24, 20), dns.edns.GenericOption(3, b"node1 w0"),
            dns.edns.EDEOption(29, "why"),
        ]
        reply.use_edns(0, payload=1232, options=options)
        return reply.to_wire()

    server.answer = answer
    found = asked(server, "www.demo.example", "--subnet", "203.0.113.77/24", "--nsid")
    assert found["edns"] == {
        "udp": 1232, "version": 0, "subnet": {"address": "203.0.113.0", "source": 24, "scope": 20}, "nsid": "node1 w0",
        "errors": [{"code": 29, "text": "why"}]}
    sent = {int(option.otype): option for option in server.seen[0][0].options}
    assert sent[8].to_text() == "ECS 203.0.113.0/24 scope/0"
    assert 3 in sent
    text = query(server, "www.demo.example", "--subnet", "203.0.113.77/24").stdout
    assert ";; subnet: 203.0.113.0/24  scope: /20" in text
    assert ";; nsid: node1 w0" in text


def test_truncated_is_asked_again_over_tcp(server: Server) -> None:
    def answer(query: dns.message.Message, tcp: bool) -> bytes:
        reply = server.reply(query, A)
        if not tcp:
            reply.answer, reply.flags = [], reply.flags | dns.flags.TC
        return reply.to_wire()

    server.answer = answer
    assert len(asked(server, "www.demo.example")["answer"]) == 2
    assert [tcp for _, tcp in server.seen] == [False, True]
    asked(server, "www.demo.example", "--tcp")
    assert server.seen[-1][1]


@pytest.mark.parametrize(("rcode", "code"), [("NXDOMAIN", 0), ("SERVFAIL", Exit.FAILED), ("REFUSED", Exit.FAILED)])
def test_rcodes_as_exit_codes(server: Server, rcode: str, code: Exit) -> None:
    def answer(query: dns.message.Message, tcp: bool) -> bytes:
        reply = server.reply(query)
        reply.set_rcode(dns.rcode.from_text(rcode))
        return reply.to_wire()

    server.answer = answer
    done = query(server, "www.demo.example")
    assert (done.exit_code, rcode in done.stdout) == (code, True)


def test_badvers(server: Server) -> None:
    def answer(query: dns.message.Message, tcp: bool) -> bytes:
        reply = server.reply(query)
        reply.use_edns(0)
        reply.set_rcode(dns.rcode.BADVERS)
        return reply.to_wire()

    server.answer = answer
    assert "BADVERS" in query(server, "www.demo.example").stdout


def test_unknown_types_go_and_come(server: Server) -> None:
    unknown = dns.rrset.from_text("future.demo.example.", 60, "IN", "TYPE65534", "\\# 4 0a000001")
    server.answer = lambda query, tcp: server.reply(query, unknown).to_wire()
    found = asked(server, "future.demo.example", "type65534")
    assert found["answer"][0]["type"] == "TYPE65534"
    assert server.seen[0][0].question[0].rdtype == 65534


def test_another_answers_datagram_is_passed_over(server: Server) -> None:
    def answer(query: dns.message.Message, tcp: bool) -> bytes:
        reply = server.reply(query, A).to_wire()
        return bytes([reply[0] ^ 1]) + reply[1:]

    server.answer = answer
    assert query(server, "www.demo.example", "--timeout", "0.2").exit_code == Exit.UNREACHABLE


@pytest.mark.parametrize("reply", [b"\x80" * 12, b"\x81\x80" + b"\xff" * 30])
def test_an_answer_that_cannot_be_read(server: Server, reply: bytes) -> None:
    server.answer = lambda query, tcp: struct.pack("!H", query.id) + b"\x84" + reply
    assert query(server, "www.demo.example").exit_code == Exit.FAILED


def test_no_server_is_4(port: int) -> None:
    done = CliRunner().invoke(app.build(["query"]), ["query", "a.example", "-s", f"127.0.0.1:{port}"])
    assert done.exit_code == Exit.UNREACHABLE


@pytest.mark.parametrize("words", [
    ["a.example", "NOTYPE"], ["a.example", "A", "-s", "nowhere:53"], ["a.example", "A", "--subnet", "1.2.3"],
    ["a." * 200, "A"], ["a" * 64 + ".example", "A"],
])
def test_wrong_questions_are_2(port: int, words: list[str]) -> None:
    words = [*words, *([] if "-s" in words else ["-s", f"127.0.0.1:{port}"])]
    assert CliRunner().invoke(app.build(["query"]), ["query", *words]).exit_code == Exit.USAGE


@pytest.mark.parametrize(("text", "data"), [
    ("0", "00010000"), ("203.0.113.9", "00012000cb007109"), ("203.0.113.9/20", "00011400cb0070"),
    ("2001:db8::1/56", "0002380020010db8000000"), ("::/0", "00020000"), ("128.0.0.0/1", "0001010080"),
])
def test_subnet_option(text: str, data: str) -> None:
    assert parse_subnet(text).hex() == data
