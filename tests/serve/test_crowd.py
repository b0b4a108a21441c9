"""Who has to go when all places are taken, and what pressure does; connections that are only names, a clock by hand."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dnsd.serve.crowd import Crowd, Limits, Member, prefix_of


class Client(Member):
    """A connection without octets."""

    def __init__(self, crowd: Crowd, prefix: str) -> None:
        self.crowd = crowd
        self.prefix = prefix.encode()
        self.line = None
        self.busy = False
        self.unread = False
        self.left = ""

    @property
    def stalled(self) -> bool:
        return self.unread

    def abort(self, reason: str) -> None:
        self.left = reason
        self.crowd.forget(self)

    def finish(self, reason: str) -> None:
        self.abort(reason)

    def expire(self, now: float) -> None:
        pass


class Rig:
    def __init__(self, **limits: int) -> None:
        self.crowd = Crowd(Limits(**limits), lambda: 0.0)  # type: ignore[arg-type]
        self.clients: dict[str, Client] = {}

    def come(self, *names: str) -> str | None:
        """Connections arrive; a name is its prefix and a digit. Why the last one was refused."""
        refused = None
        for name in names:
            self.clients[name] = Client(self.crowd, name[:-1])
            refused = self.crowd.admit(self.clients[name])
        return refused

    def ask(self, *names: str) -> None:
        """Whole queries come and are answered at once."""
        for name in names:
            self.crowd.settle(self.clients[name], busy=False)

    def hold(self, *names: str, unread: bool = True) -> None:
        """Answers stay unsent, because nobody reads them, or are not ready yet."""
        for name in names:
            self.clients[name].unread = unread
            self.crowd.settle(self.clients[name], busy=True)

    def gone(self) -> dict[str, str]:
        return {name: client.left for name, client in self.clients.items() if client.left}


def test_over_the_total_the_one_idle_longest_goes() -> None:
    rig = Rig(connections=3)
    assert rig.come("a1", "b1", "c1") is None
    rig.ask("a1")
    assert rig.come("d1") is None
    assert rig.gone() == {"b1": "limit"}
    rig.ask("c1", "a1")
    assert rig.come("e1") is None
    assert rig.gone() == {"b1": "limit", "d1": "limit"}


def test_over_its_share_a_prefix_pays_itself() -> None:
    rig = Rig(connections=4, per_prefix=2)
    rig.come("b1", "a1", "a2")
    rig.ask("a1")
    assert rig.come("a3") is None
    assert rig.gone() == {"a2": "prefix_limit"}
    assert len(rig.crowd) == 3


def test_both_limits_reached_cost_one_connection() -> None:
    rig = Rig(connections=3, per_prefix=2)
    rig.come("b1", "a1", "a2")
    assert rig.come("a3") is None
    assert rig.gone() == {"a1": "prefix_limit"}, "not also the one idle longest of all"


def test_a_share_of_one() -> None:
    rig = Rig(connections=3, per_prefix=1)
    rig.come("a1", "a2", "a3")
    assert rig.gone() == {"a1": "prefix_limit", "a2": "prefix_limit"}
    rig.clients["a3"].abort("client")
    assert not rig.crowd.shares


def test_whoever_is_owed_an_answer_is_not_idle() -> None:
    rig = Rig(connections=3)
    rig.come("a1", "b1", "c1")
    rig.hold("a1")
    rig.come("d1")
    assert rig.gone() == {"b1": "limit"}
    rig.ask("a1")  # it took its answers: idle from now
    rig.come("e1", "f1")
    assert rig.gone() == {"b1": "limit", "c1": "limit", "d1": "limit"}


def test_with_nobody_idle_the_first_that_does_not_read_goes() -> None:
    rig = Rig(connections=2)
    rig.come("a1", "b1")
    rig.hold("b1", "a1")
    rig.hold("b1")  # again, which does not make it younger
    assert rig.come("c1") is None
    assert rig.gone() == {"b1": "limit"}


def test_with_everybody_owed_an_answer_that_is_not_ready_a_newcomer_is_refused() -> None:
    rig = Rig(connections=2, per_prefix=1)
    rig.come("a1", "b1")
    rig.hold("a1", "b1", unread=False)
    assert rig.come("c1") == "limit"
    assert rig.come("a2") == "prefix_limit"
    assert not rig.gone()
    assert set(rig.crowd.shares) == {b"a", b"b"}


def test_a_prefix_that_is_refused_costs_nobody_else_anything() -> None:
    rig = Rig(connections=2, per_prefix=1)
    rig.come("b1", "a1")
    rig.hold("a1", unread=False)
    assert rig.come("a2") == "prefix_limit"
    assert not rig.gone()


def test_a_prefix_known_later_counts_from_then_on() -> None:
    rig = Rig(connections=9, per_prefix=2)
    rig.come("1", "2", "a1", "a2")  # two without a prefix
    assert rig.crowd.join(rig.clients["1"], b"a") is None
    assert rig.gone() == {"a1": "prefix_limit"}
    rig.hold("a2", "1", unread=False)
    assert rig.crowd.join(rig.clients["2"], b"a") == "prefix_limit"
    rig.clients["1"].abort("client")
    rig.clients["a2"].abort("client")
    assert not rig.crowd.shares
    assert len(rig.crowd) == 1


@pytest.mark.parametrize(("number", "keepalive", "idle"), [(0, 100, 10.0), (5, 100, 10.0), (6, 0, 2.5), (8, 0, 2.5)])
def test_from_three_quarters_on_there_is_pressure(number: int, keepalive: int, idle: float) -> None:
    rig = Rig(connections=8)
    rig.come(*(f"{i}x1" for i in range(number)))
    assert (rig.crowd.keepalive, rig.crowd.idle_seconds) == (keepalive, idle)
    for client in rig.clients.values():
        client.abort("client")
    assert (rig.crowd.keepalive, rig.crowd.idle_seconds) == (100, 10.0)


def test_what_is_told_of_the_idle_time_fits_its_field() -> None:
    assert Crowd(Limits(idle_seconds=86400)).keepalive == 0xFFFF


def test_draining_ends_all_and_takes_nobody() -> None:
    rig = Rig()
    rig.come("a1", "b1")
    rig.crowd.drain()
    assert rig.gone() == {"a1": "drain", "b1": "drain"}
    assert rig.come("c1") == "drain"


@pytest.mark.parametrize(("client", "prefix"), [
    (bytes((192, 0, 2, 77)), bytes((192, 0, 2))),
    (bytes.fromhex("20010db8000102ff0000000000000001"), bytes.fromhex("20010db8000102"))])
def test_prefixes(client: bytes, prefix: bytes) -> None:
    assert prefix_of(client) == prefix


class Model(RuleBasedStateMachine):
    """Against lists that are searched from the start each time."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = Crowd(Limits(connections=5, per_prefix=2), lambda: 0.0)
        self.order: list[Client] = []  # idle and busy ones, each in the order they became so

    def _gone(self) -> None:
        self.order = [client for client in self.order if not client.left]

    def _victim(self, among: Iterable[Client]) -> Client | None:
        among = list(among)
        idle = [client for client in among if not client.busy]
        busy = [client for client in among if client.busy]
        return idle[0] if idle else busy[0] if busy and busy[0].unread else None

    @rule(prefix=st.sampled_from("abcd"))
    def come(self, prefix: str) -> None:
        newcomer = Client(self.crowd, prefix)
        same = [client for client in self.order if client.prefix == newcomer.prefix]
        reason, victim = "", None
        if len(same) == 2:
            reason, victim = "prefix_limit", self._victim(same)
        elif len(self.order) == 5:
            reason, victim = "limit", self._victim(self.order)
        refused = self.crowd.admit(newcomer)
        assert refused == (reason if reason and victim is None else None)
        if victim is not None:
            assert victim.left == reason
        self._gone()
        if not refused:
            self.order.append(newcomer)

    @precondition(lambda self: self.order)
    @rule(data=st.data(), busy=st.booleans(), unread=st.booleans())
    def settle(self, data: st.DataObject, busy: bool, unread: bool) -> None:
        client = data.draw(st.sampled_from(self.order))
        if not (busy and client.busy):
            self.order.remove(client)
            self.order.append(client)
        client.unread = unread
        self.crowd.settle(client, busy=busy)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.order)).abort("client")
        self._gone()

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert sorted(map(id, self.crowd)) == sorted(map(id, self.order))
        assert len(self.crowd) == len(self.order) <= 5
        assert {prefix: len(line) for prefix, line in self.crowd.shares.items()} == {
            prefix: sum(client.prefix == prefix for client in self.order)
            for prefix in {client.prefix for client in self.order}}
        assert all(len(line) <= 2 for line in self.crowd.shares.values())


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestModel = Model.TestCase
