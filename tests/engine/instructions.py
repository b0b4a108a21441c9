"""What `test_instructions` runs under callgrind: each kind of packet so many times through the engine's door.

    python -S -E tests/engine/instructions.py ENGINE FILE

Lives here: the loop, with as little else as can be, for all of it runs fifty times slower. Does not live here: making
the file (an image, tables and packets, marshalled), counting.

`shed` is set behind each kind: callgrind begins another count there.
"""

import marshal
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

NAME = "dnsd.engine.door"


def main() -> None:
    """The command."""
    loader = ExtensionFileLoader(NAME, sys.argv[1])
    engine = module_from_spec(spec_from_loader(NAME, loader))  # type: ignore[arg-type]
    loader.exec_module(engine)
    with open(sys.argv[2], "rb") as file:
        image, tables, identity, slots, secrets, parts, now, kinds = marshal.load(file)
    sight = engine.Sight(image, {}, tables, identity)
    count = memoryview(bytearray(8 * slots)).cast("Q")
    for limited, tcp, packets, clients in kinds:
        door = engine.Door(count, tcp=tcp, limit=65535 if tcp else 1232)
        door.cookies(secrets)
        door.guard(_Parts(parts) if limited else None)
        door.strict = limited
        door.guard_now = 1
        for packet, client in zip(packets, clients, strict=True):
            reply = door.answer(packet, client, now, sight)
            if not isinstance(reply, bytes):
                raise SystemExit(f"no answer: {packet.hex()} {reply}")
        door.shed = 0


class _Parts:
    """A guard's parts (`dns.guard.GuardParts`) with a table of their own."""

    def __init__(self, parts: dict[str, object]) -> None:
        self.__dict__.update(parts, table=memoryview(bytearray(8 * 65536)).cast("Q"), slipped=bytearray(1))


main()
