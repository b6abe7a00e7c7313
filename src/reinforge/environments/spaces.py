"""Gymnasium spaces as a signature: an observation space is a schema of inputs, an action space an output."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np

from reinforge.environments.images import Scaling, Shape, channels_last, image_shape
from reinforge.environments.observations import Array, Observation
from reinforge.environments.options import ImageOptions
from reinforge.errors import EnvironmentFault
from reinforge.schema.fields import Box, Continuous, Discrete, Field, MultiDiscrete
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Input, Output, Signature

FLATTEN = "Wrap the environment with gymnasium.wrappers.FlattenObservation, or write a wrapper that gives a Box."
# What a policy is told beside observations, so nothing in an observation may have its name.
_TAKEN = ("action", "noise", "start", "value")
_AS_IT_IS = ImageOptions()


class Part(NamedTuple):
    """One part of an observation: a Box, or a numbered choice. `keys` lead to it through nested Dict spaces."""

    name: str
    keys: tuple[str, ...]
    space: gym.Space[Any]


def parts(space: gym.Space[Any], where: str, only: Sequence[str] | None = None) -> list[Part]:
    """The parts of an observation space: "observation", or the entries of a Dict by name ("outer.inner" where nested).

    `only` leaves out all others. Raises EnvironmentFault where a part can't be an input, or one of `only` is missing.
    """
    found = list(_walk(space, ())) if isinstance(space, gym.spaces.Dict) else [Part("observation", (), space)]
    if only is not None:
        names = [part.name for part in found]
        for name in only:
            if name not in names:
                raise EnvironmentFault(
                    f"its observation has no part {name!r}", where=where, remedy=f"Known: {', '.join(names)}."
                )
        found = [part for part in found if part.name in only]
    for part in found:
        if part.name in _TAKEN:
            raise EnvironmentFault(f"an observation can't have a part named {part.name!r}", where=where, remedy=FLATTEN)
        _input(part, where, _AS_IT_IS)
    return found


def _walk(space: gym.spaces.Dict, keys: tuple[str, ...]) -> list[Part]:
    found = []
    for key, inner in space.spaces.items():
        path = (*keys, str(key))
        if isinstance(inner, gym.spaces.Dict):
            found += _walk(inner, path)
        else:
            found.append(Part(".".join(path), path, inner))
    return found


def signature(
    observation: gym.Space[Any],
    action: gym.Space[Any],
    where: str,
    only: Sequence[str] | None = None,
    images: ImageOptions = _AS_IT_IS,
) -> Signature:
    """The signature of a policy between these spaces. Raises EnvironmentFault where one is not supported."""
    inputs = {part.name: _input(part, where, images) for part in parts(observation, where, only)}
    return Signature(inputs=inputs, outputs={"action": _output(action, where)})


def _input(part: Part, where: str, images: ImageOptions) -> Input:
    space = part.space
    match space:
        case gym.spaces.Box():
            if space.dtype.kind not in "fui":
                raise EnvironmentFault(
                    f"observations of type {space.dtype} are not numbers", where=where, remedy=FLATTEN
                )
            shape = image_shape(space.shape) if space.dtype == np.uint8 else None
            return Input(form="image", shape=_seen(shape, images)) if shape else Input(form="box", shape=space.shape)
        case gym.spaces.Discrete():
            return Input(form="categories", sizes=(int(space.n),))
        case gym.spaces.MultiDiscrete():
            return Input(form="categories", sizes=tuple(int(n) for n in space.nvec.ravel()))
        case gym.spaces.MultiBinary():
            return Input(form="categories", sizes=(2,) * int(np.prod(space.shape)))
    what = "the observation space" if part.name == "observation" else f"the part {part.name!r} of the observation"
    raise EnvironmentFault(
        f"{what} is {space}, which is no Box, Discrete, MultiDiscrete or MultiBinary",
        where=where,
        remedy=FLATTEN if part.name == "observation" else "Name the parts that the policy shall see in `inputs`.",
    )


def _seen(shape: tuple[int, int, int], images: ImageOptions) -> tuple[int, int, int]:
    channels = 1 if images.grey and shape[0] in (3, 4) else shape[0]
    return (channels, *(images.size or shape[1:]))


def _output(space: gym.Space[Any], where: str) -> Output:
    match space:
        case gym.spaces.Discrete():
            return Output(form="discrete", size=int(space.n))
        case gym.spaces.MultiDiscrete() if len(space.shape or ()) == 1:
            sizes = tuple(int(n) for n in space.nvec)
            return Output(form="multi-discrete", size=sum(sizes), sizes=sizes)
        case gym.spaces.MultiBinary() if len(space.shape or ()) == 1:
            count = int(space.shape[0])
            return Output(form="multi-discrete", size=2 * count, sizes=(2,) * count)
        case gym.spaces.Box() if space.dtype.kind == "f":
            if not space.is_bounded():
                raise EnvironmentFault(
                    "its actions have no bounds", where=where, remedy="Give the action space finite `low` and `high`."
                )
            low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
            return Output(form="continuous", size=len(low), low=tuple(low), high=tuple(high))
    raise EnvironmentFault(
        f"the action space {space} is no Discrete, MultiDiscrete, MultiBinary, or Box of real numbers",
        where=where,
        remedy="Wrap the environment so that it takes one of them.",
    )


def schema(
    observation: gym.Space[Any], action: gym.Space[Any], where: str, only: Sequence[str] | None = None
) -> Schema:
    """The same as typed fields: a box for each part of the observation (a numbered choice is a box of integers), and
    the action."""
    signature(observation, action, where, only)
    seen = [_field(part) for part in parts(observation, where, only)]
    taken: Field
    match action:
        case gym.spaces.Discrete():
            taken = Discrete(n=int(action.n), start=int(action.start))
        case gym.spaces.MultiDiscrete():
            taken = MultiDiscrete(
                sizes=tuple(int(n) for n in action.nvec), starts=tuple(int(first) for first in action.start)
            )
        case gym.spaces.MultiBinary():
            taken = MultiDiscrete(sizes=(2,) * int(action.shape[0]))
        case _:
            assert isinstance(action, gym.spaces.Box)
            taken = Continuous(low=tuple(action.low.ravel().tolist()), high=tuple(action.high.ravel().tolist()))
    return Schema(fields=(*seen, taken))


def _field(part: Part) -> Box:
    space = part.space
    match space:
        case gym.spaces.Box():
            return Box.model_validate(
                {"name": part.name, "shape": space.shape, "dtype": _dtype(space.dtype)}
                | {side: _bounds(getattr(space, side)) for side in ("low", "high")}
            )
        case gym.spaces.Discrete():
            first = float(space.start)
            return Box(name=part.name, shape=(), dtype="int64", low=first, high=first + float(space.n) - 1)
        case gym.spaces.MultiDiscrete():
            low, high = space.start, space.start + space.nvec - 1
            return Box(name=part.name, shape=space.shape, dtype="int64", low=_each(low), high=_each(high))
    assert isinstance(space, gym.spaces.MultiBinary)
    return Box(name=part.name, shape=space.shape, dtype="int64", low=0.0, high=1.0)


def _each(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values.ravel())


def _dtype(dtype: np.dtype[Any]) -> str:
    return "uint8" if dtype == np.uint8 else "int64" if dtype.kind in "iu" else "float32"


def _bounds(bound: np.ndarray[Any, Any]) -> float | tuple[float | None, ...] | None:
    """One number where all elements share it, None where there is no bound."""
    flat = [float(x) if np.isfinite(x) and abs(x) < np.finfo(np.float32).max else None for x in bound.ravel()]
    return flat[0] if len(set(flat)) <= 1 and flat else tuple(flat)


class Block:
    """How one part of an observation becomes an array of a batch, and back.

    Boxes become float32 or uint8 (n, *shape), images of bytes (n, channels, height, width); choices int64
    (n, columns), each from 0.
    """

    def __init__(self, part: Part, block: Input) -> None:
        self.name, self.keys, self.block = part.name, part.keys, block
        self.given: tuple[int, ...] = tuple(part.space.shape or ())
        self.native: np.dtype[Any] = np.dtype(part.space.dtype)
        self.bounds = (part.space.low, part.space.high) if isinstance(part.space, gym.spaces.Box) else None
        first = getattr(part.space, "start", 0)
        self.first: Array = np.ravel(np.asarray(first, dtype=np.int64))
        self.choices = block.form == "categories"
        # Channels come first in a batch, whatever the environment's own order is.
        shape = image_shape(self.given) if block.form == "image" else None
        self.channels_last = shape is not None and channels_last(self.given)
        self.image = shape or ()
        self.scaling = Scaling(shape, cast(Shape, block.shape)) if shape and shape != block.shape else None
        self.shape = (len(block.sizes),) if self.choices else block.shape
        self.dtype: np.dtype[Any] = np.dtype(
            np.int64 if self.choices else np.uint8 if self.native == np.uint8 else np.float32
        )

    def encode(self, array: Array) -> Array:
        """(n, *given) to (n, *shape)."""
        if self.choices:
            return array.reshape(len(array), -1).astype(np.int64) - self.first
        if self.channels_last:
            array = np.ascontiguousarray(np.moveaxis(array, -1, 1))
        if self.scaling is not None:
            return self.scaling(array.reshape(len(array), *self.image))
        return array.reshape(len(array), *self.shape).astype(self.dtype, copy=False)

    def outside(self, array: Array) -> bool:
        """Whether a choice, encoded, is none of its choices."""
        return self.choices and bool(((array < 0) | (array >= np.array(self.block.sizes))).any())


class Codec:
    """Checks and converts what goes into an environment and what comes out of it.

    Observations become {name: (n, ...)} as each `Block` says. Actions: int64 (n,) from 0 (discrete), int64 (n, choices)
    from 0 (multi-discrete), or float32 (n, size), clipped to the bounds here, so that a policy's own sample stays as it
    was drawn.
    """

    def __init__(
        self,
        observation: gym.Space[Any],
        action: gym.Space[Any],
        where: str,
        only: Sequence[str] | None = None,
        images: ImageOptions = _AS_IT_IS,
    ) -> None:
        self.signature = signature(observation, action, where, only, images)
        self.where = where
        inputs = self.signature.inputs
        self.blocks = {part.name: Block(part, inputs[part.name]) for part in parts(observation, where, only)}
        self._action = action
        self.output = self.signature.outputs["action"]
        first = getattr(action, "start", 0)
        self._first_action: Array = np.asarray(first, dtype=np.int64)
        self.action_dtype: np.dtype[Any] = np.dtype(np.float32 if self.output.form == "continuous" else np.int64)
        self.action_shape: tuple[int, ...] = {
            "discrete": (), "multi-discrete": (len(self.output.sizes),), "continuous": (self.output.size,),
        }[self.output.form]  # fmt: skip

    def observations(self, value: object, count: int, moment: str) -> Observation:
        """{name: (count, *shape)} from what the environment gave. Raises EnvironmentFault on a wrong shape, type or
        number."""
        return {name: self._block(block, self._part(value, block, moment), count, moment)
                for name, block in self.blocks.items()}  # fmt: skip

    def gathered(self, values: Sequence[object], moment: str) -> Observation:
        """The observations of single environments as those of all of them. Raises EnvironmentFault, or ValueError where
        their shapes differ."""
        return {
            name: self._block(block, np.array([self._part(value, block, moment) for value in values]), len(values),
                              moment)
            for name, block in self.blocks.items()
        }  # fmt: skip

    def _part(self, value: Any, block: Block, moment: str) -> object:
        for key in block.keys:
            if not isinstance(value, Mapping) or key not in value:
                raise self.fault(f"an observation has no part {block.name!r}", moment, "the observation space")
            value = value[key]
        return value

    def _block(self, block: Block, value: object, count: int, moment: str) -> Array:
        array = np.asarray(value)
        which = "observations have" if not block.keys else f"observations of {block.name!r} have"
        if array.shape != (count, *block.given):
            raise self.fault(
                f"{which} shape {array.shape[1:]} instead of {block.given}", moment, "the observation space"
            )
        # Gymnasium's own rule in Box.contains: a type that fits into the declared one.
        if array.dtype != block.native and not np.can_cast(array.dtype, block.native):
            raise self.fault(f"{which} type {array.dtype} instead of {block.native}", moment, "the observation space")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.fault("an observation is NaN or infinite", moment, "finite numbers")
        encoded = block.encode(array)
        if block.outside(encoded):
            raise self.fault("an observation lies outside its space of choices", moment, "the observation space")
        return encoded

    def outside(self, value: object, moment: str) -> set[str]:
        """The parts of one observation, as the environment gave it, that lie outside the bounds of their boxes."""
        raw = {name: np.asarray(self._part(value, block, moment)) for name, block in self.blocks.items()}
        return {
            name for name, block in self.blocks.items()
            if block.bounds is not None and ((raw[name] < block.bounds[0]) | (raw[name] > block.bounds[1])).any()
        }  # fmt: skip

    def row(self, value: object, moment: str) -> dict[str, object]:
        """One observation, as the environment gave it, in plain values part by part: what a bundle takes."""
        raw = {name: np.asarray(self._part(value, block, moment)) for name, block in self.blocks.items()}
        return {name: array.tolist() for name, array in raw.items()}

    def rewards(self, value: object, count: int, moment: str) -> Array:
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

    def flags(self, value: object, count: int, name: str, moment: str) -> Array:
        """bool (count,). Raises EnvironmentFault where `terminated` or `truncated` is something else."""
        array = np.asarray(value)
        if array.shape != (count,) or array.dtype.kind != "b":
            raise self.fault(f"{name!r} is {value!r} instead of true or false", moment, "booleans")
        return array

    def actions(self, value: Array) -> Array:
        """What the environments take, from actions of a batch."""
        if self.output.form != "continuous":
            moved = value + self._first_action if self._first_action.any() else value
            return moved.astype(np.int8) if isinstance(self._action, gym.spaces.MultiBinary) else moved
        assert isinstance(self._action, gym.spaces.Box)
        shaped = value.reshape(len(value), *self._action.shape).astype(self._action.dtype, copy=False)
        clipped: Array = np.clip(shaped, self._action.low, self._action.high)
        return clipped

    def taken(self, value: Array) -> Array:
        """Actions of a batch, from what the environments took (n, ...). Raises ValueError where they are none."""
        value = value.reshape(len(value), *self.action_shape)
        if self.output.form == "continuous":
            return value.astype(np.float32)
        moved: Array = value.astype(np.int64) - self._first_action
        sizes = np.array(self.output.sizes or (self.output.size,))
        if (moved < 0).any() or (moved >= (sizes if self.action_shape else sizes[0])).any() or (value % 1).any():
            raise ValueError("an action is none of the environment's choices")
        return moved

    def fault(self, problem: str, moment: str, wanted: str) -> EnvironmentFault:
        """An EnvironmentFault that names the environment and the moment."""
        return EnvironmentFault(
            f"{problem} ({moment})", where=self.where, remedy=f"Mend the environment: it promises {wanted}."
        )

    def raised(self, error: Exception, moment: str) -> EnvironmentFault:
        """An EnvironmentFault for what an environment raised, with the part of its traceback that lies inside it."""
        # The first frame is the caller's, that called reset or step.
        inside = error.__traceback__.tb_next if error.__traceback__ else None
        trace = "".join(traceback.format_exception(type(error), error, inside))
        return EnvironmentFault(
            f"it raised {type(error).__name__}: {error} ({moment})",
            where=self.where,
            remedy="Mend the environment: it promises no exception.",
            trace=trace,
        )
