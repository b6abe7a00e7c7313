"""`report`: a run's folder as one page."""

from __future__ import annotations

import shlex
from pathlib import Path

from reinforge import __version__
from reinforge.evaluation.report import Page, render
from reinforge.messages import _
from reinforge.recipe import dump
from reinforge.storage.files import write_atomic
from reinforge.workflow.measured import FINDINGS, read_card, read_explanation, read_findings
from reinforge.workflow.run import Run

NAME = "report.html"


def report(run: Run | str | Path) -> Path:
    """Write `report.html` into the run's folder and return its path.

    A run that is still going, or was interrupted, is reported as far as it is. Raises StorageError where there is none.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    path = opened.folder / NAME
    write_atomic(path, render(_page(opened)))
    return path


def _page(run: Run) -> Page:
    recipe = run.recipe
    stages = tuple(_page(child) for child in run.stages)
    return Page(
        recipe, dump(recipe), run.status, tuple(run.log()), stages, __version__, read_findings(run.folder),
        read_card(run.folder), read_explanation(run.folder), _use(run),
    )  # fmt: skip


def _use(run: Run) -> list[tuple[str, str]]:
    """Commands that use the run's bundle."""
    if not run.bundle_path.is_dir():
        return []
    bundle = shlex.quote(str(run.bundle_path))
    fitted = run.status.get("reason") == "fitted"
    told = []
    if (run.folder / FINDINGS).is_file() and not run.status.get("in_memory"):
        recipe = shlex.quote(str(run.folder / "recipe.yaml"))
        told.append((_("look at the data, column by column"), f"reinforge prepare {recipe} -o data-card.html"))
    return [
        *told,
        (_("predict the rows of a file"), f"reinforge predict {bundle} --data FILE"),
        (_("measure it on labelled data of your own"), f"reinforge evaluate {bundle} --data FILE"),
        (_("answer over HTTP"), f"reinforge serve {bundle}"),
        *([] if fitted else [(_("go on learning from it"), f"reinforge train RECIPE --from {bundle}")]),
        (_("in Python"), f"reinforge.load({str(run.bundle_path)!r}).predict([...])"),
    ]
