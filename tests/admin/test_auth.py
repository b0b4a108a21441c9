"""Tokens and scopes: text form, expiry, what is remembered for how long, the first admin token on disk."""

from __future__ import annotations

import asyncio
import ipaddress
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnsd import disk
from dnsd.admin import auth
from dnsd.admin.problem import Problem
from dnsd.registry import errors
from dnsd.registry.models import EndpointSpec, Kind, Role, Token
from dnsd.registry.values import Stored
from tests.admin.conftest import bearer
from tests.admin.fake import SECRETS, FakeRegistry, filled


class Clock:
    """Monotonic and wall time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def tokens(registry: FakeRegistry, clock: Clock | None = None) -> auth.Tokens:
    clock = clock or Clock()
    return auth.Tokens(lambda: registry, monotonic=clock, wall=clock)


async def status(known: auth.Tokens, header: str | None) -> int:
    try:
        await known.caller(header)
    except Problem as refused:
        return refused.status
    except errors.RegistryError as refused:
        return refused.status
    return 200


SECRET = SECRETS["root"]


@pytest.mark.parametrize(("header", "expected"), [
    (f"Bearer dnsd_root_{SECRET}", 200),
    (f"bearer  dnsd_root_{SECRET} ", 200),
    (None, 401),
    ("", 401),
    ("Bearer", 401),
    ("Bearer ", 401),
    (f"Basic dnsd_root_{SECRET}", 401),
    (f"dnsd_root_{SECRET}", 401),
    (f"Bearer dnsd_root_{SECRET[:-1]}", 401),
    (f"Bearer dnsd_root_{SECRET}0", 401),
    (f"Bearer dnsd_root_{SECRET.upper()}", 200 if SECRET.upper() == SECRET else 401),
    (f"Bearer dnsd_ops_{SECRET}", 401),
    (f"Bearer dnsd_nobody_{SECRET}", 401),
    (f"Bearer dnsd__{SECRET}", 401),
    (f"Bearer dnsd_../x_{SECRET}", 401),
    (f"Bearer dnsd_root_{auth.digest(SECRET).hex()}", 401),  # the stored digest is no token
    ("Bearer dnsd_root_" + "f" * 64, 401),
])
@pytest.mark.asyncio
async def test_who_sends_a_header(header: str | None, expected: int) -> None:
    assert await status(tokens(filled()), header) == expected


def test_issued_tokens_are_new_and_fit_the_form() -> None:
    text, sha256 = auth.issue("a_b-c.d")
    assert text.startswith("dnsd_a_b-c.d_")
    assert auth.digest(text.rpartition("_")[2]).hex() == sha256
    assert text != auth.issue("a_b-c.d")[0]


@pytest.mark.asyncio
async def test_an_expired_token_is_nobodys() -> None:
    registry, clock = filled(), Clock()
    known = tokens(registry, clock)
    token = Token(id="brief", sha256=auth.digest("0" * 64).hex(), role=Role.READER, expires_ms=1_001_000)
    registry.objects[Kind.TOKEN]["brief"] = Stored(token, "1", 1)
    header = "Bearer dnsd_brief_" + "0" * 64
    assert await status(known, header) == 200
    clock.now = 1001.0
    assert await status(known, header) == 401


@pytest.mark.asyncio
async def test_a_known_token_costs_no_question_and_a_revoked_one_ends_within_bounds() -> None:
    registry, clock = filled(), Clock()
    known = tokens(registry, clock)
    header = f"Bearer {bearer('ops')}"
    for _ in range(50):
        assert await status(known, header) == 200
    assert registry.asked == 1
    del registry.objects[Kind.TOKEN]["ops"]
    clock.now += auth.FRESH_SECONDS - 0.1
    assert await status(known, header) == 200
    clock.now += 0.2
    assert await status(known, header) == 401
    registry.objects[Kind.TOKEN]["ops"] = filled().objects[Kind.TOKEN]["ops"]
    clock.now += auth.ABSENT_SECONDS + 0.1
    assert await status(known, header) == 200
    del registry.objects[Kind.TOKEN]["ops"]
    known.forget("ops")
    assert await status(known, header) == 401


@pytest.mark.asyncio
async def test_with_the_store_away_the_nodes_own_file_opens_the_api(tmp_path: Path) -> None:
    registry, file = filled(), tmp_path / disk.TOKEN
    known = auth.Tokens(lambda: registry, local=file, monotonic=Clock(), wall=Clock())
    text, _ = auth.issue("admin")
    registry.away = True
    assert await status(known, f"Bearer {text}") == 503  # no file
    file.write_text(text + "\n")
    assert (await known.caller(f"Bearer {text}")).role is Role.ADMIN
    assert await status(known, "Bearer dnsd_admin_" + "0" * 64) == 401
    assert await status(known, f"Bearer {bearer('reader')}") == 503
    registry.away = False
    assert await status(known, f"Bearer {text}") == 401  # the registry knows no such token, and it is asked again


@pytest.mark.asyncio
async def test_with_the_store_away_known_tokens_hold_for_a_while_and_unknown_ones_are_503() -> None:
    registry, clock = filled(), Clock()
    known = tokens(registry, clock)
    header = f"Bearer {bearer('ops')}"
    assert await status(known, header) == 200
    registry.away = True
    clock.now += auth.STALE_SECONDS - 1
    assert await status(known, header) == 200
    assert await status(known, "Bearer dnsd_ops_" + "0" * 64) == 401
    assert await status(known, f"Bearer {bearer('reader')}") == 503
    clock.now += 2
    assert await status(known, header) == 503


@pytest.mark.asyncio
async def test_a_crowd_asks_once_and_nobody_waits_for_a_refresh() -> None:
    registry, clock = filled(), Clock()
    known = tokens(registry, clock)
    header = f"Bearer {bearer('ops')}"
    await known.caller(header)
    clock.now += auth.FRESH_SECONDS + 1
    registry.asked = 0
    real, gate = registry.get, asyncio.Event()

    async def slow(kind: Kind, key: str) -> Stored | None:
        await gate.wait()
        return await real(kind, key)

    registry.get = slow
    first = asyncio.create_task(known.caller(header))
    await asyncio.sleep(0)
    for _ in range(20):
        assert (await asyncio.wait_for(known.caller(header), 1)).id == "ops"
    gate.set()
    await first
    assert registry.asked == 1


@pytest.mark.asyncio
async def test_what_is_known_is_bounded() -> None:
    registry = filled()
    known = tokens(registry)
    for number in range(auth.KNOWN_MAX + 50):
        assert await status(known, f"Bearer dnsd_t{number}_" + "0" * 64) == 401
    assert len(known._known) == auth.KNOWN_MAX


def caller(*services: str, addresses: tuple[str, ...] = ()) -> auth.Caller:
    return auth.Caller.of(Token(id="t", sha256="0" * 64, role=Role.AGENT, services=services, addresses=addresses))


@pytest.mark.parametrize(("scope", "service", "expected"), [
    ((), "any.example", True),
    (("api.a.example",), "api.a.example", True),
    (("API.A.example.",), "api.a.example", True),
    (("api.a.example",), "x.api.a.example", False),
    (("api.a.example",), "a.example", False),
    (("*.a.example",), "api.a.example", True),
    (("*.a.example",), "x.y.a.example", True),
    (("*.a.example",), "*.a.example", True),
    (("*.a.example",), "a.example", False),
    (("*.a.example",), "api.aa.example", False),
    (("*.a.example",), "evila.example", False),
    (("*.a.example",), "api.a.example.evil", False),
    (("*.a.example", "api.b.example"), "api.b.example", True),
    (("*.a.example", "api.b.example"), "www.b.example", False),
])
def test_service_scopes(scope: tuple[str, ...], service: str, expected: bool) -> None:
    assert caller(*scope).serves(service) is expected


@pytest.mark.parametrize(("scope", "address", "expected"), [
    ((), "192.0.2.1", True),
    (("192.0.2.0/24",), "192.0.2.255", True),
    (("192.0.2.0/24",), "192.0.3.0", False),
    (("192.0.2.0/24",), "2001:db8::1", False),
    (("2001:db8::/32",), "192.0.2.1", False),
    (("2001:db8::/32", "192.0.2.1/32"), "192.0.2.1", True),
    (("192.0.2.0/24",), "64:ff9b::c000:201", False),
    (("0.0.0.0/0",), "2001:db8::1", False),
    (("::/0",), "2001:db8::1", True),
])
def test_address_scopes(scope: tuple[str, ...], address: str, expected: bool) -> None:
    assert caller(addresses=scope).owns(ipaddress.ip_address(address)) is expected


LABELS = st.lists(st.sampled_from(["a", "b", "aa", "example", "x-1"]), min_size=1, max_size=4).map(".".join)


@given(LABELS, LABELS)
def test_a_suffix_scope_holds_exactly_what_has_more_labels_over_the_suffix(suffix: str, name: str) -> None:
    labels, ends = name.split("."), suffix.split(".")
    below = len(labels) > len(ends) and labels[-len(ends):] == ends
    assert caller(f"*.{suffix}").serves(name) is below
    assert caller(suffix).serves(name) is (name == suffix)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_an_address_scope_holds_exactly_its_prefix(base: int, address: int, bits: int) -> None:
    network = ipaddress.ip_network((base, bits), strict=False)
    held = (base >> (32 - bits)) == (address >> (32 - bits))
    assert caller(addresses=(str(network),)).owns(ipaddress.ip_address(address)) is held


def test_faults_name_every_place() -> None:
    specs = [
        EndpointSpec(id="a", service="api.a.example", site="f", a="192.0.2.1", aaaa="2001:db8::1"),
        EndpointSpec(id="b", service="api.b.example", site="f", a="198.51.100.1"),
    ]
    found = caller("*.a.example", addresses=("192.0.2.0/24",)).faults(specs, "/endpoints/#")
    assert [fault.place for fault in found] == ["/endpoints/0/aaaa", "/endpoints/1/service", "/endpoints/1/a"]


@pytest.mark.asyncio
async def test_the_first_admin_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    registry = FakeRegistry()
    target = tmp_path / "elsewhere"
    target.write_text("untouched")
    (tmp_path / disk.TOKEN).symlink_to(target)
    text = await auth.ensure_admin(registry, tmp_path)
    path = tmp_path / disk.TOKEN
    assert text is not None
    assert path.read_text() == text + "\n"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert target.read_text() == "untouched"
    assert text.rpartition("_")[2] not in repr(registry.objects)
    assert (await tokens(registry).caller(f"Bearer {text}")).role is Role.ADMIN
    assert await auth.ensure_admin(registry, tmp_path) is None
    assert path.read_text() == text + "\n"


@pytest.mark.asyncio
async def test_a_lost_race_for_the_first_token_leaves_no_file(tmp_path: Path) -> None:
    registry = FakeRegistry()

    async def late(*_: object, **__: object) -> None:
        raise errors.PreconditionFailed("another node was first")

    registry.put = late
    assert await auth.ensure_admin(registry, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_a_crash_before_the_token_is_stored_is_mended_at_the_next_start(tmp_path: Path) -> None:
    registry = FakeRegistry()
    registry.away = True
    with pytest.raises(errors.Unavailable):
        await auth.ensure_admin(registry, tmp_path)
    registry.away = False
    text = await auth.ensure_admin(registry, tmp_path)
    assert (tmp_path / disk.TOKEN).read_text() == f"{text}\n"
