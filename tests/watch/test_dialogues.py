"""The protocols as octets: every reply in every cut gives the same verdict, and no reply breaks anything."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from io import BytesIO

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.watch.outcome import READ, Dialogue, Reason
from dnsd.watch.probe_dns import Dns
from dnsd.watch.probe_grpc import Grpc, frame
from dnsd.watch.probe_http import Http, request
from dnsd.watch.probe_tls import Tls
from dnsd.watch.target import Check

HTTP = Check("http", 80, host="a.example", text=b"good")
GRPC = Check("grpc", 50051)
HEAD = b"HTTP/1.1 200 OK\r\n"


def verdict(dialogue: Dialogue, *parts: bytes) -> Reason:
    dialogue.opening()
    for part in parts:
        reason, _ = dialogue.received(part)
        if reason is not None:
            return reason
    return dialogue.ended(Reason.CLOSED)


HTTP_REPLIES: list[tuple[bytes, Reason]] = [
    (HEAD + b"\r\nall good", Reason.OK),
    (HEAD + b"\r\ngoo", Reason.TEXT),
    (HEAD + b"X: good\r\n\r\n", Reason.TEXT),
    (HEAD + b"X: good", Reason.CLOSED),
    (HEAD + b"content-length: 3\r\n\r\nbad, not good", Reason.OK),
    (HEAD.replace(b"\r", b"") + b"\ngood", Reason.OK),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\ngo\r\n2;x=y\r\nod\r\n0\r\n\r\n", Reason.OK),
    (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\nA\r\n1234567890\r\n0\r\n\r\n", Reason.TEXT),
    (HEAD + b"TRANSFER-ENCODING:chunked\r\n\r\nno number\r\ngood", Reason.TEXT),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\nall good", Reason.OK),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n" + HEAD + b"\r\ngood", Reason.OK),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\ngood", Reason.STATUS),
    (b"HTTP/1.1 101 Switching\r\n\r\n", Reason.STATUS),
    (b"HTTP/1.1 600 What\r\n\r\n", Reason.PROTOCOL),
    (b"HTTP/1.1 2000 What\r\n\r\n", Reason.PROTOCOL),
    (b"HTTP/2.0 200 OK\r\n\r\n", Reason.PROTOCOL),
    (b"http/1.1 200 OK\r\n\r\n", Reason.PROTOCOL),
    (b"\r\nHTTP/1.1 200 OK\r\n\r\n", Reason.PROTOCOL),
    (b"HTTP/1.1", Reason.CLOSED),
    (b"", Reason.CLOSED),
]


@pytest.mark.parametrize(("data", "reason"), HTTP_REPLIES)
def test_http_replies_whole_and_octet_by_octet(data: bytes, reason: Reason) -> None:
    assert verdict(Http(HTTP, "192.0.2.1"), data) is reason
    if b"content-length" not in data:  # what is beyond the length is read only if it came along
        assert verdict(Http(HTTP, "192.0.2.1"), *(data[i : i + 1] for i in range(len(data)))) is reason


def test_a_length_that_is_reached_ends_the_search() -> None:
    assert Http(HTTP, "192.0.2.1").received(HEAD + b"Content-Length: 3\r\n\r\nbad")[0] is Reason.TEXT
    assert Http(HTTP, "192.0.2.1").received(HEAD + b"Content-Length: 4\r\n\r\nbad")[0] is None


@pytest.mark.parametrize(("check", "host"), [
    (Check("http", 80, host="a.example"), "a.example"),
    (Check("http", 443, host="a.example"), "a.example:443"),
    (Check("https", 443, host="a.example"), "a.example"),
    (Check("https", 80), "192.0.2.1:80"),
    (Check("http", 80, host="2001:db8::1"), "[2001:db8::1]"),
    (Check("http", 8080, host="2001:db8::1", method="HEAD", path="/a?b=c"), "[2001:db8::1]:8080"),
])
def test_the_request_is_what_a_server_reads(check: Check, host: str) -> None:
    class Reader(BaseHTTPRequestHandler):
        def __init__(self, data: bytes) -> None:
            self.rfile = BytesIO(data)
            self.raw_requestline = self.rfile.readline()
            assert self.parse_request()

    read = Reader(request(check, "192.0.2.1"))
    assert (read.command, read.path, read.headers["Host"]) == (check.method, check.path, host)
    assert sorted(read.headers) == ["Accept", "Connection", "Host", "User-Agent"]
    assert not read.rfile.read()


SETTINGS = frame(4, 0, 0, b"\0\3\0\0\0\x64")
ANSWER = frame(1, 4, 1, b"\x88")


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


GRPC_REPLIES: list[tuple[bytes, Reason]] = [
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08\1")), Reason.OK),
    (SETTINGS + frame(8, 0, 0, b"\0\0\1\0") + frame(6, 0, 0, b"12345678") + frame(4, 1, 0, b"") + ANSWER
     + frame(0, 1, 1, message(b"\x08\1")), Reason.OK),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08\1")[:3]) + frame(0, 0, 1, message(b"\x08\1")[3:]), Reason.OK),
    (SETTINGS + ANSWER + frame(0, 8, 1, b"\2" + message(b"\x08\1") + b"\0\0"), Reason.OK),
    (SETTINGS + ANSWER + frame(0, 8, 1, b"\x20" + message(b"\x08\1")), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 8, 1, b""), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x12\3abc\x08\1\x1d1234\x219abcdefg")), Reason.OK),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08\1\x08\2")), Reason.NOT_SERVING),  # the last one counts
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08\2")), Reason.NOT_SERVING),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08\x81\1")), Reason.NOT_SERVING),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"")), Reason.NOT_SERVING),
    (SETTINGS + frame(1, 5, 1, b"\x88"), Reason.NOT_SERVING),  # an error: trailers only
    (SETTINGS + ANSWER + frame(0, 0, 1, b"\1" + message(b"\x08\1")[1:]), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 1, b"\0\xff\xff\xff\xff\x08\1"), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08")), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x0b")), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x12\xff\xff\xff\xff\x0f")), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 1, message(b"\x08" + b"\xff" * 12)), Reason.PROTOCOL),
    (SETTINGS + ANSWER + frame(0, 0, 3, message(b"\x08\1")), Reason.CLOSED),  # not our stream
    (SETTINGS + frame(3, 0, 1, bytes(4)), Reason.RESET),
    (SETTINGS + frame(3, 0, 5, bytes(4)), Reason.CLOSED),
    (SETTINGS + frame(7, 0, 0, bytes(8)), Reason.CLOSED),
    (SETTINGS + frame(7, 0, 0, b"\x7f" + bytes(7)) + ANSWER + frame(0, 0, 1, message(b"\x08\1")), Reason.OK),
    (SETTINGS + frame(5, 4, 1, bytes(4)), Reason.PROTOCOL),
    (ANSWER, Reason.PROTOCOL),  # settings come first
    (b"\xff\xff\xff\0\0\0\0\0\1", Reason.PROTOCOL),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", Reason.PROTOCOL),
    (SETTINGS[:8], Reason.CLOSED),
]


@pytest.mark.parametrize(("data", "reason"), GRPC_REPLIES)
def test_grpc_replies_whole_and_octet_by_octet(data: bytes, reason: Reason) -> None:
    assert verdict(Grpc(GRPC, "192.0.2.1"), data) is reason
    assert verdict(Grpc(GRPC, "192.0.2.1"), *(data[i : i + 1] for i in range(len(data)))) is reason


def test_grpc_answers_settings_and_pings() -> None:
    _, reply = Grpc(GRPC, "192.0.2.1").received(SETTINGS + frame(6, 0, 0, b"12345678") + frame(6, 1, 0, b"12345678"))
    assert reply == frame(4, 1, 0, b"") + frame(6, 1, 0, b"12345678")


@pytest.mark.parametrize("length", [0, 1, 12, 126, 127, 128, 300])
def test_the_grpc_request(length: int) -> None:
    service = "s" * length
    opening = Grpc(Check("grpc", 50051, f"/{service}", host="h" * max(1, length)), "192.0.2.1").opening()
    assert opening.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    at, frames = 24, []
    while at < len(opening):
        size = int.from_bytes(opening[at : at + 3], "big")
        frames.append((opening[at + 3], opening[at + 4], opening[at + 8], opening[at + 9 : at + 9 + size]))
        at += 9 + size
    assert [(kind, flags, stream) for kind, flags, stream, _ in frames] == [(4, 0, 0), (1, 4, 1), (0, 1, 1)]
    assert frames[0][3] == b"\0\2\0\0\0\0"
    body = frames[2][3]
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    assert body.endswith(service.encode())
    fields = dict(literals(frames[1][3][2:]))
    assert fields == {4: b"/grpc.health.v1.Health/Check", 1: b"h" * max(1, length) + b":50051", 31: b"application/grpc",
                      58: b"dnsd", 0: b"te=trailers"}


def literals(block: bytes) -> list[tuple[int, bytes]]:
    """HPACK literals without indexing, read by RFC 7541 §5 and §6.2.2."""
    def integer(at: int, bits: int) -> tuple[int, int]:
        full = (1 << bits) - 1
        value = block[at] & full
        at += 1
        if value < full:
            return value, at
        shift = 0
        while True:
            value += (block[at] & 127) << shift
            shift += 7
            at += 1
            if block[at - 1] < 128:
                return value, at

    def string(at: int) -> tuple[bytes, int]:
        assert block[at] < 128, "no Huffman code"
        size, at = integer(at, 7)
        return block[at : at + size], at + size

    at, found = 0, []
    while at < len(block):
        assert block[at] < 16
        index, at = integer(at, 4)
        name = b""
        if not index:
            name, at = string(at)
            name += b"="
        value, at = string(at)
        found.append((index, name + value))
    return found


def test_dns_text_is_looked_for_in_data() -> None:
    dialogue = Dns(Check("dns", 53, qname="a.example", qtype=16, text=b"good"))
    answer = dns.message.make_response(dns.message.from_wire(dialogue.opening()))
    assert dialogue.received(answer.to_wire())[0] is Reason.TEXT
    answer.answer.append(dns.rrset.from_text("a.example.", 5, "IN", "TXT", '"all is good"'))
    assert dialogue.received(answer.to_wire())[0] is Reason.OK
    assert dialogue.received(answer.to_wire()[:-9])[0] is Reason.PROTOCOL


def test_ids_differ() -> None:
    check = Check("dns", 53, qname="a.example")
    assert len({Dns(check).opening()[:2] for _ in range(50)}) > 40


def dialogues() -> list[Dialogue]:
    return [Http(HTTP, "192.0.2.1"), Http(HTTP._replace(text=b""), "192.0.2.1"), Grpc(GRPC, "192.0.2.1"),
            Dns(Check("dns", 53, text=b"x")), Tls(None, "a.example", verify=False),
            Tls(Http(HTTP, "192.0.2.1"), "a.example", verify=True)]


SEEDS = [data for data, _ in HTTP_REPLIES + GRPC_REPLIES]


@given(st.lists(st.binary(max_size=40) | st.sampled_from(SEEDS), max_size=6))
def test_nothing_is_raised_whatever_comes(parts: list[bytes]) -> None:
    for dialogue in dialogues():
        opening = dialogue.opening()
        assert 0 < len(opening) < READ
        sent = 0
        for part in parts:
            reason, reply = dialogue.received(part)
            sent += len(reply)
            if reason is not None:
                break
        else:
            assert dialogue.ended(Reason.CLOSED) is not Reason.OK
        assert sent <= READ


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=4))
def test_dns_replies_full_of_noise(tail: bytes, text: bytes) -> None:
    dialogue = Dns(Check("dns", 53, qname="a.example", text=text))
    query = dialogue.opening()
    head = query[:2] + b"\x80\0\0\1" + b"\0\x09\0\0\0\0" + query[12:]
    assert dialogue.received(head + tail)[0] in (Reason.OK, Reason.TEXT, Reason.PROTOCOL)
