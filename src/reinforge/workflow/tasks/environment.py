"""Learning from the rewards of an environment."""

from __future__ import annotations

import numpy as np
from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.observation_form import ObservationForm
from reinforge.core import seeds
from reinforge.environments.build import examples
from reinforge.environments.build import schema as schema_of
from reinforge.environments.build import signature as signature_of
from reinforge.environments.check import Contract, check
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import RecipeError
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.evaluation.excerpt import clip
from reinforge.messages import _
from reinforge.models.policy import Policy
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.schema.fields import Box
from reinforge.schema.schema import Schema
from reinforge.workflow.tasks.task import Task, Tested, source_options, unfit

# Golden observations.
_EXAMPLES = 16
# Numbers in all of them together, about.
_EXAMPLE_VALUES = 200_000


def environment_task(recipe: Recipe, start: Bundle | None) -> Task:
    """Make the environment's source and put its training together."""
    options = recipe.data
    assert isinstance(options, EnvironmentOptions)
    notes = remarks(check(options, recipe.seed))
    signature, schema = signature_of(options), schema_of(options)
    if start is not None and start.signature != signature:
        if start.form.kind != ObservationForm.kind:
            raise unfit(start, ObservationForm.kind)
        raise RecipeError(
            _("its policy does not fit {environment!r}: it takes other observations, or other actions").format(
                environment=options.id
            ),
            where=str(start.path),
            remedy=_("Begin from a bundle that was trained in such an environment, or without --from."),
        )
    model: nn.Module = REGISTRY.build("model", recipe.model, signature)
    objective = REGISTRY.build("objective", recipe.objective, signature)
    chosen = source_options(recipe.source, recipe.objective)
    source = REGISTRY.build("source", chosen, environment=options, seed=recipe.seed, batch=recipe.learn.batch)
    settings = recipe.evaluate
    evaluator = EpisodeEvaluator(options, episodes=settings.episodes, seed=settings.seed)

    def test(learner: nn.Module) -> Tested:
        final = EpisodeEvaluator(options, episodes=settings.final, seed=settings.seed, name="final")
        policy = learner.model
        assert isinstance(policy, Policy)
        found = final.run(policy, str(recipe.seed)).metrics()
        return Tested({f"final/{name}": value for name, value in found.items()})

    def film(policy: nn.Module) -> bytes | None:
        assert isinstance(policy, Policy)
        return clip(policy, options, settings.seed)

    return Task(
        signature=signature,
        model=model,
        model_options=recipe.model,
        objective=objective,
        source=source,
        form=ObservationForm(schema, signature),
        examples=examples(options, _few(schema), seeds.derive(recipe.seed, "golden")),
        test=test,
        evaluator=evaluator,
        # What `final` says of it is of fresh episodes: not the maximum over noise by which it was chosen.
        ships="best" if settings.monitor else "last",
        notes=notes,
        film=film if settings.clip else None,
    )


def remarks(contract: Contract) -> tuple[str, ...]:
    """What a look at the environment found that is no fault, but worth knowing."""
    found = []
    if contract.outside:
        text = _("environment: observations leave the bounds of their space ({parts})")
        found.append(text.format(parts=", ".join(contract.outside)))
    return tuple(found)


def _few(schema: Schema) -> int:
    """How many golden observations: fewer of large ones, which are stored as text."""
    values = sum(int(np.prod(field.shape)) for field in schema.inputs if isinstance(field, Box))
    return max(2, min(_EXAMPLES, _EXAMPLE_VALUES // max(values, 1)))
