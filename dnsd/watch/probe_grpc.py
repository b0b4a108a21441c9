"""gRPC's health protocol (grpc.health.v1.Health/Check) over as much HTTP/2 as that takes.

Lives here: the request's frames, bounded reading of the reply's. Does not live here: TLS, sockets.
Source: RFC 9113 (frames), RFC 7541 (HPACK), https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

Header blocks are never decoded: a reply that says SERVING is a data frame with that message on our stream, and nothing
in a header can make anything else of it. An error is a reply without a message.
"""

from __future__ import annotations

from typing import Final

from dnsd.watch.outcome import READ, Reason
from dnsd.watch.target import Check

_DATA, _HEADERS, _RESET, _SETTINGS, _PUSH, _PING, _GOAWAY = 0, 1, 3, 4, 5, 6, 7
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NO_PUSH: Final = b"\0\2\0\0\0\0"  # SETTINGS_ENABLE_PUSH 0
_STREAM: Final = 1
_SERVING: Final = 1


class Grpc:
    """Asks after one service, or with the path "/" after the whole server. UnicodeError for what is not ASCII."""

    __slots__ = ("_answer", "_data", "_first", "_request", "most")

    def __init__(self, check: Check, address: str) -> None:
        self.most = READ
        host = check.host or address
        authority = f"[{host}]:{check.port}" if ":" in host else f"{host}:{check.port}"
        self._request = _request(check.path[1:].encode("ascii"), authority.encode("ascii"), tls=check.tls)
        self._data, self._answer, self._first = b"", b"", True

    def opening(self) -> bytes:
        """Preface, settings, the whole request."""
        return self._request

    def received(self, data: bytes) -> tuple[Reason | None, bytes]:
        """More frames."""
        self._data += data
        reply, at = [], 0
        while len(self._data) - at >= 9:
            length = int.from_bytes(self._data[at : at + 3], "big")
            if length > READ or (self._first and self._data[at + 3] != _SETTINGS):
                return Reason.PROTOCOL, b""  # a server's first frame is its settings (RFC 9113 §3.4)
            if len(self._data) - at < 9 + length:
                break
            kind, flags = self._data[at + 3], self._data[at + 4]
            stream = int.from_bytes(self._data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            reason, answer = self._frame(kind, flags, stream, self._data[at + 9 : at + 9 + length])
            reply.append(answer)
            if reason is not None:
                return reason, b"".join(reply)
            self._first = False
            at += 9 + length
        self._data = self._data[at:]
        return None, b"".join(reply)

    def ended(self, reason: Reason) -> Reason:
        """There is nothing to make of half an answer."""
        return reason

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> tuple[Reason | None, bytes]:
        """The verdict a frame brings, and the frame it is to be answered with."""
        if kind == _SETTINGS and not flags & _ACK:
            return None, frame(_SETTINGS, _ACK, 0, b"")
        if kind == _PING and not flags & _ACK:
            return None, frame(_PING, _ACK, 0, body)
        if kind == _GOAWAY:
            last = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
            return (Reason.CLOSED if last < _STREAM else None), b""
        if kind == _PUSH:
            return Reason.PROTOCOL, b""
        if stream != _STREAM:
            return None, b""
        if kind == _RESET:
            return Reason.RESET, b""
        if kind == _DATA:
            if flags & _PADDED:
                if not body or body[0] >= len(body):
                    return Reason.PROTOCOL, b""
                body = body[1 : len(body) - body[0]]
            self._answer += body
            verdict = _judged(self._answer)
            if verdict is not None:
                return verdict, b""
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            return Reason.NOT_SERVING, b""  # an error status, and no message
        return None, b""


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113 §4.1)."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _request(service: bytes, authority: bytes, *, tls: bool) -> bytes:
    message = b"\x0a" + _varint(len(service)) + service if service else b""
    # HPACK: indexed fields of the static table, then literals that are not indexed, without Huffman coding
    headers = (b"\x83" + (b"\x87" if tls else b"\x86")
               + b"\x04" + _string(b"/grpc.health.v1.Health/Check") + b"\x01" + _string(authority)
               + b"\x0f\x10" + _string(b"application/grpc") + b"\x0f\x2b" + _string(b"dnsd")
               + b"\0" + _string(b"te") + _string(b"trailers"))
    return (_PREFACE + frame(_SETTINGS, 0, 0, _NO_PUSH) + frame(_HEADERS, _END_HEADERS, _STREAM, headers)
            + frame(_DATA, _END_STREAM, _STREAM, b"\0" + len(message).to_bytes(4, "big") + message))


def _string(text: bytes) -> bytes:
    """A string literal (RFC 7541 §5.2): its length as an integer with a prefix of 7 bits, then itself."""
    return (bytes((len(text),)) if len(text) < 127 else b"\x7f" + _varint(len(text) - 127)) + text


def _varint(number: int) -> bytes:
    """Groups of 7 bits, the lowest first: protobuf's, and what HPACK adds to a full prefix."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def _judged(answer: bytes) -> Reason | None:
    """The verdict of a length-prefixed HealthCheckResponse; None until it is whole."""
    if not answer:
        return None
    if answer[0]:
        return Reason.PROTOCOL  # compressed, though nothing was offered; or no gRPC at all
    if len(answer) < 5:
        return None
    length = int.from_bytes(answer[1:5], "big")
    if length > READ:
        return Reason.PROTOCOL
    if len(answer) < 5 + length:
        return None
    status = _status(answer[5 : 5 + length])
    if status is None:
        return Reason.PROTOCOL
    return Reason.OK if status == _SERVING else Reason.NOT_SERVING


def _status(message: bytes) -> int | None:
    """Field 1 of the message: the last one there counts, 0 if there is none; None for what is no message."""
    at, status = 0, 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        width = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 == 0:
            value, at = _read_varint(message, at)
            status = value if tag >> 3 == 1 else status
        elif tag & 7 == 2:
            width, at = _read_varint(message, at)
        elif not width:
            return None
        at += width
    return status if at == len(message) else None


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; beyond the end of the data if it is cut off."""
    number = 0
    for i, octet in enumerate(data[at : at + 10]):
        number |= (octet & 127) << 7 * i
        if octet < 128:
            return number, at + i + 1
    return 0, len(data) + 1
