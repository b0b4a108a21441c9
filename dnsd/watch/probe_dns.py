"""One DNS question over UDP: answered with NOERROR, and where asked for with a certain record.

Lives here: the query, the check of the reply. Does not live here: sockets. By dnslib, and nothing of `dnsd.dns`: a
fault in our own parser must not be the prober's as well.
"""

from __future__ import annotations

import secrets
from functools import lru_cache

import dnslib

from dnsd.watch.outcome import READ, Reason
from dnsd.watch.target import Check


@lru_cache(maxsize=4096)
def _question(qname: str, qtype: int) -> bytes:
    """A query without its first two octets, the id. Recursion is desired: a resolver may be what is probed."""
    record = dnslib.DNSRecord(dnslib.DNSHeader(id=0, rd=1), q=dnslib.DNSQuestion(qname, qtype))
    return bytes(record.pack()[2:])


class Dns:
    """A reply counts if it has our id and our question; anything else is left unread, as a stranger's."""

    __slots__ = ("_query", "_text", "most")

    def __init__(self, check: Check) -> None:
        self.most = 16 * READ  # of all datagrams that come, each cut to `READ`
        self._query, self._text = secrets.token_bytes(2) + _question(check.qname, check.qtype), check.text

    def opening(self) -> bytes:
        """The query."""
        return self._query

    def received(self, data: bytes) -> tuple[Reason | None, bytes]:
        """One datagram."""
        asked = len(self._query)
        if len(data) < 12 or data[:2] != self._query[:2] or not data[2] & 0x80:
            return None, b""
        if data[12:asked].lower() != self._query[12:].lower() and data[4:6] != b"\0\0":
            return None, b""
        if data[3] & 0x0F:
            return Reason.RCODE, b""
        if data[4:6] != b"\0\1" or data[2] & 0x78:
            return Reason.PROTOCOL, b""
        return self._found(data) if self._text else Reason.OK, b""

    def ended(self, reason: Reason) -> Reason:
        """A datagram socket does not end; a flood of datagrams that are not the reply does."""
        return reason

    def _found(self, data: bytes) -> Reason:
        try:
            answers = dnslib.DNSRecord.parse(data[:READ]).rr
            text = self._text.decode("utf-8", "replace")
            return Reason.OK if any(text in str(record.rdata) for record in answers) else Reason.TEXT
        except Exception:  # whatever dnslib makes of hostile octets
            return Reason.PROTOCOL
