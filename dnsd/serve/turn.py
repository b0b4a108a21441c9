"""A turn's worth of a stream: whole queries of what was read to one piece of answers.

Lives here: framing (RFC 7766 §8), how much is one turn, asking the engine or Python. Does not live here: connections
(`stream`), answering one query (`answer`, `engine/finish.pxi`).

All queries of one read are answered by one write: a pipelining client costs a system call per read, not per answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dnsd.engine.door import Door, Sight

TURN: Final = 256  # queries answered before other connections get their turn
WRITE_AT: Final = 32 * 1024  # octets of answers gathered before they are handed to the kernel
LEAST: Final = 12  # octets of a header: without one there is nothing to answer to, and nothing to keep in step with

Respond = Callable[[bytes], bytes | None]
"""A query to its reply, if it has one now."""


class Turn(NamedTuple):
    """What was done: where the next query begins, queries, answers, the answers with their lengths before them, whether
    the next query is there too, whether what follows cannot be one.
    """

    at: int
    queries: int
    answers: int
    out: bytes
    more: bool
    malformed: bool


def by_python(data: bytes, respond: Respond) -> Turn:
    """Query by query."""
    out: list[bytes] = []
    at = queries = gathered = 0
    while len(data) >= at + 2:
        end = at + 2 + (data[at] << 8 | data[at + 1])
        if end > len(data):
            break
        if queries == TURN or gathered >= WRITE_AT:
            return Turn(at, queries, len(out) // 2, b"".join(out), True, False)
        if end - at < 2 + LEAST:
            return Turn(at, queries, len(out) // 2, b"".join(out), False, True)
        reply = respond(data[at + 2 : end])
        at = end
        queries += 1
        if reply:
            out += (len(reply).to_bytes(2, "big"), reply)
            gathered += len(reply) + 2
    return Turn(at, queries, len(out) // 2, b"".join(out), False, False)


def by_engine(data: bytes, client: bytes, now: int, engine: tuple[Door, Sight], respond: Respond) -> Turn:
    """Many at a time, and as far as the engine goes; a query that it leaves to `respond` ends the turn."""
    door, sight = engine
    at, queries, answers, out, more, reason = door.stream(data, 0, client, now, sight)
    if reason >= 0:
        end = at + 2 + (data[at] << 8 | data[at + 1])
        reply = respond(data[at + 2 : end])
        at, queries = end, queries + 1
        if reply:
            out, answers = b"".join((out, len(reply).to_bytes(2, "big"), reply)), answers + 1
        more = at + 2 <= len(data) and at + 2 + (data[at] << 8 | data[at + 1]) <= len(data)
    return Turn(at, queries, answers, out, more and reason != -1, reason == -1)


def messages(out: bytes) -> list[bytes]:
    """A turn's answers, one by one."""
    found, at = [], 0
    while at < len(out):
        end = at + 2 + (out[at] << 8 | out[at + 1])
        found.append(out[at + 2 : end])
        at = end
    return found
