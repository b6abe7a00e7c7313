"""Small environments whose every transition is known in advance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


class Counter(gym.Env[Any, Any]):
    """Observes (episode's length, step); `script` says how each episode ends: (length, terminated, truncated), in turn.

    The reward of step t (from 1) is t; so every transition tells where it belongs.
    """

    def __init__(self, script: tuple[tuple[int, bool, bool], ...] = ((3, True, False), (2, False, True))) -> None:
        self.observation_space = gym.spaces.Box(-1000, 1000, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.script = script
        self.episode, self.time = -1, 0

    def _observe(self) -> np.ndarray[Any, Any]:
        return np.array([self.episode, self.time], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        length, terminated, truncated = self.script[self.episode % len(self.script)]
        ends = self.time >= length
        return self._observe(), float(self.time), ends and terminated, ends and truncated, {}


class Drift(gym.Env[Any, Any]):
    """A random walk pushed by a continuous or discrete action, from its own seeded generator; ends at random."""

    def __init__(self, continuous: bool = False, seeded: bool = True, length: int = 20) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        bounds = np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)
        self.action_space = gym.spaces.Box(*bounds) if continuous else gym.spaces.Discrete(3)
        self.seeded, self.length = seeded, length
        self.loose = np.random.default_rng()
        self.last_action: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed if self.seeded else None)
        self.generator = self.np_random if self.seeded else self.loose
        self.position, self.time = self.generator.normal(size=3).astype(np.float32), 0
        return self.position.copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.last_action = action
        self.time += 1
        self.position = (self.position + self.generator.normal(size=3) + 0.1 * np.sum(action)).astype(np.float32)
        terminated = bool(self.generator.random() < 0.05)
        return self.position.copy(), float(self.position[0]), terminated, self.time >= self.length, {}


class Recall(gym.Env[Any, Any]):
    """Shows a bit at the start and asks for it `delay` steps later: solvable with a memory only."""

    def __init__(self, delay: int = 3) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.delay = delay

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bit, self.time = int(self.np_random.integers(2)), 0
        return np.array([2 * self.bit - 1, 0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        asks = self.time == self.delay
        ends = self.time > self.delay
        reward = float(int(action) == self.bit) if ends else 0.0
        return np.array([0, float(asks)], np.float32), reward, ends, False, {}


class Aim(gym.Env[Any, Any]):
    """Shows x in [-1, 1]; the best action is 5 + 3x, within [0, 10]: one step, reward minus the squared distance."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(0, 10, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.x, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self.x, -float((action[0] - 5 - 3 * self.x[0]) ** 2), True, False, {}


class Faulty(gym.Env[Any, Any]):
    """Keeps the contract until `kind` breaks it, at the second step (or in reset)."""

    def __init__(self, kind: str) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.kind, self.time = kind, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.time = 0
        if self.kind == "raises in reset":
            raise KeyError("lost")
        if self.kind == "old reset":
            return np.zeros(2, np.float32)  # type: ignore[return-value]
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        observation: Any = np.zeros(2, np.float32)
        reward: Any = 1.0
        terminated: Any = False
        if self.time == 2:
            match self.kind:
                case "dtype":
                    observation = np.zeros(2, np.float64)
                case "nan":
                    observation[0] = np.nan
                case "shape":
                    observation = np.zeros(3, np.float32)
                case "object":
                    observation = {"x": 1}
                case "reward text":
                    reward = "high"
                case "reward none":
                    reward = None
                case "reward nan":
                    reward = float("nan")
                case "flag":
                    terminated = 0.5
                case "raises":
                    raise RuntimeError("boom")
                case "four values":
                    return observation, reward, terminated, {}
        return observation, reward, terminated, False, {}


class Late(gym.Env[Any, Any]):
    """Keeps the contract for so many steps of its life, then raises, until the file `mended` is there."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, steps: int, mended: str) -> None:
        self.steps, self.mended, self.lived = steps, Path(mended), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.lived += 1
        if self.lived > self.steps and not self.mended.exists():
            raise RuntimeError("the gripper jammed")
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return observation, 1.0, bool(self.np_random.random() < 0.2), False, {}
