"""Training without an engine: a model that is fitted at once."""

from __future__ import annotations

import time

import torch

from reinforge.engine.logbook import Logbook
from reinforge.messages import _
from reinforge.recipe.recipe import Recipe
from reinforge.storage.files import require_space
from reinforge.workflow.finishing import finish, machine
from reinforge.workflow.progress import Progress
from reinforge.workflow.report import report
from reinforge.workflow.run import Run
from reinforge.workflow.tasks.task import Fit, Task


def fit_once(run: Run, recipe: Recipe, task: Task, fit: Fit, progress: Progress, began: float) -> None:
    """Fit the task's model and finish its run, whose folder is then like any other's, but without checkpoints: a run
    that was interrupted begins anew. In the log a round of boosting is an update."""
    device = torch.device("cpu")
    run.write_status(state="running", notes=list(task.notes), data=task.digest, machine=machine(device))
    logbook = Logbook(run.folder, recipe.log)
    logbook.clear()
    progress.update(0.0, None, _("fitting"))
    started = time.perf_counter()
    fitted = fit()
    seconds = time.perf_counter() - started
    alone = len(task.signature.outputs) == 1
    for index in range(fitted.rounds):
        losses = {
            "evaluation/loss" if alone else f"evaluation/{name}/loss": curve[index]
            for name, curve in fitted.losses.items()
            if index < len(curve)
        }
        if losses or index == fitted.rounds - 1:
            share = (index + 1) / fitted.rounds
            logbook.write({"updates": index + 1, "samples": fitted.rows, "seconds": seconds * share, **losses})
    logbook.close()
    require_space(run.folder, 2 * sum(tensor.nbytes for tensor in task.model.state_dict().values()) + (16 << 20))
    clock = {"updates": fitted.rounds, "samples": fitted.rows, "epochs": 1.0, "seconds": seconds}
    run.write_status(clock=clock, reason="fitted")
    finish(
        run, recipe, task, task.objective.build(task.model), clock=clock, device=device, began=began,
        notes=fitted.notes,
    )  # fmt: skip
    report(run)
