"""Prefixes with a value each, as columns, and the text files they are read from.

Lives here: the two address families as keys, prefix and table parsing, naming faults. Does not live here: which files
there are and what their values mean (`atlas.sources`), nesting (`atlas.flatten`), mmdb trees (`atlas.mmdb`).

A key is the address (IPv4) or its upper 64 bits (IPv6) in a u64; in both families the finest block a scope may name,
/24 and /56, then is `key >> 8`. A large table is first read by compiled code, or else by vector arithmetic, that
believes the file and notices when it must not; only then line by line, to name every fault.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dnsd.atlas import compiled
from dnsd.model import Fault

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]

Key = TypeVar("Key", np.uint64, np.uint32)

MAX_FAULTS: Final = 1000
"""Faults named of one file; a file that is wrong throughout would otherwise bury the rest."""

_DIGITS: Final = 10


class SourceError(Exception):
    """Data files that cannot be used; `faults` names every place at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(f"{fault.place}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Family:
    """An address family as keys: `bits` of a key, of an address, and the longest prefix a scope may have."""

    version: int
    bits: int
    address_bits: int
    unit_bits: int


V4: Final = Family(4, 32, 32, 24)
V6: Final = Family(6, 64, 128, 56)


class Prefix(NamedTuple):
    """One parsed prefix: `key` is its first key, `length` its true length (up to 128)."""

    family: Family
    key: int
    length: int


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Prefixes of one family as columns: first keys, lengths in key bits, values (0: nothing known). May nest.

    Of two entries of one prefix the later counts; more specific beats less specific. `clamped` are the keys of those
    that truly are longer than a key has bits (see `clamp`).
    """

    keys: U64
    lengths: U8
    values: U32
    clamped: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self.keys)


def columns(rows: Sequence[tuple[int, int, int]]) -> Prefixes:
    """Prefixes from (key, true length, value) rows; see `clamp`."""
    table = np.array(rows, np.uint64).reshape(-1, 3)
    return clamp(table[:, 0].copy(), table[:, 1].astype(np.uint8), table[:, 2].astype(np.uint32))


def clamp(keys: U64, lengths: U8, values: U32) -> Prefixes:
    """Prefixes from true lengths: one longer than /64 stands for its /64, and of several the widest does, then the
    first, so they are put in that order, the one that counts last."""
    fine = np.flatnonzero(lengths > 64)
    if not len(fine):
        return Prefixes(keys, lengths, values)
    rest = np.flatnonzero(lengths <= 64)
    fine = fine[::-1][np.argsort(-lengths[fine[::-1]].astype(np.int16), kind="stable")]
    order = np.concatenate((fine, rest))
    return Prefixes(keys[order], np.minimum(lengths[order], 64).astype(np.uint8), values[order], keys[fine])


def distinct(keys: NDArray[Key]) -> NDArray[Key]:
    """Sorted, without repetition. `numpy.unique` hashes first, which takes two seconds for two million keys."""
    keys = np.sort(keys)
    keep = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=keep[1:])
    return keys[keep]


def parse(text: str) -> Prefix:
    """A prefix or a single address; ValueError with what is wrong."""
    address, slash, tail = text.partition("/")
    family = V6 if ":" in address else V4
    try:
        packed = inet_pton(AF_INET6 if family is V6 else AF_INET, address)
    except OSError:
        raise ValueError(f"{text!r} is no prefix") from None
    length = family.address_bits
    if slash:
        if not (tail.isascii() and tail.isdigit()) or int(tail) > family.address_bits:
            raise ValueError(f"{text!r}: the length must be 0 to {family.address_bits}")
        length = int(tail)
    number = int.from_bytes(packed, "big")
    if number & ((1 << (family.address_bits - length)) - 1):
        raise ValueError(f"{text!r} has bits set behind its length")
    return Prefix(family, number >> (family.address_bits - family.bits), length)


def contents(path: Path) -> bytes:
    """A file's bytes, unpacked where its name ends in .gz; SourceError where that fails."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as problem:
        raise SourceError([Fault(str(path), f"cannot be read: {problem}")]) from None


def lines(path: Path, data: bytes, faults: list[Fault]) -> Iterator[tuple[int, str]]:
    """Numbered lines that say something: comments (`#`, `;`) and empty lines left out. Not UTF-8 is a fault."""
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            faults.append(Fault(f"{path}:{number}", "is not UTF-8"))
            continue
        if line and line[0] not in "#;":
            yield number, line


def read_list(path: Path, value: int, faults: list[Fault]) -> list[tuple[Prefix, int]]:
    """The prefixes of a list, one a line, each with `value`."""
    found = []
    mine: list[Fault] = []
    for number, line in lines(path, contents(path), mine):
        try:
            found.append((parse(line), value))
        except ValueError as problem:
            mine.append(Fault(f"{path}:{number}", str(problem)))
    faults += bounded(path, mine)
    return found


def bounded(path: Path, faults: list[Fault]) -> list[Fault]:
    """At most MAX_FAULTS of a file's faults, and how many more there are."""
    if len(faults) <= MAX_FAULTS:
        return faults
    return [*faults[:MAX_FAULTS], Fault(str(path), f"and {len(faults) - MAX_FAULTS} more faults")]


def read_table(path: Path, faults: list[Fault]) -> dict[int, Prefixes]:
    """A pyasn table (`prefix<TAB>asn`): family version -> prefixes with AS numbers. Adds to `faults`."""
    data = contents(path)
    while data[:1] in (b";", b"#"):
        data = data.partition(b"\n")[2]
    if data and data[-1:] != b"\n":
        data += b"\n"
    found = compiled.lines.table(data) if compiled.lines else None
    if found is not None:
        four, six = found
        return {4: Prefixes(*four), 6: clamp(*six)}
    return _quick_table(data) or _slow_table(path, faults)


def _quick_table(data: bytes) -> dict[int, Prefixes] | None:
    """A table of IPv4 lines, then IPv6 lines; None where anything is unusual."""
    six = data.find(b":")
    split = len(data) if six < 0 else data.rfind(b"\n", 0, six) + 1
    four = _quick4(data[:split])
    if four is not None:
        sixth = _quick6(data[split:])
        if sixth is not None:
            return {4: four, 6: sixth}
    return None


def _quick4(data: bytes) -> Prefixes | None:
    """`a.b.c.d/l<TAB>asn` lines by byte arithmetic; None where any line is not exactly that."""
    if not data:
        return columns([])
    octets = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero((octets < 48) | (octets > 57))
    if len(marks) % 6 or not np.array_equal(
            octets[marks].reshape(-1, 6), np.broadcast_to(np.frombuffer(b".../\t\n", np.uint8), (len(marks) // 6, 6))):
        return None
    widths = np.diff(marks, prepend=-1) - 1
    if widths.min() < 1 or widths.max() > _DIGITS:
        return None
    numbers = np.zeros(len(marks), np.uint64)
    for place in range(int(widths.max())):
        has = np.flatnonzero(widths > place)
        numbers[has] += (octets[marks[has] - 1 - place] - np.uint8(48)).astype(np.uint64) * np.uint64(10**place)
    table = numbers.reshape(-1, 6)
    if (table[:, :4] > 255).any() or (table[:, 4] > 32).any() or (table[:, 5] > 0xFFFFFFFF).any():
        return None
    keys = table[:, :4] @ np.array([1 << 24, 1 << 16, 1 << 8, 1], np.uint64)
    lengths = table[:, 4]
    if (keys & ((np.uint64(1) << (np.uint64(32) - lengths)) - np.uint64(1))).any():
        return None
    return Prefixes(keys, lengths.astype(np.uint8), table[:, 5].astype(np.uint32))


def _quick6(data: bytes) -> Prefixes | None:
    """The IPv6 half of a table; None where anything is unusual."""
    if data.translate(None, b"0123456789abcdefABCDEF:./\t\n"):
        return None
    text = data.decode("ascii").replace("/", "\t").split("\n")[:-1]
    if not text:
        return columns([])
    try:
        parts = [line.split("\t") for line in text]
        packed = b"".join([inet_pton(AF_INET6, address) for address, _, _ in parts])
        rest = np.array([(int(length), int(asn)) for _, length, asn in parts], np.int64)
    except (ValueError, OSError, OverflowError):
        return None
    if (rest < 0).any() or (rest[:, 0] > 128).any() or (rest[:, 1] > 0xFFFFFFFF).any():
        return None
    halves = np.frombuffer(packed, ">u8").reshape(-1, 2).astype(np.uint64)
    lengths = rest[:, 0].astype(np.uint64)
    high, low = np.minimum(lengths, np.uint64(64)), np.maximum(lengths, np.uint64(64)) - np.uint64(64)
    for half, bits in ((halves[:, 0], high), (halves[:, 1], low)):
        behind = np.where(bits < 64, np.uint64(0xFFFFFFFFFFFFFFFF) >> np.minimum(bits, np.uint64(63)), np.uint64(0))
        if (half & behind).any():
            return None
    return clamp(halves[:, 0].copy(), rest[:, 0].astype(np.uint8), rest[:, 1].astype(np.uint32))


def _slow_table(path: Path, faults: list[Fault]) -> dict[int, Prefixes]:
    """The same line by line, naming every fault."""
    mine: list[Fault] = []
    rows: dict[int, list[tuple[int, int, int]]] = {4: [], 6: []}
    for number, line in lines(path, contents(path), mine):
        fields = line.split()
        try:
            if len(fields) != 2:
                raise ValueError(f"{len(fields)} fields instead of prefix and AS number")
            prefix = parse(fields[0])
            rows[prefix.family.version].append((prefix.key, prefix.length, as_number(fields[1])))
        except ValueError as problem:
            mine.append(Fault(f"{path}:{number}", str(problem)))
    faults += bounded(path, mine)
    return {version: columns(found) for version, found in rows.items()}


def as_number(text: str) -> int:
    """An AS number, `4134` or `AS4134`; ValueError otherwise. 0 is a number that says nothing (RFC 7607)."""
    digits = text[2:] if text[:2].upper() == "AS" else text
    if not (digits.isascii() and digits.isdigit()) or int(digits) > 0xFFFFFFFF:
        raise ValueError(f"{text!r} is no AS number")
    return int(digits)
