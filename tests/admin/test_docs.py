"""docs/api.md typed as it is written: every command, in order, against the API over an in-memory registry."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dnsd.admin import app
from tests.admin.conftest import Api, bearer

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def commands() -> list[str]:
    """The page's curl commands."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("curl ")]


def request(command: str) -> tuple[str, str, Any, dict[str, str]]:
    """Method, path, body and headers of a curl command."""
    words = iter(shlex.split(command)[1:])
    method, path, body, headers = "", "", None, {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name.replace("-", "_")] = value
        elif word == "--json":
            body = json.loads(next(words))
        elif word.startswith("/"):
            path = word
        else:
            assert word == "-s", word
    return method or ("GET" if body is None else "POST"), path, body, headers


@pytest.mark.asyncio
async def test_every_command_works_as_typed(api: Api) -> None:
    fence = 0
    for command in commands():
        text = command.replace("$API", "").replace("$AUTH", f"Authorization: Bearer {bearer('root')}")
        method, path, body, headers = request(text.replace("$FENCE", str(fence)))
        reply = await api.call(method, path, "", body, **headers)
        assert reply.status in (200, 201, 202, 204), f"{command}\n{reply.status} {reply.body}"
        fence = reply.body["fence"] if isinstance(reply.body, dict) and "holder" in reply.body else fence


def test_every_route_has_a_command() -> None:
    typed = []
    for command in commands():
        method, path, *_ = request(command.replace("$API", "").replace("$FENCE", "1"))
        typed.append((method, path.partition("?")[0]))
    for route in app.ROUTES:
        pattern = re.sub(r"{\w+:(.*?)}", r"\1", route.path)
        pattern = re.sub(r"{\w+}", "[^/]+", pattern)
        assert any(method == route.method and re.fullmatch(pattern, path) for method, path in typed), route.operation


def test_the_problem_that_is_shown_is_one() -> None:
    from dnsd.admin import bodies

    shown = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert bodies.ProblemBody.model_validate_json(shown[0]).faults
    assert bodies.Granted.model_validate_json(shown[1]).endpoints
