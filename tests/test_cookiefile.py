"""The file of cookie secrets: made once, rolled over step by step, read by workers while it changes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dnsd import cookiefile
from dnsd.cli import app
from dnsd.cookiefile import Entries, StepError
from dnsd.dns.cookies import Cookies
from dnsd.serve.secrets import SecretsFile

ONE, TWO, THREE, FOUR = (bytes([n]) * 16 for n in range(1, 5))
CLIENT = bytes((192, 0, 2, 1))
NOW = 1_800_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cookies"


def cookie(secret: bytes) -> bytes:
    return Cookies([secret]).answer(bytes(8), CLIENT, NOW)[1]


def test_it_is_made_once_and_for_its_owner_only(path: Path) -> None:
    cookiefile.ensure(path)
    (entry,) = made = cookiefile.load(path)
    assert entry[0] == "active"
    assert path.stat().st_mode & 0o777 == 0o600
    cookiefile.ensure(path)
    assert cookiefile.load(path) == made


def test_a_full_disk_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file would be kept at every later start, and there would be no cookies for ever."""
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            cookiefile.ensure(path)
    assert list(path.parent.iterdir()) == []
    cookiefile.ensure(path)
    assert len(cookiefile.load(path)) == 1


def test_nobody_elses_file_is_written_through_a_link(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    cookiefile.ensure(path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("step", "before", "after"), [
    (lambda s: cookiefile.added(s, TWO), [("active", ONE)], [("active", ONE), ("staging", TWO)]),
    (lambda s: cookiefile.added(s, TWO), [("active", ONE), ("retired", THREE)],
     [("active", ONE), ("staging", TWO), ("retired", THREE)]),
    (cookiefile.activated, [("active", ONE), ("staging", TWO)], [("active", TWO), ("retired", ONE)]),
    (cookiefile.activated, [("active", ONE), ("staging", TWO), ("retired", THREE)],
     [("active", TWO), ("retired", ONE), ("retired", THREE)]),
    (cookiefile.dropped, [("active", TWO), ("retired", ONE), ("retired", THREE)], [("active", TWO)]),
    (cookiefile.dropped, [("active", TWO), ("staging", THREE), ("retired", ONE)],
     [("active", TWO), ("staging", THREE)]),
    (cookiefile.dropped, [("active", ONE), ("staging", TWO)], [("active", ONE)]),
])
def test_steps(step: Any, before: Entries, after: Entries, path: Path) -> None:
    assert step(before) == after
    path.touch(0o644)
    cookiefile.store(path, step(before))
    assert cookiefile.load(path) == after
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("step", "before", "why"), [
    (lambda s: cookiefile.added(s, THREE), [("active", ONE), ("staging", TWO)], "staged already"),
    (lambda s: cookiefile.added(s, ONE), [("active", ONE)], "there already"),
    (lambda s: cookiefile.added(s, FOUR), [("active", ONE), ("retired", TWO), ("retired", THREE)], "3 already"),
    (cookiefile.activated, [("active", ONE), ("retired", TWO)], "none is staged"),
    (cookiefile.dropped, [("active", ONE)], "only the active one"),
])
def test_steps_that_do_not_fit(step: Any, before: Entries, why: str) -> None:
    with pytest.raises(StepError, match=why):
        step(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(path: Path) -> None:
    path.write_text(f"active {ONE.hex()}\n", encoding="ascii")
    os.chown(path, 65534, 65534)
    cookiefile.store(path, [("active", TWO)])
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_a_mounted_secret_is_a_link_and_stays_one(path: Path, tmp_path: Path) -> None:
    cookiefile.ensure(tmp_path / "mounted")
    path.symlink_to(tmp_path / "mounted")
    cookiefile.store(path, cookiefile.added(cookiefile.load(path), TWO))
    assert path.is_symlink()
    assert len(cookiefile.load(tmp_path / "mounted")) == 2


# --- what a worker has of it ---


def test_a_worker_takes_up_each_step(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cookiefile.ensure(path)
    secrets = SecretsFile(path)
    assert not secrets.reload_if_changed()
    for entries, believed in (
            ([("active", ONE)], [ONE]), ([("active", ONE), ("staging", TWO)], [ONE, TWO]),
            ([("active", TWO), ("retired", ONE)], [TWO, ONE]), ([("active", TWO)], [TWO])):
        cookiefile.store(path, entries)
        assert secrets.reload_if_changed()
        assert not secrets.reload_if_changed()
        assert secrets.cookies is not None
        for secret in (ONE, TWO):
            assert secrets.cookies.valid(cookie(secret), CLIENT, NOW) == (secret in believed)
        assert secrets.cookies.answer(bytes(8), CLIENT, NOW)[1] == cookie(believed[0])
    assert capsys.readouterr().err == ""


def test_a_bad_file_is_said_once_and_the_old_one_stays(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(f"active {ONE.hex()}\n", encoding="ascii")
    secrets = SecretsFile(path)
    for content in ("", f"active {ONE.hex()}\nactive {TWO.hex()}\n", "\xff", "#" * 70000):
        path.write_text(content, encoding="latin-1")
        assert not secrets.reload_if_changed()
        assert not secrets.reload_if_changed()
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "the old ones stay" in said
        assert ONE.hex() not in said
    path.unlink()
    assert not secrets.reload_if_changed()
    assert not secrets.reload_if_changed()
    assert capsys.readouterr().err.count("\n") == 1
    assert secrets.cookies is not None
    assert secrets.cookies.valid(cookie(ONE), CLIENT, NOW)
    path.write_text(f"active {TWO.hex()}\n", encoding="ascii")
    assert secrets.reload_if_changed()
    path.unlink()
    assert not secrets.reload_if_changed()
    assert capsys.readouterr().err.count("\n") == 1  # said anew, for it had been good in between


def test_without_a_good_file_there_are_no_cookies_until_there_is(
        path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.mkdir()
    secrets = SecretsFile(path)
    assert secrets.cookies is None
    assert "there are no cookies" in capsys.readouterr().err
    path.rmdir()
    cookiefile.ensure(path)
    assert secrets.reload_if_changed()
    assert secrets.cookies is not None


# --- the command ---


def run(path: Path, *words: str, code: int = 0, given: str = "") -> Any:
    done = CliRunner().invoke(
        app.build(["cookies", "version"]), ["cookies", *words, "--file", str(path), "--json"], input=given)
    assert done.exit_code == code, done.output
    return json.loads(done.output)


def modes(found: Any) -> list[str]:
    return [entry["mode"] for entry in found["secrets"]]


def test_a_rollover_on_two_nodes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    cookiefile.ensure(here)
    there.write_bytes(here.read_bytes())
    made = run(here, "add")["made"]
    found = run(there, "add", "-", given=made + "\n")
    assert "made" not in found
    assert made not in json.dumps(run(here, "show"))
    assert modes(found) == ["active", "staging"]
    for step, after in (("activate", ["active", "retired"]), ("drop", ["active"])):
        for node in (here, there):
            assert modes(run(node, step)) == after
        assert run(here, "show") == run(there, "show")
    assert cookiefile.load(here) == cookiefile.load(there) == [("active", bytes.fromhex(made))]


@pytest.mark.parametrize(("words", "code"), [
    (["activate"], 5), (["drop"], 5), (["add", ONE.hex()], 5), (["add", "abc"], 2), (["add", ONE.hex()[:-2]], 2),
    (["add", "no digits at all, but thirty-two"], 2),
])
def test_faults_of_the_command_leave_the_file(path: Path, words: list[str], code: int) -> None:
    cookiefile.ensure(path)
    cookiefile.store(path, [("active", ONE)])
    before = path.read_bytes()
    assert run(path, *words, code=code)["exit"] == code
    assert path.read_bytes() == before


@pytest.mark.parametrize("words", [["show"], ["add"], ["activate"], ["drop"]])
def test_a_file_that_cannot_be_read(path: Path, words: list[str]) -> None:
    assert run(path, *words, code=1)["error"].startswith("the secrets cannot be used")
    path.write_text("active\n", encoding="ascii")
    assert "line 1" in run(path, *words, code=1)["error"]


def test_people_get_a_table(path: Path) -> None:
    cookiefile.ensure(path)
    done = CliRunner().invoke(app.build(["cookies", "version"]), ["cookies", "add", ONE.hex(), "--file", str(path)])
    assert [line.split()[0] for line in done.output.splitlines()] == ["mode", "active", "staging"]
    assert ONE.hex() not in done.output
