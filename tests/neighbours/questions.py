"""Questions drawn from what zones have: names at, above, below and beside it, every kind of type, flag and EDNS.

Lives here: the draw. Does not live here: sending, comparing. The same seed gives the same octets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

import dns.name

_TYPES: Final = (1, 28, 16, 15, 2, 6, 5, 33, 43, 39, 65, 64, 12, 46, 47, 48, 50, 13, 257, 65534, 65400, 255)
_WEIGHTS: Final = (20, 8, 8, 5, 6, 3, 6, 2, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 3, 1, 4)
_CLASSES: Final = (0, 2, 3, 4, 254, 255, 4096)
_FLAGS: Final = (0x0100, 0x0020, 0x0010)  # RD, AD, CD


class Question(NamedTuple):
    """A query and what it is made of; `size` is None without EDNS."""

    packet: bytes
    name: dns.name.Name
    type: int
    class_: int
    tcp: bool
    size: int | None
    version: int
    options: bool


def draw(names: Sequence[str], number: int, seed: int) -> list[Question]:
    """That many questions about zones with these names."""
    rnd = random.Random(seed)
    parsed = [dns.name.from_text(name) for name in names]
    return [_question(rnd, parsed) for _ in range(number)]


def _question(rnd: random.Random, names: Sequence[dns.name.Name]) -> Question:
    name = _name(rnd, names)
    type_ = rnd.choices(_TYPES, _WEIGHTS)[0] if rnd.random() < 0.97 else rnd.choice(
        [0, 3, 41, 99, 128, 249, 250, 251, 252, 253, 254, 32768, 65280, 65535])
    class_ = 1 if rnd.random() < 0.985 else rnd.choice(_CLASSES)
    flags = sum(bit for bit in _FLAGS if rnd.random() < 0.3)
    tcp = rnd.random() < 0.06
    size: int | None = None
    version, options, opt = 0, b"", b""
    if rnd.random() < 0.6:
        size = rnd.choice((0, 511, 512, 600, 900, 1220, 1232, 1400, 4096, 65535))
        version = 0 if rnd.random() < 0.98 else rnd.choice((1, 2, 255))
        edns_flags = (0x8000 if rnd.random() < 0.4 else 0) | (rnd.getrandbits(15) if rnd.random() < 0.05 else 0)
        if rnd.random() < 0.1:
            options = (65001).to_bytes(2, "big") + b"\0\3abc"
        opt = (b"\0\0\x29" + size.to_bytes(2, "big") + b"\0" + bytes([version]) + edns_flags.to_bytes(2, "big")
               + len(options).to_bytes(2, "big") + options)
    head = (rnd.getrandbits(16).to_bytes(2, "big") + flags.to_bytes(2, "big") + b"\0\1\0\0\0\0\0" + bytes([bool(opt)]))
    wire = name.to_wire() + type_.to_bytes(2, "big") + class_.to_bytes(2, "big")
    return Question(head + wire + opt, name, type_, class_, tcp, size, version, bool(options))


def _name(rnd: random.Random, names: Sequence[dns.name.Name]) -> dns.name.Name:
    """One of the names, or one near it; in 0x20 case now and then."""
    labels = list(rnd.choice(names).labels)
    what = rnd.random()
    if what < 0.4:
        pass
    elif what < 0.65:
        labels = [_label(rnd) for _ in range(rnd.choice((1, 1, 1, 2, 3)))] + labels
    elif what < 0.78:
        del labels[: rnd.randint(1, len(labels) - 1)]
    elif what < 0.9 and len(labels) > 1:
        at = rnd.randrange(len(labels) - 1)
        labels[at] = _label(rnd)
    elif what < 0.97 and len(labels) > 1:
        labels.insert(rnd.randrange(len(labels) - 1), _label(rnd))
    elif what < 0.99:
        while sum(len(label) + 1 for label in labels) < 190:
            labels.insert(0, b"x" * rnd.randint(1, 63))
    else:
        labels = [bytes(rnd.choice(b"abc.test") for _ in range(rnd.randint(1, 5))), b""]
    if rnd.random() < 0.25:
        labels = [bytes(c ^ 0x20 if c in _LETTERS and rnd.random() < 0.5 else c for c in label) for label in labels]
    while sum(len(label) + 1 for label in labels) > 255:
        del labels[0]
    return dns.name.Name(labels)


_LETTERS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _label(rnd: random.Random) -> bytes:
    return rnd.choice((
        b"a", b"b", b"c", b"d", b"x", b"*", b"www", b"al", b"ns", b"_tcp", b"a.b", b"\0", b"\xff", b"\x01*", b"nothing",
        b"x" * 63, b"g", b"deep", b"real"))
