"""The bounded parser and the pieces replies are made of. Hostile bytes meet only this module.

Lives here: question labels, OPT and its options, reply heads, OPT records, re-owning finished RRs.
Does not live here: what to answer (`answer`), names off the query path (`dns.names`), any rdata.

A query is a header, exactly one uncompressed question and at most one OPT (RFC 9619, RFC 6891 §6.1.1). Nothing else is
read, nothing is followed, so the cost of any packet is linear in its first 512 octets and small: a library that follows
compression pointers was measured at 7.8 ms for 493 octets.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

from dnsd.dns import types

UDP_SIZE: Final = 1232  # RFC 9715 §3: no fragmentation
PLAIN_SIZE: Final = 512  # RFC 1035 §4.2.1
PAD_BLOCK: Final = 468  # RFC 8467 §4.1
OPTIONS_MAX: Final = 32  # no client sends half as many; 65,535 octets of empty ones would cost as much as 4,000 queries

_OPT: Final = Struct(">3sHBBHH").unpack  # owner and type, size, extended rcode, version, flags, length
_OPTION: Final = Struct(">HH").unpack_from
_U32: Final = Struct(">I").unpack_from
OPT_START: Final = b"\0\0\x29"
"""Root and type OPT: what every OPT record begins with."""
_DO: Final = 0x8000
_ECS_24: Final = b"\0\x08\0\x07\0\x01\x18\0"
"""The client subnet nearly every resolver sends, a whole IPv4 /24: nothing behind these octets can be wrong with it."""
_COOKIE_8: Final = b"\0\x0a\0\x08"
"""A client's cookie alone, as it comes to a server for the first time."""

Ecs = tuple[bool, int, int, int, int]
"""IPv6?, key (address >> 8 for IPv4, the whole 128 bits for IPv6), source length, option's offset, its whole length."""
Wishes = tuple[bool, bytes, bool, bool]
"""What else a client asks for: NSID, its cookie (empty: none), keepalive, padding."""
Opt = tuple[int, int, bool, Ecs | None, Wishes | None]
"""UDP size the client takes, version, DO, client subnet, wishes (None: none)."""

NO_OPT: Final[Opt] = (PLAIN_SIZE, 0, False, None, None)
NO_WISHES: Final[Wishes] = (False, b"", False, False)


class FormError(Exception):
    """The packet is none that can be answered as asked: FORMERR."""


def question_labels(packet: bytes) -> list[int]:
    """Offsets of the question name's labels, the root octet's last. FormError for anything but a plain name."""
    name = packet[12:267]  # 255 octets (RFC 1035 §3.1): what ends later is cut off and found to have no end
    offsets = [12]
    at = 0
    try:
        while length := name[at]:
            if length > 63:
                raise FormError
            at += length + 1
            offsets.append(at + 12)
    except IndexError:
        raise FormError from None
    if at + 17 > len(packet):
        raise FormError
    return offsets


def parse_opt(packet: bytes, at: int) -> Opt:
    """The OPT record that must fill the packet from `at` to its end; FormError for any other or more.

    Up to `OPTIONS_MAX` options unknown to us are passed over (RFC 6891 §6.1.2). Of a version we do not speak only the
    version is told.
    """
    end = len(packet)
    bare, length = _opt_head(packet[at : at + 11])
    at += 11
    if at + length != end:
        raise FormError
    size, version, do, _, _ = bare
    if version or not length:
        return bare
    ecs: Ecs | None = None
    wishes: Wishes | None = None
    left = OPTIONS_MAX
    while at < end:
        if packet[at : at + 8] == _ECS_24 and at + 11 <= end and ecs is None:
            ecs = False, _U32(packet, at + 7)[0], 24, at, 11  # the octet before the key is a scope of 0
            at += 11
            continue
        left -= 1
        if at + 4 > end or left < 0:
            raise FormError
        if wishes is None and packet[at : at + 4] == _COOKIE_8 and at + 12 <= end:
            wishes = False, packet[at + 4 : at + 12], False, False
            at += 12
            continue
        code, length = _OPTION(packet, at)
        if at + 4 + length > end:
            raise FormError
        if code == types.OPTION_ECS:
            if ecs is not None:
                raise FormError
            ecs = _ecs(packet, at, length)
        elif code in _WISHES:
            wishes = _wished(wishes or NO_WISHES, code, packet, at + 4, length)
        at += 4 + length
    return size, 0, do, ecs, wishes


