"""`report`: a run's folder as one page."""

from __future__ import annotations

import shlex
from pathlib import Path

from reinforge import __version__
from reinforge.environments.options import EnvironmentOptions
from reinforge.evaluation.report import Page, render
from reinforge.messages import _
from reinforge.recipe import dump
from reinforge.storage.files import write_atomic
from reinforge.workflow.measured import CLIP, FINDINGS, read_answers, read_card, read_explanation, read_findings
from reinforge.workflow.run import Run

NAME = "report.html"
# Of a clip inside a page.
_MOST_BYTES = 4 << 20


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
        _clip(run), read_answers(run.folder),
    )  # fmt: skip


def _clip(run: Run) -> bytes | None:
    path = run.folder / CLIP
    return path.read_bytes() if path.is_file() and path.stat().st_size <= _MOST_BYTES else None


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
        *(_of_policy(bundle) if isinstance(run.recipe.data, EnvironmentOptions) else _of_data(bundle)),
        (_("answer over HTTP"), f"reinforge serve {bundle}"),
        *([] if fitted else [(_("go on learning from it"), f"reinforge train RECIPE --from {bundle}")]),
        (_("in Python"), f"reinforge.load({str(run.bundle_path)!r}).predict([...])"),
    ]


def _of_data(bundle: str) -> list[tuple[str, str]]:
    return [
        (_("predict the rows of a file"), f"reinforge predict {bundle} --data FILE"),
        (_("measure it on labelled data of your own"), f"reinforge evaluate {bundle} --data FILE"),
    ]


def _of_policy(bundle: str) -> list[tuple[str, str]]:
    return [
        (_("watch it play"), f"reinforge play {bundle}"),
        (_("record a clip"), f"reinforge play {bundle} --record clip.gif"),
        (_("measure it in fresh episodes"), f"reinforge evaluate {bundle} --episodes 100"),
    ]
