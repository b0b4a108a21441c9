"""Every number and octet string that the compiled engine has in common with the Python it must equal.

Lives here: the text of `constants.pxi`, made from the modules that own those numbers, and its digest. Does not live
here: any number of its own.

`setup.py` writes the text beside the engine's source and the engine is compiled from it, so nothing is written twice.
The digest is compiled in: an engine that was built for other offsets is not used (`serve.engine`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from zlib import crc32

from dnsd import answer, chase, choose, metrics
from dnsd.dns import cookies, guard, types, wire
from dnsd.image import layout, record, table
from dnsd.model import Ladder
from dnsd.steer import draw, rank, spill

_FLATS: Final = {
    "HEADER": layout.HEADER, "SECTION": layout.SECTION, "ZONE": layout.ZONE, "NODE": layout.NODE,
    "RRSET": layout.RRSET, "SLOT": layout.RECORD_SLOT, "RECORD": layout.RECORD, "ENDPOINT": layout.ENDPOINT,
    "MAP": layout.MAP_HEADER,
}
_LAYOUT: Final = (
    "LAYOUT", "NONE", "S_ZONES", "S_NODES", "S_RRSETS", "S_NAMES", "S_DATA", "S_HASH", "S_RECORDS", "N_APEX", "N_CUT",
    "N_SERVICE", "N_CNAME", "N_DNAME", "N_EMPTY", "HASH_SEED", "LEVELS", "MATCHES", "R_USES_CLIENT", "R_OWNS_A",
    "R_OWNS_AAAA", "R_OWNS_HTTPS", "R_NO_ECS_FALLBACK", "R_UNKNOWN_FALLBACK", "R_PANIC", "R_SPILL", "R_DECLARED",
    "E_V4", "E_V6", "E_GHOST4", "E_GHOST6",
    "NO_COLUMN", "INDEX4_SHIFT", "INDEX4_SLOTS", "INDEX6_BASE", "INDEX6_SHIFT", "INDEX6_SLOTS", "ECS_MAX4", "ECS_MAX6",
)
_METRICS: Final = tuple(
    name for name, value in vars(metrics).items() if name.isupper() and isinstance(value, int) and name[0] != "_")
_TYPES: Final = tuple(name for name, value in vars(types).items() if name.isupper() and isinstance(value, int))
_BLOBS: Final = {
    "EDE_LAST_GOOD": choose.STALE, "EDE_NOBODY": choose.EMPTY, "EDE_PANIC": choose.PANIC, "ANY_HINFO": chase.HINFO,
    "EDE_REFUSED": chase.REFUSED[4],
}


def pxi() -> str:
    """The text of `constants.pxi`: C macros and their declarations."""
    numbers = list(_numbers())
    tables = {
        "DRAW_COST": draw.COST,
        "SHED_AT": [answer.LEAST_USEFUL.get(kind, 99) for kind in range(metrics.SLOTS)],
        "GUARD_KIND": [answer.GUARD_KINDS.get(kind, 0) for kind in range(metrics.SLOTS)],
        "CRC32": _crc_tables(),
    }
    lines = ["# Made by dnsd.engine.constants: change what it reads, not this.", "cdef extern from *:", '    """']
    lines += [f"    #define K_{name} {_literal(value)}" for name, value in numbers]
    for name, blob in _BLOBS.items():
        lines.append(f"    static const unsigned char B_{name}[] = {{{', '.join(map(str, blob))}}};")
        lines.append(f"    #define B_{name}_SIZE {len(blob)}")
    for name, values in tables.items():
        kind = "unsigned long long" if max(values) >> 32 else "unsigned int"
        lines.append(f"    static const {kind} T_{name}[] = {{{', '.join(map(_literal, values))}}};")
    lines.append('    """')
    lines += [f"    const {_c_type(value)} K_{name}" for name, value in numbers]
    lines += [f"    const unsigned char B_{name}[{len(blob)}]" for name, blob in _BLOBS.items()]
    lines += [f"    const int B_{name}_SIZE" for name in _BLOBS]
    lines += [
        f"    const unsigned {'long long' if max(values) >> 32 else 'int'} T_{name}[{len(values)}]"
        for name, values in tables.items()]
    text = "\n".join(lines) + "\n"
    told = crc32(text.encode())
    return f'{text}\ndef digest():\n    """Which numbers this was compiled with."""\n    return {told}\n'


def digest() -> int:
    """What an engine compiled from these numbers says of itself."""
    return crc32(pxi().rpartition("\n\ndef digest")[0].encode() + b"\n")


def _numbers() -> Iterator[tuple[str, int]]:
    for name, flat in _FLATS.items():
        yield f"SIZEOF_{name}", flat.size
        for field, at in flat.at.items():
            yield f"{name}_{field.upper()}", at
    yield from ((name, getattr(layout, name)) for name in _LAYOUT)
    yield from ((f"M_{name}", getattr(metrics, name)) for name in _METRICS)
    yield from ((f"M_TCP_CLOSED_{reason.upper()}", slot) for reason, slot in metrics.TCP_CLOSED.items())
    yield from ((f"T_{name}", getattr(types, name)) for name in _TYPES)
    yield from ((f"LADDER_{rung.name}", rung.value) for rung in Ladder)
    yield from ((f"PASS_{reason.upper()}", -1 - at) for at, reason in enumerate(metrics.PASS_REASONS))
    yield from (
        ("UDP_SIZE", wire.UDP_SIZE), ("PLAIN_SIZE", wire.PLAIN_SIZE), ("PAD_BLOCK", wire.PAD_BLOCK),
        ("OPTIONS_MAX", wire.OPTIONS_MAX), ("CHAIN_MAX", chase.CHAIN_MAX), ("V6_BLOCK", record.V6_BLOCK),
        ("MAPPED", table.MAPPED), ("NAT64", table.NAT64 >> 32), ("SIX_TO_FOUR", table.SIX_TO_FOUR),
        ("TEREDO", table.TEREDO), ("KEY4_BITS", layout.KEY4_BITS), ("KEY6_BITS", layout.KEY6_BITS),
        ("LOG_BITS", draw.LOG_BITS), ("NEVER_FIRST", rank.NEVER_FIRST),
        ("SPILL_GOLDEN", spill.GOLDEN), ("SPILL_WHOLE", spill.WHOLE),
        ("SPILL_LAST", spill.LAST),
        ("COOKIE_OLDEST", cookies.OLDEST), ("COOKIE_YOUNGEST", cookies.YOUNGEST), ("COOKIE_RENEWED", cookies.RENEWED),
        ("GUARD_UNIT_NS", guard.UNIT_NS), ("GUARD_KINDS", guard.KINDS), ("GUARD_RAISED", guard.RAISED),
        ("GUARD_TIME", guard.TIME), ("GUARD_AHEAD", guard.AHEAD),
    )


def _crc_tables() -> list[int]:
    """For each octet what it does to a CRC-32 as the last, the one before that, … of eight taken in at once."""
    tables = [[crc32(bytes([i])) ^ crc32(b"\0") for i in range(256)]]
    for _ in range(7):
        tables.append([value >> 8 ^ tables[0][value & 0xFF] for value in tables[-1]])
    return [value for table in tables for value in table]


def _literal(value: int) -> str:
    return f"{value:#x}ULL" if value >> 31 and value > 0 else str(value)


def _c_type(value: int) -> str:
    return "unsigned long long" if value >> 31 and value > 0 else "int"
