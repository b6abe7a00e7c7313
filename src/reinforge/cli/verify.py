"""`reinforge verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result
from reinforge.messages import mark


def verify(
    bundle: BundleFolder,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="FILE", help=mark("Public key that it must be signed by; or one of several.")),
    ] = None,
    use: Use = None,
) -> Result:
    """Check a bundle's files, its signature where a key is given, and replay its golden examples."""
    from reinforge.workflow.verify import verify as run

    return Result.of(run(bundle, keys=key or (), use=use or ()))
