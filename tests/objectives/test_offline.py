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
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    QNetworkOptions,
    SquashedGaussianOptions,
)
from reinforge.objectives.options import CloningOptions, DQNOptions, IQLOptions
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


# ---------------------------------------------------------------- IQL


@pytest.mark.parametrize("discrete", [False, True])
def test_iqls_losses_are_the_papers(discrete: bool) -> None:
    options = IQLOptions(gamma=0.9, expectile=0.8, beta=2.0, limit=1.5, critic_sizes=(8,))
    model: Any = ActorCriticOptions(sizes=(8,)) if discrete else SquashedGaussianOptions(sizes=(8,))
    objective, learner = _parts(CARTPOLE if discrete else PENDULUM, model, options)
    for parameter in learner.targets.parameters():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    action = torch.randint(2, (16,)) if discrete else torch.rand(16, 1) * 1.8 - 0.9
    batch = _only_batch(objective, objective.prepare(learner, _transitions(16, 2, action, size=4 if discrete else 3)))
    losses = {step.name: step.loss(learner, batch, {}).terms for step in objective.steps(learner)}
    value = critic = actor = 0.0
    with torch.no_grad():
        for i in range(16):
            now, then = (batch[name]["observation"][i : i + 1] for name in ("observation", "next_observation"))
            given = torch.eye(2)[action[i]][None] if discrete else action[i : i + 1]
            v, v_then = (float(learner.state_value(x, x[:, :0])[0]) for x in (now, then))
            q = min(float(one) for one in learner.targets(now, given))
            value += abs(0.8 - (q - v < 0)) * (q - v) ** 2
            goal = float(batch["reward"][i]) + float(batch["discount"][i]) * v_then
            critic += sum((float(one) - goal) ** 2 for one in learner.critics(now, given))
            outputs, _ = learner.model({"observation": now})
            actor -= min(float(np.exp(2.0 * (q - v))), 1.5) * float(learner.model.log_prob(outputs, action[i : i + 1]))
    assert float(losses["value"]["expectile"].sum.detach()) == pytest.approx(value, rel=1e-4)
    assert float(losses["critic"]["td"].sum.detach()) == pytest.approx(critic, rel=1e-4)
    assert float(losses["actor"]["policy"].sum.detach()) == pytest.approx(actor, rel=1e-4)


def test_iql_does_better_than_the_data_that_it_clones(tmp_path: Path) -> None:
    """A third of the actions are wrong: cloning them counts all alike, IQL those that were worth more."""
    generator = np.random.default_rng(0)

    def sloppy(observation: Any) -> int:
        chosen = balance(observation)
        return chosen if generator.random() > 0.35 else 1 - chosen

    columns = recorded("CartPole-v1", 3000, sloppy, limit=500)
    mean = 3000 / max(int(columns["terminated"].sum() + columns["truncated"].sum()), 1)
    path = written(tmp_path, "npz", columns)
    learn = Learn(batch=128, lr=3e-3, stop=Stop(updates=500), threads=1, compile="off")
    environment = EnvironmentOptions(id="CartPole-v1", count=4)
    options = IQLOptions(gamma=0.95, tau=0.02, critic_sizes=(32,))
    model = ActorCriticOptions(sizes=(32,), normalise=True)
    found = _train(environment, model, options, TransitionOptions(path=path), learn)
    assert found > 2 * mean
