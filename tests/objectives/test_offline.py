"""Learning from a file: behaviour cloning against brute force, then rewards; conservative Q-learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution

import reinforge
from reinforge.core.contracts import Clock
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.options import (
    ActorCriticOptions,
    DeterministicOptions,
    QNetworkOptions,
    SquashedGaussianOptions,
)
from reinforge.objectives.options import CloningOptions, DQNOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.sources.options import TransitionOptions
from tests.objectives.test_reinforcement import CARTPOLE, PENDULUM, _only_batch, _parts, _train, _transitions
from tests.sources.test_transitions import recorded, written


def balance(observation: Any) -> int:
    """A cart's push towards where its pole falls: hundreds of steps."""
    return int(observation[2] + 0.5 * observation[3] + 0.05 * observation[1] + 0.02 * observation[0] > 0)


@pytest.mark.parametrize("kind", ["discrete", "squashed", "deterministic"])
def test_the_loss_is_that_of_the_actions_taken(kind: str) -> None:
    discrete = kind == "discrete"
    model: Any = {
        "discrete": ActorCriticOptions(sizes=(8,)), "squashed": SquashedGaussianOptions(sizes=(8,)),
        "deterministic": DeterministicOptions(sizes=(8,)),
    }[kind]  # fmt: skip
    objective, learner = _parts(CARTPOLE if discrete else PENDULUM, model, CloningOptions())
    action = torch.randint(2, (12,)) if discrete else torch.rand(12, 1) * 1.8 - 0.9
    batch = _only_batch(objective, objective.prepare(learner, _transitions(12, 1, action, size=4 if discrete else 3)))
    loss = objective.steps(learner)[0].loss(learner, batch, {}).terms["actions"].sum
    outputs, _ = learner.model(batch["observation"])
    if discrete:
        expected = -Categorical(logits=outputs["action"]).log_prob(action).sum()
    elif kind == "squashed":
        base = Normal(outputs["mean"], outputs["log_std"].exp())
        expected = -TransformedDistribution(base, [TanhTransform(cache_size=1)]).log_prob(action).sum()
    else:
        expected = (outputs["action"] / 2 - action).square().sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)


def test_values_beside_the_policy_do_not_learn_by_cloning() -> None:
    objective, learner = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,)), CloningOptions())
    owned = {id(p) for p in objective.steps(learner)[0].parameters}
    named = {name for name, p in learner.model.named_parameters() if id(p) not in owned}
    assert named == {name for name, _ in learner.model.named_parameters() if name.startswith("value_")}


def test_cloning_then_ppo_as_two_commands(tmp_path: Path) -> None:
    """The second begins where the first ended, normaliser and all."""
    path = written(tmp_path, "parquet", recorded("CartPole-v1", 1500, balance, limit=500))
    model = {"kind": "actor-critic", "sizes": [16], "normalise": True}
    first = {
        "name": "clone", "data": {"kind": "environment", "id": "CartPole-v1"}, "model": model,
        "objective": {"kind": "behaviour-cloning"}, "source": {"kind": "transitions", "path": path},
        "learn": {"batch": 64, "lr": 1e-2, "threads": 1, "compile": "off", "stop": {"updates": 300}},
    }  # fmt: skip
    cloned = reinforge.train(first, output=tmp_path / "clone")
    assert cloned.metrics["final/return"] > 300, "random play lasts some 20 steps"
    second = {
        **first, "name": "improve", "objective": {"kind": "ppo"}, "source": {"kind": "rollout", "steps": 32},
        "learn": {"lr": 1e-5, "threads": 1, "compile": "off", "stop": {"updates": 4}},
    }  # fmt: skip
    improved = reinforge.train(second, start=cloned.bundle_path, output=tmp_path / "improve")
    assert improved.metrics["final/return"] > 250


def test_conservative_q_learning_keeps_to_what_the_data_show(tmp_path: Path) -> None:
    """From a file of good play alone: without it nothing is known of the other actions, whose values run free."""

    def mostly(observation: Any) -> int:
        chosen = balance(observation)
        return chosen if generator.random() > 0.1 else 1 - chosen

    generator = np.random.default_rng(0)
    path = written(tmp_path, "npz", recorded("CartPole-v1", 1500, mostly, limit=500))
    learn = Learn(batch=64, lr=3e-3, stop=Stop(updates=400), threads=1, compile="off")
    source, environment = TransitionOptions(path=path), EnvironmentOptions(id="CartPole-v1", count=4)
    options = DQNOptions(tau=0.02, conservative=1.0, gamma=0.95)
    found = _train(environment, QNetworkOptions(sizes=(32,), normalise=True), options, source, learn)
    assert found > 250


def test_an_offline_experience_counts_epochs_of_the_file(tmp_path: Path) -> None:
    from reinforge.registry import REGISTRY

    path = written(tmp_path, "npz", recorded("Pendulum-v1", 40))
    source = REGISTRY.build("source", TransitionOptions(path=path), environment=PENDULUM, seed=0, batch=10)
    source.publish(_parts(PENDULUM, ActorCriticOptions(), CloningOptions())[1], Clock())
    assert [source.next(Clock()).epochs for _ in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert source.next(Clock()).steps == 0
