"""Signed queries and answers, made and read by dnspython."""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnsd.control import tsig
from dnsd.dns.wire import FormError

SECRET = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
ALGORITHMS = ("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
KEYS = tsig.Keys(tsig.KeySettings(name=f"{name}.key", algorithm=name, secret=SECRET) for name in ALGORITHMS)
NOW = int(time.time())  # what dnspython signs with


def key(algorithm: str = "hmac-sha256", name: str = "", secret: str = SECRET) -> dns.tsig.Key:
    return dns.tsig.Key(name or f"{algorithm}.key.", secret, algorithm)


def tsig_of(packet: bytes) -> Any:
    """The rdata of a message's TSIG, looked at and not checked."""
    found = dns.message.from_wire(packet, keyring=False).tsig
    assert found is not None
    return found[0]


def query(signed_by: dns.tsig.Key | None = None, *, edns: bool = False) -> dns.message.Message:
    message = dns.message.make_query("demo.example", "SOA", use_edns=0 if edns else None)
    if signed_by is not None:
        message.use_tsig(signed_by)
    return message


def answer(packet: bytes) -> bytes:
    """A reply without data to a packet without TSIG."""
    return packet[:2] + b"\x84\0" + packet[4:]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("edns", [False, True])
def test_a_right_signature_is_taken_off_and_the_answer_signed(algorithm: str, edns: bool) -> None:
    message = query(key(algorithm), edns=edns)
    packet = message.to_wire()
    read = KEYS.read(packet, NOW)
    assert read.key == f"{algorithm}.key"
    bare = dns.message.from_wire(read.packet)
    assert (bare.tsig, bare.edns, bare.question) == (None, 0 if edns else -1, message.question)
    assert read.signer is not None
    unsigned = answer(read.packet)
    signed = read.signer.sign(unsigned, NOW)
    assert len(signed) == len(unsigned) + read.signer.size
    reply = dns.message.from_wire(signed, keyring=key(algorithm), request_mac=dns.message.from_wire(
        packet, keyring=key(algorithm)).mac)
    assert reply.had_tsig
    assert reply.tsig_error == 0


def test_case_of_a_keys_name_does_not_matter() -> None:
    packet = query(key(name="HMAC-sha256.KEY.")).to_wire()
    assert KEYS.read(packet, NOW).key == "hmac-sha256.key"


def test_an_unsigned_query_is_left_alone() -> None:
    packet = query(edns=True).to_wire()
    assert KEYS.read(packet, NOW) == tsig.Query(packet)


def refusal(packet: bytes, now: int = NOW) -> tuple[str, bytes]:
    with pytest.raises(tsig.Refused) as caught:
        KEYS.read(packet, now)
    return str(caught.value), caught.value.reply


@pytest.mark.parametrize(("wrong", "error", "number"), [
    (key(name="other."), "BADKEY", 17),
    (key("hmac-sha512", name="hmac-sha256.key."), "BADKEY", 17),
    (key(secret=base64.b64encode(b"another secret").decode()), "BADSIG", 16),
])
@pytest.mark.parametrize("edns", [False, True])
def test_what_proves_nothing_is_refused_unsigned(wrong: dns.tsig.Key, error: str, number: int, edns: bool) -> None:
    message = query(wrong, edns=edns)
    packet = message.to_wire()
    named, reply = refusal(packet)
    assert named == error
    assert len(reply) <= len(packet) + 11
    parsed = dns.message.from_wire(reply, keyring=False)  # no key: it is looked at, not checked
    assert parsed.id == message.id
    assert parsed.rcode() == dns.rcode.NOTAUTH
    assert parsed.question == message.question
    assert (parsed.edns == 0) == edns
    assert parsed.tsig is not None
    assert (parsed.tsig[0].error, parsed.tsig[0].mac, parsed.tsig.name) == (number, b"", wrong.name)


@pytest.mark.parametrize("off", [-301, 301, 10**6])
def test_a_wrong_time_is_told_signed_with_ours(off: int) -> None:
    packet = query(key()).to_wire()
    mac, signed = tsig_of(packet).mac, tsig_of(packet).time_signed  # now, not when this module was read
    error, reply = refusal(packet, signed + off)
    assert error == "BADTIME"
    parsed = dns.message.from_wire(reply, keyring=False)
    assert parsed.rcode() == dns.rcode.NOTAUTH
    assert tsig_of(reply).error == tsig.BADTIME
    assert int.from_bytes(tsig_of(reply).other, "big") == signed + off
    assert tsig_of(reply).time_signed == signed, "the sender's"
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(reply, keyring=key(), request_mac=mac)
    check_mac(reply, mac)
    assert KEYS.read(packet, signed + 299 * (1 if off > 0 else -1)).signer is not None


def check_mac(reply: bytes, request_mac: bytes) -> None:
    """dnspython looks at the error first; this is its digest without that."""
    rdata = tsig_of(reply)
    bare = reply[:10] + b"\0\0" + reply[12 : len(reply) - tail_size(reply)]
    expected = dns.tsig.sign(bare, key(), rdata, rdata.time_signed, request_mac)[0].mac  # type: ignore[no-untyped-call]
    assert expected == rdata.mac


def tail_size(reply: bytes) -> int:
    parsed = dns.message.from_wire(reply, keyring=False)
    assert parsed.tsig is not None
    return len(parsed.tsig.name.to_wire() or b"") + 10 + len(parsed.tsig[0].to_wire() or b"")


def with_mac(mac: bytes, whole: bytes) -> bytes:
    """The signed query with another MAC."""
    message = dns.message.from_wire(whole, keyring=False)
    assert message.tsig is not None
    start = len(whole) - tail_size(whole)
    bare = whole[:10] + struct.pack(">H", int.from_bytes(whole[10:12], "big") - 1) + whole[12:start]
    return tsig.append(bare, message.tsig.name, message.tsig[0].replace(mac=mac))


def test_a_chain_of_pointers_is_not_followed() -> None:
    """Of 16 KiB of pointers, each to the one before, in an unknown option: a key's name begins at the last one."""
    head = b"\0\1\0\0\0\1\0\0\0\0\0\2\1a\0\0\1\0\1"
    places = range(len(head) + 11, 16300, 2)
    chain = b"".join(struct.pack(">H", 0xC000 | at) for at in (14, *places[:-1]))
    name = struct.pack(">H", 0xC000 | places[-1])
    rdata = name + bytes(6) + b"\1\x2c\0\x20" + bytes(32) + b"\0\1\0\0\0\0"
    packet = head + b"\0\0\x29\4\xd0\0\0\0\0" + struct.pack(">H", len(chain)) + chain
    packet += name + b"\0\xfa\0\xff\0\0\0\0" + struct.pack(">H", len(rdata)) + rdata
    with pytest.raises(FormError):
        KEYS.read(packet, NOW)


def test_lengths_of_a_mac() -> None:
    """RFC 8945 §5.2.2.1: under half is no TSIG, from there on too short for us but right; over the hash none again."""
    whole = query(key()).to_wire()
    mac = tsig_of(whole).mac
    assert with_mac(mac, whole) == whole
    for short in (0, 9, 15):
        with pytest.raises(FormError):
            KEYS.read(with_mac(mac[:short], whole), NOW)
    with pytest.raises(FormError):
        KEYS.read(with_mac(mac + b"\0", whole), NOW)
    for length in (16, 31):
        error, reply = refusal(with_mac(mac[:length], whole))
        assert error == "BADTRUNC"
        assert tsig_of(reply).error == tsig.BADTRUNC
        check_mac(reply, mac[:length])
    assert refusal(with_mac(bytes(20), whole))[0] == "BADSIG"


@pytest.mark.parametrize("number", [1, 2, 5])
def test_all_messages_of_a_transfer_hold_together(number: int) -> None:
    packet = query(key()).to_wire()
    read = KEYS.read(packet, NOW)
    assert read.signer is not None
    mac = dns.message.from_wire(packet, keyring=key()).mac
    context = None
    for _ in range(number):
        message = dns.message.from_wire(
            read.signer.sign(answer(read.packet), NOW), keyring=key(), request_mac=mac, xfr=True, multi=True,
            tsig_ctx=context, origin=dns.name.from_text("demo.example"))
        context = message.tsig_ctx
    assert context is not None


def test_a_message_left_out_is_noticed() -> None:
    packet = query(key()).to_wire()
    read = KEYS.read(packet, NOW)
    assert read.signer is not None
    mac = dns.message.from_wire(packet, keyring=key()).mac
    first, _, third = (read.signer.sign(answer(read.packet), NOW) for _ in range(3))
    context = dns.message.from_wire(first, keyring=key(), request_mac=mac, multi=True).tsig_ctx
    with pytest.raises(dns.tsig.BadSignature):
        dns.message.from_wire(third, keyring=key(), request_mac=mac, multi=True, tsig_ctx=context)


SIGNED = query(key(), edns=True).to_wire()


@settings(max_examples=400)
@given(st.integers(12, len(SIGNED) - 1), st.integers(1, 255), st.integers(0, 3))
def test_no_changed_octet_passes_and_none_raises_anything_else(at: int, change: int, cut: int) -> None:
    packet = bytearray(SIGNED)
    packet[at] ^= change
    try:
        read = KEYS.read(bytes(packet[: len(packet) - cut]), NOW)
    except (FormError, tsig.Refused):
        return
    # Case of the key's name and of its algorithm is not part of what is signed.
    assert change == 32, (at, change)
    assert read.key == "hmac-sha256.key"


@given(st.binary(max_size=200))
def test_junk(data: bytes) -> None:
    packet = SIGNED[:12] + data
    try:
        KEYS.read(packet, NOW)
    except (FormError, tsig.Refused):
        return
    raise AssertionError("junk is signed")
