"""Hindsight replay against a buffer that keeps whole episodes; its goals, rewards and ends; who can learn with it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reinforge.core.contracts import Clock, Experience
from reinforge.core.tree import pack, unpack
from reinforge.engine.loop import Engine
from reinforge.environments.build import build, signature
from reinforge.environments.goals import Goals
from reinforge.environments.observations import copied
from reinforge.environments.options import EnvironmentOptions, RewardOptions
from reinforge.environments.vector import Environments, NativeEnvironments
from reinforge.errors import EnvironmentFault
from reinforge.models.policy_options import DeterministicOptions, QNetworkOptions, SquashedGaussianOptions
from reinforge.objectives.options import DDPGOptions, DQNOptions, SACOptions, TD3Options
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.buffer import TransitionBuffer
from reinforge.sources.collector import as_batch
from reinforge.sources.hindsight import Hindsight
from reinforge.sources.options import EpsilonOptions, HindsightOptions, PrioritiesOptions, ReplayOptions
from reinforge.sources.replay import ReplaySource
from tests.environments import goal_world
from tests.sources.test_buffer import Everything
from tests.sources.test_replay import same

goal_world.register()


def _environments(options: EnvironmentOptions, kind: str) -> Environments:
    if kind == "synchronous":
        return build(options, seed=3)
    mode = AutoresetMode.NEXT_STEP if kind == "next-step" else AutoresetMode.SAME_STEP
    made = [lambda: gym.make(options.id, disable_env_checker=True, **options.options)] * options.count
    return NativeEnvironments(SyncVectorEnv(made, autoreset_mode=mode), 3, "goals")


class Plain:
    """Relabels one row after the other, from episodes that it keeps as lists, by the same draws."""

    def __init__(self, options: HindsightOptions, rows: Everything, environment: Any) -> None:
        self.options, self.rows, self.environment = options, rows, environment

    def gather(self, numbers: Any, n_step: int, frames: int, generator: np.random.Generator) -> dict[str, Any]:
        rows = self.rows.rows
        found = self.rows.gather(numbers, n_step, frames)
        chosen = generator.random(len(numbers)) < self.options.goals / (self.options.goals + 1)
        draws = iter(generator.random(chosen.sum()).tolist())
        for place in np.flatnonzero(chosen):
            chain = [int(numbers[place])]
            while later := [k for k in range(chain[-1] + 1, len(rows)) if rows[k]["before"] == chain[-1]]:
                chain.append(later[0])
            draw = next(draws)
            step = len(chain) - 1 if self.options.strategy == "final" else int(draw * len(chain))
            goal = rows[chain[step]]["next"]["achieved_goal"]
            rewards, length, terminated = np.zeros(n_step, np.float32), 0, False
            for k in chain[:n_step]:
                reached = rows[k]["next"]["achieved_goal"]
                rewards[length] = self.environment.compute_reward(reached, goal, {})
                length += 1
                if hasattr(self.environment, "compute_terminated"):
                    terminated = bool(self.environment.compute_terminated(reached, goal, {}))
                else:
                    terminated = bool(rows[k]["terminated"])
                if terminated:
                    break
            last = chain[length - 1]
            cut = self.rows.gather(np.array([numbers[place]]), length, frames)
            assert length == cut["length"][0]
            assert np.array_equal(cut["next_observation"]["achieved_goal"][0], rows[last]["next"]["achieved_goal"])
            for name, value in cut["next_observation"].items():
                found["next_observation"][name][place] = value[0]
            for when in ("observation", "next_observation"):
                found[when]["desired_goal"][place] = goal
                if frames > 1:
                    found[when]["past/desired_goal"][place] = goal
            found["rewards"][place], found["length"][place], found["terminated"][place] = rewards, length, terminated
        return found


@pytest.mark.parametrize("kind", ["synchronous", "next-step", "same-step"])
@pytest.mark.parametrize("name", ["Bits-v0", "Point-v0", "Silent-v0"])
@pytest.mark.parametrize(("ends", "n_step", "frames", "strategy"), [
    (False, 1, 1, "future"), (True, 3, 1, "future"), (True, 2, 3, "final"),
])  # fmt: skip
def test_batches_are_those_of_relabelling_by_hand(
    kind: str, name: str, ends: bool, n_step: int, frames: int, strategy: Any
) -> None:
    options = EnvironmentOptions(id=name, count=3, options={"size": 2, "ends": ends})
    environments, generator = _environments(options, kind), np.random.default_rng(0)
    buffer, chosen = TransitionBuffer(90, environments.codec, 3), HindsightOptions(goals=3, strategy=strategy)
    everything = Everything(90, buffer.length)
    ours = Hindsight(chosen, buffer, Goals(options))
    plain = Plain(chosen, everything, gym.make(name, **options.options).unwrapped)
    observation, relabelled = environments.reset(), 0
    for time in range(90):
        action = environments.codec.taken(np.stack([environments_action(options, generator) for _ in range(3)]))
        step = environments.step(action)
        for buffered in (buffer, everything):
            numbers = buffered.add(copied(observation), action, step)  # type: ignore[attr-defined]
        ours.add(numbers)
        observation = step.observation
        if time % 9 == 8:
            drawn = generator.integers(buffer.oldest, buffer.total, 24)
            one, other = (each.gather(drawn, n_step, frames, np.random.default_rng(time)) for each in (ours, plain))
            assert same(as_batch(one), as_batch(other))
            before: Any = buffer.gather(drawn, n_step, frames)["observation"]
            relabelled += int((one["observation"]["desired_goal"] != before["desired_goal"]).any(1).sum())  # type: ignore
            # A buffer that was restored draws the same.
            again = TransitionBuffer(90, environments.codec, 3)
            packed = pack(buffer.state_dict())
            again.load_state_dict(unpack(packed.skeleton, packed.tensors, packed.sealed))
            restored = Hindsight(chosen, again, ours.goals)
            restored.rebuild()
            assert same(as_batch(one), as_batch(restored.gather(drawn, n_step, frames, np.random.default_rng(time))))
    assert relabelled > 50


def environments_action(options: EnvironmentOptions, generator: np.random.Generator) -> Any:
    """One random action."""
    size = int(options.options["size"])  # type: ignore[arg-type]
    if options.id == "Point-v0":
        return generator.uniform(-1, 1, size).astype(np.float32)
    return generator.integers(size)


def test_goals_are_drawn_uniformly_from_what_is_to_come() -> None:
    """Of k + 1 rows k, and each later step of the episode equally often; other rows keep their goal and reward."""
    options = EnvironmentOptions(id="Point-v0", count=2, options={"length": 5})
    environments, generator = build(options, seed=0), np.random.default_rng(0)
    buffer = TransitionBuffer(100, environments.codec, 2)
    hindsight = Hindsight(HindsightOptions(goals=4), buffer, Goals(options))
    observation = environments.reset()
    for _ in range(25):
        action = generator.uniform(-1, 1, (2, 2)).astype(np.float32)
        step = environments.step(action)
        hindsight.add(buffer.add(observation, action, step))
        observation = step.observation
    whole: Any = buffer.gather(np.arange(50), 1)
    rows = 20_000
    # The first row of the second episode of the first copy: five steps lie ahead, its own among them.
    found: Any = hindsight.gather(np.full(rows, 10), 1, 1, generator)
    goals, kept = found["observation"]["desired_goal"], whole["observation"]["desired_goal"][10]
    changed = (goals != kept).any(1)
    assert changed.mean() == pytest.approx(0.8, abs=0.02)
    assert (found["rewards"][~changed] == whole["rewards"][10]).all()
    ahead = whole["next_observation"]["achieved_goal"][[10, 12, 14, 16, 18]]
    shares = [(goals == goal).all(1).sum() / changed.sum() for goal in ahead]
    assert shares == pytest.approx([0.2] * 5, abs=0.02)
    assert sum(shares) == pytest.approx(1)


class _Greedy(goal_world.Bits):
    """Pays something beside what its goals pay."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        seen, reward, terminated, truncated, info = super().step(action)
        return seen, reward + 0.5, terminated, truncated, info


