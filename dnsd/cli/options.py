"""What every command shares: where the daemon is, whose token, how to print; declared once and added to each.

Lives here: `Session`, the `command` decorator, finding config and token. Does not live here: HTTP (`client`), tables
(`display`).

A command is written as `def sites_list(session: Session, limit: int)`. `command` gives it a signature with --config,
--url, --token and --json in the place of `session`, which is what typer then reads; failures become exit codes there.
"""

from __future__ import annotations

import inspect
import ipaddress
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnsd import disk
from dnsd.cli.client import Admin
from dnsd.cli.failure import Exit, Failure

if TYPE_CHECKING:
    from dnsd.options import Config

DEFAULT_CONFIG = Path("/etc/dnsd/dnsd.toml")
BESIDE = "http://localhost"

_SHARED: dict[str, tuple[Any, Any]] = {
    "config": (
        Annotated[Path, typer.Option("--config", "-c", envvar="DNSD_CONFIG", help="the node's settings")],
        DEFAULT_CONFIG),
    "url": (
        Annotated[str, typer.Option(envvar="DNSD_URL", help="admin API; else the settings' own address")],
        ""),
    "token": (
        Annotated[str, typer.Option(envvar="DNSD_TOKEN", help="bearer token; else what STATE/admin.token holds")],
        ""),
    "as_json": (
        Annotated[bool, typer.Option("--json", help="print JSON")],
        False),
    "socket": (
        Annotated[Path | None, typer.Option(
            envvar="DNSD_SOCKET", help="the daemon's own socket, which needs no token; else STATE/control.sock")],
        None),
}


@dataclass(frozen=True, slots=True)
class Session:
    """What was said on the command line beside the command's own arguments."""

    config_path: Path
    url: str
    token: str
    as_json: bool
    socket: Path | None = None

    def config(self) -> Config:
        """The node's settings; a `Failure` with all faults when they are no good."""
        from dnsd import config

        try:
            return config.load(self.config_path)
        except config.ConfigError as error:
            raise Failure(Exit.CONFIG_INVALID, f"{self.config_path} is not usable", error.faults) from error

    def admin(self) -> Admin:
        """The daemon to talk to: --socket, or --url and --token, and for what is missing the settings and the state
        directory, whose socket is preferred by those who may use it."""
        if self.socket is not None:
            return Admin(BESIDE, self.token or None, socket=self.socket)
        if self.url and self.token:
            return Admin(self.url.rstrip("/"), self.token)
        if self.url and not self.config_path.exists():
            return Admin(self.url.rstrip("/"))
        config = self.config()
        beside = config.state / disk.CONTROL
        if not (self.url or self.token) and os.access(beside, os.R_OK | os.W_OK):
            return Admin(BESIDE, socket=beside)
        return Admin((self.url or _own_url(config)).rstrip("/"), self.token or _stored_token(config.state))


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Makes a command of a function that takes a `Session` first; a `Failure` ends the process with its exit code."""

    def run(*args: Any, **given: Any) -> None:
        session = Session(
            given.pop("config"), given.pop("url"), given.pop("token"), given.pop("as_json"), given.pop("socket"))
        try:
            function(session, *args, **given)
        except Failure as failure:
            failure.show(as_json=session.as_json)
            raise typer.Exit(failure.code) from failure

    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    own = [parameter.replace(annotation=hints[name]) for name, parameter in list(signature.parameters.items())[1:]]
    shared = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
              for name, (kind, default) in _SHARED.items()]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in own + shared}
    run.__signature__ = signature.replace(parameters=own + shared)  # type: ignore[attr-defined]
    return run


def _own_url(config: Config) -> str:
    """Where the daemon of these settings listens: on loopback in the clear if it does, else by TLS."""
    from dnsd.option_types import address

    for text in config.admin.listen:
        if ipaddress.ip_address(address(text)[0]).is_loopback:
            return f"http://{text}"
    return f"https://{config.admin.listen[0]}"


def _stored_token(state: Path) -> str | None:
    """The first admin token, which the daemon left for those who may read its state directory."""
    try:
        text = disk.read(state / disk.TOKEN)
    except OSError:
        return None
    return (text or b"").decode("ascii", "replace").strip() or None
