"""What a recipe may ask of a model that is fitted at once."""

from __future__ import annotations

import functools

from reinforge.data.options import IterableDataOptions, TextOptions
from reinforge.data.prepared import Prepared
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.fitting import fit
from reinforge.models.classic.options import ClassicOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.recipe.recipe import Recipe
from reinforge.recipe.sections import Learn
from reinforge.registry import Options
from reinforge.sources.options import LoaderOptions
from reinforge.workflow.tasks.task import Fit

# What of `learn` reaches it.
_HEARD = {"threads", "device"}


def refuse(recipe: Recipe) -> None:
    """Raise RecipeError for what such a model can't do, or would leave out without a word. Others pass."""
    if not isinstance(recipe.model, ClassicOptions):
        return
    kind = str(getattr(recipe.model, "kind", ""))
    network = _("Or take a network: {option}.").format(option="model=composed")
    if isinstance(recipe.data, EnvironmentOptions | TextOptions | IterableDataOptions):
        raise RecipeError(
            _("a model of kind {kind!r} learns from a table alone").format(kind=kind), where="model", remedy=network
        )
    if recipe.start.bundle is not None:
        raise RecipeError(
            _("a model of kind {kind!r} is fitted at once, so it can't begin with a bundle").format(kind=kind),
            where="start.bundle",
            remedy=_("Train it anew, on old and new rows together.") + " " + network,
        )
    if type(recipe.objective) is not SupervisedOptions or recipe.objective.weighting != "fixed":
        raise RecipeError(
            _("a model of kind {kind!r} learns by the objective {objective!r} with fixed weights alone").format(
                kind=kind, objective="supervised"
            ),
            where="objective",
            remedy=network,
        )
    if recipe.source not in (None, LoaderOptions()):
        raise RecipeError(
            _("a model of kind {kind!r} takes all rows as they are").format(kind=kind), where="source",
            remedy=_("Leave the source out ({none}); classes are balanced by {option}.").format(
                none="source=null", option="objective.losses.TARGET={kind: cross-entropy, weights: balanced}"
            ),
        )  # fmt: skip


def fit_of(recipe: Recipe, model: Classic, prepared: Prepared, objective: Options) -> Fit:
    """What fits the model to prepared data. `objective`: its options, class weights settled."""
    losses = objective.losses if isinstance(objective, SupervisedOptions) else {}
    return functools.partial(
        fit, model, prepared.train, prepared.validation, losses=losses, seed=recipe.seed, threads=recipe.learn.threads
    )


def notes_on(recipe: Recipe) -> list[str]:
    """What of the recipe says nothing to it."""
    if recipe.learn.model_dump(exclude=_HEARD) == Learn().model_dump(exclude=_HEARD):
        return []
    return [_("`learn` says nothing to a model that is fitted at once, but for `threads`")]