class _Mute(goal_world.Bits):
    compute_reward: Any = property()

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._seen(), 0.0, False, False, {}


class _Broken(goal_world.Bits):
    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return super().compute_reward(achieved, desired, info) + 0 * info["distance"]


@pytest.mark.parametrize(("given", "message"), [
    ({"id": "CartPole-v1"}, "it has no goals.*Leave out source.hindsight"),
    ({"id": "Bits-v0", "inputs": ("observation", "desired_goal")}, "hindsight needs .*achieved_goal"),
    ({"id": "Bits-v0", "frame_skip": 2}, "with frame_skip, a reward depends on more"),
    ({"id": "Bits-v0", "reward": RewardOptions(normalise=True)}, "with reward.normalise"),
    ({"id": "Mute-v0"}, "it has no compute_reward"),
    ({"id": "Greedy-v0"}, "a step paid -0.5, and compute_reward says -1"),
    ({"id": "Broken-v0"}, "KeyError: 'distance'"),
])  # fmt: skip
def test_environments_without_goals_are_refused(given: dict[str, Any], message: str) -> None:
    for entry in (_Greedy, _Mute, _Broken):
        if (name := f"{entry.__name__[1:]}-v0") not in gym.registry:
            gym.register(name, entry)
    environment = EnvironmentOptions(count=2, **given)
    if given["id"] == "Broken-v0":
        with pytest.raises(EnvironmentFault, match=message):
            Goals(environment)
        return
    with pytest.raises(EnvironmentFault, match=f"(?s){message}"):
        ReplaySource(ReplayOptions(hindsight=HindsightOptions()), environment=environment, seed=0, batch=4)


