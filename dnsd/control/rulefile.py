"""The file `rules.json`: what services' rules have made of their values, for the process after this one.

Lives here: its octets, and reading them back. Does not live here: rules (`control.rules`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from dnsd import disk
from dnsd.registry.checks import Rule
from dnsd.steer.rule import Series

FILE: Final = "rules.json"
LARGEST: Final = 1 << 28


class Kept(NamedTuple):
    """One service's rule as it was asked, and its metrics by endpoint id (or `watch.promql.WHOLE`)."""

    service: str
    rule: Rule
    series: Mapping[str, Series]


def octets(at_ms: int, rules: Iterable[Kept]) -> bytes:
    """The file's content."""
    return json.dumps({"at_ms": at_ms, "fields": Series._fields, "rules": [
        [one.service, one.rule.model_dump(mode="json"), one.series] for one in rules]}, separators=(",", ":")).encode()


def read(path: Path) -> tuple[int, list[Kept]]:
    """When it was written, and what; (0, []) where there is none. ValueError: unreadable; OSError."""
    data = disk.read(path, LARGEST)
    if data is None:
        return 0, []
    try:
        found = json.loads(data)
        fields = [str(name) for name in found["fields"]]
        return int(found["at_ms"]), [
            Kept(str(service), Rule.model_validate(declared), {
                str(id_): _series(dict(zip(fields, values, strict=True))) for id_, values in some.items()})
            for service, declared, some in found["rules"]]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error


def _series(values: Mapping[str, Any]) -> Series:
    """A metric as it was written down, perhaps by another version."""
    return Series(**{name: type(default)(values.get(name, default))
                     for name, default in Series._field_defaults.items()})
