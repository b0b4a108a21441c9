"""Twenty thousand questions to dnsd, Knot and NSD over the same zones: every difference is in a table, with its reason.

`TEST_SEED=n` draws other zones and other questions. A reply that dnspython cannot read is a failure, whoever gave it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dnsd import metrics
from dnsd.answer import Context, respond
from dnsd.compile import image as compiler
from dnsd.control import zonefile
from dnsd.image.reading import Image
from dnsd.model import Stamp
from tests.neighbours import replies, zones
from tests.neighbours.differences import DIFFERENCES, MOST, Case
from tests.neighbours.questions import Question, draw
from tests.neighbours.replies import View
from tests.neighbours.servers import ask_tcp, ask_udp, neighbour
from tests.node import Node, write_config

SEED = int(os.environ.get("TEST_SEED", "1"))
QUESTIONS = 20_000
OVER_SOCKETS = 1_000
CLIENT = b"\x7f\0\0\x01"
NOW = 1_700_000_000


class World(NamedTuple):
    """The zones, the questions, and what dnsd says to each: its octets, as read, and as read without a limit of size.
    """

    texts: dict[str, str]
    questions: list[Question]
    octets: list[bytes]
    ours: list[View]
    whole: list[View]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Zones through the zone file reader and the compiler; questions through the door."""
    home = tmp_path_factory.mktemp("zones")
    texts = zones.texts(SEED)
    views = []
    for apex, text in texts.items():
        file = home / f"{apex}zone"
        file.write_text(text, encoding="utf-8")
        views.append(zonefile.read(file, apex))
    image = Image(compiler.build(views, [], [], Stamp(1, 1, 1), 0).data)
    names = sorted({name for apex, text in texts.items() for name in zones.owners(text, apex)})
    drawn = draw([*names, *zones.AIMED], QUESTIONS, SEED)
    questions = [q for q in drawn if not q.tcp] + [q for q in drawn if q.tcp]
    count = [0] * metrics.SLOTS
    udp, tcp = Context(count), Context(count, tcp=True)
    octets = [_reply(q, image, tcp if q.tcp else udp) for q in questions]
    ours = [replies.read(data) for data in octets]
    whole = [replies.read(_reply(q, image, tcp)) if view.tc else view for q, view in zip(questions, ours, strict=True)]
    return World(texts, questions, octets, ours, whole)


def _reply(question: Question, image: Image, context: Context) -> bytes:
    reply = respond(question.packet, CLIENT, image, NOW, context)
    assert reply
    assert reply[:2] == question.packet[:2]
    return reply


@pytest.fixture(scope="module")
def others(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[View]]:
    """Each neighbour's replies to all questions, UDP and TCP as drawn."""
    over_udp = [q.packet for q in world.questions if not q.tcp]
    over_tcp = [q.packet for q in world.questions if q.tcp]
    found = {}
    for kind in ("knot", "nsd"):
        with neighbour(kind, world.texts, tmp_path_factory.mktemp(kind) / "home") as port:
            answers = ask_udp(port, over_udp) + ask_tcp(port, over_tcp)
        assert None not in answers
        found[kind] = [replies.read(answer) for answer in answers if answer is not None]
    return found


@pytest.mark.needs("knotd", "nsd")
def test_every_difference_is_listed_and_has_a_reason(world: World, others: dict[str, list[View]]) -> None:
    used: Counter[str] = Counter()
    wrong = [line for kind, theirs in others.items() for line in _unlisted(world, kind, theirs, used)]
    assert not wrong, f"{len(wrong)} replies differ, seed {SEED}:\n" + "\n".join(wrong[:10])
    idle = [entry.why for entry in DIFFERENCES if not used[entry.why]]
    assert not idle, f"listed, but nobody answers so: {idle}"


def _unlisted(world: World, kind: str, theirs: list[View], used: Counter[str]) -> Iterator[str]:
    """Differences that no entry explains; the entries that explained one are counted."""
    apexes = frozenset(world.texts)
    for question, ours, whole, other in zip(world.questions, world.ours, world.whole, theirs, strict=True):
        left = replies.differing(ours, other)
        if not left:
            continue
        case = Case(question, ours, whole, other, apexes)
        for entry in DIFFERENCES:
            if kind in entry.who and entry.parts & left and entry.when(case):
                left = left - entry.parts
                used[entry.why] += 1
        if left:
            yield (f"{question.name} type {question.type} class {question.class_} differs in {sorted(left)}\n"
                   f"  ours   {ours}\n  {kind:6} {other}")


def test_the_table_is_short() -> None:
    assert len(DIFFERENCES) <= MOST
    assert all(entry.rfc.startswith("RFC ") and entry.who and entry.parts for entry in DIFFERENCES)


def test_the_questions_meet_everything(world: World) -> None:
    """A draw that missed a branch would prove nothing about it."""
    rcodes = Counter(view.rcode for view in world.ours)
    assert {0, 3, 5, 6, 9, 16} <= set(rcodes), rcodes
    assert min(rcodes[0], rcodes[3]) > QUESTIONS // 10
    kinds = {
        "cut": sum(view.tc for view in world.ours), "referral": sum(not view.flags & 0x400 for view in world.ours),
        "alias": sum("CNAME" in view.types("answer") for view in world.ours),
        "DNAME": sum("DNAME" in view.types("answer") for view in world.ours),
        "DS": sum("DS" in view.types("answer") for view in world.ours),
        "alias and referral": sum(bool(view.answer) and "NS" in view.types("authority") for view in world.ours),
        "alias and NXDOMAIN": sum(bool(view.answer) and view.rcode == 3 for view in world.ours),
        "unknown type": sum("TYPE65534" in view.types("answer") for view in world.ours),
        "without EDNS": sum(view.opt is None for view in world.ours),
    }
    assert min(kinds.values()) > 10, kinds


def test_over_sockets_the_answers_are_the_doors(world: World, tmp_path: Path, atlas_home: Path) -> None:
    texts = {apex.rstrip("."): text for apex, text in world.texts.items()}
    more = '[rate]\nexempt = ["127.0.0.0/8"]'  # asked all at once and from one address, they are a flood
    node = Node(write_config(tmp_path / "n", atlas_home, workers=1, zones=texts, more=more))
    first = next(at for at, question in enumerate(world.questions) if question.tcp)
    asked = [*range(OVER_SOCKETS), *range(first, min(first + OVER_SOCKETS // 5, len(world.questions)))]
    try:
        node.start()
        over_udp = [world.questions[at].packet for at in asked if at < first]
        over_tcp = [world.questions[at].packet for at in asked if at >= first]
        answers = ask_udp(node.port, over_udp) + ask_tcp(node.port, over_tcp)
    finally:
        node.stop()
    different = [world.questions[at] for at, answer in zip(asked, answers, strict=True) if answer != world.octets[at]]
    assert not different, different[:5]
