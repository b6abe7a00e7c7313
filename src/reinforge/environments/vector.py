"""Vector environments behind one interface: nothing above knows of autoreset, and every transition is a real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from reinforge.core.contracts import State
from reinforge.core.seeds import derive
from reinforge.environments.observations import Array, Observation, copied, put, rows
from reinforge.environments.options import ImageOptions
from reinforge.environments.spaces import Codec
from reinforge.errors import CheckpointError, EnvironmentFault
from reinforge.schema.signature import Signature

# Where environments say whether an episode has reached its goal.
SUCCESS = "is_success"


class Transition(NamedTuple):
    """One step of n environments.

    `observation` {name: (n, ...)} is what to act on next: after the end of an episode the first one of the next, as
    soon as the environment gives it. `final_observation`, of the same kind, is what the action truly led to, to learn
    from. `reward` float32, `terminated`, `truncated` bool (n,), never both: a terminal state wins. `valid` bool (n,) is
    False where the step only began an episode and must not be learned from; `start` (n,): `observation` begins one.
    `success` float32 (n,): what an environment says of it (`info["is_success"]`), NaN where it says nothing.
    """

    observation: Observation
    reward: Array
    terminated: Array
    truncated: Array
    final_observation: Observation
    valid: Array
    start: Array
    success: Array | None = None


class Environments(Protocol):
    """n copies of one environment, stepped together. `exact` False: its state can't be restored bit for bit."""

    count: int
    exact: bool
    codec: Codec

    @property
    def signature(self) -> Signature: ...

    def reset(self) -> Observation:
        """Begin the first episodes."""
        ...

    def reseed(self, seed: int) -> None:
        """Take another seed, from the next reset on."""
        ...

    def step(self, action: Array) -> Transition:
        """Take actions (n,) or (n, choices) int64, or (n, size) float32. Raises EnvironmentFault where the contract is
        broken."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...

    def close(self) -> None: ...


class NativeEnvironments:
    """An environment that is vectorised itself (`gymnasium.vector.VectorEnv`), in either autoreset mode.

    Its state is taken from its own arrays and its generator, where it holds nothing else that changes; otherwise it
    is not `exact`. Its episodes draw from one generator, seeded once from (seed, "environments").
    """

    def __init__(
        self,
        environment: gym.vector.VectorEnv[Any, Any, Any],
        seed: int,
        where: str,
        only: Sequence[str] | None = None,
        images: ImageOptions = ImageOptions(),  # noqa: B008
    ) -> None:
        mode = environment.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise EnvironmentFault(
                f"it does not say how it resets itself (autoreset_mode is {mode!r})",
                where=where,
                remedy="Set metadata['autoreset_mode'] to NEXT_STEP or SAME_STEP.",
            )
        self.count = environment.num_envs
        self.codec = Codec(environment.single_observation_space, environment.single_action_space, where, only, images)
        self._environment, self._seed, self._next_step = environment, seed, mode is AutoresetMode.NEXT_STEP
        self._resetting = np.zeros(self.count, dtype=np.bool_)
        self._nothing = np.zeros(self.count, dtype=np.bool_)
        self._everything = np.ones(self.count, dtype=np.bool_)
        self.exact = _restorable(environment.unwrapped)

    @property
    def signature(self) -> Signature:
        return self.codec.signature

    def reseed(self, seed: int) -> None:
        self._seed = seed

    def reset(self) -> Observation:
        moment = "in reset"
        try:
            observation, _ = self._environment.reset(seed=derive(self._seed, "environments") % 2**32)
        except Exception as error:  # a user's environment may raise anything
            raise self.codec.raised(error, moment) from error
        self._resetting = self._nothing
        # Only now does everything exist that it will hold.
        self.exact = _restorable(self._environment.unwrapped)
        return copied(self.codec.observations(observation, self.count, moment))

    def step(self, action: Array) -> Transition:
        moment = "in step"
        try:
            raw, reward, terminated, truncated, info = self._environment.step(self.codec.actions(action))
        except Exception as error:  # a user's environment may raise anything
            raise self.codec.raised(error, moment) from error
        # A copy, since an environment may write its next observation into the same array.
        observation = copied(self.codec.observations(raw, self.count, moment))
        reward = self.codec.rewards(reward, self.count, moment)
        terminated = self.codec.flags(terminated, self.count, "terminated", moment)
        truncated = self.codec.flags(truncated, self.count, "truncated", moment) & ~terminated
        done = terminated | truncated
        if self._next_step:
            began = self._resetting
            self._resetting = done
            valid = ~began if began.any() else self._everything
            success = _successes(info, self.count, self._nothing)
            return Transition(observation, reward, terminated, truncated, observation, valid, began, success)
        final = observation
        if done.any():
            final = copied(observation)
            given = info.get("final_obs")
            if given is None:
                raise self.codec.fault("an episode ended without 'final_obs'", moment, "same-step autoreset")
            ended = np.flatnonzero(done)
            put(final, ended, _finals(self.codec, given, ended, moment))
        success = _successes(info, self.count, done)
        return Transition(observation, reward, terminated, truncated, final, self._everything, done, success)

    def state_dict(self) -> State:
        """Arrays, numbers and the generator of the environment. Empty where it is not `exact`."""
        if not self.exact:
            return {}
        inner = self._environment.unwrapped
        return {
            "arrays": {k: v.copy() for k, v in vars(inner).items() if isinstance(v, np.ndarray)},
            "numbers": {k: v for k, v in vars(inner).items() if _is_plain(v)},
            "generator": inner.np_random.bit_generator.state,
            "resetting": self._resetting.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        if not self.exact:
            return
        self.reset()
        inner = self._environment.unwrapped
        for name, value in state["arrays"].items():
            setattr(inner, name, np.array(value))
        for name, value in state["numbers"].items():
            setattr(inner, name, value)
        inner.np_random.bit_generator.state = state["generator"]
        self._resetting = np.array(state["resetting"])
        if len(self._resetting) != self.count:
            raise CheckpointError(f"it holds {len(self._resetting)} environments, not {self.count}")

    def close(self) -> None:
        self._environment.close()


def _finals(codec: Codec, given: Any, ended: Array, moment: str) -> Observation:
    """What episodes ended with: Gymnasium gives one observation for each copy, an array of them, or a dictionary of
    arrays."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        return codec.observations(given[ended], len(ended), moment)
    if isinstance(given, Mapping):
        return rows(codec.observations(given, len(next(iter(given.values()))), moment), ended)
    return codec.gathered([given[index] for index in ended], moment)


