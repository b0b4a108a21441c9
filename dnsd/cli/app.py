"""The command `dnsd`: which verbs there are, and what shells see of them.

Lives here: the table of verbs, `main`. Does not live here: what a verb does (a module each), the options they share.

Only the verb that was called is imported and built; all of them only for help and for a misspelt one. That, and imports
inside the functions that need them, keeps `dnsd version` at a tenth of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

VERBS = {
    "serve": "daemon:serve", "check": "daemon:check", "reload": "daemon:reload", "drain": "daemon:drain",
    "version": "daemon:version", "status": "survey:status", "events": "survey:events", "explain": "explain:explain",
    "query": "query:query", "apply": "apply:apply", "sites": "fleet:sites", "services": "fleet:services",
    "endpoints": "fleet:endpoints", "leases": "fleet:leases", "overrides": "fleet:overrides", "token": "fleet:tokens",
    "data": "data:app", "cookies": "cookies:app", "drill": "drill:drill", "simulate": "simulate:simulate",
    "agent": "agent:agent", "registry": "registry:app",
}  # verb -> where in dnsd.cli: a command, or an app of commands


def main() -> None:
    """Runs the command line; ends the process with one of `failure.Exit`."""
    called = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    build([called] if called in VERBS else list(VERBS))()


def build(verbs: Sequence[str]) -> typer.Typer:
    """The typer app with these verbs."""
    app = typer.Typer(
        name="dnsd", no_args_is_help=True, pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]}, callback=_about)
    for verb in verbs:
        module, _, attribute = VERBS[verb].partition(":")
        found = getattr(import_module(f"dnsd.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=verb)
        else:
            app.command(verb)(found)
    return app


def _about() -> None:
    """An authoritative DNS server that answers each client with the endpoint that is best for that client."""
