"""Transitions in preallocated arrays: a ring of segments, of which the full ones never change again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from reinforge.core.contracts import State
from reinforge.core.sealed import Sealed
from reinforge.core.tensor_files import raw_bytes
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

    Each observation is stored once: a row's next one is its follower's. Behind the ring lie those that no row begins
    with: what each environment waits at, and what episodes ended with.
    """

    def __init__(self, capacity: int, codec: Codec, count: int) -> None:
        self.capacity, self.count = capacity, count
        # Not shorter than two steps are: a row's follower is then never more than a segment away.
        self._segment = max(-(-capacity // _SEGMENTS), 2 * count)
        self.length = self._segment * (_SEGMENTS + 1)
        self._waiting = slice(self.length, self.length + count)
        self._finals = self._segment
        self._seen: dict[str, Array] = {
            name: np.zeros((self._waiting.stop + self._finals, *block.shape), block.dtype)
            for name, block in codec.blocks.items()
        }
        self._arrays: dict[str, Array] = {
            "action": np.zeros((self.length, *codec.action_shape), codec.action_dtype),
            "reward": np.zeros(self.length, np.float32),
            "terminated": np.zeros(self.length, np.bool_),
            # Nothing follows: the episode is over, or the collection was cut there.
            "ended": np.zeros(self.length, np.bool_),
            "environment": np.zeros(self.length, np.int32),
        }
        # Where the next observation lies: in the ring if another row begins with it.
        self._next = np.full(self.length, -1, np.int64)
        # The number of the row before, where the episode has one.
        self._predecessor = np.full(self.length, -1, np.int64)
        self._latest = np.full(count, -1, np.int64)
        self._free = list(range(self._waiting.stop, self._waiting.stop + self._finals))
        self._sealed: dict[int, Sealed] = {}
        self.total = 0

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    @property
    def oldest(self) -> int:
        """The number of the oldest transition that is alive."""
        return self.total - len(self)

    @property
    def kept(self) -> Array:
        """The numbers of all rows that a resumed run has too, dead ones of the oldest segment among them."""
        return np.arange(self.oldest // self._segment * self._segment, self.total)

    @property
    def nbytes(self) -> int:
        """Bytes of memory when the ring is full."""
        arrays = [*self._seen.values(), *self._arrays.values(), self._next, self._predecessor, self._latest]
        return sum(array.nbytes for array in arrays)

    def add(self, observation: Observation, action: Array, transition: Transition) -> Array:
        """Add the real transitions of one step from `observation` by `action` (n, ...): their numbers."""
        done = transition.terminated | transition.truncated
        rows = {"action": action, "reward": transition.reward, "terminated": transition.terminated, "ended": done}
        final, environments = transition.final_observation, np.arange(self.count, dtype=np.int32)
        if not transition.valid.all():
            valid = transition.valid
            rows = {name: value[valid] for name, value in rows.items()}
            observation, final = ({k: v[valid] for k, v in seen.items()} for seen in (observation, final))
            environments = environments[valid]
        numbers = self.total + np.arange(len(environments))
        places = numbers % self.length
        forgotten = self._next[places]
        self._free += forgotten[forgotten >= self._waiting.stop].tolist()
        for name, value in rows.items():
            self._arrays[name][places] = value
        self._arrays["environment"][places] = environments
        self.total += len(numbers)
        before = self._latest[environments]
        linked = before >= 0
        self._next[before[linked] % self.length] = places[linked]
        self._predecessor[places] = before
        self._latest[environments] = np.where(rows["ended"], -1, numbers)
        following = environments + self._waiting.start
        if rows["ended"].any():
            following = following.astype(np.int64)
            following[rows["ended"]] = self._places_of_finals(int(rows["ended"].sum()))
        self._next[places] = following
        for name, seen in self._seen.items():
            seen[places], seen[following] = observation[name], final[name]
        return numbers

    def fill(self, rows: Mapping[str, Array], before: Observation, after: Observation, ended: Array) -> None:
        """Take rows in order, as many as the capacity, in an empty buffer of one environment: columns, observations,
        and next ones; `ended` (n,) says where the next row does not follow."""
        count = len(ended)
        for name, value in {**rows, "ended": ended}.items():
            self._arrays[name][:count] = value
        self._next[:count][ended] = self._places_of_finals(int(ended.sum()))
        for name, seen in self._seen.items():
            seen[:count], seen[self._waiting] = before[name], after[name][-1:]
            seen[self._next[:count][ended]] = after[name][ended]
        self.total = count
        self._chain(0)

    def chain(self, numbers: Array, steps: int) -> tuple[Array, Array]:
        """The places of each row (k,) and of those that follow it, (k, steps), the last one again where there are no
        more; and how many there are, (k,)."""
        places = np.empty((len(numbers), steps), np.int64)
        places[:, 0] = last = numbers % self.length
        length = np.ones(len(numbers), np.int64)
        for k in range(1, steps):
            following = self._next[last]
            goes = following < self.length
            places[:, k] = last = np.where(goes, following, last)
            length += goes
        return places, length

    def gather(self, numbers: Array, n_step: int, frames: int = 1) -> dict[str, Array | Observation]:
        """The transitions (k,) with up to `n_step` rewards each.

        `rewards` (k, n_step) are 0 beyond `length` (k,), the number of steps summed: it ends at the episode's end and
        at the newest row. `next_observation` and `terminated` belong to the last of them.
        Observations are arrays by the name of the input; with several `frames` also "past/NAME" (k, frames - 1, ...),
        what was seen before, oldest first, the first of the episode (or the oldest that is left) standing for what was
        before it.
        """
        places, length = self.chain(numbers, n_step)
        rewards = self._arrays["reward"][places]
        if n_step > 1:
            rewards[np.arange(n_step) >= length[:, None]] = 0
        return self.columns(places, length, frames) | {"rewards": rewards}

    def columns(self, places: Array, length: Array, frames: int) -> dict[str, Array | Observation]:
        """What `gather` gives of chains (k, steps), of which `length` (k,) count, but for the rewards."""
        first, last = places[:, 0], places[np.arange(len(places)), length - 1]
        return {
            "observation": self.seen(first) | self._past(self._before(first, frames)),
            "action": self._arrays["action"][first],
            "length": length,
            "next_observation": self.seen(self._next[last])
            | self._past([*self._before(last, frames - 1), last] if frames > 1 else []),
            "terminated": self._arrays["terminated"][last],
        }

    def reward(self, places: Array) -> Array:
        """The rewards at places, a copy."""
        return self._arrays["reward"][places]

    def environment(self, places: Array) -> Array:
        """The environment of each row at places."""
        return self._arrays["environment"][places]

    def begins(self, places: Array) -> Array:
        """Whether nothing in the ring goes before: the first row of an episode, or what is left of it."""
        before: Array = self._predecessor[places] < 0
        return before

    def led_to(self, name: str, places: Array) -> Array:
        """One part of the next observations of rows at places."""
        return self._seen[name][self._next[places]]

    def seen(self, places: Array) -> Observation:
        """The observations at places."""
        return {name: array[places] for name, array in self._seen.items()}

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
        return {f"{PAST}{name}": array for name, array in self.seen(each).items()}

    def newest(self, numbers: int) -> Observation:
        """The observations of the newest transitions, at most as many as are alive."""
        return self.seen(np.arange(self.total - min(numbers, len(self)), self.total) % self.length)

    def state_dict(self) -> State:
        """Full segments sealed, hashed once, as views that hold until the ring comes round; the open end copied."""
        first, last = self.oldest // self._segment, self._settled() // self._segment
        self._sealed = {k: v for k, v in self._sealed.items() if k >= first}
        for segment in range(first, last):
            if segment not in self._sealed:
                self._sealed[segment] = self._seal(segment)
        beginning = max(first, last) * self._segment
        return {
            "total": self.total,
            "first": first,
            "sealed": [self._sealed[segment] for segment in range(first, last)],
            "open": self._rows(np.arange(beginning, self.total) % self.length),
            "waiting": {name: seen[self._waiting].copy() for name, seen in self._seen.items()},
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the rows and chain them again. Raises CheckpointError where their shapes are others."""
        self._next[:], self._predecessor[:], self._latest[:], self._sealed = -1, -1, -1, {}
        self._free = list(range(self._waiting.stop, self._waiting.stop + self._finals))
        for name, seen in self._seen.items():
            _put(name, seen, self._waiting, state["waiting"][name])
        number = state["first"] * self._segment
        for part in [*(sealed.tensors for sealed in state["sealed"]), state["open"]]:
            rows = {name: np.asarray(value) for name, value in part.items()}
            places = np.arange(number, number + len(rows["reward"])) % self.length
            # A slice costs a copy less; only the open end may go round the ring.
            where = slice(places[0], places[-1] + 1) if len(places) and places[0] <= places[-1] else places
            for name, array in self._arrays.items():
                _put(name, array, where, rows[name])
            ended = places[rows["ended"]]
            self._next[ended] = finals = self._places_of_finals(len(ended))
            for name, seen in self._seen.items():
                _put(name, seen, where, rows[f"observation/{name}"])
                _put(name, seen, finals, rows[f"final/{name}"])
            number += len(places)
        self.total = state["total"]
        self._chain(state["first"] * self._segment)
        for segment, sealed in enumerate(state["sealed"], state["first"]):
            # Not what was loaded: that would hold it in memory once more.
            self._sealed[segment] = Sealed(sealed.name, self._views(segment))

    def cut(self) -> None:
        """End the chains here: what is added next does not follow from what is here."""
        environments = np.flatnonzero(self._latest >= 0)
        places = self._latest[environments] % self.length
        self._arrays["ended"][places] = True
        self._next[places] = finals = self._places_of_finals(len(places))
        for seen in self._seen.values():
            seen[finals] = seen[self._waiting.start + environments]
        self._latest[:] = -1

    def _settled(self) -> int:
        """The number below which no row waits for its follower."""
        waiting = self._latest[self._latest >= self.oldest]
        return int(waiting.min()) if len(waiting) else self.total

    def _places_of_finals(self, count: int) -> Array:
        """Room for `count` observations that no row begins with."""
        missing = count - len(self._free)
        if missing > 0:
            more = max(missing, self._finals)
            end = self._waiting.stop + self._finals
            self._seen = {
                name: np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])
                for name, array in self._seen.items()
            }
            self._finals += more
            self._free += range(end, end + more)
            # Views of the arrays before would keep them in memory.
            self._sealed = {k: Sealed(v.name, self._views(k)) for k, v in self._sealed.items()}
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return np.array(taken, np.int64)

    def _rows(self, places: Array | slice) -> dict[str, Array]:
        """Every column at places; copies, or views of a slice. `final/NAME` has what the ended among them led to."""
        finals = self._next[places][self._arrays["ended"][places]]
        return {
            **{name: array[places] for name, array in self._arrays.items()},
            **{f"observation/{name}": seen[places] for name, seen in self._seen.items()},
            **{f"final/{name}": seen[finals] for name, seen in self._seen.items()},
        }

    def _views(self, segment: int) -> dict[str, Tensor]:
        start = segment * self._segment % self.length
        rows = self._rows(slice(start, start + self._segment))
        return {name: torch.from_numpy(array) for name, array in rows.items()}

    def _seal(self, segment: int) -> Sealed:
        tensors = self._views(segment)
        digest = hashlib.blake2b(digest_size=8)
        for tensor in tensors.values():
            digest.update(raw_bytes(tensor).data)
        return Sealed(f"replay-{segment}-{digest.hexdigest()}", tensors)

    def _chain(self, first: int) -> None:
        numbers = np.arange(first, self.total)
        places = numbers % self.length
        environments, ended = self._arrays["environment"][places], self._arrays["ended"][places]
        for environment in range(self.count):
            mine = np.flatnonzero(environments == environment)
            if len(mine) == 0:
                continue
            goes = ~ended[mine[:-1]]
            self._next[places[mine[:-1][goes]]] = places[mine[1:][goes]]
            self._predecessor[places[mine[1:][goes]]] = numbers[mine[:-1][goes]]
            if not ended[mine[-1]]:
                self._next[places[mine[-1]]] = self._waiting.start + environment
                self._latest[environment] = numbers[mine[-1]]


def _put(name: str, into: Array, places: Array | slice, value: object) -> None:
    found = np.asarray(value)
    if found.shape[1:] != into.shape[1:]:
        raise CheckpointError(f"replayed {name} has shape {found.shape[1:]}, not {into.shape[1:]}")
    into[places] = found
