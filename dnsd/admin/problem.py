"""Every refusal as one shape: RFC 9457 problem+json with all faults, each at its JSON pointer.

Lives here: `Problem`, what becomes of a pydantic error, a registry error, an aiohttp error, a bug; reading a body
into a model. Does not live here: deciding that something is wrong.

pydantic's `loc` is not a pointer: it names union branches and validators too. A pointer keeps only the steps that exist
in what the client sent, plus the last one (a missing key has to be named).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from dnsd.model import Fault
from dnsd.registry.errors import RegistryError

BODY_MAX: Final = 1 << 20
FAULTS_MAX: Final = 1000
LONGEST: Final = 10_000
"""Items of any list and keys of any object. A longer one is refused before its items are looked at: a megabyte of empty
objects has a third of a million faults, and naming them would hold up everything else for 13 s."""

RETRY_AFTER: Final = "2"  # seconds; the registry client tries again at about this pace
CONTENT_TYPE: Final = "application/problem+json"

M = TypeVar("M", bound=BaseModel)


class Problem(Exception):
    """An answer that is not the one asked for. `slug` is the stable last part of the problem's type URN."""

    def __init__(
        self, status: int, slug: str, detail: str = "", *,
        faults: Iterable[Fault] = (), headers: Mapping[str, str] | None = None, title: str = "",
    ) -> None:
        super().__init__(detail or slug)
        self.status = status
        self.slug = slug
        self.title = title or slug.replace("-", " ")
        self.detail = detail
        self.faults = list(faults)
        self.headers = dict(headers or {})
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers.setdefault("Retry-After", RETRY_AFTER)

    def response(self, request_id: str) -> web.Response:
        """The problem as an HTTP response."""
        members: dict[str, Any] = {"type": f"urn:dnsd:problem:{self.slug}", "title": self.title, "status": self.status}
        members["request_id"] = request_id
        if self.detail:
            members["detail"] = self.detail
        if self.faults:
            members["faults"] = [{"pointer": place, "message": text} for place, text in self.faults[:FAULTS_MAX]]
        return web.Response(body=to_json(members), status=self.status, content_type=CONTENT_TYPE, headers=self.headers)


def of_registry(error: RegistryError) -> Problem:
    """The registry's refusals carry their status; their faults keep their places."""
    slug = "-".join(error.title.lower().split())
    return Problem(error.status, slug, str(error), faults=error.faults, title=error.title)


def of_http(error: web.HTTPException) -> Problem:
    """What aiohttp itself refuses: no such path, method, too large. Keeps `Allow`."""
    phrase = HTTPStatus(error.status).phrase
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    detail = f"a body has at most {BODY_MAX} octets" if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else ""
    return Problem(error.status, phrase.lower().replace(" ", "-"), detail, headers=headers, title=phrase)


def of_validation(error: ValidationError, sent: Any, prefix: str = "") -> Problem:
    """Every fault of a body; `sent` is the body as parsed, `prefix` the pointer of the part that was validated."""
    faults: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False, include_context=True, include_input=False):
        place, value = _located(detail, sent)
        if isinstance(value, dict) and detail["type"] == "literal_error":
            continue  # an object is no word: what is wrong with the object is said beside
        if detail["type"] == "too_short" and isinstance(value, list) and len(value) >= detail["ctx"]["min_length"]:
            continue  # only without the items that are wrong, which are named
        messages = faults.setdefault(prefix + place, [])
        if len(faults) > FAULTS_MAX:
            break  # no more than these are told
        text = message(detail)
        if text not in messages:
            messages.append(text)
    return invalid(Fault(place, "; or: ".join(messages)) for place, messages in faults.items())


def invalid(faults: Iterable[Fault]) -> Problem:
    """422: understood, and wrong."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "the request is well formed but wrong", faults=faults)


def _located(detail: ErrorDetails, sent: Any) -> tuple[str, Any]:
    """RFC 6901 pointer for a pydantic location, and what was sent there."""
    steps: list[str] = []
    here, last = sent, len(detail["loc"]) - 1
    for at, step in enumerate(detail["loc"]):
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and isinstance(step, int):
            here = here[step] if step < len(here) else None
        elif at < last or detail["type"] != "missing":
            continue
        steps.append(_step(step))
    return "".join("/" + step for step in steps), here


def _step(step: str | int) -> str:
    """One step of a pointer."""
    return str(step).replace("~", "~0").replace("/", "~1")


def message(detail: ErrorDetails) -> str:
    """pydantic's text without its ceremony."""
    if detail["type"] == "extra_forbidden":
        return "unknown key"
    if detail["type"] == "missing":
        return "required"
    if detail["type"] in ("too_short", "too_long"):
        return detail["msg"].partition(" ")[2].replace(" after validation", "")  # "Tuple ", "List "
    return detail["msg"].removeprefix("Value error, ").removeprefix("Input ")


def parse_json(body: bytes) -> Any:
    """A body as Python values; 400 with line and column. Nesting is limited to 200 by the parser."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise malformed(str(error)) from None


def malformed(text: str) -> Problem:
    """400: not JSON; `text` ends in `at line L column C`."""
    return Problem(HTTPStatus.BAD_REQUEST, "malformed", "the body is not JSON: " + text, faults=[Fault("", text)])


def parse(model: type[M], body: bytes, filled: Mapping[str, str] | None = None) -> M:
    """A body as a model; `filled` are fields the path already says: they may be left out, or must agree."""
    if filled:
        sent = parse_json(body)
        if isinstance(sent, dict):
            sent = {**filled, **sent}
            body = to_json(sent)
    if len(body) > 2 * LONGEST and (faults := list(_too_long(parse_json(body)))):
        raise invalid(faults)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0] if error.error_count() == 1 else None
        if first is not None and first["type"] == "json_invalid":
            raise malformed(first["ctx"]["error"]) from None
        raise of_validation(error, parse_json(body)) from None


def _too_long(sent: Any) -> Iterator[Fault]:
    """Lists and objects that no model takes."""
    left = [("", sent)]
    while left:
        place, value = left.pop()
        if not isinstance(value, (list, dict)):
            continue
        if len(value) > LONGEST:
            yield Fault(place, f"should have at most {LONGEST} items, not {len(value)}")
            continue
        left += ((f"{place}/{_step(key)}", one) for key, one in (
            value.items() if isinstance(value, dict) else enumerate(value)) if isinstance(one, (list, dict)))
