"""`reinforge keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.output import Result
from reinforge.messages import _, mark


def keys(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=mark("The private key; FILE.pub is the public one."))],
) -> Result:
    """Make a pair of keys: one to sign bundles with, one to check signatures."""
    from reinforge.bundle.signing import make_keys

    made = make_keys(file)
    told = _("{private} signs: keep it to yourself. {public} checks: give it to whoever uses your bundles. Key {key}")
    return Result(vars(made), told.format(private=made.private, public=made.public, key=made.key))
