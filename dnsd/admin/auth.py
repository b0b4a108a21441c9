"""Who calls, and what they may touch: bearer tokens, roles, scopes over services and addresses.

Lives here: the token's text form, `Tokens` (what is known of them for some seconds), `Caller` with its scope questions,
the first admin token. Does not live here: which role may call which route (the route says it), storage of tokens.

A token is `dnsd_<id>_<64 hex digits>`. Only the SHA-256 of the secret is stored; with 256 random bits that needs no
salt and no slow hash. A caller is looked up by id and compared in constant time, an unknown id against a dummy.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dnsd import disk
from dnsd.admin.problem import Problem
from dnsd.model import Fault
from dnsd.registry.errors import RegistryError
from dnsd.registry.models import EndpointSpec, Kind, Role, Token
from dnsd.registry.store import ABSENT

if TYPE_CHECKING:
    from dnsd.registry.store import Registry

FRESH_SECONDS: Final = 5.0    # a token changed through another node is noticed within this time
STALE_SECONDS: Final = 900.0  # with the store away a known token is believed for this long, for reading and diagnosis
ABSENT_SECONDS: Final = 1.0
KNOWN_MAX: Final = 4096
FIRST_ID: Final = "admin"
SOCKET: Final = "socket"
"""What brought a caller who needs no token: the socket in the state directory."""


_TEXT = re.compile(r"dnsd_([a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)_([0-9a-f]{64})")
_DUMMY = hashlib.sha256(b"no such token").digest()


def issue(token_id: str) -> tuple[str, str]:
    """A new token's text, shown once, and the SHA-256 to store."""
    secret = secrets.token_hex(32)
    return f"dnsd_{token_id}_{secret}", digest(secret).hex()


