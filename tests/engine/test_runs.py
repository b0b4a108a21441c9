"""A stream's queries by the engine, many at a time: as Python answers them one by one, wherever the stream is cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from dnsd import metrics
from dnsd.answer import respond
from dnsd.serve import turn
from tests.engine.pairs import CLIENTS, Pair, pool
from tests.engine.test_equality import world
from tests.golden.world import NOW, query
from tests.serve.doors import framed

SHORT = [b"\0\0", b"\0\x0b" + bytes(11), b"\0\1\0"]


def piece(rnd: random.Random) -> bytes:
    """Some octets of a stream: queries, now and then what is none, often cut."""
    messages = [rnd.choice(pool()) for _ in range(rnd.choice([0, 1, 2, 5, 40, 300]))]
    data = framed(*(message for message in messages if len(message) >= turn.LEAST))
    if rnd.random() < 0.1:
        data += rnd.choice(SHORT) + data[:50]
    return data[: rnd.randrange(len(data) + 1)] if rnd.random() < 0.5 else data


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_run_is_its_queries_one_by_one(seed: int, pad: bool) -> None:
    held, tables = world()
    pair = Pair(held, tables=tables, tcp=True, pad=pad, keepalive=100, cookies=2)
    rnd = random.Random(seed)
    ended = set()
    for _ in range(150):
        data, client = piece(rnd), rnd.choice(CLIENTS)
        expected = whole(data, lambda rest, client=client: turn.by_python(rest, partial(respond_to, pair, client)))
        found = whole(data, lambda rest, client=client: turn.by_engine(
            rest, client, NOW, (pair.door, pair.sight), partial(passed_to, pair, client)))
        assert found == expected
        ended.add((expected.at == len(data), expected.malformed))
    assert ended == {(True, False), (False, False), (False, True)}
    reference, own, passed = (count.tolist() for count in pair.counts)
    assert sum(own[metrics.PASSED : metrics.PASSED + len(metrics.PASS_REASONS)]) > 0, "Python had its part"
    assert reference[metrics.EDNS] == own[metrics.EDNS] + passed[metrics.EDNS] > 0


def whole(data: bytes, step: Callable[[bytes], turn.Turn]) -> turn.Turn:
    """All its turns."""
    done = turn.Turn(0, 0, 0, b"", True, False)
    while done.more:
        one = step(data[done.at :])
        assert one.queries <= turn.TURN
        assert one.queries > 0 or not one.more
        assert len(turn.messages(one.out)) == one.answers
        done = turn.Turn(done.at + one.at, done.queries + one.queries, done.answers + one.answers, done.out + one.out,
                         one.more, one.malformed)
    return done


def respond_to(pair: Pair, client: bytes, packet: bytes) -> bytes | None:
    return respond(packet, client, pair.image, NOW, pair.reference)


def passed_to(pair: Pair, client: bytes, packet: bytes) -> bytes | None:
    return respond(packet, client, pair.image, NOW, pair.passed)


def test_a_turn_is_bounded_by_queries_and_by_octets() -> None:
    held, tables = world()
    pair = Pair(held, tables=tables, tcp=True)
    small = framed(*[query("www.example.")] * 1000)
    at, queries, answers, out, more, reason = pair.door.stream(small, 0, CLIENTS[0], NOW, pair.sight)
    assert (queries, answers, more, reason) == (turn.TURN, turn.TURN, True, -2)
    assert at == turn.TURN * len(small) // 1000
    large = framed(*[query("huge.example.com.", "TXT")] * 200)
    at, queries, answers, out, more, reason = pair.door.stream(large, 0, CLIENTS[0], NOW, pair.sight)
    assert turn.WRITE_AT <= len(out) < turn.WRITE_AT + 65537
    assert more
    assert queries == answers < 200
    assert pair.door.stream(large, at, CLIENTS[0], NOW, pair.sight)[1] > 0
    with pytest.raises(ValueError, match="stream"):
        pair.door.stream(large, len(large) + 1, CLIENTS[0], NOW, pair.sight)
