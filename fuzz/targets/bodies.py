"""Bodies of the API and values of the store: any octets are a model, or refused as a problem with its faults.

The first octet chooses the model.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel

from dnsd.admin import bodies, problem
from dnsd.registry import models, reading
from dnsd.registry.models import MODELS
from fuzz.run import ROOT

MODELS_OF_BODIES: Final[list[type[BaseModel]]] = [
    bodies.Fleet, bodies.TokenSpec, bodies.Renew, bodies.RenewBatch, models.Site, models.Service, models.Endpoint,
    models.Override, models.LeaseRequest,
]
KINDS: Final = list(MODELS)
_SAMPLES: Final[list[dict[str, Any]]] = [
    {"id": "t", "role": "agent", "services": ["*.example.com"], "addresses": ["192.0.2.0/24"], "expires_ms": 1},
    {"fence": 1, "loads": {"api.example.com/e1": 0.5}},
    {"renewals": [{"id": "holder", "fence": 1, "loads": {}}]},
    {"name": "api.example.com", "ttl": 8, "policy": {"preset": "nearest"}, "fallback": ["203.0.113.1", "2001:db8::1"]},
    {"holder": "h", "ttl": 5, "endpoints": [{"service": "api.example.com", "id": "e", "site": "s", "a": "192.0.2.1"}]},
    {"id": "o", "target": "api.example.com", "state": "down", "expires_ms": 1, "reason": "x"},
]


def seeds() -> Iterator[bytes]:
    """The demo's fleet, each of its objects, and a sample of every other body, under every model."""
    fleet = tomllib.loads((ROOT / "data" / "demo" / "fleet.toml").read_text(encoding="utf-8"))
    samples = [fleet, *_SAMPLES, *(one for kind in fleet.values() if isinstance(kind, list) for one in kind[:2])]
    for number in range(len(MODELS_OF_BODIES) + len(KINDS)):
        for sample in samples:
            yield bytes([number]) + json.dumps(sample).encode()


def check(data: bytes) -> None:
    """A body parses or is a 400 or 422 with faults; a stored value is read or is Corrupt."""
    if not data:
        return
    number, text = data[0] % (len(MODELS_OF_BODIES) + len(KINDS)), data[1:]
    if number >= len(MODELS_OF_BODIES):
        kind = KINDS[number - len(MODELS_OF_BODIES)]
        try:
            reading.stored(kind, "key", b"1 " + text, b"5")
        except reading.Corrupt as refused:
            assert len(str(refused)) <= 2 * reading.MESSAGE
        return
    model = MODELS_OF_BODIES[number]
    try:
        value = problem.parse(model, text)
    except problem.Problem as refused:
        assert refused.status in (400, 422)
        assert refused.faults
        assert refused.response("r").body
        return
    again = problem.parse(model, value.model_dump_json().encode())
    assert again == value, "what is stored reads back as what was sent"
