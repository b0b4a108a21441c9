"""A store in memory that runs the registry's own scripts: as much of Redis as these call, and no more.

Lives here: the keys, the commands, Lua with what Redis gives it. Does not live here: faults and waiting (`links`). That
it answers as a real store does is `test_memory`'s business.

As the scripts are the real ones, nothing of what they promise is written down a second time here, and a change to them
is a change of this store at once.
"""

from __future__ import annotations

import bisect
import copy
import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from lupa import lua51

from dnsd.registry.scripts import Script

Id = tuple[int, int]
LAST: Id = (2**63, 2**63)
CODES = {"/": "\\/", "\x7f": "\\u007f"}
"""What lua-cjson writes otherwise than Python's json."""


class Scores(dict[bytes, float]):
    """A sorted set."""

    def ranked(self) -> list[tuple[bytes, float]]:
        return sorted(self.items(), key=lambda item: (item[1], item[0]))


class Stream:
    """Entries by id, and the last id there ever was."""

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.fields: list[list[bytes]] = []
        self.last: Id = (0, 0)

    def add(self, at: Id, fields: list[bytes], most: int | None) -> None:
        assert at > self.last, f"{at} is not after {self.last}"
        self.ids.append(at)
        self.fields.append(fields)
        self.last = at
        self.trim(most)

    def trim(self, most: int | None) -> None:
        if most is not None and len(self.ids) > most:
            del self.ids[:-most], self.fields[:-most]

    def between(self, first: Id, last: Id) -> list[list[Any]]:
        """Entries after `first`, up to `last`."""
        low, high = bisect.bisect_right(self.ids, first), bisect.bisect_right(self.ids, last)
        return [[_id(at), list(fields)] for at, fields in zip(self.ids[low:high], self.fields[low:high], strict=True)]


