"""Recipes of environments: each runs through every stage, and the quick ones learn what they are for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from reinforge import recipe as recipes
from reinforge.environments.catalogue import package_of
from reinforge.environments.options import EnvironmentOptions
from reinforge.workflow.rehearsal import rehearse
from reinforge.workflow.train import train

PRESETS = [each.name for each in recipes.shipped() if isinstance(recipes.load(each.name).data, EnvironmentOptions)]
# Its environment and its network are too large for a quick test.
SLOW = ("pong-dqn",)


def needs(name: str) -> None:
    """Skip where the environment's package is not installed."""
    data = recipes.load(name).data
    assert isinstance(data, EnvironmentOptions)
    package = package_of(data.id)
    modules = {"LunarLander": "Box2D", "HalfCheetah": "mujoco", "Hopper": "mujoco", "Walker2d": "mujoco"}
    module = package.module if package else next((m for n, m in modules.items() if data.id.startswith(n)), "gymnasium")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in PRESETS])
def test_it_runs_through_every_stage(name: str) -> None:
    needs(name)
    small = ["source.learning_starts=64", "source.capacity=2000"] if "replay" in str(recipes.load(name).source) else []
    assert rehearse(name, small).updates > 0


@pytest.mark.parametrize("name", PRESETS)
def test_it_is_named_and_seeded_as_its_file_says(name: str) -> None:
    recipe = recipes.load(name)
    assert (recipe.name, recipe.seed, recipe.seeds) == (name, 0, None)
    environment, _, algorithm = name.rpartition("-")
    assert environment
    kinds = {"rainbow": "dqn", "q": "q-learning"}
    objective = getattr(recipe.objective, "of", recipe.objective)
    assert getattr(objective, "kind", None) == kinds.get(algorithm, algorithm)
    assert recipe.learn.threads == 1 or name in SLOW
    goal, evaluate = recipe.learn.stop.goal, recipe.evaluate
    assert goal is None or (evaluate.every is not None and evaluate.episodes >= 50) or name in SLOW


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    [("cartpole-dqn", 30_000, 475.0), ("frozenlake-q", 100_000, 0.6)],
)
def test_the_quick_ones_learn(name: str, steps: int, least: float, tmp_path: Path) -> None:
    run = train(name, ["seed=9", f"learn.stop.steps={steps}", "evaluate.clip=false"], output=tmp_path / "run")
    assert run.metrics["final/return"] >= least
