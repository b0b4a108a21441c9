"""The engine makes and believes the cookies that `dns.cookies` makes and believes, octet for octet."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from siphash24 import siphash24

from dnsd import metrics
from dnsd.dns.cookies import OLDEST, RENEWED, SECRETS_MAX, YOUNGEST, Cookies
from dnsd.engine import door as engine

SECRETS = [bytes.fromhex(text) for text in (
    "e5e973e5a6b2a43f48e7dc849e37bfcf", "dd3bdf9344b678b185a6f5cb60fca715", "445536bcd2513298075a5d379663c962")]
STRANGE = bytes(range(16))
ASKER = bytes.fromhex("2464c4abcf10c957")
CLIENTS = [ip_address(text).packed for text in ("198.51.100.100", "2001:db8:220:1:59de:d0f4:8769:82b8")]
NOW = 1_559_731_985
AGES = [edge + step for edge in (YOUNGEST, 0, RENEWED, OLDEST) for step in (-1, 0, 1)]
AGES += [-(1 << 31), -(1 << 31) - 1, 1 - (1 << 31), (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + OLDEST]


class Both:
    """The same secrets in Python and in the engine."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self.cookies = Cookies(secrets)
        self.door = door(secrets)

    def answer(self, cookie: bytes, client: bytes, now: int) -> tuple[bool, bytes]:
        """What both answer."""
        found = self.door.cookie(cookie, client, now)
        assert found == self.cookies.answer(cookie, client, now)
        return found


def door(secrets: Sequence[bytes]) -> engine.Door:
    """A door that has cookies."""
    made = engine.Door(memoryview(bytearray(8 * metrics.SLOTS)).cast("Q"))
    made.cookies(secrets)
    return made


def cookie(secret: bytes, client: bytes, made: int, *, head: bytes = b"\1\0\0\0", asker: bytes = ASKER) -> bytes:
    """A cookie whose proof is right, made by the library alone."""
    signed = asker + head + (made & 0xFFFFFFFF).to_bytes(4, "big")
    proof: bytes = siphash24(signed + client, key=secret).digest()
    return signed + proof


@pytest.mark.parametrize(("secrets", "client", "now", "sent", "valid", "back"), [
    pytest.param(SECRETS[:1], "198.51.100.100", 1559731985, "2464c4abcf10c957",
                 False, "2464c4abcf10c957010000005cf79f111f8130c3eee29480", id="A.1"),
    pytest.param(SECRETS[:1], "198.51.100.100", 1559734385, "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
                 True, "2464c4abcf10c957010000005cf7a871d4a564a1442aca77", id="A.2"),
    pytest.param([SECRETS[2], SECRETS[1]], "2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961,
                 "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
                 True, "22681ab97d52c298010000005cf7c609a6bb79d16625507a", id="A.4"),
])
def test_examples_of_rfc_9018(secrets: list[bytes], client: str, now: int, sent: str, valid: bool, back: str) -> None:
    found = door(secrets).cookie(bytes.fromhex(sent), ip_address(client).packed, now)
    assert found == (valid, bytes.fromhex(back))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("made", [0, 1, NOW, 1 << 31, *((1 << 32) - at for at in (301, 300, 1, 0)), 3 << 32])
def test_every_bound_of_an_age(client: bytes, age: int, made: int) -> None:
    both, now = Both(SECRETS[:1]), made + age
    if now < 0:
        now += 1 << 32
    sent = cookie(SECRETS[0], client, made)
    valid, back = both.answer(sent, client, now)
    true_age = (age + (1 << 31)) % (1 << 32) - (1 << 31)
    assert valid is (YOUNGEST <= true_age <= OLDEST)
    assert (back == sent) is (YOUNGEST <= true_age <= RENEWED)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("size", range(8, 41))
def test_every_length(client: bytes, size: int) -> None:
    """Only 24 octets can be ours; what is remade keeps the client's part."""
    both = Both(SECRETS)
    valid, back = both.answer((cookie(SECRETS[0], client, NOW) + bytes(16))[:size], client, NOW + 60)
    assert valid is (size == 24)
    assert back == cookie(SECRETS[0], client, NOW if valid else NOW + 60)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_secret_is_believed_and_the_first_makes(client: bytes, count: int) -> None:
    both = Both(SECRETS[:count])
    for place, secret in enumerate([*SECRETS, STRANGE]):
        sent = cookie(secret, client, NOW)
        fresh = cookie(SECRETS[0], client, NOW + 60)
        assert both.answer(sent, client, NOW + 60) == (place < count, sent if place == 0 else fresh)


@pytest.mark.parametrize(("head", "valid", "kept"), [
    (b"\1\0\0\0", True, True), (b"\1\1\0\0", True, False), (b"\1\0\x80\0", True, False), (b"\1\0\0\xff", True, False),
    (b"\0\0\0\0", False, False), (b"\2\0\0\0", False, False), (b"\xff\0\0\0", False, False)])
def test_version_and_reserved_octets(head: bytes, valid: bool, kept: bool) -> None:
    both, sent = Both(SECRETS), cookie(SECRETS[0], CLIENTS[0], NOW, head=head)
    found, back = both.answer(sent, CLIENTS[0], NOW)
    assert (found, back == sent) == (valid, kept)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("bit", range(0, 192, 5))
def test_no_bit_may_change(client: bytes, bit: int) -> None:
    sent = bytearray(cookie(SECRETS[0], client, NOW))
    sent[bit // 8] ^= 1 << bit % 8
    assert Both(SECRETS).answer(bytes(sent), client, NOW)[0] is False


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=3), st.data(),
       st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(1 << 31, 1 << 34),
       st.sampled_from(AGES[:12]) | st.integers(-400, 4000), st.binary(min_size=8, max_size=8))
def test_any_cookie_of_any_secret(
        secrets: list[bytes], data: st.DataObject, client: bytes, now: int, age: int, asker: bytes) -> None:
    secret = data.draw(st.sampled_from([*secrets, STRANGE]))
    head = data.draw(st.just(b"\1\0\0\0") | st.binary(min_size=3, max_size=3).map(lambda rest: b"\1" + rest))
    sent = cookie(secret, client, now - age, head=head, asker=asker)
    valid, _ = Both(secrets).answer(sent, client, now)
    assert valid is (secret in secrets and YOUNGEST <= age <= OLDEST)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=3), st.binary(min_size=8, max_size=40),
       st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(0, (1 << 64) - 1))
def test_any_octets(secrets: list[bytes], data: bytes, client: bytes, now: int) -> None:
    """SipHash of 20 and 32 octets, with any key, is in each that is remade."""
    both = Both(secrets)
    _, back = both.answer(data, client, now)
    assert both.answer(back, client, now) == (True, back)


@pytest.mark.parametrize("secrets", [
    [SECRETS[1], b"short"], [SECRETS[1] + b"\0"], [*SECRETS, STRANGE]], ids=["short", "long", "four"])
def test_secrets_that_do_not_fit_leave_what_was(secrets: list[bytes]) -> None:
    assert len(SECRETS) == SECRETS_MAX
    made = door(SECRETS[:1])
    with pytest.raises(ValueError, match=r"16 octets|at most"):
        made.cookies(secrets)
    sent = cookie(SECRETS[0], CLIENTS[0], NOW)
    assert made.cookie(sent, CLIENTS[0], NOW) == (True, sent)
    assert not made.cookie(cookie(SECRETS[1], CLIENTS[0], NOW), CLIENTS[0], NOW)[0]
