"""What a tier hands on to the next one, as tiers and weights; with the draws that come of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.control.weights import MOST, Part, Place, placed
from dnsd.steer import draw


def parts(text: str) -> list[Part]:
    """`tier:weight` words; with `/share` of 1000, `-` behind one that is answered though down."""
    found = []
    for number, word in enumerate(text.split()):
        tier, rest = word.rstrip("-").split(":")
        weight, _, share = rest.partition("/")
        found.append(Part(f"e{number}", int(tier), int(weight), int(share or 1000), not word.endswith("-")))
    return found


def places(text: str, trickle: int = 0) -> str:
    return " ".join(f"{one.tier}:{one.weight}" for one in placed(parts(text), trickle).values())


@pytest.mark.parametrize(("text", "trickle", "expected"), [
    ("0:100 0:50", 0, "0:100 0:50"),
    ("0:100 1:100", 0, "0:100 1:100"),
    ("0:0 1:0", 0, "0:0 1:0"),
    ("", 5, ""),
    # a recovery
    ("0:100 0:100/125", 0, "0:100 0:12"),
    ("0:1 0:1/125", 0, "0:100 0:12"),                       # so that an eighth of one is an eighth
    ("0:7 0:7/500", 0, "0:70 0:35"),
    ("0:1 0:1/50", 0, "0:1000 0:50"),
    ("0:65535 0:1/125", 0, "0:65535 0:1"),                  # as well as it can be
    ("0:100 0:0/125", 0, "0:100 0:0"),
    ("0:1 0:1/125 1:3", 0, "0:100 0:12 1:3"),               # each tier by itself
    # trickle
    ("0:100 1:100", 20, "0:100 0:25"),
    ("0:100 1:100", 5, "0:1000 0:52"),
    ("0:95 1:1", 5, "0:950 0:50"),
    ("0:100 0:100 1:10 1:30", 20, "0:100 0:100 0:12 0:37"),
    ("0:100 1:100- 2:100", 20, "0:100 1:100 0:25"),         # who is up
    ("0:100 1:0", 20, "0:100 1:0"),
    ("0:0 1:100 2:100", 20, "0:0 1:100 1:25"),              # what is never drawn is no first tier
    ("3:100", 20, "3:100"),
    # all of a tier recover: the rest is for the next
    ("0:100/125 1:100", 0, "0:12 0:87"),
    ("0:100/875 1:100", 5, "0:87 0:12"),
    ("0:100/990 1:100", 5, "0:990 0:52"),
    ("0:100/125 0:100 1:100", 0, "0:12 0:100 1:100"),
    # nobody is up in a tier, and some are held
    ("0:100- 1:100", 0, "0:100 0:100"),
    ("0:100- 0:100- 1:10", 5, "0:100 0:100 0:200"),
    ("0:100- 1:100-", 0, "0:100 1:100"),
    ("0:65535- 0:65535- 1:1", 0, "0:32767 0:32767 0:65535"),
])
def test_tiers_and_weights(text: str, trickle: int, expected: str) -> None:
    assert places(text, trickle) == expected


def test_notes() -> None:
    assert placed(parts("0:100 1:100"), 20)["e1"] == Place(0, 25, "trickle, 20 % of the answers")
    assert placed(parts("0:100/125 1:100"), 0)["e1"].note == "stands in, 87.5 % of the answers"
    assert placed(parts("0:100- 1:100"), 5)["e1"].note == "stands in, 50 % of the answers"
    assert placed(parts("0:100- 1:100"), 5)["e0"].note == ""


def test_no_family_hands_on_more_than_its_part() -> None:
    both = [Part("a", 0, 100), Part("b", 0, 100, a=True, aaaa=True), Part("c", 1, 100, a=True, aaaa=True)]
    found = placed(both, 20)
    assert (found["b"].weight, found["c"].weight) == (100, 25), "a fifth of what IPv6 has, a ninth of IPv4"
    apart = [Part("a", 0, 100), Part("b", 1, 100, a=False, aaaa=True), Part("c", 1, 40, a=False, aaaa=True)]
    assert [one[:2] for one in placed(apart, 20).values()] == [(0, 100), (0, 100), (0, 40)]


@pytest.mark.parametrize(("text", "trickle", "share"), [
    ("0:1 0:3 1:1", 1, 0.01), ("0:100 1:5", 5, 0.05), ("0:7 1:1 1:2", 20, 0.2), ("0:1/125 1:1", 0, 0.875),
    ("0:9- 1:1", 0, 0.5),
])
def test_that_part_of_the_draws_is_handed_on(text: str, trickle: int, share: float) -> None:
    those = parts(text)
    found = placed(those, trickle)
    assert {one.tier for one in found.values()} == {0}
    keys = [hash_of(part.id) for part in those]
    weights = [found[part.id].weight for part in those]
    wins = sum(those[draw.first(draw.seed(1, block, 0), range(len(those)), keys, weights)].tier == 1
               for block in range(20_000))
    assert wins / 20_000 == pytest.approx(share, abs=0.004 + share * 0.1)


def hash_of(text: str) -> int:
    return draw.mix(int.from_bytes(text.encode(), "big"))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 65_535), st.sampled_from((50, 125, 500, 1000)),
                          st.booleans(), st.booleans(), st.booleans()), max_size=8), st.integers(0, 20))
def test_whatever_there_is(rows: list[tuple[int, int, int, bool, bool, bool]], trickle: int) -> None:
    """Everybody keeps a place and never loses all its weight; nobody goes back; weights fit the record."""
    those = [Part(f"e{n}", *row) for n, row in enumerate(rows)]
    found = placed(those, trickle)
    assert list(found) == [part.id for part in those]
    for part in those:
        place = found[part.id]
        assert bool(place.weight) is bool(part.weight)
        assert 0 <= place.weight <= MOST
        assert place.tier <= part.tier
        assert bool(place.note) is (place.tier != part.tier)
