"""Signed queries: any octets are unsigned, or refused with a reply, or unreadable; only a right MAC makes a signer."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final
from unittest.mock import patch

import dns.message
import dns.tsig
import dns.tsigkeyring

from dnsd.control import tsig
from dnsd.dns.wire import FormError
from tests.golden.world import NOW
from tests.hostile.packets import hostile

_SECRET: Final = base64.b64encode(bytes(range(32))).decode()
_SIGNERS: Final = (
    ("key.example.", dns.tsig.HMAC_SHA256, NOW), ("key.example.", dns.tsig.HMAC_SHA256, NOW - 4000),
    ("key.example.", dns.tsig.HMAC_SHA256_128, NOW), ("key.example.", dns.tsig.HMAC_MD5, NOW),
    ("other.", dns.tsig.HMAC_SHA256, NOW))
_KEYS: Final = tsig.Keys([tsig.KeySettings(name="key.example", algorithm="hmac-sha256", secret=_SECRET)])


def seeds() -> Iterator[bytes]:
    """Queries signed rightly, wrongly, too early, with other keys, and hostile tails."""
    for name, type_ in (("example.com", "AXFR"), ("example.com", "IXFR"), ("_why.geo.example.com", "TXT")):
        for edns in (-1, 0):
            for key, algorithm, at in _SIGNERS:
                query = dns.message.make_query(name, type_, use_edns=edns, id=4711)
                query.use_tsig(dns.tsigkeyring.from_text({key: _SECRET}), algorithm=algorithm)
                with patch("time.time", return_value=at):
                    packet = query.to_wire()
                yield packet
                yield packet[:-20] + b"\0" + packet[-19:]
    for name, packet in hostile():
        if "TSIG" in name and len(packet) < 1000:
            yield packet


def check(data: bytes) -> None:
    """What is read is a plain query; what is refused is told so by a message that can be read."""
    try:
        found = _KEYS.read(data, NOW)
    except FormError:
        return
    except tsig.Refused as refused:
        reply = dns.message.from_wire(refused.reply, keyring=False)
        assert reply.rcode() == 9
        assert reply.id == int.from_bytes(data[:2], "big")
        assert len(refused.reply) <= len(data) + 64
        return
    assert bool(found.key) == (found.signer is not None)
    assert len(found.packet) <= len(data)
    if found.signer is not None:
        assert _KEYS.read(found.packet, NOW).signer is None
        signed = found.signer.sign(found.packet[:2] + b"\x84\0" + bytes(8), NOW)
        assert len(signed) == 12 + found.signer.size
