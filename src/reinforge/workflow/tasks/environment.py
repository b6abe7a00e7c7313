"""Learning from the rewards of an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.observation_form import ObservationForm
from reinforge.core import seeds
from reinforge.environments.build import build, spaces
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import schema as schema_of
from reinforge.environments.spaces import signature as signature_of
from reinforge.errors import RecipeError
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.messages import _
from reinforge.models.policy import Policy
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Output
from reinforge.workflow.tasks.task import Task, Tested, source_options, unfit

# Fresh episodes at the end of training, and golden observations.
_FINAL_EPISODES, _EXAMPLES = 100, 16


def environment_task(recipe: Recipe, start: Bundle | None) -> Task:
    """Make the environment's source and put its training together."""
    options = recipe.data
    assert isinstance(options, EnvironmentOptions)
    observation, action, where = spaces(options)
    signature = signature_of(observation, action, where, options.inputs)
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
        final = EpisodeEvaluator(options, episodes=_FINAL_EPISODES, seed=settings.seed, name="final")
        policy = learner.model
        assert isinstance(policy, Policy)
        found = final.run(policy, str(recipe.seed)).metrics()
        return Tested({f"final/{name}": value for name, value in found.items()})

    return Task(
        signature=signature,
        model=model,
        model_options=recipe.model,
        objective=objective,
        source=source,
        form=ObservationForm(schema_of(observation, action, where, options.inputs), signature),
        examples=_observations(options, recipe.seed),
        test=test,
        evaluator=evaluator,
    )


def _random(action: Output, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    if action.form == "discrete":
        return generator.integers(action.size, size=1)
    if action.form == "multi-discrete":
        return generator.integers(action.sizes, size=(1, len(action.sizes)))
    return generator.uniform(action.low, action.high, (1, action.size)).astype(np.float32)


def _observations(options: EnvironmentOptions, seed: int) -> list[dict[str, object]]:
    """What random actions lead to, as raw rows for golden replay."""
    environments = build(options, seed=seeds.derive(seed, "golden"), count=1)
    generator = np.random.default_rng(seeds.derive(seed, "golden actions"))
    observation, rows = environments.reset(), []
    for _example in range(_EXAMPLES):
        rows.append(environments.codec.row(observation, 0))
        observation = environments.step(_random(environments.signature.outputs["action"], generator)).observation
    environments.close()
    return rows