@lru_cache(maxsize=1024)
def _opt_head(head: bytes) -> tuple[Opt, int]:
    """What the first 11 octets of an OPT say, and the length of its options: clients have a handful of them."""
    if len(head) < 11 or head[:3] != OPT_START:
        raise FormError
    _, size, _, version, flags, length = _OPT(head)
    return (size, version, flags >= _DO, None, None), length


_WISHES: Final = frozenset(
    (types.OPTION_NSID, types.OPTION_COOKIE, types.OPTION_KEEPALIVE, types.OPTION_PADDING))


def _wished(wishes: Wishes, code: int, packet: bytes, at: int, length: int) -> Wishes:
    nsid, cookie, keepalive, padding = wishes
    if code == types.OPTION_COOKIE and not cookie:  # all but the first are passed over (RFC 7873 §5.2)
        if length != 8 and not 16 <= length <= 40:
            raise FormError  # RFC 7873 §5.2.2
        cookie = packet[at : at + length]
    return (nsid or code == types.OPTION_NSID, cookie, keepalive or code == types.OPTION_KEEPALIVE,
            padding or code == types.OPTION_PADDING)


def _ecs(packet: bytes, at: int, length: int) -> Ecs:
    """RFC 7871 §6, §7.1.2: family 1 or 2, just the octets the source length needs, bits behind and scope zero."""
    if length < 4 or packet[at + 7]:
        raise FormError
    source = packet[at + 6]
    family = packet[at + 5]
    if packet[at + 4] or length != 4 + (source + 7) // 8:
        raise FormError
    address = int.from_bytes(packet[at + 8 : at + 4 + length], "big")
    known = 8 * (length - 4)
    if source < known and address & ((1 << (known - source)) - 1):
        raise FormError
    if family == 1:
        if source > 32:
            raise FormError
        key = address >> 8 if known == 32 else address << (24 - known)
        return False, key, source, at, length + 4
    if family == 2 and source <= 128:
        return True, address << (128 - known), source, at, length + 4
    # Family 0 is what a client sends to opt out without telling its family (RFC 7871 §7.1.2).
    if family == 0 and not source:
        return False, 0, 0, at, length + 4
    raise FormError


Heads = tuple[bytes, bytes, bytes, bytes]
"""A reply's header behind the id, by RD + 2 x (has OPT)."""


@lru_cache(maxsize=4096)
def heads(rcode: int = 0, aa: bool = True, answers: int = 0, authority: int = 0, extra: int = 0, tc: bool = False,
          opcode: int = 0, questions: int = 1) -> Heads:
    """Flags and counts of a reply: QR set, RD as asked, RA, AD and CD clear (RFC 4035 §3.1.6)."""
    def head(rd: int, opt: int) -> bytes:
        flags = 0x8000 | opcode << 11 | aa << 10 | tc << 9 | rd << 8 | (rcode & 15)
        return b"".join(n.to_bytes(2, "big") for n in (flags, questions, answers, authority, extra + opt))

    return head(0, 0), head(1, 0), head(0, 1), head(1, 1)


_OPT_HEAD: Final = b"\0\0\x29" + UDP_SIZE.to_bytes(2, "big")
PLAIN_OPT: Final = (_OPT_HEAD + bytes(6), _OPT_HEAD + b"\0\0\x80\0\0\0")
"""The OPT of a reply without options, by DO (RFC 6891 §6.1.4: DO is copied)."""


def opt(do: bool, options: bytes = b"", extended: int = 0) -> bytes:
    """The OPT of a reply; `extended` is the rcode's upper eight bits."""
    if not extended and len(options) < _LENGTHS:
        return OPT_HEAD[do][len(options)] + options
    return b"%b%b\0%b%b%b" % (
        _OPT_HEAD, extended.to_bytes(1, "big"), b"\x80\0" if do else b"\0\0", len(options).to_bytes(2, "big"), options)


