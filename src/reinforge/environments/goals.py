"""Goal-conditioned environments: what reaching another goal would have paid, asked of the environment itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from reinforge.environments.build import single
from reinforge.environments.observations import Array
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import Codec
from reinforge.errors import EnvironmentFault

OBSERVATION, ACHIEVED, DESIRED = "observation", "achieved_goal", "desired_goal"
# Rewards and goals are kept in single precision.
_TOLERANCE = 1e-4


class Goals:
    """Rewards and ends of the transitions that led to an achieved goal, had the desired goal been another.

    The environment's observations are a Dict of "observation", "achieved_goal" and "desired_goal", and it has
    `compute_reward(achieved, desired, info)`, perhaps `compute_terminated` too, as gymnasium-robotics has them; the
    information is empty. Each is called once for all rows where that gives what it gives row by row.

    Raises EnvironmentFault for any other environment, and where a reward would depend on more than the goals.
    """

    def __init__(self, options: EnvironmentOptions) -> None:
        environment, where = single(options), f"environment {options.id!r}"
        self._where, self._scale = where, options.reward
        self._codec = Codec(environment.observation_space, environment.action_space, where, options.inputs)
        blocks = self._codec.blocks
        if not {OBSERVATION, ACHIEVED, DESIRED} <= blocks.keys():
            raise EnvironmentFault(
                f"it has no goals: hindsight needs {OBSERVATION}, {ACHIEVED} and {DESIRED} in what the policy sees, "
                f"and that has {', '.join(blocks)}",
                where=where,
                remedy="Leave out source.hindsight, or take a goal-conditioned environment, such as FetchReach-v4.",
            )
        achieved, desired = blocks[ACHIEVED], blocks[DESIRED]
        if achieved.block != desired.block or desired.block.form != "box":
            raise EnvironmentFault(
                f"its goals are no boxes of one shape ({ACHIEVED} {achieved.given}, {DESIRED} {desired.given})",
                where=where,
                remedy="Give both as Box of numbers, of the same shape.",
            )
        if options.frame_skip > 1 or options.reward.normalise:
            setting = "frame_skip" if options.frame_skip > 1 else "reward.normalise"
            raise EnvironmentFault(
                f"with {setting}, a reward depends on more than the goals, and hindsight can't compute it anew",
                where=where,
                remedy=f"Leave out {setting}, or source.hindsight.",
            )
        self._reward = self._function(environment, "compute_reward")
        if self._reward is None:
            raise EnvironmentFault(
                "it has no compute_reward(achieved_goal, desired_goal, info)",
                where=where,
                remedy="Give it one that takes arrays of goals, (rows, ...), or leave out source.hindsight.",
            )
        self._terminated = self._function(environment, "compute_terminated")
        self._at_once = dict.fromkeys(("compute_reward", "compute_terminated"), False)
        self._look(environment)

    def judge(self, achieved: Array, desired: Array) -> tuple[Array, Array | None]:
        """Rewards float32 (rows,), scaled as the options say, and whether the episode ended there, bool (rows,), from
        goals (rows, ...); None where the environment does not say what ends an episode."""
        reward = self._codec.rewards(self._ask("compute_reward", achieved, desired), len(achieved), "in compute_reward")
        scaled = reward * np.float64(self._scale.scale)
        if self._scale.clip is not None:
            scaled = np.clip(scaled, -self._scale.clip, self._scale.clip)
        if self._terminated is None:
            return scaled.astype(np.float32), None
        return scaled.astype(np.float32), self._ask("compute_terminated", achieved, desired).astype(np.bool_)

    def _function(
        self, environment: gym.Env[Any, Any], name: str
    ) -> Callable[[Array, Array, dict[str, Any]], Any] | None:
        return environment.get_wrapper_attr(name) if environment.has_wrapper_attr(name) else None

    def _ask(self, name: str, achieved: Array, desired: Array) -> Array:
        block = self._codec.blocks[DESIRED]
        one, other = (value.reshape(-1, *block.given).astype(block.native) for value in (achieved, desired))
        if self._at_once[name]:
            return np.asarray(self._call(name, one, other))
        return np.array([self._call(name, a, b) for a, b in zip(one, other)])

    def _call(self, name: str, achieved: Array, desired: Array) -> Any:
        function = self._reward if name == "compute_reward" else self._terminated
        assert function is not None
        try:
            return function(achieved, desired, {})
        except Exception as error:  # a user's environment may raise anything
            raise self._codec.raised(error, f"in {name}") from error

    def _look(self, environment: gym.Env[Any, Any]) -> None:
        """Ask for a few rows, alone and together, and compare with a step that was taken."""
        try:
            environment.reset(seed=0)
            environment.action_space.seed(0)
            observation, paid, *_ = environment.step(environment.action_space.sample())
        except Exception as error:  # a user's environment may raise anything
            raise self._codec.raised(error, "in the look at its goals") from error
        seen = self._codec.gathered([observation], "in the look at its goals")
        a, b = seen[ACHIEVED], seen[DESIRED]
        achieved, desired = np.concatenate([a, a, b, b]), np.concatenate([a, b, b, a])
        for name in ("compute_reward", *(["compute_terminated"] if self._terminated else [])):
            alone = self._ask(name, achieved, desired)
            if alone.shape != (4,):
                shape = alone.shape[1:]
                raise self._codec.fault(
                    f"{name} gave shape {shape} for one row", "in the look at its goals", "a number"
                )
            self._at_once[name] = True
            try:
                together = self._ask(name, achieved, desired)
            except EnvironmentFault:
                together = np.empty(0)
            self._at_once[name] = together.shape == alone.shape and bool((together == alone).all())
        reward = float(self._ask("compute_reward", a, b)[0])
        if abs(reward - float(paid)) > _TOLERANCE * max(1.0, abs(reward)):
            raise EnvironmentFault(
                f"a step paid {float(paid):g}, and compute_reward says {reward:g}",
                where=self._where,
                remedy="Let compute_reward state the whole reward of a step; hindsight can't learn from another.",
            )
