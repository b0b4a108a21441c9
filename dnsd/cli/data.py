"""`dnsd data`: the atlas, what it was built from and what it says of an address.

Lives here: verbs and the progress bar. Does not live here: building and reading (`dnsd.atlas`).
"""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="the atlas: what is known of client addresses")
