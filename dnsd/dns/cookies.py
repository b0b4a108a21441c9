"""Server cookies, interoperable: every server with the same secret makes and believes the same (RFC 7873, RFC 9018).

Lives here: making, judging and renewing them, what a file of secrets says. Does not live here: when a cookie is asked
for (`answer`), the file (`cookiefile`), the clock.

A cookie proves that its client once got an answer at the address it writes from. Nothing is kept for that: the cookie
itself holds its time, and a SipHash over client cookie, time and address.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from siphash24 import siphash24

SECRET_SIZE: Final = 16
SECRETS_MAX: Final = 3
OLDEST: Final = 3600  # seconds; RFC 9018 §4.3 for these three
YOUNGEST: Final = -300
RENEWED: Final = 1800
ACTIVE: Final = "active"
STAGING: Final = "staging"
RETIRED: Final = "retired"
MODES: Final = (ACTIVE, STAGING, RETIRED)

_FRESH: Final = Struct(">B3xI").pack  # version 1, reserved, time
_HEAD: Final = b"\1\0\0\0"


class Cookies:
    """What one set of secrets makes and believes. Each has 16 octets; the first makes, all are believed."""

    __slots__ = ("_active", "_fresh", "_now", "secrets")

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(secret) != SECRET_SIZE for secret in secrets):
            raise ValueError(f"a secret has {SECRET_SIZE} octets, and there must be one")
        self.secrets = tuple(secrets)
        self._active = secrets[0]
        self._now, self._fresh = -1, b""

    def made(self, client_cookie: bytes, client: bytes, now: int) -> bytes:
        """The server cookie, 16 octets, for a client cookie of 8 octets from an address of 4 or 16 (RFC 9018 §4)."""
        if now != self._now:
            self._now, self._fresh = now, _FRESH(1, now & 0xFFFFFFFF)
        fresh = self._fresh
        proof: bytes = siphash24(client_cookie + fresh + client, key=self._active).digest()
        return fresh + proof

    def valid(self, cookie: bytes, client: bytes, now: int) -> bool:
        """Whether client and server cookie together were made by one of the secrets, for this client, not long ago."""
        return self._maker(cookie, client, now) is not None

    def answer(self, cookie: bytes, client: bytes, now: int) -> tuple[bool, bytes]:
        """For an option's data as it came (8 octets or more): whether it is valid, and the data to send back.

        A valid cookie goes back as it came until it is half an hour old or its secret is no longer the active one.
        """
        if len(cookie) == 8:
            return False, cookie + self.made(cookie, client, now)
        maker = self._maker(cookie, client, now)
        if maker is self._active and cookie[8:12] == _HEAD and _age(cookie, now) <= RENEWED:
            return True, cookie
        return maker is not None, cookie[:8] + self.made(cookie[:8], client, now)

    def _maker(self, cookie: bytes, client: bytes, now: int) -> bytes | None:
        """The secret that made a cookie which is not too old; None where there is none."""
        if len(cookie) != 24 or cookie[8] != 1 or not YOUNGEST <= _age(cookie, now) <= OLDEST:
            return None
        signed, proof = cookie[:16] + client, cookie[16:]
        for secret in self.secrets:
            if siphash24(signed, key=secret).digest() == proof:
                return secret
        return None


def _age(cookie: bytes, now: int) -> int:
    """Seconds since a cookie was made, negative for the future; the time wraps (RFC 1982, RFC 9018 §4.3)."""
    age = now - int.from_bytes(cookie[12:16], "big") & 0xFFFFFFFF
    return age - (1 << 32) if age >> 31 else age


def entries(text: str) -> list[tuple[str, bytes]]:
    """(Mode, secret) for each line of a file, by mode; ValueError with everything that is wrong in it.

    Each line has `active`, `staging` or `retired` and 32 hexadecimal digits; `#` starts a comment. Exactly one is
    active, and there are at most three.
    """
    found: list[tuple[str, bytes]] = []
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            mode, digits = words
            secret = bytes.fromhex(digits)
            if mode not in MODES or len(secret) != SECRET_SIZE:
                raise ValueError
        except ValueError:
            wrong.append(f"line {number}: not one of {', '.join(MODES)} with {2 * SECRET_SIZE} hexadecimal digits")
            continue
        if secret in (other for _, other in found):
            wrong.append(f"line {number}: this secret is there twice")
        found.append((mode, secret))
    active = sum(mode == ACTIVE for mode, _ in found)
    if active != 1 and not wrong:
        wrong.append(f"{active} secrets are active, not one")
    if len(found) > SECRETS_MAX:
        wrong.append(f"{len(found)} secrets, {SECRETS_MAX} at most")
    if wrong:
        raise ValueError("; ".join(wrong))
    return sorted(found, key=lambda entry: MODES.index(entry[0]))
