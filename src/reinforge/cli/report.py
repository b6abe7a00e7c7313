"""`reinforge report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reinforge.cli.output import Result
from reinforge.messages import mark


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help=mark("A run's folder."))],
) -> Result:
    """Write a run's report.html from its log."""
    from reinforge.workflow.report import report as write

    return Result({"report": write(run)})
