"""Environments that can't be restored begin anew on resuming: no transition, and no return, spans the gap."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.core.tree import pack, unpack
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions, QNetworkOptions
from reinforge.objectives.options import DQNOptions, PPOOptions
from reinforge.registry import REGISTRY
from reinforge.sources.options import ReplayOptions, RolloutOptions
from reinforge.sources.replay import ReplaySource
from reinforge.sources.rollout import RolloutSource
from tests.environments.probes import Drift

UNSEEDED = EnvironmentOptions(id="ReinforgeUnseeded-v0", count=2)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register(UNSEEDED.id, lambda: Drift(seeded=False, length=10_000))  # type: ignore[arg-type]
    yield
    gym.registry.pop(UNSEEDED.id)


def _learner(model: object, objective: object) -> torch.nn.Module:
    found = signature(UNSEEDED)
    learner: torch.nn.Module = REGISTRY.build("objective", objective, found).build(  # type: ignore[arg-type]
        REGISTRY.build("model", model, found)  # type: ignore[arg-type]
    )
    return learner


def _resume(source: ReplaySource | RolloutSource, fresh: ReplaySource | RolloutSource) -> None:
    packed = pack(source.state_dict())
    fresh.load_state_dict(unpack(packed.skeleton, packed.tensors, packed.sealed))


def test_a_replayed_return_ends_where_the_environment_began_anew() -> None:
    options = ReplayOptions(capacity=400, learning_starts=20, n_step=3)
    learner = _learner(QNetworkOptions(sizes=(4,)), DQNOptions())
    first, second = (ReplaySource(options, environment=UNSEEDED, seed=0, batch=4) for _ in range(2))
    for source in (first, second):
        assert not source.exact
        source.publish(learner, Clock())
    first.next(Clock())
    _resume(first, second)
    before = second.buffer.total
    for _ in range(8):
        second.next(Clock())
    environments = second.collector.environments
    positions = [single.unwrapped.position for single in environments._environments]  # type: ignore[attr-defined]
    assert np.array_equal(second.collector.observation["observation"], np.stack(positions))
    found = second.buffer.gather(np.arange(before - 2, before), 3)
    done = found["terminated"]
    assert (found["length"][~done] == 1).all(), "rewards of another episode were summed"
    # Each row's next observation is the observation of its successor: no row spans the gap.
    numbers = np.arange(before, second.buffer.total - 2)
    rows, following = second.buffer.gather(numbers, 1), second.buffer.gather(numbers + 2, 1)
    going = ~rows["terminated"]
    assert np.array_equal(
        rows["next_observation"]["observation"][going], following["observation"]["observation"][going]
    )


def test_a_rollout_begins_anew_with_an_empty_memory_and_a_real_observation() -> None:
    options = RolloutOptions(steps=6)
    learner = _learner(ActorCriticOptions(sizes=(4,), memory=MemoryOptions(size=3)), PPOOptions())
    first, second = (RolloutSource(options, environment=UNSEEDED, seed=0) for _ in range(2))
    for source in (first, second):
        source.publish(learner, Clock())
    first.next(Clock())
    _resume(first, second)
    environments = second.collector.environments
    positions = [single.unwrapped.position for single in environments._environments]  # type: ignore[attr-defined]
    assert np.array_equal(second.collector.observation["observation"], np.stack(positions))
    taken = second.next(Clock())
    assert isinstance(taken, Experience)
    assert taken.batch["start"][:, 0].all()  # type: ignore[union-attr, index]
