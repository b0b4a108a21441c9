"""The atomic scripts: their text, their keys, the order both sides agree on.

Lives here: joining the `lua/*.lua` package files into scripts, key names. Does not live here: running them (`link`),
what they are given and what they answer (`store`, `leases`, `changes`).

Every script gets every key in one fixed order, so that key-pattern ACLs see them all and no script builds a key name.
A script that only frees memory may run when the store is at its memory limit (`allow-oom`); the others are refused
before their first line, not in the middle.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final, NamedTuple

from dnsd.registry.models import Kind

META: Final = "meta"
OWNED: Final = "owned"
DEADLINE: Final = "deadline"
EVENTS: Final = "events"
AUDIT: Final = "audit"
AUDIT_LEASES: Final = "audit-leases"
SERIALS: Final = "serials"
HOLDING: Final = "holding"
RTT_LOG: Final = "rtt-log"
RTT_STATE: Final = "rtt-state"
RTT_DECIDED: Final = "rtt-decided"
RTT_CELLS: Final = "rtt-cells"
USES: Final = "uses"
VOTES: Final = "votes"
SEEN: Final = "seen"
KEYS: Final = (
    META, "names", "index", USES, OWNED, "terms", DEADLINE, "until",
    *(kind.value for kind in Kind),
    EVENTS, "events-sizes", AUDIT, "audit-sizes", AUDIT_LEASES, "audit-leases-sizes", SERIALS,
    "observers", VOTES, SEEN, "seen-sizes", "held", HOLDING,
    RTT_LOG, "rtt-log-sizes", RTT_STATE, RTT_DECIDED, RTT_CELLS,
)
"""Key names after `prefix:`, in the order `lua/keys.lua` takes them."""


class Script(NamedTuple):
    """A script's whole text and the SHA-1 under which the store caches it."""

    name: str
    text: str
    sha: str


def _join(name: str, *parts: str, flags: str = "") -> Script:
    folder = resources.files("dnsd.registry") / "lua"
    bodies = [(folder / f"{part}.lua").read_text("utf-8") for part in ("keys", *parts, name)]
    text = "\n".join([f"#!lua{flags}", *bodies])
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


BEGIN: Final = _join("begin")
WRITE: Final = _join("write", "commit")
ACQUIRE: Final = _join("acquire", "commit", "lease")
RENEW: Final = _join("renew", "commit", "lease", flags=" flags=allow-oom")
RELEASE: Final = _join("release", "commit", "lease", flags=" flags=allow-oom")
TICK: Final = _join("tick", "commit", "lease", "hold", flags=" flags=allow-oom")
DELETE: Final = _join("write", "commit", flags=" flags=allow-oom")
"""WRITE, for deletes only."""
SERIAL: Final = _join("serial")
OBSERVE: Final = _join("observe", "commit", flags=" flags=allow-oom")
TELL: Final = _join("tell", "commit", flags=" flags=allow-oom")
DECIDE: Final = _join("decide", "commit", flags=" flags=allow-oom")
MEASURED: Final = _join("measured", "commit")
SETTLE: Final = _join("settle", "commit")
ADOPT: Final = _join("adopt", "commit")
RESTORE: Final = _join("restore", "commit", "lease")
PAGE: Final = _join("page", flags=" flags=no-writes")
READ: Final = _join("read", flags=" flags=no-writes")
