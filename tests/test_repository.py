"""What a stranger relies on: files that must be there, locks that hold what they promise, documents that do not lie.

Lives here: checks of the tree itself. Does not live here: the source's shape (`test_layers`), running the README
(`e2e`).
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client.parser import text_string_to_metric_families

from dnsd import metrics
from dnsd.cli import app
from dnsd.registry import models

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEMO = ROOT / "data" / "demo"


def tracked() -> list[Path]:
    """Every file git knows; in an export without git, every file."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def documents() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text_of(name), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


@pytest.mark.parametrize("name", [
    "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "Dockerfile", "Makefile", "pyproject.toml", ".ci/run",
    "docs/cli.md", "docs/api.md", "docs/registry.md", "data/ATTRIBUTION.md", *LOCKS,
])
def test_it_is_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200 or name == ".ci/run"


def test_the_licence_is_whole() -> None:
    text = text_of("LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_everything_by_hash_and_names_no_address(name: str) -> None:
    text = text_of(name)
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash=sha256:", ""), re.MULTILINE), "an option in a lock file"
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    for entry in entries:
        first, *hashes = entry.replace("\\\n", "\n").split("\n")
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+( ; python_full_version < \"3\.\d+\.\d+\")?\s*", first), first
        assert hashes, f"{first}: no hash"
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", line) for line in hashes if line.strip()), first


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    runtime, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    wanted = [Requirement(text) for text in PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]]
    for requirement in [*wanted, Requirement("pip")]:
        assert requirement.specifier.contains(runtime[canonicalize_name(requirement.name)]), requirement
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"]["dev"]):
        assert requirement.specifier.contains(dev[canonicalize_name(requirement.name)]), requirement
    assert runtime.items() <= dev.items(), "the dev lock holds all of the runtime lock, at the same versions"


def test_every_dependency_is_used() -> None:
    names = {"dnspython": "dns", "pydantic-settings": "pydantic_settings"}
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "dnsd").rglob("*.py"))
    for requirement in map(Requirement, PROJECT["project"]["dependencies"]):
        module = names.get(requirement.name, requirement.name)
        used = re.search(rf"^\s*(import|from) {module}\b|\"{module}\"", source, re.MULTILINE)
        assert used, f"{module} is used nowhere"


def test_no_path_of_one_machine_is_in_the_tree() -> None:
    system = ROOT.parts[1] in ("opt", "srv", "usr", "var")  # paths that documents and the Dockerfile may well name
    words = [rb"/(?:home|Users|root)/\w", *([] if system else [re.escape(f"{ROOT}/".encode())])]
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data[:8192] or len(data) > 1_000_000:
            continue
        found = [word for word in words if re.search(word, data)]
        assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_architecture_is_short() -> None:
    assert text_of("ARCHITECTURE.md").count("\n") <= 150


