"""`dnsd agent` as shells see it, with readings that are made up, against a scripted daemon."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from dnsd.cli import agent as verb
from dnsd.cli import app
from dnsd.cli.client import Reply, _seconds
from tests.cli.test_client import ENV, Scripted
from tests.node import free_port

READINGS = [("8.8.8.1", 12.0), ("8.8.8.2", 14.0), ("10.0.0.1", 1.0)]
SAMPLES = [{"client": "8.8.8.0/24", "rtt_ms": 12.0, "count": 2, "spread_ms": 0.0}]
WHERE = ("--site", "ams", "--port", "443")


@pytest.fixture
def daemon() -> Iterator[Scripted]:
    script = Scripted()
    thread = threading.Thread(target=script.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield script
    script.server.shutdown()
    thread.join()
    script.server.server_close()


@pytest.fixture(autouse=True)
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def read(ports: list[int], recent_ms: int) -> list[tuple[str, float]]:
        asked.append((ports, recent_ms))
        return READINGS

    monkeypatch.setattr(verb, "_reader", lambda: read)
    monkeypatch.setattr(verb, "signal", SimpleNamespace(SIGTERM=15, SIGINT=2, signal=lambda *_: None))
    return asked


def ran(*words: str) -> Any:
    return CliRunner().invoke(app.build(["agent", "version"]), ["agent", *WHERE, *words], env=ENV)


def test_once_sends_what_was_read(daemon: Scripted, readings: list[tuple[Any, ...]]) -> None:
    daemon.say("POST", "/v1/measurements", 202, {"accepted": 1, "dropped": {"physics": 2}})
    done = ran("--once", "--url", daemon.url, "--token", "t", "--port", "80")
    assert (done.exit_code, done.stdout) == (0, "1 blocks, 1 accepted, 2 dropped, 2 physics\n")
    [(_, _, headers, body)] = daemon.asked
    assert headers["Authorization"] == "Bearer t"
    assert body == {"site": "ams", "source": "agent", "samples": SAMPLES}
    assert readings == [([443, 80], 300_000)]
    done = ran("--once", "--json", "--url", daemon.url, "--token", "t")
    assert json.loads(done.stdout) == {"blocks": 1, "accepted": 1, "dropped": {"physics": 2}, "waiting": 0,
                                       "forgotten": 0, "problem": None}


@pytest.mark.parametrize(("status", "body"), [
    (200, "<html>log in</html>"), (200, None), (200, []), (200, {"accepted": 1}), (200, {"accepted": 1, "dropped": 2}),
    (204, None), (408, "slow"), (502, ["bad gateway"]), (503, {"faults": ["x"], "title": 5}), (429, {"faults": 7})])
def test_whoever_answers_for_the_daemon_meanwhile_ends_nothing(status: int, body: Any) -> None:
    """A proxy in front of it, while it is restarted: what was measured waits."""
    asked = SimpleNamespace(url="https://dnsd.example", ask=lambda *_, **__: Reply(status, body, None))
    box = verb._outbox(asked, "ams")  # type: ignore[arg-type]
    box.add(SAMPLES)
    [answer] = box.send()
    assert answer.problem
    assert box.samples == 1


def test_a_dry_run_asks_nobody() -> None:
    done = ran("--once", "--dry-run", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (
        0, {"site": "ams", "source": "agent", "samples": SAMPLES})
    done = ran("--once", "--dry-run", "--private")
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["10.0.0.0/24", "1", "0", "1"], ["8.8.8.0/24", "12", "0", "2"]]


@pytest.mark.parametrize(("status", "headers", "code"), [
    (401, {}, 1), (403, {}, 1), (422, {}, 1), (429, {"Retry-After": "7"}, 1), (500, {}, 1)])
def test_refusals_end_a_single_run_with_their_code(
        daemon: Scripted, status: int, headers: dict[str, str], code: int) -> None:
    daemon.say("POST", "/v1/measurements", status, {"title": "no"}, **headers)
    done = ran("--once", "--url", daemon.url, "--token", "t")
    assert done.exit_code == code
    assert "no" in done.stderr


def test_nobody_there() -> None:
    assert ran("--once", "--url", f"http://127.0.0.1:{free_port()}", "--token", "t").exit_code == 4


def test_it_goes_on_while_the_daemon_is_busy_and_says_so_once(
        daemon: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.say("POST", "/v1/measurements", 429, {"title": "too many"}, **{"Retry-After": "20"})
    daemon.say("POST", "/v1/measurements", 202, {"accepted": 1, "dropped": {}})
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 1060:
            raise SystemExit(0)

    monkeypatch.setattr(verb, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    done = ran("--url", daemon.url, "--token", "t", "--every", "5")
    assert done.exit_code == 0
    said = done.stderr.splitlines()
    assert len(said) == 2
    assert "too many" in said[0]
    assert said[1] == "dnsd agent: measurements are taken again"
    assert len(daemon.asked) == 1 + 13  # one refused, then at 1020 s what had waited, the oldest last, and on


def test_without_its_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    monkeypatch.delitem(sys.modules, "dnsd.agent.connections", raising=False)
    monkeypatch.delattr("dnsd.agent.connections", raising=False)
    done = ran("--once", "--dry-run")
    assert done.exit_code == 5
    assert "dnsd[agent]" in done.stderr


def test_a_silent_kernel_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = pytest.importorskip("dnsd.agent.connections")
    monkeypatch.undo()
    monkeypatch.setattr(connections, "told_of", lambda: False)
    done = ran("--once", "--dry-run")
    assert done.exit_code == 5
    assert "tcp_diag" in done.stderr


@pytest.mark.parametrize(("text", "seconds"), [
    (None, None), ("7", 7.0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)])
def test_when_to_ask_again(text: str | None, seconds: float | None) -> None:
    assert _seconds(text) == seconds
