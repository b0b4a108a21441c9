"""Domain names between text and wire, off the query path.

Lives here: lower-case wire names (the form every key in dnsd has), their text, their ancestors.
Does not live here: names inside packets (`dns.wire` reads them with its own bounds), internationalised names (operators
write A-labels).
"""

from __future__ import annotations

from collections.abc import Iterator


def to_wire(text: str) -> bytes:
    """The lower-case wire form of an absolute name, with or without its final dot; ValueError says what is wrong.

    Escapes are those of master files (RFC 1035 §5.1): `\\.` and `\\DDD`.
    """
    if text in (".", ""):
        return b"\0"
    out = bytearray()
    for label in _labels(text):
        if not label:
            raise ValueError(f"empty label in {text!r}")
        if len(label) > 63:
            raise ValueError(f"label of {len(label)} octets in {text!r}, 63 are allowed")
        out.append(len(label))
        out += label
    out.append(0)
    if len(out) > 255:
        raise ValueError(f"name of {len(out)} octets, 255 are allowed")
    return bytes(out).lower()


def to_text(wire: bytes) -> str:
    """The absolute text of a wire name, with a final dot; everything but letters, digits, `-_*` is escaped."""
    if wire == b"\0":
        return "."
    return "".join("".join(map(_octet, label)) + "." for label in split(wire))


def split(wire: bytes) -> list[bytes]:
    """The labels of a wire name, the root's left out; ValueError where lengths do not add up."""
    found: list[bytes] = []
    at = 0
    while at < len(wire) and wire[at]:
        length = wire[at]
        if length > 63:
            raise ValueError("not an uncompressed name")
        found.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
    if at != len(wire) - 1:
        raise ValueError("name does not end where its octets do")
    return found


def parents(wire: bytes) -> Iterator[bytes]:
    """The ancestors of a wire name, nearest first, the root last; the name itself is not among them."""
    at = 0
    while wire[at]:
        at += 1 + wire[at]
        yield wire[at:]


def labels(wire: bytes) -> int:
    """How many labels a wire name has, the root's not counted."""
    return sum(1 for _ in parents(wire))


def under(wire: bytes, ancestor: bytes) -> bool:
    """Whether a name is the ancestor or lies below it."""
    return wire == ancestor or any(parent == ancestor for parent in parents(wire))


def _labels(text: str) -> Iterator[bytes]:
    label = bytearray()
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == ".":
            yield bytes(label)
            label.clear()
            if at == len(text):
                return
        elif char == "\\":
            digits = text[at : at + 3]
            if len(digits) == 3 and digits.isascii() and digits.isdigit():
                if int(digits) > 255:
                    raise ValueError(f"\\{digits} is no octet in {text!r}")
                label.append(int(digits))
                at += 3
            elif at < len(text) and text[at].isascii() and not text[at].isdigit():
                label += text[at].encode()
                at += 1
            else:
                raise ValueError(f"unfinished escape in {text!r}")
        elif char.isascii() and char.isprintable() and char != " ":
            label += char.encode()
        else:
            raise ValueError(f"{char!r} is not allowed in {text!r}; use an A-label or \\DDD")
    yield bytes(label)


def _octet(octet: int) -> str:
    char = chr(octet)
    if octet < 128 and (char.isalnum() or char in "-_*"):
        return char
    return "\\" + char if 33 <= octet <= 126 else f"\\{octet:03d}"