class Memory:
    """One store. `now_ms` is its clock, `wrote` is called after what has added to a stream, `added` counts that."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self.data: dict[bytes, Any] = {}
        self.wrote: Callable[[], None] = lambda: None
        self.added = 0
        self._commands: dict[str | bytes, Callable[..., Any]] = {}

    def run(self, script: Script, keys: Sequence[bytes], args: Sequence[str | bytes | int]) -> list[Any]:
        """A script over these keys."""
        before = self.added
        try:
            return _LUA.run(self, script, keys, [_octets(arg) for arg in args])
        finally:
            if self.added != before:
                self.wrote()

    def command(self, name: str | bytes, *args: str | bytes | int | float) -> Any:
        """One command; its reply as redis-py gives it without callbacks."""
        made = self._commands.get(name)
        if made is None:
            made = self._commands[name] = getattr(self, f"_{_octets(name).decode().lower()}")
        return made(*[arg if type(arg) is bytes else _octets(arg) for arg in args])

    def saved(self) -> dict[bytes, Any]:
        """Everything, as a copy to come back to."""
        return copy.deepcopy(self.data)

    # --- hashes ---

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.data.setdefault(key, {})
        return found

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self._hash(key).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        return [self._hash(key).get(field) for field in fields]

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        held = self._hash(key)
        before = len(held)
        held.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(held) - before

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        return sum(self._hash(key).pop(field, None) is not None for field in fields)

    def _hexists(self, key: bytes, field: bytes) -> int:
        return int(field in self._hash(key))

    def _hlen(self, key: bytes) -> int:
        return len(self._hash(key))

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [part for pair in self._hash(key).items() for part in pair]

    def _hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        value = int(self._hash(key).get(field, b"0")) + int(by)
        self._hash(key)[field] = b"%d" % value
        return value

    # --- lists, sorted sets ---

    def _rpush(self, key: bytes, *values: bytes) -> int:
        held: deque[bytes] = self.data.setdefault(key, deque())
        held.extend(values)
        return len(held)

    def _lpop(self, key: bytes) -> bytes | None:
        held = self.data.get(key)
        return held.popleft() if held else None

    def _scores(self, key: bytes) -> Scores:
        found: Scores = self.data.setdefault(key, Scores())
        return found

    def _zadd(self, key: bytes, *pairs: bytes) -> int:
        held = self._scores(key)
        before = len(held)
        held.update((member, float(score)) for score, member in zip(pairs[::2], pairs[1::2], strict=True))
        return len(held) - before

    def _zrem(self, key: bytes, *members: bytes) -> int:
        return sum(self._scores(key).pop(member, None) is not None for member in members)

    def _zcard(self, key: bytes) -> int:
        return len(self._scores(key))

    def _zscore(self, key: bytes, member: bytes) -> bytes | None:
        score = self._scores(key).get(member)
        return None if score is None else _number(score)

    def _zmscore(self, key: bytes, *members: bytes) -> list[bytes | None]:
        return [self._zscore(key, member) for member in members]

    def _zrange(self, key: bytes, first: bytes, last: bytes, *more: bytes) -> list[bytes]:
        ranked = self._scores(key).ranked()
        return _flat(ranked[int(first):None if int(last) == -1 else int(last) + 1], more)

    def _zcount(self, key: bytes, low: bytes, high: bytes) -> int:
        return len(self._zrangebyscore(key, low, high))

    def _zrangebyscore(self, key: bytes, low: bytes, high: bytes, *more: bytes) -> list[bytes]:
        above, below = (_bound(text) for text in (low, high))
        found = [
            (member, score) for member, score in self._scores(key).ranked()
            if (score > above[0] or (score == above[0] and above[1]))
            and (score < below[0] or (score == below[0] and below[1]))]
        return _flat(_limited(found, more), more)

    def _zrangebylex(self, key: bytes, low: bytes, high: bytes, *more: bytes) -> list[bytes]:
        members = [member for member, _ in self._scores(key).ranked()]
        first = (bisect.bisect_right if low[:1] == b"(" else bisect.bisect_left)(members, low[1:])
        last = (bisect.bisect_left if high[:1] == b"(" else bisect.bisect_right)(members, high[1:])
        return _limited(members[first:last], more)

    # --- streams ---

    def _stream(self, key: bytes) -> Stream:
        found: Stream = self.data.setdefault(key, Stream())
        return found

    def _xadd(self, key: bytes, *args: bytes) -> bytes:
        most = None
        if args[0].upper() == b"MAXLEN":
            most, args = int(args[2]), args[3:]
        stream, raw = self._stream(key), args[0]
        if raw == b"*":
            now = self.now_ms()
            at = (now, 0) if now > stream.last[0] else (stream.last[0], stream.last[1] + 1)
        else:
            at = _place(raw)
        stream.add(at, list(args[1:]), most)
        self.added += 1
        return _id(at)

    def _xrange(self, key: bytes, first: bytes, last: bytes, *more: bytes) -> list[list[Any]]:
        assert last == b"+"
        begin = (-1, 0) if first == b"-" else _place(first.removeprefix(b"("))
        assert first[:1] in (b"-", b"("), "only what is asked by the registry"
        found = self._stream(key).between(begin, LAST)
        return found[:int(more[1])] if more else found

    def _xrevrange(self, key: bytes, last: bytes, first: bytes, *more: bytes) -> list[list[Any]]:
        assert (last, first) == (b"+", b"-")
        found = self._stream(key).between((-1, 0), LAST)[::-1] if key in self.data else []
        return found[:int(more[1])] if more else found

    def _xread(self, *args: bytes) -> list[Any] | None:
        options = {args[at].upper(): args[at + 1] for at in range(0, list(args).index(b"STREAMS"), 2)}
        key, after = args[-2:]
        if key not in self.data:
            return None
        found = self._stream(key).between(_place(after), LAST)[:int(options[b"COUNT"])]
        return [[key, found]] if found else None

    def _time(self) -> list[bytes]:
        now = self.now_ms()
        return [b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)]


class _Lua:
    """One Lua for all stores of a process; each script is read once."""

    def __init__(self) -> None:
        self._runtime = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._scripts: dict[str, Any] = {}
        self._memory: Memory | None = None
        table, set_ = self._runtime.table, self._runtime.globals()
        calls = table()
        calls[b"call"], calls[b"sha1hex"] = self._call, lambda raw: hashlib.sha1(raw).hexdigest().encode()
        set_[b"redis"] = calls
        coded = table()
        coded[b"encode"], coded[b"decode"] = _encoded, lambda raw: self._given(_decoded(raw))
        set_[b"cjson"] = coded
        bits = table()
        bits[b"bor"], bits[b"band"] = lambda a, b: int(a) | int(b), lambda a, b: int(a) & int(b)
        set_[b"bit"] = bits

    def run(self, memory: Memory, script: Script, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        made = self._scripts.get(script.sha)
        if made is None:
            _, _, body = script.text.partition("\n")
            made = self._runtime.execute(
                b"return function(KEYS, ARGV)\n" + body.encode() + b"\nend")
            self._scripts[script.sha] = made
        self._memory = memory
        reply = made(self._runtime.table_from(keys), self._runtime.table_from(args))
        taken: list[Any] = self._taken(reply)
        return taken

    def _call(self, name: bytes, *args: Any) -> Any:
        assert self._memory is not None
        return self._given(self._memory.command(name, *args))

    def _given(self, value: Any) -> Any:
        """A reply, or decoded JSON, as Lua has it."""
        if value is None:
            return False
        if isinstance(value, (list, tuple)):
            return self._runtime.table_from([self._given(one) for one in value])
        if isinstance(value, dict):
            return self._runtime.table_from({key.encode(): self._given(one) for key, one in value.items()})
        return value.encode() if isinstance(value, str) else value

    def _taken(self, value: Any) -> Any:
        """What a script returns, as a reply: a table ends at its first nil, numbers are whole."""
        if value is False or value is None:
            return None
        if value is True:
            return 1
        if isinstance(value, (int, float)):
            return int(value)
        if isinstance(value, bytes):
            return value
        found, at = [], 1
        while (one := value[at]) is not None:
            found.append(self._taken(one))
            at += 1
        return found


def _encoded(value: Any) -> bytes:
    text = json.dumps(_spoken(value), ensure_ascii=False, separators=(",", ":"))
    for plain, code in CODES.items():
        text = text.replace(plain, code)
    return text.encode("utf-8", "surrogateescape")


def _spoken(value: Any) -> Any:
    """A Lua value as JSON has it; a table that begins at 1 is an array."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if lua51.lua_type(value) != "table":
        return value
    if value[1] is not None:
        return [_spoken(value[at]) for at in range(1, len(value) + 1)]
    return {_spoken(key): _spoken(one) for key, one in value.items()}


def _decoded(raw: bytes) -> Any:
    return json.loads(raw)


def _octets(value: str | bytes | int | float) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else _number(value)


def _number(value: int | float) -> bytes:
    return b"%d" % value if value == int(value) else repr(value).encode()


def _id(at: Id) -> bytes:
    return b"%d-%d" % at


def _place(raw: bytes) -> Id:
    ms, _, number = raw.partition(b"-")
    return int(ms), int(number or b"0")


def _bound(raw: bytes) -> tuple[float, bool]:
    """A bound of scores, and whether it belongs to what it bounds."""
    return float(raw.removeprefix(b"(")), raw[:1] != b"("


def _limited(found: list[Any], more: Sequence[bytes]) -> list[Any]:
    words = [word.upper() for word in more]
    if b"LIMIT" not in words:
        return found
    at = words.index(b"LIMIT")
    first, number = int(more[at + 1]), int(more[at + 2])
    return found[first:first + number if number >= 0 else None]


def _flat(found: Sequence[tuple[bytes, float]], more: Sequence[bytes]) -> list[bytes]:
    scores = b"WITHSCORES" in [word.upper() for word in more]
    return [part for member, score in found for part in ((member, _number(score)) if scores else (member,))]


_LUA = _Lua()
