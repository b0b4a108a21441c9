"""What nodes tell each other of what they see: who is there, their votes, reports, and what one decides for all.

Lives here: the operations on `observers`, `votes`, `seen` and `verdict`. Does not live here: what follows from votes
(`control.builder`), the objects (`store`).

A vote is no version: it changes no answer until the builder has decided, and that is a write like any other. Votes go
into a bounded stream as they change; each node also keeps all of its own in one field, for whoever comes later. That
field may be a moment older than the stream, so what was said in between is read with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dnsd.registry import scripts
from dnsd.registry.errors import Conflict, Unavailable
from dnsd.registry.link import Link, pairs
from dnsd.registry.models import Verdict

ENTRIES: Final = 256
UNKEPT_MS: Final = 5000
"""A node that is there keeps its votes anew within so long of saying them."""

OCTETS: Final = 1 << 20
DECIDED: Final = 200
"""Services decided in one script call, and not many more octets than these: the store does nothing else meanwhile."""


class Present(NamedTuple):
    """A node that was there lately: how long ago (ms), which region it sees from; `seen` is another with each
    of its words."""

    ago_ms: int
    group: str
    seen: str = ""


class Presence(NamedTuple):
    """Who is there, the epoch of the store, who builds ("": nobody) with which fence; whether all is decided."""

    epoch: int
    builder: str
    fence: int
    ready: bool
    nodes: dict[str, Present]


class News(NamedTuple):
    """One entry of the stream: what a node said, and when by the store's clock."""

    node: str
    at_ms: int
    body: dict[str, Any]


class Sightings:
    """The part of one store that is about health. Raises `errors.Unavailable` as the registry does."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def observe(
        self, node: str, group: str, *, builds: int, news: Mapping[str, Any] | None = None,
        votes: Mapping[str, Any] | None = None,
    ) -> Presence:
        """Say that a node is there and what it sees; `votes`: all of its own, where they have changed.

        `builds`: 0 it cannot build, 1 it could, 2 it does and has decided on everything there is.
        """
        texts = ("" if said is None else json.dumps(said, separators=(",", ":")) for said in (news, votes))
        reply = await self._link.run(scripts.OBSERVE, node, group, str(builds or ""), *texts)
        if reply[0] != b"ok":
            raise Unavailable("the store has no history yet")
        there = [raw.decode() for raw in reply[5]]
        rows = zip(there[::4], there[1::4], there[2::4], there[3::4], strict=True)
        nodes = {name: Present(int(ago), of, seen) for name, ago, seen, of in rows}
        return Presence(int(reply[1]), reply[2].decode(), int(reply[3]), reply[4] == b"1", nodes)

    async def votes(self) -> tuple[str, dict[str, dict[str, Any]]]:
        """All votes of all nodes, and the cursor to follow from. A node's that cannot be read are left out."""
        seen = self._link.keys[scripts.SEEN]
        last, flat, time = await self._link.together(
            ("XREVRANGE", seen, "+", "-", "COUNT", 1), ("HGETALL", self._link.keys[scripts.VOTES]), ("TIME",))
        found = {node.decode(errors="replace"): said for node, raw in pairs(flat) if (said := _body(raw)) is not None}
        since_ms = int(time[0]) * 1000 - UNKEPT_MS
        [lately] = await self._link.together(("XRANGE", seen, f"({since_ms}-0", "+"))
        cursor, news = _read(last[0][0].decode() if last else "0-0", lately)
        for one in news:
            _add(found.get(one.node), one.body)
        return cursor, found

    async def follow(self, after: str, *, block_ms: int) -> tuple[str, list[News]]:
        """What was said after a cursor, and the next one; waits up to `block_ms` when there is nothing yet."""
        reply = await self._link.wait(
            "XREAD", "COUNT", ENTRIES, "BLOCK", block_ms, "STREAMS", self._link.keys[scripts.SEEN], after,
            seconds=block_ms / 1000)
        return _read(after, reply[0][1] if reply else ())

    async def tell(self, node: str, body: Mapping[str, Any]) -> None:
        """Put something into the stream that is no vote."""
        reply = await self._link.run(scripts.TELL, node, json.dumps(body, separators=(",", ":")))
        if reply[0] != b"ok":
            raise Unavailable("the store has no history yet")

    async def decide(self, node: str, fence: int, verdicts: Sequence[tuple[str, Verdict | None]]) -> int:
        """Keep verdicts by service, None for none; the version after it. Conflict: another builds now."""
        version = 0
        texts = [(name, "" if verdict is None else verdict.model_dump_json(exclude_defaults=True))
                 for name, verdict in verdicts]
        for args in _portions(texts):
            reply = await self._link.run(scripts.DECIDE, node, str(fence), *args)
            if reply[0] == b"fenced":
                raise Conflict("another node builds now")
            if reply[0] != b"ok":
                raise Unavailable("the store has no history yet")
            version = int(reply[1])
        return version


def _portions(texts: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """Names and texts for one script call each."""
    args: list[str] = []
    size = 0
    for name, text in texts:
        if args and (len(args) >= 2 * DECIDED or size + len(text) > OCTETS):
            yield args
            args, size = [], 0
        args += (name, text)
        size += len(text)
    if args:
        yield args


def _read(after: str, entries: Iterable[tuple[bytes, Sequence[bytes]]]) -> tuple[str, list[News]]:
    """The last entry's id (`after` if there is none), and what can be read of them."""
    found = []
    for raw_id, flat in entries:
        after = raw_id.decode()
        fields = dict(pairs(flat))
        body = _body(fields.get(b"news", b""))
        if body is not None:
            at_ms = int(after.partition("-")[0])
            found.append(News(fields.get(b"node", b"").decode(errors="replace"), at_ms, body))
    return after, found


def _add(kept: dict[str, Any] | None, said: Mapping[str, Any]) -> None:
    """What a node has said since it kept its votes: the same process of it, and a later word."""
    votes = said.get("votes")
    if kept is None or kept.get("run") != said.get("run") or not isinstance(votes, dict):
        return
    try:
        if said["n"] <= kept["n"]:
            return
        kept["votes"] = votes if said.get("whole") else {**kept["votes"], **votes}
    except (KeyError, TypeError):
        return
    kept |= {key: said.get(key) for key in ("n", "blind", "elsewhere")}


def _body(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
