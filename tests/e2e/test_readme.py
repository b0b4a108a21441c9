"""README.md as a stranger types it: every command of its console blocks, against a node of this test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.node import DATA, ROOT, Node, until

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """Commands with the output that stands below them (empty: not said)."""
    found = []
    for block in BLOCKS:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def here(command: str, node: Node) -> str:
    """The command with this node's ports, token and settings in the place of the demo's."""
    for word, other in (
        ("-p 5300", f"-p {node.port}"), ("http://127.0.0.1:8053", node.admin), ("state/", f"{node.state}/"),
        (".venv/bin/dnsd", f"{sys.executable} -m dnsd"), ("-c data/demo/dnsd.toml", f"-c {node.config}"),
    ):
        command = command.replace(word, other)
    return command


@pytest.mark.needs("dig", "curl")
def test_readme_as_written(node: Callable[..., Node]) -> None:
    demo = node(zones={"demo.example": f"$INCLUDE {DATA / 'demo' / 'demo.example.zone'}\n"})
    demo.apply()
    until(lambda: demo.dig("+short", "api.demo.example", "+subnet=141.20.0.0/16") == "198.51.100.41\n", 30, "a map")
    assert len(steps()) >= 6
    for command, output in steps():
        done = subprocess.run(["bash", "-c", here(command, demo)], cwd=ROOT, capture_output=True, text=True, timeout=60,
                              check=False, env=os.environ | demo.env)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{demo.tail()}"
        if output and done.stdout != output:
            # What was just registered is answered a moment later: a reader types slower than this test does.
            again = ["bash", "-c", here(command, demo)]
            until(lambda again=again, output=output: subprocess.run(  # type: ignore[misc]
                again, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
                env=os.environ | demo.env).stdout == output, 1, f"{command}: {done.stdout!r} instead of {output!r}")
    assert "sydney at aws-ap-southeast-2" in done.stdout, "explain says what was chosen"
