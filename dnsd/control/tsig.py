"""Signed queries (TSIG, RFC 8945): whether the signature holds, and signing what is answered.

Lives here: keys, checking, signing, the errors. Does not live here: what is answered (`control.desk`), HMACs and the
octets they are made over (dnspython).

The order of checking is that of RFC 8945 §5.2: key, MAC, time, truncation. Until the MAC is found to be right nothing
is known of the sender, and what is answered is unsigned and hardly longer than what came; a wrong time and a MAC that
is too short are told signed. A MAC may be as short as half its hash (§5.2.2.1) but our policy is a whole one.
"""

from __future__ import annotations

import base64
import hmac
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tsig
from dns.rdtypes.ANY.TSIG import TSIG
from pydantic import BaseModel

from dnsd.dns import types, wire
from dnsd.dns.wire import FormError

FUDGE: Final = 300  # RFC 8945 §10
BADSIG: Final = 16
BADTIME: Final = 18
BADTRUNC: Final = 22


_sign: Final[Any] = dns.tsig.sign  # dnspython types neither of these
_TSIG: Final[Any] = TSIG


class KeySettings(BaseModel):
    """One key as control is told of it: `secret` in base64."""

    name: str
    algorithm: str
    secret: str


class Query(NamedTuple):
    """A query without its TSIG. `key` is the signing key's name without a final dot, `signer` signs its answer.

    Both are empty for a query that is not signed.
    """

    packet: bytes
    key: str = ""
    signer: Signer | None = None


class Refused(Exception):
    """A signature that does not hold; `reply` is what its sender is told."""

    def __init__(self, error: str, reply: bytes) -> None:
        super().__init__(error)
        self.reply = reply


class Keys:
    """The keys there are, by name. ValueError for a secret that is no base64."""

    def __init__(self, settings: Iterable[KeySettings] = ()) -> None:
        self._keys = {key.name: key for key in map(_key, settings)}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def get(self, name: str) -> dns.tsig.Key | None:
        """A key by its name as text."""
        return self._keys.get(dns.name.from_text(name))

    def read(self, packet: bytes, now: int) -> Query:
        """A query, its signature checked and taken off; `now` in unix seconds.

        Refused where the signature does not hold, FormError where the packet is none that can be read.
        """
        end = wire.question_labels(packet)[-1] + 5
        _, _, _, answers, authority, additional = struct.unpack_from(">6H", packet)
        opt_at, tsig_at = wire.tail(packet, end, authority, additional)
        if answers or not tsig_at:
            if answers:
                raise FormError
            return Query(packet)
        owner, rdata = _record(packet, tsig_at)
        bare = packet[:10] + struct.pack(">H", additional - 1) + packet[12:tsig_at]
        record = wire.asked_opt(packet, opt_at) if opt_at else b""
        head = packet[:2] + wire.heads(types.NOTAUTH, aa=False)[packet[2] & 1 | 2 * bool(record)]
        error = head + packet[12:end] + record
        key = self._keys.get(owner)
        if key is None or key.algorithm != rdata.algorithm:
            raise Refused("BADKEY", _unsigned(error, owner, rdata, types.BADKEY))
        signer = _checked(bare, key, rdata, error, now)
        return Query(bare, owner.to_text(omit_final_dot=True).lower(), signer)


class Signer:
    """Signs the messages of one answer, in their order (RFC 8945 §5.3.1: the first over the query's MAC too)."""

    def __init__(self, key: dns.tsig.Key, request_mac: bytes) -> None:
        self._key = key
        self._request_mac = request_mac
        self._context: dns.tsig.HMACTSig | dns.tsig.GSSTSig | None = None
        self.size = len(append(b"\0" * 12, key.name, _rdata(key, 0, bytes(_size(key))))) - 12

    def sign(self, message: bytes, now: int, *, error: int = 0, signed_at: int | None = None) -> bytes:
        """A message with its TSIG behind it: `size` octets more. `signed_at`: the time to tell, where not `now`."""
        other = now.to_bytes(6, "big") if error == BADTIME else b""
        template = _rdata(self._key, int.from_bytes(message[:2], "big"), b"", error=error, other=other)
        rdata, self._context = _sign(
            message, self._key, template, now if signed_at is None else signed_at, self._request_mac, self._context,
            True)
        return append(message, self._key.name, rdata)


def append(message: bytes, owner: dns.name.Name, rdata: TSIG) -> bytes:
    """A message with that TSIG as its last record."""
    data = rdata.to_wire() or b""
    count = int.from_bytes(message[10:12], "big") + 1
    record = owner.to_wire() or b""
    record += struct.pack(">HHIH", types.TSIG, dns.rdataclass.ANY, 0, len(data)) + data
    return message[:10] + struct.pack(">H", count) + message[12:] + record


def _checked(bare: bytes, key: dns.tsig.Key, rdata: TSIG, error: bytes, now: int) -> Signer:
    """The signer for an answer, where MAC, time and length of the MAC are right; else Refused."""
    size, mac = _size(key), rdata.mac
    if not max(10, size // 2) <= len(mac) <= size:  # RFC 8945 §5.2.2.1
        raise FormError
    expected = _sign(bare, key, rdata, rdata.time_signed)[0].mac
    if not hmac.compare_digest(expected[: len(mac)], mac):
        raise Refused("BADSIG", _unsigned(error, key.name, rdata, BADSIG))
    signer = Signer(key, mac)
    if abs(now - rdata.time_signed) > rdata.fudge:
        raise Refused("BADTIME", signer.sign(error, now, error=BADTIME, signed_at=rdata.time_signed))
    if len(mac) < size:
        raise Refused("BADTRUNC", signer.sign(error, now, error=BADTRUNC))
    return signer


def _record(packet: bytes, at: int) -> tuple[dns.name.Name, TSIG]:
    """Owner and rdata of the TSIG at that offset; FormError for any that RFC 8945 §4.2 does not allow."""
    try:
        owner, length = dns.name.from_wire(packet, at)
        at += length
        _, class_, ttl, size = struct.unpack_from(">HHIH", packet, at)
        rdata = dns.rdata.from_wire(dns.rdataclass.ANY, dns.rdatatype.TSIG, packet, at + 10, size)
    except (dns.exception.DNSException, ValueError, struct.error):
        raise FormError from None
    if class_ != dns.rdataclass.ANY or ttl or not isinstance(rdata, TSIG):
        raise FormError
    return owner, rdata


def _unsigned(error: bytes, owner: dns.name.Name, rdata: TSIG, number: int) -> bytes:
    """The answer to a signature that proves nothing (RFC 8945 §5.3.2): no MAC, everything else as it came."""
    told = _TSIG(dns.rdataclass.ANY, dns.rdatatype.TSIG, rdata.algorithm, rdata.time_signed, rdata.fudge, b"",
                 int.from_bytes(error[:2], "big"), number, b"")
    return append(error, owner, told)


def _rdata(key: dns.tsig.Key, number: int, mac: bytes, *, error: int = 0, other: bytes = b"") -> TSIG:
    made: TSIG = _TSIG(
        dns.rdataclass.ANY, dns.rdatatype.TSIG, key.algorithm, 0, FUDGE, mac, number, error, other)
    return made


def _size(key: dns.tsig.Key) -> int:
    size: int = dns.tsig.mac_sizes[key.algorithm]
    return size


def _key(settings: KeySettings) -> dns.tsig.Key:
    secret = base64.b64decode(settings.secret, validate=True)
    return dns.tsig.Key(dns.name.from_text(settings.name), secret, dns.name.from_text(settings.algorithm))
