"""`reinforge prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import Overrides, RecipeName, Use, checked
from reinforge.cli.output import Result
from reinforge.cli.progress import progress
from reinforge.messages import _, mark


def prepare(
    recipe: RecipeName,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help=mark("A file for what was found (.json, .md, .html), or a folder for the prepared table."),
        ),
    ] = None,
    use: Use = None,
) -> Result:
    """Read and check the recipe's data, and fit the pipeline to it."""
    whole = checked(recipe, overrides, use)
    from reinforge.workflow.prepare import prepare as run

    with progress() as shown:
        found = run(whole, output=output, progress=shown)
    return Result(found.summary(), found.text().rstrip("\n") + (_written(output) if output else ""))


def _written(output: Path) -> str:
    match output.suffix.lower():
        case ".json" | ".md":
            told = _("This is written to {path}.")
        case ".html" | ".htm":
            told = _("The data card is written to {path}.")
        case _:
            told = _("Data card and prepared rows are written to {path}; data.path={path} trains from them.")
    return "\n\n" + told.format(path=output)