def digest(secret: str) -> bytes:
    """SHA-256 of the secret part."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True)
class Caller:
    """A known token as scope questions.

    Empty `exact` and `suffixes`: every service; empty `networks`: every address.
    """

    id: str
    role: Role
    exact: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    via: str = "token"

    @classmethod
    def of(cls, token: Token) -> Caller:
        """A stored token's caller; scopes in the form names are compared in: lower-case, no final dot."""
        names = [name.lower().removesuffix(".") for name in token.services]
        exact = frozenset(name for name in names if not name.startswith("*."))
        return cls(token.id, token.role, exact, tuple(n[1:] for n in names if n.startswith("*.")), token.addresses)

    @property
    def actor(self) -> str:
        """What audit says of whoever did it."""
        return f"{self.via}:{self.id}"

    @property
    def by_service(self) -> bool:
        """Narrowed to some services."""
        return bool(self.exact or self.suffixes)

    @property
    def narrowed(self) -> bool:
        """Narrowed at all: may not touch what concerns everybody."""
        return self.by_service or bool(self.networks)

    def serves(self, service: str) -> bool:
        """Whether a service's name is in scope; `*.suffix` holds names below the suffix, not the suffix itself."""
        if not self.by_service:
            return True
        return service in self.exact or service.endswith(self.suffixes)

    def owns(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether an address may be announced; with networks of the other family only, it may not."""
        return not self.networks or any(
            network.version == address.version and address in network for network in self.networks)

    def faults(self, endpoints: Iterable[EndpointSpec], prefix: str) -> list[Fault]:
        """What of these endpoints is out of scope. `prefix` is the pointer of the sequence, or of the one endpoint."""
        if not self.narrowed:
            return []
        found: list[Fault] = []
        for number, spec in enumerate(endpoints):
            place = prefix.replace("#", str(number))
            if not self.serves(spec.service):
                found.append(Fault(place + "/service", f"{spec.service} is not in the token's scope"))
            found.extend(
                Fault(f"{place}/{name}", f"{address} is not in the token's scope")
                for name, address in (("a", spec.a), ("aaaa", spec.aaaa))
                if address is not None and not self.owns(address))
        return found


NOBODY: Final = Caller("", Role.READER, frozenset({"\0"}))  # the caller of routes that need no token: sees no service


def forbidden(detail: str, faults: Iterable[Fault] = ()) -> Problem:
    """403: a known caller may not do this."""
    return Problem(HTTPStatus.FORBIDDEN, "forbidden", detail, faults=faults)


def unauthorized(detail: str) -> Problem:
    """401: nobody we know. Says no more of an unknown token than of an expired one."""
    return Problem(
        HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="dnsd"'})


@dataclass(slots=True)
class _Known:
    digest: bytes
    caller: Caller | None
    expires_ms: int | None
    at: float
    asking: bool = False


class Tokens:
    """Tokens as the registry has them, believed for FRESH_SECONDS; bounded, the longest unused are forgotten."""

    def __init__(
        self, registry: Callable[[], Registry], *, local: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._local = local
        self._monotonic = monotonic
        self._wall = wall
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def forget(self, token_id: str) -> None:
        """Ask the registry again at the next use: the token was changed."""
        self._known.pop(token_id, None)

    async def caller(self, authorization: str | None) -> Caller:
        """Who sends this Authorization header; 401, or 503 when an unknown token cannot be looked up now."""
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorized("send Authorization: Bearer TOKEN")
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise unauthorized("not a token, or not one that is valid now")
        token_id, secret = match.groups()
        known = await self._find(token_id)
        right = hmac.compare_digest(known.digest, digest(secret))
        alive = known.expires_ms is None or self._wall() * 1000 < known.expires_ms
        if not right or not alive or known.caller is None:
            raise unauthorized("not a token, or not one that is valid now")
        return known.caller

    async def _find(self, token_id: str) -> _Known:
        known = self._known.get(token_id)
        if known is not None:
            self._known.move_to_end(token_id)
            age = self._monotonic() - known.at
            limit = FRESH_SECONDS if known.caller is not None else ABSENT_SECONDS
            if age < limit or (known.asking and known.caller is not None and age < STALE_SECONDS):
                return known
            known.asking = True
        try:
            fresh = await self._ask(token_id)
        except RegistryError as error:
            away = error.status == HTTPStatus.SERVICE_UNAVAILABLE
            if away and known and known.caller and self._monotonic() - known.at < STALE_SECONDS:
                return known
            local = self._from_file(token_id) if away else None
            if local is None:
                raise
            return local
        finally:
            if known is not None:
                known.asking = False
        self._known[token_id] = fresh
        self._known.move_to_end(token_id)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return fresh

    def _from_file(self, token_id: str) -> _Known | None:
        """The token of this node's own file, for whoever restarts a node to look at it while the store is away.

        It may have been revoked since, but only this node's owner reads the file, and with no store nothing is written.
        """
        try:
            text = ((disk.read(self._local) if self._local else None) or b"").decode("ascii").strip()
        except (OSError, ValueError):
            return None
        match = _TEXT.fullmatch(text)
        if match is None or match[1] != token_id:
            return None
        return _Known(digest(match[2]), Caller(token_id, Role.ADMIN), None, self._monotonic())

    async def _ask(self, token_id: str) -> _Known:
        at = self._monotonic()
        stored = await self._registry().get(Kind.TOKEN, token_id)
        if stored is None:
            return _Known(_DUMMY, None, None, at)
        token = stored.value
        assert isinstance(token, Token)  # noqa: S101 - the registry reads a kind through its model
        return _Known(bytes.fromhex(token.sha256), Caller.of(token), token.expires_ms, at)


async def ensure_admin(registry: Registry, state: Path) -> str | None:
    """Makes the first admin token when the registry has no token at all; its text, or None when there are tokens.

    The text is also written to `state/admin.token`, for the CLI of the same machine. The file comes first: a crash in
    between leaves a file that the next start replaces, never a stored token whose text nobody has.
    """
    tokens, following = await registry.list(Kind.TOKEN, limit=1)
    if tokens or following:  # following without tokens: one that cannot be read back
        return None
    text, sha256 = issue(FIRST_ID)
    path = state / disk.TOKEN
    disk.replace(path, f"{text}\n".encode())
    token = Token(id=FIRST_ID, sha256=sha256, role=Role.ADMIN, note="made at first start")
    try:
        await registry.put(Kind.TOKEN, token, actor="system:first-start", if_match=ABSENT)
    except RegistryError as error:
        if error.status != HTTPStatus.PRECONDITION_FAILED:
            raise
        path.unlink(missing_ok=True)  # another node was first
        return None
    return text
