"""`dnsd drill` as shells see it, with drills that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dnsd.cli import app
from dnsd.drill import fleet, session
from dnsd.drill.network import UnavailableError
from dnsd.drill.result import Result

GOOD = Result("rst", 1, 7, 8, dies=True, fast=True, detect=1.4, publish=1.6, last_failed=4.0, back=0.9)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[session.Plan]:
    """Plans that were held; each run of them is `GOOD` unless a test says otherwise."""
    plans: list[session.Plan] = []

    async def hold(plan: session.Plan, folder: Path, told: Callable[[Result], None]) -> list[Result]:
        plans.append(plan)
        assert folder.is_dir()
        results = [replace(GOOD, fault=fault, ttl=ttl) for fault, ttl in plan.trials()]
        for result in results:
            told(result)
        return results

    monkeypatch.setattr(session, "hold", hold)
    monkeypatch.setattr(fleet, "missing", lambda: "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return plans


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app.build(["drill", "version"]), ["drill", *words])
    return done.exit_code, done.output


def say(monkeypatch: pytest.MonkeyPatch, *results: Result, error: Exception | None = None) -> None:
    async def hold(plan: session.Plan, folder: Path, told: Callable[[Result], None]) -> list[Result]:
        if error is not None:
            raise error
        for result in results:
            told(result)
        return list(results)

    monkeypatch.setattr(session, "hold", hold)


def test_the_faults_are_listed() -> None:
    code, text = run()
    assert code == 0
    assert "store-endpoint  an endpoint dies" in text


def test_the_plan_is_what_was_said(held: list[session.Plan], tmp_path: Path) -> None:
    code, text = run("rst", "site", "rst", "--runs", "2", "--ttl", "8", "--ttl", "5", "--seed", "3", "--at-once", "2")
    assert code == 0, text
    [plan] = held
    assert (plan.faults, plan.runs, plan.ttls, plan.seed, plan.at_once) == (["rst", "site"], 2, (8, 5), 3, 2)
    assert text.count("passed") == 8
    assert "seed 3" in text
    assert not list(tmp_path.iterdir()), "the folder is gone"


def test_all_is_all_and_json_is_one_value(held: list[session.Plan]) -> None:
    code, text = run("all", "--json", "--seed", "3")
    found = json.loads(text)
    assert (code, found["passed"], found["seed"], found["folder"]) == (0, True, 3, None)
    assert len(found["runs"]) == 10


def test_the_folder_stays_when_asked_for(held: list[session.Plan], tmp_path: Path) -> None:
    code, text = run("rst", "--keep")
    [folder] = tmp_path.iterdir()
    assert (code, str(folder) in text) == (0, True)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(("results", "code", "says"), [
    ([GOOD, replace(GOOD, publish=3.0)], 1, "MISSED: published after 2 s"),
    ([replace(GOOD, wrong=["1.00 s fra-1 w0"])], 1, "1.00 s fra-1 w0"),
    ([GOOD, replace(GOOD, refused="no compiler")], 0, "refused: no compiler"),
    ([replace(GOOD, refused="no compiler")], 5, "refused: no compiler"),
    ([replace(GOOD, stalled=0.5)], 0, "busy: the drill stood still for 0.50 s"),
])
def test_how_it_ends(monkeypatch: pytest.MonkeyPatch, results: list[Result], code: int, says: str) -> None:
    say(monkeypatch, *results)
    ended, text = run("rst")
    assert (ended, says in text) == (code, True), text


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize(("error", "code", "says"), [
    (UnavailableError("[Errno 13] Permission denied: '/dev/net/tun'"), 5, "Permission denied"),
    (fleet.NotReadyError("the fleet did not start"), 1, "did not start"),
])
def test_why_it_cannot_begin(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, says: str) -> None:
    say(monkeypatch, error=error)
    ended, text = run("rst")
    assert (ended, says in text) == (code, True), text


@pytest.mark.parametrize(("words", "code", "says"), [
    (["fire"], 2, "there are rst, hole"),
    (["--live"], 2, "one target"),
    (["a", "b", "--live"], 2, "one target"),
])
def test_wrong_words(words: list[str], code: int, says: str) -> None:
    ended, text = run(*words)
    assert (ended, says in text) == (code, True), text


def test_without_unbound_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_SERVERS", "/nowhere")
    ended, text = run("rst")
    assert (ended, "unbound is not installed" in text) == (5, True), text
