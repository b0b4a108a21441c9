"""DNS cookies: data of any kind is not valid by chance, what is sent back is valid; and the file of secrets.

The first octet chooses the client's family; odd ones say that the rest is a file of secrets.
"""

from __future__ import annotations

from collections.abc import Iterator

from dnsd.dns import cookies
from tests.golden.world import NOW, RESOLVER
from tests.hostile.doors import CLIENT6, COOKIES, KNOWN, SECRETS

_CLIENTS = (RESOLVER, CLIENT6)


def seeds() -> Iterator[bytes]:
    """Cookies of every length there may be, and files."""
    for size in (8, 16, 24, 40):
        yield b"\0" + bytes(size)
        yield b"\2" + KNOWN[:size]
    yield b"\0" + KNOWN
    for text in ("active", "# none", "staging", "retired"):
        yield b"\1" + f"{text} {SECRETS[0].hex()}\n\nactive {SECRETS[1].hex()}  # now\r\n".encode()


def check(data: bytes) -> None:
    """Only what the secrets made is believed."""
    kind, cookie = data[:1], data[1:]
    if kind and kind[0] & 1:
        try:
            assert 1 <= len(cookies.entries(cookie.decode("utf-8", "surrogateescape"))) <= 3
        except ValueError as refused:
            assert str(refused)
        return
    client = _CLIENTS[bool(kind and kind[0] & 2)]
    if len(cookie) != 8 and not 16 <= len(cookie) <= 40:
        return  # refused before (RFC 7873 §5.2.2)
    valid, answer = COOKIES.answer(cookie, client, NOW)
    assert len(answer) == 24
    assert answer[:8] == cookie[:8]
    assert COOKIES.valid(answer, client, NOW)
    assert not COOKIES.valid(answer, client, NOW + 3 * 3600)
    if valid:
        made = int.from_bytes(cookie[12:16], "big")
        assert -300 <= NOW - made <= 3600
