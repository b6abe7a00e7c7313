"""What acting sources say in a line of the log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reinforge.core.contracts import Clock, Experience
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy import Policy
from reinforge.models.policy_options import ActorCriticOptions, QNetworkOptions
from reinforge.registry import REGISTRY
from reinforge.sources.collector import shift
from reinforge.sources.options import EpsilonOptions, ReplayOptions, RolloutOptions

CARTPOLE = EnvironmentOptions(id="CartPole-v1", count=4)


class Learner(nn.Module):
    def __init__(self, options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model: Policy = REGISTRY.build("model", options, signature(CARTPOLE))


def test_a_rollout_tells_of_its_latest_episodes() -> None:
    source = REGISTRY.build("source", RolloutOptions(steps=200), environment=CARTPOLE, seed=0, batch=8)
    learner = Learner(ActorCriticOptions(sizes=(8,), normalise=True))
    source.publish(learner, Clock())
    assert source.measures() == {}
    for _ in range(2):
        assert isinstance(source.next(Clock()), Experience)
    found = source.measures()
    returns = [value for value, _ in source.collector.recent]
    assert len(returns) > 20
    assert found["training/return"] == pytest.approx(np.mean(returns))
    assert found["training/length"] == pytest.approx(np.mean(returns))  # CartPole pays 1 for each step
    assert found["training/return_low"] <= np.median(returns) <= found["training/return_high"]
    assert sum(value < found["training/return_low"] for value in returns) <= len(returns) / 4
    assert 0 < found["training/shift"] < 1


def test_a_replay_tells_how_far_exploration_is() -> None:
    options = ReplayOptions(learning_starts=100, epsilon=EpsilonOptions(start=1.0, end=0.0, steps=200))
    source = REGISTRY.build("source", options, environment=CARTPOLE, seed=0, batch=8)
    source.publish(Learner(QNetworkOptions(sizes=(8,))), Clock())
    source.next(Clock())
    found = source.measures()
    assert found["training/epsilon"] == pytest.approx(1 - source.collector.steps / 200)
    assert "training/shift" not in found


def test_the_shift_is_the_distance_of_means_in_deviations() -> None:
    policy = Learner(ActorCriticOptions(sizes=(8,), normalise=True)).model
    generator = np.random.default_rng(0)

    def seen(shifted: float, scale: float = 2.0) -> dict[str, dict[str, torch.Tensor]]:
        rows = generator.normal(3.0 + shifted, scale, (4000, 4))
        rows[:, 3] = 5.0 + shifted / 1e6  # a constant, but for a last digit
        mean = rows.mean(0)
        return {
            "observation": {
                "count": torch.tensor(4000.0, dtype=torch.float64),
                "mean": torch.from_numpy(mean),
                "squares": torch.from_numpy(np.square(rows - mean).sum(0)),
            }
        }

    assert shift(policy, seen(0)) == 0  # nothing is known yet
    policy.observe(seen(0))
    assert shift(policy, seen(0)) < 0.1
    assert shift(policy, seen(10)) == pytest.approx(5.0, abs=0.2)