def succeeded(infos: Sequence[object]) -> Array | None:
    """What the information of n copies says of success, each by itself; None where none says anything."""
    if not any(isinstance(info, Mapping) and SUCCESS in info for info in infos):
        return None
    said = [info.get(SUCCESS) if isinstance(info, Mapping) else None for info in infos]
    known = [float(value) if isinstance(value, bool | int | float | np.generic) else np.nan for value in said]
    return np.array(known, np.float32)


def _successes(info: Mapping[str, Any], count: int, ended: Array) -> Array | None:
    """The same of n copies. What was said of those that `ended` (n,) may be among Gymnasium's final information."""
    final = info.get("final_info")
    if SUCCESS not in info and not isinstance(final, Mapping):
        return None
    parts = [(info, ~ended), (final, ended)] if isinstance(final, Mapping) else [(info, np.ones(count, np.bool_))]
    found = np.full(count, np.nan, np.float32)
    for part, mine in parts:
        if isinstance(part, Mapping) and SUCCESS in part:
            said = mine & np.broadcast_to(part.get(f"_{SUCCESS}", True), count)
            found[said] = np.asarray(part[SUCCESS], np.float32)[said]
    return None if np.isnan(found).all() else found


_PASSIVE = (bytes, gym.Space, tuple, gym.envs.registration.EnvSpec, AutoresetMode)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _restorable(environment: gym.vector.VectorEnv[Any, Any, Any]) -> bool:
    """Whether everything that can change in it is an array, a number, a text or its one generator."""
    return all(
        name == "_np_random"
        or _is_plain(value)
        or (isinstance(value, np.ndarray) and value.dtype != object)
        or isinstance(value, _PASSIVE)
        or value == {}
        for name, value in vars(environment).items()
    )
