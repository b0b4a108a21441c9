"""`dnsd data`: the atlas, what it was built from and what it says of an address.

Lives here: verbs, the progress bar, whether the atlas is still that of its sources. Does not live here: building,
checking and reading (`dnsd.atlas`).
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnsd import model
from dnsd.cli.display import pairs, show, table
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
    config = session.config()
    if if_stale and _is_current(config.atlas, config.data.directory, config.data.cidrs):
        return
    report = _built(config.data.directory, config.atlas, config.data.cidrs)
    show(asdict(report), as_json=session.as_json, human=_built_text)


@app.command("info")
@command
def info(session: Session) -> None:
    """What the atlas was built from, how old it is, how many prefixes it has, and which maps there are."""
    from dnsd.atlas import info

    config = session.config()
    with _atlas_faults():
        show(info.info(config.atlas, config.maps), as_json=session.as_json, human=_info_text)


@app.command("lookup")
@command
def lookup(
    session: Session, addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="IPv4 or IPv6")],
) -> None:
    """What the atlas says of addresses: place, network, carrier, provider; and what the source files say."""
    from dnsd.atlas import info

    config, faults, parsed = session.config(), [], []
    for text in addresses:
        try:
            parsed.append(ipaddress.ip_address(text))
        except ValueError as error:
            faults.append(model.Fault(text, str(error)))
    if faults:
        raise Failure(Exit.USAGE, "not addresses", faults)
    with _atlas_faults():
        found = [info.lookup(config.atlas, address) for address in parsed]
    show(found, as_json=session.as_json, human=lambda all_: "\n\n".join(pairs(one) for one in all_))


def _is_current(atlas: Path, directory: Path, cidrs: Path | None) -> bool:
    """Whether there is a sound atlas made from just these files with just this content."""
    from dnsd.atlas import store

    try:
        about = store.open_atlas(atlas).about
        files = [(directory / source["path"], source["sha256"]) for source in about["sources"]]
        made_of = about["directory"], about["cidrs"]
        same = made_of == (str(directory.resolve()), str(cidrs.resolve()) if cidrs else None)
        return same and all(sha256(path.read_bytes()).hexdigest() == digest for path, digest in files)
    except (store.AtlasError, OSError):
        return False


def _built(directory: Path, atlas: Path, cidrs: Path | None) -> BuildReport:
    """Builds with a bar where a terminal watches; faults in sources become a `Failure` that names them all."""
    from dnsd.atlas import build, check, prefixes

    try:
        with _progress() as progress:
            return build.build(directory, atlas, cidrs=cidrs, progress=progress)
    except prefixes.SourceError as error:
        raise Failure(Exit.FAILED, "the data files cannot be used; the old atlas stays", error.faults) from error
    except check.CheckError as error:
        raise Failure(Exit.FAILED, f"the new atlas is wrong, the old one stays: {error}") from error


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error; where nobody watches, a line for each stage."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage, share: print(f"{share:4.0%} {stage}", file=sys.stderr)
        return
    stage_text, percent = TextColumn("{task.description:<34}"), TextColumn("{task.percentage:>3.0f} %")
    with Progress(stage_text, BarColumn(), percent, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda stage, share: bar.update(task, description=stage, completed=share)


@contextmanager
def _atlas_faults() -> Iterator[None]:
    from dnsd.atlas import store

    try:
        yield
    except store.AtlasError as error:
        raise Failure(Exit.FAILED, str(error)) from error


def _built_text(report: dict[str, Any]) -> str:
    return (f"{report['atlas']}: {report['size'] / 1e6:.1f} MB, {report['origins']} origins in {report['runs4']} IPv4 "
            f"and {report['runs6']} IPv6 runs, {report['checked']} addresses checked, {report['seconds']} s")


def _info_text(found: dict[str, Any]) -> str:
    sources = table(([one["path"], one["date"], one["networks4"], one["networks6"], one["licence"]]
                     for one in found["sources"]), ("source", "date", "IPv4", "IPv6", "licence"))
    head = ("file", "sites", "rows", "blocks4", "blocks6", "size", "made", "current")
    maps = table(([one.get(name) for name in head] for one in found["maps"]), head)
    return "\n\n".join([pairs(found["atlas"]), sources, maps, "\n".join(found["credits"])])
