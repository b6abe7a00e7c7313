"""Small goal-conditioned environments: bits to flip, as in the paper of hindsight replay, and a point to move."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Bits(gym.Env[Any, Any]):
    """`size` bits, of which an action flips one; each step costs 1 until they are those that are desired.

    `ends`: that ends the episode, too. Either way it is over after `size` steps.
    """

    def __init__(self, size: int = 4, ends: bool = False) -> None:
        bits = gym.spaces.Box(0, 1, (size,), np.float32)
        self.observation_space = gym.spaces.Dict(observation=bits, achieved_goal=bits, desired_goal=bits)
        self.action_space: Any = gym.spaces.Discrete(size)
        self.size, self.ends = size, ends

    def _seen(self) -> dict[str, Any]:
        return {
            "observation": self.bits.copy(), "achieved_goal": self.bits.copy(), "desired_goal": self.goal.copy(),
        }  # fmt: skip

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits, self.goal = self.np_random.integers(0, 2, (2, self.size)).astype(np.float32)
        self.time = 0
        return self._seen(), {}

    def move(self, action: Any) -> None:
        self.bits[action] = 1 - self.bits[action]

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.move(action)
        self.time += 1
        reward = float(self.compute_reward(self.bits, self.goal, {}))
        terminated = bool(self.compute_terminated(self.bits, self.goal, {}))
        return self._seen(), reward, terminated, self.time >= self.size, {"is_success": float(reward == 0)}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return np.all(achieved == desired, axis=-1).astype(np.float32) - 1

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> Any:
        return np.all(achieved == desired, axis=-1) & self.ends


class Point(Bits):
    """A point on a line of `size` dimensions, pushed by a continuous action; it is there within 0.3."""

    def __init__(self, size: int = 2, ends: bool = False, length: int = 8) -> None:
        super().__init__(size, ends)
        place = gym.spaces.Box(-3, 3, (size,), np.float32)
        self.observation_space = gym.spaces.Dict(observation=place, achieved_goal=place, desired_goal=place)
        self.action_space = gym.spaces.Box(-1, 1, (size,), np.float32)
        self.length = length

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bits, self.goal = self.np_random.uniform(-1, 1, (2, self.size)).astype(np.float32)
        return self._seen(), {}

    def move(self, action: Any) -> None:
        self.bits = np.clip(self.bits + 0.3 * action, -3, 3).astype(np.float32)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        seen, reward, terminated, _, info = super().step(action)
        return seen, reward, terminated, self.time >= self.length, info

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return (np.linalg.norm(achieved - desired, axis=-1) < 0.3).astype(np.float32) - 1

    def compute_terminated(self, achieved: Any, desired: Any, info: Any) -> Any:
        # Of many rows it would say one thing, as gymnasium-robotics' mazes do.
        return bool(np.linalg.norm(achieved - desired) < 0.3) and self.ends


class Silent(Bits):
    """Says what a goal pays, but not what ends an episode."""

    compute_terminated: Any = property()

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.move(action)
        self.time += 1
        reward = float(self.compute_reward(self.bits, self.goal, {}))
        return self._seen(), reward, self.ends and reward == 0, self.time >= self.size, {}


def register() -> None:
    """Make them known to Gymnasium, once."""
    for name, entry in (("Bits-v0", Bits), ("Point-v0", Point), ("Silent-v0", Silent)):
        if name not in gym.registry:
            gym.register(name, entry)
