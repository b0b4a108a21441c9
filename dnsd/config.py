"""A node's settings: read from TOML and from DNSD_ variables, every fault named at once.

Lives here: `load`, where a fault stands, the reference table of docs/config.md. Does not live here: the options with
their defaults and limits (`options`), fleet state (the registry's).

A variable beats the file: `DNSD_TCP__IDLE_SECONDS=5` is `idle_seconds` in `[tcp]`, lists are JSON. A relative path in
the file is relative to the file's folder, one in a variable to the working directory.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from dnsd.model import Fault
from dnsd.option_types import Section
from dnsd.options import PREFIX, Config, KeyOptions, ZoneOptions

OTHER_VARIABLES: Final = frozenset({"DNSD_CONFIG", "DNSD_URL", "DNSD_TOKEN"})
"""Variables of the commands that are no options."""
_KUBERNETES: Final = re.compile(r"DNSD_(SERVICE_(HOST|PORT.*)|PORT(_.*)?)")  # set in pods beside a Service named dnsd


class ConfigError(Exception):
    """The settings cannot be used; `faults` names everything that is wrong, with file and line or variable."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"{fault.place}: {fault.message}" for fault in faults))
        self.faults = faults


def load(path: Path) -> Config:
    """The settings of a TOML file and the environment; ConfigError for anything wrong with either."""
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([Fault(str(path), error.strerror or str(error))]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        line = re.search(r"line (\d+)", str(error))
        raise ConfigError([Fault(f"{path}:{line[1]}" if line else str(path), str(error))]) from error
    faults = _unknown_variables()
    try:
        config = Config(**_based(Config, raw, path.absolute().parent))
    except ValidationError as error:
        faults += [_fault(each, path, _lines(text)) for each in error.errors()]
    except SettingsError as error:
        faults.append(_variable_fault(error))
    if faults:
        raise ConfigError(faults)
    return config


# --- faults and their places ------------------------------------------------------------------------------------------


def _fault(error: Any, path: Path, lines: Mapping[str, int]) -> Fault:
    """A pydantic error as a Fault at the variable or line it comes from."""
    parts: tuple[str | int, ...] = error["loc"]
    dotted = _dotted(parts)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, [name for name, _, _ in options()], 1, 0.6)
        message = "no such option" + (f"; {near[0]}?" if near else "")
    variables = [name for name in os.environ if name.upper() in _variables(parts)]
    if variables and not (error["type"] == "extra_forbidden" and len(parts) == 1):
        return Fault(variables[0], message)
    line = next((lines[key] for key in _prefixes(parts) if key in lines), None)
    return Fault(f"{path}:{line}" if line else str(path), f"{dotted}: {message}" if dotted else message)


def _variable_fault(error: SettingsError) -> Fault:
    """A variable whose JSON does not parse; pydantic-settings names the field only in its text."""
    field = re.search(r'field "(\w+)"', str(error))
    name = PREFIX + field[1].upper() if field else PREFIX
    given = [key for key in os.environ if key.upper().startswith(name)]
    return Fault(given[0] if given else name, f"not JSON: {error.__cause__ or error}")


def _unknown_variables() -> list[Fault]:
    """DNSD_ variables outside all tables that are no option nor known otherwise; pydantic finds those inside."""
    known = {PREFIX + name.upper() for name in Config.model_fields} | OTHER_VARIABLES
    faults = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.split("__")[0] not in known and not _KUBERNETES.fullmatch(name):
            near = difflib.get_close_matches(name, known, 1, 0.6)
            faults.append(Fault(name, "no such option" + (f"; {near[0]}?" if near else "")))
    return faults


def _variables(parts: tuple[str | int, ...]) -> set[str]:
    """The variables a value at that place may come from: its own and those of the tables around it."""
    names = [str(part).upper() for part in parts]
    return {PREFIX + "__".join(names[: i + 1]) for i in range(len(names))}


def _dotted(parts: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _prefixes(parts: tuple[str | int, ...]) -> Iterator[str]:
    """The place itself, then what it lies in, outward."""
    for size in range(len(parts), 0, -1):
        yield _dotted(parts[:size])


def _lines(text: str) -> dict[str, int]:
    """Where keys and tables stand in a TOML file that parses; those in inline tables and quoted keys are left out."""
    found: dict[str, int] = {}
    table, counts = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if many := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            counts[many[1]] = counts.get(many[1], -1) + 1
            table = f"{many[1]}[{counts[many[1]]}]."
            found.setdefault(many[1], number)
            found[table[:-1]] = number
        elif one := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = one[1] + "."
            found[one[1]] = number
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            found.setdefault(table + key[1], number)
    return found


def _based(model: type[BaseModel], raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """The file's values with relative paths put under `base`; what is not of the right shape is left to pydantic."""
    done: dict[str, Any] = {}
    for name, value in raw.items():
        field = model.model_fields.get(name)
        inner = _section(field) if field else None
        if inner and isinstance(value, dict):
            value = _based(inner, value, base)
        elif inner and isinstance(value, list):
            value = [_based(inner, each, base) if isinstance(each, dict) else each for each in value]
        elif field and Path in (field.annotation, *get_args(field.annotation)) and isinstance(value, str) and value:
            value = base / value
        done[name] = value
    return done


# --- the reference ----------------------------------------------------------------------------------------------------


def options(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Every option as (dotted name, field, default as TOML); a list of tables has `[]` behind its name."""
    for name, field in model.model_fields.items():
        inner = _section(field)
        if inner:
            yield from options(inner, f"{prefix}{name}{'[]' if inner in (ZoneOptions, KeyOptions) else ''}.")
        else:
            yield prefix + name, field, _toml(field)


def reference() -> str:
    """The table of docs/config.md."""
    rows = ["| option | default | what it is |", "|---|---|---|"]
    rows += [f"| `{name}` | {default} | {field.description} |" for name, field, default in options()]
    return "\n".join(rows) + "\n"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _toml(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(_quoted(each) for each in value)}]`"
    return f"`{_quoted(str(value)) if isinstance(value, str | Path) else value}`"


def _quoted(text: str) -> str:
    return f'"{text}"'
