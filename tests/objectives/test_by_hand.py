"""Gradients by hand are those of autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reinforge.core.contracts import Clock, Loss
from reinforge.engine.loop import Engine
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions
from reinforge.objectives.options import PPOOptions
from reinforge.recipe.sections import Learn, Start, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import RolloutOptions

CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=6)
PENDULUM = EnvironmentOptions(id="Pendulum-v1", count=3)


def _parts(environment: EnvironmentOptions, model: ActorCriticOptions, options: PPOOptions) -> tuple[Any, Any, Any]:
    found = signature(environment)
    torch.manual_seed(0)
    objective = REGISTRY.build("objective", options, found)
    source = REGISTRY.build("source", RolloutOptions(steps=12), environment=environment, seed=0, batch=0)
    return objective, REGISTRY.build("model", model, found), source


def _scales(loss: Loss) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(t.weight / 7) for name, t in loss.terms.items() if t.weight != 0}


@pytest.mark.parametrize("environment", [CARTPOLE, PENDULUM], ids=["discrete", "continuous"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("more", [{}, {"entropy_weight": 0.05, "value_clip": 0.05}, {"value_weight": 0.0}])
def test_ppo(environment: EnvironmentOptions, activation: Any, shared: bool, more: dict[str, float]) -> None:
    model = ActorCriticOptions(sizes=(16, 8), activation=activation, shared=shared, normalise=True)
    objective, policy, source = _parts(environment, model, PPOOptions(minibatches=1, clip=0.02, **more))
    learner = objective.build(policy)
    source.publish(learner, Clock())
    source.next(Clock())
    with torch.no_grad():
        experience = objective.prepare(learner, source.next(Clock()))
        # Far enough for ratios on both sides of the clip.
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batch = next(objective.updates(experience, torch.Generator(), Clock()))
    (step,), counts = objective.steps(learner), objective.counts(batch)
    loss = step.loss(learner, batch, counts)
    assert 0 < float(loss.terms["clipped"].sum) < 72
    scales = _scales(loss)
    roots = [loss.terms[name].sum for name in scales]
    expected = torch.autograd.grad(roots, step.parameters, list(scales.values()), allow_unused=True)
    for parameter in step.parameters:
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        found, pull = step.by_hand(learner, batch, counts)
        pull(scales)
    for name, term in loss.terms.items():
        assert float(found.terms[name].sum) == pytest.approx(float(term.sum), rel=1e-4, abs=1e-5), name
        assert found.terms[name].weight == term.weight
    for parameter, gradient in zip(step.parameters, expected):
        wanted = torch.zeros_like(parameter) if gradient is None else gradient
        # Added to what is there.
        assert torch.allclose(parameter.grad - 1, wanted, rtol=1e-4, atol=2e-6)


def _trained(by_hand: bool, start: Start | None = None) -> dict[str, torch.Tensor]:
    objective, policy, source = _parts(CARTPOLE, ActorCriticOptions(sizes=(8,)), PPOOptions(epochs=2, minibatches=2))
    learn = Learn(lr=1e-2, clip=0.5, stop=Stop(updates=12), threads=1, compile="off")
    engine = Engine(objective, policy, source, learn=learn, seed=0, start=start)
    engine.updater.by_hand &= by_hand
    engine.run()
    return {name: value.clone() for name, value in engine.learner.state_dict().items()}


def test_the_engine_learns_the_same_by_hand() -> None:
    one, other = _trained(True), _trained(False)
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())


def test_what_is_frozen_stays_as_it_is() -> None:
    start = Start(freeze=("body.*",))
    one, other, free = _trained(True, start), _trained(False, start), _trained(True)
    assert all(torch.allclose(value, other[name], atol=1e-5) for name, value in one.items())
    assert not torch.allclose(one["model.body.layers.0.weight"], free["model.body.layers.0.weight"])


def test_what_can_not_be_traced_is_left_to_autograd() -> None:
    for model in (ActorCriticOptions(memory=MemoryOptions(size=4)), ActorCriticOptions(activation="gelu")):
        objective, policy, _ = _parts(CARTPOLE, model, PPOOptions())
        assert objective.steps(objective.build(policy))[0].by_hand is None
