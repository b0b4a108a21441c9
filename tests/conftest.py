"""What all tests share: markers, the rule that nothing skips in CI, deterministic properties, free ports, a real node.

Lives here: fixtures and hooks. Does not live here: starting a daemon and asking it (`tests.node`), any test.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.node import Node, free_port, write_config

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
# Folders whose tests start real processes.
REAL = {Path(__file__).parent / name for name in ("e2e", "neighbours", "oracle")}

# The same examples every time, and no verdict over how busy the machine is.
settings.register_profile("dnsd", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For who wants to know only whether there is an example.
settings.register_profile("once", settings.get_profile("dnsd"), phases=[Phase.explicit, Phase.generate])
# Enough to see that tests pass in a copy of the tree; what they find is found where the tree is tested itself.
settings.register_profile("few", settings.get_profile("once"), max_examples=5)
settings.load_profile("dnsd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL & set(item.path.parents):
            item.add_marker("e2e")
            item.add_marker(pytest.mark.needs("dig"))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))


def pytest_runtest_setup(item: pytest.Item) -> None:
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if shutil.which(program, path=search) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} skips in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    if IN_CI and report.skipped:
        report.outcome, report.longrepr = "failed", f"{collector.nodeid} skips in CI: {report.longrepr}"
    return report


@pytest.fixture
def port() -> int:
    """A port of 127.0.0.1 that is free for UDP and TCP."""
    return free_port()


@pytest.fixture(scope="session")
def atlas_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas that all nodes of the session share: built once from the bundled data, as an operator would."""
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent  # of all processes of this run: the first one builds, the others wait
    atlas = home / "atlas"
    with (home / "atlas.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not atlas.exists():
            Node(write_config(tmp_path_factory.mktemp("build"), atlas)).cli("data", "build")
    return atlas


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory, atlas_home: Path) -> Iterator[Callable[..., Node]]:
    """Starts real nodes: `node(workers=2, zones={...})`, as `write_config` takes them; all are gone after the test.

    Their folders have short names: a unix socket's path has at most 107 octets.
    """
    started: list[Node] = []

    def start(**options: Any) -> Node:
        one = Node(write_config(tmp_path_factory.mktemp("n"), atlas_home, **options))
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        one.stop()