def test_rewards_are_scaled_and_clipped_as_collected_ones_are() -> None:
    plain = EnvironmentOptions(id="Point-v0")
    scaled = EnvironmentOptions(id="Point-v0", reward=RewardOptions(scale=3.0, clip=2.5))
    one, other = np.zeros((2, 2), np.float32), np.array([[0, 0], [2, 2]], np.float32)
    assert Goals(plain).judge(one, other)[0].tolist() == [0, -1]
    assert Goals(scaled).judge(one, other)[0].tolist() == [0, -2.5]


def test_what_can_be_asked_at_once_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = goal_world.Point.compute_reward

    def counted(self: Any, achieved: Any, desired: Any, info: Any) -> Any:
        calls.append(achieved.ndim)
        return original(self, achieved, desired, info)

    monkeypatch.setattr(goal_world.Point, "compute_reward", counted)
    goals = Goals(EnvironmentOptions(id="Point-v0"))
    calls.clear()
    goals.judge(np.zeros((256, 2), np.float32), np.zeros((256, 2), np.float32))
    assert calls == [2]


LEARNERS: dict[str, tuple[str, Any, Any]] = {
    "dqn": ("Bits-v0", QNetworkOptions(sizes=(32,)), DQNOptions(gamma=0.9, tau=0.05)),
    "sac": ("Point-v0", SquashedGaussianOptions(sizes=(16,)), SACOptions(critic_sizes=(16,))),
    "td3": ("Point-v0", DeterministicOptions(sizes=(16,)), TD3Options(critic_sizes=(16,))),
    "ddpg": ("Point-v0", DeterministicOptions(sizes=(16,)), DDPGOptions(critic_sizes=(16,))),
}


def _engine(name: str, source: ReplayOptions, updates: int, size: int = 2, lr: float = 1e-3) -> Engine:
    identity, model, objective = LEARNERS[name]
    environment = EnvironmentOptions(id=identity, count=4, options={"size": size})
    found = signature(environment)
    torch.manual_seed(0)
    built = REGISTRY.build("model", model, found)
    replay = ReplaySource(source, environment=environment, seed=0, batch=32)
    learn = Learn(batch=32, lr=lr, threads=1, stop=Stop(updates=updates))
    return Engine(REGISTRY.build("objective", objective, found), built, replay, learn=learn, seed=0)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("priorities", [None, PrioritiesOptions()])
def test_every_off_policy_algorithm_learns_with_it(name: str, priorities: PrioritiesOptions | None) -> None:
    if priorities is not None and name != "dqn":
        pytest.skip("priorities are DQN's")
    options = ReplayOptions(learning_starts=64, n_step=2, hindsight=HindsightOptions(), priorities=priorities)
    engine = _engine(name, options, updates=30)
    assert engine.run().reason == "updates"
    experience = engine.source.next(Clock())
    assert isinstance(experience, Experience)
    assert torch.isfinite(experience.batch["rewards"]).all()  # type: ignore[arg-type]


@pytest.mark.slow
def test_bits_are_flipped_with_hindsight_and_not_without() -> None:
    """The paper's own example: of 2^10 states one pays, and nobody finds it by chance."""
    rates = {}
    for hindsight in (HindsightOptions(), None):
        options = ReplayOptions(
            learning_starts=500,
            updates_per_step=0.25,
            hindsight=hindsight,
            epsilon=EpsilonOptions(end=0.05, steps=8_000),
        )
        engine = _engine("dqn", options, updates=6_000, size=10)
        engine.run()
        source = engine.source
        assert isinstance(source, ReplaySource)
        recent = np.array([value for value, _ in source.collector.recent])
        rates[hindsight is not None] = float((recent > -10).mean())
    assert rates[True] > 0.6 > 0.1 > rates[False], rates
