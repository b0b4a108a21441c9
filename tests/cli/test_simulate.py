"""`dnsd simulate` as shells see it: the question that is sent, clients from files, the table, the page."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from dnsd.cli import app, display, simulate, simulate_page
from dnsd.cli.client import Admin, Reply
from dnsd.cli.failure import Failure

EVIL = '<script src="https://example.org/x">&"'


def side(**sites: float) -> dict[str, Any]:
    curve = [float(ms) for ms in range(5, 105, 5)]
    return {"sites": sites, "rtt_ms": {"mean": 50.0, "p50": 50.0, "p95": 95.0, "p99": 99.0, "curve": curve,
                                       "known_of": 1.0}}


def result(**more: Any) -> dict[str, Any]:
    """An answer of the daemon, with names that must be escaped."""
    ways = {"before_ms": 20.0, "after_ms": None}
    service = {
        "service": "api.example.com", "clients_weight": 4.0, "moved": 0.25, "had_to": 0.25, "before": side(a=1.0),
        "after": side(a=0.75, b=0.25), "flows": [{"from": "a", "to": "b", "share": 0.25, **ways}],
        **{kind: [{"name": EVIL, "share": 0.5, "moved": 0.5, "from": "a", "to": "b", **ways},
                  {"name": "-", "share": 0.5, "moved": 0.0, "from": None, "to": None, **ways}]
           for kind in simulate.GROUPS}}
    sites = [{
        "site": name, "before": 0.5, "after": 0.5, "capacity_before": 10, "capacity_after": capacity,
        "load_before": 5.0, "load_after": 5.0, "used_before": 0.5,
        "used_after": 5 / capacity if capacity else None, "full": capacity == 4}
        for name, capacity in (("a", 4), ("b", None))]
    return {
        "changes": ["site a lost"], "version": 7, "atlas": None, "table": None,
        "clients": {"source": "given", "number": 2, "weight": 4.0}, "load": {"units": 10.0, "from": "given"},
        "sites": sites, "moved": 0.25, "had_to": 0.25, "services": [service], "seconds": 0.1, **more}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Bodies that were sent; each is answered with `result`."""
    bodies: list[dict[str, Any]] = []

    def call(self: Admin, method: str, path: str, *, body: Any = None, **_: Any) -> Reply:
        if (method, path) == ("GET", "/v1/services"):
            return Reply(200, {"items": [{"key": "api.example.com"}, {"key": "*.wild.example.com"}],
                               "next_page_token": None}, None)
        assert (method, path) == ("POST", "/v1/simulate")
        bodies.append(body)
        return Reply(200, result(), None)

    monkeypatch.setattr(Admin, "call", call)
    return bodies


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app.build(["simulate", "version"]), [
        "simulate", "--url", "http://localhost", "--token", "x", *words])
    return done.exit_code, done.output


def test_the_question_from_options(sent: list[dict[str, Any]], tmp_path: Path) -> None:
    document = tmp_path / "change.toml"
    document.write_text('[[services]]\nname = "api.example.com"\n')
    code, text = run(
        str(document), "--lose", "a", "--add", "waw1=52.23,21.01,pl,eu", "--move", "b=1,-2.5", "--weight", "b=0",
        "--weight", "api.example.com/x=7", "--policy", "api.example.com:preset=latency,band_ms=10", "--capacity", "b=9",
        "--rtt", "b=+40", "--rtt", "a=-3.5", "--service", "api.example.com", "--load", "10")
    assert code == 0, text
    assert sent == [{
        "change": {"services": [{"name": "api.example.com"}]}, "services": ["api.example.com"], "lost": ["a"],
        "added": [{"id": "waw1", "latitude": 52.23, "longitude": 21.01, "country": "PL", "region": "eu"}],
        "moved": {"b": {"latitude": 1.0, "longitude": -2.5}}, "weights": {"b": 0, "api.example.com/x": 7},
        "policies": {"api.example.com": {"preset": "latency", "band_ms": 10}}, "capacities": {"b": 9},
        "rtt_ms": {"b": 40.0, "a": -3.5}, "load": 10.0}]


@pytest.mark.parametrize("words", [
    ("--add", "x=1,2"), ("--move", "x"), ("--move", "x=1"), ("--rtt", "x=far"), ("--policy", "x"), ("--weight", "=3"),
    ("--clients", "/nowhere.csv"), ("--log", "/nowhere.json"), ("/nowhere.toml",),
])
def test_what_is_said_wrong(sent: list[dict[str, Any]], words: tuple[str, ...]) -> None:
    assert run(*words)[0] == 2
    assert not sent


