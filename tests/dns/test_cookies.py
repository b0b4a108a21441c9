"""Cookies: RFC 9018's own examples, what is believed for how long, and files of secrets."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from siphash24 import siphash24

from dnsd.dns.cookies import Cookies, entries

ONE = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
OLD = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715")
NEW = bytes.fromhex("445536bcd2513298075a5d379663c962")
CLIENT = ip_address("198.51.100.100").packed
ASKER = bytes.fromhex("2464c4abcf10c957")
NOW = 1_559_731_985


@pytest.mark.parametrize(("secrets", "client", "now", "sent", "valid", "back"), [
    pytest.param([ONE], "198.51.100.100", 1559731985, "2464c4abcf10c957",
                 False, "2464c4abcf10c957010000005cf79f111f8130c3eee29480", id="A.1 learning"),
    pytest.param([ONE], "198.51.100.100", 1559734385, "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
                 True, "2464c4abcf10c957010000005cf7a871d4a564a1442aca77", id="A.2 renewed after 40 minutes"),
    # The example says nothing of validity: the cookie is nearly two hours old, and §4.3 has one hour.
    pytest.param([ONE], "203.0.113.203", 1559734700, "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
                 False, "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e", id="A.3 another client"),
    pytest.param([NEW, OLD], "2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961,
                 "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
                 True, "22681ab97d52c298010000005cf7c609a6bb79d16625507a", id="A.4 IPv6, secret rolled over"),
])
def test_examples_of_rfc_9018(secrets: list[bytes], client: str, now: int, sent: str, valid: bool, back: str) -> None:
    cookie, address = bytes.fromhex(sent), ip_address(client).packed
    cookies = Cookies(secrets)
    assert cookies.answer(cookie, address, now) == (valid, bytes.fromhex(back))
    assert cookies.valid(cookie, address, now) == valid
    assert cookies.made(cookie[:8], address, now) == bytes.fromhex(back)[8:]


def test_reserved_octets_are_part_of_what_is_proved_and_not_sent_back() -> None:
    """RFC 9018 A.3 with a younger cookie; §4.2: the server must not enforce zero."""
    cookie, client = bytes.fromhex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5"), bytes((203, 0, 113, 203))
    made = 0x5CF78F71
    valid, back = Cookies([ONE]).answer(cookie, client, made + 60)
    assert valid
    assert back[8:16] == b"\1\0\0\0" + (made + 60).to_bytes(4, "big")
    assert not Cookies([ONE]).valid(cookie[:9] + bytes(3) + cookie[12:], client, made + 60)


@pytest.mark.parametrize(("age", "valid", "kept"), [
    (0, True, True), (1800, True, True), (1801, True, False), (3600, True, False), (3601, False, False),
    (86400 * 365 * 60, False, False), (-1, True, True), (-300, True, True), (-301, False, False), (-3600, False, False),
])
@pytest.mark.parametrize("made", [NOW, 2**32 - 1, 2**32, 2**32 + 1])  # the cookie's clock wraps in 2106
def test_how_long_a_cookie_lasts(age: int, valid: bool, kept: bool, made: int) -> None:
    cookies = Cookies([ONE])
    _, cookie = cookies.answer(ASKER, CLIENT, made)
    found, back = cookies.answer(cookie, CLIENT, made + age)
    assert (found, back == cookie) == (valid, kept)
    if not kept:
        assert back == ASKER + cookies.made(ASKER, CLIENT, made + age)


@pytest.mark.parametrize("change", [
    pytest.param(lambda c: c[:23], id="short"), pytest.param(lambda c: c + b"\0", id="long"),
    pytest.param(lambda c: c[:16], id="half"), pytest.param(lambda c: c[:8], id="none"),
    pytest.param(lambda c: c[:8] + b"\2" + c[9:], id="another version"),
    pytest.param(lambda c: c[:15] + bytes([c[15] ^ 1]) + c[16:], id="another time"),
    pytest.param(lambda c: bytes([c[0] ^ 1]) + c[1:], id="another client cookie"),
    pytest.param(lambda c: c[:-1] + bytes([c[-1] ^ 128]), id="another proof"),
    pytest.param(lambda c: c + bytes(16), id="as long as can be"),
])
def test_nothing_else_is_believed(change: object) -> None:
    cookies = Cookies([ONE, OLD])
    _, cookie = cookies.answer(ASKER, CLIENT, NOW)
    changed = change(cookie)  # type: ignore[operator]
    assert not cookies.valid(changed, CLIENT, NOW)
    valid, back = cookies.answer(changed, CLIENT, NOW)
    assert not valid
    assert back == changed[:8] + cookies.made(changed[:8], CLIENT, NOW)


@pytest.mark.parametrize(("version", "valid"), [(0, False), (1, True), (2, False), (255, False)])
def test_another_version_proves_nothing_even_if_the_proof_is_right(version: int, valid: bool) -> None:
    signed = ASKER + bytes((version, 0, 0, 0)) + NOW.to_bytes(4, "big")
    cookie = signed + siphash24(signed + CLIENT, key=ONE).digest()
    assert Cookies([ONE]).valid(cookie, CLIENT, NOW) == valid


def test_a_cookie_is_its_clients_alone() -> None:
    cookies = Cookies([ONE])
    _, cookie = cookies.answer(ASKER, CLIENT, NOW)
    assert cookies.valid(cookie, CLIENT, NOW)
    assert not cookies.valid(cookie, bytes((198, 51, 100, 101)), NOW)
    assert not cookies.valid(cookie, CLIENT + bytes(12), NOW)


def test_a_secret_is_rolled_over_without_a_cookie_lost() -> None:
    """RFC 9018 §5: a step reaches one node after another, so nodes one step apart believe each other."""
    steps = [Cookies(secrets) for secrets in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])]
    for here, there in pairwise(steps):
        for maker, judge in ((here, there), (there, here)):
            assert judge.valid(maker.answer(ASKER, CLIENT, NOW)[1], CLIENT, NOW)
    _, old = steps[0].answer(ASKER, CLIENT, NOW)
    assert not steps[3].valid(old, CLIENT, NOW)
    assert steps[1].answer(old, CLIENT, NOW) == (True, old)
    valid, renewed = steps[2].answer(old, CLIENT, NOW)
    assert valid
    assert steps[3].answer(renewed, CLIENT, NOW) == (True, renewed)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=3), st.binary(min_size=8, max_size=8),
       st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), st.integers(0, 2**33))
def test_what_is_made_is_believed(secrets: list[bytes], asker: bytes, client: bytes, now: int) -> None:
    cookies = Cookies(secrets)
    assert cookies.secrets == tuple(secrets)
    valid, back = cookies.answer(asker, client, now)
    assert not valid
    assert (len(back), back[:8]) == (24, asker)
    for secret in secrets:
        assert cookies.valid(Cookies([secret]).answer(asker, client, now)[1], client, now)
    assert cookies.answer(back, client, now) == (True, back)


@given(st.binary(min_size=8, max_size=40), st.binary(min_size=4, max_size=4), st.integers(0, 2**32))
def test_nobody_guesses(cookie: bytes, client: bytes, now: int) -> None:
    valid, back = Cookies([ONE, OLD, NEW]).answer(cookie, client, now)
    assert not valid
    assert back[:8] == cookie[:8]


@pytest.mark.parametrize("secrets", [[], [ONE, b"short"], [ONE + b"\0"]])
def test_secrets_have_one_size(secrets: list[bytes]) -> None:
    with pytest.raises(ValueError, match="16 octets"):
        Cookies(secrets)


@pytest.mark.parametrize(("text", "secrets"), [
    (f"active {ONE.hex()}\n", [ONE]),
    (f"active {ONE.hex().upper()}", [ONE]),
    (f"# ours\n\n active\t{ONE.hex()} # since Monday\nstaging {NEW.hex()}\r\n", [ONE, NEW]),
    (f"retired {OLD.hex()}\nstaging {NEW.hex()}\nactive {ONE.hex()}\n", [ONE, NEW, OLD]),
])
def test_a_file_of_secrets(text: str, secrets: list[bytes]) -> None:
    assert [secret for _, secret in entries(text)] == secrets
    assert entries(text)[0][0] == "active"


@pytest.mark.parametrize(("text", "faults"), [
    ("", ["0 secrets are active, not one"]),
    (f"staging {ONE.hex()}\n", ["0 secrets are active, not one"]),
    (f"active {ONE.hex()}\nactive {NEW.hex()}\n", ["2 secrets are active, not one"]),
    (f"active {ONE.hex()}\nretired {ONE.hex()}\n", ["line 2: this secret is there twice"]),
    (f"active {ONE.hex()}\n{NEW.hex()}\nstaging xyz\nold {OLD.hex()}\n", ["line 2: not", "line 3: not", "line 4: not"]),
    (f"active {ONE.hex()[:-2]}\nstaging {NEW.hex()}00\nstaging a b\n", ["line 1: not", "line 2: not", "line 3: not"]),
    (f"active {ONE.hex()}\nstaging {NEW.hex()}\nretired {OLD.hex()}\nretired {bytes(16).hex()}\n", ["4 secrets, 3 at"]),
])
def test_a_file_with_faults_names_them_all(text: str, faults: list[str]) -> None:
    with pytest.raises(ValueError, match=r"line|active|at most") as raised:
        entries(text)
    found = str(raised.value).split("; ")
    assert [fault[: len(start)] for fault, start in zip(found, faults, strict=True)] == faults
    for secret in (ONE, NEW, OLD):
        assert secret.hex() not in str(raised.value)  # it goes to a log
