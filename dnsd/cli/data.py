"""`dnsd data`: the atlas, what it was built from and what it says of an address.

Lives here: verbs and the progress bar. Does not live here: building, checking and reading (`dnsd.atlas`).
"""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnsd import model
from dnsd.cli.display import pairs, show
from dnsd.cli.failure import Exit, Failure
from dnsd.cli.options import Session, command

if TYPE_CHECKING:
    from dnsd.atlas.build import BuildReport, Progress

app = typer.Typer(no_args_is_help=True, help="the atlas: what is known of client addresses")


@app.command("build")
@command
def build(
    session: Session,
    if_stale: Annotated[bool, typer.Option("--if-stale", help="only if there is none, or a source changed")] = False,
) -> None:
    """Build the atlas from the data files; a fault in a file leaves the old one."""
    from dnsd.atlas import info

    config = session.config()
    sources, atlas, cidrs = config.data.directory, config.atlas, config.data.cidrs
    if if_stale and info.is_current(atlas, sources, cidrs):
        return
    report = _built(sources, atlas, cidrs)
    show(asdict(report), as_json=session.as_json, human=_built_text)


@app.command("info")
@command
def info(session: Session) -> None:
    """What the atlas was built from, how old it is, how many prefixes it has, and which maps there are."""
    from dnsd.atlas import info, store

    config = session.config()
    try:
        found = info.read(config.atlas, config.maps)
    except store.AtlasError as error:
        raise Failure(Exit.FAILED, str(error)) from error
    show(found, as_json=session.as_json, human=pairs)


@app.command("lookup")
@command
def lookup(
    session: Session, addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="IPv4 or IPv6")],
) -> None:
    """What the atlas says of an address: place, AS number, carrier, provider."""
    from dnsd.atlas import store

    faults, found = [], {}
    try:
        atlas = store.open_atlas(session.config().atlas)
    except store.AtlasError as error:
        raise Failure(Exit.FAILED, str(error)) from error
    for text in addresses:
        try:
            found[text] = asdict(atlas.origin(ipaddress.ip_address(text)))
        except ValueError as error:
            faults.append(model.Fault(text, str(error)))
    if faults:
        raise Failure(Exit.USAGE, "no addresses", faults)
    show(found, as_json=session.as_json, human=pairs)


def _built(sources: Path, atlas: Path, cidrs: Path | None) -> BuildReport:
    """Builds with a bar where a terminal watches; SourceError and CheckError become a `Failure` with all faults."""
    from dnsd.atlas import build, check, prefixes

    try:
        with _Bar() as progress:
            return build.build(sources, atlas, cidrs=cidrs, progress=progress)
    except prefixes.SourceError as error:
        raise Failure(Exit.FAILED, "the data files cannot be used; the old atlas stays", error.faults) from error
    except check.CheckError as error:
        raise Failure(Exit.FAILED, f"the new atlas is wrong, the old one stays: {error}") from error


class _Bar:
    """A progress bar on standard error; one line for each stage where nobody watches."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        if not console.is_terminal:
            self.bar = None
            return lambda stage, share: print(f"{share:4.0%} {stage}", file=sys.stderr)
        self.bar = Progress(TextColumn("{task.description:<40}"), BarColumn(), TimeElapsedColumn(), console=console)
        task = self.bar.add_task("", total=1.0)
        self.bar.start()
        bar = self.bar
        return lambda stage, share: bar.update(task, description=stage, completed=share)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _built_text(report: dict[str, Any]) -> str:
    return (f"{report['atlas']}: {report['size'] / 1e6:.1f} MB, {report['origins']} origins in {report['runs4']} IPv4 "
            f"and {report['runs6']} IPv6 runs, {report['checked']} addresses checked, {report['seconds']} s")