@pytest.mark.parametrize("text", [
    "prefix,weight\n10.0.0.0/24,3\n# a comment\n\n2001:db8::/48,1\n10.0.0.0/24,2\n",
    "10.0.0.0/24,3\n10.0.0.9/24,2\n2001:db8::/48,1\n",
    "country,prefix,other,weight\nDE,10.0.0.0/24,7,5\nFR,2001:db8::/48,7,1\n",
])
def test_clients_of_a_list(sent: list[dict[str, Any]], tmp_path: Path, text: str) -> None:
    path = tmp_path / "clients.csv"
    path.write_text(text)
    assert run("--clients", str(path))[0] == 0
    assert sent[0]["clients"] == [
        {"prefix": "10.0.0.0/24", "weight": 5.0},
        {"prefix": "2001:db8::/48", "weight": 1.0}]


@pytest.mark.parametrize(("text", "column"), [
    ("prefix,weight\n10.0.0.0/24,x\n", "weight"), ("prefix,weight\nten,1\n", "weight"), ("prefix,weight\n", "weight"),
    ("prefix,weight\n10.0.0.0/24,1\n", "people"), ("prefix,weight\n10.0.0.0/24\n", "weight"),
])
def test_a_bad_list(sent: list[dict[str, Any]], tmp_path: Path, text: str, column: str) -> None:
    path = tmp_path / "clients.csv"
    path.write_text(text)
    assert run("--clients", str(path), "--column", column)[0] == 2
    assert not sent


def test_all_that_is_wrong_with_a_list_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "clients.csv"
    path.write_text("prefix,weight\n10.0.0.0/24,nan\n10.0.1.0/24,1\nten,1\n10.0.2.0/24,-1\n10.0.3.0/24,1e400\n")
    with pytest.raises(Failure) as caught:
        simulate.weights(path, "weight")
    assert [fault.place for fault in caught.value.faults] == ["row 1", "row 3", "row 4", "row 5"]
    path.write_text("no log\n" * 500)
    with pytest.raises(Failure) as caught:
        simulate.logged(path, [])
    assert [fault.message for fault in caught.value.faults[-1:]] == ["and 400 more"]


