"""`dnsd agent`: where client connections end, tells a dnsd how far the clients are.

Lives here: the command line, the loop, what it prints. Does not live here: reading connections, medians, what waits
(`dnsd.agent`).

It reads again only after twenty times what reading took, so a machine with very many connections gives it a twentieth
of a core at most.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dnsd.cli import client
from dnsd.cli.display import table
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

if TYPE_CHECKING:
    from dnsd.agent.outbox import Answer, Outbox

SHARE = 20
LATER = (408, 429)
WINDOW_MS = 300_000  # the kernel's, for the least round trip: net.ipv4.tcp_min_rtt_wlen


@command
def agent(
    session: Session,
    *,
    site: Annotated[str, typer.Option(help="the site these connections end at")],
    port: Annotated[list[int], typer.Option(min=1, max=65535, help="local port; may be repeated")],
    every: Annotated[float, typer.Option(min=1, max=3600, help="seconds between two readings")] = 5.0,
    private: Annotated[bool, typer.Option(
        "--private", help="also clients whose addresses are not on the internet")] = False,
    once: Annotated[bool, typer.Option("--once", help="read and send once")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be sent")] = False,
) -> None:
    """Measure clients by the TCP connections that end here, and tell a dnsd."""
    from dnsd.agent.blocks import gathered

    read, box = _reader(), None if dry_run else _outbox(session.admin(), site)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    tell = _Telling(session.as_json)
    while True:
        began = time.monotonic()
        try:
            samples = gathered(read(port, WINDOW_MS if once else round(every * 1000)), private=private)
        except OSError as error:
            raise Failure(Exit.FAILED, f"connections cannot be read: {error}") from error
        took = time.monotonic() - began
        if box is None:
            _print(site, samples, session.as_json)
        else:
            box.add(samples)
            answers = box.send()
            tell.sent(len(samples), answers, box, always=once)
            if once and answers and answers[-1].problem:
                raise Failure(Exit.FAILED if answers[-1].retry_after_s is not None else Exit.UNREACHABLE,
                              answers[-1].problem)
        if once:
            return
        time.sleep(max(every - (time.monotonic() - began), SHARE * took))


def _reader() -> Callable[..., Any]:
    try:
        from dnsd.agent import connections
    except ImportError as error:
        raise Failure(Exit.PRECONDITION, f"it needs the extra `agent` (pip install dnsd[agent]): {error}") from error
    try:
        told = connections.told_of()
    except OSError as error:
        raise Failure(Exit.FAILED, f"connections cannot be read: {error}") from error
    if not told:
        raise Failure(Exit.PRECONDITION, "this kernel tells nothing of TCP connections: it needs the module tcp_diag")
    return connections.read


def _outbox(admin: client.Admin, site: str) -> Outbox:
    from dnsd.agent.outbox import Answer, Outbox

    def post(batch: list[dict[str, Any]]) -> Answer:
        body = {"site": site, "source": "agent", "samples": batch}
        try:
            reply = admin.ask("POST", "/v1/measurements", body=body)
        except Failure as failure:  # nobody answers, or somebody else does: a proxy while the daemon is away, perhaps
            return Answer(problem=failure.message)
        if reply.status < 300:
            told = reply.body if isinstance(reply.body, dict) else {}
            accepted, dropped = told.get("accepted"), told.get("dropped")
            if isinstance(accepted, int) and isinstance(dropped, dict) and all(
                    isinstance(number, int) for number in dropped.values()):
                return Answer(accepted, dropped)
            return Answer(problem=f"what answers at {admin.url} is no dnsd")
        refused = client.refusal(reply, "POST /v1/measurements")
        if reply.status not in LATER and reply.status < 500:
            raise refused  # another try would end the same way
        return Answer(problem=refused.message, retry_after_s=reply.retry_after_s or 0.0)

    return Outbox(post, time.monotonic, random.random)


class _Telling:
    """What is said while it runs: with JSON each message sent, else only what has changed."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._problem = ""

    def sent(self, blocks: int, answers: list[Answer], box: Outbox, *, always: bool) -> None:
        """After a reading."""
        accepted = sum(one.accepted for one in answers)
        dropped: dict[str, int] = {}
        for one in answers:
            for reason, number in one.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + number
        problem = answers[-1].problem if answers else self._problem
        if self._as_json:
            print(json.dumps({"blocks": blocks, "accepted": accepted, "dropped": dropped, "waiting": box.samples,
                              "forgotten": box.forgotten, "problem": problem or None}), flush=True)
        elif always and not problem:
            reasons = "".join(f", {number} {reason}" for reason, number in dropped.items())
            print(f"{blocks} blocks, {accepted} accepted, {sum(dropped.values())} dropped{reasons}")
        elif not always and problem != self._problem:
            print(f"dnsd agent: {problem or 'measurements are taken again'}", file=sys.stderr, flush=True)
        self._problem = problem


def _print(site: str, samples: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"site": site, "source": "agent", "samples": samples}), flush=True)
    else:
        print(table(((one["client"], one["rtt_ms"], one["spread_ms"], one["count"]) for one in samples),
                    ("clients", "rtt ms", "spread ms", "connections")), flush=True)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)
