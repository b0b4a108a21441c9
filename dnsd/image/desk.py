"""What workers and the control process say to each other about queries that a worker does not answer itself.

Lives here: the four messages to bytes and back. Does not live here: which queries those are (`context.Desk`), the
worker's end (`serve.desk`), the answering (`control.desk`).

An answer of several messages is pulled: the next one is made when the worker asks for it, which it does when the client
has taken the one before. So a secondary that reads slowly fills nobody's memory.

    ASK     kind u8 | transport u8 | port u16 | id u32 | size of the client's address u8 | address 16s | the query
    REPLY   kind u8 | more u8 | known u8 | spare u8 | id u32 | the message; none: there is nothing (more) to send
    NEXT    kind u8 | spare 3 | id u32        worker: the message after the last one
    GONE    kind u8 | spare 3 | id u32        worker: no more of it; id 0: this worker is new, nothing was asked yet
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

UDP, TCP, TLS = range(3)
KIND_ASK, KIND_REPLY, KIND_NEXT, KIND_GONE = range(1, 5)
_ASK: Final = struct.Struct("<BBHIB16s")
_REPLY: Final = struct.Struct("<BBBxI")
_WORD: Final = struct.Struct("<BxxxI")
PACKET_MAX: Final = _ASK.size + 65535
IDS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Ask:
    """A query of that client (4 or 16 octets) as it came, and through which door."""

    id: int
    transport: int
    client: bytes
    port: int
    packet: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole message of an answer; `more` follow when asked for. `known`: the client has shown a right signature."""

    id: int
    more: bool
    message: bytes
    known: bool = False


@dataclass(frozen=True, slots=True)
class Next:
    """The client has taken what it was sent."""

    id: int


@dataclass(frozen=True, slots=True)
class Gone:
    """Nobody waits for that answer any more; id 0: for none that was asked before."""

    id: int


Word = Ask | Reply | Next | Gone


def encode(word: Word) -> bytes:
    """One packet."""
    match word:
        case Ask(id=number, transport=transport, client=client, port=port, packet=packet):
            return _ASK.pack(KIND_ASK, transport, port, number, len(client), client) + packet
        case Reply(id=number, more=more, message=message, known=known):
            return _REPLY.pack(KIND_REPLY, more, known, number) + message
    return _WORD.pack(KIND_NEXT if isinstance(word, Next) else KIND_GONE, word.id)


def decode(data: bytes) -> Word:
    """A packet taken apart; ValueError where it is none of the four."""
    try:
        kind = data[0]
        if kind == KIND_ASK:
            _, transport, port, number, size, client = _ASK.unpack_from(data)
            if size not in (4, 16) or transport not in (UDP, TCP, TLS):
                raise ValueError(f"a client's address of {size} octets, transport {transport}")
            return Ask(number, transport, client[:size], port, data[_ASK.size :])
        if kind == KIND_REPLY:
            _, more, known, number = _REPLY.unpack_from(data)
            return Reply(number, bool(more), data[_REPLY.size :], bool(known))
        if kind in (KIND_NEXT, KIND_GONE):
            _, number = _WORD.unpack(data)
            return Next(number) if kind == KIND_NEXT else Gone(number)
    except (IndexError, struct.error) as error:
        raise ValueError(f"not a whole message: {error}") from None
    raise ValueError(f"no message of kind {kind}")
