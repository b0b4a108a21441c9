"""What every node says of what it watches: this node's own votes out, the others' in, and who is there at all.

Lives here: presence, own votes as they change, following what is said. Does not live here: the store's part
(`registry.sightings`), what votes come to (`steer.quorum`, `control.builder`), measuring (`control.health`).

Silence is told apart: a node whose last word is too old is gone, and its votes with it; a store that does not answer
leaves this node alone, from the first failed call on or when it has had no word for a second. How old a word is, this
node's own clock says, from when it was first seen: the store's may jump. Each word has its number, so that a lost one
is noticed: then all votes are read again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from dnsd.control import targets
from dnsd.control.clock import Clock
from dnsd.control.health import Said
from dnsd.registry.errors import RegistryError
from dnsd.registry.sightings import News, Presence
from dnsd.steer import quorum
from dnsd.steer.health import State
from dnsd.steer.quorum import Vote
from dnsd.watch.schedule import Target

BEAT_S: Final = 0.4
BLOCK_MS: Final = 400
ALONE_S: Final = 1.0
FRESH_MS: Final = 3000
"""Who has said nothing for so long is gone."""

WATCHES_MS: Final = 10_000
"""Who is gone keeps its share of the watching for so long: a restart moves nothing."""

WATCHERS: Final = 3
"""Nodes that watch one target, where there are more."""

UNSEEING: Final = "-"
"""As region: a node that watches nothing, and so is no observer."""

UNSAID: Final = Said(State.UNKNOWN)
UNMARKED: Final = False, False
SAVE_S: Final = 1.0
KEPT_S: Final = 5.0
"""What a node has said is kept so long while nobody finds it there: word of that may come in any order."""

RETRY_S: Final = 0.3
_log = logging.getLogger("dnsd.control")


class Missed(Exception):
    """Something that a node said has not come here."""


class Place(NamedTuple):
    """How far a node's words are known: which process of it, how many of its."""

    run: str
    n: int


class Store(Protocol):
    """What of `registry.sightings` is needed."""

    async def observe(
        self, node: str, group: str, *, builds: int, news: Mapping[str, Any] | None = None,
        votes: Mapping[str, Any] | None = None,
    ) -> Presence:
        """Say that a node is there, may build, and what it sees."""

    async def votes(self) -> tuple[str, dict[str, dict[str, Any]]]:
        """All votes, and the cursor to follow from."""

    async def follow(self, after: str, *, block_ms: int) -> tuple[str, list[News]]:
        """What was said after a cursor, and the next one."""


