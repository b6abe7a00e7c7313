"""`reinforge sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder
from reinforge.cli.output import Result
from reinforge.messages import _, mark


def sign(
    bundle: BundleFolder,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help=mark("Private key, as `keys` made it."))],
) -> Result:
    """Sign a bundle, so that others can tell that it is yours and unchanged."""
    from reinforge.bundle.signing import sign as run

    signed = run(bundle, key)
    return Result(vars(signed), _("{digest} signed by {key}").format(digest=signed.digest, key=signed.key))
