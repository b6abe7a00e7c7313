"""What options put around a single environment."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym


class FrameSkip(gym.Wrapper[Any, Any, Any, Any]):
    """Takes every action `skip` times, or until the episode ends, and sums the rewards."""

    def __init__(self, environment: gym.Env[Any, Any], skip: int) -> None:
        super().__init__(environment)
        self.skip = skip

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The last observation and the sum of rewards."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        for _ in range(self.skip - 1):
            if terminated or truncated:
                break
            observation, more, terminated, truncated, info = self.env.step(action)
            reward = float(reward) + float(more)
        return observation, reward, terminated, truncated, info
