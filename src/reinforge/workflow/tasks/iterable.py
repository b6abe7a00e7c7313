"""Learning from any iterable of batches that a Python caller passes: a DataLoader, a list, a generator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from reinforge.bundle.tensor_form import TensorForm
from reinforge.core.batch import section
from reinforge.core.contracts import Clock
from reinforge.core.modes import evaluating
from reinforge.errors import DataError
from reinforge.evaluation.supervised import SupervisedEvaluator
from reinforge.models.composed import Wrapped
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.schema.derive import signature as signature_of
from reinforge.schema.fields import Box, Category, Number
from reinforge.schema.schema import Schema
from reinforge.sources.options import IterableOptions
from reinforge.workflow.tasks.table import own_module
from reinforge.workflow.tasks.task import Given, Task, Tested

INPUT, TARGET = "input", "target"
_EXAMPLES = 16


def iterable_task(recipe: Recipe, given: Given) -> Task:
    """Look at the first batch, and put the training together. Nothing is held back from training.

    Raises DataError where there is no batch, or the first is no pair (input, target) of tensors.
    """
    items = given.data
    if not isinstance(items, Iterable):
        raise DataError("it can't be iterated", where="data", remedy="Pass batches: pairs (input, target) of tensors.")
    first = next(iter(items), None) if not isinstance(items, Iterator) else next(items, None)
    if first is None:
        raise DataError("the iterable gave no batch", where="data")
    if isinstance(items, Iterator):
        items = chain([first], items)
    x, y = _pair(first)
    schema = Schema(fields=(Box(name=INPUT, shape=tuple(x.shape[1:])), _target(y, x, given.module)))
    signature = signature_of(schema)
    if given.module is not None:
        model, options, modules = own_module(recipe, signature, given.module)
    else:
        model, options, modules = REGISTRY.build("model", recipe.model, signature), recipe.model, {}
    objective = REGISTRY.build("objective", recipe.objective, signature)
    chosen = recipe.source if isinstance(recipe.source, IterableOptions) else IterableOptions()
    seen = {"inputs": {INPUT: x.float()}, "targets": {TARGET: y}}

    def test(learner: nn.Module) -> Tested:
        found = SupervisedEvaluator(objective, signature, seen).evaluate(learner, Clock())
        return Tested({f"first-batch/{name}": value for name, value in found.items()})

    return Task(
        signature=signature,
        model=model,
        model_options=options,
        objective=objective,
        source=REGISTRY.build("source", chosen, items, signature, seed=recipe.seed),
        form=TensorForm(schema),
        examples=[{INPUT: row} for row in x[:_EXAMPLES].float().tolist()],
        test=test,
        notes=("nothing is held back from training: evaluate on data of your own",),
        modules=modules,
    )


def _pair(item: object) -> tuple[Tensor, Tensor]:
    if isinstance(item, Mapping) and isinstance(item.get("inputs"), Mapping):
        item = (*section(item, "inputs").values(), *section(item, "targets").values())
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, Tensor) for part in item):
        x, y = item
        if len(x) == len(y) > 0:
            return x, y
    raise DataError(
        f"the first batch is {_shown(item)}, and not a pair (input, target) of tensors with as many rows each",
        where="data", remedy="Pass batches such as those of DataLoader(TensorDataset(x, y), batch_size=32).",
    )  # fmt: skip


def _shown(item: object) -> str:
    if isinstance(item, tuple | list):
        return f"({', '.join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in item)})"
    return type(item).__name__


def _target(y: Tensor, x: Tensor, module: nn.Module | None) -> Category | Number:
    """Whole numbers (rows,) are classes, as many as the module has outputs; real ones are one number per row."""
    if y.dtype in (torch.int64, torch.int32) and y.ndim == 1:
        classes = int(y.max()) + 1
        if module is not None:
            classes = max(classes, _outputs(module, x))
        return Category(
            name=TARGET, role="target", labels=tuple(map(str, range(classes))), missing="error", unseen="error"
        )
    if y.is_floating_point() and math.prod(y.shape[1:]) == 1:
        return Number(name=TARGET, role="target", missing="error", scale="none")
    raise DataError(
        f"the targets are {y.dtype} {tuple(y.shape)}", where="data",
        remedy="Give classes as int64 (rows,), or one real number per row.",
    )  # fmt: skip


def _outputs(module: nn.Module, x: Tensor) -> int:
    with evaluating(module), torch.no_grad():
        found: Any = module.module(x[:1].float()) if isinstance(module, Wrapped) else module(x[:1].float())
    return int(found.shape[-1]) if isinstance(found, Tensor) else 0
