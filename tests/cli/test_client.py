"""`dnsd.cli.client` and the exit codes, against a scripted HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dnsd.cli import app
from dnsd.cli.client import Admin, segment
from dnsd.cli.failure import Exit, Failure
from tests.node import free_port

ENV = {"DNSD_CONFIG": "/nonexistent/dnsd.toml", "DNSD_URL": "", "DNSD_TOKEN": "", "NO_COLOR": "1", "COLUMNS": "200"}


class Scripted:
    """Answers by (method, path without query); remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any, dict[str, str]]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.server = HTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def say(self, method: str, path: str, status: int, body: Any = None, **headers: str) -> None:
        self.answers.setdefault((method, path), []).append((status, body, headers))

    def handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                script.asked.append((self.command, self.path, dict(self.headers), body))
                queue = script.answers[self.command, self.path.partition("?")[0]]
                status, reply, headers = queue.pop(0) if len(queue) > 1 else queue[0]
                data = b"" if reply is None else json.dumps(reply).encode()
                self.send_response(status)
                kind = "application/json" if status < 400 else "application/problem+json"
                for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def daemon() -> Iterator[Scripted]:
    script = Scripted()
    thread = threading.Thread(target=script.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield script
    script.server.shutdown()
    thread.join()
    script.server.server_close()


def dnsd(*words: str, url: str = "", stdin: str | None = None) -> Any:
    shared = ["--url", url, "--token", "secret"] if url else []
    return CliRunner().invoke(app.build(list(app.VERBS)), [*words, *shared], env=ENV, input=stdin)


@pytest.mark.parametrize(("status", "code"), [
    (400, Exit.FAILED), (401, Exit.FAILED), (403, Exit.FAILED), (404, Exit.FAILED), (409, Exit.PRECONDITION),
    (412, Exit.PRECONDITION), (422, Exit.FAILED), (428, Exit.PRECONDITION), (500, Exit.FAILED), (503, Exit.FAILED),
])
def test_statuses_become_exit_codes(daemon: Scripted, status: int, code: Exit) -> None:
    faults = [{"pointer": "/latitude", "message": "above 90"}, {"pointer": "/id", "message": "too long"}]
    daemon.say("GET", "/v1/sites/x", status, {"title": "no", "detail": "not so", "faults": faults})
    done = dnsd("sites", "get", "x", url=daemon.url)
    assert done.exit_code == code
    assert "no: not so" in done.stderr
    assert all(word in done.stderr for word in ("/latitude: above 90", "/id: too long"))


def test_no_daemon_is_4() -> None:
    done = dnsd("status", url=f"http://127.0.0.1:{free_port()}")
    assert (done.exit_code, done.stdout) == (Exit.UNREACHABLE, "")
    assert "no daemon answers" in done.stderr


def test_a_daemon_that_hangs_up_is_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        def hang_up() -> None:
            for _ in range(2):  # the client asks once more, as HTTP lets it for a GET
                connection, _ = server.accept()
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(Failure) as caught:
            Admin(f"http://127.0.0.1:{server.getsockname()[1]}").call("GET", "/v1/status")
        thread.join()
    assert caught.value.code is Exit.UNREACHABLE


@pytest.mark.parametrize("words", [
    ["nonsense"], ["status", "--nonsense"], ["sites", "get"], ["overrides", "set", "site:x", "down"],
    ["sites", "put", "x", "{"], ["sites", "put", "x", "/nonexistent.json"], ["apply", "/nonexistent.toml"],
])
def test_wrong_usage_is_2(words: list[str]) -> None:
    assert dnsd(*words, url="http://127.0.0.1:1").exit_code == Exit.USAGE


def test_failures_are_json_when_json_is_asked_for(daemon: Scripted) -> None:
    daemon.say("GET", "/v1/sites/x", 422, {"title": "invalid", "faults": [{"pointer": "/a", "message": "b"}]})
    done = dnsd("sites", "get", "x", "--json", url=daemon.url)
    assert json.loads(done.stdout) == {
        "error": "GET /v1/sites/x: invalid", "exit": 1, "faults": [{"place": "/a", "message": "b"}]}


def test_lists_follow_their_pages(daemon: Scripted) -> None:
    def item(name: str) -> dict[str, Any]:
        return {"key": name, "etag": "e", "version": 1, "value": {"id": name, "country": "DE", "latitude": 50.5}}

    daemon.say("GET", "/v1/sites", 200, {"items": [item("one"), item("two")], "next_page_token": "t"})
    daemon.say("GET", "/v1/sites", 200, {"items": [item("three")], "next_page_token": None})
    done = dnsd("sites", "list", "--prefix", "t", url=daemon.url)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["id", "one", "two", "three"]
    assert [path for _, path, _, _ in daemon.asked] == [
        "/v1/sites?page_size=500&prefix=t", "/v1/sites?page_size=500&page_token=t&prefix=t"]
    assert all(headers["Authorization"] == "Bearer secret" for _, _, headers, _ in daemon.asked)


def test_put_reads_the_etag_it_replaces(daemon: Scripted) -> None:
    daemon.say("GET", "/v1/endpoints/api.demo.example/one", 200, {"id": "one"}, ETag='"abc"')
    daemon.say("PUT", "/v1/endpoints/api.demo.example/one", 200, {"key": "k", "version": 7}, ETag='"def"')
    done = dnsd("endpoints", "put", "api.demo.example/one", '{"site": "s", "a": "192.0.2.1"}', "--json", url=daemon.url)
    assert json.loads(done.stdout) == {"key": "k", "version": 7, "etag": '"def"'}
    assert daemon.asked[-1][2]["If-Match"] == '"abc"'
    assert daemon.asked[-1][3] == {"site": "s", "a": "192.0.2.1"}


def test_put_creates_only_what_is_not_there(daemon: Scripted) -> None:
    daemon.say("GET", "/v1/sites/new", 404, {"title": "not found"})
    daemon.say("PUT", "/v1/sites/new", 201, {"key": "new", "version": 8})
    assert dnsd("sites", "put", "new", "-", url=daemon.url, stdin='{"country": "DE"}').exit_code == Exit.OK
    assert daemon.asked[-1][2]["If-None-Match"] == "*"
    assert daemon.asked[-1][3] == {"country": "DE"}


def test_leases(daemon: Scripted) -> None:
    daemon.say("POST", "/v1/leases", 201, {"id": "l1", "fence": 3})
    daemon.say("PUT", "/v1/leases/l1", 200, {"ok": True})
    daemon.say("DELETE", "/v1/leases/l1", 200, {"version": 9})
    assert dnsd("leases", "acquire", '{"holder": "h"}', url=daemon.url).exit_code == Exit.OK
    assert dnsd("leases", "renew", "l1", "--fence", "3", "--load", "s/e=0.5", url=daemon.url).exit_code == Exit.OK
    assert daemon.asked[-1][3] == {"fence": 3, "loads": {"s/e": 0.5}}
    assert dnsd("leases", "renew", "l1", "--fence", "3", "--load", "s/e", url=daemon.url).exit_code == Exit.USAGE
    assert dnsd("leases", "release", "l1", "--fence", "3", url=daemon.url).exit_code == Exit.OK
    assert daemon.asked[-1][1] == "/v1/leases/l1?fence=3"


def test_an_override_says_what_for_how_long_and_why(daemon: Scripted) -> None:
    daemon.say("GET", "/v1/overrides/endpoint:api.demo.example/one", 404, {"title": "not found"})
    daemon.say("PUT", "/v1/overrides/endpoint:api.demo.example/one", 201, {"version": 3})
    done = dnsd("overrides", "set", "endpoint:api.demo.example/one", "down", "--for", "60", "--reason", "disk",
                url=daemon.url)
    assert done.exit_code == Exit.OK
    assert daemon.asked[-1][3] == {
        "target": "endpoint", "name": "api.demo.example/one", "state": "down", "seconds": 60, "reason": "disk"}


PLAN = {
    "dry_run": True, "version": 5, "durability": None, "unchanged": 2,
    "steps": [
        {"op": "create", "kind": "site", "key": "fra", "before": None, "after": {"id": "fra"}},
        {"op": "change", "kind": "service", "key": "api", "before": {"ttl": 8}, "after": {"ttl": 30}},
        {"op": "delete", "kind": "site", "key": "old", "before": {"id": "old"}, "after": None},
    ],
}


def test_apply_shows_then_does(daemon: Scripted, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[sites]]\nid = "fra"\n')
    daemon.say("POST", "/v1/apply", 200, PLAN)
    daemon.say("POST", "/v1/apply", 200, PLAN | {"dry_run": False, "version": 6})
    daemon.say("GET", "/v1/status", 200, {"reached": True})
    done = dnsd("apply", str(fleet), "--yes", "--prune", url=daemon.url)
    assert done.exit_code == Exit.OK, done.output
    assert done.stdout.splitlines() == [
        "+ site fra", "~ service api", "    ttl: 8 -> 30", "- site old",
        "1 created, 1 changed, 1 deleted; 2 unchanged; version 6"]
    paths = [path for _, path, _, _ in daemon.asked]
    assert paths == [
        "/v1/apply?dry_run=true&prune=true", "/v1/apply?if_version=5&prune=true",
        "/v1/status?wait_version=6&timeout=10.0"]
    assert daemon.asked[0][3] == daemon.asked[1][3] == {"sites": [{"id": "fra"}]}


def test_apply_if_empty_leaves_a_registry_that_is_used(daemon: Scripted) -> None:
    daemon.say("GET", "/v1/sites", 200, {"items": [], "next_page_token": None})
    daemon.say("GET", "/v1/services", 200, {"items": [{"key": "s"}], "next_page_token": None})
    assert dnsd("apply", "-", "--if-empty", "--yes", url=daemon.url, stdin="{}").exit_code == Exit.OK
    assert {method for method, *_ in daemon.asked} == {"GET"}


def test_apply_dry_run_changes_nothing(daemon: Scripted) -> None:
    daemon.say("POST", "/v1/apply", 200, PLAN)
    done = dnsd("apply", "-", "--dry-run", url=daemon.url, stdin="{}")
    assert done.stdout.splitlines()[-1] == "would be 1 created, 1 changed, 1 deleted; 2 unchanged; version 5"
    assert len(daemon.asked) == 1


def test_apply_does_not_act_unasked(daemon: Scripted) -> None:
    daemon.say("POST", "/v1/apply", 200, PLAN)
    assert dnsd("apply", "-", url=daemon.url, stdin="{}").exit_code == Exit.USAGE
    assert len(daemon.asked) == 1


def test_reload_names_the_faults(daemon: Scripted) -> None:
    daemon.say("POST", "/v1/reload", 422, {"title": "invalid", "faults": [{"pointer": "z:3", "message": "no type"}]})
    done = dnsd("reload", url=daemon.url)
    assert done.exit_code == Exit.CONFIG_INVALID
    assert "z:3: no type" in done.stderr


@pytest.mark.parametrize(("key", "path"), [
    ("api.demo.example/one", "api.demo.example/one"), ("site:fra", "site:fra"), ("*.x.example", "%2A.x.example"),
    ("a b?c#d", "a%20b%3Fc%23d"),
])
def test_keys_as_paths(key: str, path: str) -> None:
    assert segment(key) == path