@pytest.mark.parametrize("octets", [b"\xff\xfe\0", b"a" * 200_000])
def test_a_list_that_is_none(sent: list[dict[str, Any]], tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "clients.csv"
    path.write_bytes(octets)
    assert run("--clients", str(path))[0] == 2
    assert run("--log", str(path))[0] == 2
    assert run("--clients", str(tmp_path))[0] == 2


@pytest.mark.parametrize("option", [["--weight", "a=nan"], ["--capacity", "a=1e400"], ["--rtt", "a=inf"]])
def test_what_is_no_number(sent: list[dict[str, Any]], option: list[str]) -> None:
    assert run(*option)[0] == 2
    assert not sent


def test_clients_of_a_query_log(sent: list[dict[str, Any]], tmp_path: Path) -> None:
    lines = [
        ("api.example.com.", "A", "192.0.2.0/24", "10.0.0.0/24"),
        ("API.example.com.", "HTTPS", "192.0.2.0/24", "10.0.0.0/24"),
        ("api.example.com.", "AAAA", "198.51.100.7", None), ("api.example.com.", "TXT", "198.51.100.7", None),
        ("other.example.com.", "A", "198.51.100.7", None), ("api.example.com.", "A", "198.51.100.9", "0.0.0.0/0"),
        (None, None, None, None), ("deep.er.wild.example.com.", "A", "198.51.100.9", None),
        ("x.wild.example.com.", "A", "2001:db8::9", None)]
    path = tmp_path / "queries.json"
    path.write_text("".join(json.dumps({
        "qname": name, "qtype": type_, "client": client, "ecs": ecs, "every": 10, "rcode": "NOERROR"}) + "\n"
        for name, type_, client, ecs in lines))
    assert run("--log", str(path), "--service", "api.example.com")[0] == 0
    assert sent[0]["clients"] == [
        {"prefix": "10.0.0.0/24", "weight": 20.0, "service": "api.example.com"},
        {"prefix": "198.51.100.0/24", "weight": 20.0, "service": "api.example.com", "ecs": False}]
    assert run("--log", str(path))[0] == 0
    assert sent[1]["clients"][2:] == [
        {"prefix": "198.51.100.0/24", "weight": 10.0, "service": "*.wild.example.com", "ecs": False},
        {"prefix": "2001:db8::/56", "weight": 10.0, "service": "*.wild.example.com", "ecs": False}]
    path.write_text("not json\n")
    assert run("--log", str(path))[0] == 2


def test_the_heaviest_are_taken() -> None:
    rows, left = simulate.heaviest({(f"10.{n >> 8}.{n & 255}.0/24", None, True): 1.0 + (n == 7) for n in range(12_000)})
    assert len(rows) == simulate.CLIENTS
    assert rows[0]["prefix"] == "10.0.7.0/24"
    assert left == pytest.approx(2000 / 12_001)
    long = "a" * 60 + ".example.com"
    rows, left = simulate.heaviest({(f"2001:db8:{n:x}::/48", long, False): 1.0 for n in range(12_000)})
    assert len(json.dumps(rows)) < 1 << 20
    assert 5000 < len(rows) < simulate.CLIENTS
    assert left == pytest.approx(1 - len(rows) / 12_000)


def test_the_table(sent: list[dict[str, Any]]) -> None:
    _, text = run()
    assert "25.00% move, 25.00% had to" in text
    assert re.search(r"^a +b +25\.00% +20\.0 +-$", text, re.MULTILINE)
    assert re.search(r"^a +50\.00% +50\.00% +5\.0 +4 +125% +too much$", text, re.MULTILINE)
    assert json.loads(run("--json")[1]) == result()


def test_the_page_is_whole_and_fetches_nothing(sent: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert run("--html", str(path))[0] == 0
    text = path.read_text(encoding="utf-8")
    assert EVIL not in text
    assert "&lt;script" in text
    body = text[text.index("<body>") : text.index("</html>")]
    tree = ElementTree.fromstring(re.sub(r"<td class=n>", '<td class="n">', body))
    assert len(tree.findall("svg")) == 3
    for element in tree.iter():
        assert element.tag not in ("script", "img", "link", "iframe", "use", "image")
        assert not {"src", "style", "onload", "xlink:href"} & set(element.attrib)
        assert element.tag == "a" or "href" not in element.attrib
    assert "default-src 'none'" in text
    for svg in tree.iter("svg"):
        for shape in svg.iter("rect"):
            assert float(shape.attrib["height"]) >= 0
            assert 0 <= float(shape.attrib["width"]) <= simulate_page.WIDTH


def test_a_page_of_nothing_known() -> None:
    one = result()
    service = {**one["services"][0], "flows": [], "countries": [], "networks": [], "carriers": [],
               "before": {"sites": {"(no answer)": 1.0}, "rtt_ms": None}}
    service["after"] = service["before"]
    sites = [{**site, "used_before": None, "used_after": None, "before": 0.0, "after": 0.0, "full": False}
             for site in one["sites"]]
    text = simulate_page.page({**one, "changes": [], "services": [service], "sites": sites, "table": 3})
    assert "no change" in text
    assert "from table 3" in text
    assert simulate.text({**one, "services": [service], "sites": sites, "load": {"units": None, "from": None}})


def test_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """With matplotlib where it is installed; without it the refusal says so."""
    if importlib.util.find_spec("matplotlib") is not None:
        assert simulate_page.png(result()).startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(Failure, match="needs matplotlib"):
        simulate_page.png(result())


def test_a_picture_draws_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a figure that only takes down what is drawn."""
    drawn: list[tuple[str, tuple[Any, ...]]] = []

    class Axis:
        def __getattr__(self, name: str) -> Any:
            return lambda *given, **_: drawn.append((name, given))

    class Axes(list[Any]):
        def __getitem__(self, at: Any) -> Any:
            return [Axis() for _ in range(self.rows)] if isinstance(at, tuple) else super().__getitem__(at)
        rows = 0

    class Figure:
        def __init__(self, **_: Any) -> None:
            pass

        def subplots(self, rows: int, _columns: int, **_: Any) -> Axes:
            axes = Axes()
            axes.rows = rows
            return axes

        def savefig(self, file: Any, **_: Any) -> None:
            file.write(b"picture")

    package = ModuleType("matplotlib")
    figure = SimpleNamespace(Figure=Figure)
    package.figure = figure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib", package)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", figure)  # type: ignore[arg-type]
    assert simulate_page.png(result()) == b"picture"
    assert [name for name, _ in drawn].count("plot") == 2
    assert [given[1] for name, given in drawn if name == "bar"] == [[0.5, 0.5], [0.5, 0.5]]


def test_what_is_shown_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason that somebody else gave, a network's name."""
    evil = "\x1b]0;owned\x07\x9b2J\x7f\r"
    display.show({"reason": evil}, as_json=False, human=lambda found: f"one\ttwo\n{found['reason']}")
    assert capsys.readouterr().out == "one\ttwo\n\ufffd]0;owned\ufffd\ufffd2J\ufffd\ufffd\n"
    display.show({"reason": evil}, as_json=True, human=str)
    told = capsys.readouterr().out
    assert json.loads(told) == {"reason": evil}
    assert not any((ord(one) < 32 and one != "\n") or 0x7F <= ord(one) < 0xA0 for one in told)


def test_a_page_escapes_what_should_be_a_number() -> None:
    told = result(version=EVIL, table=EVIL, clients={"source": EVIL, "number": EVIL, "weight": 4.0})
    assert "<script" not in simulate_page.page(told)