def test_architecture_has_a_line_for_every_module() -> None:
    text = text_of("ARCHITECTURE.md")
    rooms: dict[str, set[str]] = {}
    for path in (ROOT / "dnsd").rglob("*.py"):
        if not path.name.startswith("__"):
            rooms.setdefault(path.parent.name, set()).add(path.stem)
    missing = [f"{room}/{name}" for room, names in rooms.items() for name in sorted(names)
               if not re.search(rf"\b{name}\b", text)]
    assert not missing, f"ARCHITECTURE.md says nothing of {missing}"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_only_verbs_and_metrics_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for verb in re.findall(r"(?:^\$ |`|bin/)dnsd (?:-[-\w]+ \S+ )?([a-z]+)", text, re.MULTILINE):
        assert verb in app.VERBS, f"dnsd {verb}"
    known = metric_names()
    for name in re.findall(r"\bdnsd_[a-z0-9_]+[a-z0-9]", text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        assert base in known, f"{name}: no such metric"


def metric_names() -> set[str]:
    """Names in string literals of the modules that expose metrics."""
    sources = [Path(metrics.__file__), *(ROOT / "dnsd").rglob("exposition.py")]
    literals = {
        node.value for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {word for text in literals for word in re.findall(r"\bdnsd_[a-z0-9_]+", text)}


def test_readme_names_targets_that_make_has() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    used = set(re.findall(r"^\s*make ([a-z]+)|`make ([a-z]+)`", text_of("README.md"), re.MULTILINE))
    assert {first or second for first, second in used} <= targets
    assert {"run", "test"} <= targets


@pytest.mark.parametrize("path", [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"], ids=str)
def test_scripts_stop_at_the_first_error(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert path.stat().st_mode & 0o111, "not executable"
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_dockerfile() -> None:
    """No engine here to build it: its instructions are read."""
    joined = re.sub(r"\\\n", " ", text_of("Dockerfile"))
    steps = [line.split(None, 1) for line in joined.splitlines() if line and not line.startswith("#")]
    names = [name for name, _ in steps]
    stages = [rest for name, rest in steps if name == "FROM"]
    assert len(stages) == 2
    assert stages[0].endswith(" AS build")
    assert all(re.match(r"python:3\.11-", stage) for stage in stages)
    last = steps[len(names) - names[::-1].index("FROM"):]
    users = [rest for name, rest in last if name == "USER"]
    assert users, "runs as root"
    assert users[-1] not in ("root", "0")
    health = next(rest for name, rest in last if name == "HEALTHCHECK")
    assert re.search(r'CMD \["dnsd", "query",', health), "the health check asks a DNS question"
    order = [name for name, _ in last]
    assert all(a != "USER" or b != "RUN" for a, b in pairwise(order))
    given = text_of(".dockerignore").split()
    for _, rest in (step for step in steps if step[0] == "COPY" and "--from" not in step[1]):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), f"COPY {source}"
            assert f"!{source.partition('/')[0]}" in given, f"COPY {source}: .dockerignore leaves it out"
    assert "--require-hashes -r requirements.lock" in joined


@pytest.mark.parametrize("name", LOCKS)
def test_the_oldest_pythons_find_all_they_need(name: str) -> None:
    """pip-compile looks at the Python it runs by; Debian 12 has 3.11.2, for which redis wants one package more."""
    line = next(line for line in text_of(name).splitlines() if line.startswith("async-timeout=="))
    assert line.endswith('; python_full_version < "3.11.3" \\')


def test_what_tests_need_is_installed_by_the_command_that_runs_them() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    marks = re.findall(r"mark\.needs\(([^)]*)\)", texts)
    needed = {name for mark in marks for name in re.findall(r"\"([\w-]+)\"", mark)}
    given = set(re.findall(r"\[([\w-]+)\]=", text_of("scripts/test-tools")))
    assert {"dig", "unbound"} <= needed <= given, needed - given


def test_demo_fleet_is_valid_and_whole() -> None:
    fleet = tomllib.loads((DEMO / "fleet.toml").read_text(encoding="utf-8"))
    sites = [models.Site.model_validate(one) for one in fleet["sites"]]
    services = [models.Service.model_validate(one) for one in fleet["services"]]
    endpoints = [models.Endpoint.model_validate(one) for one in fleet["endpoints"]]
    assert {one.site for one in endpoints} <= {one.id for one in sites}
    assert {one.service for one in endpoints} == {one.name for one in services}
    api = [one for one in endpoints if one.service == "api.demo.example"]
    assert len({one.site for one in api}) == 10
    free = {one.id for one in sites} - {one.site for one in endpoints}
    assert free == {"aws-ap-southeast-2"}  # README.md registers an instance there
    assert all(one.a and one.aaaa for one in api)
    assert len({one.key for one in endpoints}) == len(endpoints)


def test_demo_positions_are_those_of_the_regions() -> None:
    regions = {tuple(line.split(",")[:2]): line.rstrip().split(",")[-2:] for line in
               text_of("data/providers/cloud_regions.csv").splitlines()}
    fleet = tomllib.loads((DEMO / "fleet.toml").read_text(encoding="utf-8"))
    for site in (one for one in fleet["sites"] if "provider" in one):
        found = regions[site["provider"], site["id"].removeprefix(site["provider"] + "-")]
        assert [float(text) for text in found] == [site["latitude"], site["longitude"]], site["id"]


def test_metrics_are_prometheus_text() -> None:
    """Read by Prometheus' own parser: names, types and labels hold, and every counter of every worker is there."""
    stats = memoryview(bytearray(2 * metrics.REGION))
    metrics.counters(stats, 1)[metrics.RCODE] = 7
    families = list(text_string_to_metric_families("\n".join(metrics.exposition(stats)) + "\n"))
    samples = [sample for family in families for sample in family.samples]
    assert len(samples) == 2 * metrics.SLOTS
    seven = [sample for sample in samples if sample.value == 7]
    assert [(sample.name, sample.labels) for sample in seven] == [
        ("dnsd_answers_total", {"rcode": "NOERROR", "worker": "1"})]
    assert all(family.type in ("counter", "gauge") and family.documentation for family in families)
