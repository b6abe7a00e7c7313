"""Episode evaluation: whole episodes, own seeds, no trace left."""

from __future__ import annotations

import random
import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reinforge.core.contracts import Clock
from reinforge.core.seeds import derive
from reinforge.environments.build import build, signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import signature as signature_of
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Environments, NativeEnvironments
from reinforge.evaluation.episodes import EpisodeEvaluator, play
from reinforge.models.policy import Policy
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions, QNetworkOptions
from reinforge.registry import REGISTRY
from tests.environments.probes import Counter, Recall

CARTPOLE = EnvironmentOptions(id="CartPole-v1")


def _policy(options: Any = None, seed: int = 0) -> Policy:
    torch.manual_seed(seed)
    policy: Policy = REGISTRY.build("model", options or QNetworkOptions(sizes=(8,)), signature(CARTPOLE))
    return policy


@pytest.mark.parametrize("vectorization", ["native", "synchronous"])
@pytest.mark.parametrize(
    "options", [QNetworkOptions(sizes=(8,)), ActorCriticOptions(sizes=(8,), memory=MemoryOptions(size=4))]
)
def test_returns_are_those_of_single_episodes_played_one_by_one(vectorization: Any, options: Any) -> None:
    """A plain loop over one CartPole from each episode's first observation gives the same return."""
    # Short episodes: in long ones the last bit of the starting state grows until it matters.
    for seed in range(20):
        policy = _policy(options, seed)
        environments = build(EnvironmentOptions(id="CartPole-v1", vectorization=vectorization), seed=5, count=6)
        first = environments.reset()["observation"]
        found = play(policy, environments, 6)
        if 12 < found.returns.max() < 100:
            break
    expected = []
    single: Any = gym.make("CartPole-v1", max_episode_steps=-1).unwrapped
    for observation in first:
        single.reset(seed=0)
        single.state, state, length = observation.astype(np.float64), policy.initial_state(1), 0
        current, ended = observation, False
        while not ended and length < 500:
            with torch.no_grad():
                outputs, state = policy({"observation": torch.from_numpy(current[None])}, state)
            current, _, ended, _, _ = single.step(int(outputs["action"].argmax()))
            length += 1
        expected.append(length)
    assert sorted(found.returns.tolist()) == pytest.approx(sorted(expected), abs=1)
    assert np.array_equal(found.returns, found.lengths), "CartPole pays 1 for each step"


def test_every_copy_plays_its_share_of_whole_episodes() -> None:
    """Short episodes don't crowd out long ones: each copy counts a fixed number of its own."""
    signature_of = signature(CARTPOLE).model_copy(
        update={"inputs": {"observation": signature(CARTPOLE).inputs["observation"].model_copy(update={"shape": (2,)})}}
    )
    policy = REGISTRY.build("model", QNetworkOptions(sizes=(4,)), signature_of)
    script = ((1, True, False), (50, False, True))
    found = play(policy, SynchronousEnvironments(lambda: Counter(script), 3, 0, "probe"), 8)
    assert len(found.returns) == 8
    assert sorted(found.lengths.tolist()) in ([1] * 3 + [50] * 5, [1] * 5 + [50] * 3, [1] * 4 + [50] * 4)
    assert all(r == length * (length + 1) / 2 for r, length in zip(found.returns, found.lengths))


def test_evaluation_leaves_no_trace_and_repeats_itself() -> None:
    policy = _policy()
    policy.train()
    evaluator = EpisodeEvaluator(CARTPOLE, episodes=10, seed=3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index,union-attr]
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    one = evaluator.evaluate(policy, Clock(updates=7))
    other = EpisodeEvaluator(CARTPOLE, episodes=10, seed=3).evaluate(policy, Clock(updates=7))
    assert one == other == evaluator.evaluate(policy, Clock(updates=7))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]
    assert random.getstate() == before[2]
    assert policy.training
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())


@pytest.mark.parametrize("options", [QNetworkOptions, ActorCriticOptions])
def test_observation_statistics_are_frozen_at_evaluation(options: Any) -> None:
    policy = _policy(options(sizes=(8,), normalise=True))
    moments = {"count": torch.tensor(9.0), "mean": torch.full((4,), 0.5), "squares": torch.full((4,), 3.0)}
    policy.observe({"observation": {name: value.double() for name, value in moments.items()}})
    assert float(policy.normalisers["observation"].count) == 9
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    EpisodeEvaluator(CARTPOLE, episodes=10, seed=3).evaluate(policy, Clock())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_memory_is_empty_at_the_start_of_every_episode() -> None:
    """Played one after another in one copy, episodes are as each alone with a new memory."""
    found = signature_of(Recall().observation_space, Recall().action_space, "recall")
    torch.manual_seed(3)
    policy: Policy = REGISTRY.build("model", ActorCriticOptions(sizes=(8,), memory=MemoryOptions(size=6)), found)
    with torch.no_grad():
        # A memory that nothing but the start of an episode ever clears.
        policy.memory.cell.bias_ih[6:12] += 3.0  # type: ignore[union-attr, index]
        policy.policy_head.layers[0].weight *= 100  # type: ignore[union-attr, index, operator]
    environments = SynchronousEnvironments(lambda: Recall(2), 1, 5, "recall")
    played = play(policy, environments, 40).returns.tolist()
    alone = []
    for episode in range(40):
        single = Recall(2)
        observation, _ = single.reset(seed=derive(5, 0, episode) % 2**32)
        state, ended, total = policy.initial_state(1), False, 0.0
        while not ended:
            inputs = {"observation": torch.from_numpy(observation)[None]}
            outputs, state = policy(inputs, state)
            observation, reward, ended, _, _ = single.step(int(outputs["action"].argmax()))
            total += reward
        alone.append(total)
    assert played == alone
    assert sum(alone) > 0


