"""The event stream and the audit trail, decoded.

Lives here: following the chain, events from stream entries, audit entries. Does not live here: reading the streams
(`store`), writing them (`lua/commit.lua`).

Each entry's chain hash is SHA-1 over (chain before it, version, body): it tells this history from any other, which a
version number alone cannot once a store was restored or failed over. It guards against accidents, not against forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json

from dnsd.registry import reading
from dnsd.registry.errors import Gap
from dnsd.registry.models import Kind
from dnsd.registry.values import AuditEntry, Event

Entry = tuple[bytes, list[bytes]]


def chained(before: str, version: int, body: bytes) -> str:
    """The chain hash behind an entry."""
    return hashlib.sha1(f"{before}\n{version}\n".encode() + body, usedforsecurity=False).hexdigest()


def follow(version: int, chain: str, entries: Iterable[Entry]) -> list[Event]:
    """The events of entries that must continue `version` and its `chain`. Raises Gap."""
    events: list[Event] = []
    for raw_id, flat in entries:
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        before, version = version, int(raw_id.partition(b"-")[0])
        if version != before + 1:
            raise Gap("trimmed", f"from version {before} to {version}")
        body = fields.get(b"body", b"")
        chain = chained(chain, version, body)
        if fields.get(b"chain") != chain.encode():
            raise Gap("forked", f"at version {version}")
        try:
            cursor = reading.cursor(version, chain)
            found = list(_events(cursor, version, chain, from_json(body)))
            events += found or [Event(cursor, version, None, "", None, chain)]
        except (ValueError, TypeError) as error:
            raise Gap("corrupt", f"version {version}: {error}") from error
    return events


def _events(cursor: str, version: int, chain: str, body: list[list[Any]]) -> Iterable[Event]:
    for kind_text, key, value, owned in body:
        kind = Kind(kind_text)
        model = None if value is None else reading.value(kind, key, dict(value))
        yield Event(cursor, version, kind, key, model, chain, None if owned is None else reading.types(owned))


def entries(reply: Any) -> list[Entry]:
    """The entries of an XREAD reply about one stream."""
    return list(reply[0][1]) if reply else []


def split(cursor: str) -> tuple[int, str]:
    """Version and chain of a cursor; ValueError when it is none."""
    stream_id, _, chain = cursor.partition("/")
    version = stream_id.removesuffix("-0")
    if not version.isdecimal() or not chain:
        raise ValueError(f"{cursor!r} is not a cursor")
    return int(version), chain


def audit_entry(raw_id: bytes, flat: list[bytes]) -> AuditEntry:
    """One audit entry; JSON that cannot be read back is given as text."""
    fields = {name.decode(): text for name, text in zip(flat[::2], flat[1::2], strict=True)}
    text = {name: fields.get(name, b"").decode(errors="replace") for name in ("at", "actor", "action", "kind", "key")}
    return AuditEntry(
        raw_id.decode(), int(text["at"] or 0), text["actor"], text["action"], text["kind"], text["key"],
        int(raw_id.partition(b"-")[0]), _json(fields.get("before", b"")), _json(fields.get("after", b"")))


def _json(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return from_json(raw)
    except ValueError:
        return raw.decode(errors="replace")
