"""Packets: what resolvers send, and what nobody should, for the cost test, the reply-loop test and the flood.

Lives here: making them, each with a name. Does not live here: sending, judging. All are about `example.com` as
`tests.golden.packets` has it, or any other `zone`; the same packets every time.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from tests.golden.world import wire

IN_A = b"\0\1\0\1"
Packet = tuple[str, bytes]

# What resolvers ask: names there are, in every way there is, and the few that are not.
_ASKED = (
    ("www", 1), ("www", 28), ("www", 65), ("geo", 1), ("geo", 28), ("api", 1), ("al", 1), ("", 2), ("", 6),
    ("nothing", 1), ("x.svc", 28), ("x.sub", 1), ("b", 1), ("txt", 16), ("region", 1),
)


def header(flags: int = 0, questions: int = 1, answers: int = 0, authority: int = 0, extra: int = 0) -> bytes:
    """A header, id 4711."""
    return struct.pack(">6H", 4711, flags, questions, answers, authority, extra)


def option(code: int, data: bytes = b"") -> bytes:
    """One EDNS option."""
    return struct.pack(">HH", code, len(data)) + data


def opt(options: bytes = b"", *, size: int = 1232, version: int = 0, flags: int = 0x8000) -> bytes:
    """An OPT record."""
    return b"\0" + struct.pack(">HHBBHH", 41, size, 0, version, flags, len(options)) + options


def ecs(family: int, source: int, address: bytes, scope: int = 0) -> bytes:
    """A client subnet option."""
    return option(8, struct.pack(">HBB", family, source, scope) + address)


def asked(name: bytes, key: bytes = IN_A, options: bytes | None = None) -> bytes:
    """A query with RD clear; with an OPT where options are given, if only none."""
    return header(extra=options is not None) + name + key + (b"" if options is None else opt(options))


def typical(zone: str = "example.com", known: bytes = bytes(range(24))) -> Iterator[Packet]:
    """What resolvers send: EDNS with DO, cookies (`known`: one they have), client subnets; some without EDNS."""
    cookie = option(10, bytes(range(8)))
    forms = {
        "plain": None, "edns": b"", "cookie": cookie, "known cookie": option(10, known),
        "subnet": ecs(1, 24, b"\x0a\0\6"), "subnet and cookie": ecs(1, 24, b"\x0a\1\7") + cookie,
        "subnet 6": ecs(2, 56, bytes.fromhex("24000000000006")),
    }
    for label, type_ in _ASKED:
        name = wire(f"{label}.{zone}" if label else zone)
        for form, options in forms.items():
            yield f"{label or '@'} {type_} {form}", asked(name, struct.pack(">HH", type_, 1), options)


def hostile(zone: str = "example.com") -> Iterator[Packet]:
    """Everything else that could cost more than it should."""
    yield from _names(zone)
    yield from _questions(zone)
    yield from _opts(zone)
    yield from _subnets(zone)
    yield from _tails(zone)
    yield from _octets(zone)


def _bombs(zone: str) -> Iterator[Packet]:
    apex = wire(zone)
    for owner in ("", "www", "w", "wc", "sub", "svc", "geo", "nested", "in.service.tree", "nothing", "b"):
        above = wire(f"{owner}.{zone}") if owner else apex
        room = 255 - len(above)
        for size in (1, 2, 3, 7, 15, 31, 63):
            label = bytes([size]) + b"a" * size
            yield f"{size}-octet labels below {owner or '@'}", label * (room // len(label)) + above
        yield f"stars below {owner or '@'}", b"\1*" * (room // 2) + above
    for size in (1, 2, 5, 63):
        label = bytes([size]) + b"z" * size
        yield f"{size}-octet labels of nobody", label * (254 // len(label)) + b"\0"
    yield "the root", b"\0"
    yield "top-level", b"\3com\0"
    yield "zero octets in labels", b"\x3f" + bytes(63) + b"\1\0" * 40 + apex
    yield "lengths in labels", b"\x3f" + b"\1a" * 31 + b"\1" + apex
    yield "the zone inside a label", bytes([len(apex)]) + apex + apex


def _names(zone: str) -> Iterator[Packet]:
    for what, name in _bombs(zone):
        for number in (1, 28, 5, 16, 43, 65, 255):
            yield f"{what}, type {number}", asked(name, struct.pack(">HH", number, 1))
        yield f"{what}, all options", asked(name, IN_A, option(3) + option(10, bytes(8)) + ecs(1, 24, b"\x0a\0\6"))
        yield f"{what}, upper case", asked(name.upper(), IN_A, b"")


def _questions(zone: str) -> Iterator[Packet]:
    for label in ("www", "nothing", "geo", "x.sub", "x.w"):
        name = wire(f"{label}.{zone}")
        for type_ in (0, 1, 2, 6, 10, 41, 46, 99, 249, 250, 251, 252, 253, 254, 255, 256, 32768, 65535):
            for class_ in (0, 1, 2, 3, 4, 254, 255, 256, 65535):
                yield f"{label} {type_} class {class_}", asked(name, struct.pack(">HH", type_, class_), b"")
        for flags in (*range(0, 0x8000, 0x0800), 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010, 0x000F):
            yield f"{label} flags {flags:04x}", header(flags, extra=1) + name + IN_A + opt()
        for counts in ((0,) * 4, (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 2), (1, 0, 0, 3), (65535,) * 4):
            yield f"{label} counts {counts}", header(0, *counts) + (name + IN_A) * 4


def _opts(zone: str) -> Iterator[Packet]:
    name = wire(f"www.{zone}")
    for code in (3, 5, 8, 10, 11, 12, 13, 14, 15, 16, 20292, 65001, 65535):
        for number in (1, 2, 31, 32, 33, 100, 300, 4000, 16000):
            for size in (0, 8):
                options = option(code, bytes(size)) * min(number, 65000 // (4 + size))
                yield f"{number} times option {code} of {size}", asked(name, IN_A, options)
    for number in (31, 32):
        mixed = b"".join(option(code, data) for code, data in ((3, b""), (10, bytes(8)), (11, b""), (12, b"")))
        yield f"mixed options {number}", asked(name, IN_A, (mixed * 8)[: len(mixed) * number // 4])
        yield f"subnet behind {number} options", asked(name, IN_A, option(9) * (number - 1) + ecs(1, 24, b"\x0a\0\6"))
    for size in (*range(50), 200, 1000, 65000):
        yield f"cookie of {size}", asked(name, IN_A, option(10, bytes(size)))
    for size in (468, 4000, 65000):
        yield f"padding of {size}", asked(name, IN_A, option(12, bytes(size)))
    for number in (2, 3, 20, 2000):
        yield f"{number} OPT", header(extra=number) + name + IN_A + opt() * number
        yield f"{number} OPT, one counted", header(extra=1) + name + IN_A + opt() * number
    for version in (1, 255):
        yield f"version {version}", header(extra=1) + name + IN_A + opt(option(9) * 100, version=version)
    for length in (0, 1, 10, 11, 12, 65535):
        record = opt()[:9] + struct.pack(">H", length) + bytes(8)
        yield f"OPT that says {length}", header(extra=1) + name + IN_A + record


def _subnets(zone: str) -> Iterator[Packet]:
    for label in ("geo", "region", "sticky", "www", "all", "x.svc", "nothing"):
        name = wire(f"{label}.{zone}")
        for family, bits in ((1, 32), (2, 128), (0, 0), (3, 16), (65535, 16)):
            for source in (0, 1, 8, 9, 23, 24, 25, 32, 33, 48, 56, 57, 64, 96, 104, 127, 128, 129, 255):
                address = bytes([0x20, 1, 0x0D, 0xB8] + [0xA5] * 12)[: (source + 7) // 8]
                if source % 8 and address:
                    address = address[:-1] + bytes([address[-1] & 0xFF << (8 - source % 8) & 0xFF])
                yield f"{label} family {family} /{source} of {bits}", asked(name, IN_A, ecs(family, source, address))
        yield f"{label} scope", asked(name, IN_A, ecs(1, 24, b"\x0a\0\6", scope=24))
        yield f"{label} 64:ff9b::", asked(name, IN_A, ecs(2, 128, bytes.fromhex("0064ff9b00000000000000000a000601")))


def _tails(zone: str) -> Iterator[Packet]:
    name = wire(f"www.{zone}") + IN_A
    algorithm = b"\x0bhmac-sha256\0"
    rdata = algorithm + bytes(6) + b"\x01\x2c\0\x20" + bytes(32) + b"\x12\x67\0\0\0\0"
    long_name = b"\1k" * 127 + b"\0"
    for what, owner in (("key", b"\3key\0"), ("127 labels", long_name), ("root", b"\0"), ("pointer", b"\xc0\x0c")):
        tsig = owner + struct.pack(">HHIH", 250, 255, 0, len(rdata)) + rdata
        yield f"TSIG {what}", header(extra=1) + name + tsig
        yield f"OPT, TSIG {what}", header(extra=2) + name + opt() + tsig
        yield f"TSIG {what}, OPT", header(extra=2) + name + tsig + opt()
        yield f"SIG(0) {what}", header(extra=1) + name + owner + struct.pack(">HHIH", 24, 255, 0, 18) + bytes(18)
        soa = owner + struct.pack(">HHIH", 6, 1, 0, 22) + bytes(22)
        yield f"IXFR {what}", header(authority=1) + wire(zone) + b"\0\xfb\0\1" + soa
        yield f"IXFR {what}, OPT, TSIG", header(authority=1, extra=2) + wire(zone) + b"\0\xfb\0\1" + soa + opt() + tsig
        yield f"UPDATE {what}", header(0x2800, answers=1, authority=1) + wire(zone) + b"\0\6\0\1" + soa + soa
        yield f"100 TSIG {what}", header(extra=100) + name + tsig * 100
    huge = long_name + struct.pack(">HHIH", 250, 255, 0, len(long_name) + 16) + long_name + bytes(16)
    yield "TSIG with a long algorithm", header(extra=1) + name + huge
    yield "TSIG of 65,000", header(extra=1) + name + b"\1k\0" + struct.pack(">HHIH", 250, 255, 0, 65000) + bytes(65000)


def _octets(zone: str) -> Iterator[Packet]:
    apex = wire(zone)
    for size in (12, 17, 100, 512, 1472, 65535):
        for value in (0, 1, 2, 3, 63, 64, 0x80, 0xC0, 0xFF):
            yield f"{size} octets {value}", (header(extra=1) + bytes([value]) * size)[:size]
    yield "pointer to itself", header() + b"\xc0\x0c" + IN_A
    pointers = b"".join(struct.pack(">H", 0xC00E + 2 * n) for n in range(200))
    yield "pointers one behind another", header() + pointers + IN_A
    yield "pointer as last label", header() + b"\3www\xc0\x10" + apex + IN_A
    yield "65,535 octets behind a question", (header() + wire(f"www.{zone}") + IN_A + b"\xff" * 65535)[:65535]
    yield "65,535 octets behind a name", (header(extra=1) + b"\1a" * 120 + apex + IN_A + b"\1" * 65535)[:65535]
    rnd = random.Random(1)
    for number in range(300):
        soup = bytearray()
        while len(soup) < 500:
            size = rnd.choice((0, 1, 1, 2, 3, 5, 20, 63, 64, 192))
            soup += bytes([size]) + rnd.randbytes(min(size, 63))
        yield f"soup {number}", header(rnd.choice((0, 0, 0x100)), extra=rnd.choice((0, 1))) + bytes(soup[:500])
    whole = asked(wire(f"geo.{zone}"), IN_A, option(3) + ecs(1, 24, b"\x0a\0\6") + option(10, bytes(8)))
    for number in range(600):
        data = bytearray(whole)
        for _ in range(rnd.randint(1, 6)):
            data[rnd.randrange(len(data))] = rnd.randrange(256)
        yield f"damaged {number}", bytes(data[: rnd.randint(12, len(data))] if number % 3 else data)


def chains(zone: str = "example.com") -> Iterator[Packet]:
    """Names that lead along the zone's own aliases: what those cost is the operator's choice, within `CHAIN_MAX`."""
    for label in ("chain0", "loop1", "al15", "self", "x.wc"):
        yield label, asked(wire(f"{label}.{zone}"))
    for label in ("d", "dloop", "dlong", "twice", "grows", "dout"):
        above = wire(f"{label}.{zone}")
        for size in (1, 3, 60):
            part = bytes([size]) + b"a" * size
            for room in (40, 120, 200, 255 - len(above)):
                yield f"{room} octets of {size} below {label}", asked(part * (room // len(part)) + above)