def test_each_evaluation_has_fresh_episodes_and_seeds_matter() -> None:
    policy = _policy()
    evaluator = EpisodeEvaluator(CARTPOLE, episodes=30, seed=3)
    first = evaluator.evaluate(policy, Clock(updates=1))
    assert first != evaluator.evaluate(policy, Clock(updates=2))
    assert first != EpisodeEvaluator(CARTPOLE, episodes=30, seed=4).evaluate(policy, Clock(updates=1))


def test_a_hundred_full_episodes_take_a_fraction_of_a_second() -> None:
    policy = _policy(QNetworkOptions(sizes=(64, 64)))
    with torch.no_grad():  # a linear controller that balances: lean against angle and speed
        for parameter in policy.parameters():
            parameter.zero_()
        layers: Any = policy.network.layers  # type: ignore[union-attr]
        layers[0].weight[0] = torch.tensor([0.1, 0.3, 5.0, 1.0])
        layers[0].bias[0] = 100.0
        layers[1].weight[0, 0] = layers[2].weight[1, 0] = 1.0
        layers[2].bias[0] = 100.0
    evaluator = EpisodeEvaluator(CARTPOLE, episodes=100, seed=0)
    evaluator.run(policy, "warm")
    best = min(_seconds(evaluator, policy) for _ in range(3))
    assert evaluator.run(policy, "x").returns.mean() > 490
    assert best < 0.9  # alone on the machine about 0.06 s; three times the bar of 0.3 s, for a loaded one


def _seconds(evaluator: EpisodeEvaluator, policy: Policy) -> float:
    began = time.perf_counter()
    evaluator.run(policy, "timed")
    return time.perf_counter() - began


class Lucky(gym.Env[Any, Any]):
    """Ends after three steps, by success or not, as its generator says; it boasts in every step before."""

    def __init__(self, says: bool = True) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.says = says

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.luck = 0, bool(self.np_random.random() < 0.5)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        ends = self.time == 3
        said = {"is_success": np.float32(self.luck) if ends else True} if self.says else {}
        return np.zeros(1, np.float32), float(ends and self.luck), False, ends, said


@pytest.mark.parametrize("kind", ["synchronous", "processes", "next-step", "same-step"])
def test_success_is_what_the_environment_says_in_the_last_step(kind: str) -> None:
    if "Lucky-v0" not in gym.registry:
        gym.register("Lucky-v0", Lucky)
    options = EnvironmentOptions(id="Lucky-v0", count=4)
    environments: Environments
    if kind in ("synchronous", "processes"):
        environments = build(options.model_copy(update={"vectorization": kind}), seed=1)
    else:
        mode = AutoresetMode.NEXT_STEP if kind == "next-step" else AutoresetMode.SAME_STEP
        vector = SyncVectorEnv([Lucky] * 4, autoreset_mode=mode)
        environments = NativeEnvironments(vector, 1, "lucky")
    torch.manual_seed(0)
    policy: Policy = REGISTRY.build("model", QNetworkOptions(sizes=(4,)), signature(options))
    try:
        found = play(policy, environments, 24)
    finally:
        environments.close()
    assert found.successes.tolist() == found.returns.tolist()
    assert found.metrics()["success"] == found.returns.mean()
    assert 0 < found.returns.mean() < 1


def test_no_rate_of_success_where_nothing_is_said() -> None:
    environments = SynchronousEnvironments(lambda: Lucky(says=False), 2, 0, "lucky")
    policy: Policy = REGISTRY.build("model", QNetworkOptions(sizes=(4,)), environments.signature)
    assert "success" not in play(policy, environments, 4).metrics()


def test_an_evaluation_is_greedy_unless_stated() -> None:
    """Scored by a policy that can draw: only when asked does it."""
    policy = _policy(ActorCriticOptions(sizes=(8,)))
    environments = build(CARTPOLE, seed=0, count=10)
    environments.reseed(derive(3, "evaluation", "1"))
    greedy = play(policy, environments, 10)
    told = EpisodeEvaluator(CARTPOLE, episodes=10, seed=3).run(policy, "1")
    drawn = EpisodeEvaluator(CARTPOLE, episodes=10, seed=3, stochastic=True).run(policy, "1")
    assert told.returns.tolist() == greedy.returns.tolist()
    assert told.returns.tolist() != drawn.returns.tolist()
