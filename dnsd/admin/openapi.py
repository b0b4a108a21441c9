"""The OpenAPI 3.1 document, made from the route table and the pydantic models.

Lives here: turning `call.Route` into paths, operations and schemas. Does not live here: any fact about a route.

pydantic's JSON Schema dialect is 2020-12, which is OpenAPI 3.1's own, so models go in unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from dnsd import __version__
from dnsd.admin import bodies
from dnsd.admin.call import Route

_REF: Final = "#/components/schemas/{model}"
_HEADERS: Final = {
    "If-Match": "ETag of the object as it was read; required to replace or delete",
    "If-None-Match": "`*`: only create",
}


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON."""
    inputs = {route.body for route in routes if route.body}
    outputs = {route.answer for route in routes if isinstance(route.answer, type)} | {bodies.ProblemBody}
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in sorted(inputs, key=_name)]
    wanted += [(model, "serialization") for model in sorted(outputs, key=_name)]
    refs, schemas = models_json_schema(wanted, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r":[^}]+}", "}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, refs)
    return to_json({
        "openapi": "3.1.0",
        "info": {"title": "dnsd admin API", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _operation(route: Route, path: str, refs: Any) -> dict[str, Any]:
    text = {"type": "string"}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in re.findall(r"{(\w+)}", path)]
    parameters += [query.schema() for query in route.query]
    if route.conditional:
        parameters += [
            {"name": name, "in": "header", "required": False, "description": meaning, "schema": text}
            for name, meaning in _HEADERS.items() if route.method == "PUT" or name == "If-Match"]
    operation: dict[str, Any] = {
        "operationId": route.operation, "summary": route.summary, "parameters": parameters,
        "responses": _responses(route, refs),
        "security": [{"token": []}] if route.roles else [],
    }
    if route.local:
        operation["security"].append({})
    if route.roles:
        operation["x-roles"] = sorted(route.roles)
    if route.body:
        operation["requestBody"] = {
            "required": True, "content": {"application/json": {"schema": refs[route.body, "validation"]}}}
    return operation


def _responses(route: Route, refs: Any) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if isinstance(route.answer, type):
        good["content"] = {"application/json": {"schema": refs[route.answer, "serialization"]}}
    elif route.answer == "text":
        good["content"] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        good["content"] = {"application/json": {"schema": {"type": "object"}}}
    answers = {str(int(route.status)): good}
    if route.conditional and route.method == "PUT":
        answers["201"] = {**good, "description": HTTPStatus.CREATED.phrase}
    for status in statuses(route):
        answers[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": refs[bodies.ProblemBody, "serialization"]}},
        }
    return answers


def statuses(route: Route) -> list[int]:
    """Every refusal a route may give: its own, and those that follow from what it declares."""
    found = {int(status) for status in route.problems} | {500, 503}
    if route.roles:
        found |= {401, 403}
    if route.query or route.body:
        found.add(422)
    if route.body:
        found |= {400, 408, 413, 415}
    if route.conditional:
        found |= {400}
    return sorted(found)
