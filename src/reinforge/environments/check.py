"""A short look at one copy of an environment before anything is learned from it: does it keep Gymnasium's contract?"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from reinforge.core.seeds import derive
from reinforge.environments.build import single
from reinforge.environments.observations import Observation, content
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.spaces import Codec

_STEPS = 64
_SECONDS = 0.5


@dataclass(frozen=True)
class Contract:
    """What was found. `seconds`: of one step, the median. `repeats`: the same seed and actions give the same episode.
    `outside`: parts of the observation that left the bounds of their space."""

    seconds: float
    repeats: bool
    outside: tuple[str, ...]


def check(options: EnvironmentOptions, seed: int = 0) -> Contract:
    """Play random actions from one seed twice. Raises EnvironmentFault where something that is given is not what was
    promised: values, shapes, types, numbers, flags."""
    environment = single(options)
    where = f"environment {options.id!r}"
    try:
        codec = Codec(environment.observation_space, environment.action_space, where, options.inputs, options.images)
        look = _Look(environment, codec, derive(seed, "check") % 2**32)
        first, steps = look.play(_STEPS, _SECONDS)
        again, _ = look.play(steps)
        return Contract(float(np.median(look.seconds)), first == again, tuple(sorted(look.outside)))
    finally:
        environment.close()


class _Look:
    """Plays, and keeps what it sees."""

    def __init__(self, environment: gym.Env[Any, Any], codec: Codec, seed: int) -> None:
        self.environment, self.codec, self.seed = environment, codec, seed
        self.seconds: list[float] = []
        self.outside: set[str] = set()

    def play(self, most: int, seconds: float = math.inf) -> tuple[str, int]:
        """A digest of all that came of at most so many steps, and how many they were: fewer where time is up."""
        digest, began, done, steps = hashlib.blake2b(digest_size=16), time.perf_counter(), True, 0
        self.environment.action_space.seed(self.seed)
        for steps in range(1, most + 1):
            moment = f"in step {steps} of the check"
            if done:
                digest.update(content(self._begin(steps), 0))
            action, before = self.environment.action_space.sample(), time.perf_counter()
            try:
                given: object = self.environment.step(action)
            except Exception as error:  # a user's environment may raise anything
                raise self.codec.raised(error, moment) from error
            self.seconds.append(time.perf_counter() - before)
            if not isinstance(given, tuple) or len(given) != 5:
                promised = "(observation, reward, terminated, truncated, information)"
                raise self.codec.fault(f"step gave {_said(given)} instead of five", moment, promised)
            observation, reward, terminated, truncated, _ = given
            digest.update(content(self._seen(observation, moment), 0))
            digest.update(self.codec.rewards([reward], 1, moment).tobytes())
            ends = [
                bool(self.codec.flags([flag], 1, name, moment)[0])
                for name, flag in (("terminated", terminated), ("truncated", truncated))
            ]
            digest.update(bytes(ends))
            done = any(ends)
            if time.perf_counter() - began > seconds:
                break
        return digest.hexdigest(), steps

    def _begin(self, number: int) -> Observation:
        moment = "in reset"
        try:
            given: object = self.environment.reset(seed=(self.seed + number) % 2**32)
        except Exception as error:  # a user's environment may raise anything
            raise self.codec.raised(error, moment) from error
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
            problem = f"reset gave {_said(given)} instead of an observation and a dictionary"
            raise self.codec.fault(problem, moment, "(observation, information)")
        return self._seen(given[0], moment)

    def _seen(self, observation: object, moment: str) -> Observation:
        seen = self.codec.gathered([observation], moment)
        self.outside |= self.codec.outside(observation, moment)
        return seen


def _said(given: object) -> str:
    return f"{len(given)} values" if isinstance(given, Sequence) else f"a {type(given).__name__}"
