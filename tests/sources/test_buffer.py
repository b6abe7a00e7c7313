"""The replay buffer, where each observation lies once, against one that keeps everything; and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reinforge.core.contracts import Clock, Experience, Outcome
from reinforge.core.tree import pack, unpack
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.environments.observations import Array, Observation, copied
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import Codec
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Environments, NativeEnvironments, Transition
from reinforge.models.policy_options import QNetworkOptions
from reinforge.objectives.options import DQNOptions
from reinforge.registry import REGISTRY
from reinforge.sources.buffer import TransitionBuffer
from reinforge.sources.collector import Collector, as_batch
from reinforge.sources.options import PrioritiesOptions, ReplayOptions
from reinforge.sources.replay import Priorities, ReplaySource
from tests.sources.test_replay import same

GIBIBYTE = 1 << 30


class Flicker(gym.Env[Any, Any]):
    """Images of bytes, and a number beside, no two alike; episodes are terminated or truncated at random, or both."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Dict(
            image=gym.spaces.Box(0, 255, (1, 8, 8), np.uint8), number=gym.spaces.Box(-9, 9, (2,), np.float32)
        )
        self.action_space = gym.spaces.Discrete(3)

    def _seen(self) -> dict[str, Any]:
        image = self.np_random.integers(0, 256, (1, 8, 8)).astype(np.uint8)
        return {"image": image, "number": self.np_random.normal(size=2).clip(-9, 9).astype(np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        terminated, truncated = (bool(x) for x in self.np_random.random(2) < 0.12)
        return self._seen(), float(self.np_random.normal()), terminated, truncated, {}


class Everything:
    """A buffer that keeps every row whole and looks for its followers one by one."""

    def __init__(self, capacity: int, length: int) -> None:
        self.capacity, self.length, self.rows = capacity, length, list[dict[str, Any]]()

    @property
    def total(self) -> int:
        return len(self.rows)

    @property
    def oldest(self) -> int:
        return max(self.total - self.capacity, 0)

    def __len__(self) -> int:
        return self.total - self.oldest

    def add(self, observation: Observation, action: Array, step: Transition) -> Array:
        first = self.total
        for i in np.flatnonzero(step.valid):
            before = next((k for k in reversed(range(first)) if self.rows[k]["environment"] == i), None)
            if before is not None and self.rows[before]["done"]:
                before = None
            self.rows.append({
                "environment": i, "before": before, "action": action[i], "reward": step.reward[i],
                "terminated": step.terminated[i], "done": step.terminated[i] or step.truncated[i],
                "observation": {k: v[i].copy() for k, v in observation.items()},
                "next": {k: v[i].copy() for k, v in step.final_observation.items()},
            })  # fmt: skip
        return np.arange(first, self.total)

    def gather(self, numbers: Array, n_step: int, frames: int = 1) -> dict[str, Any]:
        rows = [self._row(int(number), n_step, frames) for number in numbers]
        return {
            name: {part: np.stack([row[name][part] for row in rows]) for part in rows[0][name]}
            if isinstance(rows[0][name], dict)
            else np.stack([row[name] for row in rows])
            for name in rows[0]
        }

    def newest(self, numbers: int) -> Observation:
        rows = self.rows[max(self.total - numbers, self.oldest) :]
        return {name: np.stack([row["observation"][name] for row in rows]) for name in rows[0]["observation"]}

    def _row(self, number: int, n_step: int, frames: int) -> dict[str, Any]:
        chain = [number]
        while len(chain) < n_step:
            later = [k for k in range(chain[-1] + 1, self.total) if self.rows[k]["before"] == chain[-1]]
            if not later:
                break
            chain.append(later[0])
        first, last = self.rows[number], self.rows[chain[-1]]
        rewards = np.zeros(n_step, np.float32)
        rewards[: len(chain)] = [self.rows[k]["reward"] for k in chain]
        return {
            "observation": first["observation"] | self._past(number, frames - 1, None),
            "action": first["action"],
            "length": np.int64(len(chain)),
            "next_observation": last["next"] | self._past(chain[-1], frames - 1, chain[-1]),
            "terminated": last["terminated"],
            "rewards": rewards,
        }

    def _past(self, number: int, count: int, last: int | None) -> dict[str, Any]:
        if count == 0:
            return {}
        found: list[int] = [] if last is None else [last]
        # What is left of the oldest segment counts, for a resumed run has it too.
        segment = self.length // 17
        while len(found) < count:
            before = self.rows[number]["before"]
            number = number if before is None or before < self.oldest // segment * segment else before
            found.insert(0, number)
        names = self.rows[number]["observation"]
        return {f"past/{k}": np.stack([self.rows[n]["observation"][k] for n in found]) for k in names}


def _environments(kind: str, count: int) -> Environments:
    if kind == "synchronous":
        return SynchronousEnvironments(Flicker, count, 3, "flicker")
    mode = AutoresetMode.NEXT_STEP if kind == "next-step" else AutoresetMode.SAME_STEP
    return NativeEnvironments(SyncVectorEnv([Flicker] * count, autoreset_mode=mode), 3, "flicker")


@pytest.mark.parametrize("kind", ["synchronous", "next-step", "same-step"])
@pytest.mark.parametrize(
    ("count", "capacity", "n_step", "frames"), [(1, 40, 1, 4), (3, 64, 3, 2), (5, 7, 4, 1), (2, 300, 2, 1)]
)
@pytest.mark.parametrize("prioritised", [False, True])
def test_batches_are_those_of_a_buffer_that_keeps_everything(
    kind: str, count: int, capacity: int, n_step: int, frames: int, prioritised: bool
) -> None:
    environments, generator = _environments(kind, count), np.random.default_rng(0)
    buffer = TransitionBuffer(capacity, environments.codec, count)
    plain = Everything(capacity, buffer.length)
    both: list[Any] = [buffer, plain]
    options = PrioritiesOptions(alpha=0.8, beta_steps=400)
    priorities = [Priorities(options, each) for each in both]
    observation = environments.reset()
    for time in range(420 // count):
        action = generator.integers(3, size=count)
        step = environments.step(action)
        numbers = [each.add(copied(observation), action, step) for each in both]
        assert np.array_equal(*numbers)
        observation = step.observation
        for each in priorities:
            each.add(numbers[0])
        if not plain.rows or time % 5:
            continue
        drawn: Any = np.arange(plain.oldest, plain.total)
        if prioritised:
            seed, td = int(generator.integers(1 << 30)), torch.from_numpy(generator.exponential(size=8))
            found = [each.sample(8, np.random.default_rng(seed), time * count) for each in priorities]
            assert all(np.array_equal(a, b) for a, b in zip(*found))
            drawn = found[0][0]
            for each in priorities:
                each.feedback(Outcome({}, {"td": td}, False))
        assert same(as_batch(buffer.gather(drawn, n_step, frames)), as_batch(plain.gather(drawn, n_step, frames)))
        assert same(as_batch(buffer.newest(9)), as_batch(plain.newest(9)))


def test_a_cut_keeps_what_was_seen_before_it_and_survives_saving() -> None:
    """A run whose environments could not be put back: no return may cross from the old episodes into the new."""
    environments = _environments("synchronous", 2)
    buffer = TransitionBuffer(64, environments.codec, 2)
    observation, action = environments.reset(), np.zeros(2, np.int64)
    for _ in range(9):
        last, step = copied(observation), environments.step(action)
        buffer.add(last, action, step)
        observation = step.observation
    final, newest = step.final_observation, np.arange(buffer.total - 2, buffer.total)
    buffer.cut()
    environments.reseed(9)
    observation = environments.reset()
    step = environments.step(action)
    buffer.add(observation, action, step)
    again = TransitionBuffer(64, environments.codec, 2)
    packed = pack(buffer.state_dict())
    again.load_state_dict(unpack(packed.skeleton, packed.tensors, packed.sealed))
    for each in (buffer, again):
        found: Any = each.gather(newest, 3)
        assert found["length"].tolist() == [1, 1]
        assert all(np.array_equal(found["next_observation"][name], final[name]) for name in final)


@pytest.mark.parametrize("episode", [200, 30])
def test_a_million_stacks_of_four_frames_take_less_than_eight_gibibytes(episode: int) -> None:
    """Measured on arrays of a hundredth of the size, full, with episodes of no more than so many steps."""
    space = gym.spaces.Box(0, 255, (1, 84, 84), np.uint8)
    buffer = TransitionBuffer(10_000, Codec(space, gym.spaces.Discrete(6), "frames"), 8)
    seen, nothing = {"observation": np.zeros((8, 1, 84, 84), np.uint8)}, np.zeros(8, np.bool_)
    for time in range(1_400):
        ends = np.full(8, time % episode == episode - 1)
        step = Transition(seen, np.zeros(8, np.float32), nothing, ends, seen, ~nothing, ends)
        buffer.add(seen, np.zeros(8, np.int64), step)
    assert len(buffer) == 10_000
    stack: Any = buffer.gather(np.arange(buffer.oldest, buffer.oldest + 3), 1, frames=4)["observation"]
    assert stack["observation"].nbytes + stack["past/observation"].nbytes == 3 * 4 * 84 * 84
    assert sum(a.nbytes for v in vars(buffer).values() if isinstance(v, dict) for a in v.values()) <= buffer.nbytes
    assert buffer.nbytes * 100 < 8 * GIBIBYTE


def test_observations_that_episodes_ended_with_give_their_room_back() -> None:
    """However long it collects, its memory stays what it was when the ring was full."""
    environments = _environments("synchronous", 3)
    buffer = TransitionBuffer(48, environments.codec, 3)
    observation, action, sizes = environments.reset(), np.zeros(3, np.int64), []
    for _ in range(600):
        step = environments.step(action)
        buffer.add(observation, action, step)
        observation = step.observation
        sizes.append(buffer.nbytes)
    assert sizes[-1] == max(sizes) == sizes[100]


def test_sealing_takes_no_second_copy_of_what_was_seen() -> None:
    environments = _environments("synchronous", 2)
    buffer = TransitionBuffer(64, environments.codec, 2)
    observation, action = environments.reset(), np.zeros(2, np.int64)
    for _ in range(30):
        step = environments.step(action)
        buffer.add(observation, action, step)
        observation = step.observation
    for _ in range(2):
        sealed = buffer.state_dict()["sealed"]
        assert sealed
        for part in sealed:
            assert np.shares_memory(part.tensors["observation/image"].numpy(), buffer._seen["image"])
        before = buffer._seen["image"]
        # More episodes end than there was room for.
        buffer._places_of_finals(len(buffer._free) + 1)
        assert buffer._seen["image"] is not before


def test_checkpoints_write_a_sealed_segment_once(tmp_path: Path) -> None:
    """And a run that was resumed links it too."""
    environment = EnvironmentOptions(id="CartPole-v1", count=4)
    options = ReplayOptions(capacity=640, learning_starts=0)

    def source() -> ReplaySource:
        found = ReplaySource(options, environment=environment, seed=0, batch=8)
        torch.manual_seed(0)
        signature = found.collector.environments.signature
        model = REGISTRY.build("model", QNetworkOptions(sizes=(8,)), signature)
        found.publish(REGISTRY.build("objective", DQNOptions(), signature).build(model), Clock())
        return found

    def advance(each: ReplaySource, count: int) -> None:
        for _ in range(count):
            assert isinstance(each.next(Clock()), Experience)

    def inodes(path: Path) -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in (path / "sealed").iterdir()}

    first, store = source(), CheckpointStore(tmp_path)
    advance(first, 100)
    one = inodes(store.save({"source": first.state_dict()}, updates=1))
    advance(first, 50)
    two = inodes(store.save({"source": first.state_dict()}, updates=2))
    assert one.items() < two.items()
    store, second = CheckpointStore(tmp_path), source()
    state = store.latest()
    assert state is not None
    second.load_state_dict(state["source"])
    advance(second, 60)
    three = inodes(store.save({"source": second.state_dict()}, updates=3))
    assert two.items() < three.items()
    assert isinstance(second.collector, Collector)
