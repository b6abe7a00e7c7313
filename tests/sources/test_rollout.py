"""What a rollout keeps of continuous actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy_options import ActorCriticOptions
from reinforge.objectives.options import PPOOptions
from reinforge.registry import REGISTRY
from reinforge.sources.options import RolloutOptions
from reinforge.sources.rollout import RolloutSource
from tests.environments.probes import Drift

WALK = EnvironmentOptions(id="ReinforgeWalk-v0", count=3)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register(WALK.id, lambda: Drift(continuous=True, length=10_000))  # type: ignore[arg-type]
    yield
    gym.registry.pop(WALK.id)


def test_the_action_is_kept_as_it_was_drawn_and_taken_within_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-prob is of what was drawn; clipping it before would make the first ratio a lie."""
    taken: list[Any] = []
    step = Drift.step
    monkeypatch.setattr(Drift, "step", lambda self, action: (taken.append(np.array(action)), step(self, action))[1])
    found = signature(WALK)
    learner = REGISTRY.build("objective", PPOOptions(), found).build(
        REGISTRY.build("model", ActorCriticOptions(sizes=(4,)), found)
    )
    source = RolloutSource(RolloutOptions(steps=20), environment=WALK, seed=0)
    taken.clear()  # of the look at whether the environment keeps to its seed
    source.publish(learner, Clock())
    experience = source.next(Clock())
    assert isinstance(experience, Experience)
    drawn = experience.batch["action"]
    assert isinstance(drawn, torch.Tensor)
    outside = drawn.abs() > 1
    assert 0.1 < outside.float().mean() < 0.6, "a normal distribution of deviation 1"
    given = torch.from_numpy(np.stack(taken)).view(20, 3, 2).transpose(0, 1)
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0])
    assert ((given >= low) & (given <= high)).all()
    torch.testing.assert_close(given, low + (drawn.clamp(-1, 1) + 1) / 2 * (high - low))
