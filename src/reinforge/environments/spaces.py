"""Gymnasium spaces as a signature: an observation space is an input, an action space an output."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from reinforge.errors import EnvironmentFault
from reinforge.schema.fields import Box, Continuous, Discrete, Field
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature

FLATTEN = "Wrap the environment with gymnasium.wrappers.FlattenObservation, or write a wrapper that gives a Box."


def signature(observation: gym.Space[Any], action: gym.Space[Any], where: str) -> Signature:
    """The signature of a policy between these spaces. Raises EnvironmentFault unless each is a Box or Discrete."""
    return Signature(inputs={"observation": _input(observation, where)}, outputs={"action": _output(action, where)})


def _input(space: gym.Space[Any], where: str) -> Input:
    if isinstance(space, gym.spaces.Box):
        if space.dtype.kind not in "fui":
            raise EnvironmentFault(f"observations of type {space.dtype} are not numbers", where=where, remedy=FLATTEN)
        return Input(form="box", shape=tuple(space.shape))
    if isinstance(space, gym.spaces.Discrete):
        return Input(form="categories", sizes=(int(space.n),))
    raise EnvironmentFault(f"the observation space {space} is neither Box nor Discrete", where=where, remedy=FLATTEN)


def _output(space: gym.Space[Any], where: str) -> Output:
    if isinstance(space, gym.spaces.Discrete):
        return Output(form="discrete", size=int(space.n))
    if isinstance(space, gym.spaces.Box) and space.dtype.kind == "f":
        if not space.is_bounded():
            raise EnvironmentFault(
                "its actions have no bounds", where=where, remedy="Give the action space finite `low` and `high`."
            )
        low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
        return Output(form="continuous", size=len(low), low=tuple(low), high=tuple(high))
    raise EnvironmentFault(
        f"the action space {space} is neither Discrete nor a Box of real numbers",
        where=where,
        remedy="Wrap the environment so that it takes one of the two.",
    )


def schema(observation: gym.Space[Any], action: gym.Space[Any], where: str) -> Schema:
    """The same as typed fields: a box "observation" (a numbered state is a box of one integer), and the action."""
    signature(observation, action, where)
    seen: Field
    if isinstance(observation, gym.spaces.Discrete):
        first = float(observation.start)
        seen = Box(shape=(), dtype="int64", low=first, high=first + float(observation.n) - 1)
    else:
        assert isinstance(observation, gym.spaces.Box)
        seen = Box.model_validate(
            {"shape": observation.shape, "dtype": _dtype(observation.dtype)}
            | {side: _bounds(getattr(observation, side)) for side in ("low", "high")}
        )
    taken: Field
    if isinstance(action, gym.spaces.Discrete):
        taken = Discrete(n=int(action.n), start=int(action.start))
    else:
        assert isinstance(action, gym.spaces.Box)
        taken = Continuous(low=tuple(action.low.ravel().tolist()), high=tuple(action.high.ravel().tolist()))
    return Schema(fields=(seen, taken))


def _dtype(dtype: np.dtype[Any]) -> str:
    return "uint8" if dtype == np.uint8 else "int64" if dtype.kind in "iu" else "float32"


def _bounds(bound: np.ndarray[Any, Any]) -> float | tuple[float | None, ...] | None:
    """One number where all elements share it, None where there is no bound."""
    flat = [float(x) if np.isfinite(x) and abs(x) < np.finfo(np.float32).max else None for x in bound.ravel()]
    return flat[0] if len(set(flat)) <= 1 and flat else tuple(flat)


class Codec:
    """Checks and converts what goes into an environment and what comes out of it.

    Observations: Box becomes float32 or uint8 (n, *shape), Discrete int64 (n, 1) from 0. Actions: int64 (n,) from 0, or
    float32 (n, size), clipped to the bounds here, so that a policy's own sample stays as it was drawn.
    """

    def __init__(self, observation: gym.Space[Any], action: gym.Space[Any], where: str) -> None:
        self.signature = signature(observation, action, where)
        self.where = where
        self._observation, self._action = observation, action
        self._shape: tuple[int, ...] = tuple(observation.shape or ())
        self._native: np.dtype[Any] = np.dtype(observation.dtype)
        self.discrete_observation = isinstance(observation, gym.spaces.Discrete)
        self.discrete_action = isinstance(action, gym.spaces.Discrete)
        self._first_observation = int(observation.start) if isinstance(observation, gym.spaces.Discrete) else 0
        self._first_action = int(action.start) if isinstance(action, gym.spaces.Discrete) else 0
        self.observation_dtype: np.dtype[Any] = np.dtype(
            np.int64 if self.discrete_observation else np.uint8 if self._native == np.uint8 else np.float32
        )
        self.observation_shape = (1,) if self.discrete_observation else self._shape
        self.action_dtype: np.dtype[Any] = np.dtype(np.int64 if self.discrete_action else np.float32)
        self.action_shape: tuple[int, ...] = () if self.discrete_action else (self.signature.outputs["action"].size,)

    def observations(self, value: object, count: int, moment: str) -> np.ndarray[Any, Any]:
        """(count, *shape) from what the environment gave. Raises EnvironmentFault on a wrong shape, type or number."""
        array = np.asarray(value)
        if array.shape != (count, *self._shape):
            raise self.fault(
                f"observations have shape {array.shape[1:]} instead of {self._shape}", moment, "the observation space"
            )
        # Gymnasium's own rule in Box.contains: a type that fits into the declared one.
        if array.dtype != self._native and not np.can_cast(array.dtype, self._native):
            raise self.fault(
                f"observations are {array.dtype} instead of {self._native}", moment, "the observation space"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.fault("an observation is NaN or infinite", moment, "finite numbers")
        if self.discrete_observation:
            array = (array - self._first_observation)[:, None]
            if array.min() < 0 or array.max() >= self.signature.inputs["observation"].sizes[0]:
                raise self.fault("an observation lies outside its Discrete space", moment, "the observation space")
        return array.astype(self.observation_dtype, copy=False)

    def raw(self, observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """These observations as the environment itself gives them: (n, *shape), or the numbers of states (n,)."""
        return observation[:, 0] + self._first_observation if self.discrete_observation else observation

    def rewards(self, value: object, count: int, moment: str) -> np.ndarray[Any, Any]:
        """float32 (count,). Raises EnvironmentFault where a reward is no finite number."""
        try:
            array = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise self.fault(f"a reward is not a number: {value!r}", moment, "a finite number per step") from None
        if array.shape != (count,):
            raise self.fault(f"rewards have shape {array.shape} instead of {(count,)}", moment, "one number per step")
        if not np.isfinite(array).all():
            raise self.fault("a reward is NaN or infinite", moment, "a finite number per step")
        return array

    def flags(self, value: object, count: int, name: str, moment: str) -> np.ndarray[Any, Any]:
        """bool (count,). Raises EnvironmentFault where `terminated` or `truncated` is something else."""
        array = np.asarray(value)
        if array.shape != (count,) or array.dtype.kind != "b":
            raise self.fault(f"{name!r} is {value!r} instead of true or false", moment, "booleans")
        return array

    def actions(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What the environments take, from int64 (n,) or float32 (n, size)."""
        if self.discrete_action:
            return value + self._first_action if self._first_action else value
        assert isinstance(self._action, gym.spaces.Box)
        shaped = value.reshape(len(value), *self._action.shape).astype(self._action.dtype, copy=False)
        clipped: np.ndarray[Any, Any] = np.clip(shaped, self._action.low, self._action.high)
        return clipped

    def fault(self, problem: str, moment: str, wanted: str) -> EnvironmentFault:
        """An EnvironmentFault that names the environment and the moment."""
        return EnvironmentFault(
            f"{problem} ({moment})", where=self.where, remedy=f"Mend the environment: it promises {wanted}."
        )
