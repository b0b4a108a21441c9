"""Frames between the control process and its child: a kind, a JSON head, octets.

Lives here: their form over pipes. Does not live here: what is said (`rtt.child`, `control.deciding`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

HEAD: Final = struct.Struct("<II")  # octets of the JSON, octets of all parts
MOST: Final = 1 << 30


class Frame(NamedTuple):
    """One frame. `head["parts"]` are the sizes of its parts."""

    head: dict[str, Any]
    parts: list[bytes]


def packed(head: Mapping[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """A frame's octets."""
    text = json.dumps({**head, "parts": [len(part) for part in parts]}, separators=(",", ":")).encode()
    body = b"".join(parts)
    return HEAD.pack(len(text), len(body)) + text + body


def sizes(octets: bytes) -> tuple[int, int]:
    """How many octets of JSON and of parts follow a frame's first eight; ValueError when that is absurd."""
    text, body = HEAD.unpack(octets)
    if text > MOST or body > MOST:
        raise ValueError("a frame larger than any")
    return text, body


def unpacked(text: bytes, body: bytes) -> Frame:
    """A frame from its JSON and its parts; ValueError where it is none."""
    head = json.loads(text)
    parts, at = [], 0
    for size in head.pop("parts"):
        parts.append(body[at : at + size])
        at += size
    return Frame(head, parts)