_LENGTHS: Final = 128
OPT_HEAD: Final = tuple(
    tuple(_OPT_HEAD + (b"\0\0\x80\0" if do else bytes(4)) + length.to_bytes(2, "big") for length in range(_LENGTHS))
    for do in (False, True))
"""A reply's OPT up to and with its length, by DO and length: what stands before an echoed client subnet."""

OCTET: Final = tuple(bytes([n]) for n in range(256))


def ecs_echo(packet: bytes, ecs: Ecs, scope: int) -> bytes:
    """The client subnet option as it came, its scope set (RFC 7871 §7.2.1)."""
    _, _, _, at, length = ecs
    return packet[at : at + 7] + OCTET[scope] + packet[at + 8 : at + length]


def asked_opt(packet: bytes, at: int) -> bytes:
    """The plain OPT of a reply where a query has one at that place, whatever is in it; else nothing (RFC 6891 §7)."""
    return PLAIN_OPT[packet[at + 7] >> 7] if packet[at : at + 3] == OPT_START and at + 11 <= len(packet) else b""


Tail = tuple[int, int]
"""Where the OPT and the TSIG start; 0: there is none."""


def tail(packet: bytes, at: int, authority: int, additional: int) -> Tail:
    """The records behind a question, as only neighbours send them: an SOA (IXFR), an OPT, a last TSIG (RFC 8945 §5.1).

    FormError for more than `TAIL_MAX` records, for others, and for what does not fill the packet.
    """
    if authority + additional > TAIL_MAX or authority > 1:
        raise FormError
    opt_at = tsig_at = 0
    for number in range(authority + additional):
        start = at
        at = _past_name(packet, at)
        if at + 10 > len(packet):
            raise FormError
        type_, length = packet[at] << 8 | packet[at + 1], packet[at + 8] << 8 | packet[at + 9]
        at += 10 + length
        if number < authority:
            if type_ != types.SOA:
                raise FormError
        elif type_ == types.OPT and not opt_at and packet[start : start + 3] == OPT_START:
            opt_at = start
        elif type_ == types.TSIG and number + 1 == authority + additional:
            tsig_at = start
        else:
            raise FormError
    if at != len(packet):
        raise FormError
    return opt_at, tsig_at


TAIL_MAX: Final = 3


def _past_name(packet: bytes, at: int) -> int:
    """The offset behind a name; a pointer ends it and is not followed."""
    end = min(len(packet), at + 255)
    while at < end:
        length = packet[at]
        if length > 63:
            if length < 0xC0:
                raise FormError
            return at + 2
        at += length + 1
        if not length:
            return at
    raise FormError


def unknown_key(packet: bytes, at: int) -> bytes:
    """The TSIG that refuses the one at that offset: BADKEY, without a MAC (RFC 8945 §5.2.1). FormError."""
    fixed = _past_name(packet, at)
    rdata = fixed + 10
    times = _past_name(packet, rdata)
    algorithm = packet[rdata:times]
    # A pointer would point elsewhere in the reply; no sender compresses these names (RFC 8945 §4.2).
    if any(name[-2:-1] >= b"\xc0" for name in (packet[at:fixed], algorithm)) or times + 16 > len(packet):
        raise FormError
    data = algorithm + packet[times : times + 8] + b"\0\0" + packet[:2] + types.BADKEY.to_bytes(2, "big") + b"\0\0"
    return packet[at:fixed] + b"\0\xfa\0\xff\0\0\0\0" + len(data).to_bytes(2, "big") + data


COOKIE_24: Final = b"\0\x0a\0\x18"
"""What stands before a whole cookie, the client's and the server's."""


def option(code: int, data: bytes) -> bytes:
    """One EDNS option."""
    return code.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


def error_option(code: int, text: str) -> bytes:
    """An extended DNS error (RFC 8914 §2)."""
    return option(types.OPTION_EDE, code.to_bytes(2, "big") + text.encode())


def reown(rrs: bytes, count: int, owner: bytes) -> bytes:
    """Finished RRs, each owned by C0 0C, given to another owner (a pointer or a name)."""
    out: list[bytes] = []
    at = 0
    for _ in range(count):
        end = at + 12 + (rrs[at + 10] << 8 | rrs[at + 11])
        out += (owner, rrs[at + 2 : end])
        at = end
    return b"".join(out)
