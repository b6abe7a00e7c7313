"""Rewards scaled for learning: of transitions, never of returns; and kept in the source's state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.core.tree import pack, unpack
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.models.policy_options import ActorCriticOptions
from reinforge.registry import REGISTRY
from reinforge.sources.options import ReplayOptions, RolloutOptions
from tests.environments.probes import Counter

gym.register("tests/Paying-v0", lambda: Counter(((4, True, False),)))
REWARD: dict[str, Any] = {"scale": 0.1, "clip": 0.25}


class _Learner(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model


def _source(options: Any, **reward: Any) -> tuple[Any, Any]:
    environment = EnvironmentOptions.model_validate({"id": "tests/Paying-v0", "count": 2, "reward": reward})
    torch.manual_seed(0)
    model = REGISTRY.build("model", ActorCriticOptions(sizes=(4,)), signature(environment))
    source = REGISTRY.build("source", options, environment=environment, seed=1, batch=4)
    source.publish(_Learner(model), Clock())
    return source, environment


@pytest.mark.parametrize("options", [RolloutOptions(steps=8), ReplayOptions(learning_starts=8, capacity=64)], ids=str)
def test_transitions_have_scaled_rewards_and_returns_the_true_ones(options: Any) -> None:
    """Episodes pay 1, 2, 3 and 4."""
    source, environment = _source(options, **REWARD)
    experience = source.next(Clock())
    assert isinstance(experience, Experience)
    found = experience.batch["reward" if "reward" in experience.batch else "rewards"]
    assert isinstance(found, torch.Tensor)
    assert set(found.flatten().tolist()) <= {np.float32(0.1), np.float32(0.2), 0.25}
    assert {value for value, _ in source.collector.recent} == {10.0}
    evaluator = EpisodeEvaluator(environment, episodes=2, seed=0)
    assert evaluator.evaluate(_Learner(source._policy), Clock())["return"] == 10.0


def test_the_running_scale_goes_on_where_the_run_was() -> None:
    source, _ = _source(RolloutOptions(steps=8), normalise=True)
    for _ in range(3):
        source.next(Clock())
    packed = pack(source.state_dict())
    other, _ = _source(RolloutOptions(steps=8), normalise=True)
    other.load_state_dict(unpack(packed.skeleton, packed.tensors))
    assert other.collector.rewards.deviation == source.collector.rewards.deviation != 1.0
