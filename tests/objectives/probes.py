"""Probe environments: each is solved only by an algorithm whose one part it probes works."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Probe(gym.Env[Any, Any]):
    """Episodes of one or two steps; observes a bit as -1 or 1, or as 0 or 1 where `tabular`.

    `kind`: "constant" (a reward of 1, whatever happens), "observation" (the reward is the bit, 1 or -1), "discount"
    (two steps that pay 0 and then 1; the bit says which), "action" (1 for the right action), "both" (1 for the action
    that is the bit). A continuous action in [0, 4] pays 1 less a quarter of the squared distance from 3, or for "both"
    from 1 or 3.
    """

    def __init__(self, kind: str, continuous: bool = False, tabular: bool = False) -> None:
        self.observation_space = gym.spaces.Discrete(2) if tabular else gym.spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(0, 4, (1,), np.float32) if continuous else gym.spaces.Discrete(2)
        self.kind, self.continuous, self.tabular = kind, continuous, tabular
        self.bit, self.time = 0, 0

    def _observe(self) -> Any:
        return np.int64(self.bit) if self.tabular else np.array([2 * self.bit - 1], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2))
        self.bit, self.time = drawn if self.kind in ("observation", "both") else 0, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        reward, ends = 1.0, True
        match self.kind:
            case "observation":
                reward = 2.0 * self.bit - 1
            case "discount":
                reward, ends = float(self.time == 2), self.time == 2
                self.bit = 1
            case "action" | "both":
                wanted = self.bit if self.kind == "both" else 1
                reward = float(int(action) == wanted) if not self.continuous else self._near(action, wanted)
        return self._observe(), reward, ends, False, {}

    def _near(self, action: Any, wanted: int) -> float:
        centre = 1.0 + 2 * wanted if self.kind == "both" else 3.0
        return 1 - float((action[0] - centre) ** 2) / 4


class Dials(gym.Env[Any, Any]):
    """Two dials of three and two settings, numbered from 1 and from 0: 1 for each that is set to its own light."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.MultiDiscrete([3, 2])
        self.action_space = gym.spaces.MultiDiscrete([3, 2], start=[1, 0])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.light = self.np_random.integers([3, 2])
        self.time = 0
        return self.light.copy(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1
        reward = float(action[0] == self.light[0] + 1) + float(action[1] == self.light[1])
        self.light = self.np_random.integers([3, 2])
        return self.light.copy(), reward, self.time == 5, False, {}


def register() -> None:
    """Make them known to Gymnasium, once."""
    for name, entry in (("Probe-v0", Probe), ("Dials-v0", Dials)):
        if name not in gym.registry:
            gym.register(name, entry)
