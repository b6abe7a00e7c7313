"""Learning from the labels of a table."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.forms import TableForm
from reinforge.bundle.sketch import sketch
from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.data.pipeline import Pipeline
from reinforge.data.prepared import Prepared, prepare
from reinforge.errors import ComponentError
from reinforge.models.balance import balanced
from reinforge.models.classic.classic import Classic
from reinforge.models.composed import Composed, Wrapped
from reinforge.objectives.supervised import Supervised
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature
from reinforge.sources.options import LoaderOptions
from reinforge.workflow.described import card_of
from reinforge.workflow.tasks.classic import fit_of, notes_on
from reinforge.workflow.tasks.judge import Judge
from reinforge.workflow.tasks.task import Given, Task, Tested, source_options, unfit


def table_task(recipe: Recipe, start: Bundle | None, given: Given) -> Task:
    """Prepare the table and put its training together. `start` freezes schema and pipeline, or extends them where the
    recipe says so."""
    pipeline = pipeline_of(start) if start else None
    more = {"extend": True} if pipeline is not None and recipe.start.extend else {}
    prepared: Prepared = prepare(recipe.data, recipe.seed, data=given.data, pipeline=pipeline, base=Path.cwd(), **more)
    signature = prepared.signature
    model, options, modules = _model(recipe, signature, given, prepared.train)
    settled = balanced(recipe.objective, signature, prepared.train)
    objective = REGISTRY.build("objective", settled, signature)
    chosen = source_options(recipe.source, recipe.objective)
    # Augmentation asks what the blocks are.
    blocks = {"signature": signature} if isinstance(chosen, LoaderOptions) else {}
    source = REGISTRY.build("source", chosen, prepared.train, batch=recipe.learn.batch, seed=recipe.seed, **blocks)
    judge = Judge(recipe, objective, prepared) if isinstance(objective, Supervised) else None
    validation = judge.watch() if judge else None

    return Task(
        signature=signature,
        model=model,
        model_options=options,
        objective=objective,
        source=source,
        form=TableForm(prepared.pipeline),
        examples=prepared.examples,
        test=judge.test if judge else lambda learner: Tested({}),
        evaluator=validation,
        monitor=("loss", "min") if validation else None,
        ships="best" if validation else "last",
        reference=sketch(prepared.training, prepared.schema),
        digest=prepared.digest,
        notes=(*prepared.notes, *(notes_on(recipe) if isinstance(model, Classic) else ())),
        modules=modules,
        card=lambda: card_of(recipe, prepared, bounded=True),
        fit=fit_of(recipe, model, prepared, settled) if isinstance(model, Classic) else None,
    )


def pipeline_of(bundle: Bundle) -> Pipeline:
    """A table bundle's pipeline. Raises RecipeError for a bundle of another kind."""
    if not isinstance(bundle.form, TableForm):
        raise unfit(bundle, "table")
    return bundle.form.pipeline


def _model(
    recipe: Recipe, signature: Signature, given: Given, data: Batch
) -> tuple[nn.Module, Options | str, dict[str, Any]]:
    """The model, whose encoders and losses have seen the training rows where they follow from them."""
    if given.module is not None:
        return own_module(recipe, signature, given.module)
    options = balanced(recipe.model, signature, data)
    model: nn.Module = REGISTRY.build("model", options, signature)
    if isinstance(model, Composed):
        model.observe(batches.section(data, "inputs"))
    return model, options, {}


def own_module(
    recipe: Recipe, signature: Signature, module: nn.Module
) -> tuple[nn.Module, Options | str, dict[str, Any]]:
    """A user's own module as a model, its name, and what builds it again.

    Raises ComponentError where it takes one tensor and the data have several blocks.
    """
    name = getattr(recipe.model, "name", type(module).__qualname__)
    if isinstance(module, Wrapped) or hasattr(module, "initial_state"):
        model = module
    else:
        if len(signature.inputs) != 1:
            raise ComponentError(
                f"a plain module takes one tensor, and the data have the blocks {', '.join(signature.inputs)}",
                where=name,
                remedy="Give it forward(inputs, state=None) -> (outputs by name, state) and initial_state(n), "
                "or leave out the columns of one kind.",
            )
        model = Wrapped(module, signature)
    blank = copy.deepcopy(module)
    return model, name, {name: lambda: copy.deepcopy(blank)}
