"""Environments that take their next step while updates run: the same transitions, sooner."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.core.tree import pack, unpack
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ComponentError, EnvironmentFault
from reinforge.models.policy_options import QNetworkOptions
from reinforge.objectives.options import DQNOptions
from reinforge.registry import REGISTRY
from reinforge.sources.collector import as_batch
from reinforge.sources.options import EpsilonOptions, ReplayOptions
from reinforge.sources.replay import ReplaySource
from tests.environments.probes import Drift
from tests.sources.test_replay import same

SLEEP = 0.02


class Slow(Drift):
    """Takes its time, and breaks in the step that it is told."""

    def __init__(self, breaks: int | None = None, seconds: float = 0.0) -> None:
        super().__init__()
        self.breaks, self.seconds, self.taken = breaks, seconds, 0

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.taken += 1
        if self.taken == self.breaks:
            raise RuntimeError("worn out")
        time.sleep(self.seconds)
        return super().step(action)


if "Slow-v0" not in gym.registry:
    gym.register("Slow-v0", Slow)


def _source(overlap: bool, seed: int = 0, **options: Any) -> ReplaySource:
    environment = EnvironmentOptions(id="Slow-v0", count=2, vectorization="processes", options=options)
    replay = ReplayOptions(
        learning_starts=8, updates_per_step=0.5, overlap=overlap, epsilon=EpsilonOptions(start=0.5, end=0.5)
    )
    source = ReplaySource(replay, environment=environment, seed=seed, batch=4)
    found = signature(environment)
    torch.manual_seed(0)
    model = REGISTRY.build("model", QNetworkOptions(sizes=(8,)), found)
    source.publish(REGISTRY.build("objective", DQNOptions(), found).build(model), Clock())
    return source


def _close(*sources: ReplaySource) -> None:
    for source in sources:
        source.collector.environments.close()


def test_a_policy_that_stays_collects_the_same() -> None:
    one, other = _source(False), _source(True)
    try:
        for _ in range(40):
            first, second = one.next(Clock()), other.next(Clock())
            assert isinstance(first, Experience)
            assert isinstance(second, Experience)
            assert first.steps == second.steps
            assert same(first.batch, second.batch)
    finally:
        _close(one, other)


def test_it_goes_on_where_a_begun_step_was_saved() -> None:
    one, other = _source(True), _source(True, seed=5)
    try:
        for _ in range(9):
            one.next(Clock())
            other.next(Clock())
        packed = pack(one.state_dict())
        other.load_state_dict(unpack(packed.skeleton, packed.tensors, packed.sealed))
        for _ in range(20):
            first, second = one.next(Clock()), other.next(Clock())
            assert isinstance(first, Experience)
            assert isinstance(second, Experience)
            assert same(first.batch, second.batch)
        numbers = np.arange(one.buffer.total)
        assert same(as_batch(one.buffer.gather(numbers, 1)), as_batch(other.buffer.gather(numbers, 1)))
    finally:
        _close(one, other)


def test_the_steps_cost_no_time_of_the_updates() -> None:
    """Updates that take as long as a step: together they take half as long as one after the other."""
    seconds = {}
    for overlap in (False, True):
        source = _source(overlap, seconds=SLEEP)
        try:
            source.next(Clock())
            began = time.perf_counter()
            for _ in range(10):
                time.sleep(SLEEP)  # the update
                source.next(Clock())
            seconds[overlap] = time.perf_counter() - began
        finally:
            _close(source)
    assert seconds[True] < 0.75 * seconds[False], seconds


def test_what_breaks_meanwhile_is_told_at_the_next_experience_and_can_be_saved() -> None:
    for saving in (False, True):
        source = _source(True, breaks=30)

        def go_on(source: ReplaySource = source, saving: bool = saving) -> None:
            for _ in range(60):
                source.next(Clock())
                if saving:
                    source.state_dict()

        with pytest.raises(EnvironmentFault, match="worn out"):
            go_on()
        assert source.state_dict()["collector"]["broken"]


def test_it_needs_processes() -> None:
    environment = EnvironmentOptions(id="Slow-v0", count=2)
    with pytest.raises(ComponentError, match="vectorization: processes"):
        ReplaySource(ReplayOptions(overlap=True), environment=environment, seed=0, batch=4)
