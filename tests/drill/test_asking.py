"""Questions as another implementation reads them, and its replies taken apart."""

from __future__ import annotations

import asyncio
import socket

import dns.edns
import dns.message
import dns.rrset
import pytest

from dnsd.drill import asking

NAME = "api-1.drill.example."


def test_a_question_is_one() -> None:
    message = dns.message.from_wire(asking.question(NAME, 77))
    assert (message.id, message.question[0].to_text()) == (77, f"{NAME} IN A")
    assert message.flags & dns.flags.RD
    assert [option.otype for option in message.options] == [dns.edns.NSID]


def reply(*records: str, rcode: str = "NOERROR", nsid: bytes = b"fra-1 w0") -> bytes:
    question = dns.message.from_wire(asking.question(NAME, 77))
    message = dns.message.make_response(question)
    message.set_rcode(dns.rcode.from_text(rcode))
    options = ((dns.edns.COOKIE, b"cookie!!"), (dns.edns.NSID, nsid))
    message.use_edns(options=[dns.edns.GenericOption(*option) for option in options])
    for record in records:
        name, ttl, kind, data = record.split(None, 3)
        message.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return message.to_wire()


@pytest.mark.parametrize(("wire", "answer"), [
    (reply(f"{NAME} 8 A 10.20.1.10"), asking.Answer(0, ("10.20.1.10",), 8, "fra-1 w0")),
    (reply(f"{NAME} 9 CNAME other.example.", "other.example. 5 A 10.0.0.1", "other.example. 5 A 10.0.0.2"),
     asking.Answer(0, ("10.0.0.1", "10.0.0.2"), 5, "fra-1 w0")),
    (reply(rcode="NXDOMAIN", nsid=b""), asking.Answer(3, (), 0, "")),
])
def test_a_reply_is_taken_apart(wire: bytes, answer: asking.Answer) -> None:
    found = asking.answer(wire)
    assert found._replace(addresses=tuple(sorted(found.addresses))) == answer


@pytest.mark.parametrize("wire", [b"", b"\0" * 11, reply(f"{NAME} 8 A 10.20.1.10")[:-3], b"\0" * 5 + b"\1" + b"\0" * 6])
def test_what_is_no_reply_says_so(wire: bytes) -> None:
    with pytest.raises(ValueError, match="no reply"):
        asking.answer(wire)


@pytest.mark.asyncio
async def test_answers_find_their_questions_and_silence_ends() -> None:
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.held = transport, list[bytes]()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.held.append(data)
            if len(self.held) == 2:  # the later one is answered first
                for number, one in enumerate(reversed(self.held)):
                    wire = reply(f"{NAME} 8 A 10.0.0.{number}")
                    self.transport.sendto(one[:2] + wire[2:], addr)  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    asker = await asking.Asker.open(socket.socket(type=socket.SOCK_DGRAM), transport.get_extra_info("sockname"))
    first, second = await asyncio.gather(asker.ask(NAME, 5), asker.ask(NAME, 5))
    assert (first.addresses, second.addresses) == (("10.0.0.1",), ("10.0.0.0",))
    with pytest.raises(TimeoutError):
        await asker.ask(NAME, 0.05)
    asker.close()
    transport.close()
