"""HTTP/1.1 as a probe speaks it: one request, the status line, and where asked for a text in the body.

Lives here: the request, the bounded reading of the response. Does not live here: TLS (`watch.probe_tls`), sockets.

No redirect is followed, no header but Host is the tenant's, and the connection is good for one request.
"""

from __future__ import annotations

import re
from typing import Final

from dnsd.watch.outcome import READ, Reason
from dnsd.watch.target import Check

_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9][0-9])(?=[ \r\n])")
_HEAD_MOST: Final = 13  # "HTTP/1.1 200" and one octet more
_HEX: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(;[^\n]*)?")
_LENGTH: Final = re.compile(rb"\n[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll][Ee][Nn][Gg][Tt][Hh]:[ \t]*([0-9]{1,15})[ \t]*\r?\n")
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding:[^\n]*chunked[ \t]*\r?\n", re.IGNORECASE)


def request(check: Check, address: str) -> bytes:
    """The request; the Host header is the check's, or the address. UnicodeError for what is not ASCII."""
    host = check.host or address
    if ":" in host:
        host = f"[{host}]"
    if check.port != (443 if check.kind == "https" else 80):
        host = f"{host}:{check.port}"
    return (f"{check.method} {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: dnsd\r\nAccept: */*\r\n"
            "Connection: close\r\n\r\n").encode("ascii")


class Http:
    """Waits for a status in range and, if the check has a text, for that text in the body's first octets."""

    __slots__ = ("_body", "_data", "_request", "_status", "_text", "most")

    def __init__(self, check: Check, address: str) -> None:
        self.most = READ
        self._request, self._status, self._text = request(check, address), check.status, check.text
        self._data, self._body = b"", -1

    def opening(self) -> bytes:
        """The request."""
        return self._request

    def received(self, data: bytes) -> tuple[Reason | None, bytes]:
        """More of the response."""
        self._data += data
        return self._verdict(), b""

    def ended(self, reason: Reason) -> Reason:
        """Without the whole head the response says nothing; with it only the text can be missing."""
        return Reason.TEXT if self._body >= 0 else reason

    def _verdict(self) -> Reason | None:
        while self._body < 0:
            found = _STATUS.match(self._data)
            if not found:
                return Reason.PROTOCOL if len(self._data) >= _HEAD_MOST or not _begins(self._data) else None
            status = int(found[1])
            interim = 100 <= status <= 199 and status != 101
            if not interim:
                low, high = self._status
                if not low <= status <= high:
                    return Reason.STATUS
                if not self._text:
                    return Reason.OK
            end = _head_end(self._data)
            if end < 0:
                return None
            if interim:
                self._data = self._data[end:]
            else:
                self._body = end
        return self._searched()

    def _searched(self) -> Reason | None:
        head, body = self._data[: self._body], self._data[self._body :]
        length = _LENGTH.search(head)
        if _CHUNKED.search(head):
            body, whole = _unchunked(body)
        else:
            whole = length is not None and len(body) >= int(length[1])
        if self._text in body:
            return Reason.OK
        return Reason.TEXT if whole else None


def _begins(data: bytes) -> bool:
    """Whether this may become a status line."""
    return data[:7] == b"HTTP/1."[: len(data)]


def _head_end(data: bytes) -> int:
    """Where the body begins; -1 before the head is whole. A bare line feed ends a line too (RFC 9112 §2.2)."""
    ends = [at + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (at := data.find(mark)) >= 0]
    return min(ends, default=-1)


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    """The content of chunks so far, and whether the last one came (or what comes is no chunk)."""
    content: list[bytes] = []
    at = 0
    while (line := data.find(b"\n", at)) >= 0:
        size = _HEX.fullmatch(data[at:line].rstrip(b"\r"))
        if not size or int(size[1], 16) == 0:
            return b"".join(content), True
        content.append(data[line + 1 : line + 1 + int(size[1], 16)])
        at = line + 1 + int(size[1], 16)
        at += 2 if data[at : at + 2] == b"\r\n" else 1
    return b"".join(content), False
