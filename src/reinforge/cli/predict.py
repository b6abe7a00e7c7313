"""`reinforge predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.arguments import BundleFolder, Use
from reinforge.cli.output import Result, json_line
from reinforge.cli.progress import progress
from reinforge.messages import _, mark, ngettext


def predict(
    bundle: BundleFolder,
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help=mark("Rows to predict: a file, a folder, or a database URL."))
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help=mark("Write here instead of on the screen."))
    ] = None,
    use: Use = None,
) -> Result:
    """Predict every row of a file."""
    from reinforge.workflow.predict import predict as run

    with progress() as shown:
        found = run(bundle, data, output=output, use=use or (), progress=shown)
    if isinstance(found, list):
        text = "\n".join(json_line(row) for row in found)
    else:
        count = ngettext("{n} row", "{n} rows", len(found)).format(n=len(found))
        text = _("{rows} written to {path}").format(rows=count, path=output)
        if found.found:
            text += "; " + _("{n} of them were there from an interrupted run").format(n=found.found)
        return Result({"rows": len(found), "output": output, "found": found.found}, text)
    return Result({"rows": len(found), "output": output}, text)
