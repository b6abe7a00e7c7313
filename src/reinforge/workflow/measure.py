"""What a task costs, measured on a few of its own updates: time, and memory by what it is for."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.core import seeds
from reinforge.core.contracts import Clock
from reinforge.engine.logbook import Logbook
from reinforge.engine.loop import Engine
from reinforge.recipe.recipe import Recipe
from reinforge.recipe.sections import Log
from reinforge.workflow.tasks.task import Task

# Rows of the log between which the rate is taken: the first updates warm caches up.
_ROWS_WANTED = 3
_LOG_EVERY = 10


@dataclass(frozen=True)
class Cost:
    """Of one task on this machine. Memory in bytes; times in seconds.

    `parameters`: of the deployed model; `learning`: of everything beside it (critics, targets, ...). `activations`: what
    one update keeps for its backward pass, at its peak, not compiled. `data`: tensors and arrays of the source; a replay
    buffer counts in full. `checkpoint`: tensors of one checkpoint. `seconds`: of the whole run, None where no stop
    bounds it; `bound`: the stop that ends it first.
    """

    parameters: int
    learning: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    data: int
    checkpoint: int
    updates_measured: int
    seconds_per_update: float
    seconds_per_evaluation: float
    evaluations: int
    seconds: float | None
    bound: str | None

    @property
    def memory(self) -> int:
        """Bytes of tensors that training needs at once."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.data


def measure(task: Task, recipe: Recipe, *, seconds: float = 3.0) -> Cost:
    """Train the task for `seconds` (at least one update), evaluate once, and tell what it cost.

    The task is used up: its model has moved. Nothing is written but a log in a temporary folder.
    """
    stop = recipe.learn.stop
    bounded = stop.model_copy(update={"seconds": min(seconds, stop.seconds or seconds)})
    learn = recipe.learn.model_copy(update={"stop": bounded, "compile": "off"})
    with tempfile.TemporaryDirectory() as folder:
        logbook = Logbook(Path(folder), Log(updates=_LOG_EVERY))
        engine = Engine(
            task.objective, task.model, task.source, learn=learn, seed=recipe.seed, log=logbook.options, logbook=logbook
        )
        meter = _SavedForBackward(engine.learner)
        once = dataclasses.replace(engine)if False else engine
        with meter:
            _one_update(once)
        engine.run()
        rows = _rows(logbook.path)
    return _cost(engine, task, recipe, meter.peak, rows)
