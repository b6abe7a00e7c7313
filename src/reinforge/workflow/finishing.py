"""The end of every training: the model is measured, written as a bundle, and reported."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.network import take_apart
from reinforge.bundle.task import Task as Readings
from reinforge.bundle.writing import write_bundle
from reinforge.errors import ReinforgeError
from reinforge.messages import _
from reinforge.models.adapters import adapter_state, merge
from reinforge.models.classic.classic import Classic
from reinforge.recipe.recipe import Recipe
from reinforge.storage.files import replacing
from reinforge.workflow.machine import peak_memory
from reinforge.workflow.measured import CLIP, write_answers, write_card, write_explanation, write_measured
from reinforge.workflow.run import Run
from reinforge.workflow.tasks.task import Task


def finish(
    run: Run, recipe: Recipe, task: Task, learner: nn.Module, *, clock: Mapping[str, Any], device: torch.device,
    began: float, notes: Sequence[str] = (), parent: Bundle | None = None,
) -> None:  # fmt: skip
    """Measure the learner's model, write its bundle unless it is there, and the run's status. `began`: when, in seconds
    since 1970. Adapters are merged in between, and kept beside. The report is drawn by `report`, once nothing more
    changes."""
    model = learner.get_submodule("model")
    tested = task.test(learner)
    metrics = _json_numbers(tested.metrics)
    write_measured(run.folder, metrics, tested.findings)
    if tested.explanation is not None:
        write_explanation(run.folder, tested.explanation)
    if tested.answers is not None:
        write_answers(run.folder, tested.answers)
    if task.card is not None:
        write_card(run.folder, task.card())
    training: Mapping[str, Tensor] | None = None
    if recipe.start.adapter is not None:
        training = adapter_state(model)
        merge(model)
    if not run.bundle_path.exists():
        write_bundle(
            run.bundle_path, model=model.to("cpu"), options=task.model_options, signature=task.signature,
            form=task.form, examples=task.examples, task=Readings(outputs=dict(tested.readings)),
            reference=task.reference, training=training,
            parents=[parent.digest] if parent else [], modules=task.modules,
            provenance={
                "name": recipe.name, "recipe": recipe.model_dump(mode="json", exclude={"stages"}),
                "data": task.digest, "seed": recipe.seed, "metrics": metrics, "clock": dict(clock),
                "machine": machine(device),
                **({"explanation": tested.explanation.model_dump(mode="json")} if tested.explanation else {}),
            },
        )  # fmt: skip
    filmed = _film(run, task, model)
    run.write_status(
        state="finished", metrics=metrics, notes=[*task.notes, *notes, *tested.notes, *filmed],
        wall_seconds=time.time() - began, parameters=_parameters(model), peak_memory_bytes=peak_memory(),
    )  # fmt: skip


def _film(run: Run, task: Task, model: nn.Module) -> list[str]:
    """Write clip.webp, where the task has something to see; says so where that fails."""
    if task.film is None:
        return []
    try:
        clip = task.film(model)
        if clip is not None:
            with replacing(run.folder / CLIP) as file:
                file.write(clip)
    except ReinforgeError as error:
        return [_("no clip: {reason}").format(reason=error.problem)]
    return []


def machine(device: torch.device) -> dict[str, Any]:
    """What a run says of where it ran."""
    return {
        "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "processor": platform.machine(), "system": platform.system(),
    }  # fmt: skip


def _parameters(model: nn.Module) -> int:
    """How many numbers were learned; of a model that was fitted at once, all its tensors."""
    if isinstance(model, Classic):
        return sum(tensor.numel() for tensor in take_apart(model)[0].values())
    return sum(p.numel() for p in model.parameters())


def _json_numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a metric that isn't a number is null."""
    return {name: value if value - value == 0 else None for name, value in metrics.items()}
