"""Stored bytes back to models: whatever the store holds, reading it never raises past the one value.

Lives here: raw values and replies decoded, the whole state assembled. Does not live here: asking the store (`store`).

A raw value is `version json`. It is validated by the model that wrote it and must sit under its own key; otherwise it
is named as corrupt and left out, so that a hostile or half-restored store cannot crash a reader.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from dnsd.model import Fault
from dnsd.registry.fields import Model
from dnsd.registry.models import MODELS, Kind, key_of
from dnsd.registry.values import Loaded, Position, Stored

BREATH: Final = 500  # values validated (about 10 µs each) before the event loop is given a turn
MESSAGE: Final = 300
EPOCH_END: Final = 2**63
VERSION_END: Final = 2**53  # the scripts count in Lua's numbers
A, AAAA = 1, 2


class Corrupt(ValueError):
    """A stored value that cannot be read back."""


def position(reply: list[bytes | None]) -> Position | None:
    """`HMGET meta epoch version chain` as a position; None when the store holds no history. Raises ValueError.

    A number out of its bounds must not pass: it would be served as a version nothing true can follow.
    """
    epoch, version, chain = reply
    if epoch is None or version is None or chain is None:
        return None
    for name, text, bound in (("epoch", epoch, EPOCH_END), ("version", version, VERSION_END)):
        if not text.isdigit() or len(text) > len(str(bound)) or int(text) >= bound:
            raise ValueError(f"{name} {text[:40]!r}")
    return Position(int(epoch), int(version), cursor(int(version), chain.decode()), chain.decode())


def cursor(version: int, chain: str) -> str:
    """The cursor behind the write `version`: the id of its stream entry, and its chain hash."""
    return f"{version}-0/{chain}"


def etag(raw: bytes) -> str:
    """As `etag` in `lua/commit.lua`."""
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()[:16]


def stored(kind: Kind, key: str, raw: bytes, deadline: bytes | None = None) -> Stored:
    """One raw value; a lease's deadline is kept beside it, below zero while it is held. Raises Corrupt."""
    version, _, json = raw.partition(b" ")
    if kind is Kind.LEASE:
        ends = (deadline or b"").removeprefix(b"-")
        if not json.endswith(b"}") or not ends.isdigit():
            raise Corrupt("not a lease with a deadline")
        json = b'%b,"deadline":%b%b}' % (json[:-1], ends, b"" if ends == deadline else b',"held":true')
    if not version.isdigit():
        raise Corrupt("no version before the value")
    return Stored(value(kind, key, json), etag(raw), int(version))


def value(kind: Kind, key: str, json: bytes | dict[str, Any]) -> Model:
    """A stored JSON text, or what it was parsed to, as its model under its own key. Raises Corrupt."""
    try:
        model = MODELS[kind].model_validate_json(json) if isinstance(json, bytes) else MODELS[kind].model_validate(json)
    except ValidationError as error:
        raise Corrupt(_message(error)) from error
    if key_of(model) != key:
        raise Corrupt(f"the value is {key_of(model)!r}")
    return model


def types(bits: int) -> frozenset[str]:
    """Owned record types from their bits."""
    return frozenset(name for name, bit in (("A", A), ("AAAA", AAAA)) if bits & bit)


async def loaded(
    at: Position, values: Mapping[Kind, Mapping[bytes, bytes]], owned: Mapping[bytes, bytes],
    deadlines: Mapping[bytes, bytes],
) -> Loaded:
    """The whole state from its raw hashes; gives other tasks a turn now and then."""
    corrupt: list[Fault] = []
    kinds: dict[Kind, dict[str, Any]] = {}
    for kind, raws in values.items():
        kinds[kind] = {}
        for count, (raw_key, raw) in enumerate(raws.items()):
            if count % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            try:
                key = raw_key.decode()
                kinds[kind][key] = stored(kind, key, raw, deadlines.get(raw_key)).value
            except ValueError as error:
                corrupt.append(Fault(f"{kind}/{raw_key.decode(errors='replace')}", str(error)))
    return Loaded(
        at, kinds[Kind.SITE], kinds[Kind.SERVICE], kinds[Kind.ENDPOINT], kinds[Kind.LEASE], kinds[Kind.OVERRIDE],
        dict(_owned(owned.items(), corrupt)), corrupt, kinds.get(Kind.VERDICT, {}))


def _owned(items: Iterable[tuple[bytes, bytes]], corrupt: list[Fault]) -> Iterable[tuple[str, frozenset[str]]]:
    for raw_key, raw in items:
        try:
            yield raw_key.decode(), types(int(raw))
        except ValueError as error:
            corrupt.append(Fault(f"owned/{raw_key.decode(errors='replace')}", str(error)))


def _message(error: ValidationError) -> str:
    items = error.errors(include_url=False, include_input=False)
    parts = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in items]
    return "; ".join(parts)[:MESSAGE]
