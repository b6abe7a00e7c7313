"""What training and evaluating need, put together from a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.forms import Form
from reinforge.bundle.network import Factory
from reinforge.bundle.task import Reading
from reinforge.core.contracts import Evaluator, Objective, Source
from reinforge.errors import RecipeError
from reinforge.evaluation.answers import Answers
from reinforge.evaluation.data_card import DataCard
from reinforge.evaluation.explanation import Explanation
from reinforge.evaluation.findings import Findings
from reinforge.messages import _
from reinforge.models.classic.fitting import Fitted
from reinforge.recipe.component import default_source
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json


@dataclass(frozen=True)
class Tested:
    """What the end of a training found: metrics by "split/name", how outputs are read from now on, and all the rest.

    `explanation`: what a classic model goes by. `answers`: what a rewarded model wrote."""

    metrics: Mapping[str, float]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    findings: Findings | None = None
    notes: Sequence[str] = ()
    explanation: Explanation | None = None
    answers: Answers | None = None


# From the finished learner to what it is worth.
Test = Callable[[nn.Module], Tested]
# Fits a model at once.
Fit = Callable[[], Fitted]


@dataclass(frozen=True)
class Task:
    """Everything that is particular to one recipe and its data.

    `model_options`: of the registered model, or the name of a user's own module, which `modules` builds. `ships`: which
    weights go into the bundle, the best on validation or the last. `examples`: raw rows for golden replay. `monitor`:
    the metric of `evaluator` that decides by default, and whether smaller is better; None where nothing is held back.
    `card` describes the data, where they are a table. `fit` fits the model at once, where no engine trains it. `fresh`:
    patterns of weights that a bundle to begin with can't have; they learn beside adapters too. `film` shows the model
    at work, as an animated WebP.
    """

    signature: Signature
    model: nn.Module
    model_options: Options | str
    objective: Objective
    source: Source
    form: Form
    examples: Sequence[Mapping[str, object]]
    test: Test
    evaluator: Evaluator | None = None
    monitor: tuple[str, Literal["min", "max"]] | None = None
    ships: Literal["best", "last"] = "last"
    reference: Json = None
    digest: str = ""
    notes: Sequence[str] = ()
    modules: Mapping[str, Factory] = field(default_factory=dict)
    fresh: Sequence[str] = ()
    card: Callable[[], DataCard] | None = None
    fit: Fit | None = None
    film: Callable[[nn.Module], bytes | None] | None = None


@dataclass(frozen=True)
class Given:
    """What a Python caller passes beside the recipe: data in memory, and a module of their own with its name."""

    data: object = None
    module: nn.Module | None = None


def unfit(bundle: Bundle, wanted: str) -> RecipeError:
    """What is wrong with a bundle of another form than `wanted`, to begin from."""
    text = _("the recipe needs a bundle of the form {wanted!r} to begin from, and this one is of the form {form!r}")
    return RecipeError(
        text.format(wanted=wanted, form=bundle.form.kind), where=str(bundle.path),
        remedy=_("Give another bundle, or train without --from."),
    )  # fmt: skip


def source_options(given: Options | None, objective: Options) -> Options:
    """The recipe's source, or the one that the objective's options name."""
    if given is not None:
        return given
    options: Options = REGISTRY.find("source", default_source(objective)).options()
    return options