class Votes:
    """All nodes' votes as this node knows them. `changed` is told of names, `reported` of what is no vote."""

    def __init__(self, store: Store, *, node: str, group: str, clock: Clock) -> None:
        self.store, self.node, self.group, self.clock = store, node, group, clock
        self.presence: Presence | None = None
        self.own: dict[str, Said] = {}
        self.blind = False  # this node does not trust its own eyes
        self.elsewhere: Callable[[], bool] = lambda: False  # whether this node serves another state than the registry's
        self.builds: Callable[[], int] = lambda: 0
        self.changed: Callable[[Iterable[str]], None] = lambda _: None
        self.reported: Callable[[News], None] = lambda _: None
        self.watching: Callable[[], None] = lambda: None  # told when who watches has changed
        self.synced = False  # whether the others' votes are known
        self._others: dict[str, dict[str, Said]] = {}
        self._marks: dict[str, tuple[bool, bool]] = {}  # of others: cut off, elsewhere
        self._heard_s = self._met_s = float("-inf")  # the last word of the store's; also if it has failed since
        self._words: dict[str, tuple[str, float]] = {}  # each node's last word, when it was said by this node's clock
        self._places: dict[str, Place] = {}
        self._taken_s: dict[str, float] = {}
        self._run, self._number = secrets.token_hex(4), 0
        self._news: dict[str, Said] = {}
        self._told, self._whole = UNMARKED, True  # the last marks; all own votes are to be told
        self._saved_s, self._unsaved, self._cursor = float("-inf"), True, ""
        self._watchers = {node: group}
        self._fresh = {node}
        self._wake = asyncio.Event()

    # --- asked ---

    @property
    def alone(self) -> bool:
        """Whether no word can come from others now: their votes count no more."""
        return self.presence is None or self.clock.monotonic() - self._heard_s > ALONE_S

    @property
    def lonely(self) -> bool:
        """Whether there is no other node at all, as far as was known."""
        return self.presence is None or not self.presence.nodes.keys() - {self.node}

    @property
    def watchers(self) -> tuple[str, ...]:
        """The nodes that share the watching, this one among them; only this one while it is alone, or elsewhere."""
        return tuple(self._watchers)

    def of(self, name: str) -> dict[str, Vote]:
        """What all that are there say of a target, each vote as old as its node's last word. Who finds itself cut off
        abstains, but where one that does not says down as well, or where all do: then it is what they look at."""
        now_ms, expected, present = self.clock.unix_ms(), self.expected(name), self._present()
        votes = {}
        for node, ago_ms, group in present:
            said = self._said(node).get(name)
            if (said is None and node not in expected) or (said and said.why and said.state is State.UNKNOWN):
                continue  # it will never say anything of this
            votes[node] = Vote((said or UNSAID).state, now_ms - ago_ms, self._is_blind(node), group)
        if len(present) > 1 and all(self._is_blind(node) for node, _, _ in present):
            return {node: vote._replace(abstains=False) for node, vote in votes.items()}
        if any(vote.state is State.DOWN and not vote.abstains for vote in votes.values()):
            return {node: vote._replace(abstains=vote.abstains and vote.state is not State.DOWN)
                    for node, vote in votes.items()}
        return votes

    def is_mine(self, target: Target) -> bool:
        """Whether this node watches a target."""
        return self.node in self.expected(targets.name(target))

    def expected(self, name: str) -> Collection[str]:
        """The nodes whose it is to watch this."""
        if len(self._watchers) <= WATCHERS:
            return self._watchers
        return quorum.watchers(targets.name_of(name), self._watchers, WATCHERS)

    def told(self, name: str) -> dict[str, Said]:
        """What each node that is there says of a target."""
        found = ((node, self._said(node).get(name)) for node, _, _ in self._present())
        return {node: said for node, said in found if said is not None}

    def described(self) -> dict[str, Any]:
        """For people: who is there, how long ago (ms), from where, how many votes it has, whether it abstains."""
        return {
            node: {"ago_ms": ago_ms, "region": group, "votes": len(self._said(node)),
                   "abstains": self._is_blind(node)}
            for node, ago_ms, group in self._present()}

    def _present(self) -> list[tuple[str, int, str]]:
        """Node, ms since its last word, group."""
        own = (self.node, 0, self.group)
        if self.presence is None or self.alone:
            return [own]
        others = ((node, self._ago_ms(node), there.group) for node, there in sorted(self.presence.nodes.items())
                  if node != self.node)
        return [own, *(one for one in others if one[1] <= FRESH_MS)]

    def _ago_ms(self, node: str) -> int:
        """How long ago a node said its last word."""
        return round((self.clock.monotonic() - self._words[node][1]) * 1000)

    def _is_blind(self, node: str) -> bool:
        return self.blind if node == self.node else self._marks.get(node, UNMARKED)[0]

    def _said(self, node: str) -> Mapping[str, Said]:
        return self.own if node == self.node else self._others.get(node, {})

    # --- told ---

    def say(self, said: Mapping[str, Said]) -> None:
        """This node's votes have changed."""
        for key, one in said.items():
            if self.own.get(key, UNSAID) == one:
                continue
            if one == UNSAID:
                del self.own[key]
            else:
                self.own[key] = one
            self._news[key] = one
        if self._news:
            self._wake.set()
            self.changed(said)

    def wake(self) -> None:
        """Something that goes with the next word has changed."""
        self._wake.set()

    # --- the tasks ---

    async def run(self) -> None:
        """Speak and listen for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._speak())
            tasks.create_task(self._listen())

    async def _speak(self) -> None:
        while True:
            self._wake.clear()
            await self._guarded(self.beat)
            self._look()
            await self._pause()

    async def _pause(self) -> None:
        """Until there is news, or it is time again."""
        waiting = asyncio.create_task(self._wake.wait())
        sleeping = asyncio.create_task(self.clock.sleep(BEAT_S))
        try:
            await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            sleeping.cancel()

    async def beat(self) -> None:
        """One word: that this node is there, and what is new."""
        now = self.clock.monotonic()
        news, self._news = self._news, {}
        # Who was silent for long may have been taken for gone, and forgotten.
        whole, self._whole = self._whole or (now - self._met_s) * 1000 > FRESH_MS, False
        body: dict[str, Any] = {}
        told, self._told = self._told, (self.blind, self.elsewhere())
        if self.group != UNSEEING and (whole or news or told != self._told):
            self._number += 1
            body = {"votes": _packed(self.own if whole else news), "whole": whole, **self._place()}
        self._unsaved |= bool(body)
        saves = self._unsaved and self.group != UNSEEING and (whole or now - self._saved_s >= SAVE_S)
        kept = {"votes": _packed(self.own), **self._place()} if saves else None
        try:
            presence = await self.store.observe(
                self.node, self.group, builds=self.builds(), news=body or None, votes=kept)
        except BaseException:
            self._whole = True
            self._heard_s = float("-inf")
            raise
        if saves:
            self._saved_s, self._unsaved = now, False
        if self.presence is not None and presence.epoch != self.presence.epoch:
            self._whole, self._cursor, self.synced = True, "", False
        self._meet(presence)

    def _place(self) -> dict[str, Any]:
        """What goes with every word."""
        blind, elsewhere = self._told
        return {"blind": blind, "elsewhere": elsewhere, "run": self._run, "n": self._number}

    def _meet(self, presence: Presence) -> None:
        """Who is there now."""
        now = self.clock.monotonic()
        words: dict[str, tuple[str, float]] = {}
        for node, there in presence.nodes.items():
            before = self._words.get(node)
            if before is not None and there.seen and before[0] == there.seen:
                words[node] = before
            else:  # a new one: no longer ago than since this was last asked, whatever the store's clock says
                words[node] = there.seen, now - max(0.0, min(there.ago_ms / 1000, now - self._met_s))
        self._notice_jump(presence, now)
        # The store may have forgotten somebody too soon, because its clock has jumped.
        former = self.presence.nodes if self.presence is not None and self.presence.epoch == presence.epoch else {}
        for node, there in former.items():
            if node not in words and (now - self._words[node][1]) * 1000 <= WATCHES_MS:
                words[node] = self._words[node]
                presence.nodes[node] = there
        self.presence, self._words, self._heard_s, self._met_s = presence, words, now, now
        for node in [node for node, at_s in self._taken_s.items()
                     if node not in words and now - at_s > KEPT_S]:
            del self._taken_s[node]
            self._others.pop(node, None)
            self._places.pop(node, None)
            self._marks.pop(node, None)

    def _notice_jump(self, presence: Presence, now: float) -> None:
        """Where the store's clock has jumped it may have forgotten what this node has said."""
        seen, (before, _) = presence.nodes.get(self.node), self._words.get(self.node, ("", 0.0))
        if seen is not None and seen.seen.isdecimal() and before.isdecimal():
            passed_ms = (now - self._met_s) * 1000
            if abs(int(seen.seen) - int(before) - passed_ms) > FRESH_MS:
                self._whole = True

    def _look(self) -> None:
        """Who is there, or who watches, may have changed."""
        fresh = {node for node, _, _ in self._present()}
        moved, self._fresh = fresh ^ self._fresh, fresh
        there = {} if self.presence is None or self.alone or self.elsewhere() else self.presence.nodes
        others = ((node, said.group) for node, said in there.items() if node != self.node
                  and self._ago_ms(node) <= WATCHES_MS and not self._marks.get(node, UNMARKED)[1])
        watchers = dict(sorted([*others, (self.node, self.group)]))
        before, self._watchers = self._watchers, watchers
        if watchers != before:
            self.watching()
        if moved or watchers != before:
            self.changed({name for node in moved for name in self._said(node)} | self.own.keys())

    async def _listen(self) -> None:
        while True:
            await self._guarded(self._follow if self._cursor else self._catch_up)

    async def _catch_up(self) -> None:
        """All votes there are."""
        cursor, found = await self.store.votes()
        names: set[str] = set()
        self._marks.clear()
        for said in self._others.values():
            names |= said.keys()
        self._others, self._places, self._taken_s = {}, {}, {}
        for node, body in found.items():
            if node != self.node:
                self._taken_s[node] = self.clock.monotonic()
                self._places[node] = _where(body)
                names |= self._take(node, body, whole=True)
        self._cursor, self.synced = cursor, True
        self.changed(names)

    async def _follow(self) -> None:
        cursor, news = await self.store.follow(self._cursor, block_ms=BLOCK_MS)
        if self._cursor:  # else another epoch began meanwhile
            self._cursor = cursor
        names: set[str] = set()
        try:
            for one in news:
                if "votes" not in one.body:
                    self.reported(one)
                elif one.node != self.node:
                    names |= self._hear(one.node, one.body)
        finally:
            if names:
                self.changed(names)

    def _hear(self, node: str, body: Mapping[str, Any]) -> set[str]:
        """A node's next word; the names it is about. Missed where one before it has not come."""
        whole, now, known = bool(body.get("whole")), _where(body), self._places.get(node, Place("", 0))
        if now.run == known.run and now.n <= known.n:
            return set()
        if not whole and now != known._replace(n=known.n + 1):
            raise Missed(f"{node} has said something that has not come here")
        self._taken_s[node] = self.clock.monotonic()
        self._places[node] = now
        return self._take(node, body, whole=whole)

    def _take(self, node: str, body: Mapping[str, Any], *, whole: bool) -> set[str]:
        """One node's votes; the names they are about. What is no vote is none."""
        said = self._others.setdefault(node, {})
        names = set(said) if whole else set()
        if whole:
            said.clear()
        marks = bool(body.get("blind")), bool(body.get("elsewhere"))
        if marks != self._marks.get(node, UNMARKED):
            self._marks[node] = marks
            names |= said.keys()
        votes = body.get("votes")
        for key, packed in votes.items() if isinstance(votes, dict) else ():
            try:
                state, doubt, why = packed
                one = Said(State(state), bool(doubt), str(why)[:100])
            except (TypeError, ValueError):
                continue
            if one == UNSAID:
                said.pop(key, None)
            else:
                said[key] = one
            names.add(key)
        return names

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """One step; a store that is away is no end of it."""
        try:
            await step()
        except (RegistryError, Missed) as error:
            _log.debug("votes: %s", error)
            self._cursor, self.synced = "", False
            self._look()
            await self.clock.sleep(RETRY_S)
        except Exception as error:
            _log.exception("votes could not be told or heard", exc_info=error)
            self._cursor, self.synced = "", False
            await self.clock.sleep(RETRY_S)


def _where(body: Mapping[str, Any]) -> Place:
    run, n = body.get("run"), body.get("n")
    return Place(run if isinstance(run, str) else "", n if isinstance(n, int) else 0)


def _packed(votes: Mapping[str, Said]) -> dict[str, tuple[int, int, str]]:
    return {name: (said.state, int(said.doubt), said.why) for name, said in votes.items()}
