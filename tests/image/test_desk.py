"""Messages between workers and the desk: to bytes and back, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd.image import desk

NUMBER = st.integers(0, desk.IDS - 1)
CLIENT = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
ASK = st.builds(desk.Ask, NUMBER, st.sampled_from((desk.UDP, desk.TCP, desk.TLS)), CLIENT, st.integers(0, 65535),
                st.binary(max_size=600))
WORD = st.one_of(
    ASK, st.builds(desk.Reply, NUMBER, st.booleans(), st.binary(max_size=600)), st.builds(desk.Next, NUMBER),
    st.builds(desk.Gone, NUMBER))


@given(WORD)
def test_what_is_said_is_heard(word: desk.Word) -> None:
    assert desk.decode(desk.encode(word)) == word


def test_the_longest_of_all_fits() -> None:
    ask = desk.Ask(1, desk.TCP, bytes(4), 53, bytes(65535))
    assert len(desk.encode(ask)) == desk.PACKET_MAX
    assert desk.decode(desk.encode(ask)) == ask
    assert len(desk.encode(desk.Reply(1, False, bytes(65535)))) <= desk.PACKET_MAX


@given(st.binary(max_size=64))
def test_whatever_comes_is_a_word_or_a_value_error(data: bytes) -> None:
    try:
        word = desk.decode(data)
    except ValueError:
        return
    assert desk.decode(desk.encode(word)) == word


@pytest.mark.parametrize("data", [
    b"", b"\0", b"\5\0\0\0\1\0\0\0", b"\1", b"\2\0\0\0", b"\3\0\0\0\1\0\0", b"\4\0\0\0\1\0\0\0\0",
    b"\1\3\0\0\1\0\0\0\4" + bytes(16), b"\1\0\0\0\1\0\0\0\5" + bytes(16)])
def test_no_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        desk.decode(data)
