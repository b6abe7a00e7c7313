"""Transitions in preallocated arrays: a ring of segments, of which the full ones never change again."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from reinforge.core.contracts import State
from reinforge.core.sealed import Sealed
from reinforge.environments.observations import Array, Observation
from reinforge.environments.spaces import Codec
from reinforge.environments.vector import Transition
from reinforge.errors import CheckpointError
from reinforge.models.frames import PAST

_SEGMENTS = 16


class TransitionBuffer:
    """The last `capacity` transitions, as the environments gave them: observations are raw, actions in learner space.

    A transition's number counts all that were ever added; it lies at number modulo the ring's length. The ring is one
    segment longer than the capacity, so that the oldest segment stays whole until nothing of it is alive. Rows of one
    episode are chained: n-step returns follow the chain, which ends at an episode's end and at the newest row.
    """

    def __init__(self, capacity: int, codec: Codec, count: int) -> None:
        self.capacity, self.count = capacity, count
        self._segment = -(-capacity // _SEGMENTS)
        self.length = self._segment * (_SEGMENTS + 1)
        self._parts = tuple(codec.blocks)
        self._arrays: dict[str, Array] = {
            f"{when}/{name}": np.zeros((self.length, *block.shape), block.dtype)
            for when in ("observation", "next_observation")
            for name, block in codec.blocks.items()
        } | {
            "action": np.zeros((self.length, *codec.action_shape), codec.action_dtype),
            "reward": np.zeros(self.length, np.float32),
            "terminated": np.zeros(self.length, np.bool_),
            "done": np.zeros(self.length, np.bool_),
            "environment": np.zeros(self.length, np.int32),
        }
        self._successor = np.full(self.length, -1, np.int64)
        # The number of the row before, where the episode has one.
        self._predecessor = np.full(self.length, -1, np.int64)
        self._latest = np.full(count, -1, np.int64)
        self._sealed: dict[int, Sealed] = {}
        self.total = 0

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    @property
    def oldest(self) -> int:
        """The number of the oldest transition that is alive."""
        return self.total - len(self)

    def add(self, observation: Observation, action: Array, transition: Transition) -> Array:
        """Add the real transitions of one step from `observation` by `action` (n, ...): their numbers."""
        done = transition.terminated | transition.truncated
        rows: dict[str, Array] = {
            **{f"observation/{name}": value for name, value in observation.items()},
            **{f"next_observation/{name}": value for name, value in transition.final_observation.items()},
            "action": action,
            "reward": transition.reward,
            "terminated": transition.terminated,
            "done": done,
            "environment": np.arange(self.count, dtype=np.int32),
        }
        if not transition.valid.all():
            rows = {name: value[transition.valid] for name, value in rows.items()}
        numbers = self.total + np.arange(len(rows["reward"]))
        places = numbers % self.length
        for name, value in rows.items():
            self._arrays[name][places] = value
        self.total += len(numbers)
        self._successor[places] = -1
        environments = rows["environment"]
        before = self._latest[environments]
        linked = before > self.total - self.length
        self._successor[before[linked] % self.length] = places[linked]
        self._predecessor[places] = np.where(linked, before, -1)
        self._latest[environments] = np.where(rows["done"], -1, numbers)
        return numbers

    def fill(self, rows: dict[str, Array], done: Array) -> None:
        """Take rows in order, as many as the capacity, in an empty buffer of one environment: columns as in `add`;
        `done` (n,) says where the next row does not follow."""
        count = len(done)
        for name, value in {**rows, "done": done}.items():
            self._arrays[name][:count] = value
        self.total = count
        self._chain(0)

    def gather(self, numbers: Array, n_step: int, frames: int = 1) -> dict[str, Array | Observation]:
        """The transitions (k,) with up to `n_step` rewards each.

        `rewards` (k, n_step) are 0 beyond `length` (k,), the number of steps summed: it ends at the episode's end and
        at the newest row. `next_observation` and `terminated` belong to the last of them.
        Observations are arrays by the name of the input; with several `frames` also "past/NAME" (k, frames - 1, ...),
        what was seen before, oldest first, the first of the episode (or the oldest that is left) standing for what was
        before it.
        """
        first = numbers % self.length
        last, arrays = first, self._arrays
        rewards = np.zeros((len(numbers), n_step), np.float32)
        rewards[:, 0] = arrays["reward"][first]
        length = np.ones(len(numbers), np.int64)
        for k in range(1, n_step):
            following = self._successor[last]
            goes = following >= 0
            last = np.where(goes, following, last)
            rewards[:, k] = np.where(goes, arrays["reward"][last], 0)
            length += goes
        return {
            "observation": self._observation("observation", first) | self._past(self._before(first, frames)),
            "action": arrays["action"][first],
            "rewards": rewards,
            "length": length,
            "next_observation": self._observation("next_observation", last)
            | self._past([*self._before(last, frames - 1), last] if frames > 1 else []),
            "terminated": arrays["terminated"][last],
        }

    def _observation(self, when: str, places: Array) -> Observation:
        return {name: self._arrays[f"{when}/{name}"][places] for name in self._parts}

    def _before(self, places: Array, frames: int) -> list[Array]:
        """The places of the `frames - 1` rows before these, oldest first."""
        found: list[Array] = []
        # The oldest that a resumed run has too.
        left = self.oldest // self._segment * self._segment
        for _ in range(frames - 1):
            number = self._predecessor[places]
            places = np.where(number >= left, number % self.length, places)
            found.insert(0, places)
        return found

    def _past(self, places: list[Array]) -> Observation:
        if not places:
            return {}
        each = np.stack(places, 1)
        return {f"{PAST}{name}": self._arrays[f"observation/{name}"][each] for name in self._parts}

    def newest(self, numbers: int) -> Observation:
        """The observations of the newest transitions, at most as many as are alive."""
        places = np.arange(self.total - min(numbers, len(self)), self.total) % self.length
        return self._observation("observation", places)

    def state_dict(self) -> State:
        """Full segments sealed, hashed once; the open one copied."""
        first, last = self.oldest // self._segment, self.total // self._segment
        self._sealed = {k: v for k, v in self._sealed.items() if k >= first}
        for segment in range(first, last):
            if segment not in self._sealed:
                self._sealed[segment] = self._seal(segment)
        tail = slice(*self._places(last, self.total - last * self._segment))
        return {
            "total": self.total,
            "first": first,
            "sealed": [self._sealed[segment] for segment in range(first, last)],
            "open": {name: array[tail].copy() for name, array in self._arrays.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the rows and chain them again. Raises CheckpointError where their shapes are others."""
        self.total = state["total"]
        parts = [*(_arrays(sealed.tensors) for sealed in state["sealed"]), state["open"]]
        self._successor[:], self._predecessor[:], self._latest[:], self._sealed = -1, -1, -1, {}
        for offset, part in enumerate(parts):
            segment = state["first"] + offset
            start, stop = self._places(segment, len(part["reward"]))
            for name, array in self._arrays.items():
                if part[name].shape != array[start:stop].shape:
                    raise CheckpointError(f"replayed {name} has shape {part[name].shape[1:]}, not {array.shape[1:]}")
                array[start:stop] = part[name]
            if offset < len(parts) - 1:
                self._sealed[segment] = state["sealed"][offset]
        self._chain(state["first"] * self._segment)

    def cut(self) -> None:
        """End the chains here: what is added next does not follow from what is here."""
        self._latest[:] = -1

    def _places(self, segment: int, rows: int) -> tuple[int, int]:
        start = segment * self._segment % self.length
        return start, start + rows

    def _seal(self, segment: int) -> Sealed:
        start, stop = self._places(segment, self._segment)
        tensors = {name: torch.from_numpy(array[start:stop].copy()) for name, array in self._arrays.items()}
        digest = hashlib.blake2b(digest_size=8)
        for tensor in tensors.values():
            digest.update(tensor.numpy().tobytes())
        return Sealed(f"replay-{segment}-{digest.hexdigest()}", tensors)

    def _chain(self, first: int) -> None:
        numbers = np.arange(first, self.total)
        places = numbers % self.length
        environments, done = self._arrays["environment"][places], self._arrays["done"][places]
        for environment in range(self.count):
            mine = np.flatnonzero(environments == environment)
            if len(mine) == 0:
                continue
            goes = ~done[mine[:-1]]
            self._successor[places[mine[:-1][goes]]] = places[mine[1:][goes]]
            self._predecessor[places[mine[1:][goes]]] = numbers[mine[:-1][goes]]
            self._latest[environment] = -1 if done[mine[-1]] else numbers[mine[-1]]


def _arrays(tensors: Any) -> dict[str, Array]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
